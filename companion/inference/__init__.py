"""推理：给掩码填字（`fill`），给开头续写（`complete`），填补缺文（`infill`）。

名字在第一次用到时才导入，`import companion.inference` 因此不加载 torch。
"""

from companion.lazy import on_first_use

_HOMES = {
    "Candidate": "filling",
    "Completion": "completion",
    "Infilling": "infilling",
    "MaskedText": "filling",
    "complete": "completion",
    "fill": "filling",
    "fill_best": "filling",
    "infill": "infilling",
    "mask_randomly": "filling",
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]

__getattr__, __dir__ = on_first_use(__name__, _HOMES)
