"""教科书的写法：损失由模型的原始输出逐个位置求，不走本包的输出头。

测试与“模型×目标支持表”（`model_support`）拿它对照。训练时的损失走
`Objective.make_loss`，只在目标上算输出头；两条路各写各的，数值相等才算对。目标有两份的
（句序、真假），这里也各写一份。

形状字母：B 行数，L 行长，K 标签的长度，V 词表大小。
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from companion.batch import IGNORE_INDEX, LOSS_WEIGHTS, Batch
from companion.checkpoints.running import ORDER_LABELS, submodel_inputs, takes
from companion.losses.target_head import cross_attention
from companion.objectives.replaced_token import NOISE_BITS


@dataclass(frozen=True)
class HandLoss:
    """一份损失。"""

    total: Tensor
    """损失之和，奈特，可求导。"""
    count: int
    """目标数。"""
    weight: float = 1.0
    """与别的几份相加时的权重。"""

    @property
    def mean(self) -> Tensor:
        """每个目标的损失。"""
        return self.total / max(1, self.count)


def losses_by_hand(model: Any, batch: Batch, *, causal: bool) -> tuple[HandLoss, ...]:
    """各份损失，次序同 `Objective.make_loss`：先词元，再句序或真假。

    Args:
        model: 带输出头的 transformers 模型，或 `ElectraPair`（只取它的两个模型）。
        batch: 已由 `adapt_batch` 改好的批量。
        causal: 位置 t 的输出对位置 t+1 的标签。
    """
    if hasattr(model, "parts"):
        return _detection(model.parts, batch)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    weights = inputs.pop(LOSS_WEIGHTS, None)
    mask = inputs.pop("cross_attention_mask", None)
    orders = [inputs.pop(name) for name in ORDER_LABELS if name in inputs]
    cache = {"use_cache": False} if takes(model, "use_cache") else {}
    with cross_attention(model, mask):
        outputs = model(**inputs, **cache)
    if weights is not None:
        return (_weighted(outputs.logits, batch["labels"], weights, causal=causal),)
    if not orders:
        return (_cross_entropy(outputs.logits, batch["labels"], causal=causal),)
    words, order = outputs[:2]  # 预训练类：(B, L, V) 与 (B, 2)
    return _cross_entropy(words, batch["labels"]), _cross_entropy(order, orders[0])


def accumulated(batches: Sequence[tuple[HandLoss, ...]]) -> tuple[HandLoss, ...]:
    """几个微批量合成一步：各份的和与目标数各自相加。"""
    return tuple(
        HandLoss(
            torch.stack([each.total for each in part]).sum(),
            sum(each.count for each in part),
            part[0].weight,
        )
        for part in zip(*batches, strict=True)
    )


def objective_by_hand(losses: Sequence[HandLoss]) -> Tensor:
    """要最小化的数：各份除以自己的目标数，按权重相加。"""
    return torch.stack([each.weight * each.mean for each in losses]).sum()


def _cross_entropy(logits: Tensor, labels: Tensor, *, causal: bool = False) -> HandLoss:
    """整块 logits 上逐个位置求交叉熵，标签为 −100 的不计。

    Args:
        logits: (B, K, V)，或一行一个的 (B, V)。
        labels: (B, K)，或 (B,)。
        causal: 见 `losses_by_hand`。
    """
    if causal:
        logits, labels = logits[:, :-1], labels[:, 1:]
    total = F.cross_entropy(
        logits.float().flatten(0, -2),
        labels.flatten(),
        ignore_index=IGNORE_INDEX,
        reduction="sum",
    )
    return HandLoss(total, int((labels != IGNORE_INDEX).sum()))


def _weighted(
    logits: Tensor, labels: Tensor, weights: Tensor, *, causal: bool
) -> HandLoss:
    """掩码扩散：各目标乘以自己的权重，除以可遮的词元数（Nie 等，2025，式 3）。"""
    if causal:
        logits, labels, weights = logits[:, :-1], labels[:, 1:], weights[:, 1:]
    nats = F.cross_entropy(
        logits.float().flatten(0, -2), labels.flatten(), reduction="none"
    )
    return HandLoss((nats * weights.flatten()).sum(), int((weights > 0).sum()))


def _detection(parts: dict[str, Any], batch: Batch) -> tuple[HandLoss, HandLoss]:
    """生成器的交叉熵，与判别器在每个普通词元上的 −ln σ（Clark 等，2020，§2，式 1–3）。

    假由生成器的概率抽来：累积概率头一次超过随机数的那一个。
    """
    generator, judge = parts["generator"], parts["discriminator"]
    labels, original = batch["labels"], batch["original_ids"]  # (B, L)
    logits = generator(**submodel_inputs(generator, batch)).logits.float()
    words = _cross_entropy(logits, labels)
    sums = logits.detach().double().softmax(-1).cumsum(-1)  # (B, L, V)
    lots = batch["sampling_noise"].double() / 2**NOISE_BITS
    drawn = (sums <= lots[..., None]).sum(-1)
    fakes = torch.where(labels != IGNORE_INDEX, drawn, batch["input_ids"])
    scores = judge(**submodel_inputs(judge, {**batch, "input_ids": fakes})).logits
    scores = scores.float().reshape(fakes.shape)
    says = (fakes != original) ^ (judge.config.model_type == "funnel")  # 1 是“原文”
    likelihood = F.logsigmoid(torch.where(says, scores, -scores))
    ordinary = original != IGNORE_INDEX
    detection = -(likelihood * ordinary).sum()
    return words, HandLoss(detection, int(ordinary.sum()), weight=50.0)
