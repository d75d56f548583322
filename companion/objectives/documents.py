"""一批行首尾相接成一张文档表，以及每篇文档在哪里切成前缀与后缀。

形状字母：B 行数，N 首尾相接的总长，D 文档数。
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from companion.batch import Feature
from companion.errors import ObjectiveError
from companion.objectives.ragged import document_keys, uniform
from companion.objectives.rows import Row, read_row

SPLIT_STREAM = 0
"""切点用的随机数流；各目标自己的用处从 1 编起。"""


@dataclass(frozen=True, kw_only=True)
class Documents:
    """一批行首尾相接之后的 D 篇文档；位置都以 N 个词元的总表计。"""

    ids: NDArray[np.int64]
    """(N,)。"""
    special: NDArray[np.bool_]
    """特殊词元处为真，(N,)。"""
    starts: NDArray[np.int64]
    """各篇从哪里起，含首部的特殊词元，(D,)。"""
    lefts: NDArray[np.int64]
    """各篇的正文从哪里起，(D,)。"""
    rights: NDArray[np.int64]
    """各篇的正文到哪里止，(D,)；没有正文时与 `lefts` 相等。"""
    stops: NDArray[np.int64]
    """各篇到哪里止，含尾部的特殊词元，(D,)。"""
    rows: NDArray[np.int64]
    """各篇在第几行，(D,)。"""
    given: NDArray[np.int64]
    """样本用 `prefix_length` 给定的切点，(D,)；没有给的为 −1。"""
    keys: NDArray[np.uint64]
    """各篇的随机数钥匙，(D,)。"""

    @property
    def num_rows(self) -> int:
        """B。"""
        return int(self.rows[-1]) + 1

    @property
    def owners(self) -> NDArray[np.int64]:
        """每个词元属于第几篇，(N,)。"""
        return np.repeat(np.arange(len(self.starts)), self.stops - self.starts)

    @property
    def row_sizes(self) -> NDArray[np.int64]:
        """各行的词元数，(B,)。"""
        return row_sizes(self.stops - self.starts, self.rows)

    @property
    def row_places(self) -> NDArray[np.int64]:
        """每个词元是本行的第几个，(N,)。"""
        sizes = self.row_sizes
        return np.arange(len(self.ids)) - np.repeat(np.cumsum(sizes) - sizes, sizes)

    @property
    def inner(self) -> NDArray[np.int64]:
        """各篇是行内第几篇，(D,)。"""
        return np.arange(len(self.rows)) - np.searchsorted(self.rows, self.rows)

    def splits(self) -> NDArray[np.int64]:
        """前缀到哪里止、后缀从哪里起，(D,)；切不开的前缀为空，等于 `starts`。"""
        drawn = draw_splits(self.rights - self.lefts, self.keys)
        drawn = np.where(drawn > 0, self.lefts + drawn, self.starts)
        return np.where(self.given >= 0, self.given, drawn)


def row_sizes(lengths: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """各篇的长度与所在的行，各 (D,) → 各行的长度，(B,)。"""
    return np.bincount(rows, lengths).astype(np.int64)


def split_rows(
    columns: dict[str, NDArray[Any]], sizes: NDArray[np.int64]
) -> list[dict[str, Any]]:
    """首尾相接的几列 → 每行一个字典，值是张量。

    Args:
        columns: 各列，最后一维首尾相接，(…, N)。
        sizes: 各行的长度，(B,)，总和为 N。
    """
    stops = np.cumsum(sizes)
    return [
        {
            name: torch.from_numpy(values[..., stop - size : stop].copy())
            for name, values in columns.items()
        }
        for size, stop in zip(sizes.tolist(), stops.tolist(), strict=True)
    ]


def draw_splits(
    lengths: NDArray[np.int64], keys: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """在 n 个词元之间的 n − 1 个缝里均匀地取一个（Raffel 等，2020，§3.2.3）。

    Args:
        lengths: 各篇的词元数，(D,)。
        keys: 各篇的随机数钥匙，(D,) uint64。

    Returns:
        前一段的词元数，在 1 与 n − 1 之间，(D,) int64；不足两个词元的切不开，为 0。
    """
    lot = uniform(keys, 1, SPLIT_STREAM)[:, 0]
    return np.where(lengths < 2, 0, 1 + (lot * (lengths - 1)).astype(np.int64))


def read_documents(
    features: Sequence[Feature], special_ids: Tensor, edge_ids: Tensor, seed: int
) -> Documents:
    """一批样本 → 文档表；不改动样本。

    Args:
        features: 见 `companion.batch`；另可带 `prefix_length`。
        special_ids: 分词器的特殊词元，(S,) int64。
        edge_ids: 其中在文档首尾时算首部与尾部的，(E,) int64；[UNK] 不在内。
        seed: 随机数的种子。

    Raises:
        ObjectiveError: 样本读不了，或前缀与文字一样长。
    """
    rows = [read_row(feature, special_ids) for feature in features]
    sizes = np.array([len(row.input_ids) for row in rows])
    firsts = np.cumsum(sizes) - sizes
    counts = [len(row.document_starts) for row in rows]
    row_of = np.repeat(np.arange(len(rows)), counts)  # (D,)
    starts = torch.cat([row.document_starts for row in rows]).numpy()
    starts = starts + firsts[row_of]
    stops = np.append(starts[1:], sizes.sum())
    ids = torch.cat([row.input_ids for row in rows]).numpy()
    plain = ~np.isin(ids, edge_ids.numpy())
    place = np.arange(len(ids))
    # 正文是首尾两个普通词元之间的一段；没有普通词元的，正文为空
    lefts = np.minimum.reduceat(np.where(plain, place, len(ids)), starts)
    rights = np.maximum.reduceat(np.where(plain, place, -1), starts) + 1
    lefts = np.minimum(lefts, stops)
    given = given_splits(features, rows)
    require_suffix(features, row_of, given, rights - starts)
    return Documents(
        ids=ids,
        special=torch.cat([row.special for row in rows]).numpy(),
        starts=starts,
        lefts=lefts,
        rights=np.maximum(rights, lefts),
        stops=stops,
        rows=row_of,
        given=np.where(given >= 0, given + starts, -1),
        keys=document_keys(
            seed,
            np.array([row.epoch for row in rows])[row_of],
            np.array([_number(row) for row in rows], np.int64)[row_of],
            np.arange(len(row_of)) - np.searchsorted(row_of, row_of),
        ),
    )


def _number(row: Row) -> int:
    """样本编号；没有编号的退而用 torch 的全局随机数，不可复现。"""
    if row.example_id is None:
        return int(torch.randint(2**62, ()))
    return row.example_id


def given_splits(features: Sequence[Feature], rows: Sequence[Row]) -> NDArray[np.int64]:
    """样本给定的各篇前缀长度，(D,)；没有给的为 −1。

    Raises:
        ObjectiveError: 个数与文档数不符，或小于 1。
    """
    given: list[NDArray[np.int64]] = []
    for feature, row in zip(features, rows, strict=True):
        count = len(row.document_starts)
        value = feature.get("prefix_length")
        if value is None:
            given.append(np.full(count, -1, np.int64))
            continue
        sizes = np.atleast_1d(np.asarray(value, np.int64))
        if sizes.shape != (count,) or (sizes < 1).any():
            raise ObjectiveError(
                found=f"样本 {example_name(feature)} 有 {count} 篇文档，"
                f"prefix_length 是 {sizes.tolist()}",
                expected="每篇文档一个前缀长度，都是正整数",
                remedy="一行只放一篇文档，或给 prefix_length 一个等长的列表",
            )
        given.append(sizes)
    return np.concatenate(given)


def require_suffix(
    features: Sequence[Feature],
    rows: NDArray[np.int64],
    given: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> None:
    """给定的前缀之后，正文里至少还有一个词元要预测。

    Args:
        features: 一批样本。
        rows: 各篇在第几行，(D,)。
        given: 给定的前缀长度，(D,)；−1 的不查。
        lengths: 从文档开头到正文末尾的词元数，(D,)。

    Raises:
        ObjectiveError: 前缀与文字一样长。
    """
    lengths = np.maximum(lengths, 0)  # 没有正文的为 0
    full = np.flatnonzero(given >= lengths)
    if len(full):
        at = int(full[0])
        raise ObjectiveError(
            found=f"样本 {example_name(features[int(rows[at])])} 的 prefix_length 是 "
            f"{given[at]}，而文字到第 {lengths[at]} 个词元就完了",
            expected="前缀之后至少还有一个词元要预测",
            remedy="缩短前缀，或在截断时给目标留出位置（先截短源端）",
        )


def example_name(feature: Feature) -> str:
    """错误消息里怎样称呼一个样本。"""
    return str(feature.get("example_id", "（无编号）"))
