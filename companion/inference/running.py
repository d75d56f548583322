"""先看清检查点是哪一类模型，再拿它填空或续写。"""

from typing import Any

from companion.errors import ModelError
from companion.losses.parts import word_model
from companion.losses.target_head import inner_model

_WITH_ORDER = ("albert", "bert", "ernie")
"""预训练用的类另有句序的头、词元的头也在的几种架构。"""


def require_masked(checkpoint: Any) -> None:
    """检查点不是掩码语言模型时报错。

    Raises:
        ModelError: 模型没有掩码语言建模的头，或分词器没有掩码词元。
    """
    from transformers import AutoModelForMaskedLM, AutoModelForPreTraining

    kind = word_model(checkpoint.model).config.model_type
    both = (AutoModelForPreTraining,) if kind in _WITH_ORDER else ()
    _require(
        checkpoint,
        (AutoModelForMaskedLM, *both),
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
    from transformers import AutoModelForCausalLM

    _require(
        checkpoint,
        (AutoModelForCausalLM,),
        "因果语言模型（GPT、BLOOM、Qwen……）",
        "换一个因果语言模型（例如 starter:bloom），或用 fill 填空",
    )


def require_seq2seq(checkpoint: Any) -> None:
    """检查点不是编码器–解码器时报错。

    Raises:
        ModelError: 模型没有解码器，或没有编码器。
    """
    model = inner_model(checkpoint.model)
    if not getattr(model.config, "is_encoder_decoder", False):
        raise ModelError(
            found=f"{checkpoint.name} 是 {type(model).__name__}",
            expected="编码器–解码器（T5、mT5、BART、Pegasus……），"
            "或用 blank_infilling 训练过的 GLM",
            remedy="换一个这样的检查点（例如 starter:bart），"
            "或用 fill 填空、complete 续写",
        )


def _require(
    checkpoint: Any, auto_classes: tuple[Any, ...], expected: str, remedy: str
) -> None:
    """检查点的类，正是某个 Auto 类给它的设置配的那一个。"""
    model = word_model(checkpoint.model)
    known = [each._model_mapping.get(type(model.config), None) for each in auto_classes]
    if type(model) not in known:
        raise ModelError(
            found=f"{checkpoint.name} 是 {type(model).__name__}",
            expected=expected,
            remedy=remedy,
        )
