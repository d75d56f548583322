"""取得上游的文件：逐个下载，或从归档、本地检出里取。

已下好的不再下，没下完的接着下；锁里记过 sha256 的，必须与当初相同。
"""

import hashlib
import shutil
import tarfile
import urllib.parse
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from companion.corpus.catalog import Upstream
from companion.corpus.download import download, sha256_of
from companion.corpus.lock import read_lock
from companion.errors import CorpusError

PARALLEL_DOWNLOADS = 8
"""同时下载的文件数；每个文件只有几十 KB，慢在往返。"""
Progress = Callable[[int, int, str], None]
"""进度回调：已完成数、总数、正在做什么。"""


def obtain(
    upstream: Upstream, raw: Path, url: str | None, progress: Progress | None
) -> str:
    """把上游的文件备齐在一个文件夹里。

    Args:
        upstream: 上游。
        raw: 放到哪里；其中已有的、与锁相符的文件不再下。
        url: 换一个来处，见 `companion.corpus.fetching.fetch`。
        progress: 进度回调。

    Returns:
        来处，给人看的。

    Raises:
        CorpusError: 所有来处都不通，或内容与锁不符。
    """
    raw.mkdir(parents=True, exist_ok=True)
    lock = (read_lock(raw) or {}).get("files", {})
    known: dict[str, str] = {name: fact["sha256"] for name, fact in lock.items()}
    for path, expected in known.items():  # 缓存里坏掉的先扔掉，稍后重下
        if (raw / path).is_file() and sha256_of(raw / path) != expected:
            (raw / path).unlink()
    if url is not None and "://" not in url:
        return _from_local(upstream, raw, Path(url).expanduser(), known)
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
            return _from_files(missing, raw, files, known, progress)
        except CorpusError as error:
            reasons.append(error.found)
    if archives:
        try:
            packed = raw / "archive.tar.gz"
            result = download(archives, packed, progress=_bytes(progress))
            _unpack(upstream, packed, raw, known)
            packed.unlink()
            return result.url
        except CorpusError as error:
            reasons.append(error.found)
    raise CorpusError(
        found="；".join(reasons),
        expected=f"能连上 {upstream.repository} 的一个地址",
        remedy="检查网络或代理（HTTPS_PROXY）后再运行，会从断处接着下；"
        "也可在别处下好，用 --url 指明镜像、本地 tar.gz 或检出的文件夹；"
        "或用 COMPANION_DATA 指明已有的数据；没有网络时用随包附带的 sample",
    )


def _from_files(
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
        return download(urls, raw / path, sha256=known.get(path)).url

    origin = urllib.parse.unquote(get(missing[0])).removesuffix(missing[0])
    with ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool:
        futures = {pool.submit(get, path): path for path in missing[1:]}
        try:
            for done, (future, path) in enumerate(futures.items(), start=2):
                future.result()
                if progress is not None:
                    progress(done, len(missing), path)
        except BaseException:
            # 一个不成（或 Ctrl-C）就不再开新的；已下好的留着，下次接着来
            pool.shutdown(cancel_futures=True)
            raise
    return origin


def _from_local(
    upstream: Upstream, raw: Path, local: Path, known: dict[str, str]
) -> str:
    if local.is_file():
        _unpack(upstream, local, raw, known)
        return str(local)
    absent = [path for path in upstream.paths if not (local / path).is_file()]
    if absent:
        raise CorpusError(
            found=f"{local} 里没有 {absent[0]}"
            + (f" 等 {len(absent)} 个文件" if len(absent) > 1 else ""),
            expected=f"{upstream.repository} 的检出，提交 {upstream.commit}",
            remedy=f"`git clone` 后 `git checkout {upstream.commit}`，再指明那个文件夹",
        )
    for path in upstream.paths:
        _match_lock(path, sha256_of(local / path), known, str(local))
        (raw / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(local / path, raw / path)
    return str(local)


def _unpack(upstream: Upstream, packed: Path, raw: Path, known: dict[str, str]) -> None:
    """从仓库的 tar.gz 里取出要的文件；只认已知的路径，别的一概不写。"""
    wanted = set(upstream.paths)
    try:
        with tarfile.open(packed, "r:gz") as archive:
            for member in archive:
                path = member.name.partition("/")[2]  # 首层是“仓库名-提交号”
                stream = archive.extractfile(member) if path in wanted else None
                if stream is None:
                    continue
                data = stream.read()
                _match_lock(path, hashlib.sha256(data).hexdigest(), known, str(packed))
                (raw / path).parent.mkdir(parents=True, exist_ok=True)
                (raw / path).write_bytes(data)
                wanted.discard(path)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CorpusError(
            found=f"{packed} 解不开：{error}",
            expected="完整的 tar.gz",
            remedy="删去它，重新下载",
        ) from None
    if wanted:
        raise CorpusError(
            found=f"{packed} 里没有 {min(wanted)} 等 {len(wanted)} 个文件",
            expected=f"{upstream.repository} 在提交 {upstream.commit} 的归档",
            remedy="换一份归档",
        )


def _match_lock(path: str, found: str, known: dict[str, str], origin: str) -> None:
    expected = known.get(path)
    if expected is not None and found != expected:
        raise CorpusError(
            found=f"{origin} 的 {path} 与第一次取得时不同，sha256 是 {found}",
            expected=f"{expected}，记在锁里",
            remedy="换一个来处；确信新的才对，就删去缓存里的 upstream 文件夹",
        )


def _bytes(progress: Progress | None) -> Callable[[int, int | None], None] | None:
    if progress is None:
        return None
    return lambda have, total: progress(have, total or have, "archive.tar.gz")
