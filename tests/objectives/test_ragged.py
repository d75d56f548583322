"""首尾相接的数组与由钥匙决定的随机数：均匀、互不相关、与同批无关、个数恰好。"""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import within_five_sigma

from companion.objectives.noise import derive_generator
from companion.objectives.ragged import (
    Ragged,
    choose_exactly,
    choose_ragged,
    document_keys,
    uniform,
    uniform_ragged,
)

ROWS = st.lists(st.lists(st.integers(-9, 9), max_size=6), max_size=6)


def ragged_of(rows):
    return Ragged.of([np.array(row, np.int64) for row in rows])


def keys_of(count, seed=0, epoch=0, first=0):
    return document_keys(
        seed,
        np.full(count, epoch),
        np.arange(first, first + count),
        np.zeros(count, np.int64),
    )


@given(ROWS)
def test_splitting_undoes_joining(rows):
    """接起来再拆开，就是原来的各段，空的也在。"""
    assert [row.tolist() for row in ragged_of(rows).split()] == rows
    assert len(ragged_of(rows)) == len(rows)


@given(ROWS)
def test_owners_and_places_say_where_each_element_came_from(rows):
    """第 n 个元素是第 owners[n] 段的第 places[n] 个。"""
    ragged = ragged_of(rows)
    pairs = zip(ragged.owners.tolist(), ragged.places.tolist(), strict=True)
    assert [rows[owner][place] for owner, place in pairs] == ragged.values.tolist()
    assert (
        ragged.starts.tolist()
        == [
            0,
            *itertools.accumulate(map(len, rows)),
        ][: len(rows)]
    )


@given(ROWS, st.lists(st.integers(0, 5), max_size=3), st.lists(st.integers(0, 5)))
def test_wrapping_adds_the_edges_to_every_row(rows, prefix, suffix):
    """每段前后添上同样的首尾，空段也添。"""
    wrapped = ragged_of(rows).wrapped(np.array(prefix), np.array(suffix))
    assert [row.tolist() for row in wrapped.split()] == [
        [*prefix, *row, *suffix] for row in rows
    ]


@given(st.data(), ROWS)
def test_rolling_starts_every_row_somewhere_else(data, rows):
    """每段接成一圈，从所给的位置读起。"""
    shifts = [data.draw(st.integers(0, max(0, len(row) - 1))) for row in rows]
    rolled = ragged_of(rows).rolled(np.array(shifts, np.int64))
    assert [row.tolist() for row in rolled.split()] == [
        row[shift:] + row[:shift] for row, shift in zip(rows, shifts, strict=True)
    ]


def test_uniform_numbers_are_uniform():
    """2 万篇各 5 个：在 [0, 1) 之内，均值、方差、十个等分格都合，各列互不相关。"""
    numbers = uniform(keys_of(20_000), 5)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    total = numbers.size
    assert abs(numbers.mean() - 0.5) <= 5 / math.sqrt(12 * total)
    assert abs(numbers.var() - 1 / 12) <= 5 * math.sqrt(1 / 180 / total)
    for count in np.histogram(numbers, 10, (0, 1))[0].tolist():
        assert within_five_sigma(count, total, 0.1)
    correlations = np.corrcoef(numbers, rowvar=False)[np.triu_indices(5, 1)]
    assert (np.abs(correlations) <= 5 / math.sqrt(len(numbers))).all()


@pytest.mark.parametrize(
    "other",
    [
        lambda count: uniform(keys_of(count, first=1), 1),  # 邻近的样本
        lambda count: uniform(keys_of(count, epoch=1), 1),
        lambda count: uniform(keys_of(count, seed=1), 1),
        lambda count: uniform(keys_of(count), 1, stream=1),
        lambda count: uniform(keys_of(count), 2)[:, 1:],
    ],
)
def test_neighbouring_keys_and_streams_are_unrelated(other):
    """样本、轮次、种子、股、位次只差 1，两列数的相关在 5 倍标准差之内。"""
    count = 20_000
    first, second = uniform(keys_of(count), 1)[:, 0], other(count)[:, 0]
    assert not np.array_equal(first, second)
    assert abs(np.corrcoef(first, second)[0, 1]) <= 5 / math.sqrt(count)


def test_keys_differ_in_every_part():
    """种子、轮次、样本编号、行内次序各取几个值，所得的钥匙两两不同。"""
    parts = itertools.product(range(3), range(3), [-1, 0, 1, 2**40], range(3))
    keys = [
        int(document_keys(seed, *(np.array([value]) for value in rest))[0])
        for seed, *rest in parts
    ]
    assert len(set(keys)) == 3 * 3 * 4 * 3


def test_the_key_of_a_sample_is_mixed_like_the_generator_of_the_other_family():
    """前三个数的搅拌与 `derive_generator` 相同，再添行内次序；是同一个 splitmix64。"""
    mask = (1 << 64) - 1

    def step(state, value):
        state = (state ^ value) + 0x9E3779B97F4A7C15 & mask
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & mask
        state = (state ^ state >> 27) * 0x94D049BB133111EB & mask
        return state ^ state >> 31

    three = step(step(step(0, 7), 2), 12345)
    assert derive_generator(7, 2, 12345).initial_seed() == three
    [key] = document_keys(7, np.array([2]), np.array([12345]), np.array([3]))
    assert int(key) == step(three, 3)


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(0, 5))
def test_ragged_numbers_are_the_numbers_of_the_matrix(lengths, stream):
    """首尾相接的与矩阵里的逐个相等，与同批的别的文档、要几个都无关。"""
    keys = keys_of(len(lengths))
    flat = uniform_ragged(np.array(lengths, np.int64), keys, stream)
    matrix = uniform(keys, 9, stream)
    rows = [row[:size] for row, size in zip(matrix, lengths, strict=True)]
    assert np.array_equal(flat, np.concatenate([*rows, np.empty(0)]))
    for key, row in zip(keys, matrix, strict=True):
        assert np.array_equal(uniform(np.array([key]), 4, stream)[0], row[:4])


@given(st.data(), st.lists(st.integers(0, 12), max_size=8), st.integers(0, 99))
def test_choosing_takes_exactly_as_many_as_asked(data, slots, seed):
    """每篇恰选 counts 个（0 个与全选也对），独自选与同批选相同。"""
    counts = [data.draw(st.integers(0, size)) for size in slots]
    keys = keys_of(len(slots), seed)
    sizes = np.array(slots, np.int64)
    chosen = choose_ragged(sizes, np.array(counts, np.int64), keys)
    rows = Ragged(chosen, sizes).split()
    assert [int(row.sum()) for row in rows] == counts
    for number, row in enumerate(rows):
        alone = choose_ragged(
            sizes[number : number + 1],
            np.array(counts[number : number + 1]),
            keys[number : number + 1],
        )
        assert np.array_equal(alone, row)


def test_every_subset_is_equally_likely():
    """6 选 2 的 15 种，1.5 万篇里各占 1/15；行数悬殊的同批文档不改变这一点。"""
    count = 15_000
    slots = np.tile([6, 300], (count, 1)).ravel()
    counts = np.tile([2, 40], (count, 1)).ravel()
    chosen = choose_ragged(slots, counts, keys_of(2 * count))
    small = chosen[np.repeat(np.tile([True, False], count), slots)].reshape(count, 6)
    codes, hits = np.unique(small @ (1 << np.arange(6)), return_counts=True)
    assert len(codes) == math.comb(6, 2)
    assert all(within_five_sigma(int(n), count, 1 / 15) for n in hits)


def test_only_sorting_the_low_scores_changes_nothing():
    """长短悬殊的 400 篇，选几成都有：与整行排序的 `choose_exactly` 选中的相同。"""
    rng = np.random.default_rng(0)
    slots = rng.choice([0, 1, 2, 9, 80, 500], 400)
    counts = (rng.choice([0.0, 0.06, 0.3, 0.9, 1.0], 400) * slots).astype(np.int64)
    chosen = choose_ragged(slots, counts, keys_of(400))
    matrix = choose_exactly(slots, counts, keys_of(400))
    assert np.array_equal(chosen, matrix[np.arange(500) < slots[:, None]])


def test_a_low_line_is_noticed(monkeypatch):
    """分数全都很高（界线以下一个也没有）：照样选出最小的几个。"""
    high = np.array([9, 7, 8, 5, 6, 3], np.uint64) + np.uint64(2**64 - 100)
    monkeypatch.setattr("companion.objectives.ragged._bits", lambda *_: high)
    chosen = choose_ragged(np.array([3, 3]), np.array([1, 2]), keys_of(2))
    assert chosen.tolist() == [False, True, False, True, False, True]


def test_every_document_may_have_its_own_stream():
    """一次给各篇不同的股，与逐篇分开选相同。"""
    slots, counts, streams = np.array([30, 40]), np.array([5, 6]), np.array([2, 0])
    keys = keys_of(2)
    apart = [
        choose_ragged(slots[d : d + 1], counts[d : d + 1], keys[d : d + 1], stream)
        for d, stream in enumerate([2, 0])
    ]
    together = choose_ragged(slots, counts, keys, streams)
    assert np.array_equal(together, np.concatenate(apart))


def test_equal_scores_still_give_exact_counts(monkeypatch):
    """分数全同（实际约 2⁻⁴⁴ 的机会）时取靠前的，个数仍然恰好。"""
    monkeypatch.setattr(
        "companion.objectives.ragged._bits",
        lambda lengths, keys, stream: np.zeros(int(lengths.sum()), np.uint64),
    )
    chosen = choose_ragged(np.array([4, 0, 3]), np.array([2, 0, 1]), keys_of(3))
    assert chosen.tolist() == [True, True, False, False, True, False, False]
