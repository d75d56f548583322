"""学习率曲线：逐步与手算的值相同。"""

import math

import pytest
import torch

from companion.training.arguments import factor_at, make_scheduler, warmup_of

KINDS = ("cosine", "warmup_stable_decay", "linear", "constant")


def curve(kind: str, num_steps: int, warmup: int) -> list[float]:
    return [factor_at(step, kind, num_steps, warmup) for step in range(num_steps + 1)]


@pytest.mark.parametrize("kind", KINDS)
def test_warm_up_rises_in_equal_steps_and_never_starts_at_zero(kind):
    """预热 4 步：1/5、2/5、3/5、4/5，随后到峰值。"""
    values = curve(kind, 20, 4)
    assert values[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_cosine_falls_to_a_tenth_and_stays():
    """余弦：中点是 0.55，四分之一处是 0.1 + 0.45(1 + √½)，末尾是 0.1，不是 0。"""
    values = curve("cosine", 8, 0)
    quarter = 0.1 + 0.45 * (1 + math.sqrt(0.5))
    assert values[0] == 1
    assert values[2] == pytest.approx(quarter)
    assert values[4] == pytest.approx(0.55)
    assert values[8] == pytest.approx(0.1)
    assert factor_at(99, "cosine", 8, 0) == pytest.approx(0.1)


def test_wsd_is_flat_then_falls_in_the_last_fifth():
    """WSD：10 步，末 2 步线性降到 0。"""
    assert curve("warmup_stable_decay", 10, 0) == pytest.approx(
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 0.5, 0]
    )


def test_linear_falls_to_zero_after_the_warm_up():
    """线性：预热 2 步之后，8 步降到 0。"""
    assert curve("linear", 10, 2)[2:] == pytest.approx([1 - n / 8 for n in range(9)])


def test_constant_stays_at_the_peak():
    """恒定：预热之后一直是 1。"""
    assert curve("constant", 5, 2)[2:] == [1, 1, 1, 1]


def test_warm_up_may_be_a_share_or_a_number_of_steps():
    """小于 1 是比例，大于等于 1 是步数。"""
    assert [warmup_of(w, 200) for w in (0, 0.03, 0.1, 1, 50)] == [0, 6, 20, 1, 50]


@pytest.mark.parametrize("kind", KINDS)
def test_the_scheduler_of_pytorch_follows_the_curve(kind):
    """`make_scheduler` 逐步给出的学习率 = 峰值 × 曲线。"""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = make_scheduler(optimizer, kind, 12, 0.25)
    seen = []
    for _ in range(12):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert seen == pytest.approx([0.5 * value for value in curve(kind, 12, 3)[:12]])
