"""前缀语言模型的评估：评估目标冻结，分数与填空等于亲手算的。"""

import math
from dataclasses import dataclass

import pytest
import torch

from companion.batch import IGNORE_INDEX
from companion.checkpoints.loading import Checkpoint
from companion.checkpoints.running import (
    adapt_batch,
    fitted_objective,
    model_options,
    special_edges,
)
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.corpus.document import Document
from companion.errors import ModelError
from companion.evaluation.answers import answer_clozes, build_samples
from companion.evaluation.report import cloze_note
from companion.evaluation.scoring import evaluate, score_targets
from companion.evaluation.targets import FrozenTargets, build_targets
from companion.inference import complete
from companion.objectives import OBJECTIVES

CASES = [
    ("gpt2", "prefix_lm"),
    ("llama", "prefix_lm"),
    ("t5", "prefix_lm"),
    ("bert", "unified_lm"),
    ("roberta", "unified_lm"),
    ("glm", "blank_infilling"),
    ("glm_two_row", "blank_infilling"),
]
EVERY = pytest.mark.parametrize(("kind", "goal"), CASES)


def opened(kind: str, goal: str) -> Checkpoint:
    """极小的检查点；填空的词表里有写空用的词元。"""
    tokenizer = tiny_tokenizer("glm_two_row" if goal == "blank_infilling" else kind)
    return Checkpoint(tiny_model(kind, tokenizer), tokenizer, kind)


def targets_of(checkpoint: Checkpoint, goal: str, documents) -> FrozenTargets:
    objective = fitted_objective(checkpoint.model, goal)
    return build_targets(
        checkpoint.tokenizer,
        objective,
        documents,
        block_size=64,
        model_options=model_options(checkpoint.model, objective),
    )


@EVERY
def test_bits_per_character_equal_a_computation_by_hand(kind, goal, documents):
    """逐行前向，在要考处取对数概率，求和后除以 ln 2 与字数；移位只在前缀模型。"""
    checkpoint = opened(kind, goal)
    model = checkpoint.model
    targets = targets_of(checkpoint, goal, documents)
    shift = int(fitted_objective(model, goal).causal)
    nats, chars = 0.0, 0
    for row in targets.rows:
        batch = adapt_batch(model, targets.collate([row.example]))
        del batch["labels"]
        with torch.no_grad():
            logits = model(**batch).logits[0].log_softmax(-1)
        for at, label in enumerate(row.labels.tolist()):
            if label != IGNORE_INDEX:
                nats -= float(logits[at - shift, label])
                chars += int(row.num_chars[at])
    scores = evaluate(checkpoint, goal, documents, block_size=64).scores
    assert scores.bits_per_char == pytest.approx(nats / math.log(2) / chars, rel=1e-5)
    assert (scores.num_chars, scores.num_targets) == (chars, targets.num_targets)


@EVERY
def test_scores_do_not_depend_on_the_batch_size(kind, goal, documents):
    """一批一行与一批装下全部，逐行的损失相同。"""
    checkpoint = opened(kind, goal)
    targets = targets_of(checkpoint, goal, documents)
    one, whole = (
        score_targets(checkpoint.model, targets, batch_tokens=size)
        for size in (1, 10**6)
    )
    assert one.nats == pytest.approx(whole.nats, abs=1e-4, rel=1e-5)


@EVERY
def test_the_training_settings_do_not_change_the_exam(kind, goal, documents):
    """同样的文字与种子出同样的评估集；没有特殊词元与生字，每个被考的字只考一次。"""
    checkpoint = opened(kind, goal)
    first, again = (targets_of(checkpoint, goal, documents) for _ in range(2))
    assert first.fingerprint == again.fingerprint
    special = set(checkpoint.tokenizer.all_special_ids)
    for row in first.rows:
        scored = row.labels != IGNORE_INDEX
        assert special.isdisjoint(row.labels[scored].tolist())
        assert row.example.hidden[scored].all()
        origin = row.example.origin[scored].tolist()
        assert len(set(origin)) == len(origin)


def test_every_character_of_the_continuation_is_scored(documents):
    """前缀语言建模：切点之后的字全评估，切点之前的一个不评估；末尾不添 [SEP]。"""
    tokenizer = tiny_tokenizer("bert")
    checkpoint = Checkpoint(tiny_model("gpt2", tokenizer), tokenizer, "gpt2")
    for row in targets_of(checkpoint, "prefix_lm", documents).rows:
        split = int(row.example.prefix.sum())
        scored = (row.labels != IGNORE_INDEX).tolist()
        known = (row.input_ids != tokenizer.unk_token_id).tolist()
        expected = [at >= split and known[at] for at in range(len(scored))]
        assert scored == expected
        assert row.input_ids[-1] != tokenizer.sep_token_id


def test_no_task_of_unified_lm_is_missing_from_the_exam():
    """四种任务都考；选中的全换成 [MASK]，答案不写在题面上。"""
    bert = opened("bert", "unified_lm")
    texts = [f"{a}，天下大势，分久必{b}。" for a in "臣王三年" for b in "礼分名大"]
    documents = [Document(each, f"d#{n}", "d") for n, each in enumerate(texts)]
    kinds = set()
    for row in targets_of(bert, "unified_lm", documents).rows:
        prefix = row.example.prefix
        kinds.add((bool(prefix.all()), bool(prefix.any()), row.example.reverse))
        chosen = row.example.hidden
        assert (row.input_ids[chosen] == bert.tokenizer.mask_token_id).all()
    assert len(kinds) == 4


def test_bfloat16_models_are_scored(documents):
    """半精度的 BERT 在 eager 下只收同类型的掩码：adapt_batch 换好，没有 −inf。"""
    tokenizer = tiny_tokenizer("bert")
    model = tiny_model("bert", tokenizer, attn_implementation="eager")
    half = Checkpoint(model.to(torch.bfloat16), tokenizer, "bert")
    targets = targets_of(half, "unified_lm", documents)
    batch = targets.collate([row.example for row in targets.rows])
    mask = adapt_batch(model, batch)["attention_mask"]
    assert mask.dtype == torch.bfloat16
    assert mask.isfinite().all()
    assert torch.equal(mask == 0, batch["attention_mask"] == 0)
    assert math.isfinite(score_targets(model, targets).scores.bits_per_char)


def test_a_model_that_rejects_the_mask_is_not_scored(documents):
    """ModernBERT 的窗口：评估之前就点名。"""
    with pytest.raises(ModelError, match="用不得 bidirectional 掩码"):
        evaluate(opened("modernbert", "unified_lm"), "unified_lm", documents)


# ── 填空题 ──────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Question:
    text: str
    answer: str


CLOZES = [
    Question("狡兔死，走狗烹；飞鸟尽，[MASK]弓藏。", "良"),
    Question("狡兔死，走狗烹；飞鸟尽，良弓[MASK]", "藏"),
    Question("[MASK]兔死，走狗烹", "狡"),  # 空在开头
]


@pytest.mark.parametrize(("kind", "goal"), CASES)
def test_clozes_that_can_be_asked_are_answered(kind, goal):
    """看得见两边的答得了开头的空，只看左边的答不了；概率与名次合乎情理。"""
    answers = answer_clozes(opened(kind, goal), goal, CLOZES)
    byte_level = kind == "roberta"  # 一个字几个词元，一个 [MASK] 装不下
    both = goal != "prefix_lm"
    assert [each is not None for each in answers] == (
        [False] * 3 if byte_level else [True, True, both]
    )
    for answer in filter(None, answers):
        assert 0 < answer.answer_probability < 1
        assert answer.rank >= 1


@pytest.mark.parametrize(
    ("kind", "goal"), [("gpt2", "prefix_lm"), ("glm_two_row", "blank_infilling")]
)
def test_the_probability_of_an_answer_is_that_of_its_tokens_in_turn(kind, goal):
    """照训练时的样子摆好题面与答案，一次前向；答案的概率是各词元概率之积。"""
    checkpoint = opened(kind, goal)
    tokenizer, model = checkpoint.tokenizer, checkpoint.model
    objective = fitted_objective(model, goal)
    collator = objective.make_collator(tokenizer, **model_options(model, objective))
    edges = special_edges(tokenizer)

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    head, answer, tail = "狡兔死，走狗烹；飞鸟尽，", "良", "弓藏。"
    wanted = encode(head + answer)[len(encode(head)) :]
    if goal == "prefix_lm":
        ids = [*edges.prefix, *encode(head + answer), *edges.suffix]
        size = len(edges.prefix) + len(encode(head))
        batch = collator([{"input_ids": ids, "prefix_length": size}])
        places = range(size - 1, size - 1 + len(wanted))
    else:
        blanks = collator.tokens
        part_a = [*edges.prefix, *encode(head), blanks.mask, *encode(tail)]
        part_a += edges.suffix
        ids = torch.tensor([[*part_a, blanks.start, *wanted]])
        at = len(edges.prefix) + len(encode(head))
        inside = list(range(1, len(wanted) + 2))
        size = len(part_a)
        visible = torch.ones(ids.shape[1], ids.shape[1]).tril().bool()
        visible[:, :size] = True
        batch = {
            "input_ids": ids,
            "position_ids": torch.tensor(
                [[[*range(size), *[at] * len(inside)], [0] * size + inside]]
            ),
            "attention_mask": torch.where(visible, 0.0, -1e30)[None, None],
        }
        places = range(size, size + len(wanted))
    batch.pop("labels", None)
    with torch.no_grad():
        chances = model(**batch).logits[0].softmax(-1)
    expected = math.prod(
        float(chances[place, token])
        for place, token in zip(places, wanted, strict=True)
    )
    [found] = answer_clozes(checkpoint, goal, CLOZES[:1])
    assert found.answer_probability == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("kind", "goal"), [*CASES, ("bart", "prefix_lm")])
def test_samples_are_written_as_the_model_was_trained(kind, goal, monkeypatch):
    """前缀模型双向地读开头再续写，GLM 填补，UniLM 填空；题面相同，写出的也相同。"""
    monkeypatch.setattr("companion.evaluation.answers.MAX_NEW_TOKENS", 3)
    checkpoint = opened(kind, goal)
    text = "天下大势，分久[MASK]合"
    [sample] = build_samples(checkpoint, goal, [text])
    assert build_samples(checkpoint, goal, [text]) == [sample]
    ways = [way for way, _ in sample.outputs]
    if goal == "prefix_lm":
        assert (sample.prompt, ways) == ("天下大势，分久", ["贪心", "抽取（种子 0）"])
        [written] = complete(checkpoint, sample.prompt, 3, objective=goal)
        assert sample.outputs[0][1] == written.new_text
    else:
        assert sample.prompt == text
        last = "第 1 空" if goal == "unified_lm" else "写出的"
        assert ways == ["填好", last]


def test_the_report_says_what_was_scored():
    """报告写明考的是前缀之后的字；只看左边的模型另有说明。"""
    assert "前缀之后" in OBJECTIVES["prefix_lm"].scored
    assert cloze_note("prefix_lm")
    assert not cloze_note("blank_infilling")
