"""掩码语言建模之外的损失要的东西：片段边界的头，蒸馏的教师。

开训之前备齐、核对，要说的话也在这里写好；没有要求的就是空的，什么也不做。
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from companion.checkpoints.loading import Checkpoint
from companion.checkpoints.locating import BOUNDARY_FILE, locate
from companion.checkpoints.running import position_limit
from companion.config import TrainingConfig
from companion.errors import ConfigError
from companion.losses.distillation import (
    HIDDEN_WEIGHT,
    TEACHER_WEIGHT,
    TEMPERATURE,
    WORDS_WEIGHT,
    Teacher,
    load_teacher,
)
from companion.losses.parts import BoundaryLoss, Loss, TeacherLoss
from companion.losses.span_boundary import (
    SpanBoundaryHead,
    attach_boundary_head,
    make_boundary_head,
)
from companion.objectives import Objective
from companion.training.data import choose_block_size


@dataclass(frozen=True)
class ExtraLosses:
    """备好的各样。"""

    head: SpanBoundaryHead | None = None
    """片段边界的头；没有要求的为 None。"""
    teacher: Teacher | None = None
    """蒸馏的教师；同上。"""
    remarks: tuple[str, ...] = ()
    """第一步之前要说的话。"""

    def attach(self, model: Any) -> None:
        """把头挂到要训练的模型上。"""
        if self.head is not None:
            attach_boundary_head(model, self.head)

    def loss(self, objective: Objective) -> Loss:
        """这次训练的损失：目标自己的，加上要的几项。"""
        loss: Loss = objective.make_loss()
        if self.teacher is not None:
            loss = TeacherLoss(self.teacher)
        return loss if self.head is None else BoundaryLoss(loss)

    def move_teacher(self, device: Any) -> None:
        """教师移到训练的设备上；它不在模型之内，不存盘，每个进程各有一份。"""
        if self.teacher is not None:
            self.teacher.model.to(device)

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
        ModelError: 检查点里存着的边界头装不上；教师打不开，或词表与学生的不同。
        ConfigError: 一行比教师读得了的长。
    """
    head, teacher = None, None
    remarks: list[str] = []
    if config.span_boundary:
        folder = locate(config.model).folder
        head = make_boundary_head(checkpoint.model, folder, config.seed)
        saved = (folder / BOUNDARY_FILE).is_file()
        origin = f"接着 {folder / BOUNDARY_FILE}" if saved else "从随机练起"
        remarks.append(f"片段边界：边界头 {_millions(head)} 百万参数，{origin}")
    if config.teacher is not None:
        teacher = _fitting_teacher(config, checkpoint)
        remarks += _introduction(teacher, checkpoint.model)
    return ExtraLosses(head, teacher, tuple(remarks))


def _fitting_teacher(config: TrainingConfig, checkpoint: Checkpoint) -> Teacher:
    """教得了这个学生、读得了一行的教师。"""
    teacher = load_teacher(str(config.teacher), checkpoint.model, checkpoint.tokenizer)
    block_size = choose_block_size(config, checkpoint.model)
    limit = position_limit(teacher.model)
    if limit is not None and block_size > limit:
        raise ConfigError(
            found=f"一行 {block_size} 个词元，教师 {teacher.name} 至多读 {limit} 个",
            expected=f"block_size 不大于 {limit}，师生读同样的行",
            remedy=f"用 --set block_size={limit}，或换一个能读更长的教师",
        )
    return teacher


def _introduction(teacher: Teacher, student: Any) -> list[str]:
    """教师是谁，损失怎样合成，哪一项不计。"""
    cosine = f" + {HIDDEN_WEIGHT:g}·余弦" if teacher.compares_hidden else ""
    said = [
        f"蒸馏：教师 {teacher.name}（{_millions(teacher.model)} 百万参数，冻结），"
        f"损失 = {WORDS_WEIGHT:g}·掩码 + {TEACHER_WEIGHT:g}·KL"
        f"（温度 {TEMPERATURE:g}）{cosine}"
    ]
    if not teacher.compares_hidden:
        wide, narrow = (m.config.hidden_size for m in (teacher.model, student))
        said.append(f"注意：教师的隐藏层宽 {wide}，学生的宽 {narrow}，余弦一项不计")
    return said + [f"教师：{notice}" for notice in teacher.notices]


def _millions(module: Any) -> str:
    return f"{sum(weight.numel() for weight in module.parameters()) / 1e6:.1f}"
