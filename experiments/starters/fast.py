"""省时间的三样：单精度的 Muon，只算候选的输出头，没有填充的行。

**Muon**（Jordan 等，2024）把矩阵的动量正交化之后再走一步。torch 的用 bf16 算，没有 bf16
的 CPU 上一个矩阵要上百毫秒；这里用单精度，同形的矩阵一起算。

**候选**：输出头占小模型算力的将近一半。常见的字全在，其余的抽一些，加上这一批的目标，各
减去入选概率的对数（采样 softmax，Jean 等，2015，§3）。

形状字母：K 同形的矩阵数，B 行数，L 行长，C 候选数，V 词表。
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from companion.batch import Batch
from companion.losses.target_head import (
    LastLayer,
    LinearCrossEntropy,
    scoring_head,
    target_positions,
)

FREQUENT, SAMPLED = 1800, 500
"""候选：词表的前几个（词表按频率排列）全在，其余的里面抽几个。"""


class Rows:
    """一路文字切成的等长的行；每一轮换一处下刀，换一个次序。"""

    def __init__(self, ids: NDArray[np.int16], length: int, seed: int, taken: int):
        self.ids, self.length, self.seed, self.taken = ids, length, seed, taken
        self.per_epoch = len(ids) // length - 1
        self.epoch = -1

    def draw(self, count: int) -> Iterator[NDArray[np.int16]]:
        """接下来的几行，各 (length,)。"""
        for _ in range(count):
            epoch, place = divmod(self.taken, self.per_epoch)
            if epoch != self.epoch:
                rng = np.random.default_rng((self.seed, epoch))
                self.epoch, self.first = epoch, int(rng.integers(self.length))
                self.order = rng.permutation(self.per_epoch)
            start = self.first + int(self.order[place]) * self.length
            self.taken += 1
            yield self.ids[start : start + self.length]


class Muon(torch.optim.Optimizer):
    """动量正交化之后再走一步（Jordan 等，2024）；同形的矩阵一起算，全用单精度。"""

    def __init__(self, params: Any, weight_decay: float, momentum: float = 0.95):
        super().__init__(params, {"lr": 0.0, "weight_decay": weight_decay})
        self.momentum = momentum

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """走一步。"""
        [group] = self.param_groups
        same: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = {}
        for p in group["params"]:
            memory = self.state[p].setdefault("momentum", torch.zeros_like(p))
            memory.lerp_(p.grad, 1 - self.momentum)
            same.setdefault(p.shape, []).append(
                (p, p.grad.lerp(memory, self.momentum))  # Nesterov
            )
        for shape, pairs in same.items():
            turned = orthogonalize(torch.stack([step for _, step in pairs]))
            size = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
            for (p, _), step in zip(pairs, turned, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(step, alpha=size)


def orthogonalize(x: Tensor, steps: int = 5) -> Tensor:
    """Newton–Schulz：奇异值都推到 1 附近，(K, m, n) → 同形。"""
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (2.0315 * (a @ a) - 4.7750 * a) @ x
    return x.mT if tall else x


def choose_candidates(
    targets: Tensor, frequency: Tensor, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """候选 (C,) 与各自入选概率的对数 (C,)；frequency 是各字的频率 (V,)。"""
    vocab = len(frequency)
    drawn = torch.from_numpy(rng.choice(vocab - FREQUENT, SAMPLED, replace=False))
    chosen = torch.zeros(vocab, dtype=torch.bool)
    chosen[:FREQUENT] = True
    chosen[drawn + FREQUENT] = True
    chosen[targets] = True
    ids = chosen.nonzero()[:, 0]
    absent = (1 - frequency[ids]).pow(len(targets)) * (1 - SAMPLED / (vocab - FREQUENT))
    return ids, torch.where(ids < FREQUENT, 0.0, (1 - absent).log())


def batch_loss(
    model: Any, batch: Batch, causal: bool, whole: bool, frequency: Tensor, rng: Any
) -> Tensor:
    """一批的平均损失，奈特；`whole` 为假时输出头只算候选。"""
    places = target_positions(batch["labels"], causal=causal)
    targets = batch["labels"][places]
    rows = places.roll(-1, dims=1) if causal else places

    def score(last: LastLayer) -> tuple[Tensor, Tensor]:
        weight, bias, answers = last.weight, last.bias, targets
        if not whole:
            ids, log_chance = choose_candidates(targets, frequency, rng)
            weight = nn.functional.embedding(ids, weight)
            bias = -log_chance if bias is None else bias[ids] - log_chance
            answers = torch.searchsorted(ids, targets)
        total, _, _ = LinearCrossEntropy.apply(last.input, weight, bias, answers, True)  # type: ignore[misc]
        return total, total

    inputs = {k: v for k, v in batch.items() if k not in ("labels", "attention_mask")}
    with scoring_head(model, rows, score, lambda logits: logits) as read:
        return read(model(**inputs)) / len(targets)
