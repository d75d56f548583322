"""笔记本里的文言译白话：取句对、微调、解码、打分。"""

from pathlib import Path

import pytest
import torch

from companion.batch import IGNORE_INDEX
from companion.checkpoints.loading import Checkpoint
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.errors import CorpusError, ModelError
from companion.losses.target_head import target_losses
from companion.notebook import (
    TRANSLATION,
    finetune,
    finetune_blank,
    sentence_pairs,
    translations_table,
    write_after,
)
from companion.notebook.translation import (
    TranslationPlan,
    blank_batch,
    translate,
    translation_batch,
)

PAIRS = [("狡兔死", "狡兔死了"), ("良弓藏。", "良弓收藏起来。")]
PLAN = TranslationPlan(
    max_chars=10, num_valid=3, steps=30, batch_size=2, learning_rate=1e-2
)


def tiny(architecture: str) -> Checkpoint:
    """随机权重的极小模型，每次相同。"""
    return Checkpoint(tiny_model(architecture), tiny_tokenizer(architecture), "极小")


def test_pairs_come_from_both_sides_of_a_named_corpus() -> None:
    """写了文言一侧，两侧照样一起取；两侧都不超过字数，留出的在训练里没有。"""
    plan = TRANSLATION["tiny"]
    train, valid = sentence_pairs("sample:classical", plan, seed=1)
    assert sentence_pairs("sample", plan, seed=1) == (train, valid)
    assert len(valid) == plan.num_valid
    assert not {*train} & {*valid}
    assert max(len(side) for pair in train + valid for side in pair) <= plan.max_chars
    assert sentence_pairs("sample", plan, seed=2)[1] != valid


def test_a_corpus_without_short_pairs_is_refused() -> None:
    """没有一对够短时，说出多短才要。"""
    plan = TranslationPlan(
        max_chars=3, num_valid=3, steps=1, batch_size=1, learning_rate=1e-3
    )
    with pytest.raises(CorpusError, match="max_chars"):
        sentence_pairs("sample", plan)


def test_a_file_without_a_held_out_set_is_refused(tmp_path: Path) -> None:
    """自己的文件没有留出集，不能拿训练的句子来考。"""
    path = tmp_path / "own.jsonl"
    path.write_text('{"source": "狡兔死", "target": "狡兔死了"}\n', encoding="utf-8")
    with pytest.raises(CorpusError, match="valid"):
        sentence_pairs(str(path), PLAN)


@pytest.mark.parametrize("architecture", ["bart", "t5"])
def test_the_decoder_reads_the_translation_one_step_late(architecture: str) -> None:
    """标签是译文，补齐处 −100；解码器的输入右移一格，首格由模型的设置定。"""
    checkpoint = tiny(architecture)
    batch = translation_batch(checkpoint, PAIRS)
    tokenizer, start = (
        checkpoint.tokenizer,
        checkpoint.model.config.decoder_start_token_id,
    )
    for row, (source, target) in enumerate(PAIRS):
        ids = tokenizer(target)["input_ids"]
        seen = batch["attention_mask"][row].bool()
        assert batch["input_ids"][row][seen].tolist() == tokenizer(source)["input_ids"]
        labels = batch["labels"][row]
        assert labels[: len(ids)].tolist() == ids
        assert (labels[len(ids) :] == IGNORE_INDEX).all()
        shifted = batch["decoder_input_ids"][row][: len(ids)].tolist()
        assert shifted == [start, *ids[:-1]]


@torch.no_grad()
def _loss(checkpoint: Checkpoint) -> float:
    batch = translation_batch(checkpoint, PAIRS)
    batch = {name: each.to(checkpoint.model.device) for name, each in batch.items()}
    return float(target_losses(checkpoint.model, batch, causal=False).total_nats)


def test_finetuning_learns_the_pairs_and_repeats_itself() -> None:
    """损失降下来；同样的起点与种子，权重逐位相同。"""
    runs = [finetune(tiny("bart"), PAIRS, PLAN, seed=3) for _ in range(2)]
    before, *after = (_loss(each) for each in (tiny("bart"), *runs))
    assert after[0] == after[1] < before / 2
    assert not runs[0].model.training


def test_the_table_scores_the_copied_source_too() -> None:
    """一句几行：文言、人译、各模型；最后是 chrF，第一行是一个字也不译。"""
    checkpoint = finetune(tiny("bart"), PAIRS, PLAN)
    written = translate(checkpoint, [source for source, _ in PAIRS], 10)
    table = translations_table({"训练后": checkpoint}, PAIRS, 10, show=1)
    assert table.rows[:3] == [
        ["1", "文言", "狡兔死"],
        ["", "人译", "狡兔死了"],
        ["", "训练后", written[0]],
    ]
    assert [row[:2] for row in table.rows[3:]] == [["chrF", "照抄文言"], ["", "训练后"]]
    assert all(0 <= float(row[2]) <= 100 for row in table.rows[3:])
    assert table.header[2] == "共 2 句"


def test_only_an_encoder_decoder_translates() -> None:
    """掩码模型译不了，也微调不了。"""
    for call in (
        lambda: translate(tiny("bert"), ["狡兔死"], 10),
        lambda: finetune(tiny("bert"), PAIRS, PLAN),
    ):
        with pytest.raises(ModelError, match="编码器–解码器"):
            call()


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
