"""前缀语言模型的笔记本支撑：四张掩码、少了掩码会怎样、逐个地写、照前缀生成。"""

import re

import pytest
import torch

from companion.batch import IGNORE_INDEX
from companion.checkpoints.loading import Checkpoint
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.errors import ModelError, ObjectiveError
from companion.notebook import (
    blank_examples,
    decoding_table,
    finetune_blank,
    mask_panels,
    seen_without_mask,
    translations_table,
    unified_examples,
    write_after,
)
from companion.notebook.conditional import blank_batch
from companion.notebook.prefixes import LEVELS, TASKS
from companion.notebook.translation import TranslationPlan

SENTENCE = "狡兔死，走狗烹。"


def tiny(architecture: str) -> Checkpoint:
    """随机权重的极小模型，每次相同。"""
    return Checkpoint(tiny_model(architecture), tiny_tokenizer(architecture), "极小")


def test_the_four_tasks_have_four_different_masks() -> None:
    """四种任务各一个，次序照论文：全见、左下三角、右上三角、前缀全见而其余三角。"""
    examples = unified_examples(tiny("bert"), SENTENCE, 42)
    assert list(examples) == list(TASKS)
    both, left, right, pair = (
        torch.from_numpy(each.visible) for each in examples.values()
    )
    assert both.all()
    assert torch.equal(left, torch.ones_like(left).tril())
    assert torch.equal(right, torch.ones_like(right).triu())
    source = sum(examples["seq2seq"].parts or [])
    assert pair[:, :source].all()
    assert torch.equal(pair[source:], torch.ones_like(pair).tril()[source:])
    titles = [panel.title for panel in mask_panels(examples, TASKS)]
    assert titles == ["双向", "从左到右", "从右到左", "序列到序列"]


def test_a_text_that_cannot_be_split_has_no_second_task() -> None:
    """一个字切不成两段，序列到序列就分不出来。"""
    with pytest.raises(ObjectiveError, match="切得成两段"):
        unified_examples(tiny("bert"), "狡", 42)


def test_each_level_writes_its_own_blank() -> None:
    """三个层次各用自己的空，原文挖去几个，B 部分就写几个。"""
    examples = blank_examples(tiny("glm_two_row"), SENTENCE + "飞鸟尽，良弓藏。", 1)
    assert list(examples) == list(LEVELS)
    for name, example in examples.items():
        [blank] = re.findall(r"\[\w+\]", name)
        assert blank in example.rows.inputs


def test_without_the_mask_part_b_sees_nothing_of_part_a() -> None:
    """四维掩码恰如所称；不给掩码，B 只看得见自己；全 1 的二维掩码是普通的因果。"""
    table, panels = seen_without_mask(tiny_tokenizer("glm_two_row"), SENTENCE, 42)
    wanted, full, bare, ones = (row[1:] for row in table.rows)
    assert full == wanted
    assert bare[1].startswith("0 / ")
    side = int(bare[2].split(" / ")[1]) ** 0.5
    assert bare[2].split(" / ")[0] == str(int(side))
    assert ones[1:] == wanted[1:]
    assert ones[0] != wanted[0]
    assert [panel.title for panel in panels] == [row[0] for row in table.rows[1:]]


def test_writing_with_a_cache_equals_one_training_forward() -> None:
    """三个目标各写几个词元，logits 与训练时一次前向相差不到 1e-5。"""
    glm, bert = tiny("glm_two_row"), tiny("bert")
    cases = [("prefix_lm", glm), ("unified_lm", bert), ("blank_infilling", glm)]
    table = decoding_table(cases, "狡兔死，", 4)
    assert [row[0] for row in table.rows] == [key for key, _ in cases]
    for _, written, gap, largest, relative in table.rows:
        assert written
        assert float(gap) < 1e-5
        assert float(largest) > 0.01
        assert float(relative) < 1e-4


def test_a_pair_is_a_prefix_and_one_blank() -> None:
    """文言在 A 部分，后面一个空；白话由 [sop] 领着，标签与输入对齐，以 [eop] 收尾。"""
    checkpoint = tiny("glm_two_row")
    batch = blank_batch(checkpoint, [("狡兔死", "狡兔死了")])
    words = checkpoint.tokenizer.convert_ids_to_tokens(batch["input_ids"][0].tolist())
    labels = batch["labels"][0]
    written = checkpoint.tokenizer.convert_ids_to_tokens(
        labels[labels != IGNORE_INDEX].tolist()
    )
    first = words.index("[sop]")
    assert [word for word in words[:first] if len(word) == 1] == ["狡", "兔", "死"]
    assert words.count("[gMASK]") == 1
    assert words[first + 1 :] == ["狡", "兔", "死", "了"]
    assert written == ["狡", "兔", "死", "了", "[eop]"]


def test_finetuning_on_pairs_writes_the_targets() -> None:
    """背下两对之后，照前缀写得出目标；表里有照抄的底线。"""
    pairs = [("狡兔死", "狡兔死了"), ("良弓藏。", "良弓藏了。")]
    plan = TranslationPlan(
        max_chars=10, num_valid=2, steps=60, batch_size=2, learning_rate=1e-2
    )
    tuned = finetune_blank(tiny("glm_two_row"), pairs, plan, seed=3)
    sources = [source for source, _ in pairs]
    assert write_after(tuned, sources, 10) == [target for _, target in pairs]
    table = translations_table({"微调后": tuned}, pairs, 10, write=write_after)
    assert table.rows[-1] == ["", "微调后", "100.0"]
    with pytest.raises(ModelError, match="因果语言模型"):
        finetune_blank(tiny("bert"), pairs, plan)
