"""各种架构的极小模型：权重随机，只供测试，不联网。

`tiny_model("bloom")` 是两层、宽 32 的 BLOOM，`tiny_tokenizer("bloom")` 是与真
BLOOM 同类的分词器（字节级 BPE），词表取自几句中文。它们能存成检查点、再由
`AutoModel…` 与 `AutoTokenizer` 打开，所以真模型会遇到的事（位置上限、填充、掩码、
打包泄漏）都能在几毫秒里试出来。随机权重证明不了“继续预训练有效”：那要用起点模型
（`starter:bert` 等）。

    >>> tokenizer = tiny_tokenizer("bert")
    >>> tokenizer.tokenize("良弓藏")
    ['良', '弓', '藏']
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from companion.checkpoints.tiny_tokenizers import (
    decoder_tokenizer,
    gpt2_tokenizer,
    mbart_tokenizer,
    modernbert_tokenizer,
    mt5_tokenizer,
    pegasus_tokenizer,
    roberta_tokenizer,
    t5_tokenizer,
    two_row_tokenizer,
    word_piece_tokenizer,
    xlm_roberta_tokenizer,
    xlm_tokenizer,
)
from companion.errors import ModelError

_HIDDEN, _LAYERS, _HEADS, _INNER, _POSITIONS = 32, 2, 4, 64, 128


@dataclass(frozen=True)
class TinyKind:
    """一种架构：任务类、分词器、配置。

    Args:
        auto_class: 用哪个 `AutoModelFor…` 建模。
        tokenizer: 建分词器的函数。
        model_type: transformers 的 `model_type`，缺省与种类同名。
        config: 配置里除词表与特殊词元外的各项。
        decoder_start: 编码器–解码器的解码器从哪个词元起头。
        own_head: 输出头与词嵌入各是一份（mT5）。
    """

    auto_class: str
    tokenizer: Callable[[], Any]
    model_type: str
    config: dict[str, Any] = field(default_factory=dict)
    decoder_start: str | None = None
    own_head: bool = False


def tiny_tokenizer(kind: str) -> Any:
    """与某种架构的真分词器同类的极小分词器。

    Args:
        kind: `TINY_KINDS` 的键，例如 "bert"、"bloom"。

    Returns:
        transformers 的分词器；存盘后 `AutoTokenizer.from_pretrained` 读回同一个。

    Raises:
        ModelError: 没有这种架构。
    """
    return _kind(kind).tokenizer()


def tiny_model(
    kind: str,
    tokenizer: Any = None,
    seed: int = 0,
    *,
    attn_implementation: str | None = None,
    auto_class: str | None = None,
    **overrides: Any,
) -> Any:
    """随机权重的极小模型，评估模式；全局随机状态原样不动。

    Args:
        kind: `TINY_KINDS` 的键。
        tokenizer: 词表与特殊词元由它定；缺省用 `tiny_tokenizer(kind)`。
        seed: 权重只由（架构，词表大小，种子）决定。
        attn_implementation: "eager" 或 "sdpa"；缺省由 transformers 选。
        auto_class: 换一个 Auto 类建，例如 "AutoModelForPreTraining"；缺省是这种架构的。
        **overrides: 覆盖配置的任意字段，例如 `hidden_size=16`。

    Returns:
        `transformers.PreTrainedModel`，float32。

    Raises:
        ModelError: 没有这种架构。
    """
    import torch
    import transformers
    from transformers import AutoConfig

    spec = _kind(kind)
    tokenizer = spec.tokenizer() if tokenizer is None else tokenizer
    fields = _special_ids(tokenizer) | spec.config
    if spec.decoder_start is not None:
        start = tokenizer.convert_tokens_to_ids(spec.decoder_start)
        fields["decoder_start_token_id"] = start
    config = AutoConfig.for_model(
        spec.model_type, vocab_size=len(tokenizer), **(fields | overrides)
    )
    builder = getattr(transformers, auto_class or spec.auto_class)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = builder.from_config(config, attn_implementation=attn_implementation)
        if spec.own_head:  # transformers 5.23 总是共享，读真的检查点时才分开
            separate = 0.05 * torch.randn_like(model.lm_head.weight)
            model.lm_head.weight = torch.nn.Parameter(separate)
            model.config.tie_word_embeddings = False
    return model.eval()


def _kind(kind: str) -> TinyKind:
    if kind in TINY_KINDS:
        return TINY_KINDS[kind]
    raise ModelError(
        found=f"未知的架构 {kind!r}",
        expected=f"{'、'.join(sorted(TINY_KINDS))} 之一",
        remedy="换用上列名字；真模型用 load_checkpoint 打开",
    )


def _special_ids(tokenizer: Any) -> dict[str, int]:
    """配置里要写明的特殊词元：缺省值是真模型的编号，会落在极小词表之外。"""
    names = ("pad_token_id", "bos_token_id", "eos_token_id")
    ids = {name: getattr(tokenizer, name) for name in names}
    edges = {"cls_token_id": "bos_token_id", "sep_token_id": "eos_token_id"}
    for edge, name in edges.items():
        if getattr(tokenizer, edge) is not None:
            ids[edge] = getattr(tokenizer, edge)
            ids[name] = ids[edge] if ids[name] is None else ids[name]
    return ids


_BERT_SIZE = {
    "hidden_size": _HIDDEN,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": _HEADS,
    "intermediate_size": _INNER,
    "max_position_embeddings": _POSITIONS,
}
_ROBERTA_SIZE = _BERT_SIZE | {
    "max_position_embeddings": _POSITIONS + 2,  # 位置从 pad_token_id + 1 = 2 数起
    "type_vocab_size": 1,
}
_LLAMA_SIZE = _BERT_SIZE | {"num_key_value_heads": 2, "head_dim": _HIDDEN // _HEADS}
_XLM_SIZE = {
    "emb_dim": _HIDDEN,
    "n_layers": _LAYERS,
    "n_heads": _HEADS,
    "max_position_embeddings": _POSITIONS,
    "n_langs": 1,
    "mask_index": 4,
}
_T5_SIZE = {
    "d_model": _HIDDEN,
    "d_kv": _HIDDEN // _HEADS,
    "d_ff": _INNER,
    "num_layers": _LAYERS,
    "num_heads": _HEADS,
}
_BART_SIZE = {
    "d_model": _HIDDEN,
    "encoder_layers": _LAYERS,
    "decoder_layers": _LAYERS,
    "encoder_attention_heads": _HEADS,
    "decoder_attention_heads": _HEADS,
    "encoder_ffn_dim": _INNER,
    "decoder_ffn_dim": _INNER,
    "max_position_embeddings": _POSITIONS,
}

_MASKED, _CAUSAL = "AutoModelForMaskedLM", "AutoModelForCausalLM"
_SEQ2SEQ = "AutoModelForSeq2SeqLM"

TINY_KINDS: dict[str, TinyKind] = {
    "bert": TinyKind(_MASKED, word_piece_tokenizer, "bert", _BERT_SIZE),
    "ernie": TinyKind(_MASKED, word_piece_tokenizer, "ernie", _BERT_SIZE),
    "albert": TinyKind(
        _MASKED, word_piece_tokenizer, "albert", _BERT_SIZE | {"embedding_size": 16}
    ),
    "roberta": TinyKind(_MASKED, roberta_tokenizer, "roberta", _ROBERTA_SIZE),
    "distilbert": TinyKind(
        _MASKED,
        word_piece_tokenizer,
        "distilbert",
        {
            "dim": _HIDDEN,
            "n_layers": _LAYERS,
            "n_heads": _HEADS,
            "hidden_dim": _INNER,
            "max_position_embeddings": _POSITIONS,
        },
    ),
    "convbert": TinyKind(
        _MASKED,
        word_piece_tokenizer,
        "convbert",
        _BERT_SIZE | {"embedding_size": _HIDDEN, "conv_kernel_size": 3},
    ),
    # 读得懂句对的 XLM（mlm-tlm）有几种语言；FlauBERT 只有法语
    "xlm": TinyKind(_MASKED, xlm_tokenizer, "xlm", _XLM_SIZE | {"n_langs": 2}),
    "xlm-roberta": TinyKind(
        _MASKED, xlm_roberta_tokenizer, "xlm-roberta", _ROBERTA_SIZE
    ),
    "flaubert": TinyKind(_MASKED, xlm_tokenizer, "flaubert", _XLM_SIZE),
    "electra": TinyKind(
        _MASKED, word_piece_tokenizer, "electra", _BERT_SIZE | {"embedding_size": 16}
    ),
    "funnel": TinyKind(
        _MASKED,
        word_piece_tokenizer,
        "funnel",
        {
            "d_model": _HIDDEN,
            "n_head": _HEADS,
            "d_head": _HIDDEN // _HEADS,
            "d_inner": _INNER,
            "block_sizes": [1, 1],
            "num_decoder_layers": 1,
            "max_position_embeddings": _POSITIONS,
        },
    ),
    # 真 ModernBERT 每三层一层全局，其余只看窗口；这里一层全局、一层窗口 16
    "modernbert": TinyKind(
        _MASKED,
        modernbert_tokenizer,
        "modernbert",
        _BERT_SIZE | {"local_attention": 16},
    ),
    "gpt2": TinyKind(
        _CAUSAL,
        gpt2_tokenizer,
        "gpt2",
        {"n_embd": _HIDDEN, "n_layer": _LAYERS, "n_head": _HEADS, "n_positions": 128},
    ),
    "bloom": TinyKind(
        _CAUSAL,
        decoder_tokenizer("<s>", "</s>", "<pad>", "<unk>"),
        "bloom",
        {"hidden_size": _HIDDEN, "n_layer": _LAYERS, "n_head": _HEADS},
    ),
    "llama": TinyKind(
        _CAUSAL,
        decoder_tokenizer(
            "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>"
        ),
        "llama",
        _LLAMA_SIZE,
    ),
    "qwen3": TinyKind(
        _CAUSAL,
        decoder_tokenizer(None, "<|im_end|>", "<|endoftext|>"),
        "qwen3",
        _LLAMA_SIZE,
    ),
    "glm": TinyKind(
        _CAUSAL,
        decoder_tokenizer(None, "<|endoftext|>", "<|endoftext|>"),
        "glm",
        _LLAMA_SIZE,
    ),
    "glm_two_row": TinyKind(_CAUSAL, two_row_tokenizer, "glm_two_row", _BERT_SIZE),
    "t5": TinyKind(_SEQ2SEQ, t5_tokenizer, "t5", _T5_SIZE, "<pad>"),
    "mt5": TinyKind(_SEQ2SEQ, mt5_tokenizer, "mt5", _T5_SIZE, "<pad>", own_head=True),
    "bart": TinyKind(_SEQ2SEQ, roberta_tokenizer, "bart", _BART_SIZE, "</s>"),
    # 中文 BART 用 BERT 的词表与首尾，解码器从 [SEP] 起头
    "bart-chinese": TinyKind(
        _SEQ2SEQ, word_piece_tokenizer, "bart", _BART_SIZE, "[SEP]"
    ),
    "pegasus": TinyKind(_SEQ2SEQ, pegasus_tokenizer, "pegasus", _BART_SIZE, "<pad>"),
    "mbart": TinyKind(_SEQ2SEQ, mbart_tokenizer, "mbart", _BART_SIZE, "zh_CN"),
}
"""种类 → 架构。一张看得见的表，没有注册器。"""
