"""遮哪些词元、换成什么：所有去噪目标共用的纯函数。

形状字母：T 一行的词元数，N 选中的词元数，U 单元数，C 可作随机替换的词元数。

随机性全部来自外面传入的 `torch.Generator`。一个样本的噪声只由（种子, 轮次, 样本编号）
决定，因此与进程数、批量大小、断点续训都无关（做法见 fairseq `denoising_dataset.py`）。
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from companion.errors import ObjectiveError

Rounding = Literal["nearest", "up", "down"]
"""p·T 不是整数时怎么取：舍入取偶（BERT），向上（SpanBERT），向下（MacBERT）。"""

_ROUND: dict[Rounding, Callable[[float], int]] = {
    "nearest": round,
    "up": math.ceil,
    "down": math.floor,
}
_MASK_64 = (1 << 64) - 1


def derive_generator(seed: int, epoch: int, example_id: int) -> torch.Generator:
    """由（种子, 轮次, 样本编号）得到一个随机数发生器。

    三个数逐一经 splitmix64（Steele 等，2014）搅拌，邻近的编号也得到互不相关的序列。
    """
    state = 0
    for value in (seed, epoch, example_id):
        state = (state ^ value) + 0x9E3779B97F4A7C15 & _MASK_64
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK_64
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK_64
        state ^= state >> 31
    return torch.Generator().manual_seed(state)


def masking_budget(
    num_tokens: int,
    num_candidates: int,
    probability: float,
    rounding: Rounding = "nearest",
) -> int:
    """一行该选多少个词元：`max(1, round(p·T))`，不超过候选数。

    T 含特殊词元，舍入取偶，与 BERT 的发布代码一致（Devlin 等，2019，附录 A.1；
    `create_pretraining_data.py`）：512 个词元恰好选 77 个。

    >>> masking_budget(512, 510, 0.15)
    77
    >>> masking_budget(512, 510, 0.15, "down")
    76
    >>> masking_budget(3, 1, 0.15)
    1
    >>> masking_budget(2, 0, 0.15)
    0
    """
    wanted = _ROUND[rounding](num_tokens * probability)
    return min(max(1, wanted), num_candidates)


def stochastic_budget(
    num_tokens: int,
    num_candidates: int,
    probability: float,
    generator: torch.Generator,
) -> int:
    """RoBERTa 的取法：⌊p·T + u⌋，u 在 [0, 1) 上均匀，平均恰是 p·T。

    至少一个，不超过候选数（Liu 等，2019；fairseq `mask_tokens_dataset.py`）。
    """
    lot = float(torch.rand((), generator=generator))
    return min(max(1, math.floor(num_tokens * probability + lot)), num_candidates)


def choose_tokens(
    candidates: Tensor, budget: int, generator: torch.Generator
) -> Tensor:
    """从候选位置里不放回地均匀选 `budget` 个。

    Args:
        candidates: 候选处为真，(T,) bool。
        budget: 要选的个数；超过候选数时全选。
        generator: 随机数来源。

    Returns:
        选中处为真，(T,) bool。
    """
    scores = torch.rand(len(candidates), generator=generator)
    scores[~candidates] = -1.0
    chosen = torch.zeros_like(candidates)
    chosen[scores.topk(min(budget, int(candidates.sum()))).indices] = True
    return chosen


def choose_bernoulli(
    candidates: Tensor, probability: float, generator: torch.Generator
) -> Tensor:
    """每个候选独立地以 `probability` 选中；一个也没中时补选一个。

    transformers 的 `DataCollatorForLanguageModeling` 用同一规律而不补选：三个候选的短句
    有 0.85³ ≈ 61% 的机会没有标签。

    Returns:
        选中处为真，(T,) bool。
    """
    chosen = candidates & (
        torch.rand(len(candidates), generator=generator) < probability
    )
    return chosen if chosen.any() else choose_tokens(candidates, 1, generator)


def choose_words(
    word_ids: Tensor, candidates: Tensor, budget: int, generator: torch.Generator
) -> Tensor:
    """选整词：同属一词的词元同进同退，总数不超过 `budget`。

    词的次序随机；放进去会超出预算的词跳过，试下一个（Cui 等，2021，§III；做法同 BERT 的
    `do_whole_word_mask`）。只有一个词都放不下时，才取最短的那个，因为一行至少要有一个标签。
    因此 `budget − 最长词 < 选中数 ≤ budget`，词元都是单字词时恰好等于 `budget`。

    Args:
        word_ids: 每个词元所属的词，(T,) int64，特殊词元为 −1。
        candidates: 候选处为真，(T,) bool；一词之中有非候选词元时，整词不选。
        budget: 至多选多少个词元。
        generator: 随机数来源。

    Returns:
        选中处为真，(T,) bool。
    """
    inside = word_ids >= 0
    words, index = word_ids[inside].unique(return_inverse=True)  # (W,), (T',)
    sizes = torch.bincount(index, minlength=len(words))  # (W,)
    eligible = torch.bincount(index[candidates[inside]], minlength=len(words)) == sizes
    order = torch.randperm(len(words), generator=generator)
    order = order[eligible[order]]
    chosen_words = torch.zeros(len(words), dtype=torch.bool)
    if len(order) == 0 or budget < 1:
        return torch.zeros_like(candidates)
    left = budget
    for word, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        if size <= left:
            chosen_words[word] = True
            left -= size
            if left == 0:
                break
    if left == budget:
        chosen_words[order[sizes[order].argmin()]] = True
    chosen = torch.zeros_like(candidates)
    chosen[inside] = chosen_words[index]
    return chosen


def corrupt_tokens(
    input_ids: Tensor,
    chosen: Tensor,
    *,
    mask_token_id: int,
    random_ids: Tensor,
    mask_replace_prob: float,
    random_replace_prob: float,
    generator: torch.Generator,
    units: Tensor | None = None,
) -> Tensor:
    """把选中的词元换成掩码、随机词元，或原样保留。

    逐个词元决定（Devlin 等，2019，§3.1 的 80/10/10）；给了 `units`，就逐个单元决定
    （Joshi 等，2020，§3.1）。随机词元总是逐个抽，且只从 `random_ids` 抽取；库的整理器
    从整个词表抽，会抽到 [PAD]、[CLS]、[MASK]。

    Args:
        input_ids: 原文，(T,) int64，不改动。
        chosen: 选中处为真，(T,) bool。
        mask_token_id: 掩码词元。
        random_ids: 可作替换的词元，(C,) int64，不含特殊词元。
        mask_replace_prob: 换成掩码的概率。
        random_replace_prob: 换成随机词元的概率；其余保留原样。
        generator: 随机数来源。
        units: 选中的词元属于第几个单元，(T,) int64，从 0 编起；没选中的为 −1。

    Returns:
        破坏后的输入，(T,) int64。
    """
    corrupted = input_ids.clone()
    num_chosen = int(chosen.sum())
    if units is None:
        lot = torch.rand(num_chosen, generator=generator)  # (N,)
    else:
        num_units = int(units.max()) + 1 if len(units) else 0
        lot = torch.rand(num_units, generator=generator)[units[chosen]]  # (U,) → (N,)
    draws = torch.randint(len(random_ids), (num_chosen,), generator=generator)
    replaced = torch.where(
        lot < mask_replace_prob,
        torch.full_like(draws, mask_token_id),
        torch.where(
            lot < mask_replace_prob + random_replace_prob,
            random_ids[draws],
            input_ids[chosen],
        ),
    )
    corrupted[chosen] = replaced
    return corrupted


def require_probability(name: str, value: float) -> None:
    """`value` 不在 [0, 1] 之内时报错。"""
    if not 0.0 <= value <= 1.0:
        raise ObjectiveError(
            found=f"{name} = {value}",
            expected=f"{name} 是概率，在 0 与 1 之间",
            remedy=f"改用例如 {name}=0.15",
        )
