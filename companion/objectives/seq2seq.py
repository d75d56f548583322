"""编码器–解码器各目标共用的一段：样本 → 破坏 → 批量。

各个目标只写一件事：一批不带特殊词元的文档，怎样变成编码器的输入与解码器的目标（
`corrupt_documents`）。读样本、套上特殊词元、移位成解码器的输入、补齐、隔开同一行里的几个
文档，都在这里。

解码器的输入是目标右移一格，第一格是 `decoder_start_token_id`（T5 是填充词元，BART 是
`</s>`，中文 BART 各不相同，写在检查点的 config.json 里）。行内有几个文档时，每个文档各
自从头开始，编码器自注意力、解码器自注意力、交叉注意力三处都隔开：

    attention_mask          (B, 1, L, L)   编码器，同一文档
    decoder_attention_mask  (B, 1, K, K)   解码器，同一文档且不看右边
    cross_attention_mask    (B, 1, K, L)   解码器看编码器，同一文档

transformers 的模型只有一个 `attention_mask`，编码器与交叉注意力共用；所以交叉的那一张要
在解码器门口另换上（`companion.losses.target_head.cross_attention`）。

形状字母：B 行数，L 输入长，K 目标长，D 文档数，N 首尾相接的总长。
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from companion.batch import IGNORE_INDEX, Batch, Feature
from companion.errors import ObjectiveError
from companion.objectives.example import Example
from companion.objectives.pairs import collate_pairs
from companion.objectives.ragged import Ragged, document_keys
from companion.objectives.rows import read_row, special_ids_of


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """一批文档破坏之后，都不带首尾的特殊词元；K' 为全部目标首尾相接的长度。"""

    inputs: Ragged
    """编码器的输入，D 段 int64。"""
    targets: Ragged
    """解码器要写出的，D 段 int64。"""
    origin: NDArray[np.int64]
    """每个目标是本文档的第几个词元，(K',)；哨兵等原文没有的为 −1。"""
    hidden: NDArray[np.bool_]
    """目标词元在编码器的输入里看不见，(K',)。"""
    labelled: NDArray[np.bool_] | None = None
    """哪些目标计损失，(K',)；None 表示全部。"""
    decoder_visible: NDArray[np.bool_] | None = None
    """解码器的哪些位置真有内容，(K',)；None 表示全部。"""


@dataclass
class Seq2SeqCollator(ABC):
    """编码器–解码器目标的数据整理器；子类只写 `corrupt_documents`。

    输入样本见 `companion.batch`。输出 `input_ids` (B, L)、`labels` 与
    `decoder_input_ids` (B, K) int64，以及掩码（见模块说明）。

    Raises:
        ObjectiveError: 样本首尾的特殊词元不一致，或没有 `decoder_start_token_id`。
    """

    tokenizer: Any
    decoder_start_token_id: int | None = None
    """解码器的第一个输入，抄自 `model.config`；缺省取填充词元，只对 T5、mT5、Pegasus
    是对的。"""
    seed: int = 0
    pad_to_multiple_of: int | None = None

    def __post_init__(self) -> None:
        if self.decoder_start_token_id is None:
            self.decoder_start_token_id = self.tokenizer.pad_token_id
        if self.decoder_start_token_id is None:
            raise ObjectiveError(
                found="不知道解码器的第一个输入：decoder_start_token_id 没有给，"
                "分词器也没有填充词元",
                expected="模型 config.json 里的 decoder_start_token_id",
                remedy="整理器加上 decoder_start_token_id="
                "model.config.decoder_start_token_id",
            )
        self._special_ids = special_ids_of(self.tokenizer)
        self._edge_ids = {
            token
            for token in self._special_ids.tolist()
            if token not in (self.tokenizer.unk_token_id, self.tokenizer.mask_token_id)
        }
        self.reserved_ids = np.empty(0, np.int64)

    def reserve(self, ids: Iterable[int]) -> None:
        """这些词元（掩码、哨兵）归本目标用：原文里有就报错，也不算首尾的特殊词元。"""
        self.reserved_ids = np.array(sorted(ids), np.int64)
        self._edge_ids -= set(self.reserved_ids.tolist())

    @abstractmethod
    def corrupt_documents(
        self, documents: Ragged, keys: NDArray[np.uint64]
    ) -> Corruption:
        """破坏一批文档。

        Args:
            documents: 不带特殊词元的 D 篇文档，int64；每篇至少一个词元。
            keys: 各篇的随机数钥匙，(D,) uint64。
        """

    @abstractmethod
    def hide_tokens(self, documents: Ragged, noise: NDArray[np.bool_]) -> Corruption:
        """照本目标的样子遮住指定的词元；填空与出题用，没有随机。

        Args:
            documents: 不带特殊词元的 D 篇文档，int64。
            noise: 要遮的词元，(N,) bool。
        """

    def row_capacity(self, block_size: int, num_edges: int) -> int:
        """原文一行至多装多少词元，破坏之后编码器一行不超过 `block_size`。

        Args:
            block_size: 编码器一行的长度，含特殊词元。
            num_edges: 首尾共有几个特殊词元。
        """
        del num_edges
        return block_size

    def __call__(self, features: Sequence[Feature]) -> Batch:
        """样本 → 批量；不改动样本。"""
        return self.collate(self.examples(features))

    def examples(self, features: Sequence[Feature]) -> list[Example]:
        """样本 → 破坏之后、补齐之前的样子。"""
        rows, documents, prefix, suffix = self._read(features)
        corruption = self.corrupt_documents(documents, self._keys(features, rows))
        return self._build(rows, documents, corruption, prefix, suffix)

    def hide(self, feature: Feature, noise: NDArray[np.bool_]) -> Example:
        """遮住一个样本里指定的词元。

        Args:
            feature: 一个样本。
            noise: 要遮的，与不带首尾特殊词元的正文等长，bool。
        """
        rows, documents, prefix, suffix = self._read([feature])
        corruption = self.hide_tokens(documents, noise)
        return self._build(rows, documents, corruption, prefix, suffix)[0]

    def _build(
        self,
        rows: NDArray[np.int64],
        documents: Ragged,
        corruption: Corruption,
        prefix: NDArray[np.int64],
        suffix: NDArray[np.int64],
    ) -> list[Example]:
        """套上特殊词元，按行分开。"""
        count = int(rows[-1]) + 1
        inputs = corruption.inputs.wrapped(prefix, suffix)
        target = self._target_columns(corruption, prefix, suffix)
        sizes = np.bincount(rows, inputs.lengths, count).astype(np.int64)
        label_sizes = np.bincount(rows, target["labels"].lengths, count)
        label_sizes = label_sizes.astype(np.int64)
        inner = np.arange(len(rows)) - np.searchsorted(rows, rows)  # 行内第几篇
        starts = self._raw_starts(documents, rows, len(prefix) + len(suffix))
        origin = target["origin"]
        shift = np.where(origin.values >= 0, starts[origin.owners], 0)
        columns: dict[str, NDArray[Any]] = {
            name: column.values for name, column in target.items()
        }
        columns["origin"] = origin.values + shift
        columns["decoder_documents"] = inner[origin.owners]
        labels = {
            name: torch.from_numpy(values).split(label_sizes.tolist())
            for name, values in columns.items()
        }
        visible = labels.get("decoder_visible")
        split_inputs = torch.from_numpy(inputs.values).split(sizes.tolist())
        split_documents = torch.from_numpy(inner[inputs.owners]).split(sizes.tolist())
        return [
            Example(
                input_ids=split_inputs[row],
                documents=split_documents[row],
                labels=labels["labels"][row],
                origin=labels["origin"][row],
                hidden=labels["hidden"][row],
                decoder_input_ids=labels["decoder_input_ids"][row],
                decoder_documents=labels["decoder_documents"][row],
                decoder_visible=None if visible is None else visible[row],
            )
            for row in range(count)
        ]

    def collate(self, examples: Sequence[Example]) -> Batch:
        """补齐并配上掩码。"""
        return collate_pairs(
            examples, self.tokenizer.pad_token_id, self.pad_to_multiple_of
        )

    def _read(
        self, features: Sequence[Feature]
    ) -> tuple[NDArray[np.int64], Ragged, NDArray[np.int64], NDArray[np.int64]]:
        """样本 → 每篇文档在第几行、不带特殊词元的各篇、首尾的特殊词元。"""
        rows: list[int] = []
        bodies: list[NDArray[np.int64]] = []
        edges: tuple[list[int], list[int]] | None = None
        for number, feature in enumerate(features):
            row = read_row(feature, self._special_ids)
            ids = row.input_ids.numpy()
            bounds = [*row.document_starts.tolist(), len(ids)]
            for start, stop in itertools.pairwise(bounds):
                left, right = start, stop
                while left < right and int(ids[left]) in self._edge_ids:
                    left += 1
                while right > left and int(ids[right - 1]) in self._edge_ids:
                    right -= 1
                here = ids[start:left].tolist(), ids[right:stop].tolist()
                if edges is None:
                    edges = here
                if left == right or here != edges:
                    raise self._bad_edges(feature, edges, here, empty=left == right)
                rows.append(number)
                bodies.append(ids[left:right])
        prefix, suffix = edges or ([], [])
        documents = Ragged.of(bodies)
        self._require_unreserved(documents, [features[row] for row in rows])
        return (
            np.array(rows, np.int64),
            documents,
            np.array(prefix, np.int64),
            np.array(suffix, np.int64),
        )

    def _require_unreserved(
        self, documents: Ragged, features: Sequence[Feature]
    ) -> None:
        """原文里没有本目标要用的掩码、哨兵；`features` 是各篇所在的样本。"""
        already = np.isin(documents.values, self.reserved_ids)
        if already.any():
            at = int(np.argmax(already))
            word = self.tokenizer.convert_ids_to_tokens(int(documents.values[at]))
            feature = features[documents.owners[at]]
            raise ObjectiveError(
                found=f"{_name(feature)} 的正文里已有 {word}"
                f"（那篇文档的第 {documents.places[at] + 1} 个词元）",
                expected=f"正文里没有 {word}，否则分不清它是不是后来换上的",
                remedy=f"从原文删去 {word} 字样",
            )

    def _bad_edges(
        self,
        feature: Feature,
        edges: tuple[list[int], list[int]],
        here: tuple[list[int], list[int]],
        *,
        empty: bool,
    ) -> ObjectiveError:
        name = _name(feature)
        words = self.tokenizer.convert_ids_to_tokens
        if empty:
            return ObjectiveError(
                found=f"{name} 里有一篇文档只有特殊词元",
                expected="每篇文档至少一个普通词元",
                remedy="先删去空文档（companion corpus clean）",
            )
        return ObjectiveError(
            found=f"{name} 的首尾是 {words(here[0])} … {words(here[1])}，"
            f"别的样本是 {words(edges[0])} … {words(edges[1])}",
            expected="同一批样本首尾的特殊词元一致",
            remedy="全部样本用同样的方式分词（都加或都不加特殊词元）；正文里不要有特殊词元",
        )

    def _keys(
        self, features: Sequence[Feature], rows: NDArray[np.int64]
    ) -> NDArray[np.uint64]:
        """各篇的钥匙；没有编号的样本退而用 torch 的全局随机数，不可复现。"""
        ids = np.array(
            [
                int(torch.randint(2**62, ()))
                if feature.get("example_id") is None
                else int(feature["example_id"])
                for feature in features
            ],
            np.int64,
        )
        epochs = np.array([int(f.get("epoch", 0)) for f in features], np.int64)
        inner = np.arange(len(rows)) - np.searchsorted(rows, rows)
        return document_keys(self.seed, epochs[rows], ids[rows], inner)

    def _target_columns(
        self,
        corruption: Corruption,
        prefix: NDArray[np.int64],
        suffix: NDArray[np.int64],
    ) -> dict[str, Ragged]:
        """解码器一侧的各列，套好首尾，D 段。"""

        def column(values: NDArray[Any], fill: Any) -> Ragged:
            return Ragged(values, corruption.targets.lengths).wrapped(
                np.full(len(prefix), fill, values.dtype),
                np.full(len(suffix), fill, values.dtype),
            )

        targets = corruption.targets.wrapped(prefix, suffix)
        labels = targets.values
        if corruption.labelled is not None:
            labels = np.where(
                column(corruption.labelled, False).values, labels, IGNORE_INDEX
            )
        inputs = np.roll(targets.values, 1)
        inputs[targets.starts[targets.lengths > 0]] = self.decoder_start_token_id
        columns = {
            "labels": Ragged(labels, targets.lengths),
            "decoder_input_ids": Ragged(inputs, targets.lengths),
            "origin": column(corruption.origin, -1),
            "hidden": column(corruption.hidden, False),
        }
        if corruption.decoder_visible is not None:
            columns["decoder_visible"] = column(corruption.decoder_visible, False)
        # 正文在原行里要让过首部的特殊词元
        origin = columns["origin"].values
        columns["origin"] = Ragged(
            np.where(origin >= 0, origin + len(prefix), -1), targets.lengths
        )
        return columns

    @staticmethod
    def _raw_starts(
        documents: Ragged, rows: NDArray[np.int64], num_edges: int
    ) -> NDArray[np.int64]:
        """各篇在自己那一行里从第几个词元起，(D,)。"""
        sizes = documents.lengths + num_edges
        before = np.cumsum(sizes) - sizes
        first = np.searchsorted(rows, rows)  # 同一行的第一篇
        return before - before[first]


def _name(feature: Feature) -> str:
    return f"样本 {feature.get('example_id', '（无编号）')}"
