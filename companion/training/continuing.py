"""另起一次训练，从前一次的检查点出发（`continue_from`）。

    --resume           同一次运行停在半路：设置、批次、曲线都是原来的，结果逐位相等
    --continue-from    另一次运行：权重与优化器的动量取自前一次，语料、步数、曲线是新的

第二轮预训练若只拿权重作 `model`，动量从零估起，学习率从零升起，开头几步的损失会跳一下。
这里动量带过来，预热从前一次停下时的学习率升到新的峰值（Ibrahim 等，2024，§4.1）。停在
WSD 平台上的检查点，学习率已在峰值，预热就没有了，可以只接一段下降
（`lr_scheduler_type=linear`；Hu 等，2024，§4）：平台只练一次，想在哪里收尾都行。

能答应的：读同样的一批，峰值相同，接着走的每一步与没有分成两次的相同，只差浮点。批次的次序
与噪声是新的一次自己的，所以整次训练只在次序恰好相同时才相等。
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from companion.checkpoints.loading import load_objective
from companion.checkpoints.reading import read_json
from companion.config import TrainingConfig, run_folder
from companion.errors import TrainingError
from companion.objectives import Objective, get_objective
from companion.training.output import (
    CONFIG_FILE,
    METRICS_FILE,
    list_checkpoints,
    step_of,
    verify_checkpoint,
)

BASE = "base"
"""扩充了词表又用 LoRA 的一次，扩充过的底座所在的文件夹。"""
_ALIKE = ("optimizer", "span_boundary", "lora_rank", "use_dora")
"""这几项相同，参数才是同一批，动量才带得过来。"""


@dataclass(frozen=True)
class Start:
    """新的一次从哪里出发。"""

    folder: Path
    """前一次的检查点。"""
    config: TrainingConfig
    """前一次的设置。"""
    learning_rate: float
    """前一次停下时的学习率。"""
    fresh: tuple[str, ...]
    """`_ALIKE` 里与前一次不同的几项；空的，动量才带过来。"""

    @property
    def keeps_adapter(self) -> bool:
        """接着练同一个 LoRA 适配器；否则它已并进底座。"""
        changed = {"lora_rank", "use_dora"} & set(self.fresh)
        return bool(self.config.lora_rank) and not changed

    @property
    def origin(self) -> str:
        """要打开的检查点；接着练适配器的，是它的底座。"""
        if not self.keeps_adapter:
            return str(self.folder)
        extended = self.folder.parent / BASE
        return str(extended) if extended.is_dir() else self.config.model

    @property
    def new_ids(self) -> Sequence[int]:
        """适配器另训练哪些词元的行。"""
        written = read_json(self.folder / "adapter_config.json")
        rows: dict[str, list[int]] = written.get("trainable_token_indices") or {}
        return next(iter(rows.values()), []) if self.keeps_adapter else []

    def warmup_from(self, peak: float) -> float:
        """预热从新峰值的几成升起，至多一。"""
        return min(1.0, self.learning_rate / peak)

    def as_dict(self) -> dict[str, Any]:
        """`inputs.json` 里记下的。"""
        return {
            "checkpoint": str(self.folder),
            "step": step_of(self.folder),
            "learning_rate": self.learning_rate,
            "moments": not self.fresh,
        }

    def __str__(self) -> str:
        kept = "优化器的动量一并带来"
        if self.fresh:
            kept = f"{'、'.join(self.fresh)} 与前一次不同，优化器的动量从零起"
        return (
            f"接着 {self.folder}：前一次停在第 {step_of(self.folder):,} 步、学习率 "
            f"{self.learning_rate:.3g}，预热由此升起；{kept}"
        )


def find_start(config: TrainingConfig, objective: Objective) -> Start | None:
    """找到前一次的检查点，核对接不接得上；没有 `continue_from` 时为 None。

    给的是运行的文件夹时，取最后一个检查点；那次留最好的一步的，取那一步。

    Args:
        config: 新的一次的设置。
        objective: 新的一次的训练目标。

    Raises:
        TrainingError: 没有那次运行，没有检查点，检查点坏了，或底座、输出头与它的不同。
    """
    if config.continue_from is None:
        return None
    place = Path(config.continue_from).expanduser()
    run = run_folder(config.continue_from)
    if not (run / CONFIG_FILE).is_file():
        raise TrainingError(
            found=f"continue_from = {place}，而 {run} "
            + (f"里没有 {CONFIG_FILE}" if run.is_dir() else "不存在"),
            expected="前一次训练的输出文件夹，或其中的一个 checkpoint-N",
            remedy="核对路径；只要权重、不要动量的，用 --model",
        )
    earlier = TrainingConfig.from_sources(run / CONFIG_FILE, {"output": str(run)})
    folder = place if place != run else _newest_or_best(run)
    if folder not in list_checkpoints(run):
        kept = "、".join(each.name for each in list_checkpoints(run)) or "一个也没有"
        raise TrainingError(
            found=f"{run} 里没有完整的检查点 {folder.name}",
            expected=f"其中之一：{kept}",
            remedy="改写 continue_from；那次没有走完的，先用 --resume 走完",
        )
    verify_checkpoint(folder)
    _refuse_other_model(config, earlier, objective)
    differ = [n for n in _ALIKE if getattr(config, n) != getattr(earlier, n)]
    return Start(folder, earlier, _stopped_at(folder, earlier), tuple(differ))


def _newest_or_best(run: Path) -> Path:
    """最好的一步的检查点；没有留最好的一步的，最后一个。"""
    best = read_json(run / METRICS_FILE).get("best_step")
    found = list_checkpoints(run)
    if best is not None:
        return run / f"checkpoint-{best}"
    return found[-1] if found else run / "checkpoint-N"


def _refuse_other_model(
    config: TrainingConfig, earlier: TrainingConfig, objective: Objective
) -> None:
    """底座与输出头都要是前一次的。"""
    if not _same_place(config.model, earlier.model):
        raise TrainingError(
            found=f"model = {config.model}，而 {earlier.output} 是由 {earlier.model} "
            "练来的",
            expected="同一个底座：架构与分词器不同，权重与动量都接不上",
            remedy="去掉 model，它随 continue_from 而定；要从别的检查点练起，"
            "去掉 continue_from",
        )
    mine, theirs = (
        load_objective(earlier.model, goal)
        for goal in (objective, get_objective(earlier.objective))
    )
    if mine.auto_class != theirs.auto_class:
        raise TrainingError(
            found=f"objective = {objective.key}（{mine.auto_class}），而 "
            f"{earlier.output} 练的是 {theirs.key}（{theirs.auto_class}）",
            expected="同样的输出头：换了头，它的权重与动量都要从头来",
            remedy=f"用 objective={theirs.key}；要换目标，以 "
            f"{Path(earlier.output) / 'model'} 为 --model，去掉 continue_from",
        )


def _same_place(one: str, other: str) -> bool:
    return one == other or Path(one).expanduser().resolve() == Path(other).resolve()


def _stopped_at(folder: Path, earlier: TrainingConfig) -> float:
    """检查点里下一步的学习率（第一组的，照峰值折算）。"""
    import torch

    state = torch.load(folder / "scheduler.pt", weights_only=True)
    ratio = state["_last_lr"][0] / state["base_lrs"][0]
    return ratio * (earlier.learning_rate or 0.0)


def carry_moments(mine: Any, theirs: Any, checkpoint: Path) -> None:
    """把检查点里优化器的动量交给新的优化器，认的是参数；学习率与衰减用新的。

    Args:
        mine: 新的优化器。
        theirs: 照前一次的设置、为同一个模型造的优化器；分组与检查点里的相同，两次分组
            不同也对得上。
        checkpoint: 前一次的检查点。
    """
    import torch

    from companion.training.sharding import cut_state

    saved: dict[str, Any] = torch.load(
        checkpoint / "optimizer.pt", weights_only=True, map_location="cpu"
    )
    theirs.load_state_dict(cut_state(theirs, saved))
    ours, others = (getattr(each, "parts", (each,)) for each in (mine, theirs))
    for part, other in zip(ours, others, strict=True):
        part.state.update(other.state)
