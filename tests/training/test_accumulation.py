"""名册里的每个目标：几个小批累积，与一个大批的损失、梯度相等。"""

import itertools
from functools import cache

import pytest
import torch
from transformers import AutoModelForPreTraining, TrainerCallback

from companion.checkpoints.electra_pair import ElectraPair
from companion.checkpoints.running import model_options, special_edges
from companion.checkpoints.tiny import TINY_TEXT, tiny_model, tiny_tokenizer
from companion.corpus.packing import BlockDataset, plan_packing
from companion.corpus.pairing import pair_rows
from companion.corpus.tokens import TokenStore
from companion.errors import CompanionError
from companion.losses.distillation import Teacher
from companion.losses.parts import BoundaryLoss, Loss, TeacherLoss, WordLoss
from companion.losses.span_boundary import attach_boundary_head, make_boundary_head
from companion.objectives import OBJECTIVES, Objective
from companion.training.arguments import training_arguments
from companion.training.batching import BatchPlan
from companion.training.data import JoinedRows, TrainingData
from companion.training.trainer import CompanionTrainer

KINDS = {
    "AutoModelForCausalLM": ("gpt2", "llama"),
    "AutoModelForMaskedLM": ("bert",),
    "AutoModelForPreTraining": ("bert",),
    "AutoModelForSeq2SeqLM": ("t5", "bart"),
}
"""每类模型试哪几种，取整理器造得出的头一种。"""
FORMS = [form for goal in OBJECTIVES.values() for form in goal.forms]
"""各目标的各种样子。"""
SPLITS = ([8], [1, 5, 2])
"""八行怎样分成微批量。"""

tokenizer_of = cache(tiny_tokenizer)


class KeepGradients(TrainerCallback):
    """更新之前，抄下每个参数的梯度。"""

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        self.gradients = {
            name: parameter.grad.clone()
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }


def fitting(objective: Objective, **options):
    """合这个目标的极小模型（没有随机失活）、整理器，以及各行；`options` 给整理器。"""
    for kind in KINDS[objective.auto_class]:
        blanks = objective.key == "blank_infilling"
        tokenizer = tokenizer_of("glm_two_row" if blanks else kind)
        tokenizer = objective.with_special_tokens(tokenizer)
        model = model_for(objective, kind, tokenizer)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            elif isinstance(getattr(module, "dropout", None), float):
                module.dropout = 0.0  # BART 写成一个数
        try:
            collator = objective.make_collator(
                tokenizer, **model_options(model, objective), **options
            )
        except CompanionError:
            continue
        return model, collator, eight_rows(tokenizer, pairs=objective.pairs_required)
    pytest.skip(f"没有现成的极小分词器合 {objective.key}")


def model_for(objective: Objective, kind: str, tokenizer):
    """极小的模型；预训练类与一对模型另建，权重同样只由种子决定。"""
    if objective.auto_class != "AutoModelForPreTraining":
        return tiny_model(kind, tokenizer)
    paired = objective.key == "replaced_token"
    maker = tiny_model("electra" if paired else kind, tokenizer)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForPreTraining.from_config(maker.config).eval()
    return ElectraPair(maker, model) if paired else model


def eight_rows(tokenizer, *, pairs: bool = False) -> JoinedRows:
    """八篇长短不一的文字，一篇（或一个句对）一行，各有两三句。"""
    texts = [a + b for a, b in zip(TINY_TEXT[:8], TINY_TEXT[4:12], strict=True)]
    ids = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    store = TokenStore.from_ids(ids, word_ids=[range(len(each)) for each in ids])
    prefix, suffix = special_edges(tokenizer)
    edges = len(prefix) + len(suffix)
    if pairs:  # 每篇与下一篇成对
        sides = [side for n in range(8) for side in (ids[n], ids[(n + 1) % 8])]
        store = TokenStore.from_ids(sides)
        return JoinedRows(
            [pair_rows(store, "documents", (prefix, suffix), (), 128).rows]
        )
    plan = plan_packing(store.lengths, 128, pack=False, overhead_per_piece=edges)
    return JoinedRows([BlockDataset(store, plan, prefix_ids=prefix, suffix_ids=suffix)])


def one_step(made, sizes: list[int], tmp_path, configure, loss: Loss):
    """走一步；返回每目标的损失（各份）、目标数（各份）与梯度。"""
    model, collator, rows = made
    ends = [sum(sizes[:n]) for n in range(len(sizes) + 1)]
    batches = [[(0, row) for row in range(a, b)] for a, b in itertools.pairwise(ends)]
    config = configure(
        tmp_path / str(len(sizes)),
        max_grad_norm=1e9,
        gradient_accumulation_steps=len(sizes),
    )
    keep = KeepGradients()
    plan = BatchPlan(batches, 1, 1.0, int(rows.lengths.sum()), 0, 0)
    trainer = CompanionTrainer(
        model,
        config=config,
        data=TrainingData(rows, plan, None, 128, False, collator),
        collator=collator,
        loss=loss,
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
    targets = {name: sums.targets for name, sums in trainer.tally.parts.items()}
    taken = trainer.tally.take()
    losses = {name: value for name, value in taken.items() if "accuracy" not in name}
    return losses, targets, keep.gradients


def assert_equal_steps(parts, whole):
    """各份损失、各份目标数与每个参数的梯度都相等。"""
    assert whole[1] == parts[1]
    assert whole[1]["words"] > 8
    assert all(count > 0 for count in whole[1].values())
    assert parts[0] == pytest.approx(whole[0], rel=1e-5)
    assert parts[2].keys() == whole[2].keys()
    for name, gradient in whole[2].items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(
            parts[2][name], gradient, rtol=1e-5, atol=1e-5 * scale + 1e-8, msg=name
        )


@pytest.mark.parametrize("objective", FORMS, ids=lambda form: form.collator)
def test_accumulated_batches_equal_one_large_batch(objective, tmp_path, configure):
    """不等分的 1 + 5 + 2 等于一批 8：各份损失、各份目标数与每个参数的梯度。"""
    whole, parts = (
        one_step(fitting(objective), s, tmp_path, configure, objective.make_loss())
        for s in SPLITS
    )
    assert_equal_steps(parts, whole)
    assert (len(whole[1]) > 1) == (objective.auto_class == "AutoModelForPreTraining")


def test_span_boundaries_accumulate_by_their_own_number(tmp_path, configure):
    """片段边界的一份除以自己的目标数，边界头的梯度也在内。"""
    options = {"granularity": "span", "mlm_probability": 0.3, "span_boundary": True}

    def made():
        model, collator, rows = fitting(OBJECTIVES["masked_lm"], **options)
        attach_boundary_head(model, make_boundary_head(model, tmp_path))
        return model, collator, rows

    loss = BoundaryLoss(WordLoss())
    whole, parts = (one_step(made(), s, tmp_path, configure, loss) for s in SPLITS)
    assert_equal_steps(parts, whole)
    assert 0 < whole[1]["boundary"] < whole[1]["words"]
    assert "span_boundary_head.second.weight" in whole[2]


def test_the_lessons_of_a_teacher_accumulate_by_their_own_number(tmp_path, configure):
    """蒸馏的两份各除以真有词元的位置数；与片段边界一起用也一样。"""
    options = {
        "granularity": "span",
        "mlm_probability": 0.3,
        "span_boundary": True,
        "mark_attended": True,
    }
    wise = tiny_model("bert", tokenizer_of("bert"), seed=7).requires_grad_(False)
    teacher = Teacher(wise, "教师", compares_hidden=True)

    def made():
        model, collator, rows = fitting(OBJECTIVES["masked_lm"], **options)
        attach_boundary_head(model, make_boundary_head(model, tmp_path))
        return model, collator, rows

    loss = BoundaryLoss(TeacherLoss(teacher))
    whole, parts = (one_step(made(), s, tmp_path, configure, loss) for s in SPLITS)
    assert_equal_steps(parts, whole)
    assert list(whole[1]) == ["words", "teacher", "hidden", "boundary"]
    assert whole[1]["teacher"] == whole[1]["hidden"] > whole[1]["words"]
