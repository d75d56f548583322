"""GLM 的空：片段多长、摆在哪里、哪一层次；分布在 5 倍标准差之内。"""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import BERT, FEW, within_five_sigma

from companion.checkpoints.tiny import tiny_tokenizer
from companion.objectives.blanks import (
    find_blank_tokens,
    sentence_spans,
    tail_spans,
    token_spans,
    truncated_poisson,
)
from companion.objectives.ragged import Ragged, document_keys
from companion.objectives.sentences import sentence_end_ids

TEXT = (
    "臣光曰：臣闻天子之职莫大于礼，礼莫大于分，分莫大于名。三年春，大旱，民饥！"
    "飞鸟尽，良弓藏。勿以善小而不为。"
)


def keys_of(count: int, seed: int = 0) -> np.ndarray:
    zeros = np.zeros(count, np.int64)
    return document_keys(seed, zeros, np.arange(count), zeros)


def test_span_lengths_follow_the_poisson_without_zero():
    """λ = 3 去掉零：P(1) = .157、均值 3.157；五万次抽取逐格在 5 倍标准差之内。"""
    chances = truncated_poisson(3.0)
    assert chances.sum() == pytest.approx(1)
    sizes = np.arange(1, 40)
    exact = 3.0**sizes / np.array(
        [float(np.prod(np.arange(1.0, k + 1))) for k in sizes]
    )
    np.testing.assert_allclose(chances, exact / exact.sum(), rtol=1e-12)
    # 预算 1：每篇只抽一次，不受“够了就停”影响
    count = 50_000
    spans = token_spans(
        np.full(count, 60), keys_of(count), density=0.001, mean_length=3.0
    )
    assert len(spans.lengths) == count
    cells = np.bincount(spans.lengths, minlength=40)
    for size, chance in zip(sizes[:12], chances[:12], strict=True):
        assert within_five_sigma(int(cells[size]), count, float(chance)), size


def test_the_budget_is_met_and_the_last_span_not_trimmed():
    """512 个词元：挖去 76 到 76 + 38 个，平均 15.1%（发布的代码 0.1515）。"""
    count = 2000
    spans = token_spans(
        np.full(count, 512), keys_of(count), density=0.15, mean_length=3.0
    )
    hidden = np.bincount(spans.documents, spans.lengths)
    assert hidden.min() >= int(0.15 * 512)
    assert hidden.max() <= int(0.15 * 512) + 38
    assert hidden.mean() / 512 == pytest.approx(0.1515, abs=0.0005)


@FEW
@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=6),
    st.sampled_from([0.05, 0.15, 0.5, 1.0]),
    st.integers(0, 99),
)
def test_token_spans_are_apart_and_inside(lengths, density, seed):
    """片段在正文之内、互不相邻、按起点排列；不止一个词元的，至少留一个不挖。"""
    spans = token_spans(
        np.array(lengths), keys_of(len(lengths), seed), density=density, mean_length=3.0
    )
    for number, length in enumerate(lengths):
        mine = spans.documents == number
        starts, stops = spans.starts[mine], (spans.starts + spans.lengths)[mine]
        assert (spans.lengths[mine] >= 1).all()
        if length == 0:
            assert not mine.any()
            continue
        assert starts[0] >= 0
        assert stops[-1] <= length
        assert (starts[1:] > stops[:-1]).all()
        assert mine.any()
        assert spans.lengths[mine].sum() < max(length, 2)


@pytest.mark.parametrize(("long", "least"), [(2, 10_000), (3, 2000)])
def test_every_arrangement_of_the_spans_is_equally_likely(long, least):
    """12 个词元里挖长 1 与更长的两段：每种摆法、两种先后都一样多，5 倍标准差之内。

    预算 3：先抽到 3 就够了，所以 1 与 3 总是 3 后抽；不打乱，长的就总在右边。
    """
    count = 40_000
    spans = token_spans(
        np.full(count, 12), keys_of(count), density=0.25, mean_length=1.0
    )
    two = np.bincount(spans.documents, minlength=count) == 2
    starts = spans.starts[two[spans.documents]].reshape(-1, 2)
    sizes = spans.lengths[two[spans.documents]].reshape(-1, 2)
    these = (np.sort(sizes, axis=1) == [1, long]).all(axis=1)
    layouts = Counter(
        map(tuple, np.concatenate([starts, sizes], axis=1)[these].tolist())
    )
    # 不挖的词元里 1 个隔开，其余与两个片段排队；两个片段谁先谁后，再乘 2
    assert len(layouts) == 2 * math.comb(12 - 1 - long - 1 + 2, 2)
    total = layouts.total()
    assert total > least
    assert all(within_five_sigma(n, total, 1 / len(layouts)) for n in layouts.values())


def test_whole_sentences_are_hidden():
    """句级：挖去的每个片段恰是一句，刚够 15% 就停，至少留一句。"""
    ends, closers = sentence_end_ids(BERT)
    body = BERT(TEXT, add_special_tokens=False)["input_ids"]
    bounds = [0, *(at + 1 for at, token in enumerate(body) if token in ends)]
    sentences = {(start, stop - start) for start, stop in pairwise(bounds)}
    spans = sentence_spans(
        Ragged.of([np.array(body)] * 500),
        keys_of(500),
        density=0.15,
        ends=ends,
        closers=closers,
    )
    seen = set(zip(spans.starts.tolist(), spans.lengths.tolist(), strict=True))
    assert seen == sentences  # 每一句都轮得到
    budget = int(0.15 * len(body))
    for number in range(500):
        sizes = spans.lengths[spans.documents == number]
        assert sizes.sum() >= budget
        assert sizes.sum() - sizes.max() < budget
        assert len(sizes) < len(sentences)


def test_the_tail_is_half_to_all_but_one():
    """文档级：末尾一段，20 个词元挖去 10 到 19 个，机会均等；至少留一个。"""
    count = 20_000
    spans = tail_spans(np.full(count, 20), keys_of(count))
    assert ((spans.starts + spans.lengths) == 20).all()
    cells = np.bincount(spans.lengths, minlength=20)
    assert cells[:10].sum() == 0
    assert all(within_five_sigma(int(cell), count, 0.1) for cell in cells[10:])
    short = tail_spans(np.array([0, 1, 2, 3]), keys_of(4))
    assert short.documents.tolist() == [1, 2, 3]
    assert short.lengths.tolist()[:2] == [1, 1]


def test_other_spellings_are_found():
    """GLM-4 写作 <sop>、<eop>，GLM-10B 写作 <|startofpiece|>、<|endofpiece|>。"""
    for start, end in (("<sop>", "<eop>"), ("<|startofpiece|>", "<|endofpiece|>")):
        tokenizer = tiny_tokenizer("llama")
        names = ["[MASK]", "[sMASK]", "[gMASK]", start, end]
        tokenizer.add_special_tokens({"extra_special_tokens": names})
        tokens = find_blank_tokens(tokenizer)
        found = [tokens.mask, tokens.sentence_mask, tokens.document_mask]
        found += [tokens.start, tokens.end]
        assert tokenizer.convert_ids_to_tokens(found) == names
