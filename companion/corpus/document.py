"""文档：语料的单位，一篇、一卷、一则，而不是一行。

连续的行合成一个文档，上下文才长，填充才少，打包才诚实。文档正文里没有换行符：
换行只是排版，多数分词器会丢掉它，字节级分词器（BLOOM、GPT-2）却会当作一个词元
学进去。因此读入时就把行接好，同一篇文章不论存成哪种格式，读出来都一样。
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_WIDE = re.compile(
    "[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\ufe10-\ufe1f\ufe30-\ufe6f\uff00-\uffef"
    "\u2014\u2018-\u201f\u2026\u00b7\U00020000-\U0003ffff]"
)
"""不用空格分词的文字与全角标点：汉字、假名、谚文（接行时一并看待）、全角形式。"""


@dataclass(frozen=True, slots=True)
class Document:
    """一个文档，或一个句对。

    Args:
        text: 正文；句对的源侧（文言）。
        id: 稳定的编号，`{文件名去后缀}#{序号}`，序号从 1 起，与内容无关。
        source: 出处：文件名，有篇目时是 `文件名：篇名`。
        target: 句对的目标侧（白话）；单语文档为 None。
    """

    text: str
    id: str
    source: str
    target: str | None = None

    @property
    def num_chars(self) -> int:
        """两侧合计的字数（Unicode 码点）。"""
        return len(self.text) + len(self.target or "")


def is_wide(char: str) -> bool:
    """这个字符两边是否不需要空格（汉字、假名、全角标点）。"""
    return _WIDE.match(char) is not None


def join_lines(lines: Iterable[str]) -> str:
    """把一个文档的各行接成不含换行的正文。

    两行相接处有一边是汉字或全角标点，就直接相连；两边都是西文，才补一个空格。
    行首行尾的空白（含段首的全角空格）去掉，空行不计。

    >>> join_lines(["　　初命晋大夫", "为诸侯。"])
    '初命晋大夫为诸侯。'
    >>> join_lines(["continued", "pretraining"])
    'continued pretraining'

    Args:
        lines: 各行，不含换行符。

    Returns:
        正文。
    """
    pieces: list[str] = []
    last = ""
    for line in lines:
        stripped = line.strip()
        if not stripped:
            continue
        if last and not is_wide(last) and not is_wide(stripped[0]):
            pieces.append(" ")
        pieces.append(stripped)
        last = stripped[-1]
    return "".join(pieces)
