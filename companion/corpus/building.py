"""整理上游的文件：清洗、切分、去重、防泄漏，写成两侧的文本与篇目表。"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from companion.corpus.chapters import CHAPTERS
from companion.corpus.encoding import read_lines
from companion.corpus.sources import SPLITS
from companion.corpus.tongjian import (
    DROP_REASONS,
    Juan,
    Pair,
    clean_pair,
    find_leaks,
    find_repeats,
)
from companion.errors import CorpusError


@dataclass(frozen=True)
class SplitCount:
    """一个切分的规模：句对数与两侧字数。"""

    lines: int
    classical: int
    modern: int


def build(
    chapters: Sequence[Juan], raw: Path, out: Path
) -> tuple[dict[str, SplitCount], dict[str, int]]:
    """把上游的各卷整理成语料。

    Args:
        chapters: 各卷，按卷号。
        raw: 上游文件所在的文件夹。
        out: 写到哪里；须已存在。

    Returns:
        每个切分的规模，与每个名目丢弃的句对数。

    Raises:
        CorpusError: 某卷读不了，或两侧行数不同。
    """
    dropped: Counter[str] = Counter()
    kept: dict[str, list[tuple[Juan, Pair]]] = {split: [] for split in SPLITS}
    for juan in chapters:
        for classical, modern in _raw_pairs(juan, raw):
            cleaned = clean_pair(classical, modern)
            if isinstance(cleaned, str):
                dropped[cleaned] += 1
            else:
                kept[juan.split].append((juan, cleaned))
    train = [pair for _, pair in kept["train"]]
    held_out = [pair for split in ("valid", "test") for _, pair in kept[split]]
    repeats = find_repeats(train)
    leaks = find_leaks(train, held_out) - repeats
    dropped["duplicate"], dropped["leak"] = len(repeats), len(leaks)
    kept["train"] = [
        row for index, row in enumerate(kept["train"]) if index not in repeats | leaks
    ]
    table = ["split\tjuan\tji\tchapter\tfirst_line\tn_lines"]
    counts: dict[str, SplitCount] = {}
    for split, rows in kept.items():
        if rows:
            table += _chapter_rows(split, rows)
            counts[split] = _write_split(out, split, [pair for _, pair in rows])
    (out / CHAPTERS).write_text("\n".join(table) + "\n", encoding="utf-8")
    return counts, {name: dropped[name] for name in DROP_REASONS if dropped[name]}


def _raw_pairs(juan: Juan, raw: Path) -> list[Pair]:
    # 上游自己有少数坏字，由清洗逐对丢弃，不在这里整份拒绝
    sides = [
        list(read_lines(raw / juan.path(side), refuse_garble=False))
        for side in ("classical", "modern")
    ]
    if len(sides[0]) != len(sides[1]):
        raise CorpusError(
            found=f"{juan.chapter}文言 {len(sides[0])} 行、白话 {len(sides[1])} 行",
            expected="两侧行数相同",
            remedy="多半是下载残缺，删去缓存里的 upstream 文件夹后重新取得",
        )
    return list(zip(*sides, strict=True))


def _chapter_rows(split: str, rows: Sequence[tuple[Juan, Pair]]) -> list[str]:
    lines: list[str] = []
    first = 1
    for juan, count in Counter(juan for juan, _ in rows).items():
        lines.append(
            f"{split}\t{juan.number}\t{juan.ji}\t{juan.chapter}\t{first}\t{count}"
        )
        first += count
    return lines


def _write_split(out: Path, split: str, pairs: Sequence[Pair]) -> SplitCount:
    for side, name in enumerate(("classical", "modern")):
        text = "".join(pair[side] + "\n" for pair in pairs)
        (out / f"{split}.{name}.txt").write_text(text, encoding="utf-8", newline="\n")
    classical, modern = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
    return SplitCount(len(pairs), classical, modern)
