"""学习率曲线：预热，再下降；名字与 `transformers.SchedulerType` 相同。"""

import math
from typing import Any

MIN_RATIO = 0.1
"""余弦降到峰值的几成（Ibrahim 等，2024，§4）。"""

DECAY_RATIO = 0.2
"""WSD 末段线性衰减占总步数的比例（Hu 等，2024，§4）。"""


def warmup_of(warmup_steps: float, num_steps: int) -> int:
    """预热步数；小于 1 的是占总步数的比例。

    >>> warmup_of(0.03, 1000), warmup_of(50, 1000)
    (30, 50)
    """
    return round(warmup_steps * num_steps) if warmup_steps < 1 else int(warmup_steps)


def factor_at(step: int, kind: str, num_steps: int, num_warmup: int) -> float:
    """第 `step` 步（从 0 数）的学习率是峰值的几倍。

    预热从 1/(W+1) 升起，第一步就有更新。

    Args:
        step: 第几步，从 0 数。
        kind: cosine、warmup_stable_decay、linear、constant 之一。
        num_steps: 总步数。
        num_warmup: 预热步数 W。

    >>> [round(factor_at(s, "linear", 4, 0), 2) for s in range(5)]
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if step < num_warmup:
        return (step + 1) / (num_warmup + 1)
    rest = max(1, num_steps - num_warmup)
    progress = min(1.0, (step - num_warmup) / rest)
    if kind == "cosine":
        return MIN_RATIO + (1 - MIN_RATIO) * 0.5 * (1 + math.cos(math.pi * progress))
    if kind == "linear":
        return 1 - progress
    if kind == "warmup_stable_decay":
        decay = max(1, round(DECAY_RATIO * num_steps))
        return min(1.0, max(0.0, (num_steps - step) / decay))
    return 1.0


def make_scheduler(
    optimizer: Any, kind: str, num_steps: int, warmup_steps: float
) -> Any:
    """PyTorch 的学习率调度器。"""
    from torch.optim.lr_scheduler import LambdaLR

    num_warmup = warmup_of(warmup_steps, num_steps)
    return LambdaLR(
        optimizer, lambda step: factor_at(step, kind, num_steps, num_warmup)
    )
