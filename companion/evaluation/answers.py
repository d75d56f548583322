"""样张与填空题：同样的题面，训练前后各写一遍、各答一遍。

样张给人看：掩码模型填空（题面没有 [MASK] 就随机遮两个字）；编码器–解码器与 GLM 填一段
缺文；因果与前缀模型续写，贪心一段，再以固定的种子抽取一段。好坏以数字为准：挑得出好样张
的模型未必好。填空题看名字、地名、官名记住了没有。

掩码模型看空的两边；答案几个字，题面就有几个 [MASK]，各空独立作答。因果与前缀语言模型只
看空左边的文字，接着往下写。编码器–解码器与 GLM 看空的两边，空里的字逐个写出。

| | 掩码模型 | 因果与前缀语言模型 | 编码器–解码器、GLM |
|---|---|---|---|
| 猜的 | 各空的第一名相接 | 贪心续写，取与答案一样多的字 | 逐个取第一名 |
| 所猜的概率 | 各空概率之积 | 写下的各词元条件概率之积 | 各词元条件概率之积 |
| 答案的概率 | 各空概率之积 | 各词元条件概率之积 | 各词元条件概率之积 |
| 名次 | 各空中最差的名次 | 各词元中最差的名次 | 各词元中最差的名次 |

编码器–解码器与 GLM 的遮法由训练目标的整理器给出（它的 `hide`），所以 T5 的哨兵、BART 的
掩码、MASS 的整行、GLM 的空都走同一条路（`fill_tokens`）。

形状字母：T 正文的词元数，N 遮住的词元数，K 掩码个数，V 词表。
"""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from companion.batch import IGNORE_INDEX
from companion.checkpoints.running import (
    LABEL_KEYS,
    adapt_batch,
    evaluation_mode,
    fitted_objective,
    inner_model,
    model_options,
    special_edges,
    takes,
)
from companion.corpus.tokenization import decoded, text_ids, unknown_id
from companion.errors import EvaluationError
from companion.inference.completion import complete, read_opening
from companion.inference.filling import (
    Candidate,
    fill,
    mask_probabilities,
    mask_randomly,
)
from companion.inference.infilling import infill
from companion.inference.reading import (
    MASK,
    require_causal,
    require_masked,
    require_seq2seq,
    split_at_masks,
    token_text,
    without_added_spaces,
)
from companion.objectives import Objective

MAX_NEW_TOKENS = 40
NUM_MASKS = 2
TEMPERATURE, TOP_P = 0.8, 0.95


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
    """模型给自己所猜的概率，各词元之积。"""
    answer_probability: float
    """模型给正确答案的概率，各词元之积。"""
    rank: int
    """正确答案的词元在各处的名次，取最差的一处；1 是第一名。"""

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
    if goal.usage == "complete":
        return [_continue(checkpoint, goal, cloze) for cloze in clozes]
    _REQUIRE[goal.auto_class](checkpoint)
    collator = goal.make_collator(
        checkpoint.tokenizer, **model_options(checkpoint.model, goal)
    )
    return [_infill(checkpoint, goal, collator, cloze) for cloze in clozes]


_REQUIRE = {
    "AutoModelForSeq2SeqLM": require_seq2seq,
    "AutoModelForCausalLM": require_causal,
    "AutoModelForMaskedLM": require_masked,
}
"""目标要的那一类模型，不是就报错。"""


def pair_clozes(
    before: Sequence[Answer | None], after: Sequence[Answer | None]
) -> list[ClozePair]:
    """前后两次的回答配成对；有一边没答的题去掉。

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
    whole = text_ids(head + cloze.answer + tail, tokenizer)
    start = len(text_ids(head, tokenizer))
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


def _single_tokens(tokenizer: Any, answer: str) -> list[int] | None:
    """答案逐字的编号；有生字，或有字不是恰好一个词元时为 None。"""
    ids: list[int] = []
    for character in answer:
        pieces = tokenizer.tokenize(character)
        pieces = [piece for piece in pieces if piece != "▁"]
        if len(pieces) != 1:
            return None
        ids.append(tokenizer.convert_tokens_to_ids(pieces[0]))
    return None if unknown_id(tokenizer) in ids else ids


def _continue(checkpoint: Any, goal: Objective, cloze: ClozeLike) -> Answer | None:
    """续写：答案的各词元逐个给它读，问出概率；猜的由它贪心写出。"""
    tokenizer = checkpoint.tokenizer
    prompt = cloze.text.split(MASK)[0]
    head, whole = (
        text_ids(text, tokenizer) for text in (prompt, prompt + cloze.answer)
    )
    wanted = whole[len(head) :]
    if not head or not wanted or whole[: len(head)] != head:
        return None  # 空在开头，或答案与题面的末字并成了一个词元
    if unknown_id(tokenizer) in wanted:
        return None
    with torch.no_grad(), evaluation_mode(inner_model(checkpoint.model)):
        opening = read_opening(checkpoint, goal, prompt)
        if opening.room is not None and len(wanted) > opening.room:
            return None
        probability, rank = 1.0, 1
        logits = opening.writer.start()
        for number, token in enumerate(wanted, 1):
            chances = logits[0].float().softmax(-1)  # (V,)
            probability *= float(chances[token])
            rank = max(rank, int((chances > chances[token]).sum()) + 1)
            if number < len(wanted):
                logits = opening.writer.advance(torch.tensor([token]))
        guess, sure = _greedy(checkpoint, goal, prompt, len(cloze.answer))
    return Answer(cloze.text, cloze.answer, guess, sure, probability, rank)


def _greedy(
    checkpoint: Any, goal: Objective, prompt: str, count: int
) -> tuple[str, float]:
    """每步取概率最大的，写够 `count` 个字；写出的字，与写下的各词元的概率之积。"""
    tokenizer, opening = (
        checkpoint.tokenizer,
        read_opening(checkpoint, goal, prompt),
    )
    most = 4 * count + 4  # 生僻的字拆成几个字节词元
    most = most if opening.room is None else min(most, opening.room)
    head = _decoded(tokenizer, opening.prompt)
    ids, probability, text = list(opening.prompt), 1.0, ""
    logits = opening.writer.start()
    for number in range(most):
        best = logits[0].float().softmax(-1).max(0)
        probability *= float(best.values)
        if int(best.indices) in opening.stops:
            break
        ids.append(int(best.indices))
        written = _decoded(tokenizer, ids).removeprefix(head).rstrip("\ufffd")
        text = _first_characters(written, count)
        if len(text) == count or number + 1 == most:
            break
        logits = opening.writer.advance(best.indices[None])
    return text, probability


def _decoded(tokenizer: Any, ids: list[int]) -> str:
    text = decoded(ids, tokenizer)
    return without_added_spaces(tokenizer, text)


def _first_characters(text: str, count: int) -> str:
    """开头 `count` 个字，不算其中的空白与控制符。"""
    kept = [c for c in text if not unicodedata.category(c).startswith(("Z", "C"))]
    return "".join(kept[:count])


@dataclass(frozen=True)
class TokenFilling:
    """遮住的几个词元各猜成什么。"""

    guess: list[int]
    """逐个猜的词元，前面猜的作后面的上文，N 个。"""
    guess_probability: float
    """猜的这一串的概率。"""
    answer_probability: float
    """原来那一串的概率（前面给的都是原文）。"""
    rank: int
    """原来的词元在各处的名次，取最差的一处；1 是第一名。"""


@torch.no_grad()
def fill_tokens(
    checkpoint: Any,
    collator: Any,
    input_ids: list[int],
    noise: list[bool],
    *,
    causal: bool = False,
) -> TokenFilling:
    """遮住指定的词元，照训练时的样子让模型逐个猜。

    Args:
        checkpoint: 与整理器相配的检查点。
        collator: 训练目标的整理器，有 `hide`：编码器–解码器的各个，以及
            `PrefixLMCollator`、`BlankInfillingCollator`、掩码扩散与中间填补的。
        input_ids: 正文，不带首尾的特殊词元，(T,)。
        noise: 遮住哪些，(T,)。
        causal: 位置 t 的输出对位置 t + 1 的标签（`Objective.causal`）。
    """
    model = inner_model(checkpoint.model)
    edges = special_edges(checkpoint.tokenizer)
    feature = {"input_ids": [*edges.prefix, *input_ids, *edges.suffix]}
    example = collator.hide(feature, np.array(noise))
    batch = adapt_batch(model, collator.collate([example]))
    device = next(model.parameters()).device
    batch = {name: value.to(device) for name, value in batch.items()}
    wanted = batch.pop("labels")[0]
    batch = {k: v for k, v in batch.items() if k not in LABEL_KEYS}
    whole = torch.tensor(
        [*(False for _ in edges.prefix), *noise, *(False for _ in edges.suffix)]
    )
    asked = whole[example.origin.clamp(min=0)] & (example.origin >= 0)
    at = (asked & (example.labels != IGNORE_INDEX)).nonzero()[:, 0]  # (N,)
    options = {"use_cache": False} if takes(model, "use_cache") else {}
    with evaluation_mode(model):
        rows = at - int(causal)  # 预测由哪一行作出
        told = model(**batch, **options).logits[0, rows].float().softmax(-1)  # (N, V)
        chosen = told.gather(1, wanted[at][:, None])
        guess: list[int] = []
        probability = 1.0
        inputs = batch.get("decoder_input_ids", batch["input_ids"])
        # 猜的写在哪里：遮住的就在原处，逐个写的是下一个输入
        in_place = checkpoint.tokenizer.mask_token_id in inputs[0, at].tolist()
        slots = at if in_place and inputs is batch.get("input_ids") else rows + 1
        for place, slot in zip(rows.tolist(), slots.tolist(), strict=True):
            logits = model(**batch, **options).logits[0, place]
            best = logits.float().softmax(-1).max(0)
            guess.append(int(best.indices))
            probability *= float(best.values)
            if slot < inputs.shape[1]:
                inputs[0, slot] = best.indices
    return TokenFilling(
        guess,
        probability,
        float(chosen.prod()),
        int((told > chosen).sum(-1).max()) + 1,
    )


@dataclass(frozen=True)
class Sample:
    """一个模型对一个开头写出的东西。"""

    prompt: str
    """题面或开头。"""
    outputs: tuple[tuple[str, str], ...]
    """(怎么得来的, 写出的文字)。"""


@dataclass(frozen=True)
class SamplePair:
    """同一个开头，之前与之后。"""

    prompt: str
    before: Sample
    after: Sample


def build_samples(
    checkpoint: Any, objective: str | Objective, texts: Sequence[str], seed: int = 0
) -> list[Sample]:
    """每个开头写一份样张；同样的检查点、文字与种子，写出的相同。

    Args:
        checkpoint: 打开了的检查点。
        objective: 训练目标或它的键。
        texts: 题面（填空、填补）或开头（续写；有 [MASK] 就取它左边）。
        seed: 遮哪两个字、抽取哪些词元，都由它定。
    """
    goal = fitted_objective(checkpoint.model, objective)
    if goal.usage == "infill":
        return [_infilled(checkpoint, goal, text) for text in texts]
    if goal.usage == "complete":
        return [
            _continued(checkpoint, goal, text.split(MASK)[0], seed) for text in texts
        ]
    return [_filled(checkpoint, text, seed) for text in texts]


def pair_samples(before: Sequence[Sample], after: Sequence[Sample]) -> list[SamplePair]:
    """两份样张配成对。

    Raises:
        EvaluationError: 题面不同。
    """
    if [each.prompt for each in before] != [each.prompt for each in after]:
        raise EvaluationError(
            found="前后样张的题面不同",
            expected="同样的文字、同样的种子",
            remedy="用同一份 texts 与 seed 各做一次 build_samples",
        )
    return [
        SamplePair(old.prompt, old, new) for old, new in zip(before, after, strict=True)
    ]


def _filled(checkpoint: Any, text: str, seed: int) -> Sample:
    tokenizer = checkpoint.tokenizer
    if len(split_at_masks(text, tokenizer)) == 1:
        text = mask_randomly(text, tokenizer, NUM_MASKS, seed).text
    pieces = split_at_masks(text, tokenizer)
    guesses = fill(checkpoint, text, top_k=3)
    best = [*(candidates[0].token for candidates in guesses), ""]
    whole = "".join(a + b for a, b in zip(pieces, best, strict=True))
    listed = [(f"第 {n} 空", _listed(row)) for n, row in enumerate(guesses, 1)]
    return Sample(MASK.join(pieces), (("填好", whole), *listed))


def _infilled(checkpoint: Any, goal: Objective, text: str) -> Sample:
    written = infill(checkpoint, text, MAX_NEW_TOKENS, objective=goal.key)
    return Sample(text, (("填好", written.text), ("写出的", "／".join(written.fills))))


def _listed(candidates: Sequence[Candidate]) -> str:
    return "、".join(f"{each.token} {each.score:.0%}" for each in candidates)


def _continued(checkpoint: Any, goal: Objective, text: str, seed: int) -> Sample:
    [greedy] = complete(checkpoint, text, MAX_NEW_TOKENS, objective=goal.key)
    [drawn] = complete(
        checkpoint,
        text,
        MAX_NEW_TOKENS,
        objective=goal.key,
        do_sample=True,
        temperature=TEMPERATURE,
        top_p=TOP_P,
        seed=seed,
    )
    return Sample(
        text, (("贪心", greedy.new_text), (f"抽取（种子 {seed}）", drawn.new_text))
    )
