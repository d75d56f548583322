"""因果语言建模：标签照抄输入，结尾是目标，移位只在模型里做一次。"""

import copy
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import FEW, packed_features, same_feature, starts_of, tokenizer_of
from transformers import DataCollatorForLanguageModeling

from companion.batch import IGNORE_INDEX
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.errors import ObjectiveError
from companion.objectives.causal_lm import CausalLMCollator, causal_labels

BATCHES = st.lists(packed_features(), min_size=1, max_size=4)
TEXTS = ("飞鸟尽，良弓藏。", "臣光曰：礼莫大于分。", "三年春，大旱。")


def starts_in(feature) -> list[int]:
    return [int(at) for at in feature.get("document_starts", [0])]


@FEW
@given(BATCHES)
def test_labels_equal_inputs_except_at_document_starts(features):
    """真实词元处标签就是输入，只有各文档的首个词元与填充处为 −100。"""
    batch = CausalLMCollator(tokenizer_of("bloom"))(features)
    assert batch["labels"].dtype == batch["input_ids"].dtype == torch.int64
    for row, feature in enumerate(features):
        ids = [int(i) for i in feature["input_ids"]]
        pads = batch["input_ids"].shape[1] - len(ids)
        starts = starts_in(feature)
        expected = [IGNORE_INDEX if t in starts else i for t, i in enumerate(ids)]
        pad = tokenizer_of("bloom").pad_token_id
        assert batch["labels"][row].tolist() == expected + [IGNORE_INDEX] * pads
        assert batch["input_ids"][row].tolist() == ids + [pad] * pads


@FEW
@given(BATCHES)
def test_a_row_has_one_target_per_token_but_the_first_of_each_document(features):
    """T 个词元、R 个文档的一行恰有 T − R 个目标；模型左移一格之后一个不少。"""
    labels = CausalLMCollator(tokenizer_of("bloom"))(features)["labels"]
    expected = [len(f["input_ids"]) - len(starts_in(f)) for f in features]
    assert (labels != IGNORE_INDEX).sum(1).tolist() == expected
    assert (labels[:, 1:] != IGNORE_INDEX).sum(1).tolist() == expected


@FEW
@given(BATCHES)
def test_collating_leaves_the_examples_as_they_were(features):
    """整理器不改动样本，同样的样本给出同样的批量。"""
    collator = CausalLMCollator(tokenizer_of("bloom"))
    before = copy.deepcopy(features)
    first, second = collator(features), collator(features)
    assert all(map(same_feature, features, before))
    assert all(torch.equal(first[key], second[key]) for key in first)


@FEW
@given(BATCHES, st.integers(1, 16))
def test_neighbours_and_padding_change_nothing_in_a_row(features, multiple):
    """一行在批里与独自一行相同，取到倍数也只添尾部的填充。"""
    batch = CausalLMCollator(tokenizer_of("bloom"), pad_to_multiple_of=multiple)(
        features
    )
    assert batch["input_ids"].shape[1] % multiple == 0
    for row, feature in enumerate(features):
        alone = CausalLMCollator(tokenizer_of("bloom"))([feature])
        size = alone["input_ids"].shape[1]
        for key in ("input_ids", "labels"):
            assert torch.equal(batch[key][row, :size], alone[key][0])
        assert (batch["labels"][row, size:] == IGNORE_INDEX).all()


def gpt2_padding_with_eos():
    tokenizer = tiny_tokenizer("gpt2")
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def test_eos_is_a_target_even_when_it_pads():
    """结尾词元兼作填充（pad == eos）时，真正的文档结尾仍是目标，填充处不是。"""
    tokenizer = gpt2_padding_with_eos()
    eos = tokenizer.eos_token_id
    features = [{"input_ids": [5, 6, eos]}, {"input_ids": [5, eos, 7, 8, eos]}]
    labels = CausalLMCollator(tokenizer)(features)["labels"]
    none = IGNORE_INDEX
    assert labels.tolist() == [[none, 6, eos, none, none], [none, eos, 7, 8, eos]]


def test_the_collator_of_the_library_drops_eos_when_it_pads():
    """对照：库的整理器按编号遮，结尾全没了（huggingface/transformers#23530）。"""
    tokenizer = gpt2_padding_with_eos()
    eos = tokenizer.eos_token_id
    features = [{"input_ids": [5, 6, eos]}, {"input_ids": [5, 6, 7, 8, eos]}]
    library = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    assert eos not in library([dict(feature) for feature in features])["labels"]
    assert (CausalLMCollator(tokenizer)(features)["labels"] == eos).sum() == 2


def test_a_tokenizer_without_a_padding_token_pads_with_zero():
    """GPT-2 没有填充词元：补 0，那里没有标签，也没有人看见。"""
    tokenizer = tokenizer_of("gpt2")
    assert tokenizer.pad_token_id is None
    batch = CausalLMCollator(tokenizer)([{"input_ids": [5]}, {"input_ids": [5, 6]}])
    assert batch["input_ids"].tolist() == [[5, 0], [5, 6]]
    assert batch["attention_mask"].tolist() == [[1, 0], [1, 1]]
    assert batch["labels"].tolist() == [[IGNORE_INDEX] * 2, [IGNORE_INDEX, 6]]


def test_a_row_of_one_token_has_no_target():
    """只有一个词元的行没有上文可用，没有目标。"""
    batch = CausalLMCollator(tokenizer_of("bloom"))([{"input_ids": [5]}])
    assert batch["labels"].tolist() == [[IGNORE_INDEX]]


def test_an_empty_example_is_refused_by_name():
    """空样本点名报错。"""
    with pytest.raises(ObjectiveError, match="样本 3 没有词元"):
        CausalLMCollator(tokenizer_of("bloom"))([{"input_ids": [], "example_id": 3}])


def test_causal_labels_leaves_its_input_alone():
    """纯函数：输入的数组不变。"""
    ids = np.array([5, 6, 7])
    causal_labels(ids, [0, 2])
    assert ids.tolist() == [5, 6, 7]


def by_hand(model, documents: list[list[int]]) -> float:
    """一个一个前缀地问模型：下一个词元的对数概率，取平均再变号。"""
    nats = []
    for ids in documents:
        for t in range(1, len(ids)):
            logits = model(input_ids=torch.tensor([ids[:t]])).logits[0, -1]
            nats.append(-logits.log_softmax(-1)[ids[t]])
    return float(torch.stack(nats).mean())


@pytest.mark.parametrize("kind", ["gpt2", "bloom", "llama"])
@torch.no_grad()
def test_the_loss_of_the_model_is_that_of_the_formula(kind):
    """整理器的批量直接喂模型，损失等于 −Σ log p(x_t | x_<t) 的平均：没有多移一位。"""
    tokenizer, model = tokenizer_of(kind), tiny_model(kind)
    documents = [tokenizer(t)["input_ids"] + [tokenizer.eos_token_id] for t in TEXTS]
    batch = CausalLMCollator(tokenizer)([{"input_ids": ids} for ids in documents])
    expected = by_hand(model, documents)
    assert float(model(**batch).loss) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@torch.no_grad()
def test_the_loss_of_packed_documents_is_that_of_separate_ones(kind):
    """三篇装成一行，损失仍等于逐篇逐字算出来的平均。"""
    tokenizer, model = tokenizer_of(kind), tiny_model(kind)
    documents = [tokenizer(t)["input_ids"] + [tokenizer.eos_token_id] for t in TEXTS]
    feature = {
        "input_ids": [*chain(*documents)],
        "document_starts": starts_of([len(ids) for ids in documents]),
    }
    batch = CausalLMCollator(tokenizer)([feature])
    loss = float(model(**batch, use_cache=False).loss)
    assert loss == pytest.approx(by_hand(model, documents), abs=1e-5)
