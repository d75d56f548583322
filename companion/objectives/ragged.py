"""长短不一的一批文档，一次算完：首尾相接的数组，以及只由钥匙决定的随机数。

一篇一篇地破坏文档，时间大半花在 Python 的循环里；这里把一批文档首尾相接，用几次整块的
数组运算代替循环。随机数由计数器产生：第 i 个数是 splitmix64（Steele 等，2014）在（钥匙,
股, i）处的值，钥匙由（种子, 轮次, 样本编号, 行内第几个文档）搅拌而成。所以一篇文档的噪
声与它同谁装在一批里、批量多大、几个进程都无关。

形状字母：D 文档数，N 首尾相接之后的总长，W 最长的一篇。
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True)
class Ragged:
    """首尾相接的 D 个数组。"""

    values: NDArray[Any]
    """(N,)。"""
    lengths: NDArray[np.int64]
    """(D,)，总和为 N。"""

    @classmethod
    def of(cls, rows: Sequence[NDArray[Any]]) -> "Ragged":
        """由一个个数组造出。

        >>> Ragged.of([np.array([7, 8]), np.array([9])]).values.tolist()
        [7, 8, 9]
        """
        lengths = np.array([len(row) for row in rows], np.int64)
        return cls(np.concatenate(rows) if len(rows) else np.empty(0), lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """各数组的起点，(D,)。"""
        return np.cumsum(self.lengths) - self.lengths

    @cached_property
    def owners(self) -> NDArray[np.int64]:
        """每个元素属于第几个数组，(N,)。"""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """每个元素是本数组的第几个，(N,)，从 0 数起。"""
        return np.arange(len(self.values)) - np.repeat(self.starts, self.lengths)

    def counts(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """`at` 是几个元素的位置，由小到大；各数组里有几个，(D,)。

        >>> Ragged(np.arange(5), np.array([3, 0, 2])).counts(
        ...     np.array([0, 2, 4])).tolist()
        [2, 0, 1]
        """
        counts = np.searchsorted(at, self.starts + self.lengths)
        counts[1:] -= counts[:-1].copy()
        return counts

    def split(self) -> list[NDArray[Any]]:
        """还原成一个个数组。"""
        return np.split(self.values, self.starts[1:]) if len(self.lengths) else []

    def rolled(self, shifts: NDArray[np.int64]) -> "Ragged":
        """每个数组首尾接成一圈，改从第 `shifts[d]` 个读起；0 ≤ shifts < lengths。

        >>> Ragged.of([np.array([7, 8, 9]), np.array([5])]).rolled(
        ...     np.array([1, 0])).values.tolist()
        [8, 9, 7, 5]
        """
        places = self.places + np.repeat(shifts, self.lengths)
        lengths = np.repeat(self.lengths, self.lengths)
        places -= np.where(places >= lengths, lengths, 0)
        return Ragged(
            self.values[np.repeat(self.starts, self.lengths) + places], self.lengths
        )

    def run_heads(self, flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """同一数组里相连的真值算一段：每段的第一个，(N,) bool。

        >>> Ragged(np.arange(5), np.array([3, 2])).run_heads(
        ...     np.array([False, True, True, True, False])).astype(int).tolist()
        [0, 1, 0, 1, 0]
        """
        heads = flags.copy()
        heads[1:] &= ~flags[:-1]
        starts = self.starts[self.lengths > 0]
        heads[starts] = flags[starts]
        return heads

    def wrapped(self, prefix: NDArray[Any], suffix: NDArray[Any]) -> "Ragged":
        """每个数组前后各添同样的一段。

        >>> Ragged.of([np.array([7]), np.array([8, 9])]).wrapped(
        ...     np.array([1]), np.array([2])).values.tolist()
        [1, 7, 2, 1, 8, 9, 2]
        """
        if not len(prefix) and not len(suffix):
            return self
        lengths = self.lengths + len(prefix) + len(suffix)
        values = np.empty(int(lengths.sum()), self.values.dtype)
        starts = np.cumsum(lengths) - lengths
        values[np.repeat(starts + len(prefix), self.lengths) + self.places] = (
            self.values
        )
        for at, value in enumerate(prefix):
            values[starts + at] = value
        for at, value in enumerate(suffix):
            values[starts + lengths - len(suffix) + at] = value
        return Ragged(values, lengths)


def document_keys(
    seed: int,
    epochs: NDArray[np.int64],
    example_ids: NDArray[np.int64],
    documents: NDArray[np.int64],
) -> NDArray[np.uint64]:
    """每篇文档的钥匙，(D,) uint64；四个数逐一搅拌，邻近的编号互不相关。"""
    state = np.zeros(len(documents), np.uint64)
    for values in (np.full(len(documents), seed), epochs, example_ids, documents):
        state = _mix((state ^ values.astype(np.int64).view(np.uint64)) + _GOLDEN)
    return state


def uniform(
    keys: NDArray[np.uint64], width: int, stream: int = 0
) -> NDArray[np.float64]:
    """[0, 1) 上均匀的随机数，(D, width)。

    第 d 行第 i 个数只由（`keys[d]`, `stream`, i）决定，与 D、`width` 无关。

    Args:
        keys: `document_keys` 的结果，(D,) uint64。
        width: 每篇要几个数。
        stream: 第几股；一篇文档里不同的用处取不同的股。
    """
    bases = _bases(keys, stream)
    steps = _GOLDEN * np.arange(1, width + 1, dtype=np.uint64)
    return _unit(_mix(bases[:, None] + steps))


def choose_exactly(
    slots: NDArray[np.int64],
    counts: NDArray[np.int64],
    keys: NDArray[np.uint64],
    stream: int = 0,
) -> NDArray[np.bool_]:
    """每篇从 `slots[d]` 个位置里不放回地均匀选 `counts[d]` 个。

    Args:
        slots: 各篇有几个位置，(D,)。
        counts: 各篇选几个，(D,)，0 ≤ counts ≤ slots。
        keys: 各篇的钥匙，(D,) uint64。
        stream: 用哪一股随机数。

    Returns:
        选中处为真，(D, max(slots)) bool；`slots[d]` 之后的位置为假。
    """
    width = int(slots.max(initial=0))
    if width == 0:
        return np.zeros((len(slots), 0), np.bool_)
    scores = uniform(keys, width, stream)
    scores[np.arange(width) >= slots[:, None]] = 2.0
    ordered = np.sort(scores, axis=1)
    last = np.take_along_axis(ordered, np.maximum(counts - 1, 0)[:, None], axis=1)
    return (scores <= last) & (counts > 0)[:, None]


def _bases(
    keys: NDArray[np.uint64], stream: int | NDArray[np.int64]
) -> NDArray[np.uint64]:
    """每篇这一股的起点，(D,)。"""
    # 标量的乘法会为溢出告警，数组的不会
    return _mix(keys + _GOLDEN * (np.atleast_1d(stream) + 1).astype(np.uint64))


def _unit(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """随机比特取高 53 位，落在 [0, 1)。"""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def uniform_ragged(
    lengths: NDArray[np.int64], keys: NDArray[np.uint64], stream: int = 0
) -> NDArray[np.float64]:
    """第 d 篇要 `lengths[d]` 个 [0, 1) 上的随机数，首尾相接，(Σlengths,)。

    与 `uniform` 同一列数，只是不补齐：各篇长短悬殊时省下大半。
    """
    return _unit(_bits(lengths, keys, stream))


def choose_ragged(
    slots: NDArray[np.int64],
    counts: NDArray[np.int64],
    keys: NDArray[np.uint64],
    stream: int | NDArray[np.int64] = 0,
) -> NDArray[np.bool_]:
    """同 `choose_exactly`，结果首尾相接，(Σslots,) bool；`stream` 可以逐篇给。

    选中的是分数最小的 counts 个。分数均匀，第 counts 小的离 counts/slots 不远，所以先划
    一条宽裕的界线，只把界线以下的排序：快几倍，选中的不变。
    """
    scores = _bits(slots, keys, stream)
    share = (counts + 5.0 * np.sqrt(counts) + 6.0) / np.maximum(slots, 1)
    share = np.where(counts > 0, np.minimum(share, 1.0 - 2.0**-53), 0.0)
    line = (share * 2.0**64).astype(np.uint64)
    near = np.flatnonzero(scores < np.repeat(line, slots))
    found = Ragged(scores, slots).counts(near)  # (D,) 界线以下各有几个
    if (found >= counts).all():
        table = np.full((len(slots), int(found.max(initial=1))), -1).view(np.uint64)
        table[np.arange(table.shape[1]) < found[:, None]] = scores[near]
        table.sort(axis=1)
        limits = table[np.arange(len(slots)), counts - 1]
        limits[counts == 0] = 0
        chosen = scores <= np.repeat(limits, slots)
        if np.count_nonzero(chosen) == counts.sum():
            return chosen
    # 界线划低了，或最后一个与别的分数相同（都极少见）：全部排序，相同的取前一个
    order = np.lexsort((scores, np.repeat(np.arange(len(slots)), slots)))
    places = Ragged(scores, slots).places
    chosen = np.zeros(len(scores), np.bool_)
    chosen[order[places < np.repeat(counts, slots)]] = True
    return chosen


def _bits(
    lengths: NDArray[np.int64],
    keys: NDArray[np.uint64],
    stream: int | NDArray[np.int64],
) -> NDArray[np.uint64]:
    """`uniform_ragged` 所用的 64 个随机比特。"""
    starts = np.cumsum(lengths) - lengths
    bases = _bases(keys, stream)
    # bases + _GOLDEN·(本篇第几个 + 1)，本篇的起点并进 bases
    bases -= _GOLDEN * starts.astype(np.uint64)
    state = np.arange(1, int(lengths.sum()) + 1, dtype=np.uint64)
    state *= _GOLDEN
    state += np.repeat(bases, lengths)
    return _mix(state)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64 的末级搅拌，就地算；uint64 的乘法自然溢出。"""
    state ^= state >> np.uint64(30)
    state *= _FIRST
    state ^= state >> np.uint64(27)
    state *= _SECOND
    state ^= state >> np.uint64(31)
    return state
