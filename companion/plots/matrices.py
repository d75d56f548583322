"""方阵图共用的排版：格子多大、一排几个、坐标轴上写词元还是列号。"""

# matplotlib 自带的类型注解不全（**kwargs 没有类型），以下两项因此关掉
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from companion.errors import ObjectiveError
from companion.plots.font import text_width, visible
from companion.plots.style import SMALL, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

CELL = (0.17, 0.36)  # 格子边长的下限与上限，英寸；下限放得下 9 点的一个字
NAMED = 32  # 词元再多就改写列号
LONGEST = 13  # 词元再长就省略；放得下 <extra_id_10>


def check_length(name: str, items: Sequence[Any] | None, length: int) -> None:
    """词元、文档号的个数须与矩阵的边长相同。"""
    if items is not None and len(items) != length:
        raise ObjectiveError(
            found=f"{name} 有 {len(items)} 个",
            expected=f"与矩阵的边长相同，{length} 个",
            remedy="从同一个样本取出矩阵和词元",
        )


def name_ticks(
    axes: "Axes",
    queries: Sequence[str] | None,
    keys: Sequence[str] | None,
    num_queries: int,
    num_keys: int,
) -> None:
    """坐标轴上写词元，放不下的竖排；太多时每隔几列写一个列号。"""
    axes.xaxis.tick_top()
    axes.tick_params(length=0, pad=2)
    for axis, tokens, length in (
        (axes.xaxis, keys, num_keys),
        (axes.yaxis, queries, num_queries),
    ):
        if tokens is not None and length <= NAMED:
            names = [_short(token) for token in tokens]
            axis.set_ticks(range(length), labels=names)
            for label in axis.get_ticklabels():
                plain(label)
                if axis is axes.xaxis and _is_wide(label.get_text()):
                    label.set_rotation(90)
        else:
            axis.set_ticks(range(0, length, max(1, math.ceil(length / 8))))


def _short(token: str) -> str:
    shown = visible(token).replace("\n", "")
    return shown if len(shown) <= LONGEST else shown[: LONGEST - 1] + "…"


def _is_wide(text: str) -> bool:
    return text_width(text, SMALL) > CELL[0]


def gutter(tokens: Sequence[str] | None, length: int) -> float:
    """坐标轴上最长的词元占多宽，英寸。"""
    if tokens is None or length > NAMED:
        return 0.3
    return max(text_width(_short(token), SMALL) for token in tokens) + 0.08


def cell_side(mask: "NDArray[Any]", room: float) -> float:
    """格子的边长，英寸：尽量占满 `room`，写词元时不小于一个字。"""
    longest = max(mask.shape)
    smallest = CELL[0] if longest <= NAMED else 0.02
    return min(max(room / longest, smallest), CELL[1])


def panels_per_row(panels: int, length: int, gutter: float, width: float) -> int:
    """一排放得下几个，格子不小于下限；至多 4 个。"""
    smallest = max(min(length, NAMED) * CELL[0], 1.2) + gutter + 0.4
    return max(1, min(panels, 4, int(width / smallest)))
