"""训练目标各测试共用的 hypothesis 策略，以及 5 倍标准差的检验。

样本都照 `companion.batch` 的约定；词元取自极小 BERT 与极小 GPT-2 的词表。
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from companion.batch import Feature
from companion.checkpoints.tiny import tiny_tokenizer

BERT = tiny_tokenizer("bert")
CLS, SEP, UNK, MASK, PAD = (
    BERT.cls_token_id,
    BERT.sep_token_id,
    BERT.unk_token_id,
    BERT.mask_token_id,
    BERT.pad_token_id,
)
SPECIAL_IDS = frozenset(BERT.all_special_ids)
PLAIN_IDS = sorted(set(range(len(BERT))) - SPECIAL_IDS)

FEW = settings(max_examples=40)
"""每例要走一遍整理器的性质，四十例已足够撞见各种边角。"""

DOCUMENT_LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=5)
WORD_LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=20)

# 样本里的整数列可以是列表、numpy 数组或张量
CONTAINERS: tuple[Callable[[list[int]], Any], ...] = (
    list,
    lambda values: np.array(values, np.int64),
    lambda values: np.array(values, np.int32),
    lambda values: np.frombuffer(
        np.array(values, np.int64).tobytes(), np.int64
    ),  # 只读
    torch.tensor,
)


@cache
def tokenizer_of(kind: str) -> Any:
    """极小分词器，每种只建一次；要改它的测试自己另建。"""
    return tiny_tokenizer(kind)


def starts_of(lengths: list[int]) -> list[int]:
    """各文档的词元数 → 各文档的起点。"""
    return [0, *accumulate(lengths)][: len(lengths)]


def word_ids_of(lengths: list[int]) -> NDArray[np.int64]:
    """各词的词元数 → 每个词元的词编号，(T,) int64，不含特殊词元。"""
    return np.repeat(np.arange(len(lengths)), lengths)


def rng_of(seed: int, example: int = 0) -> np.random.Generator:
    """第 0 轮第 `example` 个样本的随机数，同 `Row.rng`。"""
    return np.random.default_rng((seed, 0, example, 0))


def corrupted(collator: Any, texts: Sequence[Any], seed: int = 0) -> list[Any]:
    """逐篇破坏；第 i 篇是第 i 个样本。"""
    return [
        collator.corrupt(np.asarray(text, np.int64), rng_of(seed, number))
        for number, text in enumerate(texts)
    ]


def bodies(
    min_size: int = 0, max_size: int = 30, *, stray_specials: bool = True
) -> st.SearchStrategy[list[int]]:
    """正文的词元；`stray_specials` 时夹有 [UNK] 与原文里写出的 [MASK]。"""
    plain = st.sampled_from(PLAIN_IDS)
    tokens = st.one_of(plain, plain, st.sampled_from((UNK, MASK)))
    return st.lists(
        tokens if stray_specials else plain, min_size=min_size, max_size=max_size
    )


@st.composite
def masked_features(draw: st.DrawFn, min_size: int = 0) -> Feature:
    """掩码语言建模的一个样本：[CLS] 正文 [SEP]，各项的有无与容器不一。"""
    body = draw(bodies(min_size))
    contain = draw(st.sampled_from(CONTAINERS))
    feature: Feature = {
        "input_ids": contain([CLS, *body, SEP]),
        "example_id": draw(st.integers(0, 2**40)),
    }
    if draw(st.booleans()):
        feature["epoch"] = draw(st.integers(0, 20))
    if draw(st.booleans()):  # 同 BlockDataset：只标两端，正文里的 [UNK] 不标
        feature["special_tokens_mask"] = contain([1, *(0 for _ in body), 1])
    return feature


@st.composite
def packed_features(draw: st.DrawFn, vocabulary: int = 200) -> Feature:
    """一行装着几篇文档的样本，词元任意（编号 0 也在其内）。"""
    lengths = draw(DOCUMENT_LENGTHS)
    size = sum(lengths)
    ids = draw(st.lists(st.integers(0, vocabulary), min_size=size, max_size=size))
    contain = draw(st.sampled_from(CONTAINERS))
    feature: Feature = {"input_ids": contain(ids)}
    if len(lengths) > 1 or draw(st.booleans()):
        feature["document_starts"] = contain(starts_of(lengths))
    return feature


def same_feature(first: Feature, second: Feature) -> bool:
    """两个样本逐项相同，连容器也相同。"""
    return first.keys() == second.keys() and all(
        type(first[key]) is type(second[key])
        and np.array_equal(np.asarray(first[key]), np.asarray(second[key]))
        for key in first
    )


def within_five_sigma(count: int, trials: int, probability: float) -> bool:
    """`trials` 次独立试验中出现 `count` 次，与 `probability` 相差不过 5 倍标准差。"""
    sigma = math.sqrt(trials * probability * (1 - probability))
    return abs(count - trials * probability) <= 5 * sigma


def shares_agree(
    first: int, first_trials: int, second: int, second_trials: int
) -> bool:
    """两个频率出自同一概率：差不过 5 倍标准差。"""
    pooled = (first + second) / (first_trials + second_trials)
    sigma = math.sqrt(pooled * (1 - pooled) * (1 / first_trials + 1 / second_trials))
    return abs(first / first_trials - second / second_trials) <= 5 * sigma
