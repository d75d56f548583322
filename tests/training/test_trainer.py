"""训练器：累积与大批相等，损失坏了就停下并说清缘由。"""

import math
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from transformers import TrainerCallback

from companion.batch import IGNORE_INDEX
from companion.checkpoints.running import special_edges
from companion.checkpoints.tiny import TINY_TEXT, tiny_model, tiny_tokenizer
from companion.corpus.packing import BlockDataset, plan_packing
from companion.corpus.tokens import TokenStore
from companion.errors import TrainingError
from companion.losses.parts import LossPart, WordLoss
from companion.losses.target_head import TargetLosses
from companion.objectives import get_objective
from companion.training import loop, train
from companion.training import trainer as trainer_module
from companion.training.arguments import training_arguments
from companion.training.batching import BatchPlan
from companion.training.data import JoinedRows, TrainingData
from companion.training.output import list_checkpoints
from companion.training.trainer import CompanionTrainer, Tally

NO_DROPOUT = {
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
}
CAUSAL = {"bert": False, "gpt2": True}


class KeepGradients(TrainerCallback):
    """更新之前，抄下每个参数的梯度。"""

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        self.gradients = {
            name: parameter.grad.clone()
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }


def eight_rows(kind: str) -> JoinedRows:
    """八篇长短不一的短文，一篇一行。"""
    tokenizer = tiny_tokenizer(kind)
    ids = [
        tokenizer(text, add_special_tokens=False).input_ids for text in TINY_TEXT[:8]
    ]
    store = TokenStore.from_ids(ids)
    prefix, suffix = special_edges(tokenizer)
    plan = plan_packing(store.lengths, 128, pack=False, overhead_per_piece=2)
    return JoinedRows([BlockDataset(store, plan, prefix_ids=prefix, suffix_ids=suffix)])


def collator(kind: str):
    goal = get_objective("causal_lm" if CAUSAL[kind] else "masked_lm")
    return goal.make_collator(tiny_tokenizer(kind))


def one_step(kind: str, sizes: list[int], tmp_path, configure, *, accepts: bool):
    """八行分成这么几个微批量，走一步；返回每目标损失、目标数与梯度。

    `accepts` 为假：模型自称不认 num_items_in_batch，Trainer 会另除以累积步数。
    """
    rows = eight_rows(kind)
    ends = [sum(sizes[:n]) for n in range(len(sizes) + 1)]
    batches = [
        [(0, row) for row in range(ends[n], ends[n + 1])] for n in range(len(sizes))
    ]
    plan = BatchPlan(batches, 1, 1.0, int(rows.lengths.sum()), 0, 0)
    config = configure(
        tmp_path / str(len(sizes)),
        kind,
        max_grad_norm=1e9,
        gradient_accumulation_steps=len(sizes),
    )
    keep = KeepGradients()
    model = tiny_model(kind, **NO_DROPOUT[kind])
    model.accepts_loss_kwargs = accepts
    trainer = CompanionTrainer(
        model,
        config=config,
        data=TrainingData(rows, plan, None, 128, False, None),
        collator=collator(kind),
        loss=WordLoss(causal=CAUSAL[kind]),
        arguments=training_arguments(
            config,
            num_steps=1,
            learning_rate=1e-3,
            precision="fp32",
            device_kind="cpu",
        ),
        callbacks=[keep],
    )
    trainer.train()
    targets = trainer.tally.num_targets
    return trainer.tally.take()["nats_per_target"], targets, keep.gradients


def by_hand(kind: str):
    """整批过一遍模型：交叉熵之和除以目标数，再求梯度。"""
    rows = eight_rows(kind)
    batch = collator(kind)([rows[0, row] for row in range(8)])
    model = tiny_model(kind, **NO_DROPOUT[kind]).train()
    labels = batch.pop("labels")
    logits = model(**batch).logits
    if CAUSAL[kind]:
        logits, labels = logits[:, :-1], labels[:, 1:]
    total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    counts = (labels != IGNORE_INDEX).sum(1)  # (8,)
    loss = total / counts.sum()
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return loss.item(), counts, gradients


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_accumulation_equals_one_large_batch_and_the_sum_by_hand(
    kind, tmp_path, configure
):
    """1×8、4×2、不等分：损失与梯度都等于交叉熵之和 ÷ 目标数，哪怕各批目标数不同。"""
    loss, counts, gradients = by_hand(kind)
    assert len({int(pair.sum()) for pair in counts.view(4, 2)}) > 1
    for sizes, accepts in (([8], True), ([2, 2, 2, 2], True), ([1, 5, 2], False)):
        nats, targets, found = one_step(
            kind, sizes, tmp_path, configure, accepts=accepts
        )
        assert targets == int(counts.sum())
        assert nats == pytest.approx(loss, rel=1e-6)
        assert found.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(
                found[name], gradient, rtol=1e-4, atol=1e-7, msg=name
            )


def bad_after(steps: int, bad: float):
    """前几步照常，然后损失坏掉。"""
    real, calls = WordLoss.__call__, []

    def losses(self, model, batch):
        calls.append(None)
        [part] = real(self, model, batch)
        if len(calls) <= steps:
            return (part,)
        found = part.losses
        worse = TargetLosses(found.total_nats * bad, found.nats * bad, found.correct)
        return (replace(part, losses=worse),)

    return losses


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run(bad, tmp_path, configure, monkeypatch):
    """第 4 步的损失坏了：停在那里，说出步数、精度、学习率与缘由；旧检查点还在。"""
    monkeypatch.setattr(WordLoss, "__call__", bad_after(3, bad))
    output = tmp_path / "输出"
    with pytest.raises(TrainingError) as caught:
        train(configure(output), quiet=True)
    assert "第 4 步" in caught.value.found
    assert "fp32" in caught.value.found
    assert "0.001" in caught.value.found
    assert "学习率太高" in caught.value.found
    assert "learning_rate" in caught.value.remedy
    assert [path.name for path in list_checkpoints(output)] == ["checkpoint-2"]
    assert not (output / "model").exists()


def test_the_log_notices_what_the_device_hid(tmp_path, configure, monkeypatch):
    """GPU 上不逐步查，记日志时才查：步数仍是当时的那一步。"""
    monkeypatch.setattr(CompanionTrainer, "check_gradients", lambda _self: None)
    monkeypatch.setattr(WordLoss, "__call__", bad_after(0, math.nan))
    real = CompanionTrainer.check_finite
    calls = []

    def late(self, nats, step):
        calls.append(step)
        if len(calls) > 1:  # 放过 compute_loss 里的一次
            real(self, nats, step)

    monkeypatch.setattr(CompanionTrainer, "check_finite", late)
    with pytest.raises(TrainingError, match="第 1 步"):
        train(configure(tmp_path / "输出"), quiet=True)


def bad_gradient_after(steps: int):
    """前几步照常，然后损失仍是有限的数，梯度却不是：√0 处的斜率是无穷大。"""
    real, calls = WordLoss.__call__, []

    def losses(self, model, batch):
        calls.append(None)
        [part] = real(self, model, batch)
        if len(calls) <= steps:
            return (part,)
        found, zero = part.losses, next(model.parameters()).sum() * 0
        steep = TargetLosses(found.total_nats + zero.sqrt(), found.nats, found.correct)
        return (replace(part, losses=steep),)

    return losses


@pytest.mark.parametrize("bad_step", [2, 3])
def test_a_gradient_that_is_not_finite_stops_the_run(
    bad_step, tmp_path, configure, monkeypatch
):
    """损失有限而梯度不是，哪怕在最后一步：就停在那一步，不等日志与存盘；什么也不存。"""
    monkeypatch.setattr(WordLoss, "__call__", bad_gradient_after(bad_step - 1))
    output = tmp_path / "输出"
    config = configure(output, max_steps=3, logging_steps=10, save_steps=10)
    with pytest.raises(TrainingError) as caught:
        train(config, quiet=True)
    assert f"第 {bad_step} 步的梯度不是有限的数" in caught.value.found
    assert "学习率太高" in caught.value.found
    assert "learning_rate" in caught.value.remedy
    assert list_checkpoints(output) == []
    assert not (output / "model").exists()


@pytest.mark.parametrize(("bad_step", "logging_steps"), [(3, 2), (3, 10), (5, 4)])
def test_the_step_is_remembered_until_someone_looks(
    bad_step, logging_steps, tmp_path, configure, monkeypatch
):
    """GPU 上不逐步查：记日志或存盘时才发现，说的仍是坏掉的那一步，坏权重不存。"""
    monkeypatch.setattr(WordLoss, "__call__", bad_gradient_after(bad_step - 1))
    monkeypatch.setattr(CompanionTrainer, "check_finite", lambda *_args: None)
    real = CompanionTrainer.check_gradients

    def late(self):
        if sys._getframe(1).f_code.co_name != "_clip_grad_norm":
            real(self)

    monkeypatch.setattr(CompanionTrainer, "check_gradients", late)
    output = tmp_path / "输出"
    config = configure(output, max_steps=6, logging_steps=logging_steps)
    with pytest.raises(TrainingError, match=f"第 {bad_step} 步的梯度"):
        train(config, quiet=True)
    assert list_checkpoints(output)[-1].name == f"checkpoint-{bad_step - 1}"


def test_fp16_may_skip_a_step_whose_gradient_overflowed(
    tmp_path, configure, monkeypatch, no_curve
):
    """fp16 的损失缩放靠溢出来试探：那一步会跳过，不是坏掉。"""
    monkeypatch.setattr(WordLoss, "__call__", bad_gradient_after(0))
    real = loop.training_arguments

    def half(*args, **kwargs):
        arguments = real(*args, **kwargs)
        arguments.fp16 = True
        return arguments

    monkeypatch.setattr(loop, "training_arguments", half)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_args, **_kwargs: None)
    result = train(configure(tmp_path / "输出", max_steps=2), quiet=True)
    assert [row["grad_norm"] for row in result.log] == [None, None]


def test_fp16_is_blamed_for_its_overflow(tmp_path, configure):
    """fp16 的缘由与办法不同于学习率太高。"""
    arguments = SimpleNamespace(fp16=True, bf16=False, learning_rate=1e-3)
    error = trainer_module._not_finite("损失", 7, configure(tmp_path), arguments)
    assert "fp16 溢出" in error.found
    assert "bf16" in error.remedy


def losses(*nats: float, correct: int = 0) -> LossPart:
    values = torch.tensor(nats)
    found = TargetLosses(values.sum(), values, torch.arange(len(nats)) < correct)
    return LossPart("words", 1.0, found)


def test_the_tally_weighs_every_target_equally():
    """一批 1 个目标、一批 3 个：每个目标同样重，而不是每批同样重。"""
    tally = Tally()
    tally.add(losses(4.0, correct=1))
    tally.add(losses(0.0, 1.0, 1.0, correct=2))
    assert tally.take() == {"nats_per_target": 1.5, "accuracy": 0.75}
    assert tally.take() == {"nats_per_target": 0.0, "accuracy": 0.0}
    assert tally.total_targets == 4


def test_the_tally_survives_a_checkpoint(tmp_path):
    """存下再读回：总数与还没写进日志的几步都在，一位不差。"""
    tally = Tally()
    tally.add(losses(1.0))
    tally.take()
    tally.add(losses(0.1, 0.2, 0.7, correct=1))
    tally.save(tmp_path)
    other = Tally()
    other.load(tmp_path)
    assert other.total_targets == 4
    assert other.take() == tally.take()
