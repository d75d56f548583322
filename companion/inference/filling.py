"""填空：掩码语言模型猜每个 [MASK] 处是什么。

    撒盐空中差可拟，未若柳絮因[MASK]起  →  风 …%、…

分数是整个词表上的 softmax，与 transformers 的 `fill-mask` 管道相同。一句话里有几个
掩码时，各自独立地猜：猜这一个时，别的仍是掩码，所以几处的第一名拼在一起未必通顺。

掩码写成 `[MASK]` 即可，不管分词器自己的写法是 `<mask>` 还是 `<special1>`。

形状字母：K 掩码个数，V 词表。
"""

import random
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from companion.checkpoints.running import evaluation_mode, over_limit, special_edges
from companion.corpus.tokenization import token_spans, unknown_id
from companion.errors import ModelError, ObjectiveError
from companion.inference.reading import (
    MASK,
    encode_pieces,
    require_masked,
    split_at_masks,
    token_text,
)
from companion.losses.parts import word_logits


@dataclass(frozen=True)
class Candidate:
    """一个掩码处的一个候选。"""

    token: str
    score: float
    """概率，在 0 与 1 之间。"""
    text: str
    """填上它之后的全文；别的掩码仍写作 [MASK]。"""


@dataclass(frozen=True)
class MaskedText:
    """挖了空的文字与答案。"""

    text: str
    answers: list[str]
    """按出现的次序。"""


def fill(checkpoint: Any, text: str, top_k: int = 5) -> list[list[Candidate]]:
    """猜每个掩码处的词元。

    Args:
        checkpoint: 掩码语言模型的检查点。
        text: 含一个或几个 [MASK]（或分词器自己的掩码词元）的文字。
        top_k: 每处给几个候选。

    Returns:
        每个掩码一列候选，概率由大到小。

    Raises:
        ModelError: 不是掩码语言模型，或文字超过它的位置上限。
        ObjectiveError: 文字里没有掩码，或 `top_k` 不是正数。

    >>> from companion.checkpoints.loading import Checkpoint
    >>> from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
    >>> tiny = Checkpoint(tiny_model("bert"), tiny_tokenizer("bert"), "tiny")
    >>> [[one], [two]] = fill(tiny, "狡兔死，走狗[MASK]；飞鸟尽，良弓[MASK]。", top_k=1)
    >>> two.text == f"狡兔死，走狗[MASK]；飞鸟尽，良弓{two.token}。"
    True
    """
    require_masked(checkpoint)
    if top_k < 1:
        raise ObjectiveError(
            found=f"top_k = {top_k}", expected="正整数", remedy="改成例如 top_k=5"
        )
    probabilities = mask_probabilities(checkpoint, text)  # (K, V)
    tokenizer = checkpoint.tokenizer
    pieces = split_at_masks(text, tokenizer)
    scores, ids = torch.topk(probabilities, min(top_k, probabilities.shape[1]))
    return [
        [
            _candidate(tokenizer, pieces, number, token_id, score)
            for token_id, score in zip(row_ids, row_scores, strict=True)
        ]
        for number, (row_ids, row_scores) in enumerate(
            zip(ids.tolist(), scores.tolist(), strict=True)
        )
    ]


def fill_best(checkpoint: Any, text: str) -> str:
    """每个掩码都填上第一名之后的全文。"""
    pieces = split_at_masks(text, checkpoint.tokenizer)
    best = [candidates[0].token for candidates in fill(checkpoint, text, top_k=1)]
    return "".join(
        part for pair in zip(pieces, [*best, ""], strict=True) for part in pair
    )


def mask_probabilities(checkpoint: Any, text: str) -> Tensor:
    """每个掩码处整个词表的概率，(K, V) float32，在 CPU 上。

    Raises:
        ModelError: 文字超过模型的位置上限。
        ObjectiveError: 文字里没有掩码。
    """
    tokenizer, model = checkpoint.tokenizer, checkpoint.model
    pieces = split_at_masks(text, tokenizer)
    if len(pieces) == 1:
        raise ObjectiveError(
            found=f"“{_shorten(text)}”里没有掩码",
            expected=f"要猜的地方写成 {MASK}",
            remedy=f"例如 未若柳絮因{MASK}起；或用 mask_randomly 随机遮几个字",
        )
    edges, mask = special_edges(tokenizer), tokenizer.mask_token_id
    if tokenizer.added_tokens_decoder[mask].lstrip:  # RoBERTa 的掩码连前面的空格也占
        pieces = [*(piece.rstrip() for piece in pieces[:-1]), pieces[-1]]
    first, *others = encode_pieces(tokenizer, pieces)
    bodies = [*first, *(each for body in others for each in (mask, *body))]
    ids = torch.tensor([[*edges.prefix, *bodies, *edges.suffix]])  # (1, T)
    if (limit := over_limit(model, ids.shape[1])) is not None:
        raise ModelError(
            found=f"文字有 {ids.shape[1]} 个词元",
            expected=f"不超过 {checkpoint.name} 的位置上限 {limit}",
            remedy="截短文字，只留掩码前后的上下文",
        )
    ids = ids.to(next(model.parameters()).device)
    with evaluation_mode(model):
        logits = word_logits(
            model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        )
    return logits[0, ids[0] == mask].float().cpu().softmax(-1)


def mask_randomly(text: str, tokenizer: Any, count: int, seed: int = 0) -> MaskedText:
    """随机遮住 `count` 个字，记下答案：不用整理器，看看“掩码”究竟做了什么。

    只从自成一个词元的字里选：标点太好猜，词表里没有的字猜不出，拆成几个词元的字一个
    [MASK] 装不下。

    Args:
        text: 原文。
        tokenizer: 有掩码词元的分词器。
        count: 遮几个字。
        seed: 随机种子；同样的文字与种子，遮同样的字。

    Raises:
        ModelError: 分词器没有掩码词元。
        ObjectiveError: `count` 不是正数，或没有那么多字可遮。

    >>> from companion.checkpoints.tiny import tiny_tokenizer
    >>> mask_randomly("上必且劝之以赏，然后可进", tiny_tokenizer("bert"), 2)
    MaskedText(text='上必且劝之以[MASK]，然后可[MASK]', answers=['赏', '进'])
    """
    if tokenizer.mask_token is None:
        raise ModelError(
            found=f"分词器 {type(tokenizer).__name__} 没有掩码词元",
            expected="分词器有 mask_token（BERT 的是 [MASK]）",
            remedy="换一个掩码语言模型的分词器（例如 starter:bert 的）",
        )
    masks = re.finditer("|".join(map(re.escape, (MASK, tokenizer.mask_token))), text)
    already = {at for match in masks for at in range(*match.span())}
    places = [
        at
        for at in _single_token_characters(text, tokenizer)
        if unicodedata.category(text[at]).startswith("L") and at not in already
    ]
    if not 1 <= count <= len(places):
        raise ObjectiveError(
            found=f"要遮 {count} 个字，“{_shorten(text)}”里可遮的有 {len(places)} 个",
            expected="1 到可遮的字数之间；可遮的是自成一个词元的字，标点除外",
            remedy="改小 count，或换一句长些的话",
        )
    chosen = sorted(random.Random(seed).sample(places, count))
    characters = list(text)
    for at in chosen:
        characters[at] = tokenizer.mask_token
    return MaskedText("".join(characters), [text[at] for at in chosen])


def _single_token_characters(text: str, tokenizer: Any) -> list[int]:
    """自成一个词元的字的位置。"""
    unknown = unknown_id(tokenizer)
    [(ids, spans)] = token_spans([text], tokenizer)
    listed = [(int(start), int(stop)) for start, stop in spans]
    return [
        start
        for number, (start, stop) in zip(ids.tolist(), listed, strict=True)
        # 一个字拆成几个字节词元时，它们的区间相同
        if stop - start == 1 and number != unknown and listed.count((start, stop)) == 1
    ]


def _candidate(
    tokenizer: Any, pieces: list[str], number: int, token_id: int, score: float
) -> Candidate:
    token = token_text(tokenizer, token_id)
    head, tail = MASK.join(pieces[: number + 1]), MASK.join(pieces[number + 1 :])
    return Candidate(token, score, head + token + tail)


def _shorten(text: str, limit: int = 30) -> str:
    return text if len(text) <= limit else text[:limit] + "……"
