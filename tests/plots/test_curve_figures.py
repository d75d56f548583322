"""训练曲线：单位、平滑、竖线和前后成绩。"""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.errors import TrainingError
from companion.plots.curves import plot_curve, smooth

LOG = [
    {"step": s, "tokens": 1000 * s, "loss": math.log(2) * (9 - s / 10),
     "learning_rate": 1e-3 * s}
    for s in range(1, 41)
]  # fmt: skip


def line(axes: Any, gid: str) -> tuple[list[float], list[float]]:
    """编号为 gid 的线的横、纵坐标。"""
    found = next(entry for entry in axes.lines if entry.get_gid() == gid)
    return list(found.get_xdata()), list(found.get_ydata())


def test_loss_is_drawn_in_bits_against_tokens():
    """奈特除以 ln 2 是比特；横轴是读过的词元。"""
    x, y = line(plot_curve(LOG).axes[0], "raw")
    assert x == [row["tokens"] for row in LOG]
    assert y == pytest.approx([9 - s / 10 for s in range(1, 41)])


def test_without_token_counts_the_axis_counts_steps():
    """有一行没有 tokens，横轴就改用步数。"""
    figure = plot_curve([{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}])
    assert line(figure.axes[0], "raw")[0] == [1, 2]
    assert figure.axes[-1].get_xlabel() == "步数"


def test_the_learning_rate_has_its_own_panel():
    """第二格与第一格共用横轴。"""
    loss, rate = plot_curve(LOG).axes
    assert list(rate.lines[0].get_ydata()) == [row["learning_rate"] for row in LOG]
    assert loss.get_xlim() == rate.get_xlim()


def test_a_repeated_step_is_drawn_once():
    """续训重走的步以后写的为准。"""
    rows = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 9.0},
            {"step": 2, "loss": math.log(2)}]  # fmt: skip
    x, y = line(plot_curve(rows).axes[0], "raw")
    assert (x, y[1]) == ([1, 2], pytest.approx(1.0))


def test_events_are_vertical_lines_named_once():
    """续训画竖线，横坐标由步换算；图例里只说一次。"""
    rows = [
        *LOG,
        {"event": "resume", "step": 10},
        {"event": "resume", "tokens": 15000},
        {"event": "unknown", "step": 3},
    ]
    axes = plot_curve(rows).axes[0]
    gids = [entry.get_gid() for entry in axes.lines]
    assert {"resume-10000", "resume-15000"} <= set(gids)
    named = [text.get_text() for text in axes.get_legend().get_texts()]
    assert named == ["每步", "平滑", "续训"]


def looks(*, general: bool) -> list[dict[str, Any]]:
    """途中评估三次：领域 8 → 7 → 6，通用 5 → 5 → 5.5。"""
    found = [
        {"event": "evaluation", "step": n, "tokens": 1000 * n, "domain": domain}
        for n, domain in ((0, 8.0), (10, 7.0), (20, 6.0))
    ]
    for row, bits in zip(found, (5.0, 5.0, 5.5), strict=True):
        row |= {"general": bits} if general else {}
    return found


def test_looks_on_the_way_are_two_lines_and_a_path():
    """途中评估：领域与通用的变化各一条线；学与忘的路由原点走到末步。"""
    figure = plot_curve([*LOG, *looks(general=True)])
    changes, path = figure.axes[2:4]
    assert line(changes, "watch-domain") == ([0, 10000, 20000], [0, -12.5, -25])
    assert line(changes, "watch-general")[1] == pytest.approx([0, 0, 10])
    assert line(path, "path")[0] == [0, -12.5, -25]
    assert line(path, "path-end") == ([-25], pytest.approx([10]))
    assert "领域变了 −25.0%，通用变了 +10.0%" in figure.alt  # type: ignore[attr-defined]


def test_without_a_general_set_there_is_no_path():
    """只有领域：一条线，没有路；只评了一次：都没有。"""
    assert len(plot_curve([*LOG, *looks(general=False)]).axes) == 3
    assert len(plot_curve([*LOG, *looks(general=True)[:1]]).axes) == 2


def test_a_broken_loss_is_marked_and_said():
    """非数的步画成 ×，不打断曲线，替代文字里报数。"""
    rows = [{"step": s, "loss": math.nan if s == 3 else 1.0} for s in range(1, 6)]
    figure = plot_curve(rows, smoothing=0.9)
    assert line(figure.axes[0], "broken")[0] == [3]
    assert np.isfinite(line(figure.axes[0], "smooth")[1]).all()
    assert "1 步的损失不是有限数" in figure.alt  # type: ignore[attr-defined]


def test_scores_before_and_after_are_compared():
    """领域下降、通用上升：位置、百分比与替代文字一致。"""
    before = {"domain": {"bits_per_char": 8.0}, "general": {"bits_per_char": 5.0}}
    after = {"domain": {"bits_per_char": 6.0}, "general": {"bits_per_char": 5.5}}
    figure = plot_curve(LOG, before=before, after=after)
    panel = figure.axes[-1]
    assert line(panel, "before-领域")[0] == [8.0]
    assert line(panel, "after-通用")[0] == [5.5]
    said = [text.get_text() for text in panel.texts]
    assert "领域 8.00 → 6.00（−25.0%）" in said
    assert "通用 5.00 → 5.50（+10.0%）" in said
    assert "领域每字 8.00 到 6.00 比特（−25.0%）" in figure.alt  # type: ignore[attr-defined]


def test_a_missing_general_score_leaves_one_arrow():
    """没有通用集时只画领域；只给一边时不画。"""
    domain = {"domain": {"bits_per_char": 8.0}}
    assert len(plot_curve(LOG, before=domain, after=domain).axes) == 3
    assert len(plot_curve(LOG, before=domain).axes) == 2


@given(
    st.lists(st.floats(-50, 50), min_size=1, max_size=40),
    st.floats(0, 60),
)
def test_smoothing_stays_within_the_data(values: list[float], window: float):
    """平滑是加权平均：长度不变，不越出数据的范围，常数不变。"""
    data = np.array(values)
    line = smooth(data, window)
    assert line.shape == data.shape
    assert line.min() >= data.min() - 1e-9
    assert line.max() <= data.max() + 1e-9
    assert smooth(np.full(len(data), 3.0), window) == pytest.approx(
        np.full(len(data), 3.0)
    )


def test_smoothing_does_not_lag():
    """直线在中段平滑之后还是原来的直线，而不是落后几步。"""
    data = np.arange(50.0)
    assert smooth(data, 8)[10:40] == pytest.approx(data[10:40])


@pytest.mark.parametrize(
    ("rows", "smoothing"), [([], 0.1), ([{"step": 1}], 0.1), (LOG, 1.5), (LOG, -0.1)]
)
def test_an_empty_log_is_refused(rows: list[dict[str, Any]], smoothing: float):
    """没有损失可画，或平滑窗口没有意义。"""
    with pytest.raises(TrainingError, match="smoothing"):
        plot_curve(rows, smoothing=smoothing)
