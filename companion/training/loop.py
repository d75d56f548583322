"""真正训练的一段：把设置、模型与排定的数据交给 Trainer，走完，或体面地停下。"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from companion.checkpoints.loading import Checkpoint
from companion.checkpoints.quiet import quiet_transformers
from companion.config import TrainingConfig
from companion.errors import TrainingError
from companion.losses.activations import fused_gelu
from companion.objectives import Objective
from companion.preflight.device import Device
from companion.training.arguments import (
    add_lora,
    recompute_activations,
    training_arguments,
)
from companion.training.callbacks import LOG_FILE, LogCallback, StopCallback
from companion.training.checkpoints import latest_checkpoint
from companion.training.data import TrainingData
from companion.training.extending import EmbeddingsFirst, num_embedding_steps
from companion.training.extra_losses import ExtraLosses
from companion.training.team import Team, train_command


class TrainingInterrupted(TrainingError):  # noqa: N818 - 它不是过错
    """收到 Ctrl-C 或 SIGTERM 而停下；检查点已存好。"""


@dataclass(frozen=True)
class LoopResult:
    """Trainer 跑完之后要留下的。"""

    model: Any
    """训练好的模型；用了 LoRA 时还没有并回底座。"""
    rows: list[dict[str, Any]]
    """`log.jsonl` 的各行。"""
    targets: int
    """开训以来的目标数，合各进程而言。"""
    other_targets: dict[str, int]
    """第一项之外各损失项的名字 → 开训以来的目标数；只有一项的为空。"""


def run_loop(
    config: TrainingConfig,
    objective: Objective,
    checkpoint: Checkpoint,
    data: TrainingData,
    device: Device,
    team: Team,
    resume: bool,
    console: Console | None,
    extra: ExtraLosses,
    new_ids: Sequence[int] = (),
) -> LoopResult:
    """训练到排定的最后一步；扩充了词表时，开头几步只训练 `new_ids` 的行。

    Raises:
        TrainingInterrupted: 收到信号，存盘后停下。
        TrainingError: 损失或梯度坏了，或写不下。
    """
    from transformers import set_seed
    from transformers.trainer_callback import PrinterCallback

    from companion.training.trainer import CompanionTrainer

    output = Path(config.output)
    set_seed(config.seed)  # LoRA 的随机初始化也由种子决定
    model = add_lora(checkpoint.model, config) if config.lora_rank else checkpoint.model
    extra.attach(model)
    if config.gradient_checkpointing:
        recompute_activations(model)
    keep_cache = getattr(checkpoint.model.config, "use_cache", None)
    log_file = output / LOG_FILE if team.is_main else None
    logging, stopping = LogCallback(log_file, console), StopCallback(team)
    trainer = CompanionTrainer(
        model,
        config=config,
        data=data,
        collator=data.collator,
        loss=extra.loss(objective),
        arguments=training_arguments(
            config,
            num_steps=data.plan.num_steps,
            learning_rate=config.learning_rate or 0.0,
            precision=config.precision,
            device_kind=device.kind,
        ),
        callbacks=[logging, stopping],
        team=team,
    )
    extra.move_teacher(trainer.args.device)
    trainer.remove_callback(PrinterCallback)
    first = num_embedding_steps(config, data.plan.num_steps) if new_ids else 0
    embeddings = EmbeddingsFirst(new_ids, first)
    if first:
        trainer.add_callback(embeddings)
    logging.trainer = trainer
    resume_from = None
    if resume:
        resume_from = latest_checkpoint(output)
        if team.is_main:  # 存下的是各进程之和
            trainer.tally.load(resume_from)
    try:
        with stopping.listening(), quiet_transformers(), fused_gelu(model):
            trainer.train(
                resume_from_checkpoint=str(resume_from) if resume_from else None
            )
    finally:
        logging.close()
        embeddings.close()
        _drop_autocast(model)
        if keep_cache is not None:  # Trainer 关了它；存盘的检查点应与原来一样
            checkpoint.model.config.use_cache = keep_cache
    if stopping.stopped:
        raise TrainingInterrupted(
            found=f"收到信号，停在第 {trainer.state.global_step} 步"
            f"（共 {data.plan.num_steps} 步）",
            expected="训练走完",
            remedy=f"检查点已存好，{train_command(team.size)} --resume "
            f"--output {output} 接着训练",
        )
    tally = trainer.tally.combined(team)
    return LoopResult(model, logging.rows, tally.total_targets, tally.other_totals)


def _drop_autocast(model: Any) -> None:
    """拆去 accelerate 包在 `forward` 上的自动混合精度：它训练完也不拆。

    留着它，训练后的评估以 bf16 计算，训练前的却以 float32，前后就不能相减。不用它自己的
    `keep_fp32_wrapper=False`：那样连 transformers 的装饰器也一并拆掉。
    """
    if vars(model).pop("_original_forward", None) is not None:
        del model.forward  # 露出类里的 forward
