"""包里的公开名字第一次用到时才载入，`import companion.corpus` 这样的话因此不碰大库。

在包的 `__init__.py` 里写：

    _HOMES = {"fetch": "fetching"}  # 名字 → 它所在的模块
    __getattr__, __dir__ = on_first_use(__name__, _HOMES)
    __all__ = sorted(_HOMES)

`after_import` 则是“别人载入之后”：transformers 的登记处一出现，我们的模型就登记进去。
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
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


def after_import(module: str, follower: str) -> None:
    """一个模块一载入，就接着载入另一个；已经载入的，立刻接着载入。

    别的库的登记处因此可以等到有人用它时才去登记，不必现在就把那个库载入。

    Args:
        module: 等着的模块，全名。
        follower: 接着载入的模块，全名。
    """
    if module in sys.modules:
        import_module(follower)
    else:
        sys.meta_path.insert(0, _Waiting(module, follower))


class _Waiting(MetaPathFinder):
    """找到要等的模块后退出，由原来的办法载入它，再载入下一个。"""

    def __init__(self, module: str, follower: str) -> None:
        self._module, self._follower = module, follower

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        del path, target
        if fullname != self._module:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Following(spec.loader, self._follower)
        return spec


class _Following(Loader):
    """照原来的办法载入，再载入下一个。"""

    def __init__(self, loader: Loader, follower: str) -> None:
        self._loader, self._follower = loader, follower

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        import_module(self._follower)
