"""自助区间：可复现，配对更窄，行少时如实说不知道。"""

import numpy as np
import pytest

from companion.evaluation.bootstrap import bootstrap_difference, bootstrap_ratio


def _rows(seed: int = 0, count: int = 400):
    rng = np.random.default_rng(seed)
    chars = rng.integers(5, 60, count)
    hard = rng.normal(6.0, 1.0, count)  # 行与行难易不同
    return hard, chars, rng


def test_the_interval_is_as_wide_as_the_standard_error_says():
    """400 行、每行标准差 1：区间约为 ±1.96/√400，与正态近似相差不到两成。"""
    bits, _, _ = _rows()
    low, high = bootstrap_ratio(bits, np.ones(400)) or (0, 0)
    assert low < bits.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * bits.std() / 20, rel=0.2)


def test_the_same_seed_gives_the_same_interval():
    """区间由种子决定，全局随机状态不受影响。"""
    hard, chars, _ = _rows()
    first = bootstrap_ratio(hard * chars, chars)
    np.random.seed(1)
    assert bootstrap_ratio(hard * chars, chars) == first
    assert bootstrap_ratio(hard * chars, chars, seed=1) != first


def test_a_paired_difference_is_much_narrower_than_an_unpaired_one():
    """前后同样的行难易相消：处处好 0.1 比特，配对看得出，不配对看不出。"""
    hard, chars, rng = _rows()
    better = hard - 0.1 + rng.normal(0, 0.05, len(hard))
    before, after = (hard * chars, chars), (better * chars, chars)
    paired = bootstrap_difference(before, after)
    loose = bootstrap_difference(before, after, paired=False)
    assert paired.value == loose.value == pytest.approx(0.1, abs=0.02)
    assert paired.interval is not None
    assert loose.interval is not None
    assert 0 < paired.interval[0] < paired.value < paired.interval[1]
    assert loose.interval[0] < 0 < loose.interval[1]


def test_the_difference_is_before_minus_after():
    """为正就是降了。"""
    assert bootstrap_difference(([4, 4], [1, 1]), ([3, 3], [1, 1])).value == 1.0


def test_one_row_has_no_interval():
    """一行重抽还是它自己，估不出区间。"""
    assert bootstrap_ratio([3.0], [1]) is None
    assert bootstrap_difference(([3.0], [1]), ([2.0], [1])) == (1.0, None, True)


def test_resamples_without_a_character_are_left_out():
    """抽到的行都没有字时比值没有定义，不算。"""
    low, high = bootstrap_ratio([2.0, 0.0], [1, 0]) or (0, 0)
    assert (low, high) == (2.0, 2.0)
