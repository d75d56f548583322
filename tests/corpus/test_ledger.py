"""账本：每个词元都有去处，不平就停。"""

import json
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from companion.corpus.packing import (
    BlockDataset,
    PackingPlan,
    TokenLedger,
    ledger_of,
    plan_packing,
)
from companion.corpus.tokens import Piece, TokenStore
from companion.errors import CorpusError

STORE = TokenStore.from_ids([[1, 2, 3, 4, 5], [11, 12], []])
WHOLE = [[Piece(0, 0, 3), Piece(1, 0, 2)], [Piece(0, 3, 5)]]


def dataset(rows: list[list[Piece]]) -> BlockDataset:
    return BlockDataset(
        STORE, rows, prefix_ids=[90], suffix_ids=[91], document_end_ids=[92]
    )


@given(
    st.lists(st.lists(st.integers(0, 9), max_size=50), max_size=10),
    st.integers(6, 40),
    st.booleans(),
)
def test_packing_always_balances(
    documents: list[list[int]], capacity: int, pack: bool
) -> None:
    """任何语料、任何行长，打包之后账都是平的，没有丢弃。"""
    store = TokenStore.from_ids(documents)
    plan = plan_packing(
        store.lengths,
        capacity,
        pack=pack,
        overhead_per_piece=2,
        overhead_per_document=1,
    )
    packed = BlockDataset(
        store, plan, prefix_ids=[90], suffix_ids=[91], document_end_ids=[92]
    )
    ledger = ledger_of(packed)
    assert ledger.tokens_in == ledger.placed == sum(map(len, documents))
    assert ledger.special == 2 * ledger.pieces + sum(1 for ids in documents if ids)
    assert ledger.row_tokens == sum(len(row["input_ids"]) for row in packed)


def test_the_ledger_of_a_small_corpus() -> None:
    """七个词元，三片两行，八个特殊词元。"""
    assert ledger_of(dataset(WHOLE)) == TokenLedger(
        tokens_in=7,
        placed=7,
        special=8,
        row_tokens=15,
        documents=3,
        pieces=3,
        num_rows=2,
        characters=7,
    )


def test_a_token_without_a_place_is_reported() -> None:
    """少放一行，账就不平；说明了丢弃的原因才平。"""
    with pytest.raises(CorpusError, match="语料词元 7 个，而放入 \\+ 丢弃 5 个"):
        ledger_of(dataset(WHOLE[:1]))
    ledger = ledger_of(dataset(WHOLE[:1]), dropped={"只取前一行": 2})
    assert ledger.dropped == {"只取前一行": 2}


def test_a_token_placed_twice_is_reported() -> None:
    """漏掉一段、重放另一段，数目凑巧相等也查得出。"""
    rows = [[Piece(0, 0, 3), Piece(1, 0, 2)], [Piece(0, 1, 3)]]
    assert PackingPlan.of(rows).pieces[:, 2].sum() == 8
    with pytest.raises(CorpusError, match="放进了两行"):
        ledger_of(dataset(rows))


def test_training_fills_in_a_new_ledger() -> None:
    """训练一段填进新的账本，旧的不变。"""
    ledger = ledger_of(dataset(WHOLE))
    trained = ledger.with_training(epochs=2, trained=30, padded=6, grid=36, targets=14)
    assert trained == replace(
        ledger, epochs=2, trained=30, padded=6, grid=36, targets=14
    )
    assert ledger.grid == 0
    with pytest.raises(FrozenInstanceError):
        trained.grid = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"placed": 6}, "语料词元"),
        ({"row_tokens": 14}, "行中词元"),
        ({"trained": 30, "padded": 6, "grid": 35}, "批量的格子"),
        ({"trained": 30, "grid": 30, "targets": 31}, "目标 31 个"),
        ({"trained": 3, "padded": -3}, "负数"),
        ({"placed": 8, "special": 7, "dropped": {"重复": -1}}, "负数"),
    ],
)
def test_each_section_is_checked(changes: dict[str, object], message: str) -> None:
    """语料、一遍、训练三段，以及负数，各自都会查出。"""
    ledger = replace(ledger_of(dataset(WHOLE)), **changes)
    with pytest.raises(CorpusError, match=message):
        ledger.check()


def test_the_table_names_every_amount() -> None:
    """账表是中文的，各项有份额，数字右端对齐。"""
    ledger = ledger_of(dataset(WHOLE[:1]), dropped={"只取前一行": 2})
    ledger = ledger.with_training(epochs=1, trained=9, padded=3, grid=12, targets=4)
    table = str(ledger)
    for text in ("放入行中", "71.4%", "丢弃：只取前一行", "28.6%", "填充", "25.0%"):
        assert text in table
    widths = {cell_len(line) for line in table.splitlines() if line.startswith("  ")}
    assert len(widths) == 1
    assert "填充" not in str(ledger_of(dataset(WHOLE)))


def test_an_empty_ledger_prints() -> None:
    """没有词元的账本也能打印，不会除以零。"""
    assert "—" in str(TokenLedger(tokens_in=0, placed=0))


def test_the_ledger_goes_to_json() -> None:
    """as_dict 可直接写成 ledger.json，再读回来一样。"""
    ledger = ledger_of(dataset(WHOLE[:1]), dropped={"只取前一行": 2})
    assert TokenLedger(**json.loads(json.dumps(ledger.as_dict()))) == ledger


def test_marks_put_in_by_the_objective_may_be_targets_too() -> None:
    """目标另添的记号也计损失：目标可以多于过模型的词元，但不多过添了的。"""
    ledger = replace(ledger_of(dataset(WHOLE)), inserted=4)
    filled = {"epochs": 1, "trained": 30, "padded": 0, "grid": 30}
    assert "记号" in ledger.with_training(**filled, targets=34).rows()[-1][0]
    with pytest.raises(CorpusError, match="目标 35 个"):
        ledger.with_training(**filled, targets=35)
