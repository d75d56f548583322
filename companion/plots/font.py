"""中文字体：从 zhplot 取思源黑体（Noto Sans SC，OFL），缺字由 DejaVu Sans 补。

只借它的字体文件，不导入 zhplot：那个包一导入就改掉全局的 `rcParams`，何时改应由你决定。

两种字体按字形逐个回退。思源黑体在前，“”…— 才是全角的中文标点；DejaVu Sans 在后，补上
字节级分词器的 Ġ、emoji 等。两者都没有的字（多在扩展 B 区以后，如“𠮷”）不会画成空框：
`visible` 把它换成“〓”，整个词元只有这一个字时写出码位。
"""

# matplotlib 自带的类型注解不全（**kwargs 没有类型），以下两项因此关掉
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import unicodedata
from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from companion.errors import ConfigError

FONT_FAMILY = ["Noto Sans SC", "DejaVu Sans"]
"""按字形回退的字体，先中文，后符号。"""

PLACEHOLDER = "〓"
"""铅字排印里“缺字”的记号（U+3013）。"""

SETTINGS: Any = {  # 键是 matplotlib 的设置名
    "font.family": FONT_FAMILY,
    "axes.unicode_minus": True,  # 两种字体都有 U+2212，坐标轴上用真正的负号
    "mathtext.fontset": "dejavusans",
    "svg.fonttype": "path",  # 字形写成轮廓：读者的机器上没有字体也不缺字
}

_SHOWN = {" ": "␣", "\n": "↵", "\r": "↵", "\t": "⇥", "\u3000": "□", "\u00a0": "␣"}
# 控制符、格式符、代用码位、私用区、未分配：有没有字形都看不见或画不出
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}


def font_path() -> Path:
    """思源黑体文件的路径。

    Raises:
        ConfigError: 没有安装 zhplot，或它不再带这个文件。
    """
    spec = find_spec("zhplot")  # 顶层包：只定位，不执行
    places = spec.submodule_search_locations if spec else None
    for place in places or []:
        path = Path(place) / "fonts" / "NotoSansSC-Regular.ttf"
        if path.is_file():
            return path
    raise ConfigError(
        found="找不到 zhplot 里的字体 NotoSansSC-Regular.ttf",
        expected="安装了带字体的 zhplot",
        remedy="运行 pip install zhplot，再画一次",
    )


def _register() -> None:
    """让 matplotlib 认得这份字体；只登记一次，不动 `rcParams`。"""
    from matplotlib.font_manager import fontManager

    path = str(font_path())
    if all(entry.fname != path for entry in fontManager.ttflist):
        fontManager.addfont(path)


def use_chinese_font() -> None:
    """此后这个进程里的图都用中文字体（改全局的 `rcParams`，后端不变）。"""
    import matplotlib

    _register()
    matplotlib.rcParams.update(SETTINGS)


@contextmanager
def chinese_font() -> Generator[None, None, None]:
    """在 `with` 块内用中文字体，离开时 `rcParams` 恢复原样。"""
    import matplotlib

    _register()
    with matplotlib.rc_context(SETTINGS):
        yield


@lru_cache(maxsize=1)
def _code_points() -> frozenset[int]:
    """两种字体合起来有字形的码位。"""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    _register()
    paths = [findfont(FontProperties(family=[name])) for name in FONT_FAMILY]
    return frozenset(point for path in paths for point in get_font(path).get_charmap())


def missing_glyphs(text: str) -> str:
    """文本里两种字体都没有字形的字，各出现一次，按先后排列；换行不算。

    Example:
        >>> missing_glyphs("大𠮷，−1")
        '𠮷'
    """
    known = _code_points()
    return "".join(c for c in dict.fromkeys(text) if c != "\n" and ord(c) not in known)


def _is_drawable(character: str) -> bool:
    return (
        unicodedata.category(character) not in _INVISIBLE
        and not missing_glyphs(character)
    )  # fmt: skip


def visible(token: str) -> str:
    r"""词元画在格子里的样子：空白变成记号，没有字形的字变成“〓”或码位。

    Args:
        token: 任意字符串，可以含换行、控制符、孤立的代用码位。

    Returns:
        不空、每个字都有字形的字符串；只有一个字而它没有字形时是两行的码位。

    Example:
        >>> visible("\n"), visible("𠮷"), visible("大𠮷"), visible("")
        ('↵', 'U+\n20BB7', '大〓', '∅')
    """
    if not token:
        return "∅"
    shown = [_SHOWN.get(c, c) for c in token]
    drawn = [c if _is_drawable(c) else PLACEHOLDER for c in shown]
    if drawn == [PLACEHOLDER] and token != PLACEHOLDER:
        return f"U+\n{ord(token):04X}"
    return "".join(drawn)


def prose(text: str) -> str:
    """标题一类的文字：空格、换行照旧，没有字形的字变成“〓”。"""
    keep = {" ", "\n", "\u3000"}
    return "".join(c if c in keep or _is_drawable(c) else PLACEHOLDER for c in text)


@lru_cache(maxsize=4096)
def text_width(text: str, size: float) -> float:
    """文字排成一行（多行取最宽）的宽度，单位英寸。

    Args:
        text: 已经过 `visible` 或 `prose` 的文字。
        size: 字号，单位点。
    """
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    _register()
    font = FontProperties(family=FONT_FAMILY, size=size)
    measure = TextToPath().get_text_width_height_descent
    lines = text.split("\n")
    return max(measure(line, font, ismath=False)[0] for line in lines) / 72
