"""翻译语言建模：两边都遮，位置重数，语言分明，两句互相看得见。"""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    BERT,
    CLS,
    FEW,
    SEP,
    SPECIAL_IDS,
    bodies,
    same_feature,
    tokenizer_of,
    within_five_sigma,
)

from companion.batch import IGNORE_INDEX
from companion.checkpoints.running import adapt_batch
from companion.checkpoints.tiny import tiny_model
from companion.errors import ObjectiveError
from companion.losses.target_head import target_losses
from companion.objectives.noise import masking_budget
from companion.objectives.translation_lm import TranslationLMCollator, pair_feature

SOURCE, TARGET = "臣闻天子之职莫大于礼", "语言模型先读很多文字，再学会猜出下一个字。"


@st.composite
def pairs(draw):
    """[CLS] 文言 [SEP] [CLS] 白话 [SEP]；后一句有时没有 [CLS]。"""
    first = [CLS, *draw(bodies(0, 12)), SEP]
    second = [*draw(bodies(0, 12)), SEP]
    if draw(st.booleans()):
        second = [CLS, *second]
    feature = {
        "input_ids": first + second,
        "document_starts": [0, len(first)],
        "example_id": draw(st.integers(0, 2**40)),
        "epoch": draw(st.integers(0, 5)),
    }
    if draw(st.booleans()):
        feature["word_ids"] = [
            -1 if i in SPECIAL_IDS else n for n, i in enumerate(feature["input_ids"])
        ]
    return feature


BATCHES = st.lists(pairs(), min_size=1, max_size=4)


@FEW
@given(BATCHES, st.integers(0, 99))
def test_both_sides_are_masked_and_the_text_can_be_restored(rows, seed):
    """两边各选自己的 15%，至少一个；特殊词元不动；标签与输入合起来是原文。"""
    batch = TranslationLMCollator(BERT, seed=seed)(rows)
    for row, feature in enumerate(rows):
        ids = feature["input_ids"]
        labels = batch["labels"][row, : len(ids)]
        shown = batch["input_ids"][row, : len(ids)]
        assert torch.where(labels != IGNORE_INDEX, labels, shown).tolist() == ids
        middle = feature["document_starts"][1]
        for side in (slice(0, middle), slice(middle, None)):
            candidates = sum(i not in SPECIAL_IDS for i in ids[side])
            chosen = labels[side] != IGNORE_INDEX
            assert chosen.sum() == masking_budget(len(ids[side]), candidates, 0.15)
            assert not set(labels[side][chosen].tolist()) & SPECIAL_IDS


@FEW
@given(BATCHES, st.integers(0, 99))
def test_positions_restart_and_languages_differ(rows, seed):
    """每句的位置都从 0 数起；前一句是语言 3，后一句是语言 1；掩码是二维的。"""
    collator = TranslationLMCollator(
        BERT, seed=seed, num_languages=4, language_ids=(3, 1)
    )
    batch = collator(rows)
    assert batch["attention_mask"].dim() == 2
    assert {value.dtype for value in batch.values()} == {torch.int64}
    for row, feature in enumerate(rows):
        middle, size = feature["document_starts"][1], len(feature["input_ids"])
        positions = [*range(middle), *range(size - middle)]
        assert batch["position_ids"][row, :size].tolist() == positions
        sides = [0] * middle + [1] * (size - middle)
        assert batch["token_type_ids"][row, :size].tolist() == sides
        assert batch["langs"][row, :size].tolist() == [(3, 1)[side] for side in sides]
        assert batch["attention_mask"][row].sum() == size


@FEW
@given(BATCHES, st.integers(0, 99))
def test_neighbours_change_nothing_and_examples_stay(rows, seed):
    """与谁一批都一样；样本与全局随机数不动；再来一次相同。"""
    collator = TranslationLMCollator(BERT, seed=seed, num_languages=2)
    before, state = copy.deepcopy(rows), torch.get_rng_state()
    batch, again = collator(rows), collator(rows)
    assert all(map(same_feature, rows, before))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(batch[key], again[key]) for key in batch)
    for row, feature in enumerate(rows):
        alone = collator([feature])
        size = alone["input_ids"].shape[1]
        assert all(torch.equal(batch[k][row, :size], alone[k][0]) for k in alone)


def test_the_two_sides_draw_unrelated_masks():
    """两边一样长，也各遮各的：遮住同一处的机会就是碰巧的机会。"""
    half = [CLS, *range(10, 20), SEP]  # 十个候选，各遮两个
    rows = [
        {"input_ids": half * 2, "document_starts": [0, 12], "example_id": example}
        for example in range(1500)
    ]
    chosen = TranslationLMCollator(BERT)(rows)["labels"] != IGNORE_INDEX
    same = (chosen[:, :12] == chosen[:, 12:]).all(1)
    assert within_five_sigma(int(same.sum()), 1500, 1 / 45)
    first, second = chosen[:-1, 12:], chosen[1:, :12]  # 相邻的样本也不相干
    assert within_five_sigma(int((first == second).all(1).sum()), 1499, 1 / 45)


def test_xlm_sentences_keep_their_four_boundaries():
    """XLM 的一行：两句各带首尾，共四个边界词元。"""
    tokenizer = tokenizer_of("xlm")
    feature = pair_feature(tokenizer, SOURCE, TARGET, example_id=0)
    tokens = tokenizer.convert_ids_to_tokens(feature["input_ids"])
    edges = [token for token in tokens if token in ("<s>", "</s>")]
    assert edges == ["<s>", "</s>"] * 2
    assert tokens[feature["document_starts"][1]] == "<s>"
    assert feature["example_id"] == 0


MODELS = {
    "bert": {},
    "xlm": {"n_langs": 2},
    "flaubert": {"n_langs": 2},
    "xlm-roberta": {},
}


def model_and_batch(kind: str):
    """极小模型与它的一批句对。"""
    tokenizer = tokenizer_of(kind)
    model = tiny_model(kind, tokenizer, **MODELS[kind])
    collator = TranslationLMCollator(
        tokenizer,
        type_vocab_size=getattr(model.config, "type_vocab_size", 0),
        num_languages=getattr(model.config, "n_langs", 0),
    )
    rows = [
        pair_feature(tokenizer, SOURCE, TARGET, example_id=0),
        pair_feature(tokenizer, "王使人告于诸侯", "他说：“很好看。”", example_id=1),
    ]
    return model, adapt_batch(model, collator(rows))


@pytest.mark.parametrize("kind", MODELS)
def test_the_loss_is_that_of_a_hand(kind):
    """逐目标的损失与对 logits 手算的相等。"""
    model, batch = model_and_batch(kind)
    losses = target_losses(model, batch, causal=False)
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    chosen = batch["labels"] != IGNORE_INDEX
    logits = model(**inputs).logits[chosen]
    by_hand = -F.log_softmax(logits, -1)
    by_hand = by_hand.gather(1, batch["labels"][chosen][:, None])[:, 0]
    torch.testing.assert_close(losses.nats, by_hand.detach())


@pytest.mark.parametrize("kind", MODELS)
def test_the_two_sentences_see_each_other(kind):
    """换掉后一句的一个词元，前一句的输出也变：重数的位置没有把两句隔开。"""
    model, batch = model_and_batch(kind)
    inputs = {key: value[:1] for key, value in batch.items() if key != "labels"}
    second = int((inputs["position_ids"][0] == inputs["position_ids"][0, 0]).sum())
    assert second >= 2  # 第一个位置出现了两次
    changed = {**inputs, "input_ids": inputs["input_ids"].clone()}
    changed["input_ids"][0, -3] = 9
    one, other = model(**inputs).logits, model(**changed).logits
    assert (one[0, 1] - other[0, 1]).abs().max() > 1e-6


@pytest.mark.parametrize("kind", ["xlm", "flaubert"])
def test_xlm_is_told_the_language_and_never_a_token_type(kind):
    """XLM 一类只给 langs；给了 token_type_ids，它会去查词嵌入，全 0 也改变输出。"""
    model, batch = model_and_batch(kind)
    assert "langs" in batch
    assert "token_type_ids" not in batch
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    plain = model(**inputs).logits
    swapped = model(**{**inputs, "langs": 1 - inputs["langs"]}).logits
    typed = model(**inputs, token_type_ids=torch.zeros_like(inputs["langs"])).logits
    assert (plain - swapped).abs().max() > 1e-6
    assert (plain - typed).abs().max() > 1e-6


def test_models_without_segments_are_given_none():
    """XLM-R 只有一种片段编号、没有语言编号：两样都不给。"""
    _, batch = model_and_batch("xlm-roberta")
    assert batch.keys() == {"input_ids", "labels", "attention_mask", "position_ids"}


@pytest.mark.parametrize("starts", [[0], [0, 2, 4]])
def test_rows_that_are_not_pairs_are_refused(starts):
    """一篇、三篇都不是句对：点名报错。"""
    feature = {"input_ids": [CLS, 9, 9, 9, 9, SEP], "document_starts": starts}
    with pytest.raises(
        ObjectiveError, match=rf"样本 4.*{len(starts)} 篇.*pair_feature"
    ):
        TranslationLMCollator(BERT)([feature | {"example_id": 4}])


def test_a_language_the_model_lacks_is_refused():
    """语言编号超出检查点的种数。"""
    with pytest.raises(ObjectiveError, match="lang2id"):
        TranslationLMCollator(BERT, num_languages=2, language_ids=(0, 2))
