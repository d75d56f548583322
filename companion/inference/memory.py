"""模型读过的文字：读过的不再算，新读的看得见全部读过的。

训练时一次读完一整行，谁看得见谁由一张四维掩码定；写的时候一个一个地读，每次只给新读的几
行掩码，前面的键与值留在缓存里。前缀的键与值不受后面的影响，所以逐个读与一次读完算的是
同一件事（测试核对 logits）。`generate` 不收四维掩码，前缀解码因此不用它。

没有缓存的架构（ALBERT、DistilBERT、ModernBERT）改为记住读过的词元，每次从头算，结果相
同，只是慢些。

形状字母：R 并排的几串，n 这次新读的个数，K 读过的加新读的，V 词表。
"""

import copy
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from companion.losses.target_head import inner_model
from companion.objectives.attention import additive_mask
from companion.preflight.probing import position_offset, takes


class Memory:
    """几串并排的文字，各串一样长；起初是空的一串。"""

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
