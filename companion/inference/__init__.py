"""推理：给掩码填字（`fill`），给开头续写（`complete`）。

名字在第一次用到时才导入，`import companion.inference` 因此不加载 torch。
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Candidate": "filling",
    "Completion": "completion",
    "MaskedText": "filling",
    "complete": "completion",
    "fill": "filling",
    "fill_best": "filling",
    "mask_randomly": "filling",
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
