"""打包：把长短不一的文档装进等长的行，不丢一个词元，不拆一篇装得下的文档；并记账。

依据 Ding et al. 2024（*Fewer Truncations Improve Language Modeling*, ICML）的最佳适配
打包：只有比一行还长的文档才切开，切出的片段与短文档一起由长到短排序，每一片放进
「剩余空间装得下它、又最小」的那一行；没有这样的行就另开一行。计划只看长度，不看词元，
所以几百万篇文档的计划也只是几个整数数组。

    长度 [50, 30, 20, 90]，一行 64  ->  90 切成 64 + 26；四行 [0] [1 3₂] [2] [3₁]

与流行的「首尾相接再等长切开」不同：那样几乎每篇文档都要拦腰截断。

词元的账（`TokenLedger`）分两段，每段都要平：

    语料    词元 = 放入行中 + 丢弃（按原因）
    一遍    行中词元 = 放入的词元 + 特殊词元
    训练    格子 = 过了模型的词元 + 填充        （各轮合计；一格是批量张量的一个位置）

2023 年流行的「一行一个样本、填充到最长、超长截断」会悄悄丢掉长文的后半、把多半算力花在
填充上；账本让这两样都写在第一步之前。

形状字母：D 文档，P 片段，N 行，R 一行之内的片段，T 一行之内的词元。
"""

import operator
from array import array
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.cells import cell_len

from companion.corpus.tokens import Piece, TokenStore
from companion.errors import CorpusError

if TYPE_CHECKING:
    from companion.batch import Feature


MIN_TAIL = 8
"""长文档末尾若只剩不到这么多词元，就与前一片匀开：太短的片段学不到什么。"""


class PackingPlan(Sequence[list[Piece]]):
    """哪一行装哪些片段：用起来是 `list[list[Piece]]`，内里只有四个整数数组。

    Args:
        pieces: 全部片段 (document, start, stop)，按行相接，(P, 3) int32。
        rows: 每一行在 `pieces` 中的起点，末尾加上 P，(N + 1,) int64。
    """

    def __init__(self, pieces: NDArray[np.int32], rows: NDArray[np.int64]) -> None:
        self.pieces = pieces
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows) - 1

    @overload
    def __getitem__(self, index: int) -> list[Piece]: ...

    @overload
    def __getitem__(self, index: slice) -> "PackingPlan": ...

    def __getitem__(self, index: int | slice) -> "list[Piece] | PackingPlan":
        if isinstance(index, slice):
            return PackingPlan.of(self[i] for i in range(*index.indices(len(self))))
        row = range(len(self))[index]  # 负下标照常，越界 IndexError
        block = self.pieces[self.rows[row] : self.rows[row + 1]]
        return [Piece(*map(int, piece)) for piece in block]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PackingPlan):
            return np.array_equal(self.pieces, other.pieces) and np.array_equal(
                self.rows, other.rows
            )
        return list(self) == other

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"PackingPlan({len(self)} 行，{len(self.pieces)} 片)"

    @classmethod
    def of(cls, rows: Iterable[Sequence[Piece]]) -> "PackingPlan":
        """由普通的列表造出计划。"""
        listed = [list(row) for row in rows]
        pieces = [piece for row in listed for piece in row]
        return cls(
            np.array(pieces, np.int32).reshape(-1, 3),
            np.cumsum([0, *map(len, listed)], dtype=np.int64),
        )


def plan_packing(
    lengths: ArrayLike,
    capacity: int,
    *,
    pack: bool = True,
    overhead_per_piece: int = 0,
    overhead_per_document: int = 0,
) -> PackingPlan:
    """排定每一行装哪些片段；结果只由长度决定，不含随机。

    每一行满足 Σ(片段长 + overhead_per_piece) + 行内收尾的文档数 ×
    overhead_per_document ≤ capacity。没有词元的文档不占位置。

    Args:
        lengths: 每篇文档的词元数，不含特殊词元，(D,)。
        capacity: 一行至多多少词元，含特殊词元（即 `block_size`）。
        pack: 为假时一片一行，供不能隔离文档的模型使用。
        overhead_per_piece: 每一片前后添加的特殊词元数（[CLS] 与 [SEP] 为 2）。
        overhead_per_document: 每篇文档的最后一片另添的特殊词元数（EOS 为 1）。

    Returns:
        各行的片段；行按其中最靠前的片段排序，行内按文档顺序。

    Raises:
        CorpusError: 一行放下特殊词元之后连一个词元也容不下。

    例：

        >>> list(plan_packing([5, 3, 2], 6))  # doctest: +NORMALIZE_WHITESPACE
        [[Piece(document=0, start=0, stop=5)],
         [Piece(document=1, start=0, stop=3), Piece(document=2, start=0, stop=2)]]
    """
    room = capacity - overhead_per_piece  # 一片至多多少词元
    if room - overhead_per_document < 1:
        raise CorpusError(
            found=f"block_size 为 {capacity}，而特殊词元要占 "
            f"{overhead_per_piece + overhead_per_document} 个",
            expected="一行除特殊词元外至少容得下 1 个词元",
            remedy="调大 block_size（常用 128 到 2048）",
        )
    pieces, is_last = _cut(np.asarray(lengths, np.int32), room, overhead_per_document)
    if not pack:
        return PackingPlan(pieces, np.arange(len(pieces) + 1, dtype=np.int64))
    costs = pieces[:, 2] - pieces[:, 1] + overhead_per_piece  # (P,)
    costs += is_last * np.int32(overhead_per_document)
    row_of = _best_fit_decreasing(costs, capacity)  # (P,)
    # 行的名次：行内最靠前的片段是第几片；片段本就按文档顺序排列
    first = np.full(int(row_of.max(initial=-1)) + 1, len(pieces), np.int32)
    np.minimum.at(first, row_of, np.arange(len(pieces), dtype=np.int32))
    order = np.argsort(first[row_of], kind="stable")
    sizes = np.bincount(row_of)[np.argsort(first)]
    rows = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    return PackingPlan(pieces[order], rows)


def _cut(
    lengths: NDArray[np.int32], room: int, overhead_per_document: int
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """装不下的文档切成至多 `room` 个词元的片段，太短的末片与前一片匀开。

    Returns:
        片段 (P, 3) int32 与「是文档最后一片」(P,) bool。
    """
    # 最后一片还要留出文档末尾的特殊词元：长度 + 末尾 ≤ 片数 × room
    counts = np.where(lengths > 0, -(-(lengths + overhead_per_document) // room), 0)
    document = np.repeat(np.arange(len(lengths), dtype=np.int32), counts)  # (P,)
    first = np.cumsum(counts, dtype=np.int32) - counts  # (D,) 各文档的第一片是第几片
    number = (
        np.arange(len(document), dtype=np.int32) - first[document]
    )  # (P,) 文档内的第几片
    start = number * room
    is_last = number == counts[document] - 1
    stop = np.where(is_last, lengths[document], start + room)
    tails = np.flatnonzero(is_last & (number > 0) & (stop - start < MIN_TAIL))
    both = stop[tails] - start[tails - 1]  # 末两片合计的词元数
    tail = np.minimum(both // 2, room - overhead_per_document)
    start[tails] = stop[tails] - tail
    stop[tails - 1] = start[tails]
    return np.stack([document, start, stop], axis=1).astype(np.int32), is_last


def _best_fit_decreasing(costs: NDArray[np.int32], capacity: int) -> NDArray[np.int32]:
    """由长到短，每一片进剩余空间最小而够用的行；返回每一片的行号 (P,) int32。

    行按剩余空间分桶：空间只有 0..capacity 这些取值，所以「最小而够用」只是在一张
    不超过 capacity 项的有序表里二分查找，与文档数无关。
    """
    row_of = np.empty(len(costs), np.int32)
    buckets: dict[int, array[int]] = {}  # 剩余空间 -> 还剩这么多的行
    free: list[int] = []  # 有行可用的剩余空间，升序
    num_rows = 0
    order = np.argsort(-costs, kind="stable")
    for piece, cost in _pairs(order, costs):
        at = bisect_left(free, cost)
        if at == len(free):
            row, space = num_rows, capacity
            num_rows += 1
        else:
            space = free[at]
            row = buckets[space].pop()
            if not buckets[space]:
                del free[at]
        row_of[piece] = row
        left = space - cost
        if left > 0:  # 满了的行不再登记
            same = buckets.setdefault(left, array("i"))
            if not same:
                insort(free, left)
            same.append(row)
    return row_of


def _pairs(
    order: NDArray[np.int64], costs: NDArray[np.int32]
) -> Iterator[tuple[int, int]]:
    """依次的 (片号, 长)；一段一段地变成 Python 的整数，免得几百万个同时在内存里。"""
    for start in range(0, len(order), 1 << 16):
        part = order[start : start + (1 << 16)]
        yield from zip(part.tolist(), costs[part].tolist(), strict=True)


class BlockDataset:
    """按计划从词元库取行的数据集：下标进，样本（Feature）出。

    下标是行号，或 (轮次, 行号)：轮次由采样器给出，样本便带上 `epoch`，噪声随轮次
    而变，又不依赖进程数。下标只是行号时，轮次是 `set_epoch` 记下的那个：库的 `Trainer`
    每一轮开头会调用它（accelerate 的 `DataLoaderShard.set_epoch`），掩码因此每轮不同。
    取出的数组每次都是新的，改动它们不会伤及词元库。

    Args:
        store: 词元库。
        plan: `plan_packing` 的结果，或 `list[list[Piece]]`。
        prefix_ids: 每一片之前的特殊词元（如 [CLS]）。
        suffix_ids: 每一片之后的特殊词元（如 [SEP]）。
        document_end_ids: 只在文档最后一片之后的特殊词元（如因果模型的 EOS）。

    Attributes:
        lengths: 每一行的词元数，含特殊词元，(N,) int64。
    """

    def __init__(
        self,
        store: TokenStore,
        plan: PackingPlan | Sequence[Sequence[Piece]],
        *,
        prefix_ids: Sequence[int] = (),
        suffix_ids: Sequence[int] = (),
        document_end_ids: Sequence[int] = (),
    ) -> None:
        self.store = store
        self.plan = plan if isinstance(plan, PackingPlan) else PackingPlan.of(plan)
        self.prefix_ids = tuple(prefix_ids)
        self.suffix_ids = tuple(suffix_ids)
        self.document_end_ids = tuple(document_end_ids)
        self.epoch = 0
        document, start, stop = self.plan.pieces.T
        is_last = stop == store.lengths[document]
        sizes = (
            (stop - start).astype(np.int64)
            + len(self.prefix_ids)
            + len(self.suffix_ids)
        )
        sizes += is_last * len(self.document_end_ids)  # (P,)
        totals = np.concatenate(([0], np.cumsum(sizes)))
        self.lengths: NDArray[np.int64] = np.diff(totals[self.plan.rows])

    def __len__(self) -> int:
        return len(self.plan)

    def set_epoch(self, epoch: int) -> None:
        """从现在起，只给行号取出的样本属于第 `epoch` 轮。"""
        self.epoch = epoch

    def __iter__(self) -> "Iterator[Feature]":
        return (self[row] for row in range(len(self)))

    def __getitem__(self, index: int | tuple[int, int]) -> "Feature":
        """取一行。

        Args:
            index: 行号，或 (轮次, 行号)。

        Returns:
            `input_ids` `num_chars` int64 (T,)，`special_tokens_mask` bool (T,)，
            `document_starts` int64 (R,)，有词界时 `word_ids` int64 (T,)，
            `example_id` 与 `epoch`。

        Raises:
            IndexError: 行号越界。
        """
        epoch, row = index if isinstance(index, tuple) else (self.epoch, index)
        row = range(len(self))[operator.index(row)]
        pieces = self.plan[row]
        length = int(self.lengths[row])
        ids = np.empty(length, np.int64)
        special = np.ones(length, np.bool_)
        num_chars = np.zeros(length, np.int64)
        words = None if self.store.word_start is None else np.full(length, -1, np.int64)
        starts: list[int] = []
        at, next_word = 0, 0
        for piece in pieces:
            starts.append(at)
            at = _write(ids, at, self.prefix_ids)
            body = slice(at, at + piece.stop - piece.start)
            ids[body] = self.store.tokens(piece)
            special[body] = False
            num_chars[body] = self.store.characters(piece)
            if words is not None:
                words[body] = self.store.word_ids(piece, first=next_word)
                next_word = max(next_word, int(words[body].max()) + 1)
            at = body.stop
            if piece.stop == self.store.lengths[piece.document]:
                at = _write(ids, at, self.document_end_ids)
            at = _write(ids, at, self.suffix_ids)
        feature: Feature = {
            "input_ids": ids,
            "document_starts": np.array(starts, np.int64),
            "special_tokens_mask": special,
            "num_chars": num_chars,
            "example_id": row,
            "epoch": operator.index(epoch),
        }
        if words is not None:
            feature["word_ids"] = words
        return feature


def _write(ids: NDArray[np.int64], at: int, values: tuple[int, ...]) -> int:
    ids[at : at + len(values)] = values
    return at + len(values)


@dataclass(frozen=True, kw_only=True)
class TokenLedger:
    """一份语料、一次训练的词元账，单位都是词元，另注明者除外。"""

    tokens_in: int
    """语料分词所得，不含特殊词元。"""
    placed: int
    """放入行中的，每个词元至多一次。"""
    dropped: Mapping[str, int] = field(default_factory=dict[str, int])
    """没有放入行中的，原因到数目。"""
    special: int = 0
    """各行为片段与文档末尾另添的特殊词元。"""
    row_tokens: int = 0
    """各行之和，含特殊词元。"""
    documents: int = 0
    """文档数（篇）。"""
    pieces: int = 0
    """片段数（片）；多于文档数，说明有长文切开了。"""
    num_rows: int = 0
    """行数（行）。"""
    characters: int = 0
    """语料的字数（字）。"""
    dropped_characters: int = 0
    """分词器没有写进任何词元的字，多为空白（字）。"""
    unknown: int = 0
    """分词器不认识、写成 [UNK] 的词元。"""
    epochs: float = 0.0
    """训练了几遍（遍）；以下各项在训练填写之前都是 0。"""
    trained: int = 0
    """过了模型的词元，各轮合计，含特殊词元。"""
    padded: int = 0
    """填充。"""
    grid: int = 0
    """批量张量的全部位置。"""
    targets: int = 0
    """计损失的位置。"""
    inserted: int = 0
    """目标在训练时至多另添进行里的记号，各轮合计；不在 `trained` 里。"""

    def with_training(
        self, *, epochs: float, trained: int, padded: int, grid: int, targets: int
    ) -> "TokenLedger":
        """补上训练一段（训练前可填预计数），返回新的、已核对的账本。

        Args:
            epochs: 几遍。
            trained: 过了模型的词元，含特殊词元。
            padded: 填充的位置。
            grid: 各批量 B × T 之和。
            targets: 计损失的位置。

        Raises:
            CorpusError: 账不平。
        """
        ledger = replace(
            self,
            epochs=epochs,
            trained=trained,
            padded=padded,
            grid=grid,
            targets=targets,
        )
        ledger.check()
        return ledger

    def check(self) -> None:
        """核对各段。

        Raises:
            CorpusError: 有一段不平，或有负数。
        """
        lost = sum(self.dropped.values())
        _equal("语料词元", self.tokens_in, "放入 + 丢弃", self.placed + lost)
        _equal("行中词元", self.row_tokens, "放入 + 特殊", self.placed + self.special)
        _equal("批量的格子", self.grid, "过模型 + 填充", self.trained + self.padded)
        counts = [v for v in asdict(self).values() if isinstance(v, int | float)]
        if min([*counts, *self.dropped.values()]) < 0:
            raise _unbalanced("账上有负数")
        if self.targets > self.trained + self.inserted:
            raise _unbalanced(
                f"目标 {self.targets:,} 个，比过模型的词元 {self.trained:,} 个还多"
            )

    def as_dict(self) -> dict[str, Any]:
        """供 ledger.json 使用的字典，键即字段名。"""
        return asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """账表的各行：项目，以及数目与它占所在一段的份额。"""
        sections = [
            (self.tokens_in, "语料词元", self.tokens_in),
            (self.tokens_in, "　放入行中", self.placed),
            *((self.tokens_in, f"　丢弃：{why}", n) for why, n in self.dropped.items()),
            (self.tokens_in, "　其中 [UNK]", self.unknown),
            (self.row_tokens, "一遍的行中词元", self.row_tokens),
            (self.row_tokens, "　语料的", self.placed),
            (self.row_tokens, "　特殊词元", self.special),
        ]
        if self.grid:
            sections += [
                (self.grid, f"训练 {self.epochs:.3g} 遍的格子", self.grid),
                (self.grid, "　过了模型", self.trained),
                (self.grid, "　填充", self.padded),
            ]
        if self.targets > self.trained:  # 中间填补添的记号也计损失
            sections.append((self.grid, "　目标，含添进行里的记号", self.targets))
        elif self.targets:
            sections.append((self.grid, "　其中目标", self.targets))
        return [
            (label, f"{count:,}（{count / whole:.1%}）" if whole else f"{count:,}（—）")
            for whole, label, count in sections
        ]

    def __str__(self) -> str:
        """中文的账表，各项后注明占所在一段的份额。"""
        head = (
            f"语料 {self.documents:,} 篇、{self.characters:,} 字；"
            f"一遍 {self.num_rows:,} 行、{self.pieces:,} 片"
        )
        rows = self.rows()
        width = max(cell_len(amount) for _, amount in rows)
        return "\n".join([head, *(_line(*row, width) for row in rows)])


def combined(ledgers: Sequence[TokenLedger]) -> TokenLedger:
    """几份语料的账合成一份：各项相加，遍数除外（训练一段另填）。"""
    total: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for each in ledgers:
        amounts = asdict(each)
        dropped.update(amounts.pop("dropped"))
        total.update(amounts)
    ledger = TokenLedger(**total, dropped=dict(dropped))
    ledger.check()
    return ledger


def ledger_of(
    dataset: BlockDataset, *, dropped: Mapping[str, int] | None = None
) -> TokenLedger:
    """由词元库与计划算出语料与一遍两段。

    Args:
        dataset: 打包好的数据集。
        dropped: 有意不放入行中的词元，原因到数目。

    Raises:
        CorpusError: 有词元既没放入也没说明为何丢弃，或放了两次。
    """
    store, pieces = dataset.store, dataset.plan.pieces
    begin = store.offsets[pieces[:, 0]] + pieces[:, 1]  # (P,) 在词元库中的起点
    size = pieces[:, 2] - pieces[:, 1]
    order = np.argsort(begin, kind="stable")
    if (begin[order][1:] < (begin + size)[order][:-1]).any():
        raise _unbalanced("有词元放进了两行")  # 数目凑巧相等也骗不过去
    placed, row_tokens = int(size.sum()), int(dataset.lengths.sum())
    ledger = TokenLedger(
        tokens_in=store.num_tokens,
        placed=placed,
        dropped=dict(dropped or {}),
        special=row_tokens - placed,
        row_tokens=row_tokens,
        documents=len(store),
        pieces=len(pieces),
        num_rows=len(dataset),
        characters=store.meta["num_characters"],
        dropped_characters=store.meta["num_dropped_characters"],
        unknown=store.meta["num_unk"],
    )
    ledger.check()
    return ledger


def _equal(left: str, value: int, right: str, total: int) -> None:
    if value != total:
        raise _unbalanced(f"{left} {value:,} 个，而{right} {total:,} 个")


def _unbalanced(found: str) -> CorpusError:
    return CorpusError(
        found=found,
        expected="每个词元都有去处：放入、丢弃（注明原因）或填充，恰好一次",
        remedy="由同一个词元库重新打包；有意丢弃的写进 dropped",
    )


def _line(label: str, amount: str, width: int) -> str:
    """一行账：项目靠左，数目靠右。"""
    gap = max(1, 24 - cell_len(label)) + width - cell_len(amount)
    return f"  {label}{' ' * gap}{amount}"
