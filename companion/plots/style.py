"""图的共同样式：宽度、字号、颜色，以及能自己说出替代文字的“卡片”。

每张图是一张白底、留边的卡片，放在浅色页和深色页上都读得清。颜色取自 Okabe 与 Ito 的
八色（Color Universal Design, 2008），色觉不同的人也分得开；颜色之外另有边框、斜线或
文字，黑白打印不丢信息。
"""

# matplotlib 自带的类型注解不全（**kwargs 没有类型），以下两项因此关掉
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import io
import os
import re
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from companion.errors import ConfigError
from companion.plots.font import SETTINGS, chinese_font, prose, text_width

if TYPE_CHECKING:
    from matplotlib.text import Text

WIDTH = 7.6
"""卡片的宽度，英寸：书中 88 个等宽字符的正文宽。"""
SMALL, MEDIUM, LARGE = 9.0, 10.5, 13.0
"""字号，点；没有比 9 点更小的字。"""
DPI = 200

BLUE, SKY, ORANGE, VERMILION = "#0072B2", "#56B4E9", "#E69F00", "#D55E00"
GREEN, PURPLE, INK, GREY, PALE = "#009E73", "#CC79A7", "#1A1A1A", "#6B6B6B", "#E4E4E4"
LIGHT_BLUE, LIGHT_ORANGE = "#D6ECF9", "#FCE7B8"
LIGHT_PURPLE, LIGHT_GREEN = "#F5DFEA", "#CDEBE1"

_UNITS = re.compile(
    r"\n|[（《“「『]*(?:[!-~]+|[^\n])[，。、；：？！）》”」』…]*"
)  # 不可断开的单位：一个字或一个西文词，连同紧贴的标点

RC: Any = {
    **SETTINGS,
    "font.size": SMALL,
    "axes.titlesize": MEDIUM,
    "axes.labelsize": SMALL,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.facecolor": "white",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "hatch.linewidth": 0.6,
    "svg.hashsalt": "companion",  # 同样的图得到同样的文件
}


class Card(Figure):
    """一张图和它的替代文字；不登记到 pyplot，不占内存，不要求显示器。

    笔记本里直接写出变量名就能显示：PNG 连同尺寸与替代文字一起交给前端。
    """

    def __init__(self, width: float, height: float, *, constrained: bool) -> None:
        """白底的空卡片，宽高以英寸计；`constrained` 时由 matplotlib 排版。"""
        super().__init__(
            figsize=(width, height),
            dpi=DPI,
            facecolor="white",
            layout="constrained" if constrained else None,
        )
        engine = self.get_layout_engine()
        if isinstance(engine, ConstrainedLayoutEngine):
            engine.set(w_pad=0.12, h_pad=0.1)  # 卡片的留白，英寸
        FigureCanvasAgg(self)
        self.alt = ""

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, bytes], dict[str, dict[str, object]]]:
        width, height = self.get_size_inches()
        shown = {"width": round(96 * width), "height": round(96 * height)}
        return (
            {"image/png": _render(self, "png", self.alt)},
            {"image/png": {**shown, "alt": self.alt}},
        )


def finish(card: Card, alt: str) -> Card:
    """在中文字体生效时把刻度、文字都生成出来，此后在哪里显示都一样。"""
    card.alt = alt
    card.draw_without_rendering()
    return card


def plain(text: "Text") -> "Text":
    """词元里的 $ 是字，不是公式的起止。"""
    text.set_parse_math(False)
    return text


def wrap(text: str, width: float, size: float) -> str:
    """按实际字宽折行：汉字之间都能断，西文的词不断，标点不落在行首。

    Args:
        text: 要折的文字，没有字形的字换成“〓”。
        width: 一行的宽度，英寸。
        size: 字号，点。
    """
    lines = [""]
    for unit in _UNITS.findall(prose(text)):
        if unit == "\n":
            lines.append("")
        elif lines[-1] and text_width(lines[-1] + unit, size) > width:
            lines.append(unit.lstrip())
        else:
            lines[-1] += unit
    return "\n".join(lines)


@contextmanager
def drawing() -> Generator[None, None, None]:
    """画图时的设定：中文字体、字号、颜色；离开后恢复原样。"""
    with chinese_font(), rc_context(RC):
        yield


def save_figure(fig: Figure, path: str | Path, alt: str = "") -> Path:
    """存成 PNG（200 dpi）或 SVG（字形为轮廓），替代文字写进文件的元数据。

    先写临时文件再改名，因此失败时原来的图还在。

    Args:
        fig: 任意 matplotlib 图。
        path: 以 .png 或 .svg 结尾的路径；文件夹不存在时创建。
        alt: 替代文字；省略时用图自带的。

    Raises:
        ConfigError: 后缀不认得，没有替代文字，或写不进去。
    """
    path = Path(path)
    alt = alt or str(getattr(fig, "alt", ""))
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise ConfigError(
            found=f"图的文件名是 {path.name}",
            expected="后缀是 .png 或 .svg",
            remedy=f"改成 {path.with_suffix('.png').name}",
        )
    if not alt:
        raise ConfigError(
            found=f"{path.name} 没有替代文字",
            expected="每张图都有一句话，读屏软件读得出",
            remedy='写 save_figure(fig, path, alt="……")',
        )
    data = _render(fig, kind, alt)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(data)
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):  # 文件夹本身就不对时，草稿也无从删起
            draft.unlink()
        raise ConfigError(
            found=f"写不进 {path}（{error.strerror}）",
            expected="文件夹可写，磁盘有空间",
            remedy="换一个文件夹，或腾出空间后再存",
        ) from error
    return path


def _render(fig: Figure, kind: str, alt: str) -> bytes:
    metadata: dict[str, str | None] = {"Title": alt, "Description": alt}
    # 版本与日期不进文件：同一张图每次都得到同样的字节
    metadata |= {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    buffer = io.BytesIO()
    with drawing():
        fig.savefig(buffer, format=kind, dpi=DPI, metadata=metadata, facecolor="white")
    if kind == "png":
        return buffer.getvalue()
    return buffer.getvalue().replace(b"<svg ", b'<svg role="img" ', 1)
