"""GLM 的空：片段多长、摆在哪里、哪一层次；分布在 5 倍标准差之内。"""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import BERT, rng_of, within_five_sigma

from companion.checkpoints.tiny import tiny_tokenizer
from companion.objectives.blank_infilling import (
    find_blank_tokens,
    sentence_spans,
    tail_span,
    token_spans,
    truncated_poisson,
)
from companion.objectives.sentences import sentence_marks

TEXT = (
    "臣光曰：臣闻天子之职莫大于礼，礼莫大于分，分莫大于名。三年春，大旱，民饥！"
    "飞鸟尽，良弓藏。勿以善小而不为。"
)


def draws(count: int, *args, choose=token_spans, **options) -> list:
    """抽 `count` 次。"""
    return [choose(*args, rng_of(0, n), **options) for n in range(count)]


def sizes_of(spans) -> list[int]:
    return [stop - start for start, stop in spans]


def test_span_lengths_follow_the_poisson_without_zero():
    """λ = 3 去掉零：P(1) = .157、均值 3.157；一万次抽取逐格在 5 倍标准差之内。"""
    chances = truncated_poisson(3.0)
    assert chances.sum() == pytest.approx(1)
    sizes = np.arange(1, 40)
    exact = 3.0**sizes / np.array(
        [float(np.prod(np.arange(1.0, k + 1))) for k in sizes]
    )
    np.testing.assert_allclose(chances, exact / exact.sum(), rtol=1e-12)
    # 预算 1：每篇只抽一次，不受“够了就停”影响
    count = 10_000
    drawn = draws(count, 60, density=0.001, mean_length=3.0)
    cells = Counter(size for spans in drawn for size in sizes_of(spans))
    assert cells.total() == count
    for size, chance in zip(sizes[:12], chances[:12], strict=True):
        assert within_five_sigma(cells[size], count, float(chance)), size


def test_the_budget_is_met_and_the_last_span_not_trimmed():
    """512 个词元：挖去 76 到 76 + 38 个，平均 15.1%（发布的代码 0.1515）。"""
    drawn = draws(2000, 512, density=0.15, mean_length=3.0)
    hidden = np.array([sum(sizes_of(spans)) for spans in drawn])
    assert hidden.min() >= int(0.15 * 512)
    assert hidden.max() <= int(0.15 * 512) + 38
    assert hidden.mean() / 512 == pytest.approx(0.1515, abs=0.0005)


@given(st.integers(0, 60), st.sampled_from([0.05, 0.15, 0.5, 1.0]), st.integers(0, 999))
def test_token_spans_are_apart_and_inside(length, density, seed):
    """片段在正文之内、互不相邻、按起点排列；不止一个词元的，至少留一个不挖。"""
    spans = token_spans(length, rng_of(seed), density=density, mean_length=3.0)
    assert (spans == []) == (length == 0)
    edges = [-1, *(edge for span in spans for edge in span), length + 1]
    assert edges == sorted(edges)
    assert len(set(edges)) == len(edges)
    assert sum(sizes_of(spans)) < max(length, 2)


@pytest.mark.parametrize(("long", "least"), [(2, 2500), (3, 500)])
def test_every_arrangement_of_the_spans_is_equally_likely(long, least):
    """12 个词元里挖长 1 与更长的两段：每种摆法、两种先后都一样多，5 倍标准差之内。

    预算 3：先抽到 3 就够了，所以 1 与 3 总是 3 后抽；不打乱，长的就总在右边。
    """
    drawn = draws(10_000, 12, density=0.25, mean_length=1.0)
    layouts = Counter(
        tuple(spans) for spans in drawn if sorted(sizes_of(spans)) == [1, long]
    )
    # 不挖的词元里 1 个隔开，其余与两个片段排队；两个片段谁先谁后，再乘 2
    assert len(layouts) == 2 * math.comb(12 - 1 - long - 1 + 2, 2)
    total = layouts.total()
    assert total > least
    assert all(within_five_sigma(n, total, 1 / len(layouts)) for n in layouts.values())


def test_whole_sentences_are_hidden():
    """句级：挖去的每个片段恰是一句，刚够 15% 就停，至少留一句。"""
    marks = sentence_marks(BERT)
    body = BERT(TEXT, add_special_tokens=False)["input_ids"]
    bounds = [0, *(at + 1 for at, token in enumerate(body) if token in marks.ends)]
    sentences = set(pairwise(bounds))
    drawn = draws(500, np.array(body), marks, choose=sentence_spans, density=0.15)
    assert {span for spans in drawn for span in spans} == sentences  # 每句都轮得到
    budget = int(0.15 * len(body))
    for spans in drawn:
        sizes = sizes_of(spans)
        assert spans == sorted(spans)
        assert sum(sizes) >= budget
        assert sum(sizes) - max(sizes) < budget
        assert len(sizes) < len(sentences)


def test_the_tail_is_half_to_all_but_one():
    """文档级：末尾一段，20 个词元挖去 10 到 19 个，机会均等；至少留一个。"""
    cells = Counter(tail_span(20, rng_of(0, n))[0] for n in range(5000))
    assert cells.keys() == {(start, 20) for start in range(1, 11)}
    assert all(within_five_sigma(cell, 5000, 0.1) for cell in cells.values())
    assert tail_span(0, rng_of(0)) == []
    assert tail_span(1, rng_of(0)) == [(0, 1)]
    assert tail_span(2, rng_of(0)) == [(1, 2)]


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
