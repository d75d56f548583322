"""GLM：一个 Transformer，两行位置（Du 等，2022，§2.1、§2.2）。

    h = E[x] + P[位置之一] + Q[位置之二]
    h ← h + 自注意力(LN(h))，  h ← h + 前馈(LN(h))      逐层
    logits = LN(h) Eᵀ

与 BERT 的不同（§2.2）：层归一化移到残差支路的开头；输出只有一个线性层，与词嵌入共用；激
活用 GELU。位置有两张可学习的表：P 是在 A 部分的第几个，Q 是在片段里的第几个（A 部分为
0），见 `companion.objectives.blank_infilling` 的例子。

谁看得见谁由 `attention_mask` 定：四维的加性掩码照用；二维的或没有时只看左边，填空、前缀
因此都要给四维的。transformers 见重复的位置会以为几个文档装在一行，所以位置不交给它造掩
码。

载入这个文件，就向 transformers 的 Auto 类登记。`load_checkpoint` 打开这种检查点之前自会
载入；直接用 transformers 打开的，先写一行：

    import companion.checkpoints.two_row_glm

形状字母：B 行数，L 这次输入的长度，K 连同缓存的长度，H 头数，D 一个头的宽度，V 词表。
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.configuration_utils import PreTrainedConfig
from transformers.generation.utils import GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import AutoModel, AutoModelForCausalLM
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from companion.errors import ModelError


class TwoRowGlmConfig(PreTrainedConfig):
    """GLM 的设置（Du 等，2022，§2.2）；缺省值是 GLM-base 的大小。"""

    model_type = "glm_two_row"
    keys_to_ignore_at_inference = ("past_key_values",)

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu_new"
    """发布的代码用 tanh 近似的 GELU。"""
    max_position_embeddings: int = 512
    """两张位置表各有多少行；片段内的位置从 1 数起，0 留给 A 部分。"""
    position_rows: int = 2
    """位置有几行；整理器由此知道要给几行，不能改。"""
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    tie_word_embeddings: bool = True


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


class TwoRowGlmPreTrainedModel(PreTrainedModel):
    """初始化与 transformers 所需的几项声明。"""

    config_class = TwoRowGlmConfig
    config: TwoRowGlmConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    # 以下几项的写法由 transformers 定
    _no_split_modules = ["TwoRowGlmLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_record_outputs = {  # noqa: RUF012
        "hidden_states": TwoRowGlmLayer,
        "attentions": TwoRowGlmAttention,
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """正态；汇入残差的矩阵再除以 √(2·层数)，照发布的代码。"""
        super()._init_weights(module)
        if isinstance(module, ResidualLinear):
            std = self.config.initializer_range
            init.normal_(
                module.weight, std=std / math.sqrt(2 * self.config.num_hidden_layers)
            )


class TwoRowGlmModel(TwoRowGlmPreTrainedModel):
    """GLM 的主干。"""

    def __init__(self, config: TwoRowGlmConfig) -> None:
        super().__init__(config)
        width, rows = config.hidden_size, config.max_position_embeddings
        self.word_embeddings = nn.Embedding(config.vocab_size, width)
        self.position_embeddings = nn.Embedding(rows, width)
        self.block_position_embeddings = nn.Embedding(rows, width)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layers = nn.ModuleList(
            TwoRowGlmLayer(config, index) for index in range(config.num_hidden_layers)
        )
        self.final_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """词嵌入。"""
        return self.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """换词嵌入（扩词表时）。"""
        self.word_embeddings = value

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """主干的前向。

        Args:
            input_ids: (B, L) int64；与 `inputs_embeds` 给一个。
            attention_mask: (B, 1, L, K) 加性浮点；或 (B, K) 0/1，只看左边；或没有。
            position_ids: (B, 2, L) 两行；(B, L) 则第二行为 0；没有则从缓存之后数起。
            past_key_values: 缓存。
            inputs_embeds: (B, L, 宽)。
            use_cache: 是否返回缓存。
            **kwargs: 交给注意力接口。

        Raises:
            ModelError: `position_ids` 的形状不对。
        """
        if inputs_embeds is None:
            inputs_embeds = self.word_embeddings(input_ids)
        assert inputs_embeds is not None
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        seen = 0 if past_key_values is None else past_key_values.get_seq_length()
        level, inside = _two_rows(position_ids, inputs_embeds, int(seen))
        hidden_states = self.dropout(
            inputs_embeds
            + self.position_embeddings(level)
            + self.block_position_embeddings(inside)
        )
        mask = create_causal_mask(  # 四维的原样交回
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
        )
        if isinstance(mask, Tensor) and mask.is_floating_point():
            least = torch.finfo(hidden_states.dtype).min  # 免得 bfloat16 下成 −inf
            mask = mask.clamp(min=least).to(hidden_states.dtype)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                attention_mask=mask,
                past_key_values=past_key_values,
                **kwargs,
            )
        return BaseModelOutputWithPast(
            last_hidden_state=self.final_norm(hidden_states),
            past_key_values=past_key_values,
        )


class TwoRowGlmForCausalLM(TwoRowGlmPreTrainedModel, GenerationMixin):
    """GLM，带与词嵌入共用的输出层。"""

    _tied_weights_keys = {  # noqa: RUF012
        "lm_head.weight": "model.word_embeddings.weight"
    }

    def __init__(self, config: TwoRowGlmConfig) -> None:
        super().__init__(config)
        self.model = TwoRowGlmModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        shift_labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """前向；前几个参数见 `TwoRowGlmModel.forward`。

        Args:
            input_ids: (B, L) int64。
            attention_mask: (B, 1, L, K) 或 (B, K)。
            position_ids: (B, 2, L) 或 (B, L)。
            past_key_values: 缓存。
            inputs_embeds: (B, L, 宽)。
            labels: (B, L) int64，照因果模型的惯例由损失移位。
            shift_labels: (B, L) int64，与输入对齐，不再移位；给了它就不看 `labels`。
                GLM 的填空用这个。
            use_cache: 是否返回缓存。
            logits_to_keep: 只算末尾几个位置的 logits；0 表示全部。
            **kwargs: `num_items_in_batch`、`output_attentions` 等。

        Returns:
            `logits` (B, L, V)；给了标签时另有 `loss`，标量。
        """
        outputs = self.model(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        if isinstance(logits_to_keep, Tensor) or logits_to_keep > 0:
            last = logits_to_keep
            kept = slice(-last, None) if isinstance(last, int) else last
            hidden_states = hidden_states[:, kept]
        logits = self.lm_head(hidden_states)
        loss = None
        if labels is not None or shift_labels is not None:
            measure: Any = self.loss_function
            loss = measure(
                logits=logits,
                labels=labels,
                shift_labels=shift_labels,
                vocab_size=self.config.vocab_size,
                **kwargs,
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


def _two_rows(
    position_ids: Tensor | None, embeds: Tensor, seen: int
) -> tuple[Tensor, Tensor]:
    """两行位置，各 (B, L) 或 (1, L)。"""
    length = embeds.shape[1]
    if position_ids is None:
        position_ids = torch.arange(seen, seen + length, device=embeds.device)[None]
    if position_ids.dim() == 2:
        position_ids = torch.stack(
            [position_ids, torch.zeros_like(position_ids)], dim=1
        )
    if position_ids.dim() != 3 or position_ids.shape[1:] != (2, length):
        raise ModelError(
            found=f"position_ids 的形状是 {tuple(position_ids.shape)}",
            expected=f"(行数, 2, {length})，或 (行数, {length})（第二行当作 0）",
            remedy="用 blank_infilling 的整理器，position_rows 取 2",
        )
    return position_ids[:, 0], position_ids[:, 1]


AutoConfig.register(TwoRowGlmConfig.model_type, TwoRowGlmConfig, exist_ok=True)
AutoModel.register(TwoRowGlmConfig, TwoRowGlmModel, exist_ok=True)
AutoModelForCausalLM.register(TwoRowGlmConfig, TwoRowGlmForCausalLM, exist_ok=True)
