"""句序判断：两段是原文，一半对调，只有一句的不造假，掩码照旧。"""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    BERT,
    CLS,
    FEW,
    PLAIN_IDS,
    SEP,
    SPECIAL_IDS,
    bodies,
    same_feature,
    tokenizer_of,
    within_five_sigma,
)

from companion.batch import IGNORE_INDEX
from companion.errors import ObjectiveError
from companion.objectives.masked_lm import MaskedLMCollator
from companion.objectives.noise import masking_budget
from companion.objectives.sentence_order import SentenceOrderCollator

(STOP,) = BERT("。", add_special_tokens=False)["input_ids"]
ENDS = set(BERT("。！？；”", add_special_tokens=False)["input_ids"])
LETTERS = [i for i in PLAIN_IDS if BERT.decode([i]) not in "。！？；…!?”"]


def feature_of(text: str, example: int = 0) -> dict:
    return {"input_ids": BERT(text)["input_ids"], "example_id": example}


@st.composite
def features(draw):
    """[CLS] 几句话 [SEP]，夹有 [UNK]、[MASK]。"""
    sentences = draw(st.lists(bodies(1, 8), max_size=5))
    body = [token for sentence in sentences for token in (*sentence, STOP)]
    feature = {
        "input_ids": [CLS, *body, SEP],
        "example_id": draw(st.integers(0, 2**40)),
        "epoch": draw(st.integers(0, 5)),
    }
    if draw(st.booleans()):
        feature["word_ids"] = [-1, *range(len(body)), -1]
    return feature


BATCHES = st.lists(features(), min_size=1, max_size=4)


def pieces(collator: SentenceOrderCollator, batch: dict, row: int):
    """一行的原文（标签填回去）按片段编号分成两段，不带首尾与填充。"""
    real = batch["attention_mask"][row].bool()
    ids, labels = batch["input_ids"][row][real], batch["labels"][row][real]
    whole = torch.where(labels != IGNORE_INDEX, labels, ids)
    second = batch["token_type_ids"][row][real] == 1
    return whole[~second][1:-1].tolist(), whole[second][:-1].tolist()


@FEW
@given(BATCHES, st.integers(0, 99))
def test_the_two_pieces_in_their_order_are_the_text(rows, seed):
    """标签 0：前段接后段是原文；1：后段接前段是原文；−100：恰有不足两句，一字不动。

    切口总在句末；特殊词元都在原位。
    """
    collator = SentenceOrderCollator(BERT, seed=seed)
    batch = collator(rows)
    for row, feature in enumerate(rows):
        body = feature["input_ids"][1:-1]
        order = int(batch["sentence_order_label"][row])
        first, second = pieces(collator, batch, row)
        if order == IGNORE_INDEX:
            assert not collator.has_sentences(feature)
            real = int(batch["attention_mask"][row].sum())
            assert real == len(feature["input_ids"])
            assert not batch["token_type_ids"][row].any()
            continue
        assert collator.has_sentences(feature)
        earlier, later = (second, first) if order else (first, second)
        assert earlier + later == body
        assert earlier[-1] in ENDS  # 正文里也会抽到别的句末标点
        assert later


@FEW
@given(BATCHES, st.integers(0, 99))
def test_special_tokens_are_never_hidden(rows, seed):
    """插入的 [SEP] 与原有的特殊词元都不遮、不猜；个数是整行的 15%。"""
    batch = SentenceOrderCollator(BERT, seed=seed)(rows)
    chosen = batch["labels"] != IGNORE_INDEX
    specials = torch.tensor(sorted(SPECIAL_IDS))
    assert not torch.isin(batch["labels"][chosen], specials).any()
    for row, feature in enumerate(rows):
        candidates = sum(i not in SPECIAL_IDS for i in feature["input_ids"])
        size = int(batch["attention_mask"][row].sum())
        assert chosen[row].sum() == masking_budget(size, candidates, 0.15)


@FEW
@given(BATCHES, st.integers(0, 99))
def test_neighbours_change_nothing_and_examples_stay(rows, seed):
    """与谁一批都一样；样本与全局随机数不动；再来一次相同。"""
    collator = SentenceOrderCollator(BERT, seed=seed, pad_to_multiple_of=8)
    before, state = copy.deepcopy(rows), torch.get_rng_state()
    batch, again = collator(rows), collator(rows)
    assert all(map(same_feature, rows, before))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(batch[key], again[key]) for key in batch)
    for row, feature in enumerate(rows):
        alone = SentenceOrderCollator(BERT, seed=seed)([feature])
        assert (
            int(alone["sentence_order_label"][0]) == batch["sentence_order_label"][row]
        )
        for key in ("input_ids", "labels", "token_type_ids", "attention_mask"):
            size = alone[key].shape[1]
            assert torch.equal(batch[key][row, :size], alone[key][0])


def test_half_are_swapped_and_every_gap_is_equally_likely():
    """900 个四句的样本：一半对调，三个缝各占三分之一。"""
    text = "王。臣。民。兵。"
    collator = SentenceOrderCollator(BERT, mlm_probability=0.0)
    batch = collator([feature_of(text, example) for example in range(900)])
    orders = batch["sentence_order_label"]
    assert within_five_sigma(int(orders.sum()), 900, 0.5)
    first = (batch["token_type_ids"] == 0).sum(1) - 2  # 前段的词元数，填充已无
    earlier = torch.where(orders == 0, first, 8 - first)
    for size in (2, 4, 6):
        assert within_five_sigma(int((earlier == size).sum()), 900, 1 / 3)


def test_the_order_does_not_tell_where_the_masks_are():
    """对调与否和遮哪些词元是两股随机数：对调的行里，各位置遮住的机会不变。"""
    collator = SentenceOrderCollator(BERT)
    batch = collator([feature_of("王。臣。", example) for example in range(900)])
    swapped = batch["sentence_order_label"] == 1
    first = batch["labels"][:, 1] != IGNORE_INDEX
    share = first.float().mean().item()
    assert within_five_sigma(int(first[swapped].sum()), int(swapped.sum()), share)


def test_the_example_of_the_docstring():
    """三句话，在第一句之后切开：两种次序都出现，就是文档里写的两行。"""
    text = "臣光曰。天子之职莫大于礼。礼莫大于分。"
    collator = SentenceOrderCollator(BERT, mlm_probability=0.0)
    seen = set()
    for example in range(60):
        batch = collator([feature_of(text, example)])
        first, second = pieces(collator, batch, 0)
        words = [BERT.decode(part).replace(" ", "") for part in (first, second)]
        seen.add((int(batch["sentence_order_label"][0]), *words))
    assert (0, "臣光曰。", "天子之职莫大于礼。礼莫大于分。") in seen
    assert (1, "天子之职莫大于礼。礼莫大于分。", "臣光曰。") in seen
    assert len(seen) == 4


def test_a_single_sentence_still_trains_the_masks():
    """一句话的行：句序 −100，掩码与 masked_lm 完全相同。"""
    feature = feature_of("天子之职莫大于礼", 7)
    batch = SentenceOrderCollator(BERT, seed=3)([feature])
    plain = MaskedLMCollator(BERT, seed=3)([feature])
    assert batch["sentence_order_label"].tolist() == [IGNORE_INDEX]
    assert all(torch.equal(batch[key], plain[key]) for key in plain)


def test_the_origin_points_into_the_given_row():
    """每个标签都指得回原行；插入的 [SEP] 没有来处。"""
    feature = feature_of("王使人告于诸侯。诸侯皆来会。大夫以兵从之。", 3)
    ids = torch.tensor(feature["input_ids"])
    for epoch in range(8):
        collator = SentenceOrderCollator(BERT, mlm_probability=1.0)
        (example,) = collator.examples([feature | {"epoch": epoch}])
        assert (example.origin == -1).sum() == 1
        labelled = example.labels != IGNORE_INDEX
        assert torch.equal(ids[example.origin[labelled]], example.labels[labelled])


def test_a_full_row_leaves_room_for_the_separator():
    """512 的一行只装 511 个原文的词元，切开后恰好装满。"""
    collator = SentenceOrderCollator(BERT)
    capacity = collator.row_capacity(512, 2)
    body = ([*LETTERS[:9], STOP] * 60)[: capacity - 2]
    batch = collator([{"input_ids": [CLS, *body, SEP], "example_id": 0}])
    assert batch["input_ids"].shape == (1, 512)


def test_bert_calls_the_label_by_another_name():
    """BERT、ERNIE 的标签叫 next_sentence_label。"""
    collator = SentenceOrderCollator(BERT, order_label="next_sentence_label")
    batch = collator([feature_of("王。臣。")])
    assert "next_sentence_label" in batch
    assert "sentence_order_label" not in batch


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        (
            {"input_ids": [CLS, 9, SEP, CLS, 9, SEP], "document_starts": [0, 3]},
            r"2 篇文档.*packing=false",
        ),
        ({"input_ids": [PLAIN_IDS[0], PLAIN_IDS[1]]}, r"没有 \[CLS\]"),
    ],
)
def test_rows_that_cannot_be_ordered_are_refused(feature, message):
    """几篇文档、没有 [CLS] 的行点名报错。"""
    with pytest.raises(ObjectiveError, match=message):
        SentenceOrderCollator(BERT)([feature | {"example_id": 5}])


def test_a_tokenizer_without_a_separator_is_refused():
    """没有 [SEP] 的分词器不行；连 [MASK] 也没有的先报那个。"""
    with pytest.raises(ObjectiveError, match="掩码词元"):
        SentenceOrderCollator(tokenizer_of("gpt2"))
    tokenizer = copy.deepcopy(tokenizer_of("bert"))
    tokenizer.sep_token = None
    with pytest.raises(ObjectiveError, match="sep_token"):
        SentenceOrderCollator(tokenizer)
