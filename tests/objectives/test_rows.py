"""样本 → 张量行 → 批量：什么样的样本收得下，什么样的点名拒绝。"""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    BERT,
    CLS,
    CONTAINERS,
    DOCUMENT_LENGTHS,
    FEW,
    MASK,
    PLAIN_IDS,
    SEP,
    UNK,
    masked_features,
    packed_features,
    same_feature,
    starts_of,
    tokenizer_of,
)

from companion.batch import IGNORE_INDEX
from companion.errors import ObjectiveError
from companion.objectives.attention import (
    PADDING,
    additive_mask,
    restarting_positions,
    visible_within_documents,
)
from companion.objectives.collate import collate, make_example
from companion.objectives.rows import Row, edge_ids_of, read_row, special_ids_of

SPECIALS, EDGES = special_ids_of(BERT), edge_ids_of(BERT)
A, B, C = PLAIN_IDS[:3]


def assert_same_row(first: Row, second: Row) -> None:
    assert vars(first).keys() == vars(second).keys()
    for name, value in vars(first).items():
        if name not in ("example_id", "name"):
            np.testing.assert_array_equal(value, getattr(second, name), strict=True)


@FEW
@given(st.one_of(masked_features(), packed_features()))
def test_reading_leaves_the_example_as_it_was(feature):
    """读一个样本不改动它，读出的数组也不与它共用内存。"""
    before = copy.deepcopy(feature)
    row = read_row(feature, SPECIALS, EDGES)
    row.input_ids.fill(0)
    row.special.fill(True)
    assert same_feature(feature, before)


def test_every_container_reads_the_same():
    """列表、numpy 数组（int32 也可）、张量，读出来都一样，一律 int64。"""
    rows = [
        read_row(
            {
                "input_ids": contain([CLS, A, B, SEP]),
                "word_ids": contain([-1, 0, 0, -1]),
                "special_tokens_mask": contain([1, 0, 0, 1]),
                "document_starts": contain([0]),
                "example_id": np.int64(2**40),
                "epoch": np.int64(3),
            },
            SPECIALS,
            EDGES,
        )
        for contain in CONTAINERS
    ]
    for row in rows[1:]:
        assert_same_row(row, rows[0])
    assert rows[0].input_ids.dtype == np.int64
    assert (rows[0].example_id, rows[0].epoch) == (2**40, 3)


@FEW
@given(masked_features(), st.integers(0, 5), st.integers(0, 5))
def test_padding_already_in_the_example_is_removed(feature, left, right):
    """样本已经补齐（两侧都可以）时，按它的 attention_mask 还原成没补过的样子。"""
    ids = list(map(int, feature["input_ids"]))
    padded = {
        "input_ids": [0] * left + ids + [0] * right,
        "attention_mask": [0] * left + [1] * len(ids) + [0] * right,
        "word_ids": [-1] * left + [*range(len(ids))] + [-1] * right,
        "document_starts": [left],
    }
    plain = {"input_ids": ids, "word_ids": [*range(len(ids))], "document_starts": [0]}
    assert_same_row(read_row(padded, SPECIALS, EDGES), read_row(plain, SPECIALS, EDGES))


def test_special_tokens_are_found_by_id_and_by_mask():
    """[UNK] 总算特殊词元，哪怕样本的掩码没有标它；掩码可以再添别的。"""
    feature = {"input_ids": [CLS, A, UNK, B, SEP]}
    assert read_row(feature, SPECIALS, EDGES).special.tolist() == [1, 0, 1, 0, 1]
    feature["special_tokens_mask"] = [1, 0, 0, 1, 1]
    assert read_row(feature, SPECIALS, EDGES).special.tolist() == [1, 0, 1, 1, 1]


def test_the_output_of_a_tokenizer_is_an_example():
    """`tokenizer(文本)` 的结果可以直接读。"""
    row = read_row(BERT("良弓藏", return_special_tokens_mask=True), SPECIALS, EDGES)
    assert row.input_ids.tolist() == BERT("良弓藏")["input_ids"]
    assert row.special.tolist() == [1, 0, 0, 0, 1]
    assert (row.epoch, row.word_ids, row.prefix_lengths) == (0, None, None)


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        ({"input_ids": [], "example_id": 41}, "样本 41 没有词元"),
        ({"input_ids": []}, "（无编号） 没有词元"),
        ({"input_ids": [A, B], "attention_mask": [0, 0]}, "没有词元"),
        ({"text": "良弓藏"}, "没有 input_ids"),
        ({"input_ids": [[A, B]]}, "input_ids 是 2 维"),
        ({"input_ids": [A, B], "word_ids": [0]}, "word_ids 长 1，input_ids 长 2"),
        ({"input_ids": [A], "special_tokens_mask": [0, 0]}, "special_tokens_mask 长 2"),
        ({"input_ids": [A, B], "attention_mask": [1]}, "attention_mask 长 1"),
        ({"input_ids": [A, B], "document_starts": []}, r"document_starts 是 \[\]"),
        ({"input_ids": [A, B], "document_starts": [1]}, r"document_starts 是 \[1\]"),
        ({"input_ids": [A, B], "document_starts": [0, 2]}, "共 2 个词元"),
        ({"input_ids": [A, B], "document_starts": [0, -1]}, r"\[0, -1\]"),
        ({"input_ids": [A, B, C], "document_starts": [0, 2, 1]}, r"\[0, 2, 1\]"),
        ({"input_ids": [A, B, C], "document_starts": [0, 1, 1]}, r"\[0, 1, 1\]"),
    ],
)
def test_an_unreadable_example_is_named(feature, message):
    """空的、没分词的、长短不一的、文档起点不合的，各有一句话说清。"""
    with pytest.raises(ObjectiveError, match=message):
        read_row(feature, SPECIALS, EDGES)


@FEW
@given(DOCUMENT_LENGTHS)
def test_every_token_knows_its_document(lengths):
    """行内第几篇，与逐个数出来的相同。"""
    feature = {"input_ids": [A] * sum(lengths), "document_starts": starts_of(lengths)}
    row = read_row(feature, SPECIALS, EDGES)
    assert row.document_index.tolist() == naive_documents(lengths, sum(lengths))


@pytest.mark.parametrize(
    ("ids", "bodies"),
    [
        ([CLS, A, B, SEP, CLS, C, SEP], [(1, 3), (5, 6)]),
        ([A, SEP, B, SEP, UNK, C, UNK], [(0, 3), (4, 7)]),  # 文中的 [SEP]、文末的 [UNK]
        ([CLS, SEP, SEP, SEP, A, B, C], [(4, 4), (4, 7)]),  # 没有正文的一篇
    ],
)
def test_the_body_of_a_document_lies_between_its_edges(ids, bodies):
    """正文是首尾两个普通词元之间的一段；没有普通词元的，正文为空，在文末。"""
    row = read_row({"input_ids": ids, "document_starts": [0, 4]}, SPECIALS, EDGES)
    assert [(each.left, each.right) for each in row.documents] == bodies
    assert [(each.start, each.stop) for each in row.documents] == [(0, 4), (4, 7)]


def test_an_unknown_token_that_is_also_the_end_is_an_edge():
    """GPT-2 的“未知”就是文档结尾：在文末不算正文。BERT 的 [UNK] 算。"""
    gpt2 = tokenizer_of("gpt2")
    assert gpt2.eos_token_id in edge_ids_of(gpt2)
    assert UNK not in edge_ids_of(BERT)
    assert MASK not in edge_ids_of(BERT)


def test_the_noise_is_a_function_of_seed_epoch_example_and_document():
    """四个数相同随机数就相同，换任何一个、两个对调都不同；负的种子也收。"""
    keys = [(s, e, i, d) for s in (-1, 0, 1, 2**40) for e in range(3)
            for i in range(20) for d in range(3)]  # fmt: skip
    drawn = {}
    for seed, epoch, example, document in keys:
        feature = {"input_ids": [A], "epoch": epoch, "example_id": example}
        rngs = [
            read_row(feature, SPECIALS, EDGES).rng(seed, document) for _ in range(2)
        ]
        first, again = (tuple(rng.random(2)) for rng in rngs)
        assert first == again
        drawn[first] = seed
    assert len(drawn) == len(keys)


def test_examples_without_a_number_draw_from_the_global_stream():
    """没有编号的样本由 torch 的全局随机数决定：定了种子就重现，否则各次不同。"""
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        rows = [read_row({"input_ids": [A]}, SPECIALS, EDGES) for _ in range(2)]
        drawn.append([row.rng(0).random() for row in rows])
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0][0] != drawn[0][1]


def naive_documents(lengths: list[int], length: int) -> list[int]:
    documents = [number for number, size in enumerate(lengths) for _ in range(size)]
    return documents + [PADDING] * (length - len(documents))


def build(lengths: list[list[int]], causal: bool, multiple: int | None = None):
    counts = [np.arange(1, sum(row) + 1) for row in lengths]
    documents = [np.array(naive_documents(row, sum(row))) for row in lengths]
    return collate(
        [
            make_example(count, -count, documents=each)
            for count, each in zip(counts, documents, strict=True)
        ],
        pad_token_id=0,
        causal=causal,
        pad_to_multiple_of=multiple,
    )


@FEW
@given(st.lists(DOCUMENT_LENGTHS, min_size=1, max_size=4), st.booleans())
def test_rows_become_one_batch(lengths, causal):
    """输入与标签各自补齐；有一行装了几篇文档，才用四维掩码与从头数的位置。"""
    batch = build(lengths, causal)
    sizes = [sum(row) for row in lengths]
    shape = (len(lengths), max(sizes))
    real = torch.arange(shape[1]) < torch.tensor(sizes)[:, None]
    count = torch.arange(1, shape[1] + 1).expand(shape)
    assert torch.equal(batch["input_ids"], torch.where(real, count, 0))
    assert torch.equal(batch["labels"], torch.where(real, -count, IGNORE_INDEX))
    if all(len(row) == 1 for row in lengths):
        assert batch.keys() == {"input_ids", "labels", "attention_mask"}
        assert torch.equal(batch["attention_mask"], real.long())
        return
    documents = torch.tensor([naive_documents(row, shape[1]) for row in lengths])
    visible = visible_within_documents(documents, causal=causal)
    assert torch.equal(batch["attention_mask"], additive_mask(visible))
    assert torch.equal(batch["position_ids"], restarting_positions(documents))


@FEW
@given(
    st.lists(DOCUMENT_LENGTHS, min_size=1, max_size=4),
    st.integers(1, 16),
    st.booleans(),
)
def test_a_padding_multiple_adds_only_trailing_pads(lengths, multiple, causal):
    """行长取到倍数，除了尾部的填充什么都没变，掩码的左上角也没变。"""
    plain, padded = build(lengths, causal), build(lengths, causal, multiple)
    length = plain["input_ids"].shape[1]
    assert padded["input_ids"].shape[1] % multiple == 0
    assert torch.equal(padded["input_ids"][:, :length], plain["input_ids"])
    assert (padded["input_ids"][:, length:] == 0).all()
    assert torch.equal(padded["labels"][:, :length], plain["labels"])
    assert (padded["labels"][:, length:] == IGNORE_INDEX).all()
    mask = padded["attention_mask"]
    assert torch.equal(
        mask[..., :length, :length] if mask.dim() == 4 else mask[:, :length],
        plain["attention_mask"],
    )
    if mask.dim() == 2:
        assert (mask[:, length:] == 0).all()
    else:
        assert (mask[..., :length, length:] < 0).all()
