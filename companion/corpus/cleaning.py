"""清洗：一条条规则，改了几篇、丢了几篇，逐条记账。

四条底线：

- **只做 NFC，不做 NFKC。** NFKC 会把“，”变成 ","、把“①”变成“1”，中文标点从此不见。
- **任何规则都不把全角标点改成半角。**
- **丢弃有理由。** 每篇丢弃都计在使它被丢的那条规则名下，没有无名的损失；每条规则删去
  多少字也记着。
- **删得太多就不删。** 一条规则若要从一篇里删去一成以上的文字，多半是认错了：这一篇不用
  它，记作“拒用”并列出是哪几篇。

规则按 `CLEANING_RULES` 的次序作用，整套反复到文本不再变化为止，所以洗两遍与洗一遍
相同：去掉一个控制字符可能露出一个 HTML 标签，只走一遍就会留到下次才洗掉。

去 HTML 标记时分得清标签与小于号：

    <p>天子之<ruby>職<rt>zhí</rt></ruby></p>   →  天子之職
    当 x<s 时下降，y>2 时上升                  →  原样不动

标记由标准库的解析器（`html.parser`）来认，它照 HTML 的规矩把 `<s 时下降，y>` 也当标签。
所以再问一句：它像不像人写的标签？名字要是 HTML 的元素，属性要写成 `名="值"`（或几个不带
值的）；没有属性的行内标签（`<b>`、`<s>`）还要有与它成对的结尾。不像的，是文字。
"""

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from html.parser import HTMLParser
from importlib import import_module
from itertools import accumulate
from typing import Any

from companion.corpus.document import (
    Document,
    format_table,
    join_lines,
    tidy_lines,
)
from companion.errors import CorpusError

MOST_REMOVED = 0.1
"""一条规则至多从一篇里删去这么大一部分文字（字母与汉字，标记与空白不算）。"""
_SHORT = 100
"""不足这么多字的不论：短短一篇里，一句套话就不止一成。"""
_NAMED = 5
"""账目里至多列出几篇。"""

Apply = Callable[[str], str | None]
"""一条规则：改后的文本；None 表示整篇丢弃。"""


@dataclass(frozen=True)
class Rule:
    """一条清洗规则。

    Args:
        title: 中文短名，印在表里。
        reason: 为什么要这样做。
        apply: 作用于一侧文本；返回 None 则丢弃整篇（句对则整对）。
        default: 不指定规则时是否启用。
        once: 是否只在其余规则稳定之后作用一次（简繁转换不是幂等的）。
    """

    title: str
    reason: str
    apply: Apply
    default: bool = True
    once: bool = False


@dataclass
class RuleCount:
    """一条规则的账：改了几篇、丢了几篇、删去几字、几篇没有用它。"""

    changed: int = 0
    dropped: int = 0
    removed: int = 0
    """改动的各篇一共短了几个字符；整篇丢弃的不在内。"""
    refused: int = 0
    """要删去的文字超过一成，因而没有用这条规则的篇数。"""
    refused_ids: list[str] = field(default_factory=list[str])
    """其中前几篇的编号。"""


@dataclass
class CleaningReport:
    """清洗的账目，随迭代器的消费而增长，走完才完整。

    Args:
        rules: 每条规则的账，按作用次序。
        documents_in: 读入篇数。
        documents_out: 留下篇数。
        characters_in: 读入字数（句对计两侧）。
        characters_out: 留下字数。
    """

    rules: dict[str, RuleCount] = field(default_factory=dict[str, RuleCount])
    documents_in: int = 0
    documents_out: int = 0
    characters_in: int = 0
    characters_out: int = 0

    def as_dict(self) -> dict[str, object]:
        """供 `--json` 输出的字典。"""
        return {
            "documents_in": self.documents_in,
            "documents_out": self.documents_out,
            "characters_in": self.characters_in,
            "characters_out": self.characters_out,
            "rules": {
                name: {
                    "changed": count.changed,
                    "dropped": count.dropped,
                    "removed": count.removed,
                    "refused": count.refused,
                }
                for name, count in self.rules.items()
            },
        }

    def __str__(self) -> str:
        """中文表格：每条规则改了、丢了几篇，删了几字；然后是拒用的，末行合计。"""
        rows = [
            (
                f"{CLEANING_RULES[name].title}（{name}）",
                count.changed,
                count.dropped,
                count.removed,
            )
            for name, count in self.rules.items()
        ]
        lines = [format_table(("规则", "改动篇数", "丢弃篇数", "删去字符"), rows)]
        for name, count in self.rules.items():
            if count.refused:
                which = "、".join(count.refused_ids)
                more = "等" if count.refused > len(count.refused_ids) else ""
                lines.append(
                    f"{name} 要删去一成以上的文字，没有用在 {count.refused:,} 篇上："
                    f"{which}{more}；打开看看，该删的先自己删"
                )
        lines.append(
            f"读入 {self.documents_in:,} 篇 {self.characters_in:,} 字，"
            f"留下 {self.documents_out:,} 篇 {self.characters_out:,} 字"
        )
        return "\n".join(lines)


def clean_documents(
    docs: Iterable[Document], rules: Iterable[str] | None = None
) -> tuple[Iterator[Document], CleaningReport]:
    """逐篇清洗。

    Args:
        docs: 文档。
        rules: 要用的规则名；缺省为 `default` 为真的那些。次序总按 `CLEANING_RULES`。

    Returns:
        清洗后的文档（惰性）与账目；账目在迭代器走完后才完整。

    Raises:
        CorpusError: 有不认识的规则名。
    """
    chosen = _choose(rules)
    report = CleaningReport({name: RuleCount() for name in chosen})
    return _clean(docs, chosen, report), report


def clean_text(text: str, rules: Iterable[str] | None = None) -> str | None:
    """清洗一段文本，规则同 `clean_documents`；被丢弃时返回 None。"""
    docs, _ = clean_documents([Document(text, "文本#1", "文本")], rules)
    return next((doc.text for doc in docs), None)


def _choose(rules: Iterable[str] | None) -> tuple[str, ...]:
    if rules is None:
        return tuple(name for name, rule in CLEANING_RULES.items() if rule.default)
    wanted = list(rules)
    for name in wanted:
        if name not in CLEANING_RULES:
            near = get_close_matches(name, CLEANING_RULES, n=1)
            raise CorpusError(
                found=f"没有名叫“{name}”的清洗规则",
                expected="、".join(CLEANING_RULES),
                remedy=f"是不是 {near[0]}" if near else "从上面的名字里选",
            )
    return tuple(name for name in CLEANING_RULES if name in wanted)


def _clean(
    docs: Iterable[Document], names: tuple[str, ...], report: CleaningReport
) -> Iterator[Document]:
    repeated = [name for name in names if not CLEANING_RULES[name].once]
    finally_ = [name for name in names if CLEANING_RULES[name].once]
    for doc in docs:
        report.documents_in += 1
        report.characters_in += doc.num_chars
        removed: Counter[str] = Counter()
        refused: set[str] = set()
        sides: list[str] = []
        for side in (doc.text, doc.target):
            if side is None:
                continue
            usable = [name for name in repeated if name not in refused]
            cleaned = _fixpoint(side, usable, removed, refused)
            if isinstance(cleaned, str):
                cleaned = _one_pass(cleaned, finally_, removed, refused)
            if isinstance(cleaned, _Dropped):
                report.rules[cleaned.rule].dropped += 1
                break
            sides.append(cleaned)
        else:
            for name, count in removed.items():
                report.rules[name].changed += 1
                report.rules[name].removed += count
            for name in refused:
                account = report.rules[name]
                account.refused += 1
                if account.refused <= _NAMED:
                    account.refused_ids.append(doc.id)
            kept = replace(doc, text=sides[0], target=sides[1] if sides[1:] else None)
            report.documents_out += 1
            report.characters_out += kept.num_chars
            yield kept


@dataclass(frozen=True)
class _Dropped:
    rule: str


def _fixpoint(
    text: str, names: list[str], removed: Counter[str], refused: set[str]
) -> str | _Dropped:
    """反复用各条规则，直到文本不再变化。"""
    while True:  # 除 NFC 外每条规则只减不增，故必停
        after = _one_pass(text, names, removed, refused)
        if isinstance(after, _Dropped) or after == text:
            return after
        text = after


def _one_pass(
    text: str, names: list[str], removed: Counter[str], refused: set[str]
) -> str | _Dropped:
    for name in names:
        if name in refused:
            continue
        after = CLEANING_RULES[name].apply(text)
        if after is None:
            return _Dropped(name)
        if after == text:
            continue
        if _removes_too_much(text, after):
            refused.add(name)
            continue
        removed[name] += len(text) - len(after)
        text = after
    return text


def _removes_too_much(before: str, after: str) -> bool:
    """删去的文字超过一成；拉丁字母不算，标签就是它们写的。"""
    if len(before) - len(after) <= MOST_REMOVED * _SHORT:
        return False
    kept, had = _count_letters(after), _count_letters(before)
    return had >= _SHORT and had - kept > MOST_REMOVED * had


def _count_letters(text: str) -> int:
    return sum(c.isalnum() and not c.isascii() for c in text)


# ── 去 HTML 标记 ──────────────────────────────────────────────────────────────────

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


# ── 规则 ────────────────────────────────────────────────────────────────
_WIDE = (
    "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\ufe30-\ufe6f\uff00-\uffef"
    "\u2014\u2018-\u201f\u2026\U00020000-\U0003ffff"
)
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
_ZERO_WIDTH = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_UNKNOWN = re.compile(
    "[\ue000-\uf8ff\U000f0000-\U0010ffff\ufffd\ufdd0-\ufdef\ufffe\uffff]|锟斤拷"
)
_WIDE_SPACE = re.compile(rf"(?<=[{_WIDE}])\s+(?=[{_WIDE}])")
_SPACES = re.compile(r"\s+")
_INDENT = re.compile(rf"(?:\t| {{2}})[ \t]*(?=[^\s{_WIDE}])")
_RUN = re.compile(r"([^\w\s])\1{7,}")
_ADDRESS = r"[A-Za-z0-9][\w.:/?=&%#-]*"
_BOILERPLATE = re.compile(
    r"(?:(?<=[。！？…”』」\s])|^)(?:"
    r"本章未完[，,]?\s?(?:请?点击下一页(?:继续(?:阅读)?)?)?|"
    r"请?点击下一页(?:继续)?(?:阅读)?|"
    rf"请?(?:记住|收藏)本站(?:域名|网址|地址)?[：:]?\s?(?:{_ADDRESS})?|"
    rf"手机用户请(?:浏览|访问|到|上)\s?{_ADDRESS}\s?(?:阅读|观看)?|"
    rf"最新章节请(?:到|上|访问|关注)\s?{_ADDRESS}|"
    r"未经(?:本站|作者|书面)?(?:授权|许可)[，,]?(?:不得|禁止|谢绝)(?:任何形式的?)?转载|"
    rf"(?:如需)?转载请(?:注明|标明)(?:出处|来源|作者)?[：:]?\s?(?:{_ADDRESS})?|"
    r"版权所有[，,]?\s?(?:(?:侵权|翻印|盗版|违者|侵犯)必究|请勿转载)?|"
    r"点击下载(?:本书|全文|全本|客户端|\s?[Aa][Pp][Pp])?|"
    r"(?:扫码|扫描二维码|请)?关注(?:我们的?|本站的?)?(?:微信)?公众号"
    r"(?:[：:“\"]\s?[\w·-]{1,20}[”\"]?)?"
    r")(?:[。！!.]|(?=\s|$))"
)
_HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _garbled(text: str) -> str | None:
    return None if len(_UNKNOWN.findall(text)) > 0.2 * len(text) else text


def _spaces(text: str) -> str:
    if "\n" not in text:
        return _SPACES.sub(" ", _WIDE_SPACE.sub("", text)).strip()
    return tidy_lines("\n".join(map(_spaces_of_line, text.split("\n"))))


def _spaces_of_line(line: str) -> str:
    indent = _INDENT.match(line)  # 代码的缩进
    body = _SPACES.sub(" ", _WIDE_SPACE.sub("", line)).strip()
    return (indent.group() if indent and body else "") + body


def _one_line(text: str) -> str:
    return join_lines(text.split("\n"))


def _too_short(text: str) -> str | None:
    return text if sum(map(str.isalnum, text)) >= 2 else None


def _few_chinese(text: str) -> str | None:
    letters = sum(map(str.isalnum, text))
    return text if len(_HAN.findall(text)) >= 0.3 * letters else None


@cache
def _converter(config: str) -> Callable[[str], str]:
    opencc = import_module("opencc")  # 词典要半秒才载入，用到简繁转换时才付
    convert: Callable[[str], str] = opencc.OpenCC(config).convert
    return convert


CLEANING_RULES: dict[str, Rule] = {
    "nfc": Rule("合成字形 NFC", "同一个字只有一种写法；不做 NFKC，标点不动", _nfc),
    "control": Rule(
        "控制字符", "排版与终端的残留，不是文字", lambda text: _CONTROL.sub("", text)
    ),
    "zero_width": Rule(
        "零宽字符",
        "看不见，却把一个词隔成两个词元（连写文字需要的 U+200C、U+200D 不动）",
        lambda text: _ZERO_WIDTH.sub("", text),
    ),
    "html": Rule("HTML 残留", "标签、脚本、注音与实体不是正文", strip_markup),
    "garbled": Rule("坏字太多", "私用区与 � 超过两成，句子已不可读", _garbled),
    "unknown": Rule(
        "缺字",
        "私用区字符、� 与“锟斤拷”改为阙文惯用的“□”：删去会接成假的句子",
        lambda text: _UNKNOWN.sub("□", text),
    ),
    "boilerplate": Rule(
        "网站套话",
        "“本章未完”“转载请注明”等自成一句的；只删这一句，不动前后的正文",
        lambda text: _BOILERPLATE.sub("", text),
    ),
    "runs": Rule(
        "分隔线",
        "同一符号连写八次以上只留三个",
        lambda text: _RUN.sub(r"\1\1\1", text),
    ),
    "spaces": Rule(
        "空白",
        "汉字之间不留空白，别处连续的空白并成一个空格；换行与代码的缩进不动",
        _spaces,
    ),
    "one_line": Rule(
        "接成一行",
        "正文里的换行若只是排版，就接起来；诗、代码与 Markdown 不可用，故不默认",
        _one_line,
        default=False,
    ),
    "too_short": Rule("太短", "不足两个字母或汉字，没有可学的", _too_short),
    "few_chinese": Rule(
        "汉字太少",
        "汉字不到三成；只用于纯中文语料，故不默认",
        _few_chinese,
        default=False,
    ),
    "simplified": Rule(
        "繁转简",
        "OpenCC t2s；与基座模型的字形一致时才值得",
        lambda text: _converter("t2s")(text),
        default=False,
        once=True,
    ),
    "traditional": Rule(
        "简转繁",
        "OpenCC s2t；一简对多繁，会有错",
        lambda text: _converter("s2t")(text),
        default=False,
        once=True,
    ),
}
"""全部规则，按作用次序。"""
