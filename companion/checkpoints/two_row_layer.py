"""两行位置的 GLM 的一层：先归一化再注意力，先归一化再前馈（Du 等，2022，§2.2）。

形状字母：B 行数，L 这次输入的长度，K 连同缓存的长度，H 头数，D 一个头的宽度。
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from companion.checkpoints.two_row_config import TwoRowGlmConfig


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """逐步写出的注意力；query (B, H, L, D)，key、value (B, H, K, D)。"""
    scores = query @ key.transpose(2, 3) * scaling  # (B, H, L, K)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, dropout, module.training)
    return (weights @ value).transpose(1, 2), weights


class ResidualLinear(nn.Linear):
    """结果汇入残差的线性层，初始化时小一些（见 `_init_weights`）。"""


class TwoRowGlmAttention(nn.Module):
    """多头自注意力；算法由 transformers 的注意力接口选（sdpa、eager……）。"""

    def __init__(self, config: TwoRowGlmConfig, layer_index: int) -> None:
        super().__init__()
        self.config, self.layer_index = config, layer_index
        self.is_causal = True
        width = config.hidden_size
        self.head_width = width // config.num_attention_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.dense = ResidualLinear(width, width)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        past_key_values: Cache | None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """(B, L, 宽) → (B, L, 宽) 与注意力权重 (B, H, L, K)（只有 eager 给）。"""

        def split(states: Tensor) -> Tensor:
            parts = states.unflatten(-1, (-1, self.head_width))
            return parts.transpose(1, 2)

        query = split(self.query(hidden_states))  # (B, H, L, D)
        key = split(self.key(hidden_states))
        value = split(self.value(hidden_states))
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_index)
        attend: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(
            str(self.config._attn_implementation), eager_attention
        )
        rate = self.config.attention_probs_dropout_prob if self.training else 0.0
        mixed, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.head_width**-0.5,
            dropout=rate,
            **kwargs,
        )
        return self.dense(mixed.flatten(2)), weights


class TwoRowGlmLayer(GradientCheckpointingLayer):
    """一层：注意力与前馈，层归一化都在残差支路的开头。"""

    def __init__(self, config: TwoRowGlmConfig, layer_index: int) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.attention_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attention = TwoRowGlmAttention(config, layer_index)
        self.inner_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.inner = nn.Linear(width, inner)
        self.outer = ResidualLinear(inner, width)
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """(B, L, 宽) → (B, L, 宽)。"""
        mixed, _ = self.attention(
            self.attention_norm(hidden_states),
            attention_mask,
            past_key_values,
            **kwargs,
        )
        hidden_states = hidden_states + self.dropout(mixed)
        inner = self.activation(self.inner(self.inner_norm(hidden_states)))
        return hidden_states + self.dropout(self.outer(inner))
