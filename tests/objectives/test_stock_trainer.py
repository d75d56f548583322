"""整理器单独放进 `transformers.Trainer`：不用本包的训练代码也能继续预训练。

样本里有 `word_ids`、`document_starts`、`example_id` 等模型不认得的列时，Trainer 缺省会
把它们悄悄删去，所以要设 `remove_unused_columns=False`。
"""

from itertools import pairwise

import pytest
import torch
from strategies import starts_of, tokenizer_of
from transformers import Trainer, TrainingArguments

from companion.batch import IGNORE_INDEX
from companion.checkpoints.tiny import tiny_model
from companion.corpus import (
    BlockDataset,
    Document,
    plan_packing,
    tokenize_documents,
)
from companion.errors import ObjectiveError
from companion.objectives.causal_lm import CausalLMCollator
from companion.objectives.masked_lm import MaskedLMCollator

TEXTS = [
    "飞鸟尽，良弓藏。",
    "臣光曰：礼莫大于分，分莫大于名。",
    "三年春，大旱，民饥。",
    "勿以善小而不为。",
    "天下大势，分久必合，合久必分。",
    "学而时习之，不亦说乎？",
]


class Recorder(torch.nn.Module):
    """记下每一批，再交给整理器。"""

    def __init__(self, collator):
        super().__init__()
        self.collator = collator
        self.batches = []

    def forward(self, features):
        self.batches.append(self.collator(features))
        return self.batches[-1]


def train(kind, collator, rows, folder, **settings):
    """在库的 Trainer 里训 3 步，返回（损失，改动过的参数个数，经手的批量）。"""
    model, recorder = tiny_model(kind), Recorder(collator)
    before = [weight.detach().clone() for weight in model.parameters()]
    arguments = TrainingArguments(
        str(folder),
        max_steps=3,
        **{"per_device_train_batch_size": 2} | settings,
        learning_rate=1e-2,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(model, arguments, train_dataset=rows, data_collator=recorder)
    loss = trainer.train().training_loss
    pairs = zip(before, model.parameters(), strict=True)
    changed = sum(not torch.equal(old, new) for old, new in pairs)
    return loss, changed, recorder.batches


@pytest.mark.parametrize("columns", [True, False])
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_the_output_of_a_tokenizer_trains(kind, columns, tmp_path):
    """`tokenizer(...)` 的原始输出加上整理器，3 步都有目标，损失有限，权重在动。"""
    tokenizer = tokenizer_of(kind)
    collator = (MaskedLMCollator if kind == "bert" else CausalLMCollator)(tokenizer)
    rows = [dict(tokenizer(text)) for text in TEXTS]
    loss, changed, batches = train(
        kind, collator, rows, tmp_path, remove_unused_columns=columns
    )
    assert 0 < loss < 20
    assert changed > 10
    assert len(batches) >= 3
    assert all((batch["labels"] != IGNORE_INDEX).any(1).all() for batch in batches)


def whole_word_rows() -> list[dict]:
    tokenizer = tokenizer_of("bert")
    rows = []
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        words = [t // 2 for t in range(len(ids) - 2)]
        rows.append({"input_ids": ids, "word_ids": [-1, *words, -1]})
    return rows


def test_whole_words_train_when_the_columns_are_kept(tmp_path):
    """`remove_unused_columns=False`：`word_ids` 到得了整理器，词不拆开。"""
    collator = MaskedLMCollator(tokenizer_of("bert"), granularity="whole_word")
    loss, _, batches = train(
        "bert", collator, whole_word_rows(), tmp_path, remove_unused_columns=False
    )
    assert 0 < loss < 20
    for batch in batches:
        real = batch["attention_mask"].sum(1).tolist()
        for labels, size in zip(batch["labels"], real, strict=True):
            chosen = labels[1 : size - 1] != IGNORE_INDEX
            assert all(word.all() or not word.any() for word in chosen.split(2))


def test_the_trainer_removes_word_ids_unless_told_not_to(tmp_path):
    """对照：缺省时 `word_ids` 被删去，报错的话里有解法。"""
    collator = MaskedLMCollator(tokenizer_of("bert"), granularity="whole_word")
    with pytest.raises(ObjectiveError, match="remove_unused_columns=False"):
        train("bert", collator, whole_word_rows(), tmp_path)


@pytest.mark.parametrize("keep", [True, False])
def test_packed_rows_stay_apart_only_when_the_columns_are_kept(keep, tmp_path):
    """留着 `document_starts`，到模型的是四维掩码；缺省被删去，文档就连成一片。"""
    tokenizer = tokenizer_of("gpt2")
    documents = [tokenizer(text)["input_ids"] for text in TEXTS]
    rows = [
        {
            "input_ids": first + second,
            "document_starts": starts_of([len(first), len(second)]),
        }
        for first, second in pairwise(documents)
    ]
    loss, changed, batches = train(
        "gpt2",
        CausalLMCollator(tokenizer),
        rows,
        tmp_path,
        remove_unused_columns=not keep,
    )
    assert 0 < loss < 20
    assert changed > 10
    assert {batch["attention_mask"].dim() for batch in batches} == {4 if keep else 2}
    assert all(("position_ids" in batch) == keep for batch in batches)


def test_the_masks_of_our_rows_change_with_every_epoch(tmp_path):
    """`BlockDataset` 直接放进库的 Trainer：每一轮遮的不同，同一轮重来一遍相同。"""
    store = tokenize_documents(
        [Document(text * 3, f"t#{i}", "t") for i, text in enumerate(TEXTS)],
        tokenizer_of("bert"),
        cache_dir=tmp_path / "tokens",
    )
    found = []
    for folder in ("first", "again"):
        rows = BlockDataset(store, plan_packing(store.lengths, 64))
        _, _, batches = train(
            "bert",
            MaskedLMCollator(tokenizer_of("bert")),
            rows,
            tmp_path / folder,
            remove_unused_columns=False,
            per_device_train_batch_size=len(rows),
        )
        found.append([sorted(each["labels"].tolist()) for each in batches[:3]])
    assert found[0] == found[1]
    assert len({str(labels) for labels in found[0]}) == 3
