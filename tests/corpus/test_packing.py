"""打包：一个词元不少，一篇装得下的文档也不拆，行不超长。"""

import pickle
import time
from collections.abc import Sequence
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.corpus.packing import MIN_TAIL, BlockDataset, PackingPlan, plan_packing
from companion.corpus.tokens import Piece, TokenStore
from companion.errors import CorpusError

LENGTHS = st.lists(st.integers(0, 70), max_size=30)
CAPACITIES = st.integers(8, 40)
OVERHEADS = st.integers(0, 3)
CLS, SEP, EOS = 901, 902, 903


def _cost(row: Sequence[Piece], lengths: Sequence[int], piece: int, end: int) -> int:
    ends = sum(part.stop == lengths[part.document] for part in row)
    return sum(p.stop - p.start + piece for p in row) + ends * end


@given(LENGTHS, CAPACITIES, OVERHEADS, OVERHEADS, st.booleans())
def test_every_token_is_placed_once(
    lengths: list[int], capacity: int, piece: int, end: int, pack: bool
) -> None:
    """各片段恰好拼回每篇文档：不漏，不重，次序不乱，没有空片段。"""
    plan = plan_packing(
        lengths,
        capacity,
        pack=pack,
        overhead_per_piece=piece,
        overhead_per_document=end,
    )
    found: dict[int, list[tuple[int, int]]] = {}
    for part in sorted(part for row in plan for part in row):
        found.setdefault(part.document, []).append((part.start, part.stop))
    for document, length in enumerate(lengths):
        spans = found.get(document, [])
        tokens = [i for start, stop in spans for i in range(start, stop)]
        assert tokens == list(range(length))
        assert all(start < stop for start, stop in spans)


@given(LENGTHS, CAPACITIES, OVERHEADS, OVERHEADS, st.booleans())
def test_no_row_exceeds_the_capacity(
    lengths: list[int], capacity: int, piece: int, end: int, pack: bool
) -> None:
    """连同特殊词元，没有一行超过 block_size，也没有空行。"""
    plan = plan_packing(
        lengths,
        capacity,
        pack=pack,
        overhead_per_piece=piece,
        overhead_per_document=end,
    )
    for row in plan:
        assert 0 < _cost(row, lengths, piece, end) <= capacity
        assert pack or len(row) == 1


@given(LENGTHS, CAPACITIES, OVERHEADS, OVERHEADS)
def test_short_documents_are_never_split(
    lengths: list[int], capacity: int, piece: int, end: int
) -> None:
    """连同特殊词元装得进一行的文档只有一片；装不下的只切到刚好够。"""
    plan = plan_packing(
        lengths, capacity, overhead_per_piece=piece, overhead_per_document=end
    )
    counts = np.bincount(plan.pieces[:, 0], minlength=len(lengths))
    for count, length in zip(counts.tolist(), lengths, strict=True):
        assert count == (-(-(length + end) // (capacity - piece)) if length else 0)
        assert count <= 1 or length + piece + end > capacity


@given(st.lists(st.integers(1, 300), min_size=1, max_size=8), st.integers(20, 60))
def test_long_documents_have_no_tiny_tail(lengths: list[int], capacity: int) -> None:
    """长文的末片不短于 8 个词元：太短就与前一片匀开，别的片都是满的。"""
    plan = plan_packing(lengths, capacity, pack=False)
    for document, length in enumerate(lengths):
        sizes = [p.stop - p.start for (p,) in plan if p.document == document]
        assert all(size == capacity for size in sizes[:-2])
        assert length < MIN_TAIL or sizes[-1] >= MIN_TAIL


@given(LENGTHS, CAPACITIES, OVERHEADS)
def test_packing_equals_the_textbook(
    lengths: list[int], capacity: int, overhead: int
) -> None:
    """与最佳适配递减的定义逐行相符：由长到短，进剩余最小而够用的行。"""
    plan = plan_packing(lengths, capacity, overhead_per_piece=overhead)
    rows: list[int] = []  # 各行的剩余空间
    sizes = sorted((plan.pieces[:, 2] - plan.pieces[:, 1]).tolist(), reverse=True)
    for size in sizes:
        cost = size + overhead
        fitting = [space for space in rows if space >= cost]
        if fitting:
            rows[rows.index(min(fitting))] -= cost
        else:
            rows.append(capacity - cost)
    ours = [capacity - _cost(row, lengths, overhead, 0) for row in plan]
    assert sorted(ours) == sorted(rows)


def test_the_worked_example_of_the_docstring() -> None:
    """90 切成 64 + 26，26 与 30 同行。"""
    plan = plan_packing([50, 30, 20, 90], 64)
    assert plan == [
        [Piece(0, 0, 50)],
        [Piece(1, 0, 30), Piece(3, 64, 90)],
        [Piece(2, 0, 20)],
        [Piece(3, 0, 64)],
    ]


def test_a_document_that_fills_the_row_leaves_its_end_token_company() -> None:
    """正文恰好一行、EOS 却放不下时匀成两片，不会另起一行只放 EOS。"""
    plan = plan_packing([16], 16, overhead_per_document=1)
    assert list(plan) == [[Piece(0, 0, 8)], [Piece(0, 8, 16)]]
    assert list(plan_packing([15], 16, overhead_per_document=1)) == [[Piece(0, 0, 15)]]


def test_the_plan_is_deterministic() -> None:
    """同样的长度，同样的计划；行按最靠前的片段排列。"""
    lengths = np.random.default_rng(0).integers(0, 90, 500)
    plan = plan_packing(lengths, 64)
    assert plan == plan_packing(lengths.tolist(), 64)
    firsts = [row[0] for row in plan]
    assert firsts == sorted(firsts)
    assert all(row == sorted(row) for row in plan)


def test_a_row_without_room_is_refused() -> None:
    """放下 [CLS] 与 [SEP] 就没有地方的行，错误说出占了几个。"""
    with pytest.raises(CorpusError, match="block_size 为 3，而特殊词元要占 3 个"):
        plan_packing([5], 3, overhead_per_piece=2, overhead_per_document=1)


def test_no_documents_make_no_rows() -> None:
    """没有词元就没有行。"""
    assert len(plan_packing([], 8)) == 0
    assert len(plan_packing([0, 0], 8)) == 0
    assert len(plan_packing([0], 8, pack=False)) == 0


def test_packing_wastes_little_and_scales() -> None:
    """十万篇长短不一的文档几秒排完，空处不到 1%。"""
    lengths = np.random.default_rng(0).lognormal(4, 1, 100_000).astype(np.int64) + 1
    begin = time.perf_counter()
    plan = plan_packing(lengths, 512)
    assert time.perf_counter() - begin < 5
    assert lengths.sum() / (len(plan) * 512) > 0.99


def test_a_plan_behaves_like_a_list() -> None:
    """下标、切片、负数、越界与普通列表一样。"""
    rows = [[Piece(0, 0, 2), Piece(1, 0, 1)], [Piece(2, 0, 3)]]
    plan = PackingPlan.of(rows)
    assert plan[-1] == rows[-1]
    assert list(plan[:1]) == rows[:1]
    assert plan == rows
    assert plan != rows[:1]
    with pytest.raises(IndexError):
        plan[2]


STORE = TokenStore.from_ids(
    [[1, 2, 3, 4, 5], [11, 12], [21, 22, 23]],
    num_chars=[[1, 2, 1, 1, 1], [1, 0], [3, 1, 1]],
    word_ids=[[0, 0, 1, 1, 1], [0, 0], [0, -1, 1]],
)
ROWS = [[Piece(0, 0, 3), Piece(1, 0, 2)], [Piece(0, 3, 5)], [Piece(2, 0, 3)]]


def test_a_masked_row_wraps_every_piece() -> None:
    """[CLS] 与 [SEP] 包住每一片；特殊词元不占字，不属于词。"""
    dataset = BlockDataset(STORE, ROWS, prefix_ids=[CLS], suffix_ids=[SEP])
    feature = dataset[0]
    assert feature["input_ids"].tolist() == [CLS, 1, 2, 3, SEP, CLS, 11, 12, SEP]
    assert feature["document_starts"].tolist() == [0, 5]
    assert feature["special_tokens_mask"].nonzero()[0].tolist() == [0, 4, 5, 8]
    assert feature["num_chars"].tolist() == [0, 1, 2, 1, 0, 0, 1, 0, 0]
    assert feature["word_ids"].tolist() == [-1, 0, 0, 1, -1, -1, 2, 2, -1]
    assert feature["example_id"] == 0
    assert feature["epoch"] == 0
    for key in ("input_ids", "document_starts", "num_chars", "word_ids"):
        assert feature[key].dtype == np.int64
    assert feature["special_tokens_mask"].dtype == np.bool_


def test_a_causal_row_ends_each_document_once() -> None:
    """EOS 只跟在文档的最后一片之后；切开的前半没有。"""
    dataset = BlockDataset(STORE, ROWS, document_end_ids=[EOS])
    assert dataset[0]["input_ids"].tolist() == [1, 2, 3, 11, 12, EOS]
    assert dataset[1]["input_ids"].tolist() == [4, 5, EOS]
    assert dataset[1]["special_tokens_mask"].tolist() == [False, False, True]
    assert dataset.lengths.tolist() == [6, 3, 4]


def test_a_piece_that_begins_inside_a_word_begins_a_word() -> None:
    """从词的中间切开时，后半个词自成一词，编号从 0 起。"""
    assert BlockDataset(STORE, ROWS)[1]["word_ids"].tolist() == [0, 0]
    assert BlockDataset(STORE, ROWS)[2]["word_ids"].tolist() == [0, -1, 1]


def test_the_epoch_comes_with_the_index() -> None:
    """下标带轮次，样本就带轮次；其余与不带时相同。"""
    dataset = BlockDataset(STORE, ROWS)
    assert dataset[(3, 1)]["epoch"] == 3
    dataset.set_epoch(5)
    assert (dataset[1]["epoch"], dataset[(3, 1)]["epoch"]) == (5, 3)
    assert dataset[(3, 1)]["example_id"] == dataset[1]["example_id"] == 1
    assert dataset[np.int64(1)]["input_ids"].tolist() == [4, 5]


def test_a_dataset_ends() -> None:
    """越界是 IndexError，遍历会停。"""
    dataset = BlockDataset(STORE, ROWS)
    assert len(list(dataset)) == len(dataset) == 3
    with pytest.raises(IndexError):
        dataset[3]


def test_rows_without_words_have_no_word_ids() -> None:
    """没有切词的库，样本没有 word_ids。"""
    store = TokenStore.from_ids([[1, 2]])
    assert "word_ids" not in BlockDataset(store, [[Piece(0, 0, 2)]])[0]


def test_changing_a_row_leaves_the_store_alone() -> None:
    """整理器改动取出的数组，词元库与下一次取出的都不变。"""
    dataset = BlockDataset(STORE, ROWS)
    for value in dataset[0].values():
        if isinstance(value, np.ndarray):
            value[:] = 0
    assert dataset[0]["input_ids"].tolist() == [1, 2, 3, 11, 12]
    again = pickle.loads(pickle.dumps(dataset))
    assert again[0]["num_chars"].tolist() == [1, 2, 1, 1, 0]


@given(st.lists(st.lists(st.integers(0, 99), max_size=40), max_size=12), CAPACITIES)
def test_the_rows_hold_the_multiset_of_tokens(
    documents: list[list[int]], capacity: int
) -> None:
    """各行去掉特殊词元，正是语料的词元多重集；长度与预告的一致。"""
    store = TokenStore.from_ids(documents)
    plan = plan_packing(
        store.lengths, capacity, overhead_per_piece=2, overhead_per_document=1
    )
    dataset = BlockDataset(
        store, plan, prefix_ids=[CLS], suffix_ids=[SEP], document_end_ids=[EOS]
    )
    rows = list(dataset)
    assert [len(row["input_ids"]) for row in rows] == dataset.lengths.tolist()
    assert dataset.lengths.max(initial=0) <= capacity
    content = [row["input_ids"][~row["special_tokens_mask"]].tolist() for row in rows]
    assert sorted(chain(*content)) == sorted(chain(*documents))
    ends = sum((row["input_ids"] == EOS).sum() for row in rows)
    assert ends == sum(1 for ids in documents if ids)
