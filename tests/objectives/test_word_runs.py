"""一次遮相连的几个词：长短合论文的分布，个数合预算，词、文档都不跨过。"""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    BERT,
    CLS,
    FEW,
    MASK,
    PLAIN_IDS,
    SEP,
    UNK,
    WORD_LENGTHS,
    rng_of,
    starts_of,
    within_five_sigma,
    word_ids_of,
)

from companion.batch import IGNORE_INDEX
from companion.errors import ObjectiveError
from companion.objectives.masked_lm import MaskedLMCollator
from companion.objectives.noise import (
    ALBERT_SHARES,
    SPAN_SHARES,
    choose_ngrams,
    choose_spans,
    draw_length,
    masking_budget,
    read_words,
)
from companion.objectives.rows import runs_of, shuffled

ROWS = st.lists(WORD_LENGTHS, min_size=1, max_size=3)
BUDGETS = st.integers(0, 40)
SEEDS = st.integers(0, 999)


def row_of(layout: list[list[int]], blocked: list[int]):
    """几篇文档的词长 → 可遮的词、各词元在第几篇、候选；`blocked` 不可遮。"""
    lengths = [length for document in layout for length in document]
    word_ids = word_ids_of(lengths)
    candidates = np.ones(len(word_ids), np.bool_)
    candidates[[place % len(word_ids) for place in blocked]] = False
    sizes = [sum(document) for document in layout]
    words = read_words(word_ids, candidates, starts_of(sizes))
    return words, np.repeat(np.arange(len(sizes)), sizes), candidates


def line_of(size: int):
    """一篇文档，每个词元自成一词。"""
    return row_of([[1] * size], [])[:2]


def sentence(size: int, example: int = 0) -> dict:
    """一行 `size` 个词元，每个字自成一词。"""
    generator = torch.Generator().manual_seed(example)
    drawn = torch.randint(len(PLAIN_IDS), (size - 2,), generator=generator)
    body = [PLAIN_IDS[i] for i in drawn.tolist()]
    return {
        "input_ids": [CLS, *body, SEP],
        "word_ids": [-1, *range(size - 2), -1],
        "example_id": example,
    }


@given(ROWS, st.lists(st.integers(0, 200), max_size=3), BUDGETS, SEEDS)
def test_ngrams_keep_words_whole_and_the_budget(layout, blocked, budget, seed):
    """词全选或全不选；预算 − 最长词 < 选中数 ≤ 预算，一个都放不下时只选最短的。"""
    words, documents, candidates = row_of(layout, blocked)
    chosen = choose_ngrams(words, documents, budget, ALBERT_SHARES, rng_of(seed))
    parts = [chosen[a:b] for a, b in words]
    sizes = [len(part) for part in parts]
    assert all(part.all() or not part.any() for part in parts)
    assert not (chosen & ~candidates).any()
    assert chosen.sum() == sum(int(part.sum()) for part in parts)
    if not sizes or budget == 0:
        assert not chosen.any()
    elif min(sizes) > budget:
        assert chosen.sum() == min(sizes)
    else:
        assert min(sum(sizes), budget - max(sizes) + 1) <= chosen.sum() <= budget


@given(ROWS, st.lists(st.integers(0, 200), max_size=3), BUDGETS, SEEDS)
def test_spans_have_the_exact_count(layout, blocked, budget, seed):
    """恰好 budget 个，词里的词元不够就全选；至多一处断在词中间；每段从词首起。"""
    words, documents, _ = row_of(layout, blocked)
    chosen = choose_spans(words, documents, budget, SPAN_SHARES, rng_of(seed))
    inside = np.zeros_like(chosen)
    broken = 0
    for start, stop in words:
        inside[start:stop] = True
        part = chosen[start:stop]
        broken += bool(part.any() and not part.all())
        assert part[0] or not part.any()
    assert not (chosen & ~inside).any()
    assert chosen.sum() == min(budget, int(inside.sum()))
    assert broken <= 1


def test_a_run_never_joins_two_documents():
    """两篇文档的词号碰巧相同、又没有特殊词元隔着，也是两个词；一段不跨过分界。"""
    words = read_words(np.zeros(4, int), np.ones(4, np.bool_), [0, 2])
    assert words == [(0, 2), (2, 4)]
    documents = np.array([0, 0, 1, 1])
    for seed in range(50):
        for choose in (choose_ngrams, choose_spans):
            chosen = choose(words, documents, 2, (0.0, 1.0), rng_of(seed))
            assert chosen.tolist() in ([1, 1, 0, 0], [0, 0, 1, 1])


def test_the_first_ngram_is_six_three_two_elevenths():
    """预算三个字，头一个词组总放得下：长短恰按 6/11、3/11、2/11，近末尾处归一。

    起点在 20 个字上均匀：末一个字只能取一个，末二个只能取一或二。
    """
    words, documents = line_of(20)
    first = Counter[int]()
    for example in range(3000):
        rng = rng_of(0, example)
        # 只抽第一个起点：与 choose_ngrams 用同样的两串随机数
        start = shuffled(20, rng)[0]
        lot = rng.random(20)[start]
        size = draw_length(ALBERT_SHARES[: min(3, 20 - start)], lot)
        chosen = choose_ngrams(words, documents, 3, ALBERT_SHARES, rng_of(0, example))
        assert chosen[start : start + size].all()
        assert chosen.sum() == 3
        first[size] += 1
    expected = {
        1: (18 * 6 / 11 + 6 / 9 + 1) / 20,
        2: (18 * 3 / 11 + 3 / 9) / 20,
        3: 18 * 2 / 11 / 20,
    }
    assert all(within_five_sigma(first[n], 3000, p) for n, p in expected.items())


def test_albert_run_lengths_are_those_of_the_reference_code():
    """512 个词元、77 个目标：相连一、二、三个字的段占 0.518、0.264、0.177。

    不是 6/11、3/11、2/11，因为相邻的词组并成一段；数字出自发布的代码。
    """
    features = [sentence(512, example) for example in range(150)]
    labels = MaskedLMCollator(BERT, granularity="ngram")(features)["labels"]
    chosen = labels != IGNORE_INDEX
    assert chosen.sum(1).tolist() == [77] * 150
    runs = (run for row in chosen for run in runs_of(row.numpy()))
    counts = Counter(stop - start for start, stop in runs)
    shares = [counts[n] / counts.total() for n in (1, 2, 3)]
    assert shares == pytest.approx([0.518, 0.264, 0.177], abs=0.03)


def test_span_lengths_follow_the_renormalised_geometric():
    """截断之后归一：一至十个词各占论文图 2 的份额，平均 3.80，不是 4.46。"""
    printed = [0.224, 0.179, 0.143, 0.115, 0.092, 0.073, 0.059, 0.047, 0.038, 0.030]
    assert [round(share, 3) for share in SPAN_SHARES] == printed
    assert sum(SPAN_SHARES) == pytest.approx(1)
    mean = sum(n * share for n, share in enumerate(SPAN_SHARES, 1))
    assert mean == pytest.approx(3.797, abs=5e-4)
    lots = rng_of(0).random(40_000).tolist()
    drawn = Counter(draw_length(SPAN_SHARES, lot) for lot in lots)
    for size, share in enumerate(SPAN_SHARES, 1):
        assert within_five_sigma(drawn[size], 40_000, share)


def test_the_first_span_has_the_drawn_length():
    """预算够用时，头一段的词数就是抽到的长度（不越过行末）。"""
    words, documents = line_of(60)
    for example in range(300):
        rng = rng_of(1, example)
        anchor = shuffled(60, rng)[0]
        size = min(draw_length(SPAN_SHARES, rng.random()), 60 - anchor)
        chosen = choose_spans(words, documents, size, SPAN_SHARES, rng_of(1, example))
        assert np.flatnonzero(chosen).tolist() == list(range(anchor, anchor + size))


def test_a_span_is_wholly_masked_wholly_random_or_wholly_kept():
    """SpanBERT：一段一个决定，比例仍是 80/10/10，没有一段是混的。"""
    features = [sentence(512, example) for example in range(150)]
    collator = MaskedLMCollator(BERT, granularity="span", rounding="up")
    batch = collator(features)
    kinds = Counter[str]()
    for inputs, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        chosen = labels != IGNORE_INDEX
        assert chosen.sum() == 77
        for start, stop in runs_of(chosen.numpy()):
            shown, original = inputs[start:stop], labels[start:stop]
            masked, kept = shown == MASK, shown == original
            assert masked.all() or not masked.any()
            if len(shown) < 3:  # 随机词元可能碰巧全是原来的：短的段不好分
                continue
            if masked.all():
                kinds["masked"] += 1
            elif kept.all():
                kinds["kept"] += 1
            else:
                kinds["random"] += 1
    total = kinds.total()
    assert within_five_sigma(kinds["masked"], total, 0.8)
    assert within_five_sigma(kinds["random"], total, 0.1)
    assert within_five_sigma(kinds["kept"], total, 0.1)


@pytest.mark.parametrize("granularity", ["ngram", "span"])
def test_runs_never_cover_a_special_token(granularity):
    """词中有 [UNK]，整词不遮；相邻的词也不越过它。"""
    feature = sentence(60)
    feature["input_ids"][20] = UNK
    features = [feature | {"example_id": example} for example in range(50)]
    collator = MaskedLMCollator(BERT, granularity=granularity, mlm_probability=0.5)
    batch = collator(features)
    assert (batch["labels"][:, [0, 20, 59]] == IGNORE_INDEX).all()
    assert (batch["input_ids"][:, 20] == UNK).all()


@FEW
@given(ROWS, st.sampled_from(["ngram", "span"]), SEEDS)
def test_neighbours_change_nothing_and_the_text_can_be_restored(
    layout, granularity, seed
):
    """与谁一批都一样；标签与输入合起来是原文；个数合预算。"""
    features = []
    for example, lengths in enumerate(layout):
        feature = sentence(sum(lengths) + 2, example)
        words = [-1, *word_ids_of(lengths).tolist(), -1]
        features.append(feature | {"word_ids": words, "epoch": seed % 3})
    collator = MaskedLMCollator(BERT, granularity=granularity, seed=seed)
    batch = collator(features)
    for row, feature in enumerate(features):
        alone = collator([feature])
        size = len(feature["input_ids"])
        for key, value in alone.items():
            assert torch.equal(batch[key][row, :size], value[0])
        ids, labels = alone["input_ids"][0], alone["labels"][0]
        whole = torch.where(labels != IGNORE_INDEX, labels, ids)
        assert whole.tolist() == feature["input_ids"]
        budget = masking_budget(size, size - 2, 0.15)
        count = int((labels != IGNORE_INDEX).sum())
        if granularity == "span":
            assert count == budget
        else:
            assert 1 <= count <= max(budget, min(layout[row]))


@pytest.mark.parametrize(
    ("rounding", "counts"),
    [("nearest", {77}), ("up", {77}), ("down", {76}), ("stochastic", {76, 77})],
)
def test_the_budget_is_rounded_as_each_paper_does(rounding, counts):
    """512 × 0.15 = 76.8：舍入与向上是 77，向下是 76，随机取整两者都有。"""
    features = [sentence(512, example) for example in range(40)]
    labels = MaskedLMCollator(BERT, rounding=rounding)(features)["labels"]
    assert set((labels != IGNORE_INDEX).sum(1).tolist()) == counts


def test_stochastic_rounding_is_right_on_average():
    """⌊76.8 + u⌋ 有八成是 77：平均恰是 76.8（RoBERTa）。"""
    features = [sentence(512, example) for example in range(600)]
    labels = MaskedLMCollator(BERT, rounding="stochastic")(features)["labels"]
    counts = (labels != IGNORE_INDEX).sum(1)
    assert within_five_sigma(int((counts == 77).sum()), 600, 0.8)


def test_the_mask_rate_of_a_position_is_even_for_ngrams():
    """每个位置轮到的机会：行中段在 5 倍标准差内相等，查得出边上差一的错。"""
    features = [sentence(32) | {"example_id": example} for example in range(1200)]
    labels = MaskedLMCollator(BERT, granularity="ngram")(features)["labels"]
    counts = (labels != IGNORE_INDEX).sum(0).tolist()
    assert counts[0] == counts[-1] == 0
    middle = counts[5:-5]
    share = sum(middle) / len(middle) / 1200
    assert all(within_five_sigma(count, 1200, share) for count in middle)


@pytest.mark.parametrize("granularity", ["ngram", "span"])
def test_runs_need_word_ids(granularity):
    """没有词界：点名粒度，说清怎么算。"""
    collator = MaskedLMCollator(BERT, granularity=granularity)
    with pytest.raises(ObjectiveError, match=rf"{granularity}.*word_ids"):
        collator([{"input_ids": [CLS, PLAIN_IDS[0], SEP]}])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"granularity": "ngram", "selection": "bernoulli"}, "ngram 配了"),
        ({"rounding": "random"}, "rounding = 'random'.*stochastic"),
        ({"ngram_shares": ()}, r"ngram_shares = \(\)"),
        ({"ngram_shares": (0.5, -0.1)}, "ngram_shares"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    """写错、互相矛盾的设置，建整理器时就拒绝。"""
    with pytest.raises(ObjectiveError, match=message):
        MaskedLMCollator(BERT, **settings)
