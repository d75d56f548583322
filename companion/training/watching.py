"""训练途中的评估：学到哪里了，忘了多少，留哪一步，什么时候停。

途中评的是评估集靠前的一部分（次序由内容的散列定，所以是均匀的一份），开头评一次，此后
每隔 `eval_steps` 步一次，末步一次；用训练的精度，前后相同，只在这几次之间比较。缺省约
十次，合计不超过训练时间的二十分之一：评估一个词元约合训练一个词元的四成。

    log.jsonl   {"event": "evaluation", "step": 40, "domain": 6.9, "general": 7.0, …}

留哪一步、停不停，都只由日志里这样的各行算出，因此断点续训与几个进程得到同样的答案。
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import TrainerCallback

from companion.batch import IGNORE_INDEX
from companion.config import TrainingConfig
from companion.errors import ConfigError
from companion.evaluation.comparison import Exam
from companion.evaluation.scoring import score_targets
from companion.evaluation.targets import FrozenTargets
from companion.training.batching import BatchPlan
from companion.training.team import Team

EVENT = "evaluation"
TIMES = 10
"""缺省评这么多次。"""
SHARE = 0.05
"""合计至多占训练时间的这一部分。"""
RELATIVE_COST = 0.4
"""评估一个词元的时间是训练一个的几分之几：只有前向（极小的模型上量得 0.38）。"""
LEAST_TOKENS = 1_000
"""一次至少评这么多词元，否则看不出变化；不够分时少评几次。"""


@dataclass(frozen=True)
class Watch:
    """途中的评估怎样进行；几个进程都有一份，评估集只有第 0 个进程用。"""

    every: int
    """每隔多少步一次。"""
    sets: Mapping[str, FrozenTargets]
    """"domain" 与 "general" → 靠前的一部分目标。"""
    times: int
    """评几次，连同开头与末步。"""
    share: float
    """估计占训练时间的比例。"""

    def __str__(self) -> str:
        sizes = "、".join(f"{each.num_targets:,}" for each in self.sets.values())
        return (
            f"途中评估：每 {self.every:,} 步一次，连同开头与末步共 {self.times} 次，"
            f"每次 {sizes} 个目标，估计占训练时间的 {self.share:.1%}"
        )


def plan_watch(config: TrainingConfig, exam: Exam, plan: BatchPlan) -> Watch | None:
    """途中评几次、每次评多少；不评时为 None。

    Args:
        config: 训练设置；用 `eval_steps`，0 是不评，None 是自己定。
        exam: 训练前后的评估集。
        plan: 排定的批次。

    Raises:
        ConfigError: `eval_steps` 超过总步数；有 `max_forgetting` 而没有通用留出集。
    """
    steps = plan.num_steps
    if config.eval_steps is not None and config.eval_steps > steps:
        raise ConfigError(
            found=f"eval_steps = {config.eval_steps}，而一共 {steps} 步",
            expected=f"不超过 {steps}；0 是途中不评",
            remedy=f"改成例如 eval_steps={max(1, steps // TIMES)}，或不写，由总步数定",
        )
    if config.max_forgetting is not None and exam.general is None:
        raise ConfigError(
            found=f"max_forgetting = {config.max_forgetting}，而没有通用留出集",
            expected="通用留出集，忘了多少才量得出",
            remedy="加 --general 语料，或去掉 max_forgetting",
        )
    whole = {"domain": exam.domain, "general": exam.general}
    sets = {name: each for name, each in whole.items() if each is not None}
    budget = SHARE / RELATIVE_COST * plan.tokens
    affordable = int(budget / (LEAST_TOKENS * len(sets)))
    wanted = config.load_best_model_at_end or config.early_stopping_patience
    if config.eval_steps == 0 or not (config.eval_steps or wanted or affordable > 1):
        return None
    every = config.eval_steps or math.ceil(steps / max(1, min(TIMES, affordable - 1)))
    times = 1 + math.ceil(steps / every)
    each = max(LEAST_TOKENS, budget / times / len(sets))
    sets = {name: front(targets, each) for name, targets in sets.items()}
    spent = times * sum(exam_tokens(targets) for targets in sets.values())
    return Watch(every, sets, times, RELATIVE_COST * spent / max(1, plan.tokens))


def front(targets: FrozenTargets, tokens: float) -> FrozenTargets:
    """靠前的若干行，不超过这么多词元，至少一行。"""
    rows: list[Any] = []
    left = tokens
    for at in range(0, len(targets.rows), targets.draws):  # 同一片的几次不分开
        piece = targets.rows[at : at + targets.draws]
        left -= sum(len(row.input_ids) for row in piece)
        if rows and left < 0:
            break
        rows += piece
    judged = [row.labels != IGNORE_INDEX for row in rows]
    return replace(
        targets,
        rows=rows,
        sources=targets.sources[: len(rows)],
        num_targets=sum(int(mask.sum()) for mask in judged),
        num_chars=sum(row.size[0] for row in rows) // targets.draws,
    )


def exam_tokens(targets: FrozenTargets) -> int:
    """一份评估目标有多少词元要过模型。"""
    return sum(len(row.input_ids) for row in targets.rows)


def evaluations(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """日志里途中评估的各行，按步；同一步以后写的为准。"""
    found = {row["step"]: row for row in rows if row.get("event") == EVENT}
    return [found[step] for step in sorted(found)]


def best_step(
    rows: Sequence[Mapping[str, Any]], max_forgetting: float | None
) -> int | None:
    """哪一步最好：领域的每字比特数最低的；有界的，只在没有忘过界的几步里选。

    Args:
        rows: 途中评估的各行，第一行是开头的。
        max_forgetting: 通用的每字比特数至多升高开头的这一比例；None 不设界。

    Returns:
        开头不算；一步也没有评过，或全都过了界时为 None。
    """
    if len(rows) < 2:
        return None
    allowed = rows[1:]
    if max_forgetting is not None:
        limit = rows[0]["general"] * (1 + max_forgetting)
        allowed = [row for row in allowed if row["general"] <= limit]
    best = min(allowed, key=lambda row: row["domain"], default=None)
    return None if best is None else best["step"]


def should_stop(
    rows: Sequence[Mapping[str, Any]], max_forgetting: float | None, patience: int
) -> bool:
    """连着 `patience` 次没有比此前最好的一次好（过了界的不算好）。"""
    best = best_step(rows, max_forgetting)
    since = [row for row in rows[1:] if best is None or row["step"] > best]
    return len(since) >= patience


class WatchCallback(TrainerCallback):
    """到时候就评一次，写进日志；要留的存盘，该停的停下。

    Args:
        watch: 怎样评。
        config: 训练设置。
        record: 写一行日志，第 0 个进程用；参数是这一行与评估用去的秒数。
        rows: 至今的日志，第 0 个进程用。
        team: 一同训练的进程；模型切开了就一起评。
        release: 评完之后，切开的模型要做的事。
    """

    def __init__(
        self,
        watch: Watch,
        config: TrainingConfig,
        *,
        record: Callable[[dict[str, Any], float], None],
        rows: Callable[[], list[dict[str, Any]]],
        team: Team,
        release: Callable[[], None] | None = None,
    ) -> None:
        self.watch = watch
        self.config = config
        self.best: int | None = None
        """至今最好的一步；它的检查点不删。"""
        self._record, self._rows, self._team = record, rows, team
        self._release = release

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """开头评一次；续训时日志里已有。"""
        ask = self._team.ask_main
        if ask(lambda: not evaluations(self._rows())):
            self._score(model, 0)
        self.best = ask(lambda: self._judge()[0])

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """到时候评一次。"""
        step = state.global_step
        if step % self.watch.every and step < state.max_steps:
            return
        before = self.best
        self._score(model, step)
        self.best, stop = self._team.ask_main(self._judge)
        if self.config.load_best_model_at_end and self.best not in (None, before):
            control.should_save = True
        if stop and step < state.max_steps:
            control.should_training_stop = True
            control.should_save = False  # 续训从更早的检查点走到这里，照样停下

    def _judge(self) -> tuple[int | None, bool]:
        """至今最好的一步；该不该停。"""
        rows, bound = evaluations(self._rows()), self.config.max_forgetting
        patience = self.config.early_stopping_patience
        stop = patience is not None and should_stop(rows, bound, patience)
        return best_step(rows, bound), stop

    def _score(self, model: Any, step: int) -> None:
        """评一次，由第 0 个进程记下。"""
        began = time.monotonic()
        bits = self._team.with_model(
            lambda: {
                name: round(score_targets(model, each).scores.bits_per_char, 6)
                for name, each in self.watch.sets.items()
            }
        )
        if self._release is not None:
            self._release()
        if bits and self._team.is_main:
            spent = time.monotonic() - began
            self._record({"event": EVENT, "step": step, **bits}, spent)
