"""喂给模型之前先看清：它能读多长，分词器在两头加什么。"""

from typing import Any, NamedTuple

from torch import nn

from companion.models.target_head import inner_model

_PROBE = "一"


class Edges(NamedTuple):
    """分词器自动加在一段文字两头的特殊词元，如 [CLS] 与 [SEP]。"""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]


def special_edges(tokenizer: Any) -> Edges:
    """用一个字去试：分词器在两头各添了什么。

    >>> from companion.models.tiny import tiny_tokenizer
    >>> special_edges(tiny_tokenizer("bert"))
    Edges(prefix=(2,), suffix=(3,))
    """
    whole = tokenizer(_PROBE, add_special_tokens=True)["input_ids"]
    bare = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    for start in range(len(whole) - len(bare) + 1):
        stop = start + len(bare)
        if whole[start:stop] == bare:
            return Edges(tuple(whole[:start]), tuple(whole[stop:]))
    return Edges((), ())


def position_limit(model: Any) -> int | None:
    """模型一行至多能读多少词元（含特殊词元）；None 表示没有上限。

    BLOOM 用 ALiBi，没有位置表；RoBERTa 的位置从 `pad_token_id + 1` 数起，位置表因此要少
    用几行：`max_position_embeddings` 为 514 的只能读 512 个词元。
    """
    inner = inner_model(model)
    for name, module in inner.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            offset = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - offset
    return getattr(inner.config, "max_position_embeddings", None)
