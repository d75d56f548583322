"""乱码：认出已经转坏的文本，并说出它原来多半是什么编码。

四种常见的坏法，每种都有自己的指纹：

- `�`（U+FFFD）：解码时丢了字节，原文已经没有了。
- `锟斤拷`：上面的 � 又按 UTF-8 写出、按 GBK 读入。
- `Ã©`、`ä¸­æ–‡`：UTF-8 的字节按 Latin-1（cp1252）读入；`ÖÐ¹ú` 则是 GBK 的字节。
- `鐨勪腑鍥姐€`：UTF-8 的字节按 GBK 读入。

后两种靠“倒转一遍能得到通顺的文字”来证实，光有指纹字不算：“鐨”“锛”本身是字。
"""

import re
from dataclasses import dataclass


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
        if not restored or (name == "gb18030" and not _CHINESE.fullmatch(restored)):
            continue
        if len(restored) == 1 and shown[0] not in _UTF8_LEADS:
            continue
        label = {"utf-8": "UTF-8", "gb18030": "GB18030"}[name]
        return Garble(
            start,
            shown[:12],
            f"{label} 的字节按 Latin-1 读过，原文像是“{restored[:12]}”",
            f"回到原件，按 {label} 读入后另存为 UTF-8",
        )
    return None


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
