"""`companion corpus fetch`：从上游取得《资治通鉴》，整理好，放进缓存。

每一步都可以中断后重来：已下好的文件不再下；整理在临时文件夹里做，做完才整个换上。
内容靠三道核对：地址里的提交号（内容寻址，不会移动）、每个文件的 sha256（第一次取得时记
入锁，以后必须相同）、整理后的行数与字数。
"""

import hashlib
import tarfile
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from companion.corpus.document import format_table
from companion.corpus.sources import (
    NAMED,
    cache_folder,
    check_lock,
    read_lock,
    sha256_of,
    write_lock,
)
from companion.corpus.tongjian import DROP_REASONS, Juan, SplitCount, all_juan, build
from companion.errors import CorpusError

TOLERANCE, LIMIT = 0.02, 0.10
"""整理后的规模与已知规模相差的比例：超过前者提醒，超过后者就不是同一份数据，拒绝。"""
PARALLEL_DOWNLOADS = 8
"""同时下载的文件数；每个文件只有几十 KB，慢在往返。"""
TIMEOUT_SECONDS = 30.0
ATTEMPTS = 3
"""一个地址中途断线时，试几次。"""

Progress = Callable[[int, int, str], None]
"""进度回调：已完成数、总数、正在做什么。"""


_REPOSITORY = "NiuTrans/Classical-Modern"
_COMMIT = "4e746ea9fa99c3c0d7051c45397330bef7b0962d"


@dataclass(frozen=True)
class Upstream:
    """上游，钉在一个提交上。

    Args:
        files: 逐个文件的镜像，地址里的 `{path}` 换成仓库中的路径。
        archives: 整个仓库的 tar.gz。
        chapters: 要取的卷。
        expected: 每个切分整理后应有的规模，用来发现取错或取残。
        repository: 仓库，`所有者/名字`。
        commit: 40 位提交号。
    """

    files: tuple[str, ...]
    archives: tuple[str, ...]
    chapters: tuple[Juan, ...]
    expected: dict[str, SplitCount]
    repository: str = _REPOSITORY
    commit: str = _COMMIT

    @property
    def paths(self) -> tuple[str, ...]:
        """要取的全部文件在仓库中的路径。"""
        sides = ("classical", "modern")
        return tuple(juan.path(side) for juan in self.chapters for side in sides)


UPSTREAM = Upstream(
    files=(
        f"https://raw.githubusercontent.com/{_REPOSITORY}/{_COMMIT}/{{path}}",
        f"https://cdn.jsdelivr.net/gh/{_REPOSITORY}@{_COMMIT}/{{path}}",
    ),
    archives=(
        f"https://codeload.github.com/{_REPOSITORY}/tar.gz/{_COMMIT}",
        f"https://github.com/{_REPOSITORY}/archive/{_COMMIT}.tar.gz",
    ),
    chapters=all_juan(),
    expected={
        "train": SplitCount(106_055, 2_663_325, 4_193_505),
        "valid": SplitCount(5_703, 143_330, 234_833),
    },
)


@dataclass(frozen=True)
class FetchReport:
    """取得一份语料的结果。

    Args:
        name: 语料名。
        folder: 整理好的语料所在的文件夹。
        fresh: 是否这次才取得；为假则本来就有，只核对过。
        origin: 内容取自哪里。
        splits: 每个切分的规模。
        dropped: 每个名目丢弃的句对数。
        warnings: 要让用户知道的差异。
        licence: 权利状况，须原样告诉用户。
    """

    name: str
    folder: Path
    fresh: bool
    origin: str
    splits: dict[str, SplitCount]
    dropped: dict[str, int]
    licence: str
    warnings: list[str] = field(default_factory=list[str])

    def as_dict(self) -> dict[str, object]:
        """供 `--json` 输出的字典。"""
        return {**asdict(self), "folder": str(self.folder)}

    def __str__(self) -> str:
        """中文小结：规模、丢弃的名目、差异与权利状况。"""
        sizes = [(n, c.lines, c.classical, c.modern) for n, c in self.splits.items()]
        drops = [(DROP_REASONS[n], c) for n, c in self.dropped.items()]
        parts = [f"{self.name} 在 {self.folder}（来自 {self.origin}）"]
        parts.append(format_table(("切分", "句对", "文言字数", "白话字数"), sizes))
        if drops:
            parts.append(format_table(("丢弃的名目", "句对"), drops))
        parts += [f"注意：{warning}" for warning in self.warnings]
        parts.append(f"权利状况：{self.licence}")
        return "\n\n".join(parts)


def fetch(
    name: str,
    *,
    url: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> FetchReport:
    """取得一份有名字的语料，放进缓存；已经有了就只核对。

    Args:
        name: `corpus list` 列出的名字，可以带侧。
        url: 换一个来处：镜像地址（含 `{path}`，或以 .tar.gz 结尾）、本地的
            tar.gz，或上游仓库的本地检出。
        force: 已经有了也重新整理（下好的文件仍会重用）。
        progress: 进度回调。

    Returns:
        结果，含权利状况与要提醒的差异。

    Raises:
        CorpusError: 名字不对、下载不成、内容与锁不符或规模相差太大。
    """
    base = name.partition(":")[0]
    if base not in NAMED:
        near = get_close_matches(base, NAMED, n=1)
        raise CorpusError(
            found=f"没有名叫“{name}”的语料",
            expected="、".join(NAMED),
            remedy=f"是不是 {near[0]}" if near else "看 `companion corpus list`",
        )
    if NAMED[base].embedded:
        raise CorpusError(
            found=f"{base} 随包附带，不必取得",
            expected="需要下载的语料",
            remedy=f"直接写 --corpus {base}",
        )
    return fetch_upstream(UPSTREAM, url=url, force=force, progress=progress)


def fetch_upstream(
    upstream: Upstream,
    *,
    url: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> FetchReport:
    """取得《资治通鉴》，参数同 `fetch`，上游由对象给出。"""
    source = NAMED["tongjian"]
    folder = cache_folder() / "corpora" / source.name
    if folder.is_dir() and not force:
        check_lock(folder)
        lock = read_lock(folder)
        splits = {n: SplitCount(**c) for n, c in lock.get("splits", {}).items()}
        origin = str(lock.get("origin", folder))
        return FetchReport(
            source.name, folder, False, origin, splits, {}, source.licence
        )
    raw = cache_folder() / "upstream" / f"{source.name}-{upstream.commit[:12]}"
    origin = _obtain(upstream, raw, url, progress)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".未完成-", dir=folder.parent) as name:
        built = Path(name) / source.name
        built.mkdir()
        splits, dropped = build(upstream.chapters, raw, built)
        warnings = _compare_sizes(upstream, splits)
        (built / "NOTICE.txt").write_text(
            f"{source.title}\n\n来源：{upstream.repository}，提交 {upstream.commit}\n"
            f"整理：cpt-companion 的 corpus/tongjian.py\n\n{source.licence}\n",
            encoding="utf-8",
        )
        facts = {"commit": upstream.commit, "origin": origin}
        counts = {split: vars(count) for split, count in splits.items()}
        write_lock(
            built,
            [path.name for path in built.iterdir()],
            {"repository": upstream.repository, **facts, "splits": counts},
        )
        write_lock(raw, upstream.paths, facts)
        if folder.is_dir():
            folder.rename(Path(name) / "旧")
        built.rename(folder)
    return FetchReport(
        source.name, folder, True, origin, splits, dropped, source.licence, warnings
    )


def _compare_sizes(upstream: Upstream, splits: dict[str, SplitCount]) -> list[str]:
    """与已知的规模比：差得少就提醒，差得多就拒绝。"""
    warnings: list[str] = []
    for split, expected in upstream.expected.items():
        found = splits.get(split, SplitCount(0, 0, 0))
        gaps = {
            "句对": found.lines / expected.lines - 1,
            "文言字数": found.classical / expected.classical - 1,
            "白话字数": found.modern / expected.modern - 1,
        }
        label, gap = max(gaps.items(), key=lambda item: abs(item[1]))
        if abs(gap) > LIMIT:
            raise CorpusError(
                found=f"整理后 {split} 的{label}与已知的相差 {gap:+.1%}",
                expected=f"{expected.lines:,} 对、文言 {expected.classical:,} 字、"
                f"白话 {expected.modern:,} 字上下",
                remedy="取得的不是同一份数据，换一个来处",
            )
        if abs(gap) > TOLERANCE:
            warnings.append(
                f"整理后 {split} 的{label}与已知的相差 {gap:+.1%}，"
                f"超过 {TOLERANCE:.0%}：与书中的数字比较时须留意"
            )
    return warnings


def _obtain(
    upstream: Upstream, raw: Path, url: str | None, progress: Progress | None
) -> str:
    """把上游的文件备齐在 `raw` 里；返回来处。"""
    raw.mkdir(parents=True, exist_ok=True)
    known = {name: fact["sha256"] for name, fact in read_lock(raw)["files"].items()}
    for path, expected in known.items():  # 缓存里坏掉的先扔掉，稍后重下
        if (raw / path).is_file() and sha256_of(raw / path) != expected:
            (raw / path).unlink()
    if url is not None and "://" not in url:
        _take(upstream, Path(url).expanduser(), raw, known)
        return url
    files, archives = upstream.files, upstream.archives
    if url is not None:
        template = url + "{path}" if url.endswith("/") else url
        whole = "{path}" not in template
        files, archives = ((), (url,)) if whole else ((template,), ())
    missing = [path for path in upstream.paths if not (raw / path).is_file()]
    if not missing:
        return f"{upstream.repository}@{upstream.commit}（缓存）"
    reasons: list[str] = []
    if files:
        try:
            return _download_all(missing, raw, files, known, progress)
        except CorpusError as error:
            reasons.append(error.found)
    if archives:
        try:
            packed = raw / "archive.tar.gz"
            origin = download(archives, packed)
            _take(upstream, packed, raw, known)
            packed.unlink()
            return origin
        except CorpusError as error:
            reasons.append(error.found)
    archive = (archives or UPSTREAM.archives)[0]
    raise CorpusError(
        found="；".join(reasons),
        expected=f"能连上 {upstream.repository} 的一个地址",
        remedy="检查网络或代理（HTTPS_PROXY）后再运行，下好的文件不再下；"
        f"也可在别处下载 {archive}，拷到本机，再用 --url 指明这个文件（检出的文件夹"
        "或镜像地址也行）；已有整理好的数据，放进 COMPANION_DATA 之下的 tongjian/；"
        "没有网络时用随包附带的 sample",
    )


def download(urls: Sequence[str], path: Path, sha256: str | None = None) -> str:
    """依次试各个地址，把文件下到 `path`；下完、核对过才出现在那里。

    Args:
        urls: 内容相同的几个地址，先到先用。
        path: 目标文件。
        sha256: 应有的摘要；不知道则为 None。

    Returns:
        最后用的地址。

    Raises:
        CorpusError: 所有地址都不通，或内容与 `sha256` 不符，附每个主机的原因。
    """
    import pooch  # 连带 requests，载入要近半秒

    pooch.get_logger().setLevel("ERROR")
    # pooch 标注的协议与它自己的类对不上
    downloader: Any = pooch.HTTPDownloader(timeout=TIMEOUT_SECONDS)
    reasons: list[str] = []
    for url in urls:
        host, reason = urllib.parse.urlsplit(url).netloc, ""
        for _ in range(ATTEMPTS):
            try:
                pooch.retrieve(
                    url,
                    sha256,
                    fname=path.name,
                    path=path.parent,
                    downloader=downloader,
                )
            except OSError as error:  # requests 的错误都是它的子类
                kind, response = type(error).__name__, getattr(error, "response", None)
                if kind == "ChunkedEncodingError":
                    reason = "连接中断"
                    continue  # 送到一半断了的，值得再试
                reason = f"连不上（{kind}）"
                if response is not None:
                    response.close()  # 流式的响应，pooch 出错时不关
                    reason = f"HTTP {response.status_code}"
            except ValueError as error:
                reason = f"sha256 不符：{error}"
            else:
                return url
            break
        reasons.append(f"{host}：{reason}")
    raise CorpusError(
        found=f"{path.name} 下载不成，试过 {len(urls)} 个地址（{'；'.join(reasons)}）",
        expected="至少一个地址能连上，且内容与记录的摘要相符",
        remedy="检查网络或代理（HTTPS_PROXY）后再运行；也可用 --url 给出别的镜像或"
        "本地文件，或用 COMPANION_DATA 指明已有的数据",
    )


def _download_all(
    missing: Sequence[str],
    raw: Path,
    templates: Sequence[str],
    known: dict[str, str],
    progress: Progress | None,
) -> str:
    """逐个文件下载；连不上时只等第一个文件的超时，不等八个。"""

    def get(path: str) -> str:
        quoted = urllib.parse.quote(path)
        urls = [template.replace("{path}", quoted) for template in templates]
        return download(urls, raw / path, known.get(path))

    origin = urllib.parse.unquote(get(missing[0])).removesuffix(missing[0])
    with ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool:
        try:
            for done, path in enumerate(pool.map(get, missing[1:]), start=2):
                if progress is not None:
                    progress(done, len(missing), path)
        except BaseException:
            # 一个不成（或 Ctrl-C）就不再开新的；已下好的留着，下次接着来
            pool.shutdown(cancel_futures=True)
            raise
    return origin


def _take(upstream: Upstream, local: Path, raw: Path, known: dict[str, str]) -> None:
    """从仓库的检出或 tar.gz 里取出要的文件；只认已知的路径，别的一概不写。"""
    wanted = set(upstream.paths)
    for path, data in _contents(local, frozenset(wanted)):
        expected, found = known.get(path), hashlib.sha256(data).hexdigest()
        if expected is not None and found != expected:
            raise CorpusError(
                found=f"{local} 的 {path} 与第一次取得时不同，sha256 是 {found}",
                expected=f"{expected}，记在锁里",
                remedy="换一个来处；确信新的才对，就删去缓存里的 upstream 文件夹",
            )
        (raw / path).parent.mkdir(parents=True, exist_ok=True)
        (raw / path).write_bytes(data)
        wanted.discard(path)
    if wanted:
        raise CorpusError(
            found=f"{local} 里没有 {min(wanted)} 等 {len(wanted)} 个文件",
            expected=f"{upstream.repository} 在提交 {upstream.commit} 的检出或归档",
            remedy=f"`git clone` 后 `git checkout {upstream.commit}`，"
            "再指明那个文件夹；或换一份归档",
        )


def _contents(local: Path, wanted: frozenset[str]) -> Iterator[tuple[str, bytes]]:
    """检出的文件夹或 tar.gz 里要的文件：路径与内容。"""
    if local.is_dir():
        for path in sorted(wanted):
            if (local / path).is_file():
                yield path, (local / path).read_bytes()
        return
    try:
        with tarfile.open(local, "r:gz") as archive:
            for member in archive:
                path = member.name.partition("/")[2]  # 首层是“仓库名-提交号”
                stream = archive.extractfile(member) if path in wanted else None
                if stream is not None:
                    yield path, stream.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CorpusError(
            found=f"{local} 解不开：{error}",
            expected="完整的 tar.gz",
            remedy="删去它，重新下载",
        ) from None
