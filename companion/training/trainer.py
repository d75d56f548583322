"""在 `transformers.Trainer` 上换掉四处：损失、数据、学习率、存盘。

其余（混合精度、梯度累积、多卡、优化器、随机数状态）都是 Trainer 自己的。

**损失**除以整步的目标数。Trainer 对 BERT、T5 这类模型会把损失与梯度放大
`gradient_accumulation_steps` 倍（huggingface/transformers#47688）；这里自己求和再除，几
个小批累积与一个大批相等（只差浮点舍入），目标数各不相同也不例外。
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from companion.batch import Batch, Feature
from companion.config import TrainingConfig
from companion.errors import TrainingError
from companion.models.leaks import adapt_batch
from companion.models.target_head import TargetLosses, inner_model, target_losses
from companion.training.batching import PlannedSampler
from companion.training.checkpoints import STAGING, staged
from companion.training.data import TrainingData
from companion.training.schedule import make_scheduler
from companion.training.team import ALONE, Team

_NEVER = 2**62
"""还没有哪一步坏掉。"""


class CompanionTrainer(Trainer):
    """按排定的批次训练，损失只在目标上求和。

    Args:
        model: 带输出头的模型。
        config: 训练设置。
        data: 排定的训练数据。
        collator: 训练目标的整理器。
        causal: 是否因果语言模型。
        arguments: `training_arguments` 的结果。
        callbacks: Trainer 的回调。
        team: 一同训练的进程。
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        config: TrainingConfig,
        data: TrainingData,
        collator: Callable[[list[Feature]], Batch],
        causal: bool,
        arguments: TrainingArguments,
        callbacks: list[TrainerCallback],
        team: Team = ALONE,
    ) -> None:
        self.settings = config
        self.team = team
        self.data = data
        self.causal = causal
        self.tally = Tally()
        self._broken_step: Tensor | None = None
        super().__init__(
            model=model,
            args=arguments,
            data_collator=collator,
            train_dataset=data.rows,  # type: ignore[arg-type]
            callbacks=callbacks,
        )
        # 损失已除以整步的目标数，Trainer 不必再按累积步数缩放
        self.model_accepts_loss_kwargs = True

    def get_train_dataloader(self) -> DataLoader[Any]:
        """整次训练一个加载器；每个进程自取一份，不经 accelerate 再分。"""
        workers = self.settings.dataloader_num_workers
        return DataLoader(
            self.data.rows,  # type: ignore[arg-type]
            batch_sampler=PlannedSampler(
                self.data.plan, self.args.process_index, self.args.world_size
            ),
            collate_fn=self.data_collator,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=self.args.device.type == "cuda",
        )

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """目标上的损失之和，除以整步（全部微批量、全部进程）的目标数。

        Raises:
            TrainingError: 损失不是有限的数；消息说明是哪一步、多半为什么。
        """
        batch = adapt_batch(inner_model(model), inputs)
        losses = target_losses(model, batch, causal=self.causal)
        count = num_items_in_batch
        if count is None:
            count = max(1, len(losses.nats))
        loss = losses.total_nats / count
        if self.args.world_size > 1:
            # DDP 对各进程的梯度取平均，而 count 已是全部进程的目标数
            loss = loss * self.args.world_size
        self.tally.add(losses)
        # GPU 上每步同步太贵，等到记日志时再查；几个进程则一起查梯度，停在同一步
        if self.args.device.type == "cpu" and self.team.size == 1:
            nats = float(losses.total_nats.detach())
            self.check_finite(nats, self.state.global_step + 1)
        return (loss, None) if return_outputs else loss

    def _clip_grad_norm(self, model: Any) -> Any:
        """裁剪梯度，并记下范数头一次不是有限的数是在哪一步。

        fp16 不记：梯度溢出时损失缩放会跳过这一步，权重不受伤。
        """
        norm: Any = super()._clip_grad_norm(model)
        if not self.args.fp16:
            step = self.state.global_step + 1
            broken = torch.where(torch.isfinite(norm), _NEVER, step)
            earlier = broken if self._broken_step is None else self._broken_step
            self._broken_step = torch.minimum(earlier, broken)
            if self.args.device.type == "cpu":  # GPU 上等到记日志、存盘与收尾时再查
                self.check_gradients()
        return norm

    def check_gradients(self) -> None:
        """至今有哪一步的梯度不是有限的数，就停下；那以后的权重全坏了，不可存盘。

        Raises:
            TrainingError: 消息说明是哪一步、多半为什么、怎么办。
        """
        if self._broken_step is not None and (step := int(self._broken_step)) < _NEVER:
            raise _not_finite("梯度", step, self.settings, self.args)

    def check_finite(self, nats: float, step: int) -> None:
        """第 `step` 步（从 1 数）的损失不是有限的数时停下。

        Raises:
            TrainingError: 消息说明是哪一步、多半为什么、怎么办。
        """
        if not math.isfinite(nats):
            raise _not_finite("损失", step, self.settings, self.args)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """学习率曲线；断点续训时由 Trainer 读回进度。"""
        if self.lr_scheduler is None:
            self.lr_scheduler = make_scheduler(
                optimizer or self.optimizer,
                self.settings.lr_scheduler_type,
                self.data.plan.num_steps,
                self.settings.warmup_steps,
            )
        return self.lr_scheduler

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """存一个检查点；写不下时旧的完好（见 `checkpoints.staged`）。"""
        self.check_gradients()
        tally = self.tally.combined(self.team)
        with staged(
            Path(self.settings.output), self.settings.save_total_limit, self.team
        ) as folder:
            super()._save_checkpoint(model, trial)
            if self.team.is_main:
                for checkpoint in folder.iterdir():
                    tally.save(checkpoint)

    def _get_output_dir(self, trial: Any) -> str:
        """Trainer 把检查点写到 `_get_output_dir()/checkpoint-N`：先写到一旁。"""
        return str(Path(self.settings.output) / STAGING)


class Tally:
    """目标上的累计：自上次日志以来的损失与对错，以及开训以来的目标数。"""

    FILE = "companion_tally.json"

    def __init__(self) -> None:
        self.total_targets = 0
        self._clear()

    def _clear(self) -> None:
        self.nats: Tensor | float = 0.0
        self.correct: Tensor | int = 0
        self.num_targets = 0

    def add(self, losses: TargetLosses) -> None:
        """记一个微批量；留在原设备上，不同步。"""
        self.nats = self.nats + losses.nats.double().sum()
        self.correct = self.correct + losses.correct.sum()
        self.num_targets += len(losses.nats)
        self.total_targets += len(losses.nats)

    def combined(self, team: Team) -> "Tally":
        """各进程的账合成一份，人人都得到它。"""
        names = ("nats", "correct", "num_targets", "total_targets")
        mine = [float(getattr(self, name)) for name in names]
        nats, *counts = team.total(torch.tensor(mine, dtype=torch.float64)).tolist()
        whole = Tally()
        whole.nats = nats
        whole.correct, whole.num_targets, whole.total_targets = map(int, counts)
        return whole

    def take(self, team: Team = ALONE) -> dict[str, float]:
        """上次以来每个目标的损失（奈特）与准确率，合各进程而言；并清零。"""
        whole = self.combined(team)
        count = max(1, whole.num_targets)
        self._clear()
        return {
            "nats_per_target": float(whole.nats) / count,
            "accuracy": float(whole.correct) / count,
        }

    def save(self, checkpoint: Path) -> None:
        """随检查点存下：账上的目标总数，与还没写进日志的那几步。"""
        state = {
            "total_targets": self.total_targets,
            "num_targets": self.num_targets,
            "nats": float(self.nats),
            "correct": int(self.correct),
        }
        (checkpoint / self.FILE).write_text(json.dumps(state))

    def load(self, checkpoint: Path) -> None:
        """读回 `save` 存下的。"""
        vars(self).update(json.loads((checkpoint / self.FILE).read_text()))


def _not_finite(
    what: str, step: int, config: TrainingConfig, arguments: TrainingArguments
) -> TrainingError:
    precision = "fp16" if arguments.fp16 else "bf16" if arguments.bf16 else "fp32"
    cause = "fp16 溢出" if precision == "fp16" else "学习率太高或预热太短"
    remedy = (
        "用 --set precision=bf16 或 fp32"
        if precision == "fp16"
        else "把 learning_rate 降到三分之一，或把 warmup_steps 加到 0.1"
    )
    return TrainingError(
        found=f"第 {step} 步的{what}不是有限的数（{precision}，学习率峰值 "
        f"{arguments.learning_rate:g}），多半是{cause}",
        expected="损失与梯度都是有限的数",
        remedy=f"{remedy}，换一个 --output 重新训练"
        f"（{config.output} 里的检查点都还在）",
    )
