"""对照图：做错的几条线与做对的几条线，画在同一格里。

做错的是虚线与叉，做对的是实线与圆点，不只靠颜色分辨；不是有限数的点画成顶上的“×”。
"""

# matplotlib 自带的类型注解不全（**kwargs 没有类型），以下两项因此关掉
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matplotlib.ticker import MaxNLocator

from companion.errors import EvaluationError
from companion.plots import style
from companion.plots.font import prose
from companion.plots.style import WIDTH, Card, drawing, finish, plain, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WRONG: dict[str, Any] = {"ls": (0, (4, 2)), "marker": "x", "ms": 5}
_RIGHT: dict[str, Any] = {"ls": "-", "marker": "o", "ms": 4}
_COLORS = {
    True: (style.BLUE, style.GREEN, style.SKY),
    False: (style.VERMILION, style.PURPLE, style.ORANGE),
}
"""做对的用冷色，做错的用暖色。"""
_LEAST_SPAN = 0.02
"""纵轴至少跨最大值的这一比例。"""


@dataclass(frozen=True, kw_only=True)
class Line:
    """一条线。"""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    """与 `x` 等长；可以有非数与无穷。"""
    right: bool
    """是做对的那一种。"""


def plot_contrast(
    lines: Sequence[Line],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    width: float = WIDTH,
) -> "Figure":
    """画几条线，做错的与做对的分得开。

    Args:
        lines: 至少一条，每条至少一个有限的点。
        title: 图题。
        xlabel: 横轴是什么；只取整数刻度。
        ylabel: 纵轴是什么，连单位。
        width: 图宽，英寸；给手机看的图用 4。

    Raises:
        EvaluationError: 没有线，两轴不等长，或一个有限的点也没有。
    """
    _check(lines)
    with drawing():
        size = style.MEDIUM + 1
        rows = math.ceil(len(lines) * (3.4 / width))  # 图例大约占几行
        card = Card(width, 3.4 + 0.22 * rows, constrained=True)
        plain(card.suptitle(wrap(title, width - 0.3, size), size=size))
        axes: Axes = card.add_subplot()
        top = max(v for line in lines for v in line.y if math.isfinite(v))
        used = {True: 0, False: 0}
        for number, line in enumerate(lines):
            palette = _COLORS[line.right]
            color = palette[used[line.right] % len(palette)]
            used[line.right] += 1
            _draw(axes, line, color, top, number)
        _widen(axes, top)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=style.PALE, lw=0.7)
        axes.set_axisbelow(True)
        legend = axes.legend(  # 放在框外，不盖住线
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=1 if width < 6 else 2,
            frameon=False,
            handlelength=2.4,
            borderpad=0.2,
        )
        for text in legend.get_texts():
            plain(text)
        return finish(card, _say(title, lines, ylabel))


def _check(lines: Sequence[Line]) -> None:
    uneven = [line.name for line in lines if len(line.x) != len(line.y)]
    empty = [line.name for line in lines if not any(map(math.isfinite, line.y))]
    if not lines or uneven or empty:
        raise EvaluationError(
            found=f"{len(lines)} 条线；两轴不等长的：{uneven}；没有有限点的：{empty}",
            expected="至少一条线，两轴等长，各有至少一个有限的点",
            remedy="去掉空的线；全是非数的，另用一句话说明",
        )


def _draw(axes: "Axes", line: Line, color: str, top: float, number: int) -> None:
    shape = _RIGHT if line.right else _WRONG
    finite = [v if math.isfinite(v) else math.nan for v in line.y]
    axes.plot(
        line.x, finite, color=color, lw=1.8, label=prose(line.name),
        gid=f"line-{number}", **shape,
    )  # fmt: skip
    broken = [x for x, v in zip(line.x, line.y, strict=True) if not math.isfinite(v)]
    if broken:
        axes.plot(
            broken, [top] * len(broken), ls="none", marker="X", ms=9, color=color,
            label=f"{prose(line.name)}：非数或无穷", gid=f"broken-{number}",
        )  # fmt: skip


def _widen(axes: "Axes", top: float) -> None:
    """各线几乎相同时放宽纵轴，舍入的差别不画成大起大落。"""
    low, high = axes.get_ylim()
    lacking = _LEAST_SPAN * abs(top) - (high - low)
    if lacking > 0:
        axes.set_ylim(low - lacking / 2, high + lacking / 2)


def _say(title: str, lines: Sequence[Line], ylabel: str) -> str:
    parts: list[str] = []
    for line in lines:
        finite = [v for v in line.y if math.isfinite(v)]
        text = f"{line.name}从 {finite[0]:.2f} 到 {finite[-1]:.2f}"
        if len(finite) < len(line.y):
            text += f"，有 {len(line.y) - len(finite)} 处不是有限数"
        parts.append(text)
    return f"{title}。纵轴是{ylabel}：{'；'.join(parts)}。"
