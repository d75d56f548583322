"""句对成行：一行一个句对，源侧在前，目标侧在后。

三种写法，P、S 是分词器加在两头的特殊词元，E 是文档结尾：

    documents   P 源 S P 目标 S    两篇文档，各有首尾（XLM 的句对）
    segments    P 源 S 目标 S      两段，中间一个 [SEP]（BERT、UniLM）
    prefix      P 源 目标 E S      一篇，源侧是前缀（前缀语言模型）

后两种的样本带 `prefix_length`：源侧连同它前后的特殊词元有多长。词元库里，句对 i 是第 2i
与第 2i + 1 篇。一行放不下的句对整个丢弃，记进账本：截短了，译文就不再是译文。

形状字母：D 文档，N 句对，T 一行之内的词元。
"""

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from companion.corpus.document import Document
from companion.corpus.documents import Documents, sides_of
from companion.corpus.packing import BlockDataset, PackingPlan
from companion.errors import CorpusError

if TYPE_CHECKING:
    from companion.batch import Feature
    from companion.corpus.tokens import TokenStore

PairForm = Literal["documents", "segments", "prefix"]
Frame = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def form_of(
    documents: Sequence[Document],
    form: PairForm | None,
    *,
    required: bool,
    objective: str,
) -> PairForm | None:
    """这份语料按句对读（返回写法），还是按单语读（None）。

    Args:
        documents: 语料。
        form: 训练目标的写法；None 的只读 `text` 一侧，有没有译文都一样。
        required: 没有译文就训练不了。
        objective: 训练目标的键，写进消息。

    Raises:
        CorpusError: 有的有译文、有的没有；或一篇译文也没有而目标非要不可。
    """
    if form is None:
        return None
    first, lacking = None, 0
    for each in documents:
        if not each.target:
            first, lacking = first or each, lacking + 1
    if first is None:
        return form
    if lacking < len(documents):
        raise CorpusError(
            found=f"{len(documents)} 篇里有 {lacking} 篇没有译文，"
            f"头一篇是 {first.id}（{first.source}）",
            expected=f"{objective} 的语料要么篇篇有译文，要么都没有",
            remedy="补上或删去没有译文的各篇；两种语料分开训练",
        )
    if required:
        raise CorpusError(
            found=f"语料 {first.source} 没有译文",
            expected=f"{objective} 用句对：jsonl 的 source 与 target，两列的 tsv，"
            "或 sample:pairs、tongjian:pairs",
            remedy="换一份句对；没有译文的语料改用 masked_lm",
        )
    return None


def readable_sides(
    documents: Sequence[Document],
    form: PairForm | None,
    *,
    required: bool,
    objective: str,
) -> tuple[Sequence[Document], PairForm | None]:
    """要分词的文档（句对拆成两侧），与它们成行的写法；参数与错误同 `form_of`。"""
    chosen = form_of(documents, form, required=required, objective=objective)
    return (documents if chosen is None else both_sides(documents)), chosen


def both_sides(documents: Sequence[Document]) -> Sequence[Document]:
    """句对 → 源、目标相间的单语文档；句对 i 成为第 2i 与第 2i + 1 篇。"""
    if isinstance(documents, Documents):
        return documents.sides()
    return [side for each in documents for side in sides_of(each)]


def plan_pairs(
    lengths: NDArray[np.int64], capacity: int, *, num_edges: int
) -> tuple[PackingPlan, dict[str, int]]:
    """一行一个句对；放不下的、缺一侧的丢弃。

    Args:
        lengths: 各侧的词元数，源、目标相间，(2N,)。
        capacity: 一行至多多少词元，含特殊词元。
        num_edges: 一行的特殊词元数。

    Returns:
        计划，一行两片；没有成行的，原因 → 词元数。

    Raises:
        CorpusError: 一个句对也放不下。
    """
    sides = lengths.reshape(-1, 2)  # (N, 2)
    both = sides.sum(1)
    empty = (sides == 0).any(1)
    long = ~empty & (both + num_edges > capacity)
    kept = np.flatnonzero(~empty & ~long)
    if len(kept) == 0:
        raise CorpusError(
            found=f"{len(sides)} 个句对，没有一个放得进一行 {capacity} 个词元",
            expected="至少一个句对，两侧都有词元",
            remedy="调大 block_size，或先把长句对按句切开",
        )
    pieces = np.zeros((len(kept), 2, 3), np.int32)
    pieces[:, :, 0] = 2 * kept[:, None] + np.arange(2)
    pieces[:, :, 2] = sides[kept]
    dropped = {"句对超过一行": int(both[long].sum()), "缺一侧": int(both[empty].sum())}
    plan = PackingPlan(pieces.reshape(-1, 3), 2 * np.arange(len(kept) + 1))
    return plan, {reason: count for reason, count in dropped.items() if count}


class PairDataset(BlockDataset):
    """一行一个句对的数据集；下标与样本同 `BlockDataset`，账本里一侧算一篇。

    Args:
        store: 词元库，源、目标相间（`both_sides`）。
        plan: `plan_pairs` 的计划。
        form: 写法。
        frame: 源侧之前、两侧之间、目标侧之后的特殊词元。
    """

    def __init__(
        self, store: "TokenStore", plan: PackingPlan, form: PairForm, frame: Frame
    ) -> None:
        super().__init__(store, plan)
        self.form = form
        self.frame = frame
        self.lengths = self.lengths + sum(map(len, frame))

    def __getitem__(self, index: int | tuple[int, int]) -> "Feature":
        """取一行；比 `BlockDataset` 的多一项 `prefix_length`（`documents` 没有）。"""
        epoch, row = index if isinstance(index, tuple) else (self.epoch, index)
        row = range(len(self))[operator.index(row)]
        source, target = self.plan[row]
        before, between, after = (np.array(ids, np.int64) for ids in self.frame)

        def framed(
            first: NDArray[Any], second: NDArray[Any], edge: int | None
        ) -> NDArray[Any]:
            """两侧套上特殊词元，或在特殊词元处填 `edge`。"""
            edges = [
                ids if edge is None else np.full(len(ids), edge, first.dtype)
                for ids in (before, between, after)
            ]
            return np.concatenate([edges[0], first, edges[1], second, edges[2]])

        store = self.store
        feature: Feature = {
            "input_ids": framed(store.tokens(source), store.tokens(target), None),
            "document_starts": np.zeros(1, np.int64),
            "special_tokens_mask": framed(
                np.zeros(source.stop, np.bool_), np.zeros(target.stop, np.bool_), True
            ),
            "num_chars": framed(store.characters(source), store.characters(target), 0),
            "example_id": row,
            "epoch": operator.index(epoch),
        }
        if self.form == "documents":
            second = len(before) + source.stop + len(after)
            feature["document_starts"] = np.array([0, second], np.int64)
        else:
            feature["prefix_length"] = len(before) + source.stop + len(between)
        return feature


class PairRows(NamedTuple):
    """句对的数据集与丢弃的账。"""

    rows: PairDataset
    dropped: dict[str, int]
    """没有成行的，原因 → 词元数。"""


def pair_rows(
    store: "TokenStore",
    form: PairForm,
    edges: tuple[Sequence[int], Sequence[int]],
    ends: Sequence[int],
    capacity: int,
) -> PairRows:
    """词元库 → 一行一个句对。

    Args:
        store: 词元库，源、目标相间（`both_sides`）。
        form: 写法。
        edges: P 与 S。
        ends: E；只有 `prefix` 的写法用它。
        capacity: 一行至多多少词元，含特殊词元。

    Raises:
        CorpusError: 一个句对也放不下。
    """
    prefix, suffix = (tuple(ids) for ids in edges)
    between: dict[PairForm, tuple[int, ...]] = {
        "documents": (*suffix, *prefix),
        "segments": suffix,
        "prefix": (),
    }
    after = (*ends, *suffix) if form == "prefix" else suffix
    frame = prefix, between[form], after
    plan, dropped = plan_pairs(store.lengths, capacity, num_edges=sum(map(len, frame)))
    return PairRows(PairDataset(store, plan, form, frame), dropped)
