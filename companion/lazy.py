"""包里的公开名字第一次用到时才载入，`import companion.corpus` 这样的话因此不碰大库。

在包的 `__init__.py` 里写：

    _HOMES = {"fetch": "fetching"}  # 名字 → 它所在的模块
    __getattr__, __dir__ = on_first_use(__name__, _HOMES)
    __all__ = sorted(_HOMES)
"""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def on_first_use(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """一个包的 `__getattr__` 与 `__dir__`（PEP 562）。

    Args:
        package: 包的全名，即它的 `__name__`。
        homes: 公开的名字 → 它所在的模块，相对于包，例如 `{"train": "run"}`。

    Returns:
        `__getattr__`：载入名字所在的模块，把值记在包里，下次不再经过这里；没有这个名字时
        抛出 `AttributeError`。`__dir__`：包里已有的与公开的名字。
    """

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(
                f"{package} 没有 {name!r}；公开的名字见 {package}.__all__"
            )
        value = getattr(import_module(f"{package}.{homes[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return load, names
