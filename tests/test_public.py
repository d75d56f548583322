"""`import companion`：公开的名字一个不少，又轻得很。"""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import companion

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
def test_every_public_name_is_ours(name: str) -> None:
    """每个名字都是本包里定义的函数、类或表。"""
    value: Any = getattr(companion, name)
    assert getattr(value, "__module__", "companion").startswith("companion")


def test_the_version_is_that_of_the_distribution(root: Path) -> None:
    """`__version__` 与 pyproject.toml 相同。"""
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    assert companion.__version__ == tomllib.loads(text)["project"]["version"]
