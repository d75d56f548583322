"""目标上的累计：自上次日志以来的损失与对错，以及开训以来的目标数。"""

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import torch
from torch import Tensor

from companion.checkpoints.running import widest_float
from companion.losses.parts import LossPart
from companion.training.team import ALONE, Team

UNJUDGED = ("hidden",)
"""没有对错可言的一项：隐藏状态之差。"""


@dataclass
class Sums:
    """一个损失项的账；留在原设备上，不同步。"""

    nats: Tensor | float = 0.0
    correct: Tensor | int = 0
    targets: int = 0
    """上次日志以来的目标数。"""
    total: int = 0
    """开训以来的目标数。"""
    more: Tensor | int = 0
    """上次日志以来，损失的除数比目标数多出多少；多数损失项是 0。"""

    def add(self, part: LossPart) -> None:
        """记一个微批量。"""
        losses, count = part.losses, len(part.losses.nats)
        if part.divisor is None:
            nats = losses.nats.sum(dtype=widest_float(losses.nats.device))
        else:  # 各目标乘过权重
            nats = losses.total_nats.detach()
            self.more = self.more + part.divisor - count
        self.nats = self.nats + nats
        self.correct = self.correct + losses.correct.sum()
        self.targets += count
        self.total += count

    def numbers(self) -> list[float]:
        """五个数。"""
        return [float(value) for value in astuple(self)]

    @classmethod
    def of(cls, numbers: list[float]) -> "Sums":
        """由 `numbers` 的几个数还原；早先的检查点只有前四个。"""
        nats, *counts = numbers
        return cls(nats, *(int(count) for count in counts))


class Tally:
    """一个进程的账，每个损失项一本。

    Args:
        names: 各损失项的名字（`Loss.names`），第一个是主项。
    """

    FILE = "companion_tally.json"

    def __init__(self, names: Sequence[str] = ("words",)) -> None:
        self.names = tuple(names)
        self.parts: dict[str, Sums] = {name: Sums() for name in self.names}

    @property
    def num_targets(self) -> int:
        """上次日志以来的词元目标数。"""
        return self.parts[self.names[0]].targets

    @property
    def total_targets(self) -> int:
        """开训以来的词元目标数。"""
        return self.parts[self.names[0]].total

    @property
    def other_totals(self) -> dict[str, int]:
        """另外各项的名字 → 开训以来的目标数。"""
        return {name: self.parts[name].total for name in self.names[1:]}

    def add(self, *parts: LossPart) -> None:
        """记一个微批量的各损失项。"""
        for part in parts:
            self.parts[part.name].add(part)

    def combined(self, team: Team) -> "Tally":
        """各进程的账合成一份，人人都得到它。"""
        mine = [self.parts[name].numbers() for name in self.names]
        sums = team.total(torch.tensor(mine, dtype=torch.float64)).tolist()
        whole = Tally(self.names)
        for name, numbers in zip(self.names, sums, strict=True):
            whole.parts[name] = Sums.of(numbers)
        return whole

    def take(self, team: Team = ALONE) -> dict[str, float]:
        """上次以来每个目标的损失（奈特）与准确率，合各进程而言；并清零。"""
        whole = self.combined(team)
        for name, sums in self.parts.items():
            self.parts[name] = Sums(total=sums.total)
        taken: dict[str, float] = {}
        for name, sums in whole.parts.items():
            count = max(1, sums.targets)
            first = name == self.names[0]
            loss = "nats_per_target" if first else f"{name}_loss"
            taken[loss] = float(sums.nats) / max(1, sums.targets + int(sums.more))
            if name not in UNJUDGED:
                accuracy = "accuracy" if first else f"{name}_accuracy"
                taken[accuracy] = float(sums.correct) / count
        return taken

    def save(self, checkpoint: Path) -> None:
        """随检查点存下：账上的目标总数，与还没写进日志的那几步。"""
        content = {name: sums.numbers() for name, sums in self.parts.items()}
        (checkpoint / self.FILE).write_text(json.dumps(content))

    def load(self, checkpoint: Path) -> None:
        """读回 `save` 存下的。"""
        content = json.loads((checkpoint / self.FILE).read_text())
        for name in self.names:
            self.parts[name] = Sums.of(content[name])
