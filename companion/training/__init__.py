"""训练：设置 → 排定的批次 → `transformers.Trainer` → 检查点与报告。

名字在第一次用到时才载入，`import companion.training` 因此不加载 torch。
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "TrainingInterrupted": "run",
    "TrainingResult": "run",
    "run_demo": "demo",
    "train": "run",
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"companion.training 没有 {name}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
