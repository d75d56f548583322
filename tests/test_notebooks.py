"""笔记本：干净、单独打得开、离线跑得完、提交的输出与重跑的相同。

笔记本以极小的设置（PROFILE = "tiny"）连输出一起提交：Colab 的读者先看到结果，这里再逐格
核对。没有输出的笔记本在 nbval 里永远是绿的，所以先查每格都运行过。
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from companion.notebook.profiles import checkpoints

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "experiments"))

from execute_notebooks import NOTEBOOKS, OFFLINE, ROOT

BUDGET_SECONDS = 90
TIMEOUT_SECONDS = 600
MAX_BYTES = 500_000

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
# nbval 已把每个笔记本在空文件夹里离线重跑一遍；papermill 再跑只为注入参数，挑最快的
# 两个，每周在 Colab 的映像里跑全部（.github/workflows/colab.yml）
INJECTED = [
    ("02_corpus", "PROFILE", "tiny"),
    ("04_masked_lm", "CORPUS", "own.txt"),
]


def read(path: Path) -> dict[str, Any]:
    """笔记本的 JSON。"""
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(path: Path) -> list[dict[str, Any]]:
    """代码格，空的不算。"""
    cells = read(path)["cells"]
    return [c for c in cells if c["cell_type"] == "code" and source(c).strip()]


def source(cell: dict[str, Any]) -> str:
    """一格的文字。"""
    return "".join(cell["source"])


def children_seconds() -> float:
    """已结束的子进程用去的 CPU 秒数：机器同时忙着别的事时，也量得公平。"""
    times = os.times()
    return times.children_user + times.children_system


@each_notebook
def test_the_notebook_is_valid_and_small(path: Path) -> None:
    """合乎 nbformat 4.5，编号各不相同，不到 500 kB。"""
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5)
    ids = [cell["id"] for cell in notebook.cells]
    assert len(set(ids)) == len(ids), "有两格同一个编号"
    assert path.stat().st_size < MAX_BYTES, "太大：删去大图，或降低分辨率"


@each_notebook
def test_the_metadata_names_python3_and_nothing_else(path: Path) -> None:
    """内核是 python3；没有 papermill、widgets、colab 与执行时刻的痕迹。"""
    notebook = read(path)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert set(notebook["metadata"]) <= {"kernelspec", "language_info"}, (
        "运行 make nb-clean 去掉多余的元数据"
    )
    for number, cell in enumerate(notebook["cells"]):
        extra = set(cell["metadata"]) - {"tags", "mystnb"}
        assert not extra, f"第 {number} 格的元数据多了 {extra}：运行 make nb-clean"


@each_notebook
def test_every_code_cell_has_been_run_in_order(path: Path) -> None:
    """每个代码格都运行过，次序从 1 数起，没有报错；否则 nbval 是假绿。"""
    counts: list[int | None] = []
    for cell in code_cells(path):
        tags = cell["metadata"].get("tags", [])
        counts.append(cell.get("execution_count"))
        errors = [o for o in cell["outputs"] if o["output_type"] == "error"]
        assert not errors or "raises-exception" in tags, source(cell)
    assert counts == list(range(1, len(counts) + 1)), counts


@each_notebook
def test_the_notebook_tells_a_story_and_calls_the_package(path: Path) -> None:
    """不定义函数与类，不写注释式的 NBVAL 标记；格子不长。"""
    for cell in code_cells(path):
        text = source(cell)
        assert not re.search(r"^\s*(def|class|async def)\s", text, re.MULTILINE), text
        assert "# NBVAL" not in text, "改用格子的标签 nbval-…"
        assert len(text.splitlines()) <= 25, f"太长，移进包里：\n{text}"


@each_notebook
def test_exactly_one_parameters_cell_defaults_to_tiny(path: Path) -> None:
    """第二个代码格带标签 parameters，缺省是 tiny，也是 Colab 的表单。"""
    tagged = [
        number
        for number, cell in enumerate(code_cells(path))
        if "parameters" in cell["metadata"].get("tags", [])
    ]
    assert tagged == [1], "parameters 恰在第二个代码格"
    text = source(code_cells(path)[1])
    assert re.search(r'^PROFILE: str = "tiny"  # ?@param', text, re.MULTILINE), text


@each_notebook
def test_the_form_offers_the_checkpoints_of_its_profiles(path: Path) -> None:
    """有 MODEL 一栏的：缺省是空的，下拉框里恰是这个目标 t4、full 两档的检查点。"""
    parameters, config = (source(code_cells(path)[number]) for number in (1, 2))
    form = re.search(r'^MODEL: str = ""  #@param (\[.*?\])', parameters, re.MULTILINE)
    assert (form is not None) == ("model=MODEL" in config)
    if form is not None:
        [objective] = re.findall(r'profile_config\(PROFILE, "(\w+)"', config)
        offered = [name for p in ("t4", "full") for name in checkpoints(objective, p)]
        assert json.loads(form[1]) == ["", *offered]


@each_notebook
def test_the_notebook_reads_the_same_on_every_machine(path: Path) -> None:
    """没有绝对路径，没有 MyST 语法（Colab 会原样显示），没有主机名。"""
    notebook = read(path)
    whole = json.dumps(notebook, ensure_ascii=False)
    for pattern in (r"/home/\w+", r"/Users/\w+", r"/root\b", r"[A-Z]:\\\\", r"/tmp/\w"):
        found = re.search(pattern, whole)
        assert found is None, f"绝对路径 {found and found[0]}"
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            text = source(cell)
            assert not re.search(r"^:::|^```\{|\{[a-z:]+\}`", text, re.MULTILINE), text


@each_notebook
def test_every_training_notebook_takes_a_corpus(path: Path) -> None:
    """训练的笔记本有 CORPUS 一栏，缺省是空的，读这一档的样本。"""
    texts = [source(cell) for cell in code_cells(path)]
    trains = any("train(config" in text for text in texts)
    field = 'CORPUS: str = ""  #@param {type:"string"}'
    assert (field in texts[1].splitlines()) == trains
    assert any("corpus=CORPUS" in text for text in texts) == trains


@pytest.mark.parametrize(("stem", "name", "value"), INJECTED)
def test_papermill_injects_a_parameter_and_runs_to_the_end(
    stem: str, name: str, value: str, tmp_path: Path
) -> None:
    """只拿到这一个文件、没有网络，注入参数也从头跑到尾；语料可以是读者自己的。"""
    home = tmp_path / "empty"
    home.mkdir()
    shutil.copy(ROOT / "notebooks" / f"{stem}.ipynb", home)
    own = [
        f"第{number}章，院里的水缸满了，他把书放在窗前。" * 5 for number in range(60)
    ]
    (home / "own.txt").write_text("\n\n".join(own), encoding="utf-8")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "papermill", f"{stem}.ipynb"),
            *(str(tmp_path / "out.ipynb"), "-k", "python3", "-p", name, value),
            *("--no-progress-bar", "--log-level", "WARNING"),
        ],
        cwd=home,
        env={**os.environ, **OFFLINE},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@each_notebook
def test_the_committed_outputs_are_what_it_prints_now(
    path: Path, tmp_path: Path
) -> None:
    """单独一个文件、不连网，nbval 逐格重跑：文字与提交的相同，一分钟上下跑完。"""
    shutil.copy(path, tmp_path / path.name)
    before = children_seconds()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env"),
            *("--nbval-sanitize-with", str(ROOT / "tests" / "nbval.cfg")),
            *("-c", os.devnull, "--rootdir", str(tmp_path), "-p", "no:cacheprovider"),
            *("-q", path.name),
        ],
        cwd=tmp_path,
        env={**os.environ, **OFFLINE},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    seconds = children_seconds() - before
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert seconds < BUDGET_SECONDS, f"用了 {seconds:.0f} 秒 CPU 时间"


def test_every_notebook_is_in_the_table_of_contents() -> None:
    """notebooks/ 里的每个文件都在 _toc.yml 里，书里才看得到。"""
    listed = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    missing = [p.stem for p in NOTEBOOKS if f"file: notebooks/{p.stem}\n" not in listed]
    assert not missing, f"_toc.yml 里没有 {missing}"
