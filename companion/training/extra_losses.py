"""掩码语言建模之外的损失要的东西：片段边界的头。

开训之前备齐，要说的话也在这里写好；没有要求的就是空的，什么也不做。
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from companion.config import TrainingConfig
from companion.models.loading import Checkpoint
from companion.models.locating import BOUNDARY_FILE, locate
from companion.models.span_boundary import (
    SpanBoundaryHead,
    attach_boundary_head,
    make_boundary_head,
)


@dataclass(frozen=True)
class ExtraLosses:
    """备好的各样。"""

    head: SpanBoundaryHead | None = None
    """片段边界的头；没有要求的为 None。"""
    remarks: tuple[str, ...] = ()
    """第一步之前要说的话。"""

    def attach(self, model: Any) -> None:
        """把头挂到要训练的模型上。"""
        if self.head is not None:
            attach_boundary_head(model, self.head)

    def farewell(self, output: Path, say: Callable[[str], None]) -> None:
        """训练完，说清头存在哪里。"""
        if self.head is not None:
            say(
                f"边界头存在 {output / 'model' / BOUNDARY_FILE}，标准的类不读它；"
                "以这个 model/ 再用 span_boundary 训练，就接着用"
            )


def prepare_extra_losses(config: TrainingConfig, checkpoint: Checkpoint) -> ExtraLosses:
    """照设置备齐。

    Args:
        config: 训练设置。
        checkpoint: 要训练的检查点，词表已扩充好。

    Raises:
        ModelError: 检查点里存着的边界头装不上。
    """
    if not config.span_boundary:
        return ExtraLosses()
    folder = locate(config.model).folder
    head = make_boundary_head(checkpoint.model, folder, config.seed)
    size = sum(weight.numel() for weight in head.parameters()) / 1e6
    saved = (folder / BOUNDARY_FILE).is_file()
    origin = f"接着 {folder / BOUNDARY_FILE}" if saved else "从随机练起"
    return ExtraLosses(head, (f"片段边界：边界头 {size:.1f} 百万参数，{origin}",))
