"""训练：设置 → 排定的批次 → `transformers.Trainer` → 检查点与报告。

名字在第一次用到时才载入，`import companion.training` 因此不加载 torch。
"""

from companion.lazy import on_first_use

_HOMES = {
    "TrainingInterrupted": "loop",
    "TrainingResult": "run",
    "run_demo": "run",
    "train": "run",
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]

__getattr__, __dir__ = on_first_use(__name__, _HOMES)
