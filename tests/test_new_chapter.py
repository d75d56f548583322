"""开一章的模板：写出来的两个文件合乎每一章的规矩，已有的不动。"""

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
import yaml
from built_book import ROOT
from test_book import test_every_chapter_follows_the_template as check_chapter
from test_book import test_the_prose_keeps_to_the_house_style as check_prose
from test_notebooks import (
    test_exactly_one_parameters_cell_defaults_to_tiny as check_parameters,
)
from test_notebooks import (
    test_the_form_offers_the_checkpoints_of_its_profiles as check_form,
)
from test_notebooks import (
    test_the_metadata_names_python3_and_nothing_else as check_metadata,
)

STEM = "13_new_topic"


@pytest.fixture
def script() -> ModuleType:
    """book/new_chapter.py。"""
    spec = importlib.util.spec_from_file_location("new", ROOT / "book/new_chapter.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """仓库的一小份：目录与一个笔记本。"""
    for name in ("_toc.yml", "notebooks/04_masked_lm.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "book").mkdir()
    return tmp_path


def test_a_new_chapter_follows_the_rules_from_the_start(
    script: ModuleType, root: Path
) -> None:
    """页合模板与行文，笔记本合格式，目录里挂在正文的末尾。"""
    page, notebook, toc = script.new_chapter(root, STEM, "新的一章")
    check_chapter(page)
    check_prose(page)
    assert page.read_text("utf-8").startswith("# 13 新的一章\n")
    nbformat.validate(nbformat.read(notebook, as_version=nbformat.NO_CONVERT))
    for check in (check_parameters, check_form, check_metadata, check_prose):
        check(notebook)
    body, _ = yaml.safe_load(toc.read_text("utf-8"))["parts"]
    assert body["chapters"][-1] == {
        "file": f"book/{STEM}",
        "sections": [{"file": f"notebooks/{STEM}"}],
    }
    assert "outputs" in json.loads(notebook.read_text("utf-8"))["cells"][1]


def test_nothing_is_overwritten(script: ModuleType, root: Path) -> None:
    """文件已经有了，或名字不合，就说出来，什么也不写。"""
    script.new_chapter(root, STEM, "新的一章")
    before = (root / "_toc.yml").read_text("utf-8")
    with pytest.raises(ValueError, match="已经有"):
        script.new_chapter(root, STEM, "又一次")
    with pytest.raises(ValueError, match="不合"):
        script.new_chapter(root, "new", "没有编号")
    assert (root / "_toc.yml").read_text("utf-8") == before
