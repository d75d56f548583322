"""`companion corpus fetch`：从上游取得有名字的语料，整理好，放进缓存。

每一步都可以中断后重来：已下好的文件不再下，没下完的接着下；整理在临时文件夹里做，
做完才整个换上去。内容靠三道核对：地址里的提交号（内容寻址，不会移动）、
每个文件的 sha256（第一次取得时记入锁，以后必须相同）、整理后的行数与字数。
"""

import tempfile
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from companion.corpus.building import SplitCount, build
from companion.corpus.catalog import NAMED, NamedSource, Upstream, cache_folder
from companion.corpus.document import format_table
from companion.corpus.lock import check_lock, read_lock, write_lock
from companion.corpus.obtaining import Progress, obtain
from companion.corpus.tongjian import DROP_REASONS
from companion.errors import CorpusError

TOLERANCE = 0.02
"""整理后的规模与已知规模可以相差的比例；超过则提醒。"""
LIMIT = 0.10
"""相差超过这个比例就不是同一份数据，拒绝。"""


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
        return {
            "name": self.name,
            "folder": str(self.folder),
            "fresh": self.fresh,
            "origin": self.origin,
            "splits": {name: vars(count) for name, count in self.splits.items()},
            "dropped": self.dropped,
            "warnings": self.warnings,
            "licence": self.licence,
        }

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
    return fetch_source(NAMED[base], url=url, force=force, progress=progress)


def fetch_source(
    source: NamedSource,
    *,
    url: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> FetchReport:
    """取得一份语料，参数同 `fetch`，语料由对象给出。"""
    upstream = source.upstream
    if upstream is None:
        raise CorpusError(
            found=f"{source.name} 随包附带，不必取得",
            expected="需要下载的语料",
            remedy=f"直接写 --corpus {source.name}",
        )
    folder = cache_folder() / "corpora" / source.name
    if folder.is_dir() and not force:
        check_lock(folder)
        lock = read_lock(folder) or {}
        splits = {n: SplitCount(**c) for n, c in lock.get("splits", {}).items()}
        origin = str(lock.get("origin", folder))
        return FetchReport(
            source.name, folder, False, origin, splits, {}, source.licence
        )
    raw = cache_folder() / "upstream" / f"{source.name}-{upstream.commit[:12]}"
    origin = obtain(upstream, raw, url, progress)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".未完成-", dir=folder.parent) as name:
        built = Path(name) / source.name
        built.mkdir()
        splits, dropped = build(upstream.chapters, raw, built)
        warnings = _compare_sizes(upstream, splits)
        (built / "NOTICE.txt").write_text(_notice(source, upstream), encoding="utf-8")
        facts = {
            "repository": upstream.repository,
            "commit": upstream.commit,
            "origin": origin,
            "splits": {split: vars(count) for split, count in splits.items()},
        }
        write_lock(built, [path.name for path in built.iterdir()], facts)
        write_lock(raw, upstream.paths, {"commit": upstream.commit, "origin": origin})
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


def _notice(source: NamedSource, upstream: Upstream) -> str:
    return (
        f"{source.title}\n\n来源：{upstream.repository}，提交 {upstream.commit}\n"
        f"整理：cpt-companion 的 corpus/tongjian.py\n\n{source.licence}\n"
    )
