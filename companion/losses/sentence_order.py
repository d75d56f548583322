"""句序判断的损失：掩码与句序各自平均，再相加（Lan 等，2020，§3.1）。

    损失 = 1/N Σ 每个被遮词元的交叉熵 + 1/R Σ 每行句序的交叉熵

用的是标准的预训练类（`AutoModelForPreTraining`）：ALBERT 的 `sop_classifier`；BERT 与
ERNIE 没有句序的头，用“下一句”的那个，0 仍是“接着”，1 改为“对调”。检查点照旧能由
`AutoModelForPreTraining` 与 `AutoModelForMaskedLM` 打开。

形状字母：B 行数，N 被遮的词元数，R 有两句以上的行数。
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from companion.batch import IGNORE_INDEX, Batch
from companion.errors import ModelError
from companion.losses.target_head import TargetLosses, inner_model, target_losses
from companion.preflight.probing import takes

ORDER_LABELS = ("sentence_order_label", "next_sentence_label")
"""ALBERT 的标签名，BERT 与 ERNIE 的标签名。"""


@dataclass(frozen=True)
class SentenceOrderLosses:
    """一批的两份损失。"""

    targets: TargetLosses
    """被遮的词元。"""
    order_total_nats: Tensor
    """各行句序的损失之和，标量 float32，可求导；没有这样的行时为 0。"""
    order_nats: Tensor
    """(R,) float32，不求导。"""
    order_correct: Tensor
    """判断对了为真，(R,) bool。"""
    skipped: int
    """只有一句、没有计入的行数。"""

    @property
    def loss(self) -> Tensor:
        """两份各自平均再相加，与标准类给了两种标签时的 `loss` 相等。"""
        words = self.targets.total_nats / max(1, len(self.targets.nats))
        return words + self.order_total_nats / max(1, len(self.order_nats))


def sentence_order_losses(model: nn.Module, batch: Batch) -> SentenceOrderLosses:
    """前向一次，求两份损失。

    Args:
        model: 标准的预训练类，可以包着 DDP 或 peft。
        batch: `SentenceOrderCollator` 的输出。

    Raises:
        ModelError: 批量里没有句序的标签，或模型没有判断句序的头。
    """
    names = [name for name in ORDER_LABELS if name in batch]
    if not names:
        raise ModelError(
            found=f"批量里只有 {'、'.join(batch)}",
            expected=f"有 {' 或 '.join(ORDER_LABELS)}",
            remedy="用 SentenceOrderCollator 造批量",
        )
    labels = batch[names[0]]
    inputs = {name: value for name, value in batch.items() if name not in names}
    with _order_logits(order_classifier(inner_model(model))) as seen:
        targets = target_losses(model, inputs, causal=False)
    kept = labels != IGNORE_INDEX
    logits = seen[0].float()[kept]  # (R, 2)
    nats = F.cross_entropy(logits, labels[kept], reduction="none")
    return SentenceOrderLosses(
        targets=targets,
        order_total_nats=nats.sum(),
        order_nats=nats.detach(),
        order_correct=logits.argmax(-1) == labels[kept],
        skipped=int((~kept).sum()),
    )


def order_classifier(model: Any) -> nn.Module:
    """判断句序的那个头。

    Raises:
        ModelError: 模型没有这样的头。
    """
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


def order_label(model: Any) -> str:
    """句序的标签在这个模型里叫什么；整理器的 `order_label` 照它设。

    Raises:
        ModelError: 模型不收句序的标签。
    """
    for name in ORDER_LABELS:
        if takes(model, name):
            return name
    raise ModelError(
        found=f"{type(model).__name__} 不收句序的标签",
        expected="ALBERT、BERT、ERNIE 的预训练类（AutoModelForPreTraining）",
        remedy="换这三种检查点之一，或改用 masked_lm",
    )


def judges_order(kind: Any) -> bool:
    """这个模型类收不收句序的标签。"""
    return any(takes(kind, name) for name in ORDER_LABELS)


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
