"""注意力图：哪个查询看得见哪个键，各个头又把注意力分给了谁。

行是查询（正在计算的词元），列是键（它去看的词元），与 (…, Q, K) 张量的最后两维同序。
看得见的格子涂色，看不见的画斜线，因此黑白打印也分得清。

形状字母：H 注意力头，Q 查询，K 键，L 词元；自注意力时 Q = K = L。
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
from companion.plots.font import prose, text_width, visible
from companion.plots.rows import AttentionPanel
from companion.plots.style import SMALL, WIDTH, Card, drawing, finish, plain, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

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


LINED = 48  # 词元再多就不画格线
TITLE = 1.1  # 再窄的矩阵也给题目留这么宽，英寸


def plot_attention(
    visible_mask: "ArrayLike",
    tokens: Sequence[str] | None = None,
    *,
    title: str = "注意力的可见范围",
    query_tokens: Sequence[str] | None = None,
    documents: Sequence[int] | None = None,
    parts: Sequence[int] | None = None,
) -> "Figure":
    """画一个可见矩阵。

    Args:
        visible_mask: (Q, K) bool，真处表示第 q 个查询看得见第 k 个键。
        tokens: 键的词元，(K,)；自注意力时也是查询的词元。
        title: 图题。
        query_tokens: 查询的词元，(Q,)；省略时与 `tokens` 相同。
        documents: 每列属于第几个文档，(K,)；交界处画粗线。只用于自注意力。
        parts: 每列属于哪一部分（前缀与后缀，A 与 B），(K,)；交界处画虚线。

    Raises:
        ObjectiveError: 不是二维 bool 矩阵，或词元、文档、部分的个数与它不合。
    """
    panel = AttentionPanel(
        title=title,
        visible=visible_mask,
        queries=tokens if query_tokens is None else query_tokens,
        keys=tokens,
        query_documents=documents,
        key_documents=documents,
        parts=parts,
    )
    mask = _check_panel(panel)
    with drawing():
        side = cell_side(mask, WIDTH - 1.6)
        names = gutter(panel.queries, mask.shape[0])
        width = max(side * mask.shape[1] + names + 0.5, 3.6)
        height = side * mask.shape[0] + gutter(tokens, mask.shape[1]) + 1.2
        card = Card(width, height, constrained=True)
        axes = card.add_subplot()
        _draw_mask(axes, mask, panel)
        _label_axes(axes)
        plain(card.suptitle(wrap(title, width - 0.3, style.MEDIUM), size=style.MEDIUM))
        _add_legend(card)
        return finish(card, _say_mask(panel, mask))


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
    panels = [
        AttentionPanel(
            title=title,
            visible=mask,
            queries=tokens,
            keys=tokens,
            query_documents=documents,
            key_documents=documents,
        )
        for title, mask in masks.items()
    ]
    return plot_attention_panels(panels, width=width)


def plot_attention_panels(
    panels: Sequence[AttentionPanel], *, width: float = WIDTH
) -> "Figure":
    """几个可见矩阵并排，行与列各有各的词元，如编码器、解码器与交叉注意力。

    Args:
        panels: 各个矩阵。
        width: 至多多宽，英寸；给手机看的图用 4。

    Raises:
        ObjectiveError: 一个矩阵也没有，或某个矩阵不合要求。
    """
    if not panels:
        raise ObjectiveError(
            found="一个可见矩阵也没有",
            expected="至少一个，如 {'因果': mask}",
            remedy="只画一个时可以用 plot_attention",
        )
    masks = [_check_panel(panel) for panel in panels]
    with drawing():
        longest = max(max(mask.shape) for mask in masks)
        margin = max(
            gutter(tokens, longest)
            for panel in panels
            for tokens in (panel.queries, panel.keys)
        )
        columns = panels_per_row(len(panels), longest, margin, width)
        # 各格一样大，所以每排的高、每列的宽随其中最大的矩阵
        tall = [max(len(m) for m in masks[k : k + columns])
                for k in range(0, len(masks), columns)]  # fmt: skip
        wide = [max(m.shape[1] for m in masks[k::columns]) for k in range(columns)]
        largest = max(masks, key=lambda mask: max(mask.shape))
        room = (width - columns * (margin + 0.4)) * longest / sum(wide)
        side = cell_side(largest, room)
        wide = [max(side * cells, TITLE) for cells in wide]  # 以下以英寸计
        tall = [side * cells for cells in tall]
        width = max(sum(wide) + columns * (margin + 0.4), 3.6)
        height = sum(tall) + len(tall) * (margin + 0.6) + 0.5
        card = Card(width, height, constrained=True)
        grid = card.add_gridspec(
            len(tall), columns, width_ratios=wide, height_ratios=tall
        )
        for place, (panel, mask) in enumerate(zip(panels, masks, strict=True)):
            axes = card.add_subplot(grid[place])
            _draw_mask(axes, mask, panel)
            room = side * mask.shape[1]
            room = TITLE if room < TITLE else room + margin
            plain(axes.set_title(wrap(panel.title, room, style.MEDIUM)))
        _add_legend(card)
        said = [
            _say_mask(panel, mask) for panel, mask in zip(panels, masks, strict=True)
        ]
        return finish(card, "".join(said))


def _check_panel(panel: AttentionPanel) -> "NDArray[np.bool_]":
    """面板里的矩阵，核对过。"""
    array = np.asarray(panel.visible)
    if array.ndim != 2 or array.dtype != np.bool_ or not array.size:
        raise ObjectiveError(
            found=f"“{panel.title}”的矩阵形状是 {array.shape}，类型是 {array.dtype}",
            expected="(Q, K) 的 bool 矩阵，真处看得见",
            remedy="加性掩码先变成 bool：(mask == 0)[0, 0]",
        )
    documents = panel.key_documents
    check_length("query_tokens", panel.queries, array.shape[0])
    check_length("tokens", panel.keys, array.shape[1])
    check_length("documents", documents, array.shape[1])
    check_length("parts", panel.parts, array.shape[1])
    if documents is panel.query_documents is not None and len(set(array.shape)) > 1:
        raise ObjectiveError(
            found=f"给了 documents，而矩阵的形状是 {array.shape}",
            expected="画文档分界时是方阵（自注意力）",
            remedy="去掉 documents",
        )
    check_length("query_documents", panel.query_documents, array.shape[0])
    return array


def _draw_mask(axes: "Axes", mask: "NDArray[np.bool_]", panel: AttentionPanel) -> None:
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
    for at in _borders(panel.parts):
        for draw in (axes.axhline, axes.axvline):
            draw(at, linestyle=(0, (4, 2))).set(
                color=style.INK, linewidth=1.2, gid=f"part-{at:g}"
            )
    for documents, draw in (
        (panel.query_documents, axes.axhline),
        (panel.key_documents, axes.axvline),
    ):
        for at in _borders(documents):
            draw(at).set(color=style.INK, linewidth=2.0, gid=f"boundary-{at:g}")
    name_ticks(axes, panel.queries, panel.keys, num_queries, num_keys)


def _borders(numbers: Sequence[int] | None) -> list[float]:
    """编号变了的地方，在两格之间。"""
    if numbers is None:
        return []
    return (np.flatnonzero(np.diff(np.asarray(numbers))) + 0.5).tolist()


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


def _say_mask(panel: AttentionPanel, mask: "NDArray[np.bool_]") -> str:
    num_queries, num_keys = mask.shape
    text = f"{prose(panel.title)}：{num_queries} 个查询、{num_keys} 个键，"
    text += f"{mask.size} 格中 {int(mask.sum())} 格看得见"
    if num_queries == num_keys and not panel.cross:
        lower = np.tri(num_queries, dtype=np.bool_)
        leading = int(mask.all(axis=0).cumprod().sum())  # 前几列谁都看得见
        if mask.all():
            text += "，处处双向"
        elif np.array_equal(mask, lower):
            text += "，每个词元只看得见自己和左边（因果）"
        elif not (mask & ~lower).any():
            text += "，没有一个词元看得见右边"
        elif np.array_equal(mask, lower.T):
            text += "，每个词元只看得见自己和右边"
        elif np.array_equal(mask, lower | (np.arange(num_queries) < leading)):
            text += f"，前 {leading} 个谁都看得见，其余只看得见自己和左边（前缀）"
        elif np.array_equal(mask, mask.T):
            text += "，看得见总是相互的"
    if panel.query_documents is not None and panel.key_documents is not None:
        queries, keys = (
            np.asarray(each) for each in (panel.query_documents, panel.key_documents)
        )
        across = int((mask & (queries[:, None] != keys[None, :])).sum())
        where = "互不可见" if not across else f"之间有 {across} 格看得见"
        text += f"，{len(set(keys.tolist()))} 个文档{where}"
    return text + "。"


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
