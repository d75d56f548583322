"""注意力图：涂色与斜线的格子恰好是矩阵的真与假。"""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays

from companion.errors import ObjectiveError
from companion.plots.attention import (
    plot_attention,
    plot_attention_grid,
    plot_attention_panels,
    plot_attention_weights,
)
from companion.plots.rows import AttentionPanel


def covered(axes: Any, gid: str, shape: tuple[int, int]) -> np.ndarray:
    """编号为 gid 的长方形盖住哪些格子，各盖几次。"""
    collection = next(c for c in axes.collections if c.get_gid() == gid)
    count = np.zeros(shape, dtype=int)
    for path in collection.get_paths():
        (left, top), (right, bottom) = (
            path.vertices.min(0) + 0.5,
            path.vertices.max(0) + 0.5,
        )
        count[round(top) : round(bottom), round(left) : round(right)] += 1
    return count


@settings(max_examples=8)
@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=7)))
def test_cells_equal_the_mask(mask: np.ndarray):
    """任意矩阵：真处涂色一次，假处画斜线一次，不多不少。"""
    axes = plot_attention(mask).axes[0]
    assert np.array_equal(covered(axes, "visible", mask.shape), mask.astype(int))
    assert np.array_equal(covered(axes, "hidden", mask.shape), (~mask).astype(int))


def test_hidden_cells_are_hatched():
    """看不见的格子有斜线，看得见的没有：不只靠颜色。"""
    axes = plot_attention(np.tri(4, dtype=bool)).axes[0]
    hatch = {c.get_gid(): c.get_hatch() for c in axes.collections if c.get_gid()}
    assert hatch["hidden"]
    assert not hatch["visible"]


def test_tokens_name_both_axes_in_order():
    """词元写在两条轴上，第一行在上；$ 照字面，“𠮷”写码位。"""
    tokens = ["[CLS]", "$", "𠮷", "今$天$"]
    axes = plot_attention(np.eye(4, dtype=bool), tokens).axes[0]
    shown = ["[CLS]", "$", "U+20BB7", "今$天$"]
    assert [label.get_text() for label in axes.get_xticklabels()] == shown
    assert [label.get_text() for label in axes.get_yticklabels()] == shown
    assert not any(label.get_parse_math() for label in axes.get_xticklabels())
    top, bottom = axes.get_ylim()[1], axes.get_ylim()[0]
    assert top < bottom


def test_document_boundaries_lie_between_documents():
    """文档 0 有 3 列，文档 1 有 2 列：横竖两条粗线都在 2.5。"""
    documents = [0, 0, 0, 1, 1]
    owner = np.array(documents)
    mask = np.tri(5, dtype=bool) & (owner[:, None] == owner)
    figure = plot_attention(mask, documents=documents)
    walls = [line for line in figure.axes[0].lines if line.get_gid() == "boundary-2.5"]
    assert len(walls) == 2
    assert "2 个文档互不可见" in figure.alt  # type: ignore[attr-defined]


def test_alt_text_counts_a_leak_between_documents():
    """没有隔开的打包会在替代文字里露馅：2 × 3 = 6 格串门。"""
    figure = plot_attention(np.tri(5, dtype=bool), documents=[0, 0, 0, 1, 1])
    assert "之间有 6 格看得见" in figure.alt  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.ones((3, 3), bool), "处处双向"),
        (np.tri(3, dtype=bool), "因果"),
        (np.eye(3, dtype=bool), "没有一个词元看得见右边"),
        (np.ones((2, 3), bool), "2 个查询、3 个键，6 格中 6 格看得见。"),
    ],
)
def test_alt_text_names_the_pattern(mask: np.ndarray, said: str):
    """替代文字认得出双向、因果和交叉注意力。"""
    assert said in plot_attention(mask).alt  # type: ignore[attr-defined]


def test_grid_draws_one_panel_per_mask():
    """并排的每一格都与自己的矩阵相等，题目照字面写。"""
    tri = np.tri(6, dtype=bool)
    masks = {
        "双向": np.ones((6, 6), bool),
        "因果": tri,
        "前$缀$": tri | (np.arange(6) < 3),
    }
    figure = plot_attention_grid(masks, list("今天星期五了"))
    assert [axes.get_title() for axes in figure.axes] == list(masks)
    for axes, mask in zip(figure.axes, masks.values(), strict=True):
        assert np.array_equal(covered(axes, "visible", mask.shape), mask.astype(int))


def test_panels_of_different_sizes_have_cells_of_one_size():
    """编码器 6 × 6、解码器 3 × 3、交叉 3 × 6：格子一样大，各有各的词元与分界。"""
    long, short = list("今天星期五了"), list("甲乙丙")
    owners = {"l": [0, 0, 0, 0, 1, 1], "s": [0, 0, 1]}
    encoder, decoder = (
        np.equal.outer(own, own) for own in map(np.array, owners.values())
    )
    cross = np.equal.outer(owners["s"], owners["l"])
    figure = plot_attention_panels(
        [
            AttentionPanel(title="编码器", visible=encoder, queries=long, keys=long,
                           query_documents=owners["l"], key_documents=owners["l"]),
            AttentionPanel(title="解码器", visible=decoder, queries=short, keys=short,
                           query_documents=owners["s"], key_documents=owners["s"]),
            AttentionPanel(title="交叉", visible=cross, queries=short, keys=long,
                           query_documents=owners["s"], key_documents=owners["l"],
                           cross=True),
        ]
    )  # fmt: skip
    sides: set[float] = set()
    for axes, mask in zip(figure.axes, (encoder, decoder, cross), strict=True):
        assert np.array_equal(covered(axes, "visible", mask.shape), mask.astype(int))
        box = axes.get_window_extent()
        sides |= {round(box.width / mask.shape[1]), round(box.height / mask.shape[0])}
    assert max(sides) - min(sides) <= 2
    last = figure.axes[2]
    assert [label.get_text() for label in last.get_xticklabels()] == long
    assert [label.get_text() for label in last.get_yticklabels()] == short
    gids = [line.get_gid() for line in last.lines]
    assert gids == ["boundary-1.5", "boundary-3.5"]
    said = "交叉：3 个查询、6 个键，18 格中 10 格看得见，2 个文档互不可见。"
    assert figure.alt.endswith(said)  # type: ignore[attr-defined]


def test_cross_attention_of_equal_lengths_is_not_called_causal():
    """行与列是两条不同的行时，碰巧是下三角也不叫因果。"""
    panel = AttentionPanel(title="交叉", visible=np.tri(3, dtype=bool), cross=True)
    assert "因果" not in plot_attention_panels([panel]).alt  # type: ignore[attr-defined]


def test_weights_are_shown_as_given_and_the_strongest_is_marked():
    """每个头一格；图像等于权重，圆点在每行最大处，空行没有圆点。"""
    weights = np.random.default_rng(0).gamma(0.3, size=(3, 5, 5)) * np.tri(5)
    weights[:, 0] = 0
    weights[:, 1:] /= weights[:, 1:].sum(-1, keepdims=True)
    figure = plot_attention_weights(weights, list("今天星期五"))
    for head in range(3):
        axes = figure.axes[head]
        assert np.array_equal(axes.images[0].get_array(), weights[head])
        x, y = next(line for line in axes.lines if line.get_gid()).get_data()
        assert list(y) == [1, 2, 3, 4]
        assert list(x) == weights[head, 1:].argmax(-1).tolist()


def test_a_narrow_grid_stacks_its_panels():
    """给手机看的图：宽度不超过所给，各格上下排。"""
    masks = {"甲": np.ones((14, 14), bool), "乙": np.ones((14, 14), bool)}
    figure = plot_attention_grid(masks, list("今天已经星期五了，明天就是周"), width=4)
    assert figure.get_size_inches()[0] <= 4
    first, second = (axes.get_position() for axes in figure.axes)
    assert first.y0 > second.y1


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: plot_attention(np.zeros((2, 2))), "float64"),
        (lambda: plot_attention(np.ones((1, 2, 2), bool)), r"\(1, 2, 2\)"),
        (lambda: plot_attention(np.ones((0, 0), bool)), "形状"),
        (lambda: plot_attention(np.ones((2, 2), bool), ["一"]), "tokens 有 1 个"),
        (lambda: plot_attention(np.ones((2, 3), bool), documents=[0, 0, 1]), "方阵"),
        (lambda: plot_attention_grid({}), "至少一个"),
        (
            lambda: plot_attention_panels(
                [
                    AttentionPanel(
                        title="题", visible=np.ones((2, 3), bool), query_documents=[0]
                    )
                ]
            ),
            "query_documents 有 1 个",
        ),
        (lambda: plot_attention_weights(np.ones((2, 2, 3)), ["一"] * 2), "权重的形状"),
        (lambda: plot_attention_weights(np.full((1, 1, 1), np.nan), ["一"]), "非数"),
        (lambda: plot_attention_weights(-np.ones((1, 1, 1)), ["一"]), "负数"),
    ],
)
def test_wrong_matrices_are_refused(call: Any, said: str):
    """加性掩码、批量维、个数不合：说出发现了什么。"""
    with pytest.raises(ObjectiveError, match=said):
        call()
