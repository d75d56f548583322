"""一批的损失由几份合成：各除以自己的目标数，再按权重相加。

    损失 = Σ_份 权重 × 损失之和 / 整步的目标数

多数目标只有一份：有标签的词元。句序判断多一份，每行一个目标；替换词元检测多一份，每个
普通词元一个目标，权重 50；片段边界目标多一份，每个有边界的标签一个目标；蒸馏多两份，每
个真有词元的位置一个目标。各份的目标数不同，累积几个小批时要各自相加、各自去除，才与一个
大批相等；所以这里只交出损失之和，除法由训练去做。
"""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from companion.batch import IGNORE_INDEX, Batch
from companion.checkpoints.electra_pair import (
    DISCRIMINATOR_WEIGHT,
    LABEL_KEYS,
    ElectraPair,
    ReplacedTokenLosses,
    submodel_inputs,
)
from companion.losses.distillation import (
    ATTENDED,
    HIDDEN_WEIGHT,
    TEACHER_WEIGHT,
    WORDS_WEIGHT,
    Reading,
    distillation_losses,
)
from companion.losses.sentence_order import ORDER_LABELS, sentence_order_losses
from companion.losses.span_boundary import BORDERS, boundary_losses
from companion.losses.target_head import (
    TargetLosses,
    inner_model,
    last_hidden,
    target_losses,
)

PartName = Literal["words", "order", "detection", "boundary", "teacher", "hidden"]


@dataclass(frozen=True)
class LossPart:
    """一份损失。"""

    name: PartName
    """words 词元，order 句序，detection 真假，boundary 由边界猜片段，teacher 与教师的分
    布之差，hidden 与教师的隐藏状态之差。"""
    weight: float
    losses: TargetLosses


def loss_parts(
    model: Any, batch: Batch, *, causal: bool, reading: Reading | None = None
) -> tuple[LossPart, ...]:
    """前向一次，求各份损失；第一份是日志里的主项。

    Args:
        model: 带输出头的模型或 `ElectraPair`，可以包着 DDP 或 peft。
        batch: 整理器的输出。
        causal: 是否因果语言模型。
        reading: 教师读这一批的所得（`Teacher.read`）；None 表示不蒸馏。

    Raises:
        ModelError: 不认识这个架构的输出头；批量要边界头，而模型没有挂。
    """
    inner = inner_model(model)
    if isinstance(inner, ElectraPair):
        if "sampling_noise" not in batch:  # 考题：假的已经造好
            return (LossPart("detection", 1.0, inner.detect(batch)),)
        found: ReplacedTokenLosses = model(**batch)
        return (
            LossPart("words", 1.0, found.targets),
            LossPart("detection", DISCRIMINATOR_WEIGHT, found.detection),
        )
    if any(name in batch for name in ORDER_LABELS):
        both = sentence_order_losses(model, batch)
        order = TargetLosses(both.order_total_nats, both.order_nats, both.order_correct)
        return LossPart("words", 1.0, both.targets), LossPart("order", 1.0, order)
    if BORDERS not in batch:
        return _word_parts(model, batch, causal, reading)
    inputs = {name: value for name, value in batch.items() if name != BORDERS}
    with last_hidden(inner) as seen:
        parts = _word_parts(model, inputs, causal, reading)
    boundary = boundary_losses(model, seen[0], batch)
    return (*parts, LossPart("boundary", 1.0, boundary))


def _word_parts(
    model: Any, batch: Batch, causal: bool, reading: Reading | None
) -> tuple[LossPart, ...]:
    """词元的一份；有教师时再加两份（隐藏层宽不同则一份）。"""
    if reading is None:
        return (LossPart("words", 1.0, target_losses(model, batch, causal=causal)),)
    found = distillation_losses(model, batch, reading)
    parts = (
        LossPart("words", WORDS_WEIGHT, found.words),
        LossPart("teacher", TEACHER_WEIGHT, found.teacher),
    )
    if found.hidden is None:
        return parts
    return (*parts, LossPart("hidden", HIDDEN_WEIGHT, found.hidden))


def other_targets(batch: Batch) -> dict[PartName, Tensor]:
    """词元之外的各份在这一批里的目标数，标量；只有一份的为空。"""
    targets: dict[PartName, Tensor] = {}  # 有目标处为真
    for key in ORDER_LABELS:
        if key in batch:
            targets["order"] = batch[key] != IGNORE_INDEX
    if "original_ids" in batch:
        targets["detection"] = batch["original_ids"] != IGNORE_INDEX
    if BORDERS in batch:
        targets["boundary"] = batch[BORDERS][..., 0] != IGNORE_INDEX
    if ATTENDED in batch:
        targets["teacher"] = targets["hidden"] = batch[ATTENDED]
    return {name: each.sum() for name, each in targets.items()}


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
    found = getattr(outputs, "logits", None)
    # BERT、ALBERT 的预训练类有两个头，词元的叫 prediction_logits
    return outputs.prediction_logits if found is None else found
