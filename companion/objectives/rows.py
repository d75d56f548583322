"""样本字典 → 张量行，以及两个目标共用的批量组装。

整理器既接受我们的 `BlockDataset` 的样本，也接受 `tokenizer(...)` 的原始输出，所以可以
直接放进 `transformers.Trainer`。
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from companion.batch import IGNORE_INDEX, Batch, Feature
from companion.errors import ObjectiveError
from companion.objectives.attention import (
    PADDING,
    additive_mask,
    document_index,
    restarting_positions,
    visible_within_documents,
)
from companion.objectives.example import Example
from companion.objectives.padding import pad_rows, padded_length

_PER_TOKEN = ("input_ids", "attention_mask", "special_tokens_mask", "word_ids")
"""逐词元的各项，一律等长。"""


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
        special_ids: 分词器的特殊词元，(S,) int64。它们总算特殊词元，样本的
            `special_tokens_mask` 只能再添：文中的 [UNK] 不在那里面，却也不该去猜。

    Raises:
        ObjectiveError: 没有词元，不是一维，各项长度不一，或文档起点不合。
    """
    name = f"样本 {feature.get('example_id', '（无编号）')}"
    items = {
        key: as_int64(feature[key])
        for key in _PER_TOKEN
        if feature.get(key) is not None
    }
    _check_items(items, name)
    everywhere = torch.ones_like(items["input_ids"])
    attended = items.get("attention_mask", everywhere).bool()
    # 已补齐的样本：只留真实词元
    items = {key: item[attended] for key, item in items.items()}
    input_ids = items["input_ids"]
    if len(input_ids) == 0:
        raise ObjectiveError(
            found=f"{name} 没有词元",
            expected="每个样本至少有一个词元",
            remedy="先删去空文档（companion corpus clean）",
        )
    special = torch.isin(input_ids, special_ids)
    if "special_tokens_mask" in items:
        special |= items["special_tokens_mask"].bool()
    example_id = feature.get("example_id")
    return Row(
        input_ids=input_ids,
        document_starts=_read_starts(feature.get("document_starts"), attended, name),
        special=special,
        word_ids=items.get("word_ids"),
        example_id=None if example_id is None else int(example_id),
        epoch=int(feature.get("epoch", 0)),
    )


def _check_items(items: dict[str, Tensor], name: str) -> None:
    if "input_ids" not in items:
        raise ObjectiveError(
            found=f"{name} 没有 input_ids",
            expected="每个样本是分词后的结果",
            remedy="先用分词器处理文本，把它的输出交给整理器",
        )
    input_ids = items["input_ids"]
    if input_ids.dim() != 1:
        raise ObjectiveError(
            found=f"{name} 的 input_ids 是 {input_ids.dim()} 维",
            expected="一个样本是一维的一行词元",
            remedy="分词时不要加 return_tensors，一批拆成一行一个样本",
        )
    for key, item in items.items():
        if item.shape != input_ids.shape:
            raise ObjectiveError(
                found=f"{name} 的 {key} 长 {len(item)}，input_ids 长 {len(input_ids)}",
                expected="两者等长",
                remedy=f"让分词与 {key} 出自同一次调用",
            )


def _read_starts(values: Any, attended: Tensor, name: str) -> Tensor:
    """各文档在真实词元中的起点，(R,) int64。"""
    if values is None:
        return torch.zeros(1, dtype=torch.int64)
    given = as_int64(values)
    before = attended.cumsum(0) - attended.long()  # (T,) 左边有几个真实词元
    inside = given.numel() > 0 and given.min() >= 0 and given.max() < len(attended)
    starts = before[given] if inside else given
    real = int(attended.sum())
    if inside and starts[0] == 0 and starts[-1] < real and (starts.diff() > 0).all():
        return starts
    raise ObjectiveError(
        found=f"{name} 的 document_starts 是 {given.tolist()}，共 {real} 个词元",
        expected="首项为 0、逐项增大、都在这一行之内",
        remedy="不打包时去掉 document_starts，打包时照各文档的词元数累加",
    )


def as_int64(values: Any) -> Tensor:
    """列表、数组（只读的也可以，如内存映射）或张量 → int64 张量。"""
    if isinstance(values, Tensor):
        return values.to(torch.int64)
    return torch.tensor(values, dtype=torch.int64)


def special_ids_of(tokenizer: Any) -> Tensor:
    """分词器全部特殊词元的编号，(S,) int64，升序。"""
    return torch.tensor(sorted(tokenizer.all_special_ids), dtype=torch.int64)


def edge_ids_of(tokenizer: Any) -> Tensor:
    """标出一行或一段两头的特殊词元（[CLS]、[SEP]、填充等）的编号，(S,) int64。

    [UNK] 与 [MASK] 站在文字中间，不算。
    """
    inside = torch.tensor(
        [
            number
            for number in (tokenizer.unk_token_id, tokenizer.mask_token_id)
            if number is not None
        ]
    )
    special = special_ids_of(tokenizer)
    return special[~torch.isin(special, inside)]


def make_example(row: Row, inputs: Tensor, labels: Tensor) -> Example:
    """输入与标签逐位对应的一行 → 样本；有标签处都算要考的。"""
    length = len(inputs)
    return Example(
        input_ids=inputs,
        labels=labels,
        origin=torch.arange(length),
        hidden=labels != IGNORE_INDEX,
        documents=document_index(row.document_starts, length, length),
    )


def assemble(
    examples: Sequence[Example],
    *,
    pad_token_id: int | None,
    causal: bool,
    pad_to_multiple_of: int | None,
) -> Batch:
    """补齐并配上注意力掩码。

    每行只有一个文档时给二维掩码（各种模型都认、最快）；有一行装了多个文档，就给四维加性
    掩码与从头数的位置，文档之间互不可见。

    Args:
        examples: B 个样本。
        pad_token_id: 补什么；没有填充词元时为 None，用 0 补：标签与掩码都按位置给，补什
            么都一样。
        causal: 是否只看左边。
        pad_to_multiple_of: 把行长补到它的倍数。

    Returns:
        `input_ids`、`labels` (B, L) int64；`attention_mask` (B, L) int64 或 (B, 1, L,
        L) float32，后者还带 `position_ids` (B, L) int64。
    """
    length = padded_length([len(e.input_ids) for e in examples], pad_to_multiple_of)
    batch = {
        "input_ids": pad_rows(
            [e.input_ids for e in examples], pad_token_id or 0, length
        ),
        "labels": pad_rows([e.labels for e in examples], IGNORE_INDEX, length),
    }
    documents = pad_rows([e.documents for e in examples], PADDING, length)
    if all(int(each.documents[-1]) == 0 for each in examples):
        batch["attention_mask"] = (documents != PADDING).long()
    else:
        visible = visible_within_documents(documents, causal=causal)
        batch["attention_mask"] = additive_mask(visible)
        batch["position_ids"] = restarting_positions(documents)
    return batch
