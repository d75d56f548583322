"""得失图与装行图：点、前沿、填充都对得上给它的数。"""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.errors import CorpusError, EvaluationError, TrainingError
from companion.plots import RowsPanel, plot_rows, plot_schedules, plot_tradeoff
from companion.plots.tradeoff import pareto_front

POINTS = [
    {"series": "甲", "level": "无", "learned": [0.4, 0.6], "forgotten": [0.3, 0.5]},
    {"series": "甲", "level": "有", "learned": [0.3], "forgotten": [0.1]},
    {"series": "乙", "level": "无", "learned": [0.2], "forgotten": [0.2]},
]


def test_a_point_is_the_mean_of_its_seeds():
    """几个种子画成一个点，在均值处。"""
    axes = plot_tradeoff(POINTS).axes[0]
    drawn = {
        (round(float(bar[0].get_xdata()[0]), 6), round(float(bar[0].get_ydata()[0]), 6))
        for bar in axes.containers
    }
    assert drawn == {(0.5, 0.4), (0.3, 0.1), (0.2, 0.2)}


def test_the_front_joins_what_nothing_beats():
    """前沿只连没有被超过的点，从左到右；图的替代文字也说出是哪几个。"""
    figure: Any = plot_tradeoff(POINTS)
    [front] = [line for line in figure.axes[0].lines if line.get_gid() == "front"]
    assert list(front.get_xdata()) == [0.3, 0.5]
    assert figure.alt.count("在前沿上") == 2
    assert "甲、有：学到 0.300，忘掉 0.100（在前沿上）" in figure.alt


@given(
    st.lists(
        st.tuples(st.integers(-4, 4).map(float), st.integers(-4, 4).map(float)),
        min_size=1,
        max_size=9,
    )
)
def test_every_point_is_on_the_front_or_beaten_by_one_on_it(
    centres: list[tuple[float, float]],
):
    """前沿不空；前沿外的点，都有前沿上的一个点学得不少、忘得不多。"""
    front = pareto_front(centres)
    assert front
    for index, (learned, forgotten) in enumerate(centres):
        better = [centres[i] for i in front if centres[i][0] >= learned]
        assert index in front or any(other[1] <= forgotten for other in better)


def test_points_without_numbers_are_refused():
    """没有点、没有数、非数，都说得出是哪一个。"""
    for points in ([], [{**POINTS[0], "learned": []}]):
        with pytest.raises(EvaluationError, match="至少一"):
            plot_tradeoff(points)
    with pytest.raises(EvaluationError, match="第 1 个点"):
        plot_tradeoff([POINTS[0], {**POINTS[1], "forgotten": [np.nan]}])
    many = [{**POINTS[0], "series": str(n)} for n in range(6)]
    with pytest.raises(EvaluationError, match="分成几张图"):
        plot_tradeoff(many)


def test_the_hatched_part_is_the_padding():
    """斜线的总长就是填充的词元数，色块的总长就是文档的词元数。"""
    panel = RowsPanel("一篇一行", [[(0, 5)], [(1, 9)], [(2, 2), (3, 3)]], [9, 9, 9])
    bars = plot_rows([panel]).axes[0].patches
    hatched = sum(b.get_width() for b in bars if b.get_gid() == "padding")
    assert hatched == panel.padded == 27 - 19
    assert sum(b.get_width() for b in bars) == 27
    assert panel.share == pytest.approx(8 / 27)


def test_rows_that_do_not_fit_are_refused():
    """比宽度长的行、没有行、宽度少了一个，都不画。"""
    for rows, widths in ([[(0, 5)]], [4]), ([], []), ([[(0, 1)]], [1, 1]):
        with pytest.raises(CorpusError):
            plot_rows([RowsPanel("坏的", rows, widths)])


def test_a_schedule_is_drawn_step_by_step():
    """每条线的高度就是给它的倍数，第 0 步在最左；竖线在预热完的那一步。"""
    curves = {"余弦": [0.5, 1.0, 0.1], "不变": [0.5, 1.0, 1.0]}
    figure: Any = plot_schedules(curves, num_warmup=1, title="题")
    lines = {line.get_gid(): line for line in figure.axes[0].lines}
    for number, curve in enumerate(curves.values()):
        drawn = lines[f"schedule-{number}"]
        assert list(drawn.get_xdata()) == [0, 1, 2]
        assert list(drawn.get_ydata()) == curve
    assert [1, 1] in [list(line.get_xdata()) for line in lines.values()]
    assert "余弦由 0.50 倍升到 1.00 倍，末步 0.10 倍" in figure.alt


def test_schedules_of_unequal_length_are_refused():
    """没有曲线、长短不一、多于四种，都画不成一格。"""
    five = {str(n): [1.0] for n in range(5)}
    for curves in ({}, {"甲": [1.0], "乙": [1.0, 0.5]}, five):
        with pytest.raises(TrainingError, match="一样长"):
            plot_schedules(curves, num_warmup=0, title="题")
