"""笔记本 08：几种做法各训练一次，得失并列。"""

from collections.abc import Mapping, Sequence
from typing import Any

from companion.errors import EvaluationError
from companion.evaluation.verdict import signed_percent
from companion.notebook.tables import Table, fixed
from companion.plots.tradeoff import pareto_front

STUDY: dict[str, dict[str, Any]] = {
    "tiny": {"max_steps": 30, "tokens_per_batch": 512, "eval_max_chars": 3_000},
    "t4": {"max_steps": 200, "tokens_per_batch": 4096},
    "full": {"max_steps": 1_000, "tokens_per_batch": 8192},
}
"""档 → 每种做法训练多久：要跑几次，所以各次都短。"""

Runs = Mapping[tuple[str, str], Mapping[str, Any]]
"""（组，档）→ 一次训练的 metrics。"""


def tradeoff_points(runs: Runs) -> list[dict[str, Any]]:
    """得失图的点；一种做法一个种子，所以没有十字。

    Args:
        runs: （组，档）→ `TrainingResult.metrics`。

    Raises:
        EvaluationError: 有一次没有通用留出集的成绩，量不出忘了多少。
    """
    return [
        {
            "series": series,
            "level": level,
            "learned": [-_moved(metrics, "domain")],
            "forgotten": [_moved(metrics, "general")],
        }
        for (series, level), metrics in runs.items()
    ]


def tradeoff_table(runs: Runs) -> Table:
    """一种做法一行：学到几比特，忘掉几比特，在不在前沿上。"""
    points = tradeoff_points(runs)
    centres = [(point["learned"][0], point["forgotten"][0]) for point in points]
    front = pareto_front(centres)
    rows: list[Sequence[str]] = [
        [
            point["series"],
            point["level"],
            *map(fixed, centre),
            *(_relative(metrics, name) for name in ("domain", "general")),
            "是" if index in front else "",
        ]
        for index, (point, centre, metrics) in enumerate(
            zip(points, centres, runs.values(), strict=True)
        )
    ]
    header = ["学习率", "回放", "学到", "忘掉", "领域变化", "通用变化", "在前沿上"]
    return Table(header, rows)


def _moved(metrics: Mapping[str, Any], name: str) -> float:
    """每字比特数升了多少，比特；降了为负。"""
    if name not in metrics.get("before", {}) or name not in metrics.get("after", {}):
        raise EvaluationError(
            found=f"这次训练没有 {name} 的前后成绩",
            expected="领域与通用两份留出集都考过",
            remedy="训练时给出 general，不要关掉评估",
        )
    before, after = (
        metrics[when][name]["bits_per_char"] for when in ("before", "after")
    )
    return float(after - before)


def _relative(metrics: Mapping[str, Any], name: str) -> str:
    return signed_percent(
        _moved(metrics, name) / metrics["before"][name]["bits_per_char"]
    )
