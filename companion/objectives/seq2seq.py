"""编码器–解码器各目标共用的一段：套上特殊词元，移位，接成一行。

各个目标只写一件事：一篇不带特殊词元的文档，怎样变成编码器的输入与解码器的目标
（`Seq2SeqCollator.corrupt`）。解码器的输入是目标右移一格，第一格是
`decoder_start_token_id`（T5 是填充词元，BART 是 `</s>`，中文 BART 各不相同，写在检查点
的 config.json 里）。行内有几个文档时，每个文档各自从头开始，注意力三处都隔开
（`companion.objectives.collate`）。

形状字母：T 一篇正文的词元数，L 输入长，K 目标长，都不含首尾的特殊词元。
"""

import itertools
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from companion.batch import Feature
from companion.errors import ObjectiveError
from companion.objectives.collate import Collator, Example, make_example
from companion.objectives.rows import Document, Row

Ids = NDArray[np.int64]

_SENTINEL_NAMES = ("▁<extra_id_{}>", "<extra_id_{}>", "extra{}")
"""哨兵的叫法：mT5 的 SentencePiece 词表、T5、UER 的中文 T5（BERT 词表）。"""


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """一篇文档破坏之后，不带首尾的特殊词元。"""

    inputs: Ids
    """编码器的输入，(L,)。"""
    targets: Ids
    """解码器要写出的，(K,)。"""
    origin: Ids
    """每个目标是正文的第几个词元，(K,)；哨兵等原文没有的为 −1。"""
    hidden: NDArray[np.bool_]
    """目标词元在编码器的输入里看不见，(K,)。"""


@dataclass
class Seq2SeqCollator(Collator):
    """编码器–解码器目标的数据整理器；子类写 `corrupt` 与 `hide_tokens`。

    输入样本见 `companion.batch`。输出 `input_ids` (B, L)、`labels` 与
    `decoder_input_ids` (B, K) int64，以及掩码。一篇文档的噪声只由（seed, epoch,
    example_id, 行内第几篇）决定。

    Raises:
        ObjectiveError: 样本首尾的特殊词元不一致，或没有 `decoder_start_token_id`。
    """

    decoder_start_token_id: int | None = None
    """解码器的第一个输入，抄自 `model.config`；缺省取填充词元，只对 T5、mT5、Pegasus
    是对的。"""
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
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
        self._start_id = int(self.decoder_start_token_id)
        self.reserved_ids = np.empty(0, np.int64)

    def reserve(self, ids: Iterable[int]) -> None:
        """这些词元（掩码、哨兵）归本目标用：原文里有就报错，也不算首尾的特殊词元。"""
        self.reserved_ids = np.array(sorted(ids), np.int64)
        self.edge_ids = np.setdiff1d(self.edge_ids, self.reserved_ids)

    @abstractmethod
    def corrupt(self, tokens: Ids, rng: np.random.Generator) -> Corruption:
        """破坏一篇文档。

        Args:
            tokens: 不带特殊词元的正文，(T,) int64，T ≥ 1；不改动。
            rng: 随机数来源。
        """

    @abstractmethod
    def hide_tokens(self, tokens: Ids, noise: NDArray[np.bool_]) -> Corruption:
        """照本目标的样子遮住指定的词元；填空与评估用，没有随机。

        Args:
            tokens: 不带特殊词元的正文，(T,) int64。
            noise: 要遮的词元，(T,) bool。
        """

    def row_capacity(self, block_size: int, num_edges: int) -> int:
        """原文一行至多装多少词元，破坏之后编码器一行不超过 `block_size`。

        Args:
            block_size: 编码器一行的长度，含特殊词元。
            num_edges: 首尾共有几个特殊词元。
        """
        del num_edges
        return block_size

    def examples(self, features: Sequence[Feature]) -> list[Example]:
        """样本 → 破坏之后、补齐之前的样子。"""
        rows = [self.read(feature) for feature in features]
        self._check_edges(rows)
        return [self.example(row) for row in rows]

    def example(self, row: Row) -> Example:
        """逐篇破坏，接成一行。"""
        return self._joined(
            row,
            [(each, self.corrupt_document(row, each)) for each in row.documents],
        )

    def corrupt_document(self, row: Row, document: Document) -> Corruption:
        """破坏行内的一篇。"""
        tokens = row.body(document)
        return self.corrupt(tokens, row.rng(self.seed, document.number))

    def hide(self, feature: Feature, noise: NDArray[np.bool_]) -> Example:
        """遮住一个样本里指定的词元。

        Args:
            feature: 一个样本，只有一篇文档。
            noise: 要遮的，与不带首尾特殊词元的正文等长，bool。
        """
        row = self.read(feature)
        self._check_edges([row])
        [document] = row.documents
        tokens = row.body(document)
        return self._joined(row, [(document, self.hide_tokens(tokens, noise))])

    def decoder_side(
        self, corruption: Corruption, prefix: Ids, suffix: Ids
    ) -> dict[str, NDArray[Any]]:
        """解码器一侧的各项，套好首尾、移好位，各 (K,)。

        Args:
            corruption: 一篇破坏之后的样子。
            prefix: 首部的特殊词元；解码器与编码器用同样的首尾。
            suffix: 尾部的特殊词元。
        """

        def wrapped(values: NDArray[Any], fill: Any) -> NDArray[Any]:
            return np.concatenate(
                [np.full(len(prefix), fill), values, np.full(len(suffix), fill)]
            )

        labels = np.concatenate([prefix, corruption.targets, suffix])
        return {
            "labels": labels,
            "decoder_input_ids": np.concatenate([[self._start_id], labels[:-1]]),
            "origin": wrapped(corruption.origin, -1),
            "hidden": wrapped(corruption.hidden, False),
        }

    def _joined(
        self, row: Row, parts: Sequence[tuple[Document, Corruption]]
    ) -> Example:
        """各篇套上自己的首尾，接成一行。"""
        inputs: list[Ids] = []
        sides: list[dict[str, NDArray[Any]]] = []
        for document, corruption in parts:
            prefix = row.input_ids[document.start : document.left]
            suffix = row.input_ids[document.right : document.stop]
            inputs.append(np.concatenate([prefix, corruption.inputs, suffix]))
            side = self.decoder_side(corruption, prefix, suffix)
            origin = side["origin"]
            side["origin"] = np.where(origin < 0, -1, origin + document.left)
            sides.append(side)
        numbers = np.arange(len(parts))
        columns = {
            name: np.concatenate([side[name] for side in sides]) for name in sides[0]
        }
        return make_example(
            np.concatenate(inputs),
            columns.pop("labels"),
            documents=np.repeat(numbers, [len(each) for each in inputs]),
            decoder_documents=np.repeat(numbers, [len(s["labels"]) for s in sides]),
            **columns,
        )

    def _check_edges(self, rows: Sequence[Row]) -> None:
        """各篇都有正文，首尾的特殊词元一致，正文里没有本目标要用的掩码、哨兵。"""
        first: tuple[list[int], list[int]] | None = None
        words = self.tokenizer.convert_ids_to_tokens
        for row in rows:
            for document in row.documents:
                ids = row.input_ids
                if document.length == 0:
                    raise ObjectiveError(
                        found=f"{row.name} 里有一篇文档只有特殊词元",
                        expected="每篇文档至少一个普通词元",
                        remedy="先删去空文档（companion corpus clean）",
                    )
                here = (
                    ids[document.start : document.left].tolist(),
                    ids[document.right : document.stop].tolist(),
                )
                first = first or here
                if here != first:
                    raise ObjectiveError(
                        found=f"{row.name} 的首尾是 {words(here[0])} … "
                        f"{words(here[1])}，别的样本是 {words(first[0])} … "
                        f"{words(first[1])}",
                        expected="同一批样本首尾的特殊词元一致",
                        remedy="全部样本用同样的方式分词（都加或都不加特殊词元）；"
                        "正文里不要有特殊词元",
                    )
                body = ids[document.left : document.right]
                already = np.flatnonzero(np.isin(body, self.reserved_ids))
                if len(already):
                    word = words(int(body[already[0]]))
                    raise ObjectiveError(
                        found=f"{row.name} 的正文里已有 {word}"
                        f"（那篇文档的第 {already[0] + 1} 个词元）",
                        expected=f"正文里没有 {word}，否则分不清它是不是后来换上的",
                        remedy=f"从原文删去 {word} 字样",
                    )


def divided(tokens: Ids, cut: int) -> Corruption:
    """前 `cut` 个词元给编码器，其余给解码器，没有哨兵。"""
    return Corruption(
        inputs=tokens[:cut],
        targets=tokens[cut:],
        origin=np.arange(cut, len(tokens)),
        hidden=np.ones(len(tokens) - cut, np.bool_),
    )


def sentinel_ids_of(tokenizer: Any) -> Ids:
    """词表里的哨兵，按使用的次序，(S,) int64；按名字找，不论编号升降、排在何处。

    Raises:
        ObjectiveError: 一个也没有。
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    for name in _SENTINEL_NAMES:
        found = itertools.takewhile(
            lambda token: token in vocabulary, map(name.format, itertools.count())
        )
        ids = np.array([vocabulary[token] for token in found], np.int64)
        if len(ids):
            return ids
    raise ObjectiveError(
        found=f"分词器 {type(tokenizer).__name__} 的词表里没有哨兵",
        expected="有 <extra_id_0> …（T5、mT5）或 extra0 …（UER 的中文 T5）",
        remedy="换用 T5 类的检查点；BART 类的用 text_infilling",
    )


def require_sentinels(needed: int, sentinel_ids: Ids) -> None:
    """哨兵不够 `needed` 个时报错。"""
    if needed > len(sentinel_ids):
        raise ObjectiveError(
            found=f"一篇文档要用 {needed} 个哨兵，词表里只有 {len(sentinel_ids)} 个",
            expected=f"词表里至少有 {needed} 个哨兵",
            remedy="调小 block_size；span_corruption 也可调大 mean_noise_span_length",
        )


def mask_id_of(tokenizer: Any, preferred: str | None = None) -> int:
    """用哪个词元遮：`preferred`，其次掩码词元，再次第一个哨兵词元。

    Raises:
        ObjectiveError: 一个也没有。
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    if preferred is not None and preferred in vocabulary:
        return vocabulary[preferred]
    if tokenizer.mask_token_id is not None:
        return int(tokenizer.mask_token_id)
    try:
        return int(sentinel_ids_of(tokenizer)[0])
    except ObjectiveError as error:
        raise ObjectiveError(
            found=f"分词器 {type(tokenizer).__name__} 既没有掩码词元，也没有哨兵词元",
            expected="有 mask_token（BART 的是 <mask>）或 <extra_id_0>（T5）",
            remedy="换用编码器–解码器的检查点",
        ) from error
