"""文本编码：先看开头认出编码，再逐块解码，内存与文件大小无关。

中文旧文本多半不是 UTF-8。认错编码不会报错，只会得到一篇通顺不了的“天书”，
模型照样学，损失照样降。所以这里宁可拒绝，也不猜：

1. 有 BOM，听 BOM 的；
2. 能按 UTF-8 严格解码，就是 UTF-8（GB18030 与 Big5 的中文几乎不可能碰巧合法）；
3. 否则用 GB18030、Big5、UTF-16 各解一遍开头，数常用字的比例，取最像中文的一种；
4. 都不像，就用 charset-normalizer 说出最可能的编码，请用户先转成 UTF-8。

解码之后再查乱码：`锟斤拷`、`Ã©`、`�` 一类字样说明文本在别处已经转坏，
字节已丢，本包无从恢复。
"""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from companion.corpus.mojibake import Garble, find_garble
from companion.corpus.plausibility import chinese_score
from companion.errors import CorpusError

PREFIX_BYTES = 1 << 16
"""认编码时读的字节数。"""
CHUNK_BYTES = 1 << 20
"""每次解码的字节数。"""
MAX_LINE_CHARS = 64_000_000
"""一行最多的字数；再长就装不进内存，多半也不是文本。"""

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
    if _mostly_utf8(prefix):
        return Encoding("utf-8")
    raise CorpusError(
        found=f"认不出 {origin} 的编码，最像 {_guess(prefix)}",
        expected="UTF-8、GB18030、Big5 或 UTF-16 的文本",
        remedy="先转成 UTF-8，例如 `iconv -f 原编码 -t UTF-8 原文件 > 新文件`",
    )


def decode_lines(
    stream: BinaryIO, origin: str, *, refuse_garble: bool = True
) -> Iterator[str]:
    r"""逐块解码，逐行给出，换行符不在其中。

    只有 `\n`、`\r\n`、`\r` 算换行：`str.splitlines` 还会在 U+2028、
    换页符等处断行，会把一条 JSON 切成两截。

    Args:
        stream: 以二进制打开的（解压后的）字节流。
        origin: 出错时用来称呼这份文件。
        refuse_garble: 遇到乱码字样时拒绝；为假则原样放行，留给清洗。

    Yields:
        一行文本。

    Raises:
        CorpusError: 二进制、编码不明、解码中断、乱码，或一行长得装不下。
    """
    prefix = stream.read(PREFIX_BYTES)
    whole = len(prefix) < PREFIX_BYTES
    encoding = detect_encoding(prefix, origin, whole=whole)
    decoder = codecs.getincrementaldecoder(encoding.name)("strict")
    block = _Block(origin, encoding, refuse_garble)
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

    def __init__(self, origin: str, encoding: Encoding, refuse_garble: bool) -> None:
        self.origin = origin
        self.encoding = encoding
        self.refuse_garble = refuse_garble
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

    def _lines(self, offset: int, text: str, end: int) -> Iterator[str]:
        if end:
            self.parts.append((offset, text[:end], 0))
        whole = "".join(part[start:] for _, part, start in self.parts)
        garble = find_garble(whole) if self.refuse_garble else None
        if garble is not None:
            raise self._garbled(garble)
        self.parts, self.num_chars = [], 0
        lines = whole.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        if lines[-1] == "":
            lines.pop()  # 换行符是一行的结尾，不是下一行的开头
        self.num_lines += len(lines)
        yield from lines

    def _garbled(self, garble: Garble) -> CorpusError:
        left = garble.start
        position = 0
        for offset, part, start in self.parts:
            if left < len(part) - start:
                before = part[: start + left].encode(self.encoding.name)
                position = offset + len(before)
                break
            left -= len(part) - start
        return CorpusError(
            found=f"{self.origin} 第 {position} 字节处有乱码“{garble.text}”："
            f"{garble.cause}（本文件按 {self.encoding.label} 解码）",
            expected="没有转坏的文本",
            remedy=garble.remedy,
        )


def _decode(data: bytes, name: str, final: bool) -> str | None:
    try:
        return codecs.getincrementaldecoder(name)("strict").decode(data, final)
    except UnicodeDecodeError:
        return None


def _best_candidate(prefix: bytes, whole: bool) -> tuple[str | None, float]:
    best: tuple[str | None, float] = (None, float("-inf"))
    for name in _CANDIDATES:
        text = _decode(prefix, name, whole)
        score = chinese_score(text) if text else float("-inf")
        if score > best[1] + 1e-9:  # 并列时取靠前的，GB18030 最常见
            best = (name, score)
    return best


def _mostly_utf8(prefix: bytes) -> bool:
    kept = prefix.decode("utf-8", "ignore")
    return len(kept.encode("utf-8")) >= 0.5 * len(prefix) and not kept.isascii()


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
    name, score = _best_candidate(bad, False)
    likely = Encoding(name).label if name and score >= 0.5 else _guess(bad)
    shown = bad[:4].hex(" ")
    return CorpusError(
        found=f"{origin} 第 {base + error.start} 字节（{shown}）不是合法的 "
        f"{encoding.label}，从这里起像是 {likely}",
        expected="全文只用一种编码",
        remedy="若由几份文件拼成，把各份分别转成 UTF-8 再拼；若下载中断，重新下载",
    )


def open_error(path: Path, error: OSError) -> CorpusError:
    """把打不开文件的系统错误说成人话。"""
    return CorpusError(
        found=f"读不了 {path}：{error.strerror or error}",
        expected="当前用户可读的文件",
        remedy="检查路径、权限与磁盘",
    )
