"""前缀模型怎样往下写：开头双向地读一遍，此后逐个词元地读写。

    读    狡 兔 死 ，          四个互相可见（Raffel 等，2020，§3.2.1）
    写    走 → 狗 → 烹 → …     每个看得见全部前缀与自己的左边

只有解码器的模型（GPT-2、Llama、Qwen、GLM）带着键与值的缓存；编码器–解码器把前缀交给编码
器，由解码器写。两者的 logits 都与训练时一次前向的相同。

形状字母：R 并排写的几串，V 词表。
"""

import copy
from typing import Any

import torch
from torch import Tensor

from companion.inference.memory import Memory
from companion.losses.target_head import inner_model


class PrefixWriter:
    """只有解码器的模型，开头互相可见。"""

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
