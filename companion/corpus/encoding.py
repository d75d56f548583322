"""字节 → 文字的行：认出编码，逐块解码，查出乱码；内存与文件大小无关。

中文旧文本多半不是 UTF-8。认错编码不会报错，只会得到一篇通顺不了的“天书”，
模型照样学，损失照样降。所以这里宁可拒绝，也不猜：

1. 有 BOM，听 BOM 的；
2. 能按 UTF-8 严格解码，就是 UTF-8（GB18030 与 Big5 的中文几乎不可能碰巧合法）；
3. 否则用 GB18030、Big5、UTF-16 各解一遍开头，数常用字的比例，取最像中文的一种；
4. 都不像，就用 charset-normalizer 说出最可能的编码，请用户先转成 UTF-8。

坏了几个字节的文件仍认得出编码，然后报出坏在哪个字节。

解码之后再查乱码，即在别处已经转坏的文本，字节已丢，本包无从恢复。四种常见的坏法，每种
都有自己的指纹：

- `�`（U+FFFD）：解码时丢了字节，原文已经没有了。
- `锟斤拷`：上面的 � 又按 UTF-8 写出、按 GBK 读入。
- `Ã©`、`ä¸­æ–‡`：UTF-8 的字节按 Windows-1252 读入；`ÖÐ¹ú` 则是 GBK 的字节。
- `鐨勪腑鍥姐€`：UTF-8 的字节按 GBK 读入。

后两种靠“倒转一遍能得到通顺的文字”来证实，光有指纹字不算：“鐨”“锛”本身是字。
"""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import BinaryIO, Literal

from companion.errors import CorpusError

Errors = Literal["strict", "replace"]
PREFIX_BYTES = 1 << 16
"""认编码时读的字节数。"""
CHUNK_BYTES = 1 << 20
"""每次解码的字节数。"""
MAX_LINE_CHARS = 64_000_000
"""一行最多的字数；再长就装不进内存，多半也不是文本。"""
MOST_BAD = 0.02
"""坏字节不超过这么大一部分，编码仍认得出。"""
_ENDINGS = ("\n", "。！？!?", "…；;", " 　，,")  # 宜切之处，由优到劣

_BOMS = (  # UTF-32 的 BOM 以 UTF-16 的开头，须先看
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CANDIDATES = ("gb18030", "cp950", "big5hkscs", "utf-16-le", "utf-16-be")
"""没有 BOM 又不是 UTF-8 时要试的编码；cp950 是 Windows 的 Big5，收字更全。"""

_MAGIC = (
    (b"PK\x03\x04", "ZIP 压缩包或 Office 文档（.docx、.xlsx、.epub）"),
    (b"%PDF", "PDF"),
    (b"\xd0\xcf\x11\xe0", "旧版 Office 文档（.doc、.xls）"),
    (b"\x1f\x8b", "gzip 压缩包"),
    (b"PAR1", "Parquet 表"),
    (b"\x89PNG", "PNG 图片"),
    (b"\xff\xd8\xff", "JPEG 图片"),
    (b"BZh", "bzip2 压缩包"),
    (b"7z\xbc\xaf", "7z 压缩包"),
    (b"\xfd7zXZ", "xz 压缩包"),
    (b"(\xb5/\xfd", "zstd 压缩包"),
    (b"SQLite format 3", "SQLite 数据库"),
)


@dataclass(frozen=True)
class Garble:
    """一处乱码。

    Args:
        start: 在所查文本中的位置（字）。
        text: 乱码本身，最多 12 字。
        cause: 多半是怎么坏的，含原来的编码。
        remedy: 用户可以做什么。
    """

    start: int
    text: str
    cause: str
    remedy: str


@dataclass(frozen=True)
class Encoding:
    """认出的编码。

    Args:
        name: Python 编码名，如 `gb18030`。
        bom_bytes: 开头 BOM 的字节数，没有则为 0。
    """

    name: str
    bom_bytes: int = 0

    @property
    def label(self) -> str:
        """给人看的名字，如 `带 BOM 的 UTF-8`。"""
        shown = {"cp950": "Big5", "big5hkscs": "Big5-HKSCS"}.get(
            self.name, self.name.upper()
        )
        return f"带 BOM 的 {shown}" if self.bom_bytes else shown


def detect_encoding(prefix: bytes, origin: str, *, whole: bool = False) -> Encoding:
    """由文件开头认出编码。

    Args:
        prefix: 文件（解压后）的前若干字节；末尾可以切断一个字。
        origin: 出错时用来称呼这份文件。
        whole: `prefix` 是否就是全文；是则末尾不许有残字。

    Returns:
        编码与 BOM 长度。

    Raises:
        CorpusError: 是二进制文件，或认不出编码。
    """
    for bom, name in _BOMS:
        if prefix.startswith(bom):
            return Encoding(name, len(bom))
    _refuse_magic(prefix, origin)
    has_nul = b"\x00" in prefix
    if not has_nul and _decode(prefix, "utf-8", whole) is not None:
        return Encoding("utf-8")
    if not has_nul and _mostly_utf8(prefix, MOST_BAD):
        return Encoding("utf-8")
    name, score = _best_candidate(prefix, whole)
    if name is not None and score >= 0.5:
        return Encoding(name)
    if has_nul:
        raise CorpusError(
            found=f"{origin} 是二进制文件，第 {prefix.index(0)} 字节为 NUL",
            expected="纯文本",
            remedy="确认路径；文档先另存为 UTF-8 纯文本",
        )
    # 开头是 UTF-8、中途才坏的文件：交给解码去报出坏在哪个字节
    if _mostly_utf8(prefix, 0.5):
        return Encoding("utf-8")
    raise CorpusError(
        found=f"认不出 {origin} 的编码，最像 {_guess(prefix)}",
        expected="UTF-8、GB18030、Big5 或 UTF-16 的文本",
        remedy="先转成 UTF-8，例如 `iconv -f 原编码 -t UTF-8 原文件 > 新文件`",
    )


def decode_lines(
    stream: BinaryIO,
    origin: str,
    *,
    refuse_garble: bool = True,
    errors: Errors = "strict",
    longest: int | None = None,
) -> Iterator[str]:
    r"""逐块解码，逐行给出，换行符不在其中。

    只有 `\n`、`\r\n`、`\r` 算换行：`str.splitlines` 还会在 U+2028、
    换页符等处断行，会把一条 JSON 切成两截。

    Args:
        stream: 以二进制打开的（解压后的）字节流。
        origin: 出错时用来称呼这份文件。
        refuse_garble: 遇到乱码字样时拒绝；为假则原样放行，留给清洗。
        errors: 遇到解不开的字节时拒绝（`strict`），或换成 �（`replace`）。
        longest: 一行超过这么多字，就在句末断成几行；None 是不断。

    Yields:
        一行文本。

    Raises:
        CorpusError: 二进制、编码不明、解码中断、乱码，或一行长得装不下。
    """
    prefix = stream.read(PREFIX_BYTES)
    whole = len(prefix) < PREFIX_BYTES
    encoding = detect_encoding(prefix, origin, whole=whole)
    decoder = codecs.getincrementaldecoder(encoding.name)(errors)
    block = _Block(origin, encoding, refuse_garble, longest)
    offset, data = encoding.bom_bytes, prefix[encoding.bom_bytes :]
    while True:
        following = b"" if whole else stream.read(CHUNK_BYTES)
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(data, final=not following)
        except UnicodeDecodeError as error:
            raise _broken_bytes(error, offset - pending, origin, encoding) from None
        yield from block.push(offset - pending, text)
        if not following:
            break
        offset += len(data)
        data = following
    yield from block.finish()


class _Block:
    """攒到换行才放出的文本，并记得每一截在文件里的字节位置。"""

    def __init__(
        self, origin: str, encoding: Encoding, refuse_garble: bool, longest: int | None
    ) -> None:
        self.origin = origin
        self.encoding = encoding
        self.refuse_garble = refuse_garble
        self.longest = longest
        self.parts: list[tuple[int, str, int]] = []  # 字节起点、整截文本、从第几字起
        self.num_chars = 0
        self.num_lines = 0

    def push(self, offset: int, text: str) -> Iterator[str]:
        """收下一截文本，放出其中完整的行。"""
        # 末尾的 \r 可能是 \r\n 的前一半，留到下一截再断
        end = max(text.rfind("\n"), text.rfind("\r", 0, len(text) - 1)) + 1
        if end:
            yield from self._lines(offset, text, end)
        self._keep(offset, text, end)
        while self.longest is not None and self.num_chars > self.longest:
            yield self._first_part(self.longest)

    def finish(self) -> Iterator[str]:
        """放出最后一行（末尾没有换行符时）。"""
        if self.num_chars:
            yield from self._lines(0, "", 0)

    def _keep(self, offset: int, text: str, start: int) -> None:
        if start < len(text):
            self.parts.append((offset, text, start))
            self.num_chars += len(text) - start
        if self.num_chars > MAX_LINE_CHARS:
            raise CorpusError(
                found=f"{self.origin} 第 {self.num_lines + 1} 行超过 "
                f"{MAX_LINE_CHARS} 字还没有换行",
                expected="分成行的文本",
                remedy="按段落或句末标点断行后再用",
            )

    def _whole(self) -> str:
        """攒下的全部；有乱码就拒绝。"""
        whole = "".join(part[start:] for _, part, start in self.parts)
        garble = find_garble(whole) if self.refuse_garble else None
        if garble is not None:
            raise self._garbled(garble)
        return whole

    def _first_part(self, longest: int) -> str:
        """太长的一行，先放出开头到句末的一截。"""
        whole = self._whole()
        stop = good_stop(whole, longest // 2, longest)
        self.parts = [(self._position(stop), whole[stop:], 0)]
        self.num_chars -= stop
        return whole[:stop]

    def _lines(self, offset: int, text: str, end: int) -> Iterator[str]:
        if end:
            self.parts.append((offset, text[:end], 0))
        whole = self._whole()
        self.parts, self.num_chars = [], 0
        lines = whole.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        if lines[-1] == "":
            lines.pop()  # 换行符是一行的结尾，不是下一行的开头
        self.num_lines += len(lines)
        yield from lines

    def _position(self, left: int) -> int:
        """攒下的第 `left` 个字在文件里的字节位置。"""
        for offset, part, start in self.parts:
            if left <= len(part) - start:
                return offset + len(part[: start + left].encode(self.encoding.name))
            left -= len(part) - start
        return 0

    def _garbled(self, garble: Garble) -> CorpusError:
        place = self._position(garble.start)
        return CorpusError(
            found=f"{self.origin} 第 {place} 字节处有乱码“{garble.text}”："
            f"{garble.cause}（本文件按 {self.encoding.label} 解码）",
            expected="没有转坏的文本",
            remedy=garble.remedy,
        )


def _decode(data: bytes, name: str, final: bool, most_bad: float = 0) -> str | None:
    """解出的文字；坏字超过 `most_bad`（占字数的比例）则为 None。"""
    text = codecs.getincrementaldecoder(name)("replace").decode(data, final)
    return text if text.count("\ufffd") <= most_bad * len(text) else None


def _best_candidate(prefix: bytes, whole: bool) -> tuple[str | None, float]:
    best: tuple[str | None, float] = (None, float("-inf"))
    for name in _CANDIDATES:
        text = _decode(prefix, name, whole, MOST_BAD)
        score = chinese_score(text) if text else float("-inf")
        if score > best[1] + 1e-9:  # 并列时取靠前的，GB18030 最常见
            best = (name, score)
    return best


def _mostly_utf8(prefix: bytes, most_bad: float) -> bool:
    kept = prefix.decode("utf-8", "ignore")
    lost = len(prefix) - len(kept.encode("utf-8"))
    return lost <= most_bad * len(prefix) and not kept.isascii()


def _refuse_magic(prefix: bytes, origin: str) -> None:
    for magic, kind in _MAGIC:
        if prefix.startswith(magic):
            raise CorpusError(
                found=f"{origin} 的内容是 {kind}，不是文本",
                expected="与后缀相符的纯文本",
                remedy="先解压或另存为 UTF-8 纯文本；gzip 文件的后缀须为 .gz",
            )


def _guess(sample: bytes) -> str:
    """charset-normalizer 的看法，只用来写错误消息。"""
    import charset_normalizer  # 只有出错时才用得到

    best = charset_normalizer.from_bytes(sample[:4096]).best()
    return best.encoding.upper().replace("_", "-") if best else "二进制数据"


def good_stop(text: str, low: int, high: int) -> int:
    """[low, high] 之内最靠后的换行之后；没有就句末之后，再没有就硬切。"""
    for marks in _ENDINGS:
        stop = max(text.rfind(mark, low, high) for mark in marks) + 1
        if stop > low:
            return stop
    return high


def _broken_bytes(
    error: UnicodeDecodeError, base: int, origin: str, encoding: Encoding
) -> CorpusError:
    bad = bytes(error.object[error.start : error.start + 4096])
    if len(bad) < 4:  # 只剩半个字，无从判断别的编码
        return CorpusError(
            found=f"{origin} 在第 {base + error.start} 字节断在一个字的中间"
            f"（按 {encoding.label} 解码）",
            expected="完整的文件",
            remedy="多半是下载或复制中断，重新取得这份文件",
        )
    found = (
        f"{origin} 第 {base + error.start} 字节（{bad[:4].hex(' ')}）不是合法的 "
        f"{encoding.label}"
    )
    if _decode(bad, encoding.name, False, MOST_BAD) is not None:
        return CorpusError(
            found=f"{found}，其后又读得通",
            expected="没有坏字节的文件",
            remedy="找没有损坏的原件；或用 `companion corpus clean 文件 --errors "
            "replace` 把坏的几处换成“□”，换了几处会说出来",
        )
    name, score = _best_candidate(bad, False)
    likely = Encoding(name).label if name and score >= 0.5 else _guess(bad)
    return CorpusError(
        found=f"{found}，从这里起像是 {likely}",
        expected="全文只用一种编码",
        remedy="若由几份文件拼成，把各份分别转成 UTF-8 再拼；若下载中断，重新下载",
    )


_SUSPECT = re.compile(
    "[\x00\ufffd]|锟斤拷|[\u0080-\u00ff][^\x00-\x7f]|[锛銆鈥鐨浜鍦涓]"
)
"""一遍正则筛掉绝大多数干净的文本；命中后才细查。"""
_LATIN_RUN = re.compile(
    "[\u0080-\u00ff\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc"
    "\u2013\u2014\u2018-\u201e\u2020-\u2022\u2026\u2030\u2039\u203a\u20ac\u2122]+"
)
_UTF8_LEADS = "ÂÃâãäåæçèéï"
"""单独一个字时可信的首字节；法文的 `É` 加不换行空格也合法，却不是乱码。"""
_HAN_RUN = re.compile("[\u0080-\uffff]+")
_CHINESE = re.compile(
    "(?=(?:.*?[\u4e00-\u9fff]){3})[\u4e00-\u9fff\u3000-\u303f\uff00-\uffef“”‘’—…]+"
)
"""汉字与中文标点，汉字不少于三个。"""

_LOST = "字节已丢，找未损坏的原件；或先用 `companion corpus clean` 去掉坏字再用"


def find_garble(text: str) -> Garble | None:
    """找出文本中的第一处乱码。

    Args:
        text: 已解码的文本，任意长。

    Returns:
        第一处乱码；没有则为 None。
    """
    for match in _SUSPECT.finditer(text):
        garble = _examine(text, match)
        if garble is not None:
            return garble
    return None


def _examine(text: str, match: re.Match[str]) -> Garble | None:
    start, hit = match.start(), match.group()
    if hit == "\x00":
        cause = "文本里有 NUL，文件可能是二进制，或是没有 BOM 的 UTF-16"
        return Garble(start, "\\x00", cause, "确认这是文本；先另存为 UTF-8")
    if hit == "\ufffd":
        cause = "解码时丢了字节，原编码多半是 GB18030 或 Big5"
        return _misread_as_gbk(text, start) or Garble(start, hit, cause, _LOST)
    if hit == "锟斤拷":
        cause = "丢了字节的 UTF-8 文本又按 GBK 读过一遍"
        return Garble(start, hit, cause, _LOST)
    if hit[0] <= "\u00ff":
        return _misread_as_latin(text, start)
    return _misread_as_gbk(text, start)


def _misread_as_latin(text: str, start: int) -> Garble | None:
    run = _LATIN_RUN.match(text, start)
    if run is None or len(run.group()) < 2:
        return None
    shown = run.group()
    raw = _as_single_bytes(shown)
    for name in ("utf-8", "gb18030"):
        restored = _whole(raw, name)
        # Latin-1 的西文偶有两个连写的重音字母，碰巧合法的极少；GBK 则要三个汉字才算数
        if not restored or (name == "gb18030" and not _reads_well(restored)):
            continue
        if len(restored) == 1 and shown[0] not in _UTF8_LEADS:
            continue
        label = {"utf-8": "UTF-8", "gb18030": "GB18030"}[name]
        return Garble(
            start,
            shown[:12],
            f"{label} 的字节按 Windows-1252 读过，原文像是“{restored[:12]}”",
            f"回到原件，按 {label} 读入后另存为 UTF-8",
        )
    return None


def _reads_well(text: str) -> bool:
    """是中文，而且通顺：至少三个不同的汉字，五个里有一个常用字。

    `······`、`ÄÖÜäöü` 的字节也凑得成汉字，可“贩贩贩”“帜茕瞿”不成话。
    """
    frequent = sum(char in _FREQUENT for char in text)
    return (
        _CHINESE.fullmatch(text) is not None
        and len(set(text)) >= 3
        and 5 * frequent >= len(text)
    )


def _as_single_bytes(text: str) -> bytes:
    """倒转 cp1252：它没有定义的五个字节按 Latin-1 处理。"""
    raw = bytearray()
    for char in text:
        try:
            raw += char.encode("cp1252")
        except UnicodeEncodeError:
            raw += char.encode("latin-1")
    return bytes(raw)


def _misread_as_gbk(text: str, start: int) -> Garble | None:
    left = max(0, start - 24)
    window = text[left : start + 24]
    for run in _HAN_RUN.finditer(window):
        if not run.start() <= start - left < run.end():
            continue
        raw = run.group().replace("\ufffd", "").encode("gb18030", "ignore")
        restored = raw.decode("utf-8", "ignore")
        han = sum("\u3000" <= char <= "\u9fff" or char >= "\uff00" for char in restored)
        # 正常中文的 GBK 字节几乎凑不成合法的 UTF-8：要求六成字节、至少三个字
        if han >= 3 and len(restored.encode("utf-8")) >= 0.6 * len(raw):
            return Garble(
                start,
                text[start : start + 12],
                f"UTF-8 的字节按 GBK 读过，原文像是“{restored[:12]}”",
                "回到原件，按 UTF-8 读入",
            )
    return None


def _whole(raw: bytes, name: str) -> str | None:
    try:
        return raw.decode(name)
    except UnicodeDecodeError:
        return None


_FREQUENT = frozenset(
    "的一是不了在人有我他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生"
    "自会那后能对着事其里所去行过家十用发天如然作方成者多日都三小军二无同么经法当起与"
    "好看学进种将还分此心前面又定见只主没公从知使成王曰臣帝太乃至言及相士皆诏故兵死"
    "個來們說國時過後會為對這發見軍與當無經學進種還將從東門將書長問開於"
    "，。、：；？！“”的"
)
"""约 160 个最常用的字与标点：任何中文连续文本里都占三四成，认错编码时不到一成。"""

_ODD = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\u0100-\u024f\u0370-\u058f\u2500-\u257f"
    "\u3105-\u312f\u3400-\u4dbf\ua000-\ud7ff\ue000-\uf8ff\uff61-\uffdc\ufffd]"
)
"""中文连续文本里少见的字符：控制符、注音、私用区、制表符、谚文……"""


def chinese_score(text: str) -> float:
    """文本有多像中文：常用字的占比加分，怪字扣分，1 上下为通顺的中文。"""
    visible = [char for char in text[:4096] if not char.isspace()]
    if not visible:
        return 0.0
    ascii_letters = sum("!" <= char <= "~" for char in visible)
    frequent = sum(char in _FREQUENT for char in visible)
    odd = len(_ODD.findall(text[:4096]))
    common = sum(_is_common(char) for char in visible)
    # 常用字在真中文里占三四成，乘 2 使满分约为 1
    raw = 2 * frequent + common + ascii_letters * 0.7 - 3 * odd
    return raw / (len(visible) * 1.5)


@cache
def _is_common(char: str) -> bool:
    """GB2312 一级字或 Big5 常用字：教科书与报纸的用字。"""
    for name, low, high in (("gb2312", 0xB0, 0xD7), ("big5", 0xA4, 0xC6)):
        try:
            code = char.encode(name)
        except UnicodeEncodeError:
            continue
        if len(code) == 2 and low <= code[0] <= high:
            return True
    return False
