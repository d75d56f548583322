"""惰性的名字：用到才载入，`dir` 看得见，写错了说得清。"""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from companion.lazy import after_import

PACKAGES = ("corpus", "evaluation", "checkpoints", "preflight", "losses",
            "inference", "notebook", "plots", "training")  # fmt: skip


@pytest.mark.parametrize("name", PACKAGES)
def test_dir_shows_what_a_package_offers(name: str) -> None:
    """`dir(包)` 里有每个公开的名字，也有平常的 `__name__` 等。"""
    package = import_module(f"companion.{name}")
    assert {*package.__all__, "__name__", "__doc__"} <= set(dir(package))


@pytest.mark.parametrize("name", PACKAGES)
def test_every_name_leads_to_something_with_a_home(name: str) -> None:
    """每个名字都取得到，取过一次就记在包里。"""
    package = import_module(f"companion.{name}")
    for public in package.__all__:
        assert getattr(package, public) is vars(package)[public]


@pytest.mark.parametrize("name", PACKAGES)
def test_a_misspelt_name_is_an_attribute_error_in_chinese(name: str) -> None:
    """没有的名字：`AttributeError`，说出是哪个包、去哪里看名单。"""
    package = import_module(f"companion.{name}")
    assert not hasattr(package, "没有这个")
    with pytest.raises(AttributeError, match=rf"companion\.{name} 没有 'tarin'"):
        package.tarin  # noqa: B018
    with pytest.raises(ImportError, match="tarin"):
        exec(f"from companion.{name} import tarin")


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


def test_one_module_is_loaded_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """等着的模块载入之后，另一个接着载入，只一次；已经载入的，立刻接着载入。"""
    (tmp_path / "awaited_first.py").write_text("ORDER = ['first']\n")
    for name in ("second", "third"):
        (tmp_path / f"awaited_{name}.py").write_text(
            f"import awaited_first\nawaited_first.ORDER.append('{name}')\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    finders = list(sys.meta_path)
    after_import("awaited_first", "awaited_second")
    assert "awaited_first" not in sys.modules
    first = import_module("awaited_first")
    assert first.ORDER == ["first", "second"]
    assert sys.meta_path == finders  # 等到了就退出
    after_import("awaited_first", "awaited_third")
    assert first.ORDER == ["first", "second", "third"]
    for name in ("first", "second", "third"):
        del sys.modules[f"awaited_{name}"]


def test_a_module_that_cannot_be_found_is_still_not_found() -> None:
    """等着的模块根本没有：导入它照旧是 ModuleNotFoundError，不留下痕迹。"""
    finders = list(sys.meta_path)
    after_import("awaited_nowhere", "awaited_never")
    with pytest.raises(ModuleNotFoundError, match="awaited_nowhere"):
        import_module("awaited_nowhere")
    assert sys.meta_path == finders
