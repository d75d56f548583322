"""目标上的累计：自上次日志以来的损失与对错，以及开训以来的目标数。"""

import json
from pathlib import Path

import torch
from torch import Tensor

from companion.models.losses import LossPart
from companion.training.team import ALONE, Team

_SUMS = ("nats", "second_nats")
_COUNTS = (
    "correct",
    "num_targets",
    "total_targets",
    "second_correct",
    "second_targets",
    "total_second_targets",
)


class Tally:
    """一个进程的账；损失有两份的，第二份（句序、真假）另记。"""

    FILE = "companion_tally.json"

    def __init__(self) -> None:
        self.total_targets = 0
        self.total_second_targets = 0
        self.second_name: str | None = None
        """第二份叫什么；只有一份的为 None。"""
        self._clear()

    def _clear(self) -> None:
        self.nats: Tensor | float = 0.0
        self.correct: Tensor | int = 0
        self.num_targets = 0
        self.second_nats: Tensor | float = 0.0
        self.second_correct: Tensor | int = 0
        self.second_targets = 0

    def add(self, first: LossPart, *others: LossPart) -> None:
        """记一个微批量；留在原设备上，不同步。"""
        losses = first.losses
        self.nats = self.nats + losses.nats.double().sum()
        self.correct = self.correct + losses.correct.sum()
        self.num_targets += len(losses.nats)
        self.total_targets += len(losses.nats)
        for part in others:
            losses = part.losses
            self.second_name = part.name
            self.second_nats = self.second_nats + losses.nats.double().sum()
            self.second_correct = self.second_correct + losses.correct.sum()
            self.second_targets += len(losses.nats)
            self.total_second_targets += len(losses.nats)

    def combined(self, team: Team) -> "Tally":
        """各进程的账合成一份，人人都得到它。"""
        names = (*_SUMS, *_COUNTS)
        mine = [float(getattr(self, name)) for name in names]
        sums = team.total(torch.tensor(mine, dtype=torch.float64)).tolist()
        whole = Tally()
        whole.second_name = self.second_name
        for name, value in zip(names, sums, strict=True):
            setattr(whole, name, value if name in _SUMS else int(value))
        return whole

    def take(self, team: Team = ALONE) -> dict[str, float]:
        """上次以来每个目标的损失（奈特）与准确率，合各进程而言；并清零。"""
        whole = self.combined(team)
        count = max(1, whole.num_targets)
        self._clear()
        taken = {
            "nats_per_target": float(whole.nats) / count,
            "accuracy": float(whole.correct) / count,
        }
        if (name := whole.second_name) is not None:
            count = max(1, whole.second_targets)
            taken[f"{name}_loss"] = float(whole.second_nats) / count
            taken[f"{name}_accuracy"] = float(whole.second_correct) / count
        return taken

    def save(self, checkpoint: Path) -> None:
        """随检查点存下：账上的目标总数，与还没写进日志的那几步。"""
        state = {name: float(getattr(self, name)) for name in _SUMS}
        counts = {name: int(getattr(self, name)) for name in _COUNTS}
        content = {**state, **counts, "second_name": self.second_name}
        (checkpoint / self.FILE).write_text(json.dumps(content))

    def load(self, checkpoint: Path) -> None:
        """读回 `save` 存下的。"""
        vars(self).update(json.loads((checkpoint / self.FILE).read_text()))
