"""蒸馏：三份损失与梯度逐个位置手算核对，教师不动，教不了的按名拒绝。"""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from companion.batch import IGNORE_INDEX
from companion.checkpoints.running import adapt_batch
from companion.checkpoints.saving import save_checkpoint
from companion.checkpoints.tiny import TINY_TEXT, tiny_model, tiny_tokenizer
from companion.errors import ModelError
from companion.losses import target_head
from companion.losses.distillation import Teacher, load_teacher
from companion.losses.parts import TeacherLoss
from companion.objectives.masked_lm import MaskedLMCollator

TOKENIZER = tiny_tokenizer("bert")


def batch_of(*, packed: bool = False) -> dict:
    """四行长短不一；`packed` 时末一行装着两篇。"""
    collator = MaskedLMCollator(TOKENIZER, mlm_probability=0.3, mark_attended=True)
    rows = []
    for number in range(4):
        ids, starts = TOKENIZER(TINY_TEXT[number]).input_ids, [0]
        if packed and number == 3:
            starts.append(len(ids))
            ids = ids + TOKENIZER(TINY_TEXT[5]).input_ids
        rows.append({"input_ids": ids, "document_starts": starts, "example_id": number})
    return collator(rows)


def teacher_of(model, *, compares_hidden: bool = True) -> Teacher:
    return Teacher(model.requires_grad_(False).eval(), "教师", compares_hidden)


def parts_of(student, teacher: Teacher, batch: dict):
    return TeacherLoss(teacher)(student, batch)


def by_hand(student, teacher, batch):
    """整块的 logits，一个位置一个位置地照公式算；返回三份各自的逐项损失。"""

    def read(model):
        given = adapt_batch(model, batch)
        inputs = {k: v for k, v in given.items() if k not in ("labels", "attended")}
        outputs = model(**inputs, output_hidden_states=True)
        return outputs.logits, outputs.hidden_states[-1]

    logits, hidden = read(student)
    with torch.no_grad():
        their_logits, their_hidden = read(teacher)
    words, teachers, apart = [], [], []
    for line, row in enumerate(batch["attended"].tolist()):
        for place, real in enumerate(row):
            if not real:
                continue
            mine, theirs = logits[line, place], their_logits[line, place]
            label = batch["labels"][line, place]
            if label != IGNORE_INDEX:
                words.append(mine.logsumexp(0) - mine[label])
            p, q = (theirs / 2).softmax(0), (mine / 2).softmax(0)
            teachers.append(4 * (p * (p / q).log()).sum())
            u, v = hidden[line, place], their_hidden[line, place]
            apart.append(1 - u @ v / (u.norm() * v.norm()))
    return [torch.stack(each) for each in (words, teachers, apart)]


@pytest.mark.parametrize("chunk", [1 << 21, 1])
@pytest.mark.parametrize("packed", [False, True])
def test_the_losses_and_gradients_are_those_of_the_formula(packed, chunk, monkeypatch):
    """三份的权重、逐项的值、合起来的梯度都与手算的相等；分块、打包都一样。"""
    monkeypatch.setattr(target_head, "CHUNK_LOGITS", {"cpu": chunk, "cuda": chunk})
    batch = batch_of(packed=packed)
    student = tiny_model("distilbert", TOKENIZER)
    teacher, twin = tiny_model("bert", TOKENIZER, seed=5), copy.deepcopy(student)
    parts = parts_of(student, teacher_of(teacher), batch)
    assert [part.name for part in parts] == ["words", "teacher", "hidden"]
    assert [part.weight for part in parts] == [2.0, 5.0, 1.0]
    expected = by_hand(twin, teacher, batch)
    counts = TeacherLoss(teacher_of(teacher)).other_targets(batch)
    assert int(counts["teacher"]) == int(counts["hidden"]) == len(expected[1])
    found_loss, wanted_loss = torch.zeros(()), torch.zeros(())
    for part, wanted in zip(parts, expected, strict=True):
        torch.testing.assert_close(
            part.losses.nats, wanted.detach(), rtol=1e-4, atol=1e-5
        )
        found_loss = found_loss + part.weight * part.losses.total_nats / len(wanted)
        wanted_loss = wanted_loss + part.weight * wanted.mean()
    found_loss.backward()
    wanted_loss.backward()
    for (name, mine), theirs in zip(
        student.named_parameters(), twin.parameters(), strict=True
    ):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-6,
                                   msg=name)  # fmt: skip


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
    """同一个模型：KL 与余弦都是 0，首选处处相同，只剩掩码的一份。"""
    student = tiny_model("bert", TOKENIZER)
    batch = batch_of()
    words, teacher, hidden = parts_of(
        student, teacher_of(copy.deepcopy(student)), batch
    )
    assert words.losses.nats.min() > 0
    torch.testing.assert_close(
        teacher.losses.nats, torch.zeros_like(teacher.losses.nats), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(
        hidden.losses.nats, torch.zeros_like(hidden.losses.nats), rtol=0, atol=1e-5
    )
    assert teacher.losses.correct.all()


def test_the_teacher_is_frozen_and_never_drops_out(tmp_path):
    """读过、反向过之后，教师没有一个梯度；两次读到的逐位相同，不动全局随机状态。"""
    folder = save_checkpoint(tiny_model("bert", TOKENIZER), TOKENIZER, tmp_path / "t")
    student = tiny_model("distilbert", TOKENIZER).train()
    teacher = load_teacher(str(folder), student, TOKENIZER)
    assert not any(module.training for module in teacher.model.modules())
    assert not any(weight.requires_grad for weight in teacher.model.parameters())
    batch, before = batch_of(), torch.get_rng_state()
    first, again = (teacher.read(batch) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.scores(slice(None)), again.scores(slice(None)))
    assert torch.equal(first.hidden, again.hidden)
    assert not first.hidden.requires_grad
    sum(p.losses.total_nats for p in parts_of(student, teacher, batch)).backward()
    assert all(weight.grad is None for weight in teacher.model.parameters())


def test_another_width_leaves_the_cosine_out(tmp_path):
    """教师宽些：余弦一项不计，另外两份照旧。"""
    wide = tiny_model("bert", TOKENIZER, hidden_size=48)
    folder = save_checkpoint(wide, TOKENIZER, tmp_path / "t")
    student = tiny_model("bert", TOKENIZER)
    teacher = load_teacher(str(folder), student, TOKENIZER)
    assert not teacher.compares_hidden
    parts = parts_of(student, teacher, batch_of())
    assert [part.name for part in parts] == ["words", "teacher"]


def test_a_head_that_cannot_be_fused_gives_the_same_losses():
    """最后的线性层换成别的类：由整块 logits 算，三份都相等。"""

    class Odd(nn.Linear):
        """不是 nn.Linear 本身，就不合并。"""

    student, batch = tiny_model("bert", TOKENIZER), batch_of()
    teacher = tiny_model("bert", TOKENIZER, seed=5)
    expected = parts_of(student, teacher_of(teacher), batch)
    for model in (student, teacher):
        linear = model.cls.predictions.decoder
        linear.__class__ = Odd
        assert type(model.get_output_embeddings()) is Odd
    found = parts_of(student, teacher_of(teacher), batch)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.losses.nats, other.losses.nats)
        assert torch.equal(one.losses.correct, other.losses.correct)


def test_padding_is_neither_taught_nor_counted():
    """补得更长，三份的逐项损失不变；目标数就是词元数。"""
    batch = batch_of()
    longer = {
        "input_ids": F.pad(batch["input_ids"], (0, 5), value=TOKENIZER.pad_token_id),
        "labels": F.pad(batch["labels"], (0, 5), value=IGNORE_INDEX),
        "attention_mask": F.pad(batch["attention_mask"], (0, 5)),
        "attended": F.pad(batch["attended"], (0, 5)),
    }
    assert int(batch["attended"].sum()) == int(batch["attention_mask"].sum())
    student = tiny_model("bert", TOKENIZER)
    teacher = teacher_of(tiny_model("bert", TOKENIZER, seed=5))
    for short, long in zip(
        parts_of(student, teacher, batch),
        parts_of(student, teacher, longer),
        strict=True,
    ):
        torch.testing.assert_close(short.losses.nats, long.losses.nats)


def test_a_teacher_with_other_words_is_named(tmp_path):
    """词表不同，或词表同而输出头多几行，都说清差在哪里。"""
    student = tiny_model("bert", TOKENIZER)
    other = tiny_tokenizer("roberta")
    folder = save_checkpoint(tiny_model("roberta", other), other, tmp_path / "r")
    with pytest.raises(ModelError, match=r"(?s)教师.*词表.*对不上.*同系列"):
        load_teacher(str(folder), student, TOKENIZER)
    padded = tiny_model("bert", TOKENIZER)
    padded.resize_token_embeddings(len(TOKENIZER) + 3)
    folder = save_checkpoint(padded, TOKENIZER, tmp_path / "p")
    with pytest.raises(ModelError, match=r"(?s)输出头.*有 0 个对不上"):
        load_teacher(str(folder), student, TOKENIZER)
