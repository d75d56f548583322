"""起步模型的结构，与训练之前的参数。"""

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BloomConfig,
    BloomForCausalLM,
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForPreTraining,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from companion.checkpoints.electra_pair import ElectraPair
from companion.checkpoints.locating import starter_path
from companion.checkpoints.two_row_glm import TwoRowGlmConfig, TwoRowGlmForCausalLM
from starters.aim_bert import aim_heads_at_neighbours
from starters.aim_electra import copy_from_bert
from starters.aim_glm import aim_glm
from starters.aim_t5 import aim_t5
from starters.vocabulary import EXTRA, POSITIONS, SPECIAL, log_frequency

WIDTH = 192
CLS, BOS, EOS = (SPECIAL.index(word) for word in ("[CLS]", "<s>", "</s>"))


def build_model(
    kind: str, *, vocab_size: int, seed: int, **settings: Any
) -> PreTrainedModel | ElectraPair:
    """还没有训练的模型。

    Args:
        kind: `BUILDERS` 之一。
        vocab_size: 词表大小。
        seed: 随机初始化的种子。
        settings: 另外写进 config.json 的几项。
    """
    torch.manual_seed(seed)
    return BUILDERS[kind](vocab_size=vocab_size, pad_token_id=0, **settings)


def build_bert(**common: Any) -> PreTrainedModel:
    """四层；前两层对准左右邻。"""
    model = BertForMaskedLM(
        BertConfig(
            hidden_size=WIDTH,
            num_hidden_layers=4,
            num_attention_heads=6,
            intermediate_size=768,
            max_position_embeddings=POSITIONS,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            **common,
        )
    )
    aim_heads_at_neighbours(model)
    return model


def build_bloom(**common: Any) -> PreTrainedModel:
    """四层，随机初始化：ALiBi 自己就偏向近处。"""
    sizes = {"hidden_size": WIDTH, "n_layer": 4, "n_head": 4}
    return BloomForCausalLM(
        BloomConfig(**sizes, bos_token_id=BOS, eos_token_id=EOS, **common)
    )


def build_qwen3(**common: Any) -> PreTrainedModel:
    """四层，随机初始化：旋转位置，查询与键各自归一化，三个头共用一份键值。"""
    return Qwen3ForCausalLM(
        Qwen3Config(
            hidden_size=WIDTH,
            num_hidden_layers=4,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=32,
            intermediate_size=576,
            max_position_embeddings=POSITIONS,
            rope_theta=10_000.0,
            tie_word_embeddings=True,
            bos_token_id=BOS,
            eos_token_id=EOS,
            **common,
        )
    )


def build_t5(**common: Any) -> PreTrainedModel:
    """编码器三层，解码器两层。"""
    model = T5ForConditionalGeneration(
        T5Config(
            d_model=WIDTH,
            d_kv=32,
            num_heads=6,
            d_ff=512,
            num_layers=3,
            num_decoder_layers=2,
            dropout_rate=0.0,
            n_positions=POSITIONS,
            eos_token_id=EOS,
            decoder_start_token_id=0,
            **common,
        )
    )
    aim_t5(model)
    return model


def build_bart(**common: Any) -> PreTrainedModel:
    """编码器三层，抄自 `starter:bert`；解码器两层，从零开始。"""
    model = BartForConditionalGeneration(
        BartConfig(
            d_model=WIDTH,
            encoder_layers=3,
            decoder_layers=2,
            encoder_attention_heads=6,
            decoder_attention_heads=6,
            encoder_ffn_dim=768,
            decoder_ffn_dim=384,
            max_position_embeddings=POSITIONS,
            dropout=0.0,
            bos_token_id=BOS,
            eos_token_id=EOS,
            decoder_start_token_id=EOS,
            forced_eos_token_id=EOS,
            **common,
        )
    )
    copy_encoder_from_bert(model)
    return model


def build_glm(**common: Any) -> PreTrainedModel:
    """四层，两行位置。"""
    model = TwoRowGlmForCausalLM(
        TwoRowGlmConfig(
            hidden_size=WIDTH,
            num_hidden_layers=4,
            num_attention_heads=6,
            intermediate_size=768,
            max_position_embeddings=POSITIONS,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            bos_token_id=CLS,
            eos_token_id=EOS,
            **common,
        )
    )
    frequency = log_frequency(common["vocab_size"])
    names = len(SPECIAL) + len(EXTRA)  # 其中只有 [eop] 是目标，而且常见
    frequency[:names] = frequency.min()
    frequency[len(SPECIAL) + EXTRA.index("[eop]")] = frequency.max()
    aim_glm(model, frequency)
    return model


def build_electra(**common: Any) -> ElectraPair:
    """判别器三层，生成器一层，都抄自 `starter:bert`；嵌入 96 维，共用。"""
    sizes = {
        "embedding_size": 96,
        "hidden_size": WIDTH,
        "num_attention_heads": 6,
        "intermediate_size": 768,
        "max_position_embeddings": POSITIONS,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return copy_from_bert(
        ElectraForMaskedLM(ElectraConfig(num_hidden_layers=1, **sizes, **common)),
        ElectraForPreTraining(ElectraConfig(num_hidden_layers=3, **sizes, **common)),
    )


@torch.no_grad()
def copy_encoder_from_bert(model: BartForConditionalGeneration) -> None:
    """词嵌入、位置嵌入与前几层抄自 `starter:bert`；抄法见 Rothe 等（2020，§2）。

    BART 也是 post-LN 配学习得来的位置，从零开始会停在只会猜标点的平台上；两者逐项对应。
    BART 的位置表开头多两行；句类嵌入加进词嵌入里，因为 BART 没有。
    """
    bert = BertForMaskedLM.from_pretrained(starter_path("bert")).float().bert
    encoder, decoder = model.model.encoder, model.model.decoder
    model.model.shared.weight.copy_(
        bert.embeddings.word_embeddings.weight
        + bert.embeddings.token_type_embeddings.weight[0]
    )
    for stack in (encoder, decoder):
        stack.embed_positions.weight[2:] = bert.embeddings.position_embeddings.weight
        stack.layernorm_embedding.load_state_dict(
            bert.embeddings.LayerNorm.state_dict()
        )
    for ours, theirs in zip(encoder.layers, bert.encoder.layer, strict=False):
        pairs = (
            (ours.self_attn.q_proj, theirs.attention.self.query),
            (ours.self_attn.k_proj, theirs.attention.self.key),
            (ours.self_attn.v_proj, theirs.attention.self.value),
            (ours.self_attn.out_proj, theirs.attention.output.dense),
            (ours.self_attn_layer_norm, theirs.attention.output.LayerNorm),
            (ours.fc1, theirs.intermediate.dense),
            (ours.fc2, theirs.output.dense),
            (ours.final_layer_norm, theirs.output.LayerNorm),
        )
        for mine, source in pairs:
            mine.load_state_dict(source.state_dict())


BUILDERS: dict[str, Callable[..., PreTrainedModel | ElectraPair]] = {
    "bert": build_bert,
    "bloom": build_bloom,
    "qwen3": build_qwen3,
    "t5": build_t5,
    "bart": build_bart,
    "glm": build_glm,
    "electra": build_electra,
}
