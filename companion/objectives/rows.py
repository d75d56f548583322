"""样本字典 → 张量行，以及两个目标共用的批量组装。

整理器既接受我们的 `BlockDataset` 的样本，也接受 `tokenizer(...)` 的原始输出，所以可以
直接放进 `transformers.Trainer`。
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from companion.batch import Batch, Feature
from companion.errors import ObjectiveError
from companion.objectives.attention import (
    additive_mask,
    restarting_positions,
    stack_documents,
    visible_within_documents,
)
from companion.objectives.padding import pad_rows, padded_length


@dataclass(frozen=True)
class Row:
    """一个样本的张量形式；T 为词元数，R 为行内文档数。"""

    input_ids: Tensor
    """(T,) int64。"""
    document_starts: Tensor
    """(R,) int64，首项为 0。"""
    special: Tensor
    """特殊词元处为真，(T,) bool。"""
    word_ids: Tensor | None
    """(T,) int64，特殊词元为 −1。"""
    example_id: int | None
    epoch: int


def read_row(feature: Feature, special_ids: Tensor) -> Row:
    """读一个样本，不改动它。

    Args:
        feature: 见 `companion.batch`；只有 `input_ids` 必需。
        special_ids: 分词器的特殊词元，(S,) int64；样本没带 `special_tokens_mask` 时用来
            辨认特殊词元。

    Raises:
        ObjectiveError: 没有词元，或各项长度不一。
    """
    input_ids = as_int64(feature["input_ids"])
    attended = feature.get("attention_mask")
    if attended is not None:  # 已补齐的样本：只留真实词元
        kept = as_int64(attended).bool()
        feature = {
            key: as_int64(value)[kept]
            if key in ("input_ids", "special_tokens_mask", "word_ids")
            and value is not None
            else value
            for key, value in feature.items()
        }
        input_ids = as_int64(feature["input_ids"])
    if len(input_ids) == 0:
        raise ObjectiveError(
            found=f"样本 {feature.get('example_id', '（无编号）')} 没有词元",
            expected="每个样本至少有一个词元",
            remedy="先删去空文档（companion corpus clean）",
        )
    starts = feature.get("document_starts")
    special = feature.get("special_tokens_mask")
    words = feature.get("word_ids")
    row = Row(
        input_ids=input_ids,
        document_starts=torch.zeros(1, dtype=torch.int64)
        if starts is None
        else as_int64(starts),
        special=torch.isin(input_ids, special_ids)
        if special is None
        else as_int64(special).bool(),
        word_ids=None if words is None else as_int64(words),
        example_id=feature.get("example_id"),
        epoch=int(feature.get("epoch", 0)),
    )
    for name, value in (
        ("special_tokens_mask", row.special),
        ("word_ids", row.word_ids),
    ):
        if value is not None and len(value) != len(input_ids):
            raise ObjectiveError(
                found=f"{name} 长 {len(value)}，input_ids 长 {len(input_ids)}",
                expected="两者等长",
                remedy=f"让分词与 {name} 出自同一次调用",
            )
    return row


def as_int64(values: Any) -> Tensor:
    """列表、数组或张量 → int64 张量的一份拷贝。"""
    return torch.as_tensor(values).to(torch.int64, copy=True)


def special_ids_of(tokenizer: Any) -> Tensor:
    """分词器全部特殊词元的编号，(S,) int64，升序。"""
    return torch.tensor(sorted(tokenizer.all_special_ids), dtype=torch.int64)


def assemble(
    rows: Sequence[Row],
    inputs: Sequence[Tensor],
    labels: Sequence[Tensor],
    *,
    pad_token_id: int,
    ignore_index: int,
    causal: bool,
    pad_to_multiple_of: int | None,
) -> Batch:
    """补齐并配上注意力掩码。

    每行只有一个文档时给二维掩码（各种模型都认、最快）；有一行装了多个文档，就给四维加性
    掩码与从头数的位置，文档之间互不可见。

    Returns:
        `input_ids`、`labels` (B, L) int64；`attention_mask` (B, L) int64 或 (B, 1, L, L)
        float32，后者还带 `position_ids` (B, L) int64。
    """
    lengths = [len(row.input_ids) for row in rows]
    length = padded_length(lengths, pad_to_multiple_of)
    batch = {
        "input_ids": pad_rows(inputs, pad_token_id, length),
        "labels": pad_rows(labels, ignore_index, length),
    }
    documents = stack_documents([row.document_starts for row in rows], lengths, length)
    if all(len(row.document_starts) == 1 for row in rows):
        batch["attention_mask"] = (documents >= 0).long()
    else:
        visible = visible_within_documents(documents, causal=causal)
        batch["attention_mask"] = additive_mask(visible)
        batch["position_ids"] = restarting_positions(documents)
    return batch
