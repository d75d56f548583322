"""惰性的名字：名单只写在存根（`__init__.pyi`）里，用到才载入，`dir` 看得见。"""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = [
    ".".join(stub.parent.relative_to(ROOT).parts)
    for stub in sorted((ROOT / "companion").rglob("__init__.pyi"))
]


def test_every_room_that_offers_names_has_a_stub() -> None:
    """导入就载入的名字一个也没有：有 `__all__` 的包都靠存根。"""
    assert PACKAGES == [
        "companion",
        "companion.checkpoints",
        "companion.corpus",
        "companion.evaluation",
        "companion.inference",
        "companion.losses",
        "companion.notebook",
        "companion.plots",
        "companion.preflight",
        "companion.training",
    ]


@pytest.mark.parametrize("name", PACKAGES)
def test_every_name_is_listed_and_leads_somewhere(name: str) -> None:
    """`dir` 里有每个公开的名字；取得到，取过一次就记在包里；文件与它同名也不混。"""
    package = import_module(name)
    assert set(package.__all__) <= set(dir(package))
    for public in package.__all__:
        if (Path(str(package.__file__)).parent / f"{public}.py").exists():
            import_module(f"{name}.{public}")  # 装着它的文件与它同名
        value = getattr(package, public)
        assert value is vars(package)[public]
        assert type(value).__name__ != "module"


@pytest.mark.parametrize("name", PACKAGES)
def test_a_misspelt_name_is_an_attribute_error(name: str) -> None:
    """没有的名字：`AttributeError`，说出是哪个包的哪个名字。"""
    package = import_module(name)
    assert not hasattr(package, "没有这个")
    with pytest.raises(AttributeError, match=rf"{name}.*tarin"):
        package.tarin  # noqa: B018
    with pytest.raises(ImportError, match="tarin"):
        exec(f"from {name} import tarin")


def test_a_module_is_loaded_only_when_one_of_its_names_is_used(root: Path) -> None:
    """`import companion.corpus` 不载入 document；取 Document 才载入。"""
    code = (
        "import sys, companion.corpus as corpus; home = 'companion.corpus.document';"
        "early = home in sys.modules; corpus.Document;"
        "print(early, home in sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == ["False", "True"]
