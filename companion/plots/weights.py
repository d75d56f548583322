"""注意力权重图：各个头把注意力分给了谁。

行是查询，列是键，与 (…, Q, K) 张量的最后两维同序；谁看得见谁的图在 `attention.py`。

形状字母：H 注意力头，L 词元。
"""

# matplotlib 自带的类型注解不全（**kwargs 没有类型），以下两项因此关掉
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from companion.errors import ObjectiveError
from companion.plots import style
from companion.plots.font import prose
from companion.plots.matrices import (
    cell_side,
    check_length,
    gutter,
    name_ticks,
    panels_per_row,
)
from companion.plots.style import WIDTH, Card, drawing, finish, plain, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray


def plot_attention_weights(
    weights: "ArrayLike",
    tokens: Sequence[str],
    *,
    title: str = "注意力权重",
    width: float = WIDTH,
) -> "Figure":
    """画各个头的注意力权重；每行权重最大的格子加一点。

    Args:
        weights: (H, L, L) 浮点，每行和为 1，全被遮住的行可以全为 0；也可只给一个头
            (L, L)。
        tokens: 词元，(L,)。
        title: 图题。
        width: 至多多宽，英寸；给手机看的图用 4。

    Raises:
        ObjectiveError: 形状不对，有负数或非数，或词元个数不合。
    """
    values = np.asarray(weights, dtype=np.float64)
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[1] != values.shape[2] or not values.size:
        raise ObjectiveError(
            found=f"权重的形状是 {np.shape(weights)}",
            expected="(H, L, L)：各个头的方阵",
            remedy="取一层、一个样本：attentions[layer][example]",
        )
    if not np.isfinite(values).all() or (values < 0).any():
        raise ObjectiveError(
            found="权重里有负数、无穷或非数",
            expected="softmax 之后的权重，在 0 与 1 之间",
            remedy="用 output_attentions=True 的输出，而不是加性掩码",
        )
    check_length("tokens", tokens, values.shape[1])
    with drawing():
        heads, length = values.shape[:2]
        margin = gutter(tokens, length)
        columns = panels_per_row(heads, length, margin, width)
        side = cell_side(values[0], width / columns - margin - 0.4)
        rows = math.ceil(heads / columns)
        width = max(columns * (side * length + margin + 0.4), 3.6)
        height = rows * (side * length + margin + 0.6) + 1.1
        card = Card(width, height, constrained=True)
        panels: list[Axes] = []
        top = float(values.max()) or 1.0
        for head, matrix in enumerate(values):
            axes = card.add_subplot(rows, columns, head + 1)
            # cividis：明暗单调，色觉不同的人看到的次序相同
            image = axes.imshow(matrix, cmap="cividis", vmin=0, vmax=top)
            image.set_gid(f"weights-{head}")
            rows_seen = np.flatnonzero(matrix.sum(axis=1) > 0)
            axes.plot(
                matrix.argmax(axis=1)[rows_seen],
                rows_seen,
                linestyle="none",
                marker="o",
                markersize=3.5,
                markerfacecolor="white",
                markeredgecolor="black",
                markeredgewidth=0.7,
                gid=f"strongest-{head}",
            )
            name_ticks(axes, tokens, tokens, length, length)
            axes.set_title(f"头 {head}")
            panels.append(axes)
        card.colorbar(
            panels[0].images[0],
            ax=panels,
            label="权重",
            location="bottom",
            shrink=0.6,
            aspect=30,
        )
        heading = wrap(f"{title}（圆点：每行最大处）", width - 0.3, style.MEDIUM)
        plain(card.suptitle(heading, size=style.MEDIUM))
        return finish(card, _say_weights(title, values, tokens))


def _say_weights(
    title: str, values: "NDArray[np.float64]", tokens: Sequence[str]
) -> str:
    heads, length = values.shape[:2]
    head, query, key = (
        int(i) for i in np.unravel_index(int(values.argmax()), values.shape)
    )
    return (
        f"{prose(title)}：{heads} 个头，{length} 个词元。权重最大的一格在头 {head}，"
        f"第 {query} 列“{tokens[query]}”看第 {key} 列“{tokens[key]}”，"
        f"权重 {values[head, query, key]:.2f}。"
    )
