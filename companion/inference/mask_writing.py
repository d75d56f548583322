"""UniLM 怎样往下写：每步在末尾添一个 [MASK]，猜它是什么，再换成猜的字。

    读    [CLS] 狡 兔 死 [SEP]                互相可见（Dong 等，2019，§2.5）
    第 1 步   [MASK]                → 走
    第 2 步   走 [MASK]             → 狗
    第 3 步   狗 [MASK]             → 烹

BERT 在 [MASK] 自己的位置上预测，不预测下一个，所以每步读两个词元：刚写的字与新的
[MASK]；[MASK] 的键与值随后忘掉，谁也看不见它。这与训练时用序列到序列的掩码、把 [MASK]
摆在同一处的一次前向，logits 相同。

形状字母：R 并排写的几串，V 词表。
"""

from typing import Any

import torch
from torch import Tensor

from companion.inference.memory import Memory


class MaskWriter:
    """掩码语言模型，照 UniLM 的序列到序列掩码写。"""

    def __init__(
        self, model: Any, source: list[int], mask_id: int, segments: tuple[int, int]
    ) -> None:
        """`source` 是源端，含 [CLS] 与 [SEP]；`segments` 是源端与目标端的片段编号。"""
        self._memory, self._source, self._mask = Memory(model), source, mask_id
        self._segments = segments

    def start(self) -> Tensor:
        """读源端，再问第一个 [MASK]，(1, V)。"""
        size = len(self._source)
        self._memory.read(
            torch.tensor([self._source]),
            torch.arange(size),
            two_way=True,
            segments=torch.full((size,), self._segments[0]),
        )
        return self._ask(torch.empty(1, 0, dtype=torch.int64))

    def advance(self, tokens: Tensor) -> Tensor:
        """各串读下自己写的，再问一个 [MASK]，(R,) → (R, V)。"""
        return self._ask(tokens[:, None])

    def select(self, rows: Tensor) -> None:
        """只留这几串。"""
        self._memory.select(rows)

    def _ask(self, pending: Tensor) -> Tensor:
        """读下 `pending` (R, 0 或 1)，猜它后面是什么。"""
        masks = torch.full((len(pending), 1), self._mask, device=pending.device)
        ids = torch.cat([pending, masks], 1)
        first, count = self._memory.length, ids.shape[1]
        logits = self._memory.read(
            ids,
            torch.arange(first, first + count),
            segments=torch.full((count,), self._segments[1]),
        )
        self._memory.forget(1)
        return logits
