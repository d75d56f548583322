"""噪声：个数恰好、位置均匀、整词不拆、80/10/10，一切只由发生器决定。"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import WORD_LENGTHS, within_five_sigma, word_ids_of

from companion.errors import ObjectiveError
from companion.objectives.noise import (
    choose_bernoulli,
    choose_tokens,
    choose_words,
    corrupt_tokens,
    derive_generator,
    masking_budget,
    require_probability,
)

CANDIDATES = st.lists(st.booleans(), min_size=1, max_size=60).map(torch.tensor)
SEEDS = st.integers(-(2**70), 2**70)


def draw(*key: int) -> list[int]:
    return torch.randint(2**31, (4,), generator=derive_generator(*key)).tolist()


@given(SEEDS, st.integers(0, 99), st.integers(0, 2**63 - 1))
def test_the_same_key_gives_the_same_stream(seed, epoch, example):
    """（种子, 轮次, 编号）相同，随机数就相同；任何整数都可以作种子。"""
    assert draw(seed, epoch, example) == draw(seed, epoch, example)


def test_neighbouring_keys_give_unrelated_streams():
    """相邻的键、互换位置的键，一万个键里没有两个序列开头相同。"""
    keys = [(s, e, i) for s in range(10) for e in range(10) for i in range(100)]
    assert len({tuple(draw(*key)) for key in keys}) == len(keys)


def test_the_first_number_is_uniform_over_consecutive_examples():
    """连续编号的首个随机数均匀：十个区间各占一成。"""
    first = torch.stack(
        [torch.rand((), generator=derive_generator(0, 0, i)) for i in range(5000)]
    )
    for count in torch.histc(first, 10, 0, 1).tolist():
        assert within_five_sigma(int(count), 5000, 0.1)


def test_deriving_leaves_the_global_stream_alone():
    """全局随机状态不动。"""
    before = torch.get_rng_state()
    draw(1, 2, 3)
    assert torch.equal(torch.get_rng_state(), before)


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
    before = candidates.clone()
    chosen = choose_tokens(candidates, budget, derive_generator(seed, 0, 0))
    assert chosen.dtype == torch.bool
    assert int(chosen.sum()) == min(budget, int(candidates.sum()))
    assert not (chosen & ~candidates).any()
    assert torch.equal(candidates, before)


def test_every_candidate_is_chosen_equally_often():
    """4,000 行里，18 个候选位置各自的选中率都是 3/18。"""
    candidates = torch.ones(20, dtype=torch.bool)
    candidates[[0, -1]] = False
    counts = sum(
        choose_tokens(candidates, 3, derive_generator(0, 0, i)).long()
        for i in range(4000)
    )
    assert counts[[0, -1]].tolist() == [0, 0]
    assert all(within_five_sigma(n, 4000, 3 / 18) for n in counts[1:-1].tolist())


@given(CANDIDATES, st.sampled_from([0.0, 0.15, 1.0]), SEEDS)
def test_bernoulli_leaves_no_row_without_a_target(candidates, probability, seed):
    """有候选就至少选一个，没有候选就一个不选；概率为 1 时全选。"""
    chosen = choose_bernoulli(candidates, probability, derive_generator(seed, 0, 0))
    assert not (chosen & ~candidates).any()
    assert chosen.any() == candidates.any()
    if probability == 1.0:
        assert torch.equal(chosen, candidates)


def test_bernoulli_chooses_its_share():
    """10 万个候选里选中 15%。"""
    candidates = torch.ones(100_000, dtype=torch.bool)
    chosen = choose_bernoulli(candidates, 0.15, derive_generator(0, 0, 0))
    assert within_five_sigma(int(chosen.sum()), 100_000, 0.15)


@given(WORD_LENGTHS, st.integers(1, 40), st.data())
def test_words_stay_whole_and_within_the_budget(lengths, budget, data):
    """一词全选或全不选；预算 − 最长词 < 选中数 ≤ 预算。

    候选不够花完预算时全选；没有一个词放得下时只选最短的那个。
    """
    words = word_ids_of(lengths)
    banned = set(data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=3)))
    eligible = [n for word, n in enumerate(lengths) if word not in banned]
    candidates = torch.tensor([int(word) not in banned for word in words])
    generator = derive_generator(data.draw(SEEDS), 0, 0)
    chosen = choose_words(words, candidates, budget, generator)
    for word in range(len(lengths)):
        assert chosen[words == word].unique().numel() == 1
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
    candidates = torch.ones(size, dtype=torch.bool)
    words = choose_words(
        torch.arange(size), candidates, budget, derive_generator(seed, 0, 0)
    )
    tokens = choose_tokens(candidates, budget, derive_generator(seed, 0, 0))
    assert words.sum() == tokens.sum()


def test_a_word_with_one_special_token_is_left_alone():
    """一词之中有一个词元不是候选，整词不选。"""
    words = torch.tensor([-1, 0, 0, 1, 1, -1])
    candidates = torch.tensor([False, True, False, True, True, False])
    chosen = choose_words(words, candidates, 4, derive_generator(0, 0, 0))
    assert chosen.tolist() == [False, False, False, True, True, False]


def test_when_no_word_fits_the_shortest_is_taken():
    """预算两个词元而词都更长：取最短的那个，一行至少要有一个标签。"""
    words = word_ids_of([5, 3, 4])
    candidates = torch.ones(12, dtype=torch.bool)
    for example in range(20):
        chosen = choose_words(words, candidates, 2, derive_generator(0, 0, example))
        assert torch.equal(chosen, words == 1)


def test_word_numbers_may_be_any_labels_in_any_order():
    """词编号只分辨异同：不必从 0 起，不必连续，同一词不必相邻。"""
    words = torch.tensor([900, 7, 900, 7, 31, -1])
    candidates = words >= 0
    for example in range(20):
        chosen = choose_words(words, candidates, 2, derive_generator(0, 0, example))
        assert chosen.tolist() in (
            [True, False, True, False, False, False],
            [False, True, False, True, False, False],
            [False, False, False, False, True, False],
        )


def test_words_of_one_length_are_chosen_equally_often():
    """十个二字词、预算四个词元：3,000 行里每个词的选中率都是 2/10。"""
    words = word_ids_of([2] * 10)
    candidates = torch.ones(20, dtype=torch.bool)
    counts = sum(
        choose_words(words, candidates, 4, derive_generator(0, 0, i))[::2].long()
        for i in range(3000)
    )
    assert all(within_five_sigma(n, 3000, 0.2) for n in counts.tolist())


def test_no_word_is_starved_by_its_length_or_its_place():
    """长短词混排：每个词的选中率与平均相差不到四成，长词也有份。"""
    lengths = [1, 2, 3, 1, 4, 2, 1, 3, 2, 1] * 4
    words = word_ids_of(lengths)
    candidates = torch.ones(len(words), dtype=torch.bool)
    counts = sum(
        choose_words(words, candidates, 12, derive_generator(0, 0, i)).long()
        for i in range(2000)
    )
    shares = counts / counts.float().mean()
    assert shares.min() > 0.6
    assert shares.max() < 1.4


def test_chosen_tokens_split_eighty_ten_ten():
    """两万个选中的词元：80% 掩码、10% 随机、10% 原样，各在 5 倍标准差之内。"""
    ids = torch.full((20_000,), 7)
    corrupted = corrupt_tokens(
        ids,
        torch.ones(20_000, dtype=torch.bool),
        mask_token_id=1,
        random_ids=torch.arange(100, 120),  # 与原文、掩码都不重合，三种情形分得清
        mask_replace_prob=0.8,
        random_replace_prob=0.1,
        generator=derive_generator(0, 0, 0),
    )
    masked, kept = int((corrupted == 1).sum()), int((corrupted == 7).sum())
    drawn = corrupted[corrupted >= 100]
    assert masked + kept + len(drawn) == 20_000
    assert within_five_sigma(masked, 20_000, 0.8)
    assert within_five_sigma(kept, 20_000, 0.1)
    assert within_five_sigma(len(drawn), 20_000, 0.1)
    for count in torch.bincount(drawn - 100, minlength=20).tolist():
        assert within_five_sigma(count, len(drawn), 1 / 20)


@given(CANDIDATES, SEEDS, st.sampled_from([(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)]))
def test_only_chosen_tokens_change_and_only_as_told(chosen, seed, probabilities):
    """未选中的原样；全掩码、全随机、全保留三种极端恰如其名；原文不改。"""
    mask, random = probabilities
    ids = torch.arange(200, 200 + len(chosen))
    before = ids.clone()
    corrupted = corrupt_tokens(
        ids,
        chosen,
        mask_token_id=1,
        random_ids=torch.tensor([5]),
        mask_replace_prob=mask,
        random_replace_prob=random,
        generator=derive_generator(seed, 0, 0),
    )
    replacement = {(1.0, 0.0): 1, (0.0, 1.0): 5}.get(probabilities)
    expected = ids if replacement is None else ids.masked_fill(chosen, replacement)
    assert torch.equal(corrupted, expected)
    assert torch.equal(ids, before)


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), float("inf")])
def test_a_probability_outside_zero_to_one_is_refused_by_name(value):
    """消息点出参数的名字与它的值。"""
    with pytest.raises(ObjectiveError, match=f"mlm_probability = {value}"):
        require_probability("mlm_probability", value)
