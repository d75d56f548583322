"""末了取最近几个检查点的平均，作为训练的结果（`average_checkpoints`）。

    model/ = (checkpoint-300 + checkpoint-400 + checkpoint-500) / 3

学习率还高时，权重在谷底两侧来回摆；几步的平均落在谷底，像是学习率降过了一回（LAWA，
Sanyal 等，2023，2306.03241；Hägele 等，2024，2405.18392）。平均不改变训练：曲线、动
量、检查点都照旧，所以 `--resume` 与 `--continue-from` 接的是没有平均的权重。

为什么不用指数滑动平均（EMA）：它每步都要更新一份与模型同样大的影子，随检查点存取；检
查点的平均用的是本来就要存的东西，续训与几个进程不添一分状态。Sanyal 等比过，隔得开的
检查点的平均好于 EMA。

学习率已经降到底的，末几个检查点几乎相同，平均就没有多少好处；LoRA 平均的是 A、B 各自。
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from companion.config import TrainingConfig
from companion.errors import ConfigError
from companion.training.output import list_checkpoints, step_of
from companion.training.sharding import local


def check_enough_checkpoints(config: TrainingConfig, num_steps: int) -> None:
    """排定的步数存得下要平均的那么多个检查点。

    Args:
        config: 训练设置。
        num_steps: 总步数；末步总要存。

    Raises:
        ConfigError: 存不下。
    """
    wanted = config.average_checkpoints
    if wanted is None:
        return
    saved = -(-num_steps // config.save_steps)
    if saved < wanted:
        raise ConfigError(
            found=f"average_checkpoints = {wanted}，而 {num_steps:,} 步、每 "
            f"{config.save_steps:,} 步存一次，只有 {saved} 个检查点",
            expected=f"至少 {wanted} 个检查点",
            remedy=f"用 --set save_steps={max(1, num_steps // (2 * wanted))}，"
            "或去掉 average_checkpoints",
        )


def window(output: Path, count: int, until: int | None = None) -> list[Path]:
    """最近的 `count` 个检查点，按步；`until` 是留最好的一步时的那一步。"""
    found = list_checkpoints(output)
    return [each for each in found if until is None or step_of(each) <= until][-count:]


def load_average(trainer: Any, folders: Sequence[Path]) -> None:
    """模型换成几个检查点的平均；冻结的参数原样不动。

    Args:
        trainer: 走完了的 `CompanionTrainer`。
        folders: 检查点，至少一个。
    """
    sums: dict[str, torch.Tensor] = {}
    model: Any = trainer.model
    trained = {n: w for n, w in model.named_parameters() if w.requires_grad}
    for folder in folders:
        trainer.load_weights(folder)
        for name, weight in trained.items():
            value = local(weight.detach()).to("cpu", torch.float64)
            sums[name] = sums[name] + value if name in sums else value
    with torch.no_grad():
        for name, weight in trained.items():
            local(weight).copy_(sums[name] / len(folders))
