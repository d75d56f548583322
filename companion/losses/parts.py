"""一批的损失由几个损失项合成：各除以自己的目标数，再按权重相加。

    损失 = Σ_项 权重 × 损失之和 / 整步的目标数

多数目标只有一项：有标签的词元（`WordLoss`）。句序判断多一项，每行一个目标；替换词元检测
多一项，每个普通词元一个目标，权重 50；片段边界目标多一项，每个有边界的标签一个目标；
蒸馏多两项，每个真有词元的位置一个目标。各项的目标数不同，累积几个小批时要各自相加、各自去除，
才与一个大批相等；所以这里只交出损失之和，除法由训练去做。

名册里的每个目标写明自己的损失是哪个类（`Objective.loss`）。新的损失也是这样一个类：各项的
名字，一批的各项，与第一项之外各项的目标数。

形状字母：B 行数，L 行长，V 词表，M 普通词元数，R 有两句以上的行数。
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from companion.batch import IGNORE_INDEX, LOSS_WEIGHTS, Batch
from companion.checkpoints.electra_pair import ElectraPair, PairOutputs
from companion.checkpoints.running import (
    LABEL_KEYS,
    ORDER_LABELS,
    adapt_batch,
    inner_model,
    submodel_inputs,
)
from companion.errors import ModelError
from companion.losses.distillation import (
    ATTENDED,
    HIDDEN_WEIGHT,
    TEACHER_WEIGHT,
    WORDS_WEIGHT,
    Teacher,
    distillation_losses,
)
from companion.losses.span_boundary import BORDERS, boundary_losses
from companion.losses.target_head import (
    TargetLosses,
    last_hidden,
    score_logits,
    target_losses,
    word_scores,
)

DISCRIMINATOR_WEIGHT = 50.0
"""判别器那一项的权重（Clark 等，2020，§2 与发布的代码）。"""


@dataclass(frozen=True)
class LossPart:
    """一个损失项。"""

    name: str
    """words 词元，order 句序，detection 真假，boundary 由边界猜片段，teacher 与教师的分
    布之差，hidden 与教师的隐藏状态之差；新的目标可以另起名字。"""
    weight: float
    losses: TargetLosses
    divisor: Tensor | None = None
    """这一批的除数，标量；None 是目标数。"""


class Loss(Protocol):
    """一个目标的损失。"""

    @property
    def names(self) -> tuple[str, ...]:
        """各项的名字；第一项是日志里的主项。"""
        ...

    def __call__(self, model: Any, batch: Batch) -> tuple[LossPart, ...]:
        """前向一次，求各项，次序同 `names`。

        Args:
            model: 带输出头的模型或 `ElectraPair`，可以包着 DDP 或 peft。
            batch: 整理器的输出，与模型在同一设备上。

        Raises:
            ModelError: 不认识这个架构的输出头；批量要边界头，而模型没有挂。
        """
        ...

    def other_targets(self, batch: Batch) -> dict[str, Tensor]:
        """第一项之外，各项在这一批里的目标数，标量；第一项的除数不是标签数的，也在内。"""
        ...


@dataclass(frozen=True)
class WordLoss:
    """有标签的词元上的交叉熵。"""

    causal: bool = False
    """位置 t 的输出对位置 t+1 的标签。"""
    names: tuple[str, ...] = ("words",)

    def __call__(self, model: Any, batch: Batch) -> tuple[LossPart, ...]:
        """见 `Loss`。"""
        batch = adapt_batch(inner_model(model), batch)
        losses = target_losses(model, batch, causal=self.causal)
        return (LossPart("words", 1.0, losses),)

    def other_targets(self, batch: Batch) -> dict[str, Tensor]:
        """没有别的项。"""
        return {}


@dataclass(frozen=True)
class DiffusionLoss(WordLoss):
    """遮住的词元上的交叉熵，各乘权重，除以可遮的词元数：似然的上界，奈特每词元。"""

    def __call__(self, model: Any, batch: Batch) -> tuple[LossPart, ...]:
        """见 `Loss`。"""
        [part] = super().__call__(model, batch)
        return (replace(part, divisor=self.other_targets(batch)["words"]),)

    def other_targets(self, batch: Batch) -> dict[str, Tensor]:
        """可遮的词元数，遮没遮住都算。"""
        return {"words": (batch[LOSS_WEIGHTS] > 0).sum()}


@dataclass(frozen=True)
class OrderLoss:
    """词元，加上句序：有两句以上的每行判一次先后（Lan 等，2020，§3.1）。

    用的是标准的预训练类（`AutoModelForPreTraining`）：ALBERT 的 `sop_classifier`；
    BERT、ERNIE 没有句序的头，用“下一句”的那个，0 仍是“接着”，1 改为“对调”。检查点照旧能
    由 `AutoModelForPreTraining` 与 `AutoModelForMaskedLM` 打开。
    """

    causal: bool = False
    names: tuple[str, ...] = ("words", "order")

    def __call__(self, model: Any, batch: Batch) -> tuple[LossPart, ...]:
        """见 `Loss`；批量没有句序的标签，或模型没有句序的头，也是 `ModelError`。"""
        given = [name for name in ORDER_LABELS if name in batch]
        if not given:
            raise ModelError(
                found=f"批量里只有 {'、'.join(batch)}",
                expected=f"有 {' 或 '.join(ORDER_LABELS)}",
                remedy="用 SentenceOrderCollator 造批量",
            )
        inner, labels = inner_model(model), batch[given[0]]
        inputs = {name: value for name, value in batch.items() if name not in given}
        with _order_logits(_order_classifier(inner)) as seen:
            words = target_losses(model, adapt_batch(inner, inputs), causal=False)
        kept = labels != IGNORE_INDEX  # R 行
        order = score_logits(seen[-1][kept], labels[kept])
        return LossPart("words", 1.0, words), LossPart("order", 1.0, order)

    def other_targets(self, batch: Batch) -> dict[str, Tensor]:
        """判得了先后的行数。"""
        [labels] = [batch[name] for name in ORDER_LABELS if name in batch]
        return {"order": (labels != IGNORE_INDEX).sum()}


@dataclass(frozen=True)
class PairLoss:
    """ELECTRA 的一对：生成器的词元，加上判别器的真假。"""

    causal: bool = False
    names: tuple[str, ...] = ("words", "detection")

    def __call__(self, model: Any, batch: Batch) -> tuple[LossPart, ...]:
        """见 `Loss`。"""
        found: PairOutputs = model(**batch)
        return (
            LossPart("words", 1.0, score_logits(found.word_logits, found.words)),
            LossPart(
                "detection",
                DISCRIMINATOR_WEIGHT,
                _detection(found.scores, found.replaced),
            ),
        )

    def other_targets(self, batch: Batch) -> dict[str, Tensor]:
        """要判真假的词元数。"""
        return {"detection": (batch["original_ids"] != IGNORE_INDEX).sum()}


@dataclass(frozen=True)
class DetectionLoss:
    """评估一对模型：替换已经造好，只由判别器判真假；`labels` 1 是换过，0 是原文。"""

    causal: bool = False
    names: tuple[str, ...] = ("detection",)

    def __call__(self, model: Any, batch: Batch) -> tuple[LossPart, ...]:
        """见 `Loss`。"""
        judged = batch["labels"] != IGNORE_INDEX
        scores = inner_model(model).says_replaced(batch)[judged]
        losses = _detection(scores, batch["labels"][judged] == 1)
        return (LossPart("detection", 1.0, losses),)

    def other_targets(self, batch: Batch) -> dict[str, Tensor]:
        """没有别的项。"""
        return {}


@dataclass(frozen=True)
class BoundaryLoss:
    """在别的损失之外，由片段两侧的词元猜片段里的。"""

    inner: Loss

    @property
    def names(self) -> tuple[str, ...]:
        """里面各项的名字，加上 boundary。"""
        return (*self.inner.names, "boundary")

    def __call__(self, model: Any, batch: Batch) -> tuple[LossPart, ...]:
        """见 `Loss`。"""
        inputs = {name: value for name, value in batch.items() if name != BORDERS}
        with last_hidden(inner_model(model)) as seen:
            parts = self.inner(model, inputs)
        boundary = boundary_losses(model, seen[-1], batch)
        return (*parts, LossPart("boundary", 1.0, boundary))

    def other_targets(self, batch: Batch) -> dict[str, Tensor]:
        """有边界的标签数。"""
        count = (batch[BORDERS][..., 0] != IGNORE_INDEX).sum()
        return {**self.inner.other_targets(batch), "boundary": count}


@dataclass(frozen=True)
class TeacherLoss:
    """词元，加上与教师的分布之差；隐藏层一样宽的，再加隐藏状态之差。"""

    teacher: Teacher

    @property
    def names(self) -> tuple[str, ...]:
        """两项或三项。"""
        hidden = ("hidden",) if self.teacher.compares_hidden else ()
        return ("words", "teacher", *hidden)

    def __call__(self, model: Any, batch: Batch) -> tuple[LossPart, ...]:
        """见 `Loss`。"""
        reading = self.teacher.read(batch)
        batch = adapt_batch(inner_model(model), batch)
        found = distillation_losses(model, batch, reading)
        parts = (
            LossPart("words", WORDS_WEIGHT, found.words),
            LossPart("teacher", TEACHER_WEIGHT, found.teacher),
        )
        if found.hidden is None:
            return parts
        return (*parts, LossPart("hidden", HIDDEN_WEIGHT, found.hidden))

    def other_targets(self, batch: Batch) -> dict[str, Tensor]:
        """真有词元的位置数。"""
        return {name: batch[ATTENDED].sum() for name in self.names[1:]}


def word_model(model: Any) -> Any:
    """猜词元的那个模型：一对里是生成器，别的就是它自己。"""
    inner = inner_model(model)
    return inner.generator if isinstance(inner, ElectraPair) else inner


def word_logits(model: Any, batch: Batch) -> Tensor:
    """每个位置在词表上的分数，(B, L, V)；批量里的标签不交给模型。

    Args:
        model: 单个的模型，或 `ElectraPair`（取生成器的）。
        batch: 批量，与模型在同一设备上；单个的模型要先经过 `adapt_batch`。
    """
    inner = inner_model(model)
    reader = word_model(model)
    if reader is not inner:
        batch = submodel_inputs(reader, batch)
    outputs = reader(**{k: v for k, v in batch.items() if k not in LABEL_KEYS})
    return word_scores(outputs)  # type: ignore[return-value]


def _detection(scores: Tensor, replaced: Tensor) -> TargetLosses:
    """各词元的二元交叉熵；`scores` (M,)，`replaced` (M,) bool。"""
    nats = F.binary_cross_entropy_with_logits(
        scores, replaced.float(), reduction="none"
    )
    return TargetLosses(nats.sum(), nats.detach(), (scores > 0) == replaced)


def _order_classifier(model: Any) -> nn.Module:
    """判断句序的那个头。"""
    heads = getattr(model, "cls", None)
    for head in (
        getattr(model, "sop_classifier", None),
        getattr(heads, "seq_relationship", None),
    ):
        if isinstance(head, nn.Module):
            return head
    raise ModelError(
        found=f"{type(model).__name__} 没有判断句序的头",
        expected="ALBERT、BERT、ERNIE 的预训练类（AutoModelForPreTraining）",
        remedy="换这三种检查点之一，或改用 masked_lm",
    )


@contextmanager
def _order_logits(classifier: nn.Module) -> Generator[list[Tensor]]:
    """期间记下分类头的输出，(B, 2)。"""
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: Tensor) -> None:
        seen.append(output)

    hook = classifier.register_forward_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()
