"""目标上的累计：自上次日志以来的损失与对错，以及开训以来的目标数。"""

import json
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from companion.losses.parts import LossPart, PartName
from companion.losses.target_head import TargetLosses
from companion.training.team import ALONE, Team

UNJUDGED = ("hidden",)
"""没有对错可言的一份：隐藏状态之差。"""


@dataclass
class Sums:
    """一份损失的账；留在原设备上，不同步。"""

    nats: Tensor | float = 0.0
    correct: Tensor | int = 0
    targets: int = 0
    """上次日志以来的目标数。"""
    total: int = 0
    """开训以来的目标数。"""

    def add(self, losses: TargetLosses) -> None:
        """记一个微批量。"""
        self.nats = self.nats + losses.nats.double().sum()
        self.correct = self.correct + losses.correct.sum()
        self.targets += len(losses.nats)
        self.total += len(losses.nats)

    def numbers(self) -> list[float]:
        """四个数。"""
        return [float(value) for value in astuple(self)]

    @classmethod
    def of(cls, numbers: list[float]) -> "Sums":
        """由 `numbers` 的四个数还原。"""
        nats, *counts = numbers
        return cls(nats, *(int(count) for count in counts))


class Tally:
    """一个进程的账，每份损失一本：词元，以及句序、真假、片段边界、教师。"""

    FILE = "companion_tally.json"

    def __init__(self) -> None:
        self.parts: dict[PartName, Sums] = {"words": Sums()}

    @property
    def num_targets(self) -> int:
        """上次日志以来的词元目标数。"""
        return self.parts["words"].targets

    @property
    def total_targets(self) -> int:
        """开训以来的词元目标数。"""
        return self.parts["words"].total

    @property
    def other_totals(self) -> dict[str, int]:
        """另外各份的名字 → 开训以来的目标数。"""
        return {name: s.total for name, s in self.parts.items() if name != "words"}

    def add(self, *parts: LossPart) -> None:
        """记一个微批量的各份损失。"""
        for part in parts:
            self.parts.setdefault(part.name, Sums()).add(part.losses)

    def combined(self, team: Team) -> "Tally":
        """各进程的账合成一份，人人都得到它。"""
        # 有的进程刚接上断点，还没有记过哪一份：按全部的名字排成一样长
        names: tuple[PartName, ...] = get_args(PartName)
        mine = [self.parts.get(name, Sums()).numbers() for name in names]
        sums = team.total(torch.tensor(mine, dtype=torch.float64)).tolist()
        whole = Tally()
        for name, numbers in zip(names, sums, strict=True):
            if name in self.parts:
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
            first = name == "words"
            loss = "nats_per_target" if first else f"{name}_loss"
            taken[loss] = float(sums.nats) / count
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
        self.parts = {name: Sums.of(numbers) for name, numbers in content.items()}
