"""片段边界目标的头：由片段外侧两个词元的隐藏状态，猜片段里的词元。

    h₀ = [h_{s−1}; h_{e+1}; p_{i−s+1}]
    h₁ = LayerNorm(GeLU(W₁ h₀))
    y  = LayerNorm(GeLU(W₂ h₁))，再过词嵌入与一个自己的偏置
    损失 = 掩码语言建模 + 片段边界，各自平均                   （Joshi 等，2020，§3.2）

位置嵌入宽 200，共 `MAX_BORDER_TARGETS` 个；初值与 BERT 的一样，正态，标准差 0.02，都
照发布的代码（`pair_bert.py`）。输出的词嵌入就是模型输出头的那一份，宽度随它（ALBERT
的比隐藏层窄）。

标准的类里没有这个头。训练时它挂在模型上（DDP、优化器、梯度裁剪因此都认得它），存盘时摘
下，另存成 `span_boundary.safetensors`：检查点照旧由 `AutoModelForMaskedLM` 打开，不多一
个键；续训与下一次训练从这个文件接着用。评估不用它。

形状字母：B 行数，L 行长，K 有边界的标签数，D 隐藏层宽，E 词嵌入宽，V 词表。
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from companion.batch import IGNORE_INDEX, Batch
from companion.checkpoints.locating import BOUNDARY_FILE
from companion.checkpoints.running import inner_model, text_config
from companion.checkpoints.saving import BOUNDARY_HEAD, boundary_head
from companion.errors import ModelError, reason_of
from companion.losses.target_head import LastLayer, TargetLosses
from companion.objectives.masked_lm import MAX_BORDER_TARGETS

BORDERS = "span_borders"
"""边界在批量里的名字。"""
POSITION_WIDTH = 200
"""位置嵌入的宽度，照发布的代码。"""
_STD, _EPSILON = 0.02, 1e-12


class SpanBoundaryHead(nn.Module):
    """边界头。

    Args:
        hidden_width: 隐藏层宽 D。
        word_width: 输出词嵌入的宽 E。
        vocab_size: 词表 V。
    """

    def __init__(self, hidden_width: int, word_width: int, vocab_size: int) -> None:
        super().__init__()
        self.positions = nn.Embedding(MAX_BORDER_TARGETS, POSITION_WIDTH)
        self.first = nn.Linear(2 * hidden_width + POSITION_WIDTH, hidden_width)
        self.first_norm = nn.LayerNorm(hidden_width, eps=_EPSILON)
        self.second = nn.Linear(hidden_width, word_width)
        self.second_norm = nn.LayerNorm(word_width, eps=_EPSILON)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        for module in (self.positions, self.first, self.second):
            nn.init.normal_(module.weight, std=_STD)
        for module in (self.first, self.second):
            nn.init.zeros_(module.bias)

    def forward(self, hidden: Tensor, borders: Tensor) -> Tensor:
        """最后一层的隐藏状态 (B, L, D)、边界 (B, L, 2) → K 个目标的表示 (K, E)。

        目标的次序是逐行逐位置。
        """
        rows, places = (borders[..., 0] != IGNORE_INDEX).nonzero(as_tuple=True)
        left, right = borders[rows, places].unbind(-1)
        sides = [hidden[rows, left], hidden[rows, right]]
        inside = self.positions(places - left - 1)  # 片段的第一个词元用第一个位置
        x = F.gelu(self.first(torch.cat([*sides, inside], dim=-1)))  # (K, D)
        return self.second_norm(F.gelu(self.second(self.first_norm(x))))


def boundary_losses(model: Any, hidden: Tensor, batch: Batch) -> TargetLosses:
    """片段边界的损失项。

    Args:
        model: 挂了边界头的模型，可以包着 DDP 或 peft。
        hidden: 最后一层的隐藏状态，(B, L, D)。
        batch: `MaskedLMCollator(span_boundary=True)` 的输出。

    Raises:
        ModelError: 模型没有挂边界头。
    """
    inner, head = inner_model(model), boundary_head(model)
    if head is None:
        raise ModelError(
            found=f"批量里有 {BORDERS}，{type(inner).__name__} 却没有边界头",
            expected="挂了边界头的模型",
            remedy="先用 attach_boundary_head 挂上，或让整理器不给边界",
        )
    borders = batch[BORDERS]
    targets = batch["labels"][borders[..., 0] != IGNORE_INDEX]  # (K,)
    words = inner.get_output_embeddings().weight
    return LastLayer(head(hidden, borders), words, head.bias).cross_entropy(targets)


def make_boundary_head(model: Any, folder: Path, seed: int = 0) -> SpanBoundaryHead:
    """给模型配一个边界头：文件夹里存着的，没有就由种子随机产生。

    Args:
        model: 带输出头的模型。
        folder: 检查点的文件夹。
        seed: 随机初值的种子；全局随机状态原样不动。

    Raises:
        ModelError: 存着的头与模型不合，或读不出来。
    """
    inner = inner_model(model)
    vocab_size, word_width = inner.get_output_embeddings().weight.shape
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        head = SpanBoundaryHead(text_config(model).hidden_size, word_width, vocab_size)
    if (folder / BOUNDARY_FILE).is_file():
        load_boundary_head(head, folder)
    return head


def attach_boundary_head(model: Any, head: SpanBoundaryHead) -> None:
    """把边界头挂到模型上，移到同一设备。"""
    inner = inner_model(model)
    inner.add_module(BOUNDARY_HEAD, head.to(inner.device))


def load_boundary_head(head: SpanBoundaryHead, folder: Path) -> None:
    """读回 `save_boundary_head` 存下的；此后扩充了词表的，新词元的偏置为 0。

    Raises:
        ModelError: 读不出来，或与这个头的形状不同。
    """
    file = folder / BOUNDARY_FILE
    try:
        saved = load_file(file)
        bias = torch.zeros_like(head.bias, device="cpu")
        bias[: len(saved["bias"])] = saved["bias"]
        head.load_state_dict({**saved, "bias": bias})
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise ModelError(
            found=f"{file} 里的边界头装不上：{reason_of(error)}",
            expected="与这个模型一同存下的边界头",
            remedy="删去这个文件，边界头就从随机练起；或换回与它配套的检查点",
        ) from error
