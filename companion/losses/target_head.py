"""只在有标签的位置上计算输出头，并直接给出逐目标的损失。

掩码语言建模只有约 15% 的位置有标签，整行过输出头，大半是白算；25 万词的词表下，因果模型
的 logits 比模型本身还大。这里用前向钩子在输出头入口挑出有目标的行，再让最后的线性层与交
叉熵合在一起、一块一块地算（`linear_loss`）：前向就把梯度求好，logits 从不整个存在。

钩子只在一次前向之内存在，模型不留痕迹；计算发生在模型自己的 forward 里，因此 DDP、
FSDP2、梯度检查点照常工作。

形状字母：B 行数，L 行长，N 要算的位置数，D 宽度，E 最后一层的宽，V 词表，C 一块的行数。
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from companion.batch import IGNORE_INDEX, Batch
from companion.errors import ModelError
from companion.losses.linear_loss import LinearCrossEntropy

T = TypeVar("T")

HEAD_NAMES = (
    "cls",  # BERT、ERNIE
    "lm_head",  # GPT-2、BLOOM、Llama、Qwen、RoBERTa、Funnel
    "predictions",  # ALBERT
    "vocab_transform",  # DistilBERT
    "generator_predictions",  # ELECTRA、ConvBERT
    "pred_layer",  # XLM、FlauBERT
    "head",  # ModernBERT
)
"""各架构输出头入口的属性名；入口收到最后一层的隐藏状态。"""

POST_HEAD_SETTINGS = (
    "final_logit_softcapping",  # Gemma 2
    "logit_scale",  # Cohere
    "logits_scaling",  # Granite
    "logits_soft_cap",  # RecurrentGemma
    "output_logit_soft_cap",  # xLSTM
)
"""在线性层之后还要改 logits 的设置；有它们就不能在线性层里直接求损失。"""


@dataclass(frozen=True)
class TargetLosses:
    """一批的损失；N 个目标的次序是逐行逐位置。"""

    total_nats: Tensor
    """全部目标的损失之和，标量 float32，可求导；除以整步的目标数才是要优化的量。"""
    nats: Tensor
    """每个目标的损失，(N,) float32，不求导。"""
    correct: Tensor
    """概率最大的词元就是目标时为真，(N,) bool。"""


def widest_float(device: torch.device) -> torch.dtype:
    """这种设备上最宽的浮点类型：Apple GPU（mps）没有双精度，别的都有。

    >>> widest_float(torch.device("mps")), widest_float(torch.device("cpu"))
    (torch.float32, torch.float64)
    """
    return torch.float32 if device.type == "mps" else torch.float64


def target_positions(labels: Tensor, *, causal: bool) -> Tensor:
    """有目标的标签位置，(B, L) bool；因果模型第 0 列没有上文，不算。"""
    positions = labels != IGNORE_INDEX
    if causal:
        positions = positions.clone()
        positions[:, 0] = False
    return positions


def target_losses(model: nn.Module, batch: Batch, *, causal: bool) -> TargetLosses:
    """前向一次，求每个目标的交叉熵。

    与 `model(**batch)` 的 logits 上逐位置求交叉熵相等（测试逐架构核对），只是不算没有目
    标的位置。因果模型由位置 t−1 的输出对位置 t 的标签，移位在这里做。

    Args:
        model: 带输出头的 transformers 模型，可以包着 DDP 或 peft。
        batch: 整理器的输出，含 `labels` (B, L) int64。
        causal: 是否因果语言模型。

    Returns:
        N 个目标的损失与对错；没有目标时 N 为 0，`total_nats` 为 0。

    Raises:
        ModelError: 不认识这个架构的输出头。
    """
    labels = batch["labels"]
    positions = target_positions(labels, causal=causal)
    targets = labels[positions]  # (N,)
    rows = positions.roll(-1, dims=1) if causal else positions  # 预测由哪一行作出
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    inner = inner_model(model)
    apart = cross_attention(inner, inputs.pop("cross_attention_mask", None))

    def score(last: LastLayer) -> tuple[TargetLosses, Tensor]:
        losses = last.cross_entropy(targets)
        return losses, losses.total_nats

    def score_whole(logits: Tensor) -> TargetLosses:
        return score_logits(logits, targets)

    with apart, scoring_head(inner, rows, score, score_whole) as read:
        return read(model(**inputs))


@contextmanager
def cross_attention(model: Any, mask: Tensor | None) -> Generator[None]:
    """期间解码器看编码器时另用一张掩码。

    transformers 的编码器–解码器只收一个 `attention_mask`，编码器的自注意力与交叉注意力
    共用；两个栈不等长时，一张四维掩码顾不了两头。这里让编码器照旧用它，到解码器门口再把
    传进去的那一份换掉。一切仍在模型自己的 forward 里，DDP、FSDP2 与自动混合精度因此都照
    管得到。

    Args:
        model: 编码器–解码器，不带外壳。
        mask: 加性掩码，(B, 1, K, L)；None 表示不换。
    """
    if mask is None:
        yield
        return

    def swap(
        _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, {**kwargs, "encoder_attention_mask": mask}

    hook = model.get_decoder().register_forward_pre_hook(swap, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def inner_model(model: Any) -> Any:
    """剥去 DDP 与 peft 的外壳。"""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def output_head(model: Any) -> nn.Module:
    """输出头的入口模块。

    Raises:
        ModelError: `HEAD_NAMES` 里没有一个属性是这个模型的。
    """
    for name in HEAD_NAMES:
        head = getattr(model, name, None)
        if isinstance(head, nn.Module):
            return head
    raise ModelError(
        found=f"{type(model).__name__} 没有认得的输出头",
        expected=f"属性 {'、'.join(HEAD_NAMES)} 之一",
        remedy="用带语言建模头的类打开检查点（AutoModelForMaskedLM、"
        "AutoModelForCausalLM）",
    )


@contextmanager
def last_hidden(model: Any) -> Generator[list[Tensor]]:
    """期间记下输出头收到的隐藏状态，(B, L, D)：最后一层的，挑行之前的。

    Args:
        model: 带输出头的模型，不带外壳。

    Raises:
        ModelError: 不认识这个架构的输出头。
    """
    seen: list[Tensor] = []

    def keep(_module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0])

    hook = output_head(model).register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()


@dataclass(frozen=True)
class LastLayer:
    """输出头最后的线性层：收到的与自己的。"""

    input: Tensor
    """(N, E)。"""
    weight: Tensor
    """(V, E)。"""
    bias: Tensor | None
    """(V,)。"""

    def cross_entropy(self, targets: Tensor) -> TargetLosses:
        """各行对 `targets` (N,) 的交叉熵；logits 不整个存在。"""
        grad = torch.is_grad_enabled()
        total, nats, correct = LinearCrossEntropy.apply(
            self.input, self.weight, self.bias, targets, grad
        )  # type: ignore[misc]
        return TargetLosses(total, nats, correct)

    def logits(self, part: slice) -> Tensor:
        """其中几行的 logits，(C, V) float32。"""
        rows = self.input[part]
        return F.linear(rows, self.weight.to(rows.dtype), self.bias).float()


@contextmanager
def scoring_head(
    model: Any,
    rows: Tensor,
    score: Callable[[LastLayer], tuple[T, Tensor]],
    score_whole: Callable[[Tensor], T],
) -> Generator[Callable[[Any], T]]:
    """在这段时间里，输出头只算 `rows`，最后的线性层改为就地打分。

    Args:
        model: 带输出头的模型，不带外壳。
        rows: 算哪些位置，(B, L) bool；共 N 个。
        score: 由最后的线性层打分；另交出一个标量，模型把它当作 logits 原样带出。
        score_whole: 由整块 logits (N, V) 打分，给不能合并计算的架构。

    Yields:
        一个函数，由模型的输出读出打分的结果。
    """

    def select(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][rows], *args[1:])  # (B, L, D) → (N, D)

    linear = model.get_output_embeddings()
    fused = (
        type(linear) is nn.Linear
        and "forward" not in vars(linear)  # 别人已换过 forward（如 accelerate 的卸载）
        and not any(getattr(model.config, name, None) for name in POST_HEAD_SETTINGS)
    )
    kept: list[T] = []

    # BART 一族在线性层之后加一个偏置（缓冲区，不训练）；与线性层自己的偏置是一回事
    after = getattr(model, "final_logits_bias", None)

    def replaced(input: Tensor) -> Tensor:
        bias = linear.bias
        if after is not None:
            bias = after[0] if bias is None else bias + after[0]
        found, shown = score(LastLayer(input, linear.weight, bias))
        kept.append(found)
        return shown.view(1, 1)

    hook = output_head(model).register_forward_pre_hook(select)
    if fused:
        linear.forward = replaced
    try:
        yield lambda outputs: kept.pop() if fused else score_whole(outputs.logits)
    finally:
        hook.remove()
        if fused:
            del linear.forward  # 露出类里的 forward


def score_logits(logits: Tensor, targets: Tensor) -> TargetLosses:
    """由整块 logits (N, V) 求损失：不能合并计算的架构走这条路。"""
    nats = F.cross_entropy(logits.float(), targets, reduction="none")
    return TargetLosses(nats.sum(), nats.detach(), logits.argmax(-1) == targets)
