"""线性层与损失合在一起，一块一块地算：前向就把梯度求好，logits 从不整个存在。

形状字母：N 行数，D 宽度，V 词表，C 一块的行数。
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_LOGITS = {"cpu": 1 << 21, "cuda": 1 << 26}
"""一块至多多少个 logits：CPU 上 8 MB，三级缓存装得下；再小，矩阵乘就喂不饱。"""

Judge = Callable[[Tensor, slice, bool], tuple[Tensor, Tensor]]
"""一块 logits (C, V)、是哪几行、要不要梯度 → 各行的损失与对错；要梯度时把 logits 就地变
成损失对它的梯度。"""


class LinearLoss(torch.autograd.Function):
    """线性层与一种损失之和，一块一块地算，前向时就求好梯度。

    每块的 logits 用过就地变成对它的梯度，于是反向不必重算，也不必存 (N, V)。思路同
    Liger Kernel（Hsu 等，2024，§3.2）。子类写 `forward`，说明损失怎样算。
    """

    @staticmethod
    def run(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        training: bool,
        judge: Judge,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(N, D)、(V, D)、(V,) → 损失之和、逐目标损失 (N,)、对错 (N,)。"""

        def buffer(index: int, like: Tensor | None, dtype: torch.dtype) -> Any:
            # 在 torch.no_grad 之下 needs_input_grad 仍为真，所以另看 training
            if like is None or not (training and ctx.needs_input_grad[index]):
                return None
            return torch.zeros_like(like, dtype=dtype)

        grad_hidden = buffer(0, hidden, hidden.dtype)
        grad_weight = buffer(1, weight, torch.float32)
        grad_bias = buffer(2, bias, torch.float32)
        gradients = (grad_hidden, grad_weight, grad_bias)
        wanted = any(gradient is not None for gradient in gradients)
        nats = hidden.new_empty(len(hidden), dtype=torch.float32)
        correct = torch.empty(len(hidden), dtype=torch.bool, device=hidden.device)
        matrix = weight.to(hidden.dtype)  # 混合精度下与隐藏状态同类
        limit = CHUNK_LOGITS.get(hidden.device.type, CHUNK_LOGITS["cuda"])
        size = max(16, limit // len(weight))
        # 单精度时各块写在同一处：每块新要几兆内存，缺页比矩阵乘还费时
        single = hidden.dtype == torch.float32 and not torch.is_autocast_enabled(
            hidden.device.type
        )
        block = hidden.new_empty(min(size, len(hidden)) if single else 0, len(weight))
        for start in range(0, len(hidden), size):
            part = slice(start, start + size)
            rows = hidden[part]
            if single:
                logits = torch.mm(rows, matrix.T, out=block[: len(rows)])
            else:
                logits = F.linear(rows, matrix).float()  # (C, V)
            if bias is not None:
                logits += bias
            nats[part], correct[part] = judge(logits, part, wanted)
            if not wanted:
                continue
            slope = logits.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = slope @ matrix
            if grad_weight is not None and single:
                grad_weight.addmm_(slope.T, rows)
            elif grad_weight is not None:
                grad_weight += slope.T @ rows
            if grad_bias is not None:
                grad_bias += logits.sum(0)
        ctx.save_for_backward(*gradients)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        ctx.mark_non_differentiable(nats, correct)
        return nats.sum(), nats, correct

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, upstream: Tensor, _nats: Any, _correct: Any
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        """上游只有一个标量，各梯度乘以它即可。"""
        hidden, weight, bias = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            None if hidden is None else hidden * upstream.to(hidden.dtype),
            None if weight is None else (weight * upstream).to(weight_dtype),
            None if bias is None else (bias * upstream).to(bias_dtype),
            None,
            None,
        )


class LinearCrossEntropy(LinearLoss):
    """线性层与交叉熵之和；对 logits 的梯度是 softmax 减去独热向量。"""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        training: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(N, D)、(V, D)、(V,)、(N,) → 损失之和、逐目标损失 (N,)、对错 (N,)。"""

        def judge(logits: Tensor, part: slice, wanted: bool) -> tuple[Tensor, Tensor]:
            answers = targets[part, None]  # (C, 1)
            peak, guess = logits.max(1, keepdim=True)
            logits -= peak
            picked = logits.gather(1, answers)
            total = logits.exp_().sum(1, keepdim=True)
            nats = (total.log() - picked)[:, 0]
            if wanted:
                logits /= total
                logits.scatter_add_(1, answers, -torch.ones_like(picked))
            return nats, (guess == answers)[:, 0]

        return LinearLoss.run(ctx, hidden, weight, bias, training, judge)
