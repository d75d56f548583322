"""术语表的每一条末尾，添上这个词第一次出现的章节；由正文查出，不手写。"""

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

BOOK = Path(__file__).parents[1]
ENTRY = re.compile(r"^([^\s`{#].*)\n  (.+)$", re.MULTILINE)
"""术语表里的一条：词一行，缩进两格的释义一行。"""


def chapters(book: Path = BOOK) -> list[Path]:
    """正文各章，依编号。"""
    return sorted(book.glob("[0-9][0-9]_*.md"))


def first_chapter(term: str, book: Path = BOOK) -> Path | None:
    """第一个写到这个词的章节；代码块里的不算。"""
    for path in chapters(book):
        text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.M | re.S)
        if term in text:
            return path
    return None


def placed(text: str, book: Path = BOOK) -> str:
    """每一条的释义之后写上首见的章节。"""

    def add(match: re.Match[str]) -> str:
        path = first_chapter(match[1], book)
        if path is None:
            return match[0]
        return f"{match[0]}首见[第 {path.name[:2]} 章]({path.name})。"

    return ENTRY.sub(add, text)


def _read(app: Sphinx, name: str, source: list[str]) -> None:
    if name == "book/glossary":
        source[0] = placed(source[0])
        for path in chapters():
            app.env.note_dependency(str(path))


def setup(app: Sphinx) -> dict[str, Any]:
    """在解析之前改写。"""
    app.connect("source-read", _read)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
