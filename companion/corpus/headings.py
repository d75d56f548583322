"""章回的标题：小说一类的长文里，哪些行是“第三回 ……”，由此写出篇目表。

网上的小说多半段与段之间空一行，照空行分就一段一篇；也有一个空行都没有的，整部成了一篇。
两种都靠标题分：自一个标题起，到下一个标题之前，是一篇。
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from companion.corpus.chapters import CHAPTERS
from companion.corpus.reading import file_stem, format_of, read_lines
from companion.errors import CorpusError

_NUMBER = "[0-9０-９零〇一二两三四五六七八九十百千]+"
_HEADING = re.compile(
    rf"(?:第{_NUMBER}[章回节卷集部篇]|卷{_NUMBER}|[序楔]章|楔子|序言?|前言|尾声|后记|番外)"
    r"(?:[\s：:·—-].{0,28}|[^\s，。！？；“”]{0,14})"
)
_MOST_CHARS = 32
"""比这更长的一行是正文，不是标题。"""
_ENDS = "。！？；，”』」…"


@dataclass(frozen=True)
class Heading:
    """一个标题。"""

    line: int
    """第几行，从 1 起。"""
    title: str


def find_headings(lines: Iterable[str]) -> list[Heading]:
    """找出标题所在的行；紧挨着的几个标题（卷名之后是章名）只留最后一个。

    Args:
        lines: 各行，不含换行符。

    >>> lines = ["第一卷 边关", "第一回　风雪夜", "", "那一年冬天。", "第二回　人去"]
    >>> [(each.line, each.title) for each in find_headings(lines)]
    [(2, '第一回　风雪夜'), (5, '第二回　人去')]
    """
    found: list[Heading] = []
    between = False  # 上一个标题之后有没有正文
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text:
            continue
        if not is_heading(text):
            between = True
            continue
        if found and not between:
            found.pop()
        found.append(Heading(number, text))
        between = False
    return found


def is_heading(text: str) -> bool:
    """一行是不是章回的标题；正文里说到“第三回”的不算。

    >>> is_heading("第十二回 宴桃园"), is_heading("第三回的事，他记得很清楚。")
    (True, False)
    """
    return (
        len(text) <= _MOST_CHARS
        and text[-1] not in _ENDS
        and _HEADING.fullmatch(text) is not None
    )


def write_chapters(path: Path, *, overwrite: bool = False) -> list[Heading]:
    """由标题写出文件旁边的篇目表，此后这个文件一章一篇。

    Args:
        path: `.txt` 或 `.txt.gz`。
        overwrite: 已有篇目表时替换它。

    Returns:
        各章的标题。

    Raises:
        CorpusError: 不是文本文件，找不到两个以上的标题，或已有篇目表。
    """
    table = path.parent / CHAPTERS
    if not format_of(path).startswith(".txt"):
        raise CorpusError(
            found=f"{path} 不是文本文件",
            expected=".txt 或 .txt.gz；别的格式一行一篇，用不着篇目",
            remedy="直接用它",
        )
    if table.exists() and not overwrite:
        raise CorpusError(
            found=f"{table} 已经有了",
            expected="还没有篇目表",
            remedy="加 --overwrite 替换它，或把语料放进单独的文件夹",
        )
    lines = list(read_lines(path, refuse_garble=False))
    headings = find_headings(lines)
    if len(headings) < 2:
        raise CorpusError(
            found=f"{path} 里只有 {len(headings)} 行像章回的标题",
            expected="各章以“第三回 ……”“第 12 章”“楔子”一类的行开头",
            remedy="在各章之间空一行、章内不空行；或自己写 chapters.tsv，"
            "三列是 split（文件名去后缀）、first_line、n_lines",
        )
    stops = [each.line for each in headings[1:]] + [len(lines) + 1]
    rows = [
        f"{file_stem(path)}\t{each.title}\t{each.line}\t{stop - each.line}"
        for each, stop in zip(headings, stops, strict=True)
    ]
    text = "\n".join(["split\ttitle\tfirst_line\tn_lines", *rows])
    table.write_text(text + "\n", encoding="utf-8")
    return headings
