"""标签图：词元 → 输入 → 标签，数字上与行完全一致。"""

import io
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.patches import FancyArrowPatch, Rectangle
from rich.console import Console

from companion.errors import ObjectiveError
from companion.plots.labels import plot_labels
from companion.plots.rows import LabelRows
from companion.plots.sheet import GUTTER, fit, place_columns
from companion.plots.texts import alt_text, labels_table


def masked_rows() -> LabelRows:
    """一行掩码语言建模：遮住 2、7，9 换成“𠮷”，13 原样留下。"""
    tokens = ["[CLS]", *"狡兔死，走狗烹；飞鸟尽，良弓藏。", "[SEP]"]
    inputs, labels = tokens.copy(), [None] * len(tokens)
    predicted_by: list[int | None] = [None] * len(tokens)
    for column, new in ((2, "[MASK]"), (7, "[MASK]"), (9, "𠮷"), (13, "良")):
        labels[column], inputs[column] = tokens[column], new  # type: ignore[call-overload]
        predicted_by[column] = column
    special = [token.startswith("[") for token in tokens]
    document = [0] * len(tokens)
    return LabelRows(
        "掩码语言建模", tokens, inputs, labels, predicted_by, special, document
    )


def causal_rows() -> LabelRows:
    """两个文档打包、末尾填充的一行因果语言建模。"""
    tokens = [*"先王既没，𠮷$帝$即位。", "</s>", *"今天已经星期五了。", "</s>"]
    tokens += ["<pad>", "<pad>"]
    document = [0] * 13 + [1] * 10 + [-1] * 2
    labels: list[str | None] = list(tokens)
    predicted_by: list[int | None] = [t - 1 for t in range(len(tokens))]
    for t in range(len(tokens)):
        if t == 0 or document[t] != document[t - 1] or document[t] < 0:
            labels[t] = predicted_by[t] = None
    special = [token.startswith("<") for token in tokens]
    return LabelRows(
        "因果语言建模", tokens, tokens, labels, predicted_by, special, document, None
    )


def artists(figure: Any, kind: type, prefix: str) -> dict[str, Any]:
    """图上编号以 prefix 开头的图元。"""
    found = [a for a in figure.axes[0].patches if isinstance(a, kind)]
    return {a.get_gid(): a for a in found if str(a.get_gid()).startswith(prefix)}


def texts(figure: Any) -> list[Any]:
    """图上所有看得见的文字。"""
    return [text for text in figure.axes[0].texts if text.get_text()]


@pytest.mark.parametrize("rows", [masked_rows(), causal_rows()], ids=["mlm", "clm"])
@pytest.mark.parametrize("columns", [8, 16])
def test_every_column_has_three_cells(rows: LabelRows, columns: int):
    """每列恰有词元、输入、标签三个格子，上下对齐。"""
    figure = plot_labels(rows, columns=columns)
    for row in ("token", "input", "label"):
        cells = artists(figure, Rectangle, f"{row}-")
        assert list(cells) == [f"{row}-{column}" for column in range(len(rows))]
    for column in range(len(rows)):
        boxes = [
            artists(figure, Rectangle, "")[f"{row}-{column}"]
            for row in ("token", "input", "label")
        ]
        assert len({(box.get_x(), box.get_width()) for box in boxes}) == 1
        assert boxes[0].get_y() < boxes[1].get_y() < boxes[2].get_y()


@pytest.mark.parametrize("rows", [masked_rows(), causal_rows()], ids=["mlm", "clm"])
def test_ignored_labels_are_hatched_and_say_minus_100(rows: LabelRows):
    """−100 的列恰是标签为 None 的列，既有斜线又有文字，不只靠颜色。"""
    figure = plot_labels(rows)
    cells = artists(figure, Rectangle, "label-")
    hatched = [
        column for column in range(len(rows)) if cells[f"label-{column}"].get_hatch()
    ]
    assert hatched == [c for c, label in enumerate(rows.labels) if label is None]
    said = [text for text in texts(figure) if text.get_text() == "−100"]
    assert len(said) == len(hatched)


def test_masked_arrows_fall_straight_down():
    """掩码语言建模：箭头在同一列，从输入的底边指到标签的顶边。"""
    rows = masked_rows()
    figure = plot_labels(rows)
    arrows = artists(figure, FancyArrowPatch, "arrow-")
    assert list(arrows) == ["arrow-2-2", "arrow-7-7", "arrow-9-9", "arrow-13-13"]
    boxes = artists(figure, Rectangle, "")
    for source, column in rows.arrows():
        (x0, y0), (x1, y1) = arrows[f"arrow-{source}-{column}"]._posA_posB
        above, below = boxes[f"input-{source}"], boxes[f"label-{column}"]
        assert x0 == x1 == pytest.approx(above.get_x() + above.get_width() / 2)
        assert y0 == pytest.approx(above.get_y() + above.get_height())
        assert y1 == pytest.approx(below.get_y())


def test_causal_arrows_lead_from_the_previous_input():
    """因果语言建模：箭头从 t − 1 的输入指向 t 的标签，不跨文档，不进填充。"""
    rows = causal_rows()
    figure = plot_labels(rows)
    arrows = artists(figure, FancyArrowPatch, "arrow-")
    inner = [*range(1, 13), *range(14, 23)]
    assert {name for name in arrows if not name.endswith("out")} == {
        f"arrow-{t - 1}-{t}" for t in inner
    }
    boxes = artists(figure, Rectangle, "")
    places = place_columns(rows, columns=16, limit=64)
    for t in inner:
        (x0, y0), (x1, y1) = arrows[f"arrow-{t - 1}-{t}"]._posA_posB
        label, source = boxes[f"label-{t}"], boxes[f"input-{t - 1}"]
        assert x1 == pytest.approx(label.get_x() + label.get_width() / 2)
        assert y1 == pytest.approx(label.get_y())
        if places[t - 1].line == places[t].line:
            assert x0 == pytest.approx(source.get_x() + source.get_width() / 2)
            assert y0 == pytest.approx(source.get_y() + source.get_height())
        else:  # 从上一排的右边出去，从这一排的左边进来
            assert f"arrow-{t - 1}-{t}-out" in arrows
            assert x0 < label.get_x()


def test_changed_inputs_differ_by_border_and_by_a_word():
    """遮、换、留三种格子的边框线型各不相同，箭头旁写着字。"""
    figure = plot_labels(masked_rows())
    cells = artists(figure, Rectangle, "input-")
    styles = {str(cells[f"input-{c}"].get_linestyle()) for c in (2, 9, 13)}
    assert len(styles) == 3
    written = [text.get_text() for text in texts(figure)]
    assert [written.count(mark) for mark in "遮换留"] == [2, 1, 1]


def test_document_boundaries_stand_between_the_right_columns():
    """分界线画在 12 与 13、22 与 23 之间的缝里（同一排时）。"""
    rows = causal_rows()
    figure = plot_labels(rows, columns=30)
    places = place_columns(rows, columns=30, limit=64)
    walls = {
        line.get_gid(): line.get_xdata()
        for line in figure.axes[0].lines
        if str(line.get_gid()).startswith("boundary")
    }
    assert set(walls) == {"boundary-13", "boundary-23"}
    for column in (13, 23):
        left, right = walls[f"boundary-{column}"]
        assert left == right
        assert places[column - 1].right < left < places[column].left


@pytest.mark.parametrize("columns", [2, 8, 16])
def test_long_rows_wrap(columns: int):
    """一排至多 columns 列，各排从同一条左边线开始，列的次序不变。"""
    rows = causal_rows()
    places = place_columns(rows, columns=columns, limit=64)
    lines = [place.line for place in places]
    assert lines == sorted(lines)
    assert max(lines.count(line) for line in lines) <= columns
    for line in set(lines):
        first, *rest = [place for place in places if place.line == line]
        assert first.left == GUTTER
        previous = first
        for place in rest:
            assert place.left >= previous.right - 1e-9
            previous = place


def test_a_limit_is_said_in_the_title():
    """只画前几列时，图上说明共有多少列；箭头不指向没画的列。"""
    figure = plot_labels(causal_rows(), limit=5)
    assert len(artists(figure, Rectangle, "label-")) == 5
    assert "共 25 列" in "".join(text.get_text() for text in texts(figure))
    assert "arrow-4-5" not in artists(figure, FancyArrowPatch, "arrow-")


def test_a_label_that_nobody_predicts_has_no_arrow():
    """第 0 列有标签而没有预测者（移位时会丢掉）：单独的边框，没有箭头。"""
    rows = LabelRows("题", ["一", "二"], ["一", "二"], ["一", "二"], [None, 0],
                     [False] * 2, [0] * 2, None)  # fmt: skip
    assert rows.roles() == ["dropped", "next"]
    assert list(artists(plot_labels(rows), FancyArrowPatch, "arrow-")) == ["arrow-0-1"]


@settings(max_examples=8)
@given(
    st.lists(
        st.one_of(
            st.text(st.sampled_from("字𠮷Ġ$^_\\ \n#[]ab，"), max_size=9),
            st.sampled_from(["[MASK]", "##tokenization", "资治通鉴长编纪事本末"]),
        ),
        min_size=1,
        max_size=14,
    ),
    st.integers(2, 16),
)
def test_no_text_is_clipped_small_or_overlapping(tokens: list[str], columns: int):
    """任意词元：文字不小于 9 点，都在卡片里，两两不相叠。"""
    n = len(tokens)
    labels = [token if t % 2 else None for t, token in enumerate(tokens)]
    sources = [t if t % 2 else None for t in range(n)]
    rows = LabelRows("标题" * 20, tokens, tokens[::-1], labels, sources, [False] * n,
                     [t // 3 for t in range(n)])  # fmt: skip
    figure = plot_labels(rows, columns=columns)
    canvas = figure.bbox
    boxes = []
    for text in texts(figure):
        assert text.get_size() >= 9
        box = text.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= canvas.width, text
        assert 0 <= box.y0 < box.y1 <= canvas.height, text
        boxes.append((text, box.padded(-3)))  # 行高里的空白可以相接
    for (one, a), (other, b) in combinations(boxes, 2):
        assert not a.overlaps(b), (one, other)


def test_an_overlong_token_is_shortened_to_fit():
    """放不下的词元从末尾省略，字号仍不小于 9 点。"""
    shown, size = fit("资治通鉴长编纪事本末", 0.6)
    assert shown.endswith("…")
    assert size == 9


def test_alt_text_tells_the_masked_columns():
    """替代文字说出几列计损失、各列发生了什么、几列是 −100。"""
    said = alt_text(masked_rows())
    assert said.startswith("掩码语言建模的标签对齐图：18 列，1 个文档，其中 4 列计损失")
    assert "14 列的标签是 −100" in said
    assert "第 2 列遮住，标签是“兔”" in said
    assert "第 9 列换成“𠮷”，标签是“飞”" in said
    assert "第 13 列原样留下，标签是“良”" in said
    assert plot_labels(masked_rows()).alt == said  # type: ignore[attr-defined]


def test_alt_text_tells_the_shift_and_stays_short():
    """因果语言建模的替代文字说出斜指，只逐列说前几个。"""
    said = alt_text(causal_rows(), limit=2)
    assert "从前一列的输入斜指" in said
    assert said.endswith("第 0 列“先”预测“王”；第 1 列“王”预测“既”，其余 19 列从略。")


def test_the_table_has_one_line_per_column():
    """终端里的表：一列一行，方括号不当作样式标记，角色写成字。"""
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(labels_table(masked_rows()))
    lines = console.export_text().splitlines()
    assert sum("−100" in line for line in lines) == 14
    row = next(line for line in lines if "遮住" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "2", "1", "兔", "[MASK]", "兔", "2", "遮住，要还原"
    ]  # fmt: skip


def test_a_narrow_terminal_folds_the_table_and_cuts_nothing():
    """终端再窄，说明也折行而不截断：每个字都在。"""
    console = Console(width=56, record=True, file=io.StringIO())
    console.print(labels_table(masked_rows()))
    text = console.export_text()
    assert "…" not in text
    cells = [line.strip("│").split("│") for line in text.splitlines() if "│" in line]
    notes = "".join(cell[-1].strip() for cell in cells)
    assert notes.count("换成别的词元，要还原") == 1
    assert notes.count("特殊词元，不计损失") == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": [None]}, "labels 1"),
        ({"tokens": [], "inputs": [], "labels": [], "predicted_by": [], "special": [],
          "document": []}, "至少 1 列"),
        ({"predicted_by": [0, None]}, "第 0 列"),
        ({"predicted_by": [None, 7]}, "预测来源是 7"),
    ],
)  # fmt: skip
def test_contradictory_rows_are_refused(change: dict[str, Any], said: str):
    """长短不一、来源越界、−100 却有来源：当场指出。"""
    good: dict[str, Any] = {
        "title": "题",
        "tokens": ["一", "二"],
        "inputs": ["一", "二"],
        "labels": [None, "二"],
        "predicted_by": [None, 1],
        "special": [False, False],
        "document": [0, 0],
    }
    LabelRows(**good)
    with pytest.raises(ObjectiveError, match=said):
        LabelRows(**{**good, **change})


def test_too_few_columns_are_refused():
    """一排一列画不出前后相邻的箭头。"""
    with pytest.raises(ObjectiveError, match="columns=1"):
        plot_labels(masked_rows(), columns=1)
