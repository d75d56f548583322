"""文档：语料的单位，一篇、一卷、一则，而不是一行；与篇目表，即哪些行是一篇。

连续的行合成一个文档，上下文才长，填充才少，打包才诚实。文本文件里的换行只是排版，
读入时就把行接好。`.jsonl`、`.parquet` 一条之内的换行是写的人要的（诗、代码），
留在正文里；分词时，写得出换行的分词器（GPT-2、Llama、Qwen 的字节级）照样学它，写不出的
（BERT、T5）再接成一行。

篇目表是放在语料旁边的 `chapters.tsv`，说出哪些连续的行是一篇。表头至少有
`split`、`first_line`（从 1 起）、`n_lines` 三列，其余各列（卷号、书名……）多少随意。
一份语料只看 `split` 与文件名开头相同的行：`train.classical.txt.gz` 看 `train` 的行。

`sources.tsv` 是它的近亲：每一行是一个**来源**，来源之内一行一篇，互不相干
（如维基段落），所以不接成一个文档。

网上的小说多半段与段之间空一行，照空行分就一段一篇；也有一个空行都没有的，整部成了一篇。
两种都靠标题分：自“第三回 ……”一类的标题起，到下一个标题之前，是一篇。
"""

import gzip
import hashlib
import io
import os
import re
import unicodedata
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, cast

from rich.cells import cell_len

from companion.corpus.encoding import Errors, decode_lines
from companion.errors import CorpusError

_WIDE = re.compile(
    "[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\ufe10-\ufe1f\ufe30-\ufe6f\uff00-\uffef"
    "\u2014\u2018-\u201f\u2026\u00b7\U00020000-\U0003ffff]"
)
"""不用空格分词的文字与全角标点：汉字、假名、谚文（接行时一并看待）、全角形式。"""


@dataclass(frozen=True, slots=True)
class Document:
    r"""一个文档，或一个句对。

    Args:
        text: 正文；句对的源侧（文言）。换行只写作 `\n`。
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


def tidy_lines(text: str) -> str:
    r"""留着换行的正文：换行统一写作 \n，去掉行末的空白、行首的全角空格与首尾的空行。

    >>> tidy_lines("def f():\r\n    return 1  \r\n")
    'def f():\n    return 1'
    """
    lines = re.split("\r\n|[\r\n]", text)
    return "\n".join(line.rstrip().lstrip("\u3000") for line in lines).strip("\n")


def content_letters(text: str) -> str:
    """只留汉字、字母与数字，统一全半角与大小写；只用来比较，不改原文。

    >>> content_letters("（臣光曰）：ＡＢ c！")
    '臣光曰abc'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(filter(str.isalnum, folded))


def content_key(doc: Document) -> bytes:
    """文档内容的 16 字节指纹：NFC 之后逐字相同的两篇，指纹才相同。

    “气温-5度”与“气温5度”只差一个符号，意思却相反，所以标点与空白也算在内。
    """
    return _digest(doc, lambda text: unicodedata.normalize("NFC", text))


def letters_key(doc: Document) -> bytes:
    """只看汉字、字母与数字的 16 字节指纹，切分用它：只差标点的两篇总在同一边。"""
    return _digest(doc, lambda text: content_letters(text) or text.strip())


def _digest(doc: Document, seen_as: Callable[[str], str]) -> bytes:
    text = seen_as(doc.text)
    if doc.target is not None:
        text += "\0" + seen_as(doc.target)
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()


FORMATS = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".tsv", ".tsv.gz", ".parquet")


def format_of(path: Path) -> str:
    """文件的格式，如 `.jsonl.gz`。

    Args:
        path: 文件路径，只看名字。

    Returns:
        `FORMATS` 中的一个。

    Raises:
        CorpusError: 后缀不认识。
    """
    name = path.name.lower()
    for suffix in sorted(FORMATS, key=len, reverse=True):
        if name.endswith(suffix):
            return suffix
    raise CorpusError(
        found=f"{path} 的后缀不认识",
        expected="、".join(FORMATS) + "，或装有这些文件的文件夹",
        remedy="改成相符的后缀；.json 数组先转成一行一条的 .jsonl",
    )


def file_stem(path: Path) -> str:
    """去掉格式后缀的文件名：`train.classical.txt.gz` → `train.classical`。"""
    return path.name[: -len(format_of(path))]


def readable(path: str | Path) -> str:
    """路径写成合法的 Unicode，供消息与出处用。

    Windows 上打的压缩包，解开后文件名常是 GB18030 的字节；照 UTF-8 读它，得到落单的
    代理码位，打印、写 JSON 都会出错。

    >>> import os
    >>> readable(os.fsdecode("章回.txt".encode("gb18030")))
    '章回.txt'
    """
    raw = os.fsencode(path)
    for name in ("utf-8", "gb18030"):
        try:
            return raw.decode(name)
        except UnicodeDecodeError:
            continue
    return raw.decode("utf-8", "replace")


def read_lines(
    path: str | Path,
    *,
    refuse_garble: bool = True,
    errors: Errors = "strict",
    longest: int | None = None,
) -> Iterator[str]:
    """逐行读出文本文件，认出编码，需要时解压；换行符不在其中。

    Args:
        path: 文本文件，后缀为 `.gz` 时先解压。
        refuse_garble: 遇到乱码就拒绝。
        errors: 遇到解不开的字节时拒绝，或换成 �。
        longest: 一行超过这么多字，就在句末断成几行；None 是不断。

    Yields:
        一行。

    Raises:
        CorpusError: 见 `companion.corpus.encoding.decode_lines`。
    """
    target = Path(path)
    require_file(target)
    with _opened(target) as stream:
        yield from decode_lines(
            stream,
            readable(target),
            refuse_garble=refuse_garble,
            errors=errors,
            longest=longest,
        )


def open_error(path: Path, error: OSError) -> CorpusError:
    """把打不开文件的系统错误说成人话。"""
    return CorpusError(
        found=f"读不了 {readable(path)}：{error.strerror or error}",
        expected="当前用户可读的文件",
        remedy="检查路径、权限与磁盘",
    )


def require_file(path: Path) -> None:
    """要有这份普通文件；没有就猜是不是名字写错了。"""
    if path.is_dir():
        raise CorpusError(
            found=f"{readable(path)} 是文件夹",
            expected="一份文件",
            remedy="指明文件夹里的一份文件",
        )
    if not path.exists():
        siblings = path.parent.iterdir() if path.parent.is_dir() else ()
        near = get_close_matches(path.name, [item.name for item in siblings], n=1)
        hint = f"是不是 {readable(path.parent / near[0])}？" if near else ""
        raise CorpusError(
            found=f"没有 {readable(path)}",
            expected="存在的文件、文件夹，或 `companion corpus list` 列出的名字",
            remedy=(hint + "检查路径").replace("？检查", "？否则检查"),
        )
    if not path.is_file():
        raise CorpusError(
            found=f"{readable(path)} 不是普通文件",
            expected="磁盘上的文件",
            remedy="先把管道或设备的内容存成文件",
        )


@contextmanager
def _opened(path: Path) -> Generator[BinaryIO]:
    """打开（需要时解压）文件，把系统与压缩的错误换成 `CorpusError`。"""
    try:
        if path.stat().st_size == 0:
            raise no_text_error(path)
        if not path.name.lower().endswith(".gz"):
            with path.open("rb") as plain:
                yield plain
            return
        with path.open("rb") as packed:
            if packed.read(2) != b"\x1f\x8b":
                raise CorpusError(
                    found=f"{readable(path)} 的后缀是 .gz，内容却不是 gzip",
                    expected="gzip 压缩的文本",
                    remedy="若本是纯文本，去掉 .gz 后缀；否则重新取得这份文件",
                )
        with gzip.open(path, "rb") as unpacked:
            yield cast(BinaryIO, io.BufferedReader(unpacked))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise CorpusError(
            found=f"{readable(path)} 解压到一半坏了：{error}",
            expected="完整的 gzip 文件",
            remedy="多半是下载中断，重新取得这份文件；`gzip -t` 可以验证",
        ) from None
    except OSError as error:
        raise open_error(path, error) from None


def no_text_error(path: Path) -> CorpusError:
    """一份文件里没有正文的错误。"""
    return CorpusError(
        found=f"{readable(path)} 里没有正文，是空的或只有空白",
        expected="至少一个文档",
        remedy="检查这份文件是否写完；文件夹里多余的空文件请删去",
    )


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """排成表格：首列左对齐，其余右对齐；整数每三位加逗号。

    Args:
        header: 列名。
        rows: 各行，与列名一样长。

    Returns:
        多行文本，末尾没有换行符。
    """
    cells = [list(header)] + [
        [f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row]
        for row in rows
    ]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    lines: list[str] = []
    for row in cells:
        padded = [
            cell + " " * (width - cell_len(cell))
            if index == 0
            else " " * (width - cell_len(cell)) + cell
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(lines)


# ── 篇目 ────────────────────────────────────────────────────────────────

CHAPTERS = "chapters.tsv"
SOURCES = "sources.tsv"
LOCK = "corpus.lock.json"


@dataclass(frozen=True)
class Chapter:
    """篇目表的一行。

    Args:
        title: 篇名（`first_line` 之前的最后一列）。
        first_line: 起始行，从 1 起。
        num_lines: 行数。
        one_per_line: 是否一行一个文档（来自 `sources.tsv`）。
    """

    title: str
    first_line: int
    num_lines: int
    one_per_line: bool = False


def find_chapters(path: Path) -> list[Chapter]:
    """找出一份语料的篇目。

    Args:
        path: 语料文件。

    Returns:
        按起始行排好的篇目；旁边没有篇目表，或表里没有这份文件的切分，则为空。

    Raises:
        CorpusError: 篇目表缺列、行号不是正整数，或两篇重叠。
    """
    for name in (CHAPTERS, SOURCES):
        table = path.parent / name
        if table.is_file():
            chapters = _read_table(table, path.name, one_per_line=name == SOURCES)
            if chapters:
                return chapters
    return []


def _read_table(table: Path, file_name: str, *, one_per_line: bool) -> list[Chapter]:
    try:
        lines = table.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(
            found=f"读不了篇目表 {table}：{error}",
            expected="UTF-8 的制表符分隔表",
            remedy="修好它；不用篇目就把它移走",
        ) from None
    header = lines[0].split("\t") if lines else []
    missing = [
        name for name in ("split", "first_line", "n_lines") if name not in header
    ]
    if missing:
        raise CorpusError(
            found=f"篇目表 {table} 的表头是 {header}，缺 {'、'.join(missing)}",
            expected="split、first_line、n_lines 三列齐全，以制表符分隔",
            remedy="补上缺的列；不用篇目就把它移走",
        )
    title_column = max(header.index("first_line") - 1, 0)
    chapters: list[Chapter] = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        cells = line.split("\t")
        if len(cells) != len(header):
            raise CorpusError(
                found=f"篇目表 {table} 第 {number} 行有 {len(cells)} 列",
                expected=f"与表头一样 {len(header)} 列",
                remedy="检查这一行的制表符",
            )
        row = dict(zip(header, cells, strict=True))
        if _belongs(file_name, row["split"]):
            first = _positive(row, "first_line", table, number)
            count = _positive(row, "n_lines", table, number)
            chapters.append(Chapter(cells[title_column], first, count, one_per_line))
    chapters.sort(key=lambda chapter: chapter.first_line)
    for left, right in pairwise(chapters):
        if left.first_line + left.num_lines > right.first_line:
            raise CorpusError(
                found=f"篇目表 {table} 中“{left.title}”与“{right.title}”的行重叠",
                expected="各篇的行互不重叠",
                remedy="改正 first_line 与 n_lines",
            )
    return chapters


def _belongs(file_name: str, split: str) -> bool:
    return (
        bool(split)
        and file_name.startswith(split)
        and (len(file_name) == len(split) or not file_name[len(split)].isalnum())
    )


def _positive(row: dict[str, str], column: str, table: Path, number: int) -> int:
    value = row[column].strip()
    if not (value.isascii() and value.isdigit() and int(value) > 0):
        raise CorpusError(
            found=f"篇目表 {table} 第 {number} 行的 {column} 是“{value}”",
            expected="正整数",
            remedy="改正这一格",
        )
    return int(value)


def group_by_chapter(
    lines: Iterable[str], chapters: list[Chapter], origin: str
) -> Iterator[tuple[str, str]]:
    """按篇目把行并成文档。

    不在任何一篇里的行不丢：照没有篇目表时的办法，以空行分成没有篇名的文档。

    Args:
        lines: 语料的各行。
        chapters: 排好的篇目。
        origin: 出错时用来称呼这份语料。

    Yields:
        篇名（没有则为空串）与正文。

    Raises:
        CorpusError: 篇目表说的行数比文件还多，或管不到一半的行：多半是别的文本的。
    """
    remaining = iter(chapters)
    chapter = next(remaining, None)
    held: list[str] = []
    number = covered = outside = 0  # 表内与表外不空的行
    for number, line in enumerate(lines, start=1):
        if line.strip():
            within = chapter is not None and number >= chapter.first_line
            covered, outside = covered + within, outside + (not within)
        if chapter is not None and number == chapter.first_line and held:
            yield "", join_lines(held)  # 篇与篇之间无主的行
            held = []
        inside = chapter is not None and number >= chapter.first_line
        if chapter is not None and inside and chapter.one_per_line:
            yield chapter.title, join_lines([line])
        elif inside or line.strip():
            held.append(line)
        elif held:  # 篇外的空行照常分开文档
            yield "", join_lines(held)
            held = []
        if chapter is not None and number == chapter.first_line + chapter.num_lines - 1:
            if held:
                yield chapter.title, join_lines(held)
            held = []
            chapter = next(remaining, None)
    if chapter is not None:
        raise CorpusError(
            found=f"{origin} 只有 {number} 行，而“{chapter.title}”到第 "
            f"{chapter.first_line + chapter.num_lines - 1} 行才完",
            expected="篇目表与语料来自同一份数据",
            remedy="更新篇目表，或重新取得完整的语料",
        )
    if outside > covered:
        raise CorpusError(
            found=f"{origin} 有 {outside:,} 行不在篇目表里，在的只有 {covered:,} 行",
            expected="篇目表与语料来自同一份数据，管到一半以上的行",
            remedy="更新篇目表；是别的文本的就把它移走，照空行分篇",
        )
    if held:
        yield "", join_lines(held)


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
