"""破坏之后的样本 → 批量：补齐、掩码、位置，只在这里配。

一个样本破坏之后是一个 `Example`；训练要的批量、评估要的“哪些标签算数、各自是原文的第几
个词元”、`companion show` 要画的，都从它来。批量的样子看样本里有什么：

| 样本 | `attention_mask` | 另有 |
|---|---|---|
| 一行一篇 | (B, L) int64 | |
| 一行几篇 | (B, 1, L, L) float32，各篇互不可见 | `position_ids` |
| 有 `prefix` | (B, 1, L, L) float32，前缀之内互相可见 | 几篇时 `position_ids` |
| 有解码器一侧 | 见 `_collate_pairs` | `decoder_input_ids` |

形状字母：B 行数，L 输入的长度，K 标签的长度；只有一个栈的模型 K = L，编码器–解码器的 K
是解码器一行的长度。
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from companion.batch import IGNORE_INDEX, Batch, Feature
from companion.errors import ObjectiveError
from companion.objectives.attention import (
    PADDING,
    additive_mask,
    restarting_positions,
    visible_between_documents,
    visible_pairs,
    visible_within_documents,
)
from companion.objectives.rows import Row, edge_ids_of, read_row, special_ids_of


@dataclass(frozen=True, kw_only=True)
class Example:
    """一个样本：输入、标签，以及标签与原文的对应。"""

    input_ids: Tensor
    """模型（编码器）看到的，(L,) int64。"""
    labels: Tensor
    """(K,) int64；−100 处不计损失。"""
    origin: Tensor
    """每个标签是这一行的第几个词元（含特殊词元），(K,) int64；原文没有的为 −1。"""
    hidden: Tensor
    """这个标签所指的词元模型看不见，(K,) bool；评估只考这些，照抄看得见的不算本事。"""
    documents: Tensor
    """输入的每个位置属于行内第几个文档，(L,) int64。"""

    decoder_input_ids: Tensor | None = None
    """解码器的输入，(K,) int64；只有编码器–解码器有。"""
    decoder_documents: Tensor | None = None
    """解码器的每个位置属于行内第几个文档，(K,) int64。"""
    decoder_visible: Tensor | None = None
    """解码器的哪些位置真有内容，(K,) bool；None 表示全部（MASS 只有片段处有）。"""

    prefix: Tensor | None = None
    """输入的哪些位置是前缀（同一文档里谁都看得见），(L,) bool；只有前缀语言模型有。"""
    reverse: bool = False
    """前缀之外改为只看自己与右边（UniLM 的从右到左）。"""
    position_ids: Tensor | None = None
    """(L,) 或 (2, L) int64；None 表示从 0 数起。"""
    token_type_ids: Tensor | None = None
    """(L,) int64。"""
    extra: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """某个目标另给的逐位置的项，(L,)；由它的整理器补齐。"""


def make_example(inputs: NDArray[Any], labels: NDArray[Any], **fields: Any) -> Example:
    """输入与标签逐位对应的一行 → 样本；有标签处都算要评估的。

    Args:
        inputs: (L,) int64。
        labels: (L,) int64。
        **fields: `Example` 的其余各项，数组；没有给的取缺省：一行一篇，第 i 个标签就是
            原文的第 i 个词元。
    """
    given: dict[str, Any] = {
        "input_ids": inputs,
        "labels": labels,
        "origin": np.arange(len(inputs)),
        "hidden": labels != IGNORE_INDEX,
        "documents": np.zeros(len(inputs), np.int64),
    } | fields
    tensors: dict[str, Any] = {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for name, value in given.items()
    }
    return Example(**tensors)


def padded_length(lengths: Sequence[int], multiple: int | None = None) -> int:
    """补齐后的长度：最长的一行，再向上取到 `multiple` 的倍数。

    >>> padded_length([3, 9, 5]), padded_length([3, 9, 5], multiple=8)
    (9, 16)
    """
    longest = max(lengths)
    return longest if multiple is None else -(-longest // multiple) * multiple


def pad_rows(rows: Sequence[Tensor], value: int, length: int) -> Tensor:
    """在每行右侧补 `value`，直到 `length`。

    Args:
        rows: B 个张量，最后一维长度各异，其余各维与类型相同。
        value: 补进去的值。
        length: 补齐后的长度，不小于最长的一行。

    Returns:
        (B, …, length)，类型同各行。

    >>> pad_rows([torch.tensor([1, 2]), torch.tensor([3])], 0, 3).tolist()
    [[1, 2, 0], [3, 0, 0]]
    """
    batch = rows[0].new_full((len(rows), *rows[0].shape[:-1], length), value)
    for target, row in zip(batch, rows, strict=True):
        target[..., : row.shape[-1]] = row
    return batch


def collate(
    examples: Sequence[Example],
    *,
    pad_token_id: int | None,
    causal: bool = False,
    pad_to_multiple_of: int | None = None,
) -> Batch:
    """补齐并配上注意力掩码，样子见模块说明。

    Args:
        examples: B 个样本，同一个整理器造出的。
        pad_token_id: 补什么；没有填充词元时为 None，用 0 补：标签与掩码都按位置给，补什
            么都一样。
        causal: 一行几篇而没有前缀时，是否只看左边。
        pad_to_multiple_of: 把行长补到它的倍数。

    Returns:
        `input_ids`、`labels`、`attention_mask`，以及样本带有的 `position_ids` (B, L)
        或 (B, 2, L)、`token_type_ids` (B, L)，都是 int64。
    """
    pad = pad_token_id or 0
    multiple = pad_to_multiple_of
    length = padded_length([len(each.input_ids) for each in examples], multiple)
    batch = {"input_ids": pad_rows([e.input_ids for e in examples], pad, length)}
    documents = pad_rows([e.documents for e in examples], PADDING, length)
    packed = any(int(each.documents[-1]) > 0 for each in examples)
    if examples[0].decoder_input_ids is not None:
        return batch | _collate_pairs(examples, documents, packed, pad, multiple)
    batch["labels"] = pad_rows([e.labels for e in examples], IGNORE_INDEX, length)
    if examples[0].prefix is not None:
        prefix = pad_rows(_column(examples, "prefix"), False, length)
        reverse = torch.tensor([each.reverse for each in examples])
        batch["attention_mask"] = additive_mask(
            visible_pairs(documents, prefix, reverse)
        )
    elif packed:
        batch["attention_mask"] = additive_mask(
            visible_within_documents(documents, causal=causal)
        )
    else:
        batch["attention_mask"] = (documents != PADDING).long()
    for name in ("position_ids", "token_type_ids"):
        if getattr(examples[0], name) is not None:
            batch[name] = pad_rows(_column(examples, name), 0, length)
    if packed and "position_ids" not in batch:
        batch["position_ids"] = restarting_positions(documents)
    return batch


def _collate_pairs(
    examples: Sequence[Example],
    documents: Tensor,
    packed: bool,
    pad: int,
    multiple: int | None,
) -> Batch:
    """解码器一侧，与三处注意力的掩码；行里有几个文档时，三处都隔开：

        attention_mask          (B, 1, L, L)   编码器，同一文档
        decoder_attention_mask  (B, 1, K, K)   解码器，同一文档且不看右边
        cross_attention_mask    (B, 1, K, L)   解码器看编码器，同一文档

    transformers 的模型只有一个 `attention_mask`，编码器与交叉注意力共用；所以交叉的那一
    张要在解码器门口另换上（`companion.losses.target_head.cross_attention`）。
    """
    width = padded_length([len(each.labels) for each in examples], multiple)
    batch = {
        "labels": pad_rows([e.labels for e in examples], IGNORE_INDEX, width),
        "decoder_input_ids": pad_rows(
            _column(examples, "decoder_input_ids"), pad, width
        ),
    }
    decoder = pad_rows(_column(examples, "decoder_documents"), PADDING, width)
    partly = examples[0].decoder_visible is not None
    if partly:  # 没有内容处同填充
        visible = pad_rows(_column(examples, "decoder_visible"), False, width)
        decoder = decoder.masked_fill(~visible, PADDING)
    if packed:
        batch["attention_mask"] = additive_mask(
            visible_within_documents(documents, causal=False)
        )
        batch["decoder_attention_mask"] = additive_mask(
            visible_within_documents(decoder, causal=True)
        )
        batch["cross_attention_mask"] = additive_mask(
            visible_between_documents(decoder, documents)
        )
        return batch
    batch["attention_mask"] = (documents != PADDING).long()
    if partly:
        batch["decoder_attention_mask"] = (decoder != PADDING).long()
    return batch


def _column(examples: Sequence[Example], name: str) -> list[Tensor]:
    return [cast(Tensor, getattr(each, name)) for each in examples]


@dataclass
class Collator(ABC):
    """数据整理器的共同部分：读样本，逐个破坏，补齐；子类写 `example`。

    可单独用在 `transformers.Trainer` 里。Trainer 缺省会删去模型不认得的列；样本有
    `document_starts`、`word_ids`、`prefix_length`、`example_id` 时，要设
    `remove_unused_columns=False`。
    """

    tokenizer: Any
    """任何 transformers 分词器。"""
    pad_to_multiple_of: int | None = field(default=None, kw_only=True)
    """把行长补到它的倍数；GPU 上取 8 或 64 会更快。"""

    causal: ClassVar[bool] = False
    """一行几篇时，各篇之内是否只看左边。"""

    def __post_init__(self) -> None:
        self.special_ids = special_ids_of(self.tokenizer)
        self.edge_ids = edge_ids_of(self.tokenizer)

    def __call__(self, features: Sequence[Feature]) -> Batch:
        """样本 → 批量；不改动样本。"""
        return self.collate(self.examples(features))

    def examples(self, features: Sequence[Feature]) -> list[Example]:
        """样本 → 破坏之后、补齐之前的样子。"""
        return [self.example(self.read(feature)) for feature in features]

    def read(self, feature: Feature) -> Row:
        """读一个样本。"""
        return read_row(feature, self.special_ids, self.edge_ids)

    @abstractmethod
    def example(self, row: Row) -> Example:
        """一行 → 破坏之后的样子。"""

    def collate(self, examples: Sequence[Example]) -> Batch:
        """补齐并配上掩码，见 `companion.objectives.collate.collate`。"""
        return collate(
            examples,
            pad_token_id=self.tokenizer.pad_token_id,
            causal=self.causal,
            pad_to_multiple_of=self.pad_to_multiple_of,
        )


@dataclass
class PrefixCollator(Collator):
    """前缀语言模型的数据整理器；子类写 `example`，给出 `prefix`。

    谁看得见谁，每个样本都不一样，所以批量总带四维的加性掩码 (B, 1, L, L)。样本另可带
    `prefix_length`（整数，含首部的特殊词元），把切点定死：前 `prefix_length` 个词元是给
    定的，其余要预测，句对与微调因此也能用。一行几篇文档时，它是每篇一个整数的列表。

    Raises:
        ObjectiveError: 前缀与文字一样长，或破坏之后超过 `max_length`。
    """

    seed: int = 0
    max_length: int | None = field(default=None, kw_only=True)
    """模型的位置够一篇文档用多少词元；超过时报错，而不是在位置表里越界。"""

    def examples(self, features: Sequence[Feature]) -> list[Example]:
        """样本 → 破坏之后、补齐之前的样子。

        Raises:
            ObjectiveError: 前缀与文字一样长，或破坏之后超过 `max_length`。
        """
        rows = [self.read(feature) for feature in features]
        examples = [self.example(row) for row in rows]
        for row, example in zip(rows, examples, strict=True):
            if example.position_ids is None:
                used = int(torch.bincount(example.documents).max())
            else:
                used = int(example.position_ids.max()) + 1
            if self.max_length is not None and used > self.max_length:
                raise ObjectiveError(
                    found=f"{row.name} 破坏之后要用 {used} 个位置",
                    expected=f"不超过模型的 {self.max_length} 个",
                    remedy=f"调小 block_size（{self.max_length} 以下，给插入的特殊词元"
                    "留出余地），或换位置更多的模型",
                )
        return examples
