"""在 `transformers.Trainer` 上换掉四处：损失、数据、学习率、存盘。

其余（混合精度、梯度累积、多卡、优化器、随机数状态）都是 Trainer 自己的。

**损失**除以整步的目标数。Trainer 对 BERT、T5 这类模型会把损失与梯度放大
`gradient_accumulation_steps` 倍（huggingface/transformers#47688）；这里自己求和再除，几
个小批累积与一个大批相等（只差浮点舍入），目标数各不相同也不例外。损失有几项的（句序、真
假、片段边界、教师），各除以自己在整步里的目标数。
"""

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from companion.batch import Batch, Feature
from companion.checkpoints.saving import (
    boundary_head,
    save_boundary_head,
    stock,
    write_checkpoint,
)
from companion.config import TrainingConfig
from companion.errors import TrainingError
from companion.losses.parts import Loss
from companion.losses.span_boundary import load_boundary_head
from companion.training.arguments import make_scheduler
from companion.training.batching import PlannedSampler
from companion.training.continuing import Start, carry_moments
from companion.training.data import TrainingData
from companion.training.optimizing import has_own_groups, make_optimizer
from companion.training.output import STAGING, staged
from companion.training.sharding import (
    Shards,
    cut_state,
    gathered,
    is_shard,
    read_state,
)
from companion.training.tally import Tally
from companion.training.team import ALONE, Team

OPTIMIZER_NAME, SCHEDULER_NAME = "optimizer.pt", "scheduler.pt"
_NEVER = 2**62
"""还没有哪一步坏掉。"""


class CompanionTrainer(Trainer):
    """按排定的批次训练，损失只在目标上求和。

    Args:
        model: 带输出头的模型。
        config: 训练设置。
        data: 排定的训练数据。
        collator: 训练目标的整理器。
        loss: 目标的损失，有几个损失项的交出几项。
        arguments: `training_arguments` 的结果。
        callbacks: Trainer 的回调。
        team: 一同训练的进程。
        start: 接着前一次训练的，从哪里出发。
        shards: 切开的模型；没有切开的为 None。
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        config: TrainingConfig,
        data: TrainingData,
        collator: Callable[[list[Feature]], Batch],
        loss: Loss,
        arguments: TrainingArguments,
        callbacks: list[TrainerCallback],
        team: Team = ALONE,
        start: Start | None = None,
        shards: Shards | None = None,
    ) -> None:
        self.settings = config
        self.start = start
        self.shards = shards
        self.team = team
        self.data = data
        self.loss = loss
        self.tally = Tally(loss.names)
        self.kept_step: Callable[[], int | None] | None = None
        """哪一步的检查点总留着（途中评估最好的一步）。"""
        self._counts: dict[str, Tensor] = {}
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

    def _move_model_to_device(self, model: Any, device: torch.device) -> None:
        """切开的已经在设备上了。"""
        if self.shards is None:
            super()._move_model_to_device(model, device)

    def create_accelerator_and_postprocess(self) -> None:
        """切开的模型，梯度由 FSDP2 自己合，不再套 DDP；自动混合精度照旧。"""
        super().create_accelerator_and_postprocess()
        if self.shards is not None:
            from accelerate.utils import AutocastKwargs

            accelerator: Any = self.accelerator
            # 记着每层的半精度权重，就等于各进程又存了一份整个的模型
            accelerator.autocast_handler = AutocastKwargs(cache_enabled=False)
            accelerator.prepare_model = partial(
                accelerator.prepare_model, evaluation_mode=True
            )

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

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """取一步的各个微批量，并数除数不是标签数的各损失项在整步里的目标数。"""
        samples, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        found = [self.loss.other_targets(batch) for batch in samples]
        self._counts = {}
        for name in found[0] if found else ():
            mine = torch.stack([counts[name] for counts in found]).sum()
            self._counts[name] = self.team.total(mine).to(device).clamp(min=1)
        return samples, count

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """目标上的损失之和，除以整步（全部微批量、全部进程）的目标数；几项相加。

        Raises:
            TrainingError: 损失不是有限的数；消息说明是哪一步、多半为什么。
        """
        first, *others = self.loss(model, inputs)
        count = self._counts.get(first.name, num_items_in_batch)
        if count is None:
            count = max(1, len(first.losses.nats))
        loss = first.weight * first.losses.total_nats / count
        for part in others:
            number = self._counts.get(part.name)
            if number is None:
                number = max(1, len(part.losses.nats))
            loss = loss + part.weight * part.losses.total_nats / number
        if self.args.world_size > 1:
            # DDP 与 FSDP2 对各进程的梯度取平均，而除数已是全部进程的目标数
            loss = loss * self.args.world_size
        self.tally.add(first, *others)
        # GPU 上每步同步太贵，等到记日志时再查；几个进程则一起查梯度，停在同一步
        if self.args.device.type == "cpu" and self.team.size == 1:
            self.check_finite(float(loss.detach()), self.state.global_step + 1)
        return (loss, None) if return_outputs else loss

    def _clip_grad_norm(self, model: Any) -> Any:
        """裁剪梯度，并记下范数头一次不是有限的数是在哪一步。

        fp16 不记：梯度溢出时损失缩放会跳过这一步，权重不受伤。
        """
        norm: Any = super()._clip_grad_norm(model)
        norm = norm.full_tensor() if is_shard(norm) else norm
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

    def create_optimizer(self, model: Any = None) -> Any:
        """照设置造优化器；接着前一次训练的，带上它的动量。"""
        made: Any = self.optimizer  # transformers 的类型说它总在，其实开头是 None
        if made is None:
            made = self._make_optimizer(model, self.settings)
            if self.start is not None and not self.start.fresh:
                theirs = self._make_optimizer(model, self.start.config)
                carry_moments(made, theirs, self.start.folder)
            self.optimizer = made
        return made

    def _make_optimizer(self, model: Any, settings: TrainingConfig) -> Any:
        """AdamW 由 Trainer 造；别的与词嵌入另有学习率的，见 `optimizing`。"""
        if not has_own_groups(settings):
            self.optimizer: Any = None
            return super().create_optimizer(model)
        trained: Any = self.model if model is None else model
        decayed = set(self.get_decay_parameter_names(trained))
        return make_optimizer(trained, settings, self.args.learning_rate, decayed)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """学习率曲线；断点续训时由 Trainer 读回进度。"""
        if self.lr_scheduler is None:
            self.lr_scheduler = make_scheduler(
                optimizer or self.optimizer,
                self.settings.lr_scheduler_type,
                self.data.plan.num_steps,
                self.settings.warmup_steps,
                self.start.warmup_from(self.args.learning_rate) if self.start else 0.0,
            )
        return self.lr_scheduler

    def _get_learning_rate(self) -> float:
        """日志里的学习率：峰值乘曲线；各组自己的倍数不算。"""
        curve: Any = self.lr_scheduler
        return self.args.learning_rate * curve.lr_lambdas[0](curve.last_epoch)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """存一个检查点；写不下时旧的完好（见 `checkpoints.staged`）。"""
        self.check_gradients()
        tally = self.tally.combined(self.team)
        averaged = self.settings.average_checkpoints or 1
        with staged(
            Path(self.settings.output),
            max(self.settings.save_total_limit, averaged),
            self.team,
            keep=self.kept_step() if self.kept_step else None,
            window=averaged,
        ) as folder:
            super()._save_checkpoint(model, trial)
            if self.team.is_main:
                for checkpoint in folder.iterdir():
                    tally.save(checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """检查点里的权重；一对模型各存在自己的文件夹里，边界头另存，都是标准检查点。"""
        model: Any = self.model
        folder = Path(output_dir or self.settings.output)
        if not hasattr(model, "parts"):
            with stock(model):
                super()._save(output_dir, state_dict)
            if self.args.should_save:
                save_boundary_head(model, folder)
        elif self.args.should_save:
            write_checkpoint(model, self.data.collator.tokenizer, folder)

    def save_model(
        self, output_dir: str | None = None, _internal_call: bool = False
    ) -> None:
        """检查点里的权重；切开的由第 0 个进程收齐了存，与没有切开的一样。"""
        if self.shards is None:
            super().save_model(output_dir, _internal_call)
            return
        with self.shards.whole() as whole:
            if self.team.is_main:
                with self._standing_in(whole):
                    self._save(output_dir)

    @contextmanager
    def _standing_in(self, whole: Any) -> Generator[None]:
        """期间要读写的是整个的模型，不是切开的。"""
        kept, self.model = self.model, whole
        try:
            yield
        finally:
            self.model = kept

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """优化器与学习率的状态；切开的收齐了存，编号与没有切开的相同。"""
        if self.shards is None:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = gathered(self.optimizer.state_dict(), self.team.is_main)
        if self.team.is_main:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            curve: Any = self.lr_scheduler
            torch.save(curve.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """读回 `_save_optimizer_and_scheduler` 存下的；几个进程存的都读得。"""
        if self.shards is None or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        made: Any = self.optimizer
        saved = read_state(Path(checkpoint) / OPTIMIZER_NAME)
        made.load_state_dict(cut_state(made.optimizer, saved))
        curve: Any = self.lr_scheduler
        curve.load_state_dict(read_state(Path(checkpoint) / SCHEDULER_NAME))

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: Any = None
    ) -> None:
        """读回 `_save` 存下的权重。"""
        if self.shards is None:
            self._load_whole(resume_from_checkpoint, model)
            return
        with self.shards.loading() as whole, self._standing_in(whole):
            self._load_whole(resume_from_checkpoint)

    def _load_whole(self, resume_from_checkpoint: str, model: Any = None) -> None:
        parts = getattr(self.model, "parts", None)
        if parts is None:
            with stock(self.model):
                super()._load_from_checkpoint(resume_from_checkpoint, model)
            head = boundary_head(self.model)
            if head is not None:
                load_boundary_head(head, Path(resume_from_checkpoint))
            return
        for name, each in parts.items():
            file = Path(resume_from_checkpoint) / name / "model.safetensors"
            each.load_state_dict(load_file(file), strict=False)  # 共用的表只存一份

    def load_weights(self, checkpoint: Path) -> None:
        """模型换成这个检查点的权重；优化器不动。"""
        self._load_from_checkpoint(str(checkpoint))

    def _get_output_dir(self, trial: Any) -> str:
        """Trainer 把检查点写到 `_get_output_dir()/checkpoint-N`：先写到一旁。"""
        return str(Path(self.settings.output) / STAGING)


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
