"""各种模型怎样逐个词元地往下写：读过的不再算，新读的看得见全部读过的。

训练时一次读完一整行，谁看得见谁由一张四维掩码定；写的时候一个一个地读，每次只给新读的几
行掩码，前面的键与值留在缓存里（`Memory`）。前缀的键与值不受后面的影响，所以逐个读与一次
读完算的是同一件事（测试核对 logits）。`generate` 不收四维掩码，前缀解码因此不用它。

| 写法 | 模型 | 读什么 | 每步 |
|---|---|---|---|
| `LeftWriter` | 因果语言模型 | 开头，从左到右 | 从头读一遍 |
| `PrefixWriter` | 只有解码器 | 开头，互相可见 | 读下刚写的 |
| `EncodedWriter` | 编码器–解码器 | 开头进编码器 | 由解码器读下刚写的 |
| `MaskWriter` | BERT 一类（UniLM） | [CLS] 开头 [SEP] | 末尾添一个 [MASK]，猜它 |
| `BlankWriter` | GLM、Llama… | 带空的文字 | 写这一个空 |

形状字母：R 并排写的几串，n 这次新读的个数，K 读过的加新读的，V 词表。
"""

import copy
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from companion.checkpoints.running import (
    inner_model,
    position_offset,
    position_rows,
    takes,
)
from companion.inference.decoding import Decoding, Limits, Written, decode
from companion.objectives.attention import additive_mask


class Memory:
    """几串并排的文字，各串一样长；起初是空的一串。

    没有缓存的架构（ALBERT、DistilBERT、ModernBERT）改为记住读过的词元，每次从头算，结
    果相同，只是慢些。
    """

    def __init__(self, model: Any) -> None:
        self._model = inner_model(model)
        self.length = 0
        """各串读过多少词元。"""
        cached = takes(self._model.base_model, "past_key_values")
        self._cache = DynamicCache() if cached else None
        self._read: dict[str, Tensor] = {}
        self._visible = torch.zeros(0, 0, dtype=torch.bool)

    @property
    def device(self) -> torch.device:
        """模型所在的设备。"""
        return next(self._model.parameters()).device

    @torch.no_grad()
    def read(
        self,
        ids: Tensor,
        positions: Tensor,
        *,
        two_way: bool = False,
        segments: Tensor | None = None,
    ) -> Tensor:
        """再读几个词元。

        Args:
            ids: 新读的，(R, n) int64。
            positions: 它们的位置，(n,) 或两行的 (2, n) int64；从 0 数起，RoBERTa 的偏
                移在这里补。
            two_way: 新读的互相可见（前缀）；否则只看自己与左边。
            segments: 片段编号，(n,) int64；模型不收时不用。

        Returns:
            最后一个位置的 logits，(R, V)。
        """
        model, (rows, count) = self._model, ids.shape
        visible = torch.ones(count, self.length + count, dtype=torch.bool)
        if not two_way:
            visible[:, self.length :] = visible[:, self.length :].tril()
        inputs = {"input_ids": ids.to(self.device)}
        given = {
            "position_ids": positions + position_offset(model),
            "token_type_ids": segments,
        }
        for name, value in given.items():
            if value is not None and takes(model, name):
                inputs[name] = value.to(self.device).expand(rows, *value.shape)
        options: dict[str, Any] = {}
        if self._cache is not None:
            options["past_key_values"] = self._cache
        else:
            inputs, visible = self._with_the_past(inputs, visible)
        if takes(model, "logits_to_keep"):
            options["logits_to_keep"] = 1
        mask = additive_mask(visible[None], model.dtype).to(self.device)
        mask = mask.expand(rows, -1, -1, -1)
        outputs = model(**inputs, attention_mask=mask, **options)
        self.length += count
        return outputs.logits[:, -1]

    def forget(self, count: int) -> None:
        """忘掉最后读的几个。"""
        self.length -= count
        if self._cache is not None:
            self._cache.crop(-count)
        self._read = {k: v[..., : self.length] for k, v in self._read.items()}
        self._visible = self._visible[: self.length, : self.length]

    def select(self, rows: Tensor) -> None:
        """只留这几串，可重复，(R′,) int64。"""
        rows = rows.to(self.device)
        if self._cache is not None:
            self._cache.batch_select_indices(rows)
        self._read = {name: value[rows] for name, value in self._read.items()}

    def copy(self) -> "Memory":
        """另抄一份，此后各读各的。"""
        other = copy.copy(self)
        other._cache = copy.deepcopy(self._cache)
        return other

    def _with_the_past(
        self, inputs: dict[str, Tensor], visible: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """没有缓存：连同读过的一起，从头算。"""
        if self._read:
            inputs = {
                name: torch.cat([self._read[name], value], -1)
                for name, value in inputs.items()
            }
        whole = torch.zeros(visible.shape[1], visible.shape[1], dtype=torch.bool)
        whole[: self.length, : self.length] = self._visible
        whole[self.length :] = visible
        self._read, self._visible = inputs, whole
        return inputs, whole


class LeftWriter:
    """因果语言模型，掩码由它自己补；不用缓存，只写几个词元的填空题用。"""

    def __init__(self, model: Any, prompt: list[int]) -> None:
        self._model, self._ids = inner_model(model), torch.tensor([prompt])

    def start(self) -> Tensor:
        """读开头，(1, V)。"""
        device = next(self._model.parameters()).device
        return self._model(self._ids.to(device)).logits[:, -1]

    def advance(self, tokens: Tensor) -> Tensor:
        """各串读下自己写的，(R,) → (R, V)。"""
        self._ids = torch.cat([self._ids, tokens[:, None].to(self._ids.device)], 1)
        return self.start()

    def select(self, rows: Tensor) -> None:
        """只留这几串。"""
        self._ids = self._ids[rows.to(self._ids.device)]


class PrefixWriter:
    """只有解码器的模型（GPT-2、Llama、Qwen、GLM），开头互相可见。

    读    狡 兔 死 ，          四个互相可见（Raffel 等，2020，§3.2.1）
    写    走 → 狗 → 烹 → …     每个看得见全部前缀与自己的左边
    """

    def __init__(self, model: Any, prefix: list[int]) -> None:
        self._memory, self._prefix = Memory(model), prefix

    def start(self) -> Tensor:
        """读前缀，(1, V)。"""
        places = torch.arange(len(self._prefix))
        return self._memory.read(torch.tensor([self._prefix]), places, two_way=True)

    def advance(self, tokens: Tensor) -> Tensor:
        """各串读下自己写的，(R,) → (R, V)。"""
        place = torch.tensor([self._memory.length])
        return self._memory.read(tokens[:, None], place)

    def select(self, rows: Tensor) -> None:
        """只留这几串。"""
        self._memory.select(rows)


class EncodedWriter:
    """编码器–解码器：前缀给编码器，其余由解码器写。"""

    def __init__(self, model: Any, source: list[int], forced: list[int]) -> None:
        """`forced` 是解码器照抄的开头，含 `decoder_start_token_id`。"""
        self._model = inner_model(model)
        self._source, self._forced = source, forced
        self._states: Any = None
        self._cache: Any = None

    def start(self) -> Tensor:
        """编码，并读下照抄的开头，(1, V)。"""
        device = next(self._model.parameters()).device
        source = torch.tensor([self._source], device=device)
        self._states = self._model.get_encoder()(source)
        return self._read(torch.tensor([self._forced], device=device))

    def advance(self, tokens: Tensor) -> Tensor:
        """各串读下自己写的，(R,) → (R, V)。"""
        states = self._states.last_hidden_state
        return self._read(tokens[:, None].to(states.device))

    def select(self, rows: Tensor) -> None:
        """只留这几串。"""
        states = self._states.last_hidden_state
        rows = rows.to(states.device)
        self._states = copy.copy(self._states)
        self._states.last_hidden_state = states[rows]
        self._cache.batch_select_indices(rows)

    def _read(self, ids: Tensor) -> Tensor:
        outputs = self._model(
            encoder_outputs=self._states,
            decoder_input_ids=ids,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache = outputs.past_key_values
        return outputs.logits[:, -1]


class MaskWriter:
    """掩码语言模型，照 UniLM 的序列到序列掩码写。

        读    [CLS] 狡 兔 死 [SEP]                互相可见（Dong 等，2019，§2.5）
        第 1 步   [MASK]                → 走
        第 2 步   走 [MASK]             → 狗
        第 3 步   狗 [MASK]             → 烹

    BERT 在 [MASK] 自己的位置上预测，不预测下一个，所以每步读两个词元：刚写的字与新的
    [MASK]；[MASK] 的键与值随后忘掉，谁也看不见它。这与训练时把 [MASK] 摆在同一处的一次
    前向，logits 相同。
    """

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


class BlankWriter:
    """写一个空；A 部分与先写的空已在 `memory` 里，它由此改动。

        读      x1  x2  [M] x4  [M]             A 部分互相可见（Du 等，2022，§2.1）
        第 1 空  [S] → x3 → [E]                  位置（2, 1）（2, 2）
        第 2 空  [S] → x5 → x6 → [E]             位置（4, 1）（4, 2）（4, 3）

    位置的第一行是空在 A 部分的第几个，第二行在片段里从 1 数起；只有一行位置的模型
    （`GlmForCausalLM`、Llama）只用第一行。后写的空看得见先写的。[E] 只是输出，从不读进
    去。次序从左到右：训练时片段的次序是打乱的，哪种次序都见过。
    """

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
