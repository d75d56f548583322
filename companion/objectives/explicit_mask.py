"""前缀语言模型各目标共用的一段：读样本、定切点、补齐、配上显式的掩码。

掩码语言建模与因果语言建模的可见关系由模型自己定，批量只说哪里是填充。前缀语言模型不同：谁
看得见谁，每个样本都不一样，所以批量总带四维的加性掩码 (B, 1, L, L)，由
`attention.visible_pairs` 一条规则得出。子类只写 `corrupt`：一批文档怎样变成样本。

一批行先首尾相接成一张文档表（`Documents`），各个目标在整批上做数组运算。

形状字母：B 行数，L 行长，N 首尾相接的总长，D 文档数。
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from companion.batch import IGNORE_INDEX, Batch, Feature
from companion.errors import ObjectiveError
from companion.objectives.attention import (
    PADDING,
    additive_mask,
    restarting_positions,
    visible_pairs,
)
from companion.objectives.documents import Documents, example_name, read_documents
from companion.objectives.example import Example
from companion.objectives.padding import pad_rows, padded_length
from companion.objectives.rows import special_ids_of


@dataclass
class ExplicitMaskCollator(ABC):
    """带四维掩码的数据整理器；子类只写 `corrupt`。

    输入样本见 `companion.batch`；另可带 `prefix_length`（整数，含首部的特殊词元），把
    切点定死：前 `prefix_length` 个词元是给定的，其余要预测，句对与微调因此也能用。一行
    几篇文档时，它是每篇一个整数的列表。

    Trainer 缺省会删去模型不认得的列；样本有 `document_starts`、`prefix_length`、
    `example_id` 时，要设 `remove_unused_columns=False`。

    Raises:
        ObjectiveError: 前缀与文字一样长，或破坏之后超过 `max_length`。
    """

    tokenizer: Any
    seed: int = 0
    pad_to_multiple_of: int | None = None
    """把行长补到它的倍数；GPU 上取 8 或 64 会更快。"""
    max_length: int | None = None
    """模型的位置够一篇文档用多少词元；超过时点名报错，而不是在位置表里越界。"""

    _special_ids: Tensor = field(init=False, repr=False)
    _edge_ids: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._special_ids = special_ids_of(self.tokenizer)
        names = ("bos", "eos", "cls", "sep", "pad")
        edges = {getattr(self.tokenizer, f"{name}_token_id") for name in names}
        # 正文里的 [UNK]、[MASK] 不算首尾；GPT-2 的“未知”同时是文档结尾，算
        inside = {self.tokenizer.unk_token_id, self.tokenizer.mask_token_id} - edges
        self._edge_ids = self._special_ids[
            ~torch.isin(self._special_ids, torch.tensor(sorted(inside - {None})))
        ]

    @abstractmethod
    def corrupt(self, documents: Documents) -> list[Example]:
        """一批文档 → B 个样本，每行一个。"""

    def __call__(self, features: Sequence[Feature]) -> Batch:
        """样本 → 批量；不改动样本。"""
        return self.collate(self.examples(features))

    def read(self, features: Sequence[Feature]) -> Documents:
        """一批样本首尾相接成一张文档表。"""
        return read_documents(features, self._special_ids, self._edge_ids, self.seed)

    def examples(self, features: Sequence[Feature]) -> list[Example]:
        """样本 → 破坏之后、补齐之前的样子。

        Raises:
            ObjectiveError: 前缀与文字一样长，或破坏之后超过 `max_length`。
        """
        examples = self.corrupt(self.read(features))
        if self.max_length is not None:
            for feature, example in zip(features, examples, strict=True):
                _check_length(feature, example, self.max_length)
        return examples

    def collate(self, examples: Sequence[Example]) -> Batch:
        """补齐并配上四维掩码。

        Returns:
            `input_ids`、`labels` (B, L) int64，`attention_mask` (B, 1, L, L) float32；
            一行有几篇文档、或样本自带位置时另有 `position_ids` (B, L) 或 (B, 2, L)，
            样本自带片段编号时另有 `token_type_ids` (B, L)，都是 int64。
        """
        length = padded_length(
            [len(each.input_ids) for each in examples], self.pad_to_multiple_of
        )
        pad = self.tokenizer.pad_token_id or 0

        def padded(rows: Sequence[Tensor | None], value: int) -> Tensor | None:
            present = [row for row in rows if row is not None]
            return pad_rows(present, value, length) if present else None

        documents = pad_rows([e.documents for e in examples], PADDING, length)
        batch = {
            "input_ids": pad_rows([e.input_ids for e in examples], pad, length),
            "labels": pad_rows([e.labels for e in examples], IGNORE_INDEX, length),
            "attention_mask": additive_mask(
                visible_pairs(
                    documents,
                    padded([e.prefix for e in examples], 0),
                    torch.tensor([e.reverse for e in examples]),
                )
            ),
        }
        positions = [e.position_ids for e in examples if e.position_ids is not None]
        if positions and positions[0].dim() == 2:
            levels = zip(*positions, strict=True)  # 第一行、第二行各自补齐
            batch["position_ids"] = torch.stack(
                [pad_rows(level, 0, length) for level in levels], dim=1
            )
        elif positions:
            batch["position_ids"] = pad_rows(positions, 0, length)
        elif any(int(each.documents[-1]) > 0 for each in examples):
            batch["position_ids"] = restarting_positions(documents)
        segments = padded([e.token_type_ids for e in examples], 0)
        if segments is not None:
            batch["token_type_ids"] = segments
        return batch


def _check_length(feature: Feature, example: Example, limit: int) -> None:
    if example.position_ids is None:
        used = int(torch.bincount(example.documents).max())
    else:
        used = int(example.position_ids.max()) + 1
    if used > limit:
        raise ObjectiveError(
            found=f"样本 {example_name(feature)} 破坏之后要用 {used} 个位置",
            expected=f"不超过模型的 {limit} 个",
            remedy=f"调小 block_size（{limit} 以下，给插入的特殊词元留出余地），"
            "或换位置更多的模型",
        )
