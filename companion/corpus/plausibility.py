"""一段文本有多像中文：编码认错时，字都合法，却不成话。

同一串字节按不同编码解出来，只有对的那种满是常用字。数一数常用字的比例，
十来个字就足以分清 GB18030、Big5 与 UTF-16。
"""

import re
from functools import cache

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
    "\u3105-\u312f\u3400-\u4dbf\ua000-\ud7ff\ue000-\uf8ff\uff61-\uffdc]"
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
