"""笔记本的支撑：三档设置、成绩表、对照表、批改练习。"""

import math
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from companion.batch import IGNORE_INDEX
from companion.checkpoints.loading import Checkpoint, load_checkpoint
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.errors import ConfigError, EvaluationError, ModelError, ObjectiveError
from companion.inference import infill
from companion.notebook import (
    EXERCISES,
    PROFILES,
    Table,
    answers_table,
    check,
    fills_table,
    fresh,
    get_corpus,
    infills_table,
    new_run,
    open_families,
    profile_config,
    replaced_table,
    scores_table,
    verdict,
)
from companion.notebook.exercises import UNANSWERED, judge, value_of
from companion.notebook.profiles import FAMILIES
from companion.notebook.tables import fixed
from companion.objectives import OBJECTIVES

SENTENCE = "狡兔死，走狗烹；飞鸟尽，良弓藏。"
METRICS = {
    "before": {
        "domain": {
            "bits_per_char": 8.0,
            "accuracy": 0.2,
            "unk_rate": 0.0,
            "loss_nats_per_token": 6.0,
        },
        "general": {
            "bits_per_char": 7.0,
            "accuracy": 0.3,
            "unk_rate": 0.01,
            "loss_nats_per_token": 5.0,
        },
    },
    "after": {
        "domain": {
            "bits_per_char": 6.0,
            "accuracy": 0.35,
            "unk_rate": 0.0,
            "loss_nats_per_token": 4.0,
        },
        "general": {
            "bits_per_char": 7.07,
            "accuracy": 0.28,
            "unk_rate": 0.01,
            "loss_nats_per_token": 5.1,
        },
    },
}


@pytest.fixture(scope="module")
def bert() -> Checkpoint:
    """随机权重的极小 BERT。"""
    return Checkpoint(tiny_model("bert"), tiny_tokenizer("bert"), "tiny")


@pytest.mark.parametrize("objective", PROFILES)
@pytest.mark.parametrize("profile", ["tiny", "t4", "full"])
def test_every_profile_of_every_objective_is_a_valid_config(
    objective: str, profile: str
) -> None:
    """每一档都建得成设置，种子照给，通用留出集总在。"""
    config = profile_config(profile, objective, "out", 7)
    assert (config.objective, config.seed, config.output) == (objective, 7, "out")
    assert config.general is not None
    assert Path(config.general).is_file()


@pytest.mark.parametrize("objective", PROFILES)
def test_the_tiny_profile_needs_no_network_and_repeats(objective: str) -> None:
    """极小的一档：起步模型、随包语料、定死的精度，几十步、每步不过一千来个词元。"""
    config = profile_config("tiny", objective, "out", 42)
    assert config.model == OBJECTIVES[objective].starter
    assert config.corpus.startswith("sample:")
    assert config.precision == "fp32", "由设备实测决定的精度在别的机器上可能不同"
    assert 10 <= config.max_steps <= 70
    assert 768 <= config.tokens_per_batch <= 1024
    assert config.replay is not None
    assert "随包附带" in get_corpus(config.corpus)


def test_the_real_profiles_use_real_checkpoints_and_the_tongjian() -> None:
    """t4 一档是公开的检查点，语料是《资治通鉴》；不回放，T5 一类的学习率高些。"""
    masked = profile_config("t4", "masked_lm", "out", 42)
    causal = profile_config("t4", "causal_lm", "out", 42)
    assert (masked.model, masked.corpus) == (
        "SIKU-BERT/sikubert",
        "tongjian:classical",
    )
    assert (causal.model, causal.corpus) == ("bigscience/bloom-560m", "tongjian:modern")
    assert masked.replay is causal.replay is None
    infilling = profile_config("t4", "text_infilling", "out", 42)
    spans = profile_config("t4", "span_corruption", "out", 42)
    assert (infilling.model, spans.model) == (
        "fnlp/bart-base-chinese",
        "google/mt5-small",
    )
    assert spans.learning_rate == 3e-4


def test_settings_override_the_profile() -> None:
    """另给的字段盖过表里的；写错的字段名立刻被拒。"""
    config = profile_config("tiny", "masked_lm", "out", 42, granularity="whole_word")
    assert config.granularity == "whole_word"
    with pytest.raises(ConfigError, match="granularity"):
        profile_config("tiny", "masked_lm", "out", 42, granularty="whole_word")


def test_an_unknown_profile_is_refused_with_a_guess() -> None:
    """档名写错：列出三档，猜最近的一个。"""
    with pytest.raises(ConfigError, match="改成 t4"):
        profile_config("T4", "masked_lm", "out", 42)


def test_a_rerun_never_touches_the_last_run(tmp_path: Path) -> None:
    """文件夹用过就换下一个编号；只是给名字，不建文件夹。"""
    assert new_run("a", tmp_path) == new_run("a", tmp_path) == tmp_path / "a-1"
    (tmp_path / "a-1").mkdir()
    assert new_run("a", tmp_path) == tmp_path / "a-2"
    assert not (tmp_path / "a-2").exists()


def test_a_training_cell_run_again_writes_elsewhere_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """输出文件夹没用过，设置不变，一声不响；用过了换下一个编号，旧结果留着。"""
    config = profile_config("tiny", "masked_lm", new_run("a", tmp_path), 7)
    assert fresh(config) == config
    assert capsys.readouterr().out == ""
    (tmp_path / "a-1").mkdir()
    again = fresh(config)
    assert Path(again.output) == tmp_path / "a-2"
    assert replace(again, output=config.output) == config
    said = capsys.readouterr().out
    assert "a-1 里的结果留着不动，这次写进" in said
    assert "--output" not in said


def test_a_corpus_of_the_readers_own_takes_the_place_of_the_sample() -> None:
    """写了语料就读它；空着读这一档自己的。"""
    own = profile_config("tiny", "masked_lm", "out", 7, corpus="我的.txt")
    assert own.corpus == "我的.txt"
    assert replace(own, corpus="sample:classical") == profile_config(
        "tiny", "masked_lm", "out", 7, corpus=""
    )


def test_a_local_corpus_is_left_alone(tmp_path: Path) -> None:
    """本机的路径不联网，也不核对。"""
    assert "本机的文件" in get_corpus(str(tmp_path / "own.txt"))


@given(st.floats(-1e6, 1e6))
def test_numbers_have_three_decimals_and_no_negative_zero(value: float) -> None:
    """三位小数，真正的负号，没有 −0.000。"""
    text = fixed(value)
    assert len(text.rpartition(".")[2]) == 3
    assert "-" not in text
    assert text != "\u22120.000"
    assert math.isclose(float(text.replace("\u2212", "-")), value, abs_tol=5.01e-4)


def test_a_table_escapes_what_it_shows() -> None:
    """HTML 里 `</s>` 是字，不是标签；文字里汉字占两格，列才对得齐。"""
    table = Table(["词元", "数"], [["</s>", "1"], ["狡", "2"]])
    assert "&lt;/s&gt;" in table._repr_html_()
    assert str(table).splitlines() == ["词元  数", "</s>  1", "狡    2"]


def test_scores_show_both_sets_before_and_after() -> None:
    """每个留出集三行；每字比特数的变化是百分数，准确率的变化是差。"""
    rows = scores_table(METRICS).rows
    assert rows[0] == ["领域", "每字比特数", "8.000", "6.000", "−25.0%"]
    assert rows[1] == ["领域", "准确率", "0.200", "0.350", "0.150"]
    assert rows[3] == ["通用", "每字比特数", "7.000", "7.070", "+1.0%"]
    assert len(rows) == 6


def test_scores_without_evaluation_are_refused() -> None:
    """关了评估的训练没有成绩可列。"""
    with pytest.raises(EvaluationError, match="eval"):
        scores_table({"steps": 3})


def test_the_verdict_is_the_section_of_the_report(tmp_path: Path) -> None:
    """只取结论一节，去掉记号与空行；没有报告时说明怎么得到。"""
    (tmp_path / "report.md").write_text(
        "# 卡\n\n## 结论\n\n**学到了一些。**\n\n领域上降了。\n\n> 建议。\n\n## 分",
        encoding="utf-8",
    )
    assert verdict(tmp_path) == "学到了一些。\n领域上降了。\n建议。"
    with pytest.raises(EvaluationError, match=r"report\.md"):
        verdict(tmp_path / "none")


def test_the_whole_word_mask_of_the_library_takes_all_or_nothing(
    bert: Checkpoint,
) -> None:
    """库以字符间隙断词：中文一整句是一个词，要么不遮，要么遮光。"""
    from transformers import DataCollatorForLanguageModeling

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 它提醒全词时不作随机替换
        library = DataCollatorForLanguageModeling(
            bert.tokenizer, whole_word_mask=True, mlm_probability=0.5, seed=0
        )
    row = bert.tokenizer(
        SENTENCE, return_offsets_mapping=True, return_special_tokens_mask=True
    )
    batches = [library([dict(row)]) for _ in range(30)]
    chosen = {int((each["labels"] != IGNORE_INDEX).sum()) for each in batches}
    length = len(bert.tokenizer(SENTENCE)["input_ids"]) - 2
    assert chosen == {0, length}


def test_tables_of_two_models_have_a_column_each(bert: Checkpoint) -> None:
    """填空一空一行，同一个模型的两列相同。"""
    twice = {"训练前": bert, "训练后": bert}
    filled = fills_table(twice, ["狡兔死，走[MASK][MASK]；"], top_k=2)
    assert list(filled.header) == ["题面", "", "训练前", "训练后"]
    assert [row[1] for row in filled.rows] == ["第 1 空", "第 2 空"]
    assert all(row[2] == row[3] and row[2].count("、") == 1 for row in filled.rows)


def test_infills_say_which_were_cut_short() -> None:
    """一句一行，几处以“／”隔开；写到 `max_new_tokens` 还没完的以“……”收尾。"""
    bart = Checkpoint(tiny_model("bart"), tiny_tokenizer("bart"), "tiny")
    table = infills_table({"训练前": bart}, ["狡[MASK]死，走[MASK]烹。"], 2)
    assert list(table.header) == ["题面", "训练前"]
    [[text, written]] = table.rows
    assert text == "狡[MASK]死，走[MASK]烹。"
    told = infill(bart, text, 2)
    assert [each.endswith("……") for each in written.split("／")] == [
        not finished for finished in told.finished
    ]
    assert [each.removesuffix("……") for each in written.split("／")] == told.fills


def test_answers_are_counted_and_the_impossible_are_said(bert: Checkpoint) -> None:
    """最后一行是答对的题数；空与答案长短不合的题写“答不了”。"""

    class Cloze:
        def __init__(self, text: str, answer: str) -> None:
            self.text, self.answer = text, answer

    clozes = [Cloze("狡[MASK]死", "兔"), Cloze("狡[MASK]死", "兔子")]
    table = answers_table({"训练前": bert}, "masked_lm", clozes)
    assert "名" in table.rows[0][2]
    assert table.rows[1][2] == "答不了"
    assert list(table.rows[-1][:2]) == ["答对", "共 2 题"]


@pytest.mark.parametrize("name", EXERCISES)
def test_every_exercise_accepts_its_answer_and_explains_the_rest(name: str) -> None:
    """正确答案通过；每个常见错误得到自己的理由；别的得到提示；没答就说没答。"""
    exercise = EXERCISES[name]
    right = value_of(exercise["right"], METRICS)
    assert judge(name, right, METRICS).startswith("通过")
    for wrong, reason in exercise["wrong"]:
        assert reason in judge(name, value_of(wrong, METRICS), METRICS)
    assert exercise["hint"] in judge(name, "不知道", METRICS)
    assert judge(name, ..., METRICS) == judge(name, None) == UNANSWERED


def test_answers_may_be_tensors_tuples_or_nearly_right() -> None:
    """张量、元组与列表同样看待；小数差一点点算对，整数不许差；True 不是 1。"""
    labels = [-100, 6, 2, -100, 2]
    assert judge("causal-labels", torch.tensor(labels)).startswith("通过")
    assert judge("causal-labels", tuple(labels)).startswith("通过")
    assert judge("masked-empty", 0.614).startswith("通过")
    assert judge("causal-count", Tensor([60.0])[0]).startswith("通过")
    assert not judge("causal-count", 60.1).startswith("通过")
    assert not judge("quickstart-compare", 0).startswith("通过")


def test_several_things_may_be_named_in_any_order() -> None:
    """问的是哪几样的，先写哪一样都对；次序就是答案的仍要照次序。"""
    assert judge("gain-front", ["丁", "甲", "乙"]).startswith("通过")
    assert judge("corpus-rows", [[3, 2], [4, 1], [0]]).startswith("通过")
    assert not judge("corpus-rows", [[3, 1], [4, 2], [0]]).startswith("通过")
    assert not judge("corpus-tokenizer", ["A", "B", "C"]).startswith("通过")


def test_an_unknown_exercise_is_refused_with_a_guess(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """编号写错：猜最近的一个；写对则打印一行。"""
    with pytest.raises(ObjectiveError, match="causal-count"):
        check("causal-cuont", 60)
    check("causal-count", 60)
    assert capsys.readouterr().out.startswith("通过：")


def test_the_discriminator_is_shown_what_the_generator_wrote() -> None:
    """没遮的三栏相同；真换过的，判别器看到的与原文不同；把握都是概率。"""
    table = replaced_table(
        load_checkpoint("starter:electra", "replaced_token"), SENTENCE
    )
    assert len(table.rows) == len(SENTENCE)
    for original, masked, shown, truth, chance in table.rows:
        if masked != "[MASK]":
            assert shown in (original, masked)
        assert (truth == "换过") == (shown != original)
        assert 0 <= float(chance) <= 1
    assert any(row[1] == "[MASK]" for row in table.rows)


def test_a_single_model_is_not_a_pair() -> None:
    """拿填空的模型来认假：说清要哪一种。"""
    bert = load_checkpoint("starter:bert", "masked_lm")
    with pytest.raises(ModelError, match="一对"):
        replaced_table(bert, SENTENCE)


def test_every_profile_has_one_model_of_each_family() -> None:
    """三档都有同样的四个目标，都在名册里；极小的一档不联网，打开就是那一种。"""
    for profile, models in FAMILIES.items():
        assert list(models) == list(FAMILIES["tiny"]), profile
        assert set(models) <= set(OBJECTIVES)
    opened = open_families("tiny")
    assert opened["prefix_lm"].model.config.model_type == "llama"
    assert opened["prefix_lm"].tokenizer.get_vocab() == (
        opened["causal_lm"].tokenizer.get_vocab()
    )
    with pytest.raises(ConfigError, match="改成 tiny"):
        open_families("Tiny")
