"""编码器–解码器的评估：只考看不见的字，分数、填空、样张都等于亲手算的。"""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from companion.batch import IGNORE_INDEX
from companion.checkpoints.running import model_options
from companion.corpus.document import Document
from companion.evaluation.answers import answer_clozes, build_samples
from companion.evaluation.comparison import compare, prepare_exam
from companion.evaluation.scoring import evaluate, score_targets
from companion.evaluation.targets import FrozenTargets, build_targets
from companion.inference import infill
from companion.objectives import get_objective

CASES = [
    ("t5", "span_corruption"),
    ("mt5", "mixture_of_denoisers"),
    ("t5", "masked_seq2seq"),
    ("bart", "text_infilling"),
    ("bart-chinese", "text_infilling"),
    ("bart", "masked_seq2seq"),
    ("pegasus", "gap_sentences"),
]
EVERY = pytest.mark.parametrize(("kind", "goal"), CASES)


def targets_of(checkpoint, goal: str, documents) -> FrozenTargets:
    objective = get_objective(goal)
    return build_targets(
        checkpoint.tokenizer,
        objective,
        documents,
        block_size=48,
        model_options=model_options(checkpoint.model, objective),
    )


def inputs_of(example) -> dict[str, torch.Tensor]:
    """一个样本喂给模型的几项，各添一维。"""
    inputs = {
        "input_ids": example.input_ids[None],
        "decoder_input_ids": example.decoder_input_ids[None],
    }
    if example.decoder_visible is not None:
        inputs["decoder_attention_mask"] = example.decoder_visible.long()[None]
    return inputs


@EVERY
def test_bits_per_character_equal_a_computation_by_hand(
    kind, goal, checkpoint, documents
):
    """逐行前向，在要考处取对数概率，求和后除以 ln 2 与字数。"""
    model = checkpoint(kind)
    targets = targets_of(model, goal, documents)
    nats, hits, chars = 0.0, 0, 0
    for row in targets.rows:
        with torch.no_grad():
            logits = model.model(**inputs_of(row.example)).logits[0].log_softmax(-1)
        for at, label in enumerate(row.labels.tolist()):
            if label != IGNORE_INDEX:
                nats -= float(logits[at, label])
                hits += int(logits[at].argmax()) == label
                chars += int(row.num_chars[at])
    scores = evaluate(model, goal, documents, block_size=48).scores
    assert scores.bits_per_char == pytest.approx(nats / math.log(2) / chars, rel=1e-5)
    assert scores.accuracy == hits / targets.num_targets
    assert (scores.num_chars, scores.num_targets) == (chars, targets.num_targets)


@EVERY
def test_exactly_the_tokens_missing_from_the_inputs_are_scored(
    kind, goal, checkpoint, documents
):
    """要考的 + 编码器看得见的 = 原文的全部词元，一个不多，一个不少。"""
    model = checkpoint(kind)
    tokenizer = model.tokenizer
    marks = {
        token_id
        for token, token_id in tokenizer.get_vocab().items()
        if "extra_id" in token or token_id == tokenizer.mask_token_id
    }
    special = set(tokenizer.all_special_ids) | marks
    missing = Counter()
    for row in targets_of(model, goal, documents).rows:
        seen = [i for i in row.input_ids.tolist() if i not in special]
        scored = row.labels[row.labels != IGNORE_INDEX].tolist()
        assert special.isdisjoint(scored)
        missing += Counter(scored)
        missing += Counter(seen)
    plain = Counter(
        token
        for document in documents
        for token in tokenizer(document.text, add_special_tokens=False)["input_ids"]
    )
    plain -= Counter({tokenizer.unk_token_id: plain[tokenizer.unk_token_id]})
    # 没有可考词元的行（只有一句、无句可缺）不在评估目标里
    assert missing <= plain
    if goal != "gap_sentences":
        assert missing == plain


@pytest.mark.parametrize(("kind", "goal"), [CASES[0], CASES[3], CASES[5]])
def test_what_is_only_copied_does_not_change_the_score(
    kind, goal, checkpoint, documents
):
    """改动照抄处、哨兵处、结尾处的输出，分数一位不变；改动要考处的才变。"""
    model = checkpoint(kind)
    targets = targets_of(model, goal, documents[:1])
    (row,) = targets.rows
    scored = row.labels != IGNORE_INDEX
    assert 0 < int(scored.sum()) < len(scored)
    before = score_targets(model.model, targets)
    for touched, same in ((~scored, True), (scored, False)):

        def disturb(_module, args, touched=touched):
            states = args[0].clone()  # (1, K, D)，在挑出要考处之前
            states[0, touched] += 3.0
            return (states,)

        hook = model.model.lm_head.register_forward_pre_hook(disturb)
        after = score_targets(model.model, targets)
        hook.remove()
        assert np.array_equal(after.nats, before.nats) == same


@EVERY
def test_scores_do_not_depend_on_the_batch_size(kind, goal, checkpoint, documents):
    """一批一行与一批装下全部，逐行的损失相同。"""
    model = checkpoint(kind)
    one = evaluate(model, goal, documents, batch_tokens=1, block_size=48)
    all_ = evaluate(model, goal, documents, batch_tokens=10**6, block_size=48)
    assert one.nats == pytest.approx(all_.nats, abs=1e-4, rel=1e-5)
    assert one.fingerprint == all_.fingerprint


def test_unknown_characters_are_never_scored(checkpoint):
    """生字变成 <unk>，遮住也不考，另报比率。"""
    bart = checkpoint("bart-chinese")
    text = [Document("龘天齉下靐大龘势分久必合" * 3, "a#1", "a")]
    targets = targets_of(bart, "text_infilling", text)
    scored = {int(i) for row in targets.rows for i in row.labels}
    assert bart.tokenizer.unk_token_id not in scored
    assert 0.2 < targets.unk_rate < 0.6


def test_every_token_of_the_mass_fragment_is_masked_in_the_exam(checkpoint, documents):
    """训练时一成原样保留、一成换成随机词元；评估目标里一律遮住，答案不写在题面上。"""
    bart = checkpoint("bart")
    for row in targets_of(bart, "masked_seq2seq", documents).rows:
        hidden = row.example.hidden
        assert (row.input_ids[hidden] == bart.tokenizer.mask_token_id).all()


# ── 填空与样张 ──────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Question:
    text: str
    answer: str


CLOZES = [
    Question("狡兔死，[MASK][MASK]烹；飞鸟尽，良弓藏。", "走狗"),
    Question("狡兔死，走狗烹；飞鸟尽，良弓[MASK]", "藏"),
    Question("狡兔死，走狗烹；飞鸟尽，良弓", "藏"),  # 没有空
    Question("[MASK]兔死，走狗[MASK]", "狡烹"),  # 两处不相连
    Question("未若柳絮因[MASK]起", "龘"),  # 生字
    Question("未若柳絮因[MASK]起", "风风"),  # 空与答案不等
]


@pytest.mark.parametrize(("kind", "goal"), [CASES[0], CASES[4], CASES[2]])
def test_clozes_that_can_be_asked_are_answered(kind, goal, checkpoint):
    """前两题有答案与名次，其余四题答不了；答案的概率是各步概率之积。"""
    answers = answer_clozes(checkpoint(kind), goal, CLOZES)
    assert [answer is not None for answer in answers] == [True, True, *[False] * 4]
    for answer in answers[:2]:
        assert 0 < answer.answer_probability < answer.guess_probability < 1
        assert answer.rank > 1
        assert not answer.correct


def test_the_probability_of_an_answer_is_that_of_its_tokens_in_turn(checkpoint):
    """BART：照抄到空前，“走”的概率乘以再写“狗”的概率。"""
    bart = checkpoint("bart-chinese")
    tokenizer, model = bart.tokenizer, bart.model
    source = tokenizer("狡兔死，[MASK]烹；飞鸟尽，良弓藏。", return_tensors="pt")
    ids = tokenizer("狡兔死，走狗烹；飞鸟尽，良弓藏。")["input_ids"]
    decoder = torch.tensor([[model.config.decoder_start_token_id, *ids[:-1]]])
    with torch.no_grad():
        logits = model(input_ids=source.input_ids, decoder_input_ids=decoder).logits
    chances = logits[0].softmax(-1)
    expected = chances[5, ids[5]] * chances[6, ids[6]]
    [answer] = answer_clozes(bart, "text_infilling", CLOZES[:1])
    assert answer.answer_probability == pytest.approx(float(expected), rel=1e-4)


def test_samples_are_infillings(checkpoint):
    """样张就是 infill 写的：填好的全文，与写出的各段。"""
    t5 = checkpoint("t5")
    text = "天下[MASK]，分久[MASK]合"
    [sample] = build_samples(t5, "span_corruption", [text])
    written = infill(t5, text)
    assert sample.prompt == text
    assert sample.outputs == (
        ("填好", written.text),
        ("写出的", "／".join(written.fills)),
    )


def test_two_checkpoints_make_a_report_card(checkpoint, documents):
    """前后同一份评估集；样张的题面挖去正中四个字，已有缺处的照旧。"""
    kind, goal = CASES[0]
    before, after = checkpoint(kind, seed=0), checkpoint(kind, seed=1)
    options = {"block_size": 48, "clozes": CLOZES}
    card = compare(before, after, goal, documents, documents[:2], **options)
    assert card.domain.before.num_targets == card.domain.after.num_targets
    assert len(card.clozes) == 2
    texts = ["天下大势，分久必合", "良弓[MASK]"]
    exam = prepare_exam(before, goal, documents, texts=texts, **options)
    assert exam.texts == ("天下[MASK]久必合", "良弓[MASK]")
    assert len(card.samples) == 3
    assert all(pair.prompt.count("[MASK]") == 1 for pair in card.samples)
