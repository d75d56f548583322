"""`import companion`：公开的名字一个不少，又轻得很。"""

import subprocess
import sys
import time
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import companion
from companion import _HOMES

HEAVY = (
    "torch",
    "transformers",
    "matplotlib",
    "numpy",
    "pyarrow",
    "jieba",
    "yaml",
    "rich",
)


def test_import_is_light(root: Path) -> None:
    """不加载任何重的库；在子进程里量，0.3 秒的指标放宽到 1 秒，留给忙的机器。"""
    code = (
        "import sys, time; begin = time.process_time(); import companion; "
        "seconds = time.process_time() - begin; dir(companion); "
        f"print(seconds, [m for m in {HEAVY!r} if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, loaded = found.stdout.split(maxsplit=1)
    assert loaded.strip() == "[]"
    assert float(seconds) < 1.0


@pytest.mark.parametrize("name", companion.__all__)
def test_every_public_name_resolves(name: str) -> None:
    """每个名字都导得进来，而且不是模块：`fill` 是函数，不是装着它的文件。"""
    value: Any = getattr(companion, name)
    assert type(value).__name__ != "module"
    home = import_module(f"companion.{_HOMES[name]}")
    assert getattr(value, "__module__", home.__name__).startswith("companion")


@pytest.mark.parametrize("name", companion.__all__)
def test_no_module_bears_the_name_of_what_it_holds(name: str, root: Path) -> None:
    """惰性载入的包里不可有与公开名字同名的模块：导入它之后，名字就成了模块。"""
    package = root / "companion" / _HOMES[name].replace(".", "/")
    assert not (package / f"{name}.py").exists()
    assert not (root / "companion" / f"{name}.py").exists()


def test_the_list_and_the_map_agree() -> None:
    """`__all__`、名字的去处与 `dir` 说的是同一批名字，按字母排列。"""
    assert sorted(companion.__all__) == sorted(_HOMES)
    assert set(companion.__all__) <= set(dir(companion))


def test_type_checkers_see_the_same_names(root: Path) -> None:
    """`TYPE_CHECKING` 里导入的正是公开的名字，一个不多，一个不少。"""
    import ast

    tree = ast.parse((root / "companion" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {
        alias.name: str(node.module).removeprefix("companion.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == _HOMES


def test_an_unknown_name_is_an_attribute_error() -> None:
    """没有的名字：`AttributeError`，说得出名字，`hasattr` 因此照常。"""
    assert not hasattr(companion, "trian")
    with pytest.raises(AttributeError, match="trian"):
        _ = companion.trian  # type: ignore[attr-defined]


def test_the_version_is_that_of_the_distribution(root: Path) -> None:
    """`__version__` 与 pyproject.toml 相同。"""
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    assert companion.__version__ == tomllib.loads(text)["project"]["version"]


def test_resolving_a_name_twice_is_free() -> None:
    """第一次之后名字就在模块里，不再经过 `__getattr__`。"""
    assert companion.get_objective is companion.get_objective
    assert "get_objective" in vars(companion)
    begin = time.perf_counter()
    for _ in range(1000):
        _ = companion.get_objective
    assert time.perf_counter() - begin < 0.05
