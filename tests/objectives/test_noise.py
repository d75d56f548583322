"""噪声：个数恰好、位置均匀、整词不拆、80/10/10。"""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import WORD_LENGTHS, rng_of, within_five_sigma, word_ids_of

from companion.errors import ObjectiveError
from companion.objectives.noise import (
    choose_bernoulli,
    choose_ngrams,
    choose_tokens,
    masking_budget,
    read_words,
    replace_tokens,
)
from companion.objectives.rows import draw_below, require_probability, runs_of, shuffled

CANDIDATES = st.lists(st.booleans(), min_size=1, max_size=60).map(np.array)
SEEDS = st.integers(0, 2**40)


def choose_words(words, candidates, budget, rng):
    """整词：一个词的词组。"""
    runs = read_words(words, candidates, [0])
    return choose_ngrams(runs, np.zeros(len(words), int), budget, (1.0,), rng)


def test_shuffling_gives_every_order_and_drawing_every_number():
    """三个数的六种次序、五个数各自的机会相等（5 倍标准差之内）。"""
    rng, trials = np.random.default_rng(0), 6000
    orders = [tuple(shuffled(3, rng)) for _ in range(trials)]
    assert len(set(orders)) == 6
    assert all(within_five_sigma(orders.count(o), trials, 1 / 6) for o in set(orders))
    drawn = [draw_below(5, rng) for _ in range(trials)]
    assert set(drawn) == set(range(5))
    assert all(within_five_sigma(drawn.count(n), trials, 1 / 5) for n in range(5))
    assert shuffled(0, rng) == []


@given(st.lists(st.booleans(), max_size=30), st.data())
def test_runs_are_the_adjoining_true_values(flags, data):
    """各段合起来恰是真值，段与段不相连，或归属不同。"""
    owners = np.cumsum([data.draw(st.booleans()) for _ in flags]).astype(int)
    runs = runs_of(np.array(flags, bool), owners)
    inside = [at for start, stop in runs for at in range(start, stop)]
    assert inside == [at for at, flag in enumerate(flags) if flag]
    for (_, stop), (start, _) in pairwise(runs):
        assert stop < start or owners[stop - 1] != owners[start]
    assert all(owners[start] == owners[stop - 1] for start, stop in runs)


@pytest.mark.parametrize(
    ("tokens", "candidates", "probability", "budget"),
    [
        (512, 510, 0.15, 77),  # BERT 的发布代码
        (128, 126, 0.15, 19),
        (10, 8, 0.25, 2),  # 2.5 舍入取偶
        (6, 4, 0.25, 2),  # 1.5 舍入取偶
        (3, 1, 0.15, 1),  # 至少一个
        (2, 0, 0.15, 0),  # 没有候选
        (4, 2, 1.0, 2),  # 不超过候选
    ],
)
def test_the_budget_is_that_of_bert(tokens, candidates, probability, budget):
    """max(1, round(p·T))，不超过候选数；512 个词元恰好 77 个。"""
    assert masking_budget(tokens, candidates, probability) == budget


@given(CANDIDATES, st.integers(0, 70), SEEDS)
def test_the_number_of_chosen_tokens_is_exact(candidates, budget, seed):
    """恰好选 budget 个，不够就全选，都在候选之内；候选掩码不变。"""
    before = candidates.copy()
    chosen = choose_tokens(candidates, budget, rng_of(seed))
    assert chosen.dtype == np.bool_
    assert int(chosen.sum()) == min(budget, int(candidates.sum()))
    assert not (chosen & ~candidates).any()
    assert np.array_equal(candidates, before)


def test_every_candidate_is_chosen_equally_often():
    """4,000 行里，18 个候选位置各自的选中率都是 3/18。"""
    candidates = np.ones(20, np.bool_)
    candidates[[0, -1]] = False
    counts = sum(
        choose_tokens(candidates, 3, rng_of(0, i)).astype(int) for i in range(4000)
    )
    assert counts[[0, -1]].tolist() == [0, 0]
    assert all(within_five_sigma(n, 4000, 3 / 18) for n in counts[1:-1].tolist())


@given(CANDIDATES, st.sampled_from([0.0, 0.15, 1.0]), SEEDS)
def test_bernoulli_leaves_no_row_without_a_target(candidates, probability, seed):
    """有候选就至少选一个，没有候选就一个不选；概率为 1 时全选。"""
    chosen = choose_bernoulli(candidates, probability, rng_of(seed))
    assert not (chosen & ~candidates).any()
    assert chosen.any() == candidates.any()
    if probability == 1.0:
        assert np.array_equal(chosen, candidates)


def test_bernoulli_chooses_its_share():
    """10 万个候选里选中 15%。"""
    candidates = np.ones(100_000, np.bool_)
    chosen = choose_bernoulli(candidates, 0.15, rng_of(0))
    assert within_five_sigma(int(chosen.sum()), 100_000, 0.15)


@given(WORD_LENGTHS, st.integers(1, 40), st.data())
def test_words_stay_whole_and_within_the_budget(lengths, budget, data):
    """一词全选或全不选；预算 − 最长词 < 选中数 ≤ 预算。

    候选不够花完预算时全选；没有一个词放得下时只选最短的那个。
    """
    words = word_ids_of(lengths)
    banned = set(data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=3)))
    eligible = [n for word, n in enumerate(lengths) if word not in banned]
    candidates = np.array([int(word) not in banned for word in words])
    rng = rng_of(data.draw(SEEDS))
    chosen = choose_words(words, candidates, budget, rng)
    for word in range(len(lengths)):
        assert len(set(chosen[words == word])) == 1
    assert not (chosen & ~candidates).any()
    count = int(chosen.sum())
    if not eligible:
        assert count == 0
    elif min(eligible) > budget:
        assert count == min(eligible)
    elif sum(eligible) <= budget:
        assert count == sum(eligible)
    else:
        assert budget - max(eligible) < count <= budget


@given(st.integers(1, 40), st.integers(0, 50), SEEDS)
def test_one_token_words_spend_the_budget_exactly(size, budget, seed):
    """词都是单字词时，整词掩码与逐词元掩码选得一样多。"""
    candidates = np.ones(size, np.bool_)
    words = choose_words(np.arange(size), candidates, budget, rng_of(seed))
    tokens = choose_tokens(candidates, budget, rng_of(seed))
    assert words.sum() == tokens.sum()


def test_a_word_with_one_special_token_is_left_alone():
    """一词之中有一个词元不是候选，整词不选。"""
    words = np.array([-1, 0, 0, 1, 1, -1])
    candidates = np.array([False, True, False, True, True, False])
    chosen = choose_words(words, candidates, 4, rng_of(0))
    assert chosen.tolist() == [False, False, False, True, True, False]


def test_when_no_word_fits_the_shortest_is_taken():
    """预算两个词元而词都更长：取最短的那个，一行至少要有一个标签。"""
    words = word_ids_of([5, 3, 4])
    candidates = np.ones(12, np.bool_)
    for example in range(20):
        chosen = choose_words(words, candidates, 2, rng_of(0, example))
        assert np.array_equal(chosen, words == 1)


def test_words_of_one_length_are_chosen_equally_often():
    """十个二字词、预算四个词元：3,000 行里每个词的选中率都是 2/10。"""
    words = word_ids_of([2] * 10)
    candidates = np.ones(20, np.bool_)
    counts = sum(
        choose_words(words, candidates, 4, rng_of(0, i))[::2].astype(int)
        for i in range(3000)
    )
    assert all(within_five_sigma(n, 3000, 0.2) for n in list(counts))


def test_no_word_is_starved_by_its_length_or_its_place():
    """长短词混排：每个词的选中率与平均相差不到四成，长词也有份。"""
    lengths = [1, 2, 3, 1, 4, 2, 1, 3, 2, 1] * 4
    words = word_ids_of(lengths)
    candidates = np.ones(len(words), np.bool_)
    counts = sum(
        choose_words(words, candidates, 12, rng_of(0, i)).astype(int)
        for i in range(2000)
    )
    shares = counts / counts.mean()
    assert shares.min() > 0.6
    assert shares.max() < 1.4


def test_chosen_tokens_split_eighty_ten_ten():
    """两万个选中的词元：80% 掩码、10% 随机、10% 原样，各在 5 倍标准差之内。"""
    ids = np.full(20_000, 7)
    corrupted = replace_tokens(
        ids,
        np.ones(20_000, np.bool_),
        mask_token_id=1,
        random_ids=np.arange(100, 120),  # 与原文、掩码都不重合，三种情形分得清
        mask_replace_prob=0.8,
        random_replace_prob=0.1,
        rng=rng_of(0),
    )
    masked, kept = int((corrupted == 1).sum()), int((corrupted == 7).sum())
    drawn = corrupted[corrupted >= 100]
    assert masked + kept + len(drawn) == 20_000
    assert within_five_sigma(masked, 20_000, 0.8)
    assert within_five_sigma(kept, 20_000, 0.1)
    assert within_five_sigma(len(drawn), 20_000, 0.1)
    for count in np.bincount(drawn - 100, minlength=20).tolist():
        assert within_five_sigma(count, len(drawn), 1 / 20)


@given(CANDIDATES, SEEDS, st.sampled_from([(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)]))
def test_only_chosen_tokens_change_and_only_as_told(chosen, seed, probabilities):
    """未选中的原样；全掩码、全随机、全保留三种极端恰如其名；原文不改。"""
    mask, random = probabilities
    ids = np.arange(200, 200 + len(chosen))
    before = ids.copy()
    corrupted = replace_tokens(
        ids,
        chosen,
        mask_token_id=1,
        random_ids=np.array([5]),
        mask_replace_prob=mask,
        random_replace_prob=random,
        rng=rng_of(seed),
    )
    replacement = {(1.0, 0.0): 1, (0.0, 1.0): 5}.get(probabilities)
    expected = ids if replacement is None else np.where(chosen, replacement, ids)
    assert np.array_equal(corrupted, expected)
    assert np.array_equal(ids, before)


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), float("inf")])
def test_a_probability_outside_zero_to_one_is_refused_by_name(value):
    """消息点出参数的名字与它的值。"""
    with pytest.raises(ObjectiveError, match=f"mlm_probability = {value}"):
        require_probability("mlm_probability", value)
