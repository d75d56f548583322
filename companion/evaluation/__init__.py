"""评估：每字比特数、伪对数似然、遗忘、报告卡。

名字在第一次用到时才导入，`import companion.evaluation` 因此不加载 torch。
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Answer": "cloze",
    "ClozePair": "cloze",
    "Comparison": "verdict",
    "Difference": "bootstrap",
    "Evaluation": "scoring",
    "Exam": "comparison",
    "FrozenTargets": "targets",
    "PseudoLikelihood": "pll",
    "ReportCard": "report",
    "SamplePair": "samples",
    "Sample": "samples",
    "Scores": "scoring",
    "Sitting": "comparison",
    "Verdict": "verdict",
    "answer_clozes": "cloze",
    "assemble": "comparison",
    "bootstrap_difference": "bootstrap",
    "bootstrap_ratio": "bootstrap",
    "build_samples": "samples",
    "build_targets": "targets",
    "compare": "comparison",
    "compare_scores": "verdict",
    "evaluate": "scoring",
    "judge": "verdict",
    "pair_clozes": "cloze",
    "pair_samples": "samples",
    "prepare_exam": "comparison",
    "pseudo_log_likelihood": "pll",
    "score_targets": "scoring",
    "sit_exam": "comparison",
    "write_report": "report",
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
