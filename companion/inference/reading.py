"""推理的两头：检查点是哪一类，文字怎样编号，写出的词元怎样变回文字。

文字照训练时的样子切（`companion.corpus.tokenization.text_ids`）：照字面出现的特殊词元是文字；
只有写作 `[MASK]` 的地方（或分词器自己的掩码词元）是掩码，切之前先在那里断开。

形状字母：V 词表。
"""

import re
from typing import Any

import torch
from torch import Tensor

from companion.checkpoints.running import inner_model, over_limit, special_edges
from companion.corpus.tokenization import text_ids
from companion.errors import ModelError, ObjectiveError
from companion.losses.parts import word_model

MASK = "[MASK]"
_TWO = "天下"
"""两个字：解码之后中间有没有空格，就知道分词器加不加。"""
_ANCHORS = ("。", "一")
"""缺处之后的文字接在它后面分词，再把它去掉。"""
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


def split_at_masks(text: str, tokenizer: Any) -> list[str]:
    """在各掩码处断开；K 个掩码得 K + 1 段。"""
    if tokenizer.mask_token is not None:
        text = text.replace(tokenizer.mask_token, MASK)
    return text.split(MASK)


def encode_pieces(tokenizer: Any, pieces: list[str]) -> list[list[int]]:
    """缺处（或掩码）两边各段文字的编号，不带特殊词元；第一段之外都接在缺处之后。

    训练时缺处的两边是同一段文字切开的，这里也照样：SentencePiece 给一段文字的开头添 ▁，
    缺处之后的文字不能有它。

    >>> from companion.checkpoints.tiny import tiny_tokenizer
    >>> t5 = tiny_tokenizer("t5")
    >>> [t5.convert_ids_to_tokens(ids) for ids in encode_pieces(t5, ["良", "良弓"])]
    [['▁', '良'], ['良', '弓']]
    """
    first, *others = pieces
    return [
        text_ids(first, tokenizer),
        *(_continued(tokenizer, each) for each in others),
    ]


def _continued(tokenizer: Any, text: str) -> list[int]:
    """接在别的文字后面的一段。"""
    for anchor in _ANCHORS:
        head, whole = text_ids(anchor, tokenizer), text_ids(anchor + text, tokenizer)
        if whole[: len(head)] == head:
            return whole[len(head) :]
    return text_ids(text, tokenizer)  # 与两个字都并成了一个词元


def encode_prompt(checkpoint: Any, text: str) -> list[int]:
    """开头的编号；分词器若自动加文档结尾，这里不要。

    Raises:
        ObjectiveError: 开头没有词元。
        ModelError: 开头已占满位置上限。
    """
    tokenizer = checkpoint.tokenizer
    bare = text_ids(text, tokenizer)
    if not bare:
        raise ObjectiveError(
            found="开头是空的",
            expected="至少一个字，模型好接着写",
            remedy="给一个开头，例如 狡兔死，走狗烹；飞鸟尽，良弓",
        )
    ids = [*special_edges(tokenizer).prefix, *bare]
    if (limit := over_limit(checkpoint.model, len(ids) + 1)) is not None:
        raise ModelError(
            found=f"开头有 {len(ids)} 个词元",
            expected=f"少于 {checkpoint.name} 的位置上限 {limit}，才有地方续写",
            remedy="截短开头，只留最后几句",
        )
    return ids


def stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """文档结尾的编号：生成设置里的（可能有几个）与分词器的。"""
    found: list[int] = []
    for source in (getattr(model, "generation_config", None), tokenizer):
        value = getattr(source, "eos_token_id", None)
        found += [] if value is None else [value] if isinstance(value, int) else value
    return sorted(set(found))


def never_written(tokenizer: Any, vocabulary: int) -> Tensor:
    """写不得的处为真，(V,) bool；词表比分词器大出来的部分也写不得。"""
    banned = torch.zeros(vocabulary, dtype=torch.bool)
    banned[[*tokenizer.all_special_ids, *sentinels(tokenizer)]] = True
    banned[len(tokenizer) :] = True
    return banned


def sentinels(tokenizer: Any) -> list[int]:
    """哨兵，按使用的次序；词表里没有时为空。"""
    from companion.objectives.seq2seq import sentinel_ids_of

    try:
        return sentinel_ids_of(tokenizer).tolist()
    except ObjectiveError:
        return []


def token_text(tokenizer: Any, token_id: int) -> str:
    """词元写在纸上的样子，不带 ## 之类的记号。

    >>> from companion.checkpoints.tiny import tiny_tokenizer
    >>> bert = tiny_tokenizer("bert")
    >>> token_text(bert, bert.convert_tokens_to_ids("##a"))
    'a'
    """
    return tokenizer.decode([token_id]).strip().removeprefix("##")


def without_added_spaces(tokenizer: Any, text: str) -> str:
    """去掉 WordPiece 解码时加在汉字两边的空格；别的分词器不加，原样返回。

    >>> from companion.checkpoints.tiny import tiny_tokenizer
    >>> without_added_spaces(tiny_tokenizer("bert"), "良 弓 藏 。 in 三 年")
    '良弓藏。in三年'
    """
    if " " not in tokenizer.decode(text_ids(_TWO, tokenizer)):
        return text
    return re.sub(r"(?<=[^\x00-\x7f]) | (?=[^\x00-\x7f])", "", text)
