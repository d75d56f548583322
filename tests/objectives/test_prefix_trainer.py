"""前缀语言模型的三个整理器放进库的 `Trainer`：不用本包的训练代码也能继续预训练。"""

import pytest
import torch
from strategies import tokenizer_of
from transformers import Trainer, TrainingArguments

from companion.batch import IGNORE_INDEX
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.objectives.blank_infilling import BlankInfillingCollator
from companion.objectives.prefix_lm import PrefixLMCollator
from companion.objectives.unified_lm import UnifiedLMCollator

TEXTS = [
    "飞鸟尽，良弓藏。",
    "臣光曰：礼莫大于分，分莫大于名。",
    "三年春，大旱，民饥。",
    "天下大势，分久必合，合久必分。",
]


def glm_case():
    tokenizer = tiny_tokenizer("bert")
    names = ["[sMASK]", "[gMASK]", "[sop]", "[eop]"]
    tokenizer.add_special_tokens({"extra_special_tokens": names})
    collator = BlankInfillingCollator(tokenizer, position_rows=1, shift_labels=True)
    return tiny_model("glm", tokenizer), collator


CASES = {
    "gpt2": lambda: (tiny_model("gpt2"), PrefixLMCollator(tokenizer_of("gpt2"))),
    "bert": lambda: (tiny_model("bert"), UnifiedLMCollator(tokenizer_of("bert"))),
    "glm": glm_case,
}


@pytest.mark.parametrize("name", CASES)
def test_the_output_of_a_tokenizer_trains(name, tmp_path):
    """`tokenizer(...)` 的原始输出，3 步：损失有限，权重在动，每批都有目标。"""
    model, collator = CASES[name]()
    before = [weight.detach().clone() for weight in model.parameters()]
    batches = []

    def recorded(features):
        batches.append(collator(features))
        return batches[-1]

    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=3,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    rows = [dict(collator.tokenizer(text)) for text in TEXTS]
    loss = (
        Trainer(model, arguments, train_dataset=rows, data_collator=recorded)
        .train()
        .training_loss
    )
    assert 0 < loss < 20
    pairs = zip(before, model.parameters(), strict=True)
    assert sum(not torch.equal(old, new) for old, new in pairs) > 10
    assert all((batch["labels"] != IGNORE_INDEX).any() for batch in batches)
