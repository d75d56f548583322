"""评估：每字比特数、伪对数似然、遗忘、报告卡。

名字在第一次用到时才导入，`import companion.evaluation` 因此不加载 torch。
"""

from companion.lazy import on_first_use

_HOMES = {
    "Answer": "answers",
    "ClozePair": "answers",
    "Comparison": "verdict",
    "Difference": "bootstrap",
    "Evaluation": "scoring",
    "Exam": "comparison",
    "FrozenTargets": "targets",
    "PseudoLikelihood": "pll",
    "ReportCard": "report",
    "SamplePair": "answers",
    "Sample": "answers",
    "Scores": "scoring",
    "Sitting": "comparison",
    "Verdict": "verdict",
    "answer_clozes": "answers",
    "assemble": "comparison",
    "bootstrap_difference": "bootstrap",
    "bootstrap_ratio": "bootstrap",
    "build_samples": "answers",
    "build_targets": "targets",
    "compare": "comparison",
    "compare_scores": "verdict",
    "evaluate": "scoring",
    "judge": "verdict",
    "pair_clozes": "answers",
    "pair_samples": "answers",
    "prepare_exam": "comparison",
    "pseudo_log_likelihood": "pll",
    "score_targets": "scoring",
    "sit_exam": "comparison",
    "write_report": "report",
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]

__getattr__, __dir__ = on_first_use(__name__, _HOMES)
