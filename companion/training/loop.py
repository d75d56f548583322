"""真正训练的一段：把设置、模型与排定的数据交给 Trainer，走完，或体面地停下。

途中看得见的事（日志、进度）与信号由两个回调照管。
"""

import json
import math
import os
import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from transformers import TrainerCallback

from companion.checkpoints.reading import quiet_transformers
from companion.errors import TrainingError, raised
from companion.evaluation.verdict import SETS, signed_percent
from companion.training.arguments import (
    add_lora,
    recompute_activations,
    training_arguments,
)
from companion.training.averaging import load_average, window
from companion.training.output import (
    latest_checkpoint,
    list_checkpoints,
    step_of,
    write_text,
    writing,
)
from companion.training.preparing import EmbeddingsFirst, Run, num_embedding_steps
from companion.training.sharding import Shards
from companion.training.team import ALONE, Team
from companion.training.watching import Watch, WatchCallback, evaluations

if TYPE_CHECKING:
    from companion.training.trainer import CompanionTrainer

LOG_FILE = "log.jsonl"


class LogCallback(TrainerCallback):
    """每隔 `logging_steps` 步写一行 JSON，并更新进度条。

    Args:
        path: 日志文件；续训时先删去检查点之后的行，再接着写。None 表示不写：几个进程
            一同训练时，只有第 0 个写。
        console: 进度显示在这里；None 表示不显示。
    """

    def __init__(self, path: Path | None, console: Console | None) -> None:
        self.path = path
        self.console = console
        self.trainer: CompanionTrainer | None = None
        self.rows: list[dict[str, Any]] = []
        self._progress: Progress | None = None
        self._said = -1
        self._looked = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """接上旧日志，开始计时。"""
        assert self.trainer is not None
        plan = self.trainer.data.plan
        accumulation = max(1, len(plan.batches) // plan.num_steps)
        lengths = self.trainer.data.rows.lengths
        per_batch = [sum(int(lengths[r]) for _, r in batch) for batch in plan.batches]
        ends = [0, *accumulate(per_batch)]
        self.tokens_at = ends[::accumulation]
        if self.path is not None:
            earlier = read_log(self.path)
            self.rows = [row for row in earlier if row["step"] <= state.global_step]
            kept = "".join(json.dumps(row) + "\n" for row in self.rows)
            write_text(self.path, kept)
        self._start_step = state.global_step
        self._earlier = self.rows[-1]["seconds"] if self.rows else 0.0
        self._began = time.monotonic()
        if self.console is not None and self.console.is_terminal:
            self._progress = Progress(
                TextColumn("训练"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total} 步"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self.console,
                transient=True,
            )
            self._task = self._progress.add_task(
                "训练", total=plan.num_steps, completed=state.global_step, note=""
            )
            self._progress.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """进度条走一格。"""
        if self._progress is not None:
            self._progress.update(self._task, completed=state.global_step)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any
    ) -> None:
        """写一行日志。几个进程的损失要先合在一起，所以人人都走到这里。"""
        assert self.trainer is not None
        if not logs or "loss" not in logs:
            return
        taken = self.trainer.tally.take(self.trainer.team)
        self.trainer.check_gradients()
        self.trainer.check_finite(taken["nats_per_target"], state.global_step)
        elapsed = time.monotonic() - self._began
        tokens = self.tokens_at[state.global_step]
        speed = (tokens - self.tokens_at[self._start_step]) / max(elapsed, 1e-9)
        row = {
            "step": state.global_step,
            "tokens": tokens,
            "loss": round(taken["nats_per_target"], 6),
            "bits_per_target": round(taken["nats_per_target"] / math.log(2), 6),
            "accuracy": round(taken["accuracy"], 6),
            **{
                name: round(value, 6)
                for name, value in taken.items()
                if name not in ("nats_per_target", "accuracy")  # 另外几份损失
            },
            "learning_rate": logs.get("learning_rate"),
            "grad_norm": _finite(logs.get("grad_norm")),
            "tokens_per_second": round(speed, 1),
            "seconds": round(self._earlier + elapsed, 3),
        }
        self._write(row)
        self._show(row)

    def record(self, row: dict[str, Any], spent: float) -> None:
        """途中评估的一行；评估用去的秒数不算在训练里。"""
        self._began += spent
        row |= {
            "tokens": self.tokens_at[row["step"]],
            "evaluation_seconds": round(spent, 3),
            "seconds": round(self._earlier + time.monotonic() - self._began, 3),
        }
        self._write(row)
        if self.trainer is not None and self.trainer.settings.report_to:
            looked = {key: row[key] for key in SETS if key in row}
            self.trainer.log({f"eval_{key}": bits for key, bits in looked.items()})
        first = evaluations(self.rows)[0]

        def change(relative: float) -> str:
            return f"（{signed_percent(relative)}）" if row["step"] else ""

        self._looked = " · ".join(
            f"{name} {row[key]:.3f}" + change(row[key] / first[key] - 1)
            for key, name in SETS.items()
            if key in row
        )
        if self.console is not None and self._progress is None:
            total = len(self.tokens_at) - 1
            said = f"第 {row['step']}/{total} 步 · 每字比特数 {self._looked}"
            self.console.print(said, highlight=False)

    def _write(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        if self.path is not None:
            with writing(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """收起进度条。"""
        self.close()

    def close(self) -> None:
        """收起进度条；出错退出时也要调用。"""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _show(self, row: dict[str, Any]) -> None:
        note = (
            f"每目标 {row['bits_per_target']:.3f} 比特 · 命中 {row['accuracy']:.1%} · "
            f"{row['tokens_per_second']:,.0f} 词元/秒"
        )
        if self._progress is not None:
            looked = f" · {self._looked}" if self._looked else ""
            self._progress.update(self._task, note=note + looked)
        elif self.console is not None:  # 不是终端：每走一成说一行
            total = len(self.tokens_at) - 1
            tenth = row["step"] * 10 // total
            if tenth != self._said:
                self._said = tenth
                self.console.print(
                    f"第 {row['step']}/{total} 步 · {note}", highlight=False
                )


def _finite(norm: float | None) -> float | None:
    """日志里的梯度范数；fp16 跳过的那一步是无穷大，而 JSON 写不出它。"""
    return None if norm is None or not math.isfinite(norm) else round(float(norm), 6)


def read_log(path: Path) -> list[dict[str, Any]]:
    """读回日志；被打断的最后半行不算。"""
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class StopCallback(TrainerCallback):
    """收到 Ctrl-C 或 SIGTERM 后，走完这一步，存盘，停下。

    几个进程收到信号有先有后，却要停在同一步，否则先停的走了，没停的永远等它。所以每步
    之后各报一次“收到没有”，下一步之后才看合起来的答案：那时它早已算好，GPU 不必停下等。

    Args:
        team: 一同训练的进程。
    """

    def __init__(self, team: Team = ALONE) -> None:
        self.team = team
        self.received: int | None = None
        self.stopped = False
        """训练因信号而停，没有走完。"""
        self._asked: Tensor | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """要停就先存盘。"""
        if self._someone_received() and state.global_step < state.max_steps:
            control.should_save = True
            control.should_training_stop = True
            self.stopped = True

    def _someone_received(self) -> bool:
        mine = self.received is not None
        if self.team.size == 1:
            return mine
        answer, self._asked = self._asked, self.team.total(torch.tensor(int(mine)))
        return answer is not None and bool(answer)

    @contextmanager
    def listening(self) -> Generator[None]:
        """期间接住信号；再按一次 Ctrl-C 则立刻退出。

        只有主线程能接信号；在别的线程里调用时什么也不做。
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def receive(number: int, _frame: Any) -> None:
            if self.received is not None and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.received = number

        kept = {s: signal.signal(s, receive) for s in (signal.SIGINT, signal.SIGTERM)}
        failed = True
        try:
            yield
            failed = False
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)
            # 第 0 个进程出错退出，启动器来结束其余的：缘由由它说，这里照信号的本意退出
            if failed and self.received is not None and not self.team.is_main:
                os.kill(os.getpid(), self.received)


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
    steps: int
    """走了几步；早停时比排定的少。"""
    best_step: int | None = None
    """模型取自哪一步；没有要求留最好的一步时为 None。"""
    averaged: tuple[int, ...] = ()
    """模型是哪几步的检查点的平均；没有要求平均的为空。"""


def run_loop(
    run: Run,
    watch: Watch | None = None,
    *,
    resume: bool = False,
    console: Console | None = None,
) -> LoopResult:
    """训练到排定的最后一步；扩充了词表时，开头几步只训练新行。

    Args:
        run: 备齐了的一次训练。
        watch: 途中的评估；None 表示不评。
        resume: 从输出文件夹里最近的检查点接着训练。
        console: 进度显示在这里；None 表示不显示。

    Raises:
        TrainingInterrupted: 收到信号，存盘后停下。
        TrainingError: 损失或梯度坏了，或写不下。
    """
    from transformers import set_seed
    from transformers.trainer_callback import PrinterCallback

    from companion.training.trainer import CompanionTrainer

    config, checkpoint, team = run.config, run.checkpoint, run.team
    num_steps = run.data.plan.num_steps
    set_seed(config.seed)  # LoRA 的随机初始化也由种子决定
    model = checkpoint.model
    if config.lora_rank:
        if run.base is not None:  # 适配器里记下的底座，是扩充过词表的
            model.name_or_path = str(run.base.resolve())
        model = add_lora(model, config, run.new_ids)
    run.extra.attach(model)
    if config.gradient_checkpointing:
        recompute_activations(model)
    keep_cache = getattr(checkpoint.model.config, "use_cache", None)
    shards = Shards(model, team) if team.sharded else None
    if shards and console:
        console.print(str(shards), highlight=False)
    log_file = run.output / LOG_FILE if team.is_main else None
    logging, stopping = LogCallback(log_file, console), StopCallback(team)
    trainer = CompanionTrainer(
        model,
        config=config,
        data=run.data,
        collator=run.data.collator,
        loss=run.extra.loss(run.objective),
        arguments=training_arguments(
            config,
            num_steps=num_steps,
            learning_rate=config.learning_rate or 0.0,
            precision=config.precision,
            device_kind=run.device.kind,
        ),
        callbacks=[logging, stopping],
        team=team,
        start=run.start,
        shards=shards,
    )
    if keep_cache is not None:  # Trainer 关了它；每个检查点存的应是模型自己的
        checkpoint.model.config.use_cache = keep_cache
    if run.start is not None and run.start.keeps_adapter and not resume:
        with quiet_transformers():
            trainer.load_weights(run.start.folder)
    run.extra.move_teacher(trainer.args.device)
    trainer.remove_callback(PrinterCallback)
    alone = run.new_ids and not config.lora_rank  # 用 LoRA 的，新行与适配器一同训练
    first = num_embedding_steps(config, num_steps) if alone else 0
    embeddings = EmbeddingsFirst(run.new_ids, first)
    if first:
        trainer.add_callback(embeddings)
    logging.trainer = trainer
    watching = None
    if watch is not None:
        watching = WatchCallback(
            watch,
            config,
            record=logging.record,
            rows=lambda: logging.rows,
            team=team,
            release=shards.release if shards else None,
        )
        trainer.add_callback(watching)
        if config.load_best_model_at_end:
            trainer.kept_step = lambda: watching.best
    resume_from = None
    if resume:
        resume_from = latest_checkpoint(run.output)
        if team.is_main:  # 存下的是各进程之和
            trainer.tally.load(resume_from)
    if config.report_to == "swanlab" and team.is_main:
        _open_swanlab()
    try:
        with stopping.listening(), quiet_transformers(), fused_gelu(model):
            trainer.train(
                resume_from_checkpoint=str(resume_from) if resume_from else None
            )
    except RuntimeError as error:
        if team.size == 1 or not _is_lost_peer(error):
            raise
        raise _lost_peer(error, trainer.state.global_step, run) from error
    finally:
        logging.close()
        embeddings.close()
        _drop_autocast(model)
    if stopping.stopped:
        raise TrainingInterrupted(
            found=f"收到信号，停在第 {trainer.state.global_step} 步"
            f"（共 {num_steps} 步）",
            expected="训练走完",
            remedy=f"检查点已存好，{team.command} --resume "
            f"--output {run.output} 接着训练",
        )
    tally = trainer.tally.combined(team)
    steps = trainer.state.global_step
    best = watching.best if watching and config.load_best_model_at_end else None
    averaged: list[Path] = []
    with quiet_transformers():
        if config.average_checkpoints:
            averaged = window(run.output, config.average_checkpoints, best)
            load_average(trainer, averaged)
        elif best not in (None, steps):
            trainer.load_weights(run.output / f"checkpoint-{best}")
        if shards is not None:
            model = shards.taken()
    return LoopResult(
        model, logging.rows, tally.total_targets, tally.other_totals, steps, best,
        tuple(map(step_of, averaged)),
    )  # fmt: skip


def _is_lost_peer(error: RuntimeError) -> bool:
    """别的进程没了，这里等不到它：NCCL 有自己的异常，gloo 只在文字里说。"""
    signs = ("closed by peer", "reset by peer", "Broken pipe")
    said = any(sign in str(error) for sign in signs)
    return isinstance(error, torch.distributed.DistError) or said


def _lost_peer(error: RuntimeError, step: int, run: Run) -> TrainingError:
    found = list_checkpoints(run.output)
    remedy = "看启动器说哪个进程、为什么退出（多半是内存不够，被系统结束）；"
    if found:
        remedy += f"然后用 {run.team.command} --resume --output {run.output}，从完好的 "
        remedy += f"{found[-1].name} 接着训练"
    else:
        remedy += "还没有检查点，换一个 --output 从头训练"
    return TrainingError(
        found=f"第 {step} 步之后，有一个进程没了（{raised(error)}）",
        expected=f"{run.team.size} 个进程都走到最后",
        remedy=remedy,
    )


def _open_swanlab() -> None:
    """先开好一次运行：transformers 的回调以为没有运行时得到 None，swanlab 却抛错。"""
    swanlab = import_module("swanlab")
    swanlab.init(project=os.environ.get("SWANLAB_PROJECT"))


def _drop_autocast(model: Any) -> None:
    """拆去 accelerate 包在 `forward` 上的自动混合精度：它训练完也不拆。

    留着它，训练后的评估以 bf16 计算，训练前的却以 float32，前后就不能相减。不用它自己的
    `keep_fp32_wrapper=False`：那样连 transformers 的装饰器也一并拆掉。
    """
    if vars(model).pop("_original_forward", None) is not None:
        del model.forward  # 露出类里的 forward


@contextmanager
def fused_gelu(model: Any) -> Generator[None]:
    """在这段时间里，BLOOM 的 GELU 用 PyTorch 的实现；别的架构原样不动。

    transformers 里 BLOOM 的 GELU 是 2022 年手写的：前向五遍、反向十几遍逐元素运算，每遍
    都写出一个 (B, L, 4D) 的新张量。`gelu(approximate="tanh")` 是同一个式子（Hendrycks
    与 Gimpel，2016，§2），前向反向各一遍，只差浮点舍入。

    只换各模块实例的 `forward`，没有参数，不影响存盘；离开时还原。

    Args:
        model: transformers 模型，可以包着 peft。
    """
    from transformers.models.bloom.modeling_bloom import BloomGelu

    swapped = [module for module in model.modules() if type(module) is BloomGelu]
    for module in swapped:
        module.forward = _gelu
    try:
        yield
    finally:
        for module in swapped:
            del module.forward  # 露出类里的 forward


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")
