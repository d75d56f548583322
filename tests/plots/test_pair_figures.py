"""编码器–解码器的样本：行、图、表与替代文字，数字上完全一致。"""

import io
from dataclasses import replace
from typing import Any

import pytest
from matplotlib.patches import FancyArrowPatch, Rectangle
from rich.console import Console

from companion.errors import ObjectiveError
from companion.plots.labels import plot_labels
from companion.plots.rows import PairRows, Span
from companion.plots.texts import alt_text, labels_table


def pair_rows(**changes: Any) -> PairRows:
    """一行片段破坏：遮住“光曰”与“闻”，其中“闻”在词表之外。"""
    given: dict[str, Any] = {
        "title": "片段破坏",
        "tokens": [*"臣光曰：臣", "<unk>", *"天子", "</s>"],
        "special": [False] * 8 + [True],
        "document": [0] * 9,
        "hidden": [False, True, True, False, False, True, False, False, False],
        "inputs": ["臣", "<X>", "：", "臣", "<Y>", "天", "子", "</s>"],
        "is_mask": [False, True, False, False, True, False, False, False],
        "input_document": [0] * 8,
        "spans": [
            Span((0,), (0,)),
            Span((1, 2), (1,)),
            *(Span((at,), (at - 1,)) for at in range(3, 9)),
        ],
        "decoder_inputs": ["<pad>", "<X>", "光", "曰", "<Y>", "<unk>"],
        "decoder_visible": [True] * 6,
        "decoder_document": [0] * 6,
        "labels": ["<X>", "光", "曰", "<Y>", "<unk>", "</s>"],
        "origin": [None, 1, 2, None, 5, None],
        "scored": [False, True, True, False, False, False],
    }
    return PairRows(**{**given, **changes})


def fragment_rows() -> PairRows:
    """一行 MASS：遮住“光曰：”，一个换成掩码、一个换成别的字、一个原样留下。"""
    return pair_rows(
        title="掩码序列到序列",
        tokens=[*"臣光曰：臣"],
        special=[False] * 5,
        document=[0] * 5,
        hidden=[False, True, True, True, False],
        inputs=["臣", "<mask>", "魏", "：", "臣"],
        is_mask=[False, True, False, False, False],
        input_document=[0] * 5,
        spans=[Span((at,), (at,)) for at in range(5)],
        decoder_inputs=["<mask>", "臣", "光", "曰", "<mask>"],
        decoder_visible=[False, True, True, True, False],
        decoder_document=[0] * 5,
        labels=[None, "光", "曰", "：", None],
        origin=[0, 1, 2, 3, 4],
        scored=[False, True, True, True, False],
    )


def permuted_rows() -> PairRows:
    """两句换了次序，中间插进一个掩码，“二”删去。"""
    return pair_rows(
        title="文本填补",
        tokens=[*"一二三四"],
        special=[False] * 4,
        document=[0] * 4,
        hidden=[False, True, False, False],
        inputs=["三", "四", "<mask>", "一"],
        is_mask=[False, False, True, False],
        input_document=[0] * 4,
        spans=[Span((2,), (0,)), Span((3,), (1,)), Span((), (2,)), Span((0,), (3,)),
               Span((1,), ())],
        decoder_inputs=["</s>", *"一二三"],
        decoder_visible=[True] * 4,
        decoder_document=[0] * 4,
        labels=[*"一二三四"],
        origin=[0, 1, 2, 3],
        scored=[False, True, False, False],
    )  # fmt: skip


ROWS = {"t5": pair_rows(), "mass": fragment_rows(), "bart": permuted_rows()}


def cells(figure: Any, prefix: str) -> dict[str, Any]:
    """图上编号以 prefix 开头的格子。"""
    found = [a for a in figure.axes[0].patches if isinstance(a, Rectangle)]
    return {a.get_gid(): a for a in found if str(a.get_gid()).startswith(prefix)}


def columns(box: Any) -> tuple[float, float]:
    """格子的左边与右边。"""
    return box.get_x(), box.get_x() + box.get_width()


def test_each_span_has_a_fate() -> None:
    """换成掩码、换成别的、原样留下、删去、添上，各有各的说法。"""
    assert pair_rows().fates == ["kept", "masked", *["kept"] * 2, "masked",
                                 *["kept"] * 3]  # fmt: skip
    assert fragment_rows().fates == ["kept", "masked", "replaced", "exposed", "kept"]
    assert permuted_rows().fates == ["kept", "kept", "added", "kept", "removed"]
    assert permuted_rows().jumps == [0, 3]
    assert pair_rows().jumps == []


def test_each_target_says_whether_it_is_scored() -> None:
    """哨兵与结尾原文没有，看得见的抄得到，词表外的不考，−100 不计。"""
    assert pair_rows().targets == [
        "extra", "scored", "scored", "extra", "unknown", "extra"
    ]  # fmt: skip
    assert fragment_rows().targets == ["ignored", *["scored"] * 3, "ignored"]
    assert permuted_rows().targets == ["copied", "scored", "copied", "copied"]


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("width", [3, 16])
def test_every_token_and_label_has_a_cell(name: str, width: int) -> None:
    """原文、编码器的输入、解码器的输入、标签，一个不少；−100 没有箭头。"""
    rows = ROWS[name]
    figure = plot_labels(rows, columns=width)
    assert len(cells(figure, "token-")) == len(rows.tokens)
    assert len(cells(figure, "decoder-")) == len(rows.decoder_inputs)
    assert len(cells(figure, "label-")) == len(rows.labels)
    whole = [gid for gid in cells(figure, "input-") if "part" not in gid]
    assert whole == [f"input-{span.inputs[0]}" for span in rows.spans if span.inputs]
    arrows = {
        a.get_gid()
        for a in figure.axes[0].patches
        if isinstance(a, FancyArrowPatch) and str(a.get_gid()).startswith("arrow-")
    }
    assert arrows == {
        f"arrow-{at}-{at}" for at, label in enumerate(rows.labels) if label is not None
    }


def test_a_sentinel_is_as_wide_as_the_tokens_it_stands_for() -> None:
    """“光曰”下面是一整格 <X>，左右边与两个词元的外边对齐。"""
    boxes = cells(plot_labels(pair_rows()), "")
    left, right = columns(boxes["input-1"])
    assert left == pytest.approx(columns(boxes["token-1"])[0])
    assert right == pytest.approx(columns(boxes["token-2"])[1])
    assert boxes["input-1"].get_y() > boxes["token-1"].get_y()


def test_arrows_fall_from_the_decoder_input_to_the_label() -> None:
    """同一格的输出预测同一格的标签：箭头直下，从输入的底边到标签的顶边。"""
    figure = plot_labels(pair_rows())
    boxes = cells(figure, "")
    arrow = next(a for a in figure.axes[0].patches if a.get_gid() == "arrow-1-1")
    (x0, y0), (x1, y1) = arrow._posA_posB  # type: ignore[attr-defined]
    above, below = boxes["decoder-1"], boxes["label-1"]
    assert x0 == x1 == pytest.approx(sum(columns(above)) / 2)
    assert y0 == pytest.approx(above.get_y() + above.get_height())
    assert y1 == pytest.approx(below.get_y())


def test_scored_labels_differ_by_line_and_fill() -> None:
    """考与不考的标签，边线与底色都不同；看不见的解码器输入画斜线。"""
    boxes = cells(plot_labels(pair_rows()), "label-")
    scored, extra = boxes["label-1"], boxes["label-0"]
    assert scored.get_linestyle() != extra.get_linestyle()
    assert scored.get_facecolor() != extra.get_facecolor()
    given = cells(plot_labels(fragment_rows()), "decoder-")
    hatched = [gid for gid, box in given.items() if box.get_hatch()]
    assert hatched == ["decoder-0", "decoder-4"]


def test_documents_are_bracketed_on_both_sides() -> None:
    """两篇打包：上下两半各有两条括线、一条分界。"""
    rows = pair_rows(
        document=[0] * 4 + [1] * 5, input_document=[0] * 3 + [1] * 5,
        decoder_document=[0] * 3 + [1] * 3,
    )  # fmt: skip
    names = [line.get_gid() for line in plot_labels(rows).axes[0].lines]
    assert names == [
        "document-0-4", "document-4-9", "boundary-4",
        "decoder-document-0-3", "decoder-document-3-6", "decoder-boundary-3",
    ]  # fmt: skip


def test_limits_and_new_order_are_said_in_the_title() -> None:
    """只画前几列时说明共有几列；句子换了次序也说明。"""

    def title(figure: Any) -> str:
        return figure.axes[0].texts[0].get_text().replace("\n", "")

    assert "原文共 9 列，只画前 4 列" in title(plot_labels(pair_rows(), limit=4))
    assert "解码器共 6 列" in title(plot_labels(pair_rows(), limit=4))
    assert "句子换了次序" in title(plot_labels(permuted_rows()))


def test_alt_text_tells_the_changes_and_the_predictions() -> None:
    """替代文字说出换成了什么、谁预测谁、考几格。"""
    said = alt_text(pair_rows(), limit=2)
    assert said.startswith(
        "片段破坏的样本图：原文 9 个词元，编码器的输入 8 个，解码器 6 格，"
        "其中 6 格计损失，评估考 2 格。"
    )
    assert "“光曰”换成“<X>”，“<unk>”换成“<Y>”。" in said
    assert said.endswith(
        "第 0 列的输入“<pad>”预测“<X>”；第 1 列的输入“<X>”预测“光”，其余 4 列从略。"
    )
    assert "“魏”" in alt_text(fragment_rows())
    assert "“：”原样留下" in alt_text(fragment_rows())
    said = alt_text(permuted_rows())
    assert "次序与原文不同，添上“<mask>”，“二”拿掉。" in said
    assert plot_labels(permuted_rows()).alt == said  # type: ignore[attr-defined]


def lines_of(rows: PairRows) -> list[str]:
    """终端里的样子，一行一行。"""
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(labels_table(rows))
    return console.export_text().splitlines()


def body(lines: list[str]) -> list[list[str]]:
    """表里的各行，一格一格。"""
    return [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in lines
        if line.startswith("│")
    ]


def test_the_summary_marks_what_is_hidden_without_colour() -> None:
    """先是三行字：遮住的、掩码、要考的都在【】里，黑白也看得出。"""
    summary = lines_of(pair_rows())[1:4]
    assert [line.rstrip() for line in summary] == [
        "原文： 臣 【光 曰】 ： 臣 【<unk>】 天 子 </s>",
        "编码器看到： 臣 【<X>】 ： 臣 【<Y>】 天 子 </s>",
        "解码器要写： <X> 【光 曰】 <Y> <unk> </s>",
    ]


def test_the_tables_have_one_line_per_position() -> None:
    """编码器一个词元一行，解码器一格一行；出处与考不考写成字。"""
    rows = body(lines_of(pair_rows()))
    assert len(rows) == 9 + 6
    assert rows[1] == ["1", "1", "光", "1", "<X>", "遮住，要写出来"]
    assert rows[2] == ["2", "1", "曰", "", "〃", ""]
    assert rows[9] == ["0", "1", "<pad>", "<X>", "", "计损失，原文没有，不考"]
    assert rows[10] == ["1", "1", "<X>", "光", "1", "计损失，评估也考"]
    assert rows[13][-1] == "计损失，词表外的字，不考"
    rows = body(lines_of(fragment_rows()))
    assert rows[5] == ["0", "1", "<mask>", "−100", "", "看不见，不计损失"]
    rows = body(lines_of(permuted_rows()))
    assert rows[0] == ["2", "1", "三", "0", "三", "句子换了次序"]
    assert rows[2] == ["", "1", "", "2", "<mask>", "原文里没有"]


def test_two_parts_of_one_row_keep_their_column_numbers() -> None:
    """GLM 的 A、B 两部分装在同一行：列号照张量的，两部分合起来正是整行。"""
    rows = replace(
        permuted_rows(),
        sides=("A 部分", "B 部分"),
        input_columns=[0, 1, 4, 5],
        decoder_columns=[2, 3, 6, 7],
    )
    words, owners = rows.joined()
    assert words == ["三", "四", "</s>", "一", "<mask>", "一", "二", "三"]
    assert owners == [0] * 8
    assert [line[0] for line in body(lines_of(rows))[5:]] == ["2", "3", "6", "7"]
    assert "B 部分 4 格" in alt_text(rows)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"inputs": ["臣"]}, "inputs 1"),
        ({"labels": [None]}, "labels 1"),
        ({"input_columns": [1]}, "input_columns 1"),
        ({"tokens": [], "special": [], "document": [], "hidden": []}, "tokens 0"),
        ({"spans": [Span((0,), (0,))]}, "对齐的各段盖住"),
        ({"origin": [9, *[None] * 5]}, "出自原文第 9 列"),
    ],
)
def test_contradictory_rows_are_refused(changes: dict[str, Any], said: str) -> None:
    """长短不一、对齐有漏、出处越界：当场指出。"""
    with pytest.raises(ObjectiveError, match=said):
        pair_rows(**changes)
