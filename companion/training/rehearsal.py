"""预演：不写一个字，先知道要走多少步、占多少内存、花多少时间。

前面的都真做：打开检查点，读语料，分词，打包，排批，记账。训练的一步也真跑几次（前向、反
向、优化器各一遍，学习率是 0，权重一位不变）：先跑最大的一个微批量，内存的峰值就看得见；
再跑散在各处的几个，时间由它们推到全程。评估照词元折算。
"""

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from companion.evaluation.comparison import Exam
from companion.preflight.device import memory_text
from companion.training.arguments import add_lora
from companion.training.loop import fused_gelu
from companion.training.optimizing import make_optimizer
from companion.training.preparing import Run
from companion.training.results import amounts_by_source
from companion.training.watching import RELATIVE_COST, Watch, exam_tokens

TIMED = 6
"""计时的微批量数。"""


@dataclass(frozen=True)
class Rehearsal:
    """预演的结果。"""

    steps: int
    tokens: int
    """要过模型的词元。"""
    epochs: float
    sources: dict[str, dict[str, float]]
    """各份语料读多少；只有一份的为空。"""
    memory_bytes: int
    """跑最大的一步时的峰值：GPU 上是显存，CPU 上是整个进程的内存。"""
    training_seconds: float
    evaluation_seconds: float
    """训练前后与途中的评估。"""
    teacher_seconds: float = 0.0
    """训练的时间里，教师的前向占多少；没有教师的为 0。"""

    def as_dict(self) -> dict[str, Any]:
        """可写成 JSON 的字典。"""
        return asdict(self)

    def __str__(self) -> str:
        whole = self.training_seconds + self.evaluation_seconds
        return (
            f"预演：{self.steps:,} 步、{self.tokens:,} 个词元，"
            f"内存峰值约 {memory_text(self.memory_bytes)}，"
            f"训练约 {_clock(self.training_seconds)}{self._taught}，"
            f"连同评估约 {_clock(whole)}；"
            "什么也没有写"
        )

    @property
    def _taught(self) -> str:
        if not self.teacher_seconds:
            return ""
        return f"（其中教师的前向约 {_clock(self.teacher_seconds)}）"


def rehearse(run: Run, exam: Exam | None, watch: Watch | None) -> Rehearsal:
    """跑几步，推出内存与时间；权重不变，什么也不写。

    Args:
        run: 备齐了的一次训练。
        exam: 训练前后的评估集；不评估的为 None。
        watch: 途中的评估。
    """
    plan, lengths = run.data.plan, run.data.rows.lengths
    grids = [
        len(batch) * max(int(lengths[row]) for _, row in batch)
        for batch in plan.batches
    ]
    spread = np.linspace(0, len(grids) - 1, min(TIMED, len(grids))).astype(int)
    found = _timed(run, [int(np.argmax(grids)), *spread.tolist()])
    seconds, teaching, update, peak = found
    measured = sum(grids[at] for at in spread)
    per_position = sum(seconds[1:]) / measured
    taught = sum(teaching[1:]) / measured  # 评估时没有教师
    training = per_position * plan.grid + update * plan.num_steps
    evaluated = 0.0
    if exam is not None:
        evaluated += 2 * exam_tokens(exam.domain)
        evaluated += 2 * exam_tokens(exam.general) if exam.general else 0
    if watch is not None:
        each = sum(map(exam_tokens, watch.sets.values()))
        evaluated += watch.times * each
    return Rehearsal(
        steps=plan.num_steps,
        tokens=plan.tokens,
        epochs=plan.epochs,
        sources=amounts_by_source(run),
        memory_bytes=peak,
        training_seconds=training,
        evaluation_seconds=RELATIVE_COST * (per_position - taught) * evaluated,
        teacher_seconds=taught * plan.grid,
    )


def _timed(run: Run, chosen: list[int]) -> tuple[list[float], list[float], float, int]:
    """各微批量前向与反向的秒数，其中教师的，优化器一步的秒数，内存的峰值。"""
    import torch

    config, kind = run.config, run.device.kind
    model = run.checkpoint.model
    model = add_lora(model, config, run.new_ids) if config.lora_rank else model
    run.extra.attach(model)
    model.to(kind).train()
    run.extra.move_teacher(kind)
    loss = run.extra.loss(run.objective)
    # 学习率是 0：权重一位不变，优化器的状态照样占内存，一步照样花时间
    still = replace(config, embedding_learning_rate=None)
    optimizer = make_optimizer(model, still, 0.0, set())
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.precision)
    if kind == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds: list[float] = []
    teaching: list[float] = []
    teacher = run.extra.teacher
    update = 0.0
    with fused_gelu(model), torch.random.fork_rng():
        for number, at in enumerate(chosen):
            rows = [run.data.rows[key] for key in run.data.plan.batches[at]]
            began = _now(kind)
            batch = {k: v.to(kind) for k, v in run.data.collator(rows).items()}
            with torch.autocast(kind, dtype, enabled=dtype is not None):
                first, *others = loss(model, batch)
            total = first.losses.total_nats / max(1, len(first.losses.nats))
            for part in others:
                total = total + part.losses.total_nats / max(1, len(part.losses.nats))
            total.backward()
            seconds.append(_now(kind) - began)
            if teacher is not None:
                began = _now(kind)
                with torch.autocast(kind, dtype, enabled=dtype is not None):
                    teacher.read(batch)
                teaching.append(_now(kind) - began)
            if number < 2:  # 第一次要开优化器的状态，第二次才计时
                began = _now(kind)
                optimizer.step()
                update = _now(kind) - began
            optimizer.zero_grad(set_to_none=True)
    return seconds, teaching, update, _peak(kind)


def _now(kind: str) -> float:
    import torch

    if kind == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _peak(kind: str) -> int:
    """至今的内存峰值，字节。"""
    import torch

    if kind == "cuda":
        return int(torch.cuda.max_memory_allocated())
    import psutil

    process = psutil.Process().memory_info()
    return int(getattr(process, "peak_wset", 0) or _peak_rss() or process.rss)


def _peak_rss() -> int:
    """POSIX 上进程的峰值；macOS 以字节计，Linux 以千字节计。"""
    import sys

    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _clock(seconds: float) -> str:
    """秒数写成人话。

    >>> _clock(42), _clock(600), _clock(9000)
    ('42 秒', '10 分钟', '2.5 小时')
    """
    if seconds < 120:
        return f"{seconds:.0f} 秒"
    if seconds < 7200:
        return f"{seconds / 60:.0f} 分钟"
    return f"{seconds / 3600:.1f} 小时"
