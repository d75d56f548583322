"""训练取样本的地方：领域与回放的行接在一起，ERNIE 的三个阶段换着词界给。"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from companion.batch import Feature
from companion.corpus.packing import BlockDataset
from companion.training.batching import BatchPlan


class JoinedRows:
    """领域与回放的行接在一起编号；样本编号随之错开，噪声互不相同。"""

    def __init__(self, datasets: Sequence[BlockDataset]) -> None:
        self.datasets = datasets
        self.firsts = np.cumsum([0, *(len(dataset) for dataset in datasets)])
        self.lengths: NDArray[np.int64] = np.concatenate(
            [dataset.lengths for dataset in datasets]
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, key: tuple[int, int]) -> Feature:
        """按 (轮次, 行号) 取一行。"""
        epoch, row = key
        which = int(np.searchsorted(self.firsts, row, side="right")) - 1
        feature = self.datasets[which][epoch, row - int(self.firsts[which])]
        return {**feature, "example_id": row}


class StagedRows(JoinedRows):
    """几个阶段的行：词元一样，词界不同；训练的前一段给第一份，后一段给下一份。

    批次早已排定，所以一行属于哪个阶段只看它在第几批：各阶段的批数三等分。取样本的进程有
    几个、中途续训与否，都不改变它。

    Args:
        stages: 各阶段的行，次序与长短都相同。
        plan: 排定的批次。
    """

    def __init__(self, stages: Sequence[JoinedRows], plan: BatchPlan) -> None:
        super().__init__(stages[0].datasets)
        self.stages = stages
        self._fences: list[tuple[int, frozenset[int]]] = []
        for stage in range(1, len(stages)):
            steps = -(-plan.num_steps * stage // len(stages))
            first = steps * (len(plan.batches) // plan.num_steps)
            if first == len(plan.batches):  # 步数太少，轮不到这个阶段
                break
            epoch = plan.batches[first][0][0]
            before = frozenset(
                row
                for batch in plan.batches[:first]
                for number, row in batch
                if number == epoch
            )
            self._fences.append((epoch, before))

    def __getitem__(self, key: tuple[int, int]) -> Feature:
        """按 (轮次, 行号) 取一行，词界照它所在的阶段。"""
        return self.stages[self.stage_of(key)][key]

    def stage_of(self, key: tuple[int, int]) -> int:
        """(轮次, 行号) 在第几个阶段，从 0 数起。"""
        epoch, row = key
        return sum(
            epoch > first or (epoch == first and row not in before)
            for first, before in self._fences
        )
