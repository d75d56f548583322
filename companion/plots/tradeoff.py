"""得失图：横轴是领域上学到的，纵轴是通用上忘掉的，单位都是每字比特数。

一个点是一种做法，几个种子的均值，十字是标准差。颜色分组，形状分档；没有别的做法“学得更多
又忘得更少”的点是实心的，由虚线连成前沿（Pareto front）。

点的一行是一个字典：

| 键 | 意思 |
|---|---|
| `series` | 组，如“峰值 1e-3” |
| `level` | 档，如“回放 5%” |
| `learned` | 领域每字比特数降了多少，一个种子一个数 |
| `forgotten` | 通用每字比特数升了多少，一个种子一个数 |
"""

# matplotlib 自带的类型注解不全（**kwargs 没有类型），以下两项因此关掉
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from companion.errors import EvaluationError
from companion.plots import style
from companion.plots.style import WIDTH, Card, drawing, finish, plain, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = Mapping[str, Any]

COLORS = (style.BLUE, style.VERMILION, style.GREEN, style.PURPLE, style.ORANGE)
MARKERS = ("o", "s", "^", "D", "v", "P")


def plot_tradeoff(
    points: Sequence[Point],
    *,
    title: str = "学到的与忘掉的",
    percent: bool = False,
    width: float = WIDTH,
) -> "Figure":
    """画一张得失图；越靠右下越好。

    Args:
        points: 各种做法，见模块说明。
        title: 图题。
        percent: 两轴是百分之几，而不是每字比特数。
        width: 图宽，英寸；给手机看的图用 4。

    Raises:
        EvaluationError: 没有点，某个点没有数，或组、档多得分不开。
    """
    _check(points)
    series = list(dict.fromkeys(str(point["series"]) for point in points))
    levels = list(dict.fromkeys(str(point["level"]) for point in points))
    if len(series) > len(COLORS) or len(levels) > len(MARKERS):
        raise EvaluationError(
            found=f"{len(series)} 组、{len(levels)} 档",
            expected=f"至多 {len(COLORS)} 组、{len(MARKERS)} 档，颜色与形状才分得开",
            remedy="分成几张图来画",
        )
    centres = [(_mean(point["learned"]), _mean(point["forgotten"])) for point in points]
    front = pareto_front(centres)
    with drawing():
        card = Card(width, 0.62 * width + 0.9, constrained=True)
        big = style.MEDIUM + 1
        plain(card.suptitle(wrap(title, width - 0.3, big), size=big))
        axes: Axes = card.subplots()
        line = sorted(centres[index] for index in front)
        axes.plot(
            *zip(*line, strict=True),
            color=style.GREY,
            ls=(0, (4, 3)),
            lw=1.2,
            gid="front",
            zorder=1,
        )
        for index, point in enumerate(points):
            color = COLORS[series.index(str(point["series"]))]
            axes.errorbar(
                *centres[index],
                xerr=_std(point["learned"]),
                yerr=_std(point["forgotten"]),
                fmt=MARKERS[levels.index(str(point["level"]))],
                color=color,
                mfc=color if index in front else "white",
                ms=8,
                mew=1.6,
                elinewidth=1.2,
                capsize=2,
                zorder=2,
            )
        axes.axhline(0, color=style.GREY, lw=0.8)
        axes.axvline(0, color=style.GREY, lw=0.8)
        amount = "百分之几" if percent else "多少"
        axes.set_xlabel(f"学到的：领域每字比特数降了{amount}（越右越好）")
        axes.set_ylabel(f"忘掉的：通用升了{amount}（越低越好）")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=style.PALE, lw=0.7)
        axes.set_axisbelow(True)
        _legend(axes, series, levels, columns=4 if width > 5 else 2)
        said = _say(title, points, centres, front, percent=percent)
        return finish(card, said)


def pareto_front(centres: Sequence[tuple[float, float]]) -> list[int]:
    """没有别的点“学得不少、忘得不多，而且至少一样更好”的那些，下标升序。

    >>> pareto_front([(1.0, 0.5), (0.5, 0.1), (0.4, 0.2)])
    [0, 1]
    """
    return [
        index
        for index, (learned, forgotten) in enumerate(centres)
        if not any(
            other[0] >= learned
            and other[1] <= forgotten
            and other != (learned, forgotten)
            for other in centres
        )
    ]


def _check(points: Sequence[Point]) -> None:
    for number, point in enumerate(points):
        for key in ("learned", "forgotten"):
            values = np.asarray(point[key], dtype=np.float64)
            if not values.size or not np.isfinite(values).all():
                raise EvaluationError(
                    found=f"第 {number} 个点的 {key} 是 {point[key]!r}",
                    expected="至少一个有限的数，一个种子一个",
                    remedy="去掉没有跑完的做法，或补跑它",
                )
    if not points:
        raise EvaluationError(
            found="一个点也没有",
            expected="至少一种做法的结果",
            remedy="先跑实验，再画图",
        )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _std(values: Sequence[float]) -> float:
    """标准差（n − 1）；只有一个种子时没有十字。"""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _legend(
    axes: "Axes", series: list[str], levels: list[str], *, columns: int
) -> None:
    """颜色说组，形状说档；放在框外，不盖住点。"""
    from matplotlib.lines import Line2D

    shown = [
        Line2D([], [], color=color, lw=3, label=name)
        for name, color in zip(series, COLORS, strict=False)
    ] + [
        Line2D([], [], color=style.INK, marker=mark, ls="none", mfc="none", label=name)
        for name, mark in zip(levels, MARKERS, strict=False)
    ]
    axes.legend(
        handles=shown,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        frameon=False,
        handlelength=1.4,
        columnspacing=1.2,
    )


def _say(
    title: str,
    points: Sequence[Point],
    centres: Sequence[tuple[float, float]],
    front: Sequence[int],
    *,
    percent: bool,
) -> str:
    said = [
        f"{point['series']}、{point['level']}：学到 {learned:.3f}，忘掉 {forgotten:.3f}"
        + ("（在前沿上）" if index in front else "")
        for index, (point, (learned, forgotten)) in enumerate(
            zip(points, centres, strict=True)
        )
    ]
    unit = "每字比特数变化的百分之几" if percent else "每字比特数"
    text = f"{title}，单位是{unit}。{'；'.join(said)}。"
    return text.replace("-", "−")
