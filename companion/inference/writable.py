"""哪些词元写不得：特殊词元（哨兵、掩码、填充……）不是文字。

形状字母：V 词表。
"""

from typing import Any

import torch
from torch import Tensor

from companion.errors import ObjectiveError


def never_written(tokenizer: Any, vocabulary: int) -> Tensor:
    """写不得的处为真，(V,) bool；词表比分词器大出来的部分也写不得。"""
    banned = torch.zeros(vocabulary, dtype=torch.bool)
    banned[[*tokenizer.all_special_ids, *sentinels(tokenizer)]] = True
    banned[len(tokenizer) :] = True
    return banned


def sentinels(tokenizer: Any) -> list[int]:
    """哨兵，按使用的次序；词表里没有时为空。"""
    from companion.objectives.span_corruption import sentinel_ids_of

    try:
        return sentinel_ids_of(tokenizer).tolist()
    except ObjectiveError:
        return []
