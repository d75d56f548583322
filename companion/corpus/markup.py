"""去掉 HTML 标记，留下文字；分得清标签与小于号。

    <p>天子之<ruby>職<rt>zhí</rt></ruby></p>   →  天子之職
    当 x<s 时下降，y>2 时上升                  →  原样不动

标记由标准库的解析器（`html.parser`）来认，它照 HTML 的规矩把 `<s 时下降，y>` 也当标签。
所以再问一句：它像不像人写的标签？名字要是 HTML 的元素，属性要写成 `名="值"`（或几个不带
值的）；没有属性的行内标签（`<b>`、`<s>`）还要有与它成对的结尾。不像的，是文字。
"""

import html
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from itertools import accumulate
from typing import Any

_BLOCK_NAMES = (
    "address article aside blockquote body br caption center dd details dialog div dl "
    "dt fieldset figcaption figure footer form frame frameset h1 h2 h3 h4 h5 h6 head "
    "header hr html iframe legend li main nav noscript ol option p pre section select "
    "summary table tbody td textarea tfoot th thead title tr ul"
)
_INLINE_NAMES = (
    "a abbr acronym b base bdi bdo big button canvas cite code col colgroup data del "
    "dfn em embed font i img input ins kbd label link map mark meta nobr object param "
    "picture q rb rbc rp rt rtc ref ruby s samp script small source span strike strong "
    "style sub sup svg template time track tt u var video wbr"
)
_FLAG_NAMES = (
    "allowfullscreen async autofocus autoplay checked compact controls defer disabled "
    "hidden ismap loop multiple muted nohref noresize noshade novalidate nowrap "
    "readonly required reversed selected"
)
_BLOCKS = frozenset(_BLOCK_NAMES.split())
"""自成一块的元素：换成一个空格，两边的字不会粘在一起。"""
_ELEMENTS = _BLOCKS | frozenset(_INLINE_NAMES.split())
_FLAGS = frozenset(_FLAG_NAMES.split())
"""不带值的属性。"""
_DROPPED = frozenset(("script", "style", "rt", "rp", "rtc"))
"""连内容一起去掉：程序、样式，与注音。"""
_VOID = frozenset(("base", "col", "img", "input", "link", "meta", "wbr"))
"""没有结尾的行内元素。"""
_ATTRIBUTE = re.compile(r"[A-Za-z_:@][A-Za-z0-9_:.@-]*")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")


def strip_markup(text: str) -> str:
    r"""去掉标签、注释、脚本与注音，还原实体；块级标签换成一个空格。

    >>> strip_markup("<p class='x'>天子</p><br/>之&nbsp;职")
    ' 天子  之\xa0职'
    >>> strip_markup("若 a<b 则 c>d；<b>重点</b>")
    '若 a<b 则 c>d；重点'
    """
    if "<" in text:
        text = _without_tags(text)
    return _ENTITY.sub(lambda match: html.unescape(match.group()), text)


@dataclass
class _Tag:
    """一处标记：text[start:stop]。"""

    start: int
    stop: int
    name: str
    closing: bool = False
    certain: bool = True
    """单看它自己就知道是标记；为假的要找到成对的结尾才算。"""


class _Reader(HTMLParser):
    """记下像标签的各处；不像的里面可能还有，再读一遍。"""

    def __init__(self, text: str, offset: int = 0) -> None:
        super().__init__(convert_charrefs=False)
        self.tags: list[_Tag] = []
        self._text, self._offset = text, offset
        lines = text.split("\n")
        self._lines = [0, *accumulate(len(line) + 1 for line in lines)]
        self.feed(text)
        self.close()

    def set_cdata_mode(self, *args: Any, **kwargs: Any) -> None:
        """脚本里的也照常读：没有写完的 <script> 不该吞掉后文。"""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """开头的标签。"""
        raw = self.get_starttag_text() or "<"
        named = all(
            _ATTRIBUTE.fullmatch(name) and (value is not None or name in _FLAGS)
            for name, value in attrs
        )
        if tag in _ELEMENTS and named:
            certain = tag in _BLOCKS or tag in _VOID or bool(attrs)
            self._add(len(raw), tag, certain=certain and tag not in _DROPPED)
        elif "<" in raw[1:]:
            start = self._here() + 1
            inner = _Reader(raw[1:], start)
            self.tags += inner.tags

    def handle_endtag(self, tag: str) -> None:
        """结尾的标签。"""
        start = self._here() - self._offset
        stop = self._text.find(">", start) + 1
        if tag in _ELEMENTS and stop and self._text.startswith("</", start):
            self._add(stop - start, tag, closing=True)

    def handle_comment(self, data: str) -> None:
        """注释；`</ …>` 之类读不通的也到这里，不算。"""
        start = self._here() - self._offset
        if self._text.startswith(f"<!--{data}-->", start):
            self._add(len(data) + 7, "comment")

    def handle_decl(self, decl: str) -> None:
        """<!DOCTYPE …>。"""
        if decl.lower().startswith("doctype"):
            self._add(len(decl) + 3, "html")

    def _here(self) -> int:
        line, column = self.getpos()
        return self._offset + self._lines[line - 1] + column

    def _add(self, length: int, name: str, **more: Any) -> None:
        start = self._here()
        self.tags.append(_Tag(start, start + length, name, **more))


def _without_tags(text: str) -> str:
    open_: dict[str, list[_Tag]] = {}
    removed: list[tuple[int, int, str]] = []  # 从哪里到哪里，换成什么
    for tag in _Reader(text).tags:
        waiting = open_.setdefault(tag.name, [])
        if not tag.closing:
            if not tag.certain:
                waiting.append(tag)
                continue
        elif waiting:
            opening = waiting.pop()
            whole = tag.name in _DROPPED
            removed.append((opening.start, tag.stop if whole else opening.stop, ""))
        removed.append((tag.start, tag.stop, " " if tag.name in _BLOCKS else ""))
    pieces: list[str] = []
    at = 0
    for start, stop, filler in sorted(removed):
        if start >= at:
            pieces += (text[at:start], filler)
        at = max(at, stop)
    return "".join(pieces) + text[at:]
