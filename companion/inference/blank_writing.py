"""GLM 怎样填空：双向地读一遍带空的文字，再逐个空地写。

    读      x1  x2  [M] x4  [M]             A 部分互相可见（Du 等，2022，§2.1）
    第 1 空  [S] → x3 → [E]                  位置（2, 1）（2, 2）
    第 2 空  [S] → x5 → x6 → [E]             位置（4, 1）（4, 2）（4, 3）

位置的第一行是空在 A 部分的第几个，第二行在片段里从 1 数起；只有一行位置的模型
（`GlmForCausalLM`、Llama）只用第一行。后写的空看得见先写的。[E] 只是输出，从不读进去。
次序从左到右：训练时片段的次序是打乱的，哪种次序都见过。

形状字母：R 并排写的几串，V 词表。
"""

from typing import Any

import torch
from torch import Tensor

from companion.checkpoints.running import position_rows
from companion.inference.decoding import Decoding, Limits, Written, decode
from companion.inference.memory import Memory


class BlankWriter:
    """写一个空；A 部分与先写的空已在 `memory` 里，它由此改动。"""

    def __init__(self, memory: Memory, start_id: int, place: int, rows: int) -> None:
        """`place` 是空在 A 部分的第几个，`rows` 是模型的位置有几行。"""
        self._memory, self._start_id = memory, start_id
        self._place, self._rows = place, rows
        self._count = 0

    def start(self) -> Tensor:
        """读 [S]，(1, V)。"""
        return self.read(torch.tensor([[self._start_id]]))

    def advance(self, tokens: Tensor) -> Tensor:
        """各串读下自己写的，(R,) → (R, V)。"""
        return self.read(tokens[:, None])

    def select(self, rows: Tensor) -> None:
        """只留这几串。"""
        self._memory.select(rows)

    def read(self, ids: Tensor) -> Tensor:
        """接着读片段里的几个词元，(R, n) → (R, V)。"""
        inside = torch.arange(ids.shape[1]) + self._count + 1
        level = torch.full_like(inside, self._place)
        self._count += ids.shape[1]
        positions = torch.stack([level, inside]) if self._rows == 2 else level
        return self._memory.read(ids, positions)


def read_part_a(model: Any, part_a: list[int]) -> Memory:
    """双向地读 A 部分。"""
    memory = Memory(model)
    places = torch.arange(len(part_a))
    if position_rows(model) == 2:
        places = torch.stack([places, torch.zeros_like(places)])
    memory.read(torch.tensor([part_a]), places, two_way=True)
    return memory


@torch.no_grad()
def write_blanks(
    model: Any,
    part_a: list[int],
    blanks: list[int],
    how: Decoding,
    limits: Limits,
    start_id: int,
) -> list[Written]:
    """从左到右写每一个空，每个空取最好的一串。

    Args:
        model: GLM，或用填空训练过的只有解码器的模型。
        part_a: A 部分的词元，含写空的那几个。
        blanks: 各个空在 A 部分的第几个。
        how: 怎样选；`num_return_sequences` 不用。
        limits: 写不得的与结尾。
        start_id: [S]。
    """
    memory, rows = read_part_a(model, part_a), position_rows(model)
    found: list[Written] = []
    for place in blanks:
        trial = BlankWriter(memory.copy(), start_id, place, rows)
        [best, *_] = decode(trial, how, limits)
        found.append(best)
        if len(found) < len(blanks):  # 选中的这一串留给后面的空看
            BlankWriter(memory, start_id, place, rows).read(
                torch.tensor([[start_id, *best.ids]])
            )
    return found
