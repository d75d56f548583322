"""注意力图：哪个查询看得见哪个键，以及真实的注意力权重。

行是查询（正在计算的词元），列是键（它去看的词元），与 (…, Q, K) 张量的最后两维同序。
看得见的格子涂色，看不见的画斜线，因此黑白打印也分得清。

形状字母：H 注意力头，Q 查询，K 键，L 词元（自注意力时 Q = K = L）。
"""

# matplotlib 自带的类型注解不全（**kwargs 没有类型），以下两项因此关掉
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.patches import Rectangle

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

LINED = 48  # 词元再多就不画格线


def plot_attention(
    visible_mask: "ArrayLike",
    tokens: Sequence[str] | None = None,
    *,
    title: str = "注意力的可见范围",
    query_tokens: Sequence[str] | None = None,
    documents: Sequence[int] | None = None,
) -> "Figure":
    """画一个可见矩阵。

    Args:
        visible_mask: (Q, K) bool，真处表示第 q 个查询看得见第 k 个键。
        tokens: 键的词元，(K,)；自注意力时也是查询的词元。
        title: 图题。
        query_tokens: 查询的词元，(Q,)；省略时与 `tokens` 相同。
        documents: 每列属于第几个文档，(K,)；交界处画粗线。只用于自注意力。

    Raises:
        ObjectiveError: 不是二维 bool 矩阵，或词元、文档的个数与它不合。
    """
    mask = _check_mask(visible_mask, title)
    queries = tokens if query_tokens is None else query_tokens
    check_length("query_tokens", queries, mask.shape[0])
    check_length("tokens", tokens, mask.shape[1])
    _check_documents(documents, mask)
    with drawing():
        side = cell_side(mask, WIDTH - 1.6)
        names = gutter(queries, mask.shape[0])
        width = max(side * mask.shape[1] + names + 0.5, 3.6)
        height = side * mask.shape[0] + gutter(tokens, mask.shape[1]) + 1.2
        card = Card(width, height, constrained=True)
        axes = card.add_subplot()
        _draw_mask(axes, mask, queries, tokens, documents)
        _label_axes(axes)
        plain(card.suptitle(wrap(title, width - 0.3, style.MEDIUM), size=style.MEDIUM))
        _add_legend(card)
        return finish(card, _say_mask(title, mask, documents))


def plot_attention_grid(
    masks: "Mapping[str, ArrayLike]",
    tokens: Sequence[str] | None = None,
    *,
    documents: Sequence[int] | None = None,
    width: float = WIDTH,
) -> "Figure":
    """几个可见矩阵并排比较，如双向、因果、前缀。

    Args:
        masks: 图题到 (Q, K) bool 矩阵。
        tokens: 各图共用的词元，(K,)；矩阵须是方阵。
        documents: 各图共用的文档号，(K,)。
        width: 至多多宽，英寸；给手机看的图用 4。

    Raises:
        ObjectiveError: 一个矩阵也没有，或某个矩阵不合要求。
    """
    if not masks:
        raise ObjectiveError(
            found="一个可见矩阵也没有",
            expected="至少一个，如 {'因果': mask}",
            remedy="只画一个时可以用 plot_attention",
        )
    checked = {title: _check_mask(mask, title) for title, mask in masks.items()}
    for mask in checked.values():
        check_length("tokens", tokens, mask.shape[0])
        check_length("tokens", tokens, mask.shape[1])
        _check_documents(documents, mask)
    with drawing():
        largest = max(checked.values(), key=lambda mask: max(mask.shape))
        margin = gutter(tokens, max(largest.shape))
        columns = panels_per_row(len(checked), max(largest.shape), margin, width)
        side = cell_side(largest, width / columns - margin - 0.4)
        panel = side * max(largest.shape)
        rows = math.ceil(len(checked) / columns)
        width = max(columns * (panel + margin + 0.4), 3.6)
        height = rows * (panel + margin + 0.6) + 0.5
        card = Card(width, height, constrained=True)
        for place, (title, mask) in enumerate(checked.items(), start=1):
            axes = card.add_subplot(rows, columns, place)
            _draw_mask(axes, mask, tokens, tokens, documents)
            plain(axes.set_title(wrap(title, panel + margin, style.MEDIUM)))
        _add_legend(card)
        said = [_say_mask(title, mask, documents) for title, mask in checked.items()]
        return finish(card, "".join(said))


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


def _check_mask(mask: "ArrayLike", title: str) -> "NDArray[np.bool_]":
    array = np.asarray(mask)
    if array.ndim != 2 or array.dtype != np.bool_ or not array.size:
        raise ObjectiveError(
            found=f"“{title}”的矩阵形状是 {array.shape}，类型是 {array.dtype}",
            expected="(Q, K) 的 bool 矩阵，真处看得见",
            remedy="加性掩码先变成 bool：(mask == 0)[0, 0]",
        )
    return array


def _check_documents(documents: Sequence[int] | None, mask: "NDArray[Any]") -> None:
    check_length("documents", documents, mask.shape[1])
    if documents is not None and mask.shape[0] != mask.shape[1]:
        raise ObjectiveError(
            found=f"给了 documents，而矩阵的形状是 {mask.shape}",
            expected="画文档分界时是方阵（自注意力）",
            remedy="去掉 documents",
        )


def _draw_mask(
    axes: "Axes",
    mask: "NDArray[np.bool_]",
    queries: Sequence[str] | None,
    keys: Sequence[str] | None,
    documents: Sequence[int] | None,
) -> None:
    num_queries, num_keys = mask.shape
    shown = PolyCollection(_boxes(mask), facecolor=style.SKY, edgecolor="none")
    shown.set_gid("visible")
    hidden = PolyCollection(
        _boxes(~mask), facecolor="white", edgecolor="#B0B0B0", linewidth=0, hatch="////"
    )
    hidden.set_gid("hidden")
    axes.add_collection(shown, autolim=False)
    axes.add_collection(hidden, autolim=False)
    axes.set_xlim(-0.5, num_keys - 0.5)
    axes.set_ylim(num_queries - 0.5, -0.5)
    axes.set_aspect("equal")
    if max(mask.shape) <= LINED:
        grid: Any = {"color": style.GREY, "linewidth": 0.5}
        axes.hlines(
            [q + 0.5 for q in range(num_queries - 1)], -0.5, num_keys - 0.5, **grid
        )
        axes.vlines(
            [k + 0.5 for k in range(num_keys - 1)], -0.5, num_queries - 0.5, **grid
        )
    if documents is not None:
        for at in np.flatnonzero(np.diff(np.asarray(documents))) + 0.5:
            for line in (axes.axhline(at), axes.axvline(at)):
                line.set(color=style.INK, linewidth=2.0, gid=f"boundary-{at:g}")
    name_ticks(axes, queries, keys, num_queries, num_keys)


def _boxes(mask: "NDArray[np.bool_]") -> "list[NDArray[np.float64]]":
    """真处的格子，每行相连的并成一个长方形：512 × 512 的矩阵也只有几百个。"""
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    starts, stops = np.argwhere(edges == 1), np.argwhere(edges == -1)
    boxes: list[NDArray[np.float64]] = []
    for (row, left), (_, right) in zip(starts, stops, strict=True):
        corners = [(left, row), (right, row), (right, row + 1), (left, row + 1)]
        boxes.append(np.array(corners, dtype=np.float64) - 0.5)
    return boxes


def _label_axes(axes: "Axes") -> None:
    axes.set_xlabel("键：被看的词元")
    axes.xaxis.set_label_position("top")
    axes.set_ylabel("查询：正在计算的词元")


def _add_legend(card: Card) -> None:
    card.legend(
        handles=[
            Rectangle((0, 0), 1, 1, facecolor=style.SKY, edgecolor=style.GREY),
            Rectangle(
                (0, 0), 1, 1, facecolor="white", edgecolor="#8A8A8A", hatch="////"
            ),
        ],
        labels=["看得见", "看不见"],
        loc="outside lower center",
        ncols=2,
        frameon=False,
    )


def _say_mask(
    title: str, mask: "NDArray[np.bool_]", documents: Sequence[int] | None
) -> str:
    num_queries, num_keys = mask.shape
    text = f"{prose(title)}：{num_queries} 个查询、{num_keys} 个键，"
    text += f"{mask.size} 格中 {int(mask.sum())} 格看得见"
    if num_queries == num_keys:
        lower = np.tri(num_queries, dtype=np.bool_)
        if mask.all():
            text += "，处处双向"
        elif np.array_equal(mask, lower):
            text += "，每个词元只看得见自己和左边（因果）"
        elif not (mask & ~lower).any():
            text += "，没有一个词元看得见右边"
        elif np.array_equal(mask, mask.T):
            text += "，看得见总是相互的"
    if documents is not None:
        owner = np.asarray(documents)
        across = int((mask & (owner[:, None] != owner[None, :])).sum())
        where = "互不可见" if not across else f"之间有 {across} 格看得见"
        text += f"，{len(set(owner.tolist()))} 个文档{where}"
    return text + "。"


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
