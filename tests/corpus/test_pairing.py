"""句对成行：三种写法与分词器自己写的相同，账平，半有半无的点名。"""

import numpy as np
import pytest

from companion.checkpoints.running import special_edges
from companion.checkpoints.tiny import tiny_tokenizer
from companion.corpus.document import Document
from companion.corpus.packing import ledger_of
from companion.corpus.pairing import both_sides, form_of, pair_rows
from companion.corpus.tokens import TokenStore
from companion.errors import CorpusError

PAIRS = [("狡兔死，走狗烹", "兔子死了，猎狗就被煮了"), ("三年春", "三年的春天，大旱")]
DOCUMENTS = [
    Document(source, f"对#{n}", "对.tsv", target)
    for n, (source, target) in enumerate(PAIRS, 1)
]


def store_of(tokenizer, pairs=PAIRS) -> TokenStore:
    sides = [side for pair in pairs for side in pair]
    return TokenStore.from_ids(
        [tokenizer(side, add_special_tokens=False).input_ids for side in sides]
    )


def rows_of(kind: str, form: str, ends=(), capacity: int = 64):
    tokenizer = tiny_tokenizer(kind)
    edges = special_edges(tokenizer)
    return tokenizer, pair_rows(store_of(tokenizer), form, edges, ends, capacity)


def test_segments_are_what_the_tokenizer_writes_for_a_pair():
    """两段的一行就是 tokenizer(源, 目标)，前缀到中间的 [SEP] 为止，特殊词元不占字。"""
    tokenizer, (rows, dropped) = rows_of("bert", "segments")
    assert not dropped
    for (source, target), row in zip(PAIRS, rows, strict=True):
        assert row["input_ids"].tolist() == tokenizer(source, target).input_ids
        assert row["prefix_length"] == len(tokenizer(source).input_ids)
        assert row["document_starts"].tolist() == [0]
        special = np.array(
            tokenizer(source, target, return_special_tokens_mask=True)[
                "special_tokens_mask"
            ],
            bool,
        )
        assert row["special_tokens_mask"].tolist() == special.tolist()
        assert row["num_chars"].tolist() == (~special).astype(int).tolist()


def test_documents_keep_their_own_edges():
    """两篇的一行是两次 tokenizer(…) 相接，第二篇的起点在册，没有 prefix_length。"""
    tokenizer, (rows, _) = rows_of("bert", "documents")
    for (source, target), row in zip(PAIRS, rows, strict=True):
        first = tokenizer(source).input_ids
        assert row["input_ids"].tolist() == first + tokenizer(target).input_ids
        assert row["document_starts"].tolist() == [0, len(first)]
        assert "prefix_length" not in row


def test_a_prefix_is_the_source_and_the_end_comes_once():
    """前缀的一行：源侧、目标侧、文档结尾相接；前缀恰是源侧。"""
    tokenizer = tiny_tokenizer("gpt2")
    end = tokenizer.eos_token_id
    _, (rows, _) = rows_of("gpt2", "prefix", ends=(end,))
    for number, (source, target) in enumerate(PAIRS):
        row = rows[3, number]
        first, second = (tokenizer(side).input_ids for side in (source, target))
        assert row["input_ids"].tolist() == [*first, *second, end]
        assert row["prefix_length"] == len(first)
        assert (row["epoch"], row["example_id"]) == (3, number)


def test_lengths_tell_the_truth():
    """登记的行长就是取出的行长。"""
    for form in ("documents", "segments", "prefix"):
        _, (rows, _) = rows_of("bert", form, ends=(1,))
        assert rows.lengths.tolist() == [len(row["input_ids"]) for row in rows]


def test_a_pair_too_long_for_a_row_is_dropped_whole_and_counted():
    """放不下的句对整个丢弃；丢的词元在账上，账是平的。"""
    tokenizer, (rows, dropped) = rows_of("bert", "segments", capacity=16)
    lost = sum(len(tokenizer(side, add_special_tokens=False).input_ids)
               for side in PAIRS[0])  # fmt: skip
    assert len(rows) == 1
    assert dropped == {"句对超过一行": lost}
    assert (
        ledger_of(rows, dropped=dropped).tokens_in
        == lost + rows.plan.pieces[:, 2].sum()
    )


def test_no_pair_that_fits_is_an_error():
    """一个也放不下：说出行长。"""
    with pytest.raises(CorpusError, match=r"没有一个放得进一行 5.*block_size"):
        rows_of("bert", "documents", capacity=5)


def test_a_corpus_is_all_pairs_or_none():
    """全有译文按句对读，全无按单语读；非要译文的目标没有就报错；半有半无点出头一篇。"""
    lone = Document("天下大势", "单#1", "单.txt")
    want = {"required": False, "objective": "prefix_lm"}
    assert form_of(DOCUMENTS, "prefix", **want) == "prefix"
    assert form_of([lone], "prefix", **want) is None
    assert form_of([*DOCUMENTS, lone], None, **want) is None
    with pytest.raises(CorpusError, match=r"3 篇里有 1 篇没有译文，头一篇是 单#1"):
        form_of([*DOCUMENTS, lone], "prefix", **want)
    with pytest.raises(CorpusError, match=r"单.txt 没有译文.*sample:pairs"):
        form_of([lone], "documents", required=True, objective="translation_lm")


def test_sides_alternate():
    """句对 i 成为第 2i 与第 2i + 1 篇。"""
    texts = [each.text for each in both_sides(DOCUMENTS)]
    assert texts == [side for pair in PAIRS for side in pair]
