"""样张：同样的开头、同样的种子，训练前后各写一遍，给人看。

掩码模型填空（题面没有 [MASK] 就随机遮两个字）；编码器–解码器与 GLM 填一段缺文；因果与
前缀模型续写，贪心一段，再以固定的种子抽取一段。样张只供感受，好坏以数字为准：挑得出好样张的模型未必好。
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from companion.checkpoints.running import fitted_objective
from companion.errors import EvaluationError
from companion.inference.completion import complete
from companion.inference.filling import (
    MASK,
    Candidate,
    fill,
    mask_randomly,
    split_at_masks,
)
from companion.inference.infilling import infill
from companion.objectives import Objective

MAX_NEW_TOKENS = 40
NUM_MASKS = 2
TEMPERATURE, TOP_P = 0.8, 0.95


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
