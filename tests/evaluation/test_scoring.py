"""打分：每字比特数等于逐个词元亲手算出来的数。"""

import itertools
import math

import pytest
import torch

from companion.batch import IGNORE_INDEX
from companion.corpus.document import Document
from companion.errors import EvaluationError
from companion.evaluation.scoring import batches, evaluate, score_targets
from companion.evaluation.targets import build_targets

KEYS = {
    "bits_per_char",
    "loss_nats_per_token",
    "accuracy",
    "unk_rate",
    "num_chars",
    "num_targets",
    "interval",
}


@pytest.mark.parametrize(
    ("kind", "goal"), [("bert", "masked_lm"), ("gpt2", "causal_lm")]
)
def test_a_uniform_model_costs_exactly_log2_v_per_token(
    kind, goal, checkpoint, documents
):
    """权重全为零的模型均匀乱猜：每词元 ln V 奈特，一字一词元时每字 log₂ V 比特。"""
    uniform = checkpoint(kind)
    with torch.no_grad():
        for parameter in uniform.model.parameters():
            parameter.zero_()
    scores = evaluate(uniform, goal, documents).scores
    vocabulary = uniform.model.config.vocab_size
    assert scores.loss_nats_per_token == pytest.approx(math.log(vocabulary), rel=1e-6)
    if kind == "bert":
        assert scores.num_chars == scores.num_targets
        assert scores.bits_per_char == pytest.approx(math.log2(vocabulary), rel=1e-6)
        assert scores.interval == pytest.approx((scores.bits_per_char,) * 2)


def test_masked_scores_equal_a_computation_by_hand(checkpoint, documents):
    """BERT：逐行前向，在被遮处取对数概率，求和后除以 ln 2 与字数。"""
    bert = checkpoint("bert")
    targets = build_targets(bert.tokenizer, "masked_lm", documents)
    nats, hits, chars = 0.0, 0, 0
    for row in targets.rows:
        with torch.no_grad():
            logits = bert.model(input_ids=row.input_ids[None]).logits[0]
        for at, label in enumerate(row.labels.tolist()):
            if label != IGNORE_INDEX:
                nats -= float(logits[at].log_softmax(-1)[label])
                hits += int(logits[at].argmax()) == label
                chars += int(row.num_chars[at])
    scores = evaluate(bert, "masked_lm", documents).scores
    assert scores.bits_per_char == pytest.approx(nats / math.log(2) / chars, rel=1e-6)
    assert scores.accuracy == hits / targets.num_targets
    assert scores.num_chars == chars


def test_causal_scores_equal_a_computation_by_hand(checkpoint, documents):
    """BLOOM：位置 t−1 的输出对位置 t 的词元，字数是原文减去首个词元的。"""
    bloom = checkpoint("bloom")
    nats, count, chars = 0.0, 0, 0
    for document in documents:
        encoded = bloom.tokenizer(document.text, return_offsets_mapping=True)
        ids = torch.tensor([encoded["input_ids"]])
        with torch.no_grad():
            logits = bloom.model(input_ids=ids).logits[0].log_softmax(-1)
        for t in range(1, ids.shape[1]):
            nats -= float(logits[t - 1, ids[0, t]])
            count += 1
        chars += len(document.text) - encoded["offset_mapping"][0][1]
    scores = evaluate(bloom, "causal_lm", documents).scores
    assert scores.num_targets == count
    assert scores.num_chars == chars
    assert scores.bits_per_char == pytest.approx(nats / math.log(2) / chars, rel=1e-5)


def test_a_sliding_window_gives_the_tokens_the_context_of_their_window(
    checkpoint, documents
):
    """窗口 16、步长 8：每个词元的上文从它所在窗口的起点算起。"""
    gpt2 = checkpoint("gpt2")
    long = Document("".join(d.text for d in documents), "l#1", "l")
    ids = gpt2.tokenizer(long.text)["input_ids"]
    nats = 0.0
    for t in range(1, len(ids)):
        start = 0 if t < 16 else 8 * ((t - 16) // 8 + 1)
        context = torch.tensor([ids[start:t]])
        with torch.no_grad():
            last = gpt2.model(input_ids=context).logits[0, -1]
        nats -= float(last.log_softmax(-1)[ids[t]])
    result = evaluate(gpt2, "causal_lm", [long], block_size=16)
    assert result.scores.num_targets == len(ids) - 1
    assert result.nats.sum() == pytest.approx(nats, rel=1e-5)


@pytest.mark.parametrize(
    "kind", ["bert", "roberta", "convbert", "funnel", "modernbert", "xlm"]
)
def test_masked_scores_do_not_depend_on_the_batch_size(kind, checkpoint, documents):
    """一批一行与一批装下全部，逐行的损失相同：填充没有影响。"""
    model = checkpoint(kind)
    one = evaluate(model, "masked_lm", documents, batch_tokens=1)
    all_ = evaluate(model, "masked_lm", documents, batch_tokens=10**6)
    assert one.nats == pytest.approx(all_.nats, abs=1e-5, rel=1e-6)
    assert one.fingerprint == all_.fingerprint


@pytest.mark.parametrize("kind", ["bloom", "gpt2", "qwen3", "llama", "glm"])
def test_causal_scores_do_not_depend_on_the_batch_size(kind, checkpoint, documents):
    """因果模型右侧的填充也没有影响。"""
    model = checkpoint(kind)
    one = evaluate(model, "causal_lm", documents, batch_tokens=1, block_size=24)
    all_ = evaluate(model, "causal_lm", documents, batch_tokens=10**6, block_size=24)
    assert one.nats == pytest.approx(all_.nats, abs=1e-5, rel=1e-6)


def test_two_checkpoints_with_one_tokenizer_answer_the_same_questions(
    checkpoint, documents
):
    """权重不同，评估目标的指纹相同，分数不同。"""
    first = evaluate(checkpoint("bert", seed=0), "masked_lm", documents)
    second = evaluate(checkpoint("bert", seed=1), "masked_lm", documents)
    assert first.fingerprint == second.fingerprint
    assert (first.chars == second.chars).all()
    assert first.scores.bits_per_char != second.scores.bits_per_char


def test_the_model_returns_to_the_mode_it_came_in(checkpoint, documents):
    """评估期间关掉丢弃法，之后每个子模块各回各的模式，也不留下梯度。"""
    bert = checkpoint("bert")
    bert.model.train()
    frozen = bert.model.bert.encoder.layer[0].eval()
    noisy = evaluate(bert, "masked_lm", documents)
    assert bert.model.training
    assert not any(module.training for module in frozen.modules())
    assert all(parameter.grad is None for parameter in bert.model.parameters())
    bert.model.eval()
    quiet = evaluate(bert, "masked_lm", documents)
    assert noisy.scores == quiet.scores


def test_evaluating_leaves_the_global_random_state_alone(checkpoint, documents):
    """评估夹在训练之间，不能改变训练的随机数。"""
    before = torch.get_rng_state()
    evaluate(checkpoint("bert"), "masked_lm", documents)
    assert torch.equal(before, torch.get_rng_state())


def test_the_dictionary_has_the_keys_of_the_command_line(checkpoint, documents):
    """as_dict 的键名固定，区间夹着估计。"""
    scores = evaluate(checkpoint("bert"), "masked_lm", documents).scores
    assert set(scores.as_dict()) == KEYS
    low, high = scores.as_dict()["interval"]
    assert low <= scores.bits_per_char <= high


def test_a_single_row_has_no_interval(checkpoint, documents):
    """一行估不出区间，如实给 None。"""
    scores = evaluate(checkpoint("bert"), "masked_lm", documents[:1]).scores
    assert scores.interval is None
    assert scores.as_dict()["interval"] is None


def test_a_block_longer_than_the_positions_is_refused(checkpoint, documents):
    """行长超过位置上限时，说出上限。RoBERTa 的位置表有 130 行，只够 128 个词元。"""
    with pytest.raises(EvaluationError, match="128"):
        evaluate(checkpoint("roberta"), "masked_lm", documents, block_size=129)


def test_a_text_longer_than_the_positions_is_cut_into_rows(checkpoint, documents):
    """比位置上限还长的文档切成几行，一个字也不丢。"""
    long = Document("".join(d.text for d in documents) * 4, "l#1", "l")
    bert = checkpoint("bert")
    targets = build_targets(bert.tokenizer, "masked_lm", [long], block_size=128)
    assert len(targets.rows) > 1
    assert sum(int(row.num_chars.sum()) for row in targets.rows) == len(long.text)
    result = score_targets(bert.model, targets)
    again = evaluate(bert, "masked_lm", [long])
    assert result.scores == again.scores


def test_progress_is_reported_up_to_the_last_row(checkpoint, documents):
    """每批之后报一次，最后报到全部行数。"""
    seen: list[tuple[int, int]] = []
    evaluate(
        checkpoint("bert"),
        "masked_lm",
        documents,
        batch_tokens=1,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(n, 4) for n in range(1, 5)]


def test_batches_cover_every_row_once_within_the_budget():
    """各批合起来是全部行，补齐后不超预算，除非只有一行。"""
    lengths = [5, 90, 7, 30, 30, 8, 200]
    found = list(batches(lengths, 100))
    assert sorted(itertools.chain(*found)) == list(range(len(lengths)))
    for batch in found:
        longest = max(lengths[i] for i in batch)
        assert len(batch) == 1 or longest * len(batch) <= 100
