"""填空题：训练前后各答一遍，看名字、地名、官名记住了没有。

掩码模型看空的两边；答案几个字，题面就有几个 [MASK]，各空独立作答。因果模型只看空左边的
文字，接着往下写。编码器–解码器与 GLM 看空的两边，空里的字逐个写出；前缀语言模型也逐个
写，只看空的左边。

| | 掩码模型 | 因果模型 | 编码器–解码器、GLM、前缀 |
|---|---|---|---|
| 猜的 | 各空的第一名相接 | 贪心续写，取与答案一样多的字 | 逐个取第一名 |
| 答案的概率 | 各空概率之积 | 逐词元条件概率之积 | 逐词元条件概率之积 |
| 名次 | 各空中最差的名次 | 答案首个词元的名次 | 各空中最差的名次 |
"""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from companion.checkpoints.running import fitted_objective, model_options, special_edges
from companion.errors import EvaluationError
from companion.inference.completion import complete
from companion.inference.filling import (
    MASK,
    mask_probabilities,
    split_at_masks,
    token_text,
    without_added_spaces,
)
from companion.inference.running import require_causal, require_masked, require_seq2seq
from companion.inference.token_filling import fill_tokens
from companion.objectives import Objective
from companion.preflight.probing import evaluation_mode


class ClozeLike(Protocol):
    """一道题：`companion.corpus.read_cloze` 给的就是。"""

    @property
    def text(self) -> str:
        """题面，含 [MASK]；因果模型的题可以没有，答案接在末尾。"""
        ...

    @property
    def answer(self) -> str:
        """答案。"""
        ...


@dataclass(frozen=True)
class Answer:
    """一个模型对一道题的回答。"""

    text: str
    answer: str
    """正确答案。"""
    guess: str
    """模型猜的。"""
    guess_probability: float
    """模型给自己所猜的概率。"""
    answer_probability: float
    """模型给正确答案的概率。"""
    rank: int
    """正确答案的名次，1 是第一名。"""

    @property
    def correct(self) -> bool:
        """猜对了没有。"""
        return self.guess == self.answer


@dataclass(frozen=True)
class ClozePair:
    """同一道题，之前与之后的回答。"""

    before: Answer
    after: Answer


def answer_clozes(
    checkpoint: Any, objective: str | Objective, clozes: Iterable[ClozeLike]
) -> list[Answer | None]:
    """逐题作答。

    Returns:
        与题目一样多；答不了的题（答案含生字，空的个数与答案的词元数不等，只看左边的模型
        空在开头，逐个写的模型空不相连）为 None。

    Raises:
        ModelError: 检查点与目标不合。
    """
    goal = fitted_objective(checkpoint.model, objective)
    if goal.usage == "fill":
        require_masked(checkpoint)
        return [_fill(checkpoint, cloze) for cloze in clozes]
    if goal.key == "causal_lm":
        require_causal(checkpoint)
        return [_continue(checkpoint, cloze) for cloze in clozes]
    (require_seq2seq if goal.seq2seq else require_causal)(checkpoint)
    collator = goal.make_collator(
        checkpoint.tokenizer, **model_options(checkpoint.model, goal)
    )
    answer = _write_on if goal.usage == "complete" else _infill
    return [answer(checkpoint, goal, collator, cloze) for cloze in clozes]


def pair_clozes(
    before: Sequence[Answer | None], after: Sequence[Answer | None]
) -> list[ClozePair]:
    """两份答卷配成对；有一边没答的题去掉。

    Raises:
        EvaluationError: 题目不同。
    """
    if len(before) != len(after):
        raise EvaluationError(
            found=f"之前 {len(before)} 题，之后 {len(after)} 题",
            expected="同样的题目",
            remedy="用同一份题目各答一遍",
        )
    return [
        ClozePair(old, new)
        for old, new in zip(before, after, strict=True)
        if old is not None and new is not None
    ]


def _fill(checkpoint: Any, cloze: ClozeLike) -> Answer | None:
    tokenizer = checkpoint.tokenizer
    pieces = split_at_masks(cloze.text, tokenizer)
    wanted = _single_tokens(tokenizer, cloze.answer)
    if wanted is None or len(wanted) != len(pieces) - 1 or not wanted:
        return None
    probabilities = mask_probabilities(checkpoint, cloze.text)  # (K, V)
    best, ids = probabilities.max(dim=-1)
    chosen = probabilities.gather(1, ids.new_tensor(wanted)[:, None])  # (K, 1)
    return Answer(
        text=cloze.text,
        answer=cloze.answer,
        guess="".join(token_text(tokenizer, i) for i in ids.tolist()),
        guess_probability=float(best.prod()),
        answer_probability=float(chosen.prod()),
        rank=int((probabilities > chosen).sum(-1).max()) + 1,
    )


def _infill(
    checkpoint: Any, goal: Objective, collator: Any, cloze: ClozeLike
) -> Answer | None:
    tokenizer = checkpoint.tokenizer
    pieces = split_at_masks(cloze.text, tokenizer)
    wanted = _single_tokens(tokenizer, cloze.answer)
    # 几处不相连的空，MASS 遮不了
    if not wanted or any(pieces[1:-1]) or len(wanted) != len(pieces) - 1:
        return None
    head, tail = pieces[0], pieces[-1]

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    whole = encode(head + cloze.answer + tail)
    start = len(encode(head))
    stop = start + len(wanted)
    if whole[start:stop] != wanted:
        return None  # 答案与旁边的字并成了一个词元
    noise = [start <= at < stop for at in range(len(whole))]
    filling = fill_tokens(checkpoint, collator, whole, noise, causal=goal.causal)
    return Answer(
        text=cloze.text,
        answer=cloze.answer,
        guess="".join(token_text(tokenizer, token) for token in filling.guess),
        guess_probability=filling.guess_probability,
        answer_probability=filling.answer_probability,
        rank=filling.rank,
    )


def _write_on(
    checkpoint: Any, goal: Objective, collator: Any, cloze: ClozeLike
) -> Answer | None:
    """前缀语言模型：空左边的文字作前缀，答案接着写出。"""
    tokenizer = checkpoint.tokenizer
    prompt = cloze.text.split(MASK)[0]
    head, whole = (
        tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in (prompt, prompt + cloze.answer)
    )
    wanted = whole[len(head) :]
    if not head or not wanted or whole[: len(head)] != head:
        return None  # 空在开头，或答案与题面的末字并成了一个词元
    if tokenizer.unk_token_id in wanted:
        return None
    noise = [at >= len(head) for at in range(len(whole))]
    filling = fill_tokens(checkpoint, collator, whole, noise, causal=goal.causal)
    guess = without_added_spaces(tokenizer, tokenizer.decode(filling.guess))
    return Answer(
        text=cloze.text,
        answer=cloze.answer,
        guess=_first_characters(guess, len(cloze.answer)),
        guess_probability=filling.guess_probability,
        answer_probability=filling.answer_probability,
        rank=filling.rank,
    )


def _single_tokens(tokenizer: Any, answer: str) -> list[int] | None:
    """答案逐字的编号；有生字，或有字不是恰好一个词元时为 None。"""
    ids: list[int] = []
    for character in answer:
        pieces = tokenizer.tokenize(character)
        pieces = [piece for piece in pieces if piece != "▁"]
        if len(pieces) != 1:
            return None
        ids.append(tokenizer.convert_tokens_to_ids(pieces[0]))
    return None if tokenizer.unk_token_id in ids else ids


def _continue(checkpoint: Any, cloze: ClozeLike) -> Answer | None:
    import torch

    tokenizer = checkpoint.tokenizer
    prompt = cloze.text.split(MASK)[0]
    if not prompt or not cloze.answer:
        return None
    edges = special_edges(tokenizer)

    def encode(text: str) -> list[int]:
        return [*edges.prefix, *tokenizer(text, add_special_tokens=False)["input_ids"]]

    head, whole = encode(prompt), encode(prompt + cloze.answer)
    if whole[: len(head)] != head or len(whole) == len(head):
        return None  # 答案与题面的末字并成了一个词元
    device = next(checkpoint.model.parameters()).device
    with evaluation_mode(checkpoint.model):
        logits = checkpoint.model(torch.tensor([whole], device=device)).logits
    steps = logits[0, len(head) - 1 : -1].float().cpu().softmax(-1)  # (N, V)
    wanted = torch.tensor(whole[len(head) :])
    chosen = steps.gather(1, wanted[:, None])  # (N, 1)
    [written] = complete(checkpoint, prompt, max_new_tokens=4 * len(cloze.answer) + 4)
    return Answer(
        text=cloze.text,
        answer=cloze.answer,
        guess=_first_characters(written.new_text, len(cloze.answer)),
        guess_probability=float(steps[0].max()),
        answer_probability=float(chosen.prod()),
        rank=int((steps[0] > chosen[0]).sum()) + 1,
    )


def _first_characters(text: str, count: int) -> str:
    """开头 `count` 个字，不算其中的空白与控制符。"""
    kept = [c for c in text if not unicodedata.category(c).startswith(("Z", "C"))]
    return "".join(kept[:count])
