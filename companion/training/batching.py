"""哪些行同进一批：按长度分桶，一批至多这么多词元。

一行一行地凑批、补到最长，短行陪着长行白算。这里先打乱，再在一个窗口里按长度排序，依次装进
“行数 × 最长行 ≤ 词元预算”的批，最后把批的次序打乱：批内长短相近，填充很少；批间仍是随机
的。

整次训练的批次在开始前就排定，只由（种子, 轮次）决定，所以账本能在第一步之前算好，断点续
训也只需跳过做完的几批。

各份语料（领域的一份或几份，回放）的行接在一起编号（`JoinedRows`），ERNIE 的三个阶段换着
词界给（`StagedRows`）。

形状字母：N 行数，M 微批量数。
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from companion.batch import Feature
from companion.corpus.packing import BlockDataset

WINDOW_BATCHES = 64
"""一个排序窗口约合多少个微批量：太小则填充多，太大则同批的行总是同样长。"""

Key = tuple[int, int]
"""(轮次, 行号)：`BlockDataset` 认得的下标。"""


def bucket_by_length(
    lengths: NDArray[np.int64],
    tokens_per_batch: int,
    rng: np.random.Generator,
    *,
    same_length: bool = False,
) -> list[NDArray[np.int64]]:
    """把行分成批，每批 行数 × 最长行 ≤ `tokens_per_batch`。

    Args:
        lengths: 每行的词元数，(N,) int64。
        tokens_per_batch: 一批的词元预算，含填充；比它还长的行自成一批。
        rng: 随机数来源。
        same_length: 一批里的行全都一样长，没有填充。

    Returns:
        每批的行号，M 个 int64 数组；每行恰好出现一次。
    """
    order = rng.permutation(len(lengths))
    mean = max(1.0, float(lengths.mean())) if len(lengths) else 1.0
    window = max(1, int(WINDOW_BATCHES * tokens_per_batch / mean))
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(order), window):
        part = order[start : start + window]
        part = part[np.argsort(-lengths[part], kind="stable")]
        at = 0
        while at < len(part):  # 降序：批内第一行最长
            longest = int(lengths[part[at]])
            take = max(1, tokens_per_batch // max(1, longest))
            if same_length:
                take = min(take, int((lengths[part[at:]] == longest).sum()))
            batches.append(part[at : at + take])
            at += take
    return [batches[i] for i in rng.permutation(len(batches))]


@dataclass(frozen=True)
class Share:
    """一份语料的行，与它占训练词元的比例。"""

    first: int
    """第一行是第几行。"""
    stop: int
    """末行之后是第几行。"""
    share: float
    """占训练词元的比例，在 0 与 1 之间；各份合计为 1。"""
    is_replay: bool = False
    """回放的通用语料：不算进“读了几遍”。"""


class Batches(Sequence[list[Key]]):
    """M 个微批量，用起来是 `list[list[Key]]`，内里只有三个整数数组。

    Args:
        rows: 全部行号，按批相接，(R,) int64。
        bounds: 每一批在 `rows` 中的起点，末尾加上 R，(M + 1,) int64。
        epochs: 每一批的轮次，(M,) int64。
        chosen: 取其中哪几批；缺省是全部。
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        bounds: NDArray[np.int64],
        epochs: NDArray[np.int64],
        chosen: range | None = None,
    ) -> None:
        self.rows, self.bounds, self.epochs = rows, bounds, epochs
        self._chosen = range(len(epochs)) if chosen is None else chosen

    def __len__(self) -> int:
        return len(self._chosen)

    @overload
    def __getitem__(self, index: int) -> list[Key]: ...

    @overload
    def __getitem__(self, index: slice) -> "Batches": ...

    def __getitem__(self, index: int | slice) -> "list[Key] | Batches":
        if isinstance(index, slice):
            return Batches(self.rows, self.bounds, self.epochs, self._chosen[index])
        at = self._chosen[index]
        epoch = int(self.epochs[at])
        rows = self.rows[self.bounds[at] : self.bounds[at + 1]]
        return [(epoch, row) for row in rows.tolist()]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list[Any](other)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class BatchPlan:
    """整次训练的微批量，以及由此得出的账。"""

    batches: Sequence[list[Key]]
    """M 个微批量，每个是 (轮次, 行号) 的列表。"""
    num_steps: int
    """更新次数。"""
    epochs: float
    """领域语料（回放之外的各份合计）读了几遍。"""
    tokens: int
    """过模型的词元，含特殊词元。"""
    grid: int
    """批量张量的全部位置，含填充。"""
    replayed: int
    """其中回放的词元。"""
    tokens_of: tuple[int, ...] = ()
    """其中各份语料的词元，次序照给的。"""
    epochs_of: tuple[float, ...] = ()
    """各份语料读了几遍。"""


def plan_batches(
    lengths: NDArray[np.int64],
    *,
    tokens_per_batch: int,
    accumulation: int,
    seed: int,
    max_steps: int = -1,
    num_epochs: float = 1.0,
    shares: Sequence[Share] = (),
    same_length: bool = False,
) -> BatchPlan:
    """排定整次训练。

    Args:
        lengths: 全部行的词元数，(N,) int64，各份语料依次相接。
        tokens_per_batch: 一个微批量的词元预算（每个进程）。
        accumulation: 多少个微批量更新一次（梯度累积 × 进程数）。
        seed: 打乱用的种子。
        max_steps: 更新次数；−1 时由 `num_epochs` 决定。
        num_epochs: 读几遍领域语料，可以是小数。
        shares: 各份语料的行与比例；缺省只有一份。一轮的词元数是回放之外各份的大小之和
            除以回放之外的比例；各份照比例取，取完一遍才重来。
        same_length: 只把等长的行放进一批。

    Returns:
        排定的微批量。按步数训练时恰好是 `max_steps × accumulation` 批；按轮数训练时补足
        最后一步的批取自下一轮。
    """
    shares = shares or (Share(0, len(lengths), 1.0),)
    parts: list[NDArray[np.int64]] = []  # M 批的行号
    epochs: list[int] = []  # M 批的轮次
    epoch_sizes: list[int] = []
    wanted = max_steps * accumulation if max_steps > 0 else None
    while wanted is None or len(parts) < wanted:
        epoch = len(epoch_sizes)
        rng = np.random.default_rng((seed, epoch))
        rows = np.concatenate(
            [_drawn(lengths, each, quota, epoch, seed, number)
             for number, (each, quota) in enumerate(_quotas(lengths, shares))]
        )  # fmt: skip
        fresh = bucket_by_length(
            lengths[rows], tokens_per_batch, rng, same_length=same_length
        )
        epoch_sizes.append(len(fresh))
        parts += [rows[part] for part in fresh]
        epochs += [epoch] * len(fresh)
        if wanted is None and len(epoch_sizes) >= num_epochs:
            done = sum(epoch_sizes[:-1])
            fraction = num_epochs - (len(epoch_sizes) - 1)
            exact = done + max(1, round(fraction * epoch_sizes[-1]))
            steps = -(-exact // accumulation)
            wanted = steps * accumulation
    flat = np.concatenate([np.empty(0, np.int64), *parts[:wanted]])  # (R,)
    bounds = np.cumsum([0, *map(len, parts[:wanted])])  # (M + 1,)
    batches = Batches(flat, bounds, np.array(epochs[:wanted]))
    return _accounted(batches, lengths, shares, accumulation)


def shortened(
    plan: BatchPlan,
    num_steps: int,
    lengths: NDArray[np.int64],
    shares: Sequence[Share],
) -> BatchPlan:
    """只走前面若干步（早停）的安排，账照实际读了的算。

    Args:
        plan: 原来的安排。
        num_steps: 走了几步。
        lengths: 全部行的词元数，(N,) int64。
        shares: 各份语料的行。
    """
    accumulation = len(plan.batches) // plan.num_steps
    kept = plan.batches[: num_steps * accumulation]
    flat = np.array([row for batch in kept for _, row in batch], np.int64)
    bounds = np.cumsum([0, *map(len, kept)])
    epochs = np.array([batch[0][0] for batch in kept], np.int64)
    return _accounted(Batches(flat, bounds, epochs), lengths, shares, accumulation)


def _accounted(
    batches: "Batches",
    lengths: NDArray[np.int64],
    shares: Sequence[Share],
    accumulation: int,
) -> BatchPlan:
    """排好的各批，连同由此得出的账。"""
    flat, bounds = batches.rows, batches.bounds
    sizes = lengths[flat]  # (R,)
    longest = np.maximum.reduceat(sizes, bounds[:-1])  # (M,)
    tokens_of = [
        int(sizes[(flat >= each.first) & (flat < each.stop)].sum()) for each in shares
    ]
    whole = [int(lengths[each.first : each.stop].sum()) for each in shares]
    own = [number for number, each in enumerate(shares) if not each.is_replay]
    return BatchPlan(
        batches=batches,
        num_steps=(len(bounds) - 1) // accumulation,
        epochs=sum(tokens_of[n] for n in own) / max(1, sum(whole[n] for n in own)),
        tokens=int(sizes.sum()),
        grid=int((np.diff(bounds) * longest).sum()),
        tokens_of=tuple(tokens_of),
        epochs_of=tuple(t / max(1, w) for t, w in zip(tokens_of, whole, strict=True)),
        replayed=sum(
            tokens
            for tokens, each in zip(tokens_of, shares, strict=True)
            if each.is_replay
        ),
    )


def _quotas(
    lengths: NDArray[np.int64], shares: Sequence[Share]
) -> list[tuple[Share, float]]:
    """一轮里各份语料取多少词元。"""
    own = [each for each in shares if not each.is_replay]
    tokens = sum(int(lengths[each.first : each.stop].sum()) for each in own)
    whole = tokens / sum(each.share for each in own)
    return [(each, whole * each.share) for each in shares]


def _drawn(
    lengths: NDArray[np.int64],
    source: Share,
    quota: float,
    epoch: int,
    seed: int,
    number: int,
) -> NDArray[np.int64]:
    """这一轮取一份语料的哪些行：各轮依次取，全取过一遍才重来。"""
    size = source.stop - source.first
    total = int(lengths[source.first : source.stop].sum())
    if abs(quota - total) < 1e-9 * total:  # 恰好一遍
        return np.arange(source.first, source.stop)
    key = (-1 if source.is_replay else -2 - number) & 0xFFFF
    order = source.first + np.random.default_rng((seed, key)).permutation(size)
    begins = np.cumsum(lengths[order]) - lengths[order]  # (size,) 各行从第几个词元起
    start, stop = quota * epoch, quota * (epoch + 1)
    picked: list[NDArray[np.int64]] = []
    for lap in range(int(start // total), int(stop // total) + 1):
        low, high = np.searchsorted(begins + lap * total, (start, stop))
        picked.append(order[low:high])  # 起点落在 [start, stop) 里的行
    return np.concatenate(picked)


class PlannedSampler:
    """按计划逐批给出下标；多进程训练时每个进程取自己的那几批。

    第 s 步的第 a 个微批量，由第 r 个进程取第 (s·A + a)·W + r 批，A 为梯度累积，W 为进程
    数。
    """

    def __init__(self, plan: BatchPlan, rank: int = 0, world_size: int = 1) -> None:
        self.batches = plan.batches[rank::world_size]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.batches)


class JoinedRows:
    """各份语料的行接在一起编号；样本编号随之错开，噪声互不相同。"""

    def __init__(self, datasets: Sequence[BlockDataset]) -> None:
        self.datasets = datasets
        self.firsts = np.cumsum([0, *(len(dataset) for dataset in datasets)])
        self.lengths: NDArray[np.int64] = np.concatenate(
            [dataset.lengths for dataset in datasets]
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, key: tuple[int, int]) -> Feature:
        """按 (轮次, 行号) 取一行。"""
        epoch, row = key
        which = int(np.searchsorted(self.firsts, row, side="right")) - 1
        feature = self.datasets[which][epoch, row - int(self.firsts[which])]
        return {**feature, "example_id": row}


class StagedRows(JoinedRows):
    """几个阶段的行：词元一样，词界不同；训练的前一段给第一份，后一段给下一份。

    批次早已排定，所以一行属于哪个阶段只看它在第几批：各阶段的批数三等分。取样本的进程有
    几个、中途续训与否，都不改变它。

    Args:
        stages: 各阶段的行，次序与长短都相同。
        plan: 排定的批次。
    """

    def __init__(self, stages: Sequence[JoinedRows], plan: BatchPlan) -> None:
        super().__init__(stages[0].datasets)
        self.stages = stages
        self._fences: list[tuple[int, frozenset[int]]] = []
        for stage in range(1, len(stages)):
            steps = -(-plan.num_steps * stage // len(stages))
            first = steps * (len(plan.batches) // plan.num_steps)
            if first == len(plan.batches):  # 步数太少，轮不到这个阶段
                break
            epoch = plan.batches[first][0][0]
            before = frozenset(
                row
                for batch in plan.batches[:first]
                for number, row in batch
                if number == epoch
            )
            self._fences.append((epoch, before))

    def __getitem__(self, key: tuple[int, int]) -> Feature:
        """按 (轮次, 行号) 取一行，词界照它所在的阶段。"""
        return self.stages[self.stage_of(key)][key]

    def stage_of(self, key: tuple[int, int]) -> int:
        """(轮次, 行号) 在第几个阶段，从 0 数起。"""
        epoch, row = key
        return sum(
            epoch > first or (epoch == first and row not in before)
            for first, before in self._fences
        )
