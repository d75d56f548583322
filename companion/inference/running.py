"""先看清检查点是哪一类模型，再拿它填空或续写。"""

from typing import Any

from companion.errors import ModelError
from companion.models.losses import word_model


def require_masked(checkpoint: Any) -> None:
    """检查点不是掩码语言模型时报错。

    Raises:
        ModelError: 模型没有掩码语言建模的头，或分词器没有掩码词元。
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_FOR_PRETRAINING_MAPPING_NAMES,
    )

    both = MODEL_FOR_PRETRAINING_MAPPING_NAMES  # 另有句序的头，词元的头也在
    _require(
        checkpoint,
        {
            *MODEL_FOR_MASKED_LM_MAPPING_NAMES.values(),
            *(both[kind] for kind in ("albert", "bert", "ernie")),
        },
        "掩码语言模型（BERT、RoBERTa、SikuBERT……）",
        "换一个掩码语言模型（例如 starter:bert），或用 complete 续写",
    )
    if checkpoint.tokenizer.mask_token_id is None:
        raise ModelError(
            found=f"{checkpoint.name} 的分词器没有掩码词元",
            expected="分词器有 mask_token（BERT 的是 [MASK]）",
            remedy="换一个掩码语言模型（例如 starter:bert），或用 complete 续写",
        )


def require_causal(checkpoint: Any) -> None:
    """检查点不是因果语言模型时报错。

    Raises:
        ModelError: 模型没有因果语言建模的头。
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    _require(
        checkpoint,
        {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(), "TwoRowGlmForCausalLM"},
        "因果语言模型（GPT、BLOOM、Qwen……）",
        "换一个因果语言模型（例如 starter:bloom），或用 fill 填空",
    )


def _require(checkpoint: Any, names: set[str], expected: str, remedy: str) -> None:
    kind = type(word_model(checkpoint.model)).__name__
    if kind not in names:
        raise ModelError(
            found=f"{checkpoint.name} 是 {kind}", expected=expected, remedy=remedy
        )
