"""各个目标在模型上的损失：只算目标处的输出头，与句序、片段边界、教师。

名字在第一次用到时才导入，`import companion.losses` 因此不加载 torch。
"""

from companion.lazy import on_first_use

_HOMES = {
    "BoundaryLoss": "parts",
    "Loss": "parts",
    "LossPart": "parts",
    "TeacherLoss": "parts",
    "WordLoss": "parts",
    "SpanBoundaryHead": "span_boundary",
    "TargetLosses": "target_head",
    "Teacher": "distillation",
    "attach_boundary_head": "span_boundary",
    "load_teacher": "distillation",
    "make_boundary_head": "span_boundary",
    "target_losses": "target_head",
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]

__getattr__, __dir__ = on_first_use(__name__, _HOMES)
