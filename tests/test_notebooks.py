"""笔记本：干净、单独打得开、离线跑得完、提交的输出与重跑的相同。

笔记本以极小的设置（PROFILE = "tiny"）连输出一起提交：Colab 的读者先看到结果，这里再逐格
核对。没有输出的笔记本怎样比都是绿的，所以先查每格都运行过。

一个内核光是装入 torch 与 transformers 就要几秒，所以每个笔记本只由 papermill 跑一遍：
注入参数、跑得到尾、输出与提交的相同、用了多少 CPU 时间，都由那一遍来答。
"""

import configparser
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
IGNORED = "nbval-ignore-output"
"""带这个标签的格随机器而变，不比输出。"""


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


def run(path: Path, home: Path, *parameters: str) -> tuple[dict[str, Any], float]:
    """只拿到这一个文件、没有网络，注入参数从头跑到尾；返回跑完的与 CPU 秒数。"""
    shutil.copy(path, home)
    before = children_seconds()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "papermill", path.name, "out.ipynb"),
            *("-k", "python3", "-p", *parameters),
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
    return read(home / "out.ipynb"), children_seconds() - before


def shown(cell: dict[str, Any]) -> str:
    """一格给人看的文字：打印的、表的 HTML、图的说明；随机器而变的照 nbval.cfg 抹去。"""
    text = ""
    for output in cell["outputs"]:
        data = output.get("data", {})
        parts = [output.get("text", ""), data.get("text/plain", "")]
        for part in (*parts, data.get("text/html", "")):
            text += "".join(part)
    rules = configparser.RawConfigParser()
    rules.read(ROOT / "tests" / "nbval.cfg", encoding="utf-8")
    for name in rules.sections():
        text = re.sub(rules[name]["regex"], rules[name]["replace"], text)
    return text


@each_notebook
def test_the_committed_outputs_are_what_it_prints_now(
    path: Path, tmp_path: Path
) -> None:
    """Papermill 重跑，逐格相同；注入的参数用上了，一分钟上下跑完。"""
    done, seconds = run(path, tmp_path, "PROFILE", "tiny")
    cells = [cell for cell in done["cells"] if cell["cell_type"] == "code"]
    [injected] = [
        cell for cell in cells if "injected-parameters" in cell["metadata"]["tags"]
    ]
    assert 'PROFILE = "tiny"' in source(injected)
    cells.remove(injected)
    committed = code_cells(path)
    assert [source(cell) for cell in cells] == [source(cell) for cell in committed]
    for old, new in zip(committed, cells, strict=True):
        if IGNORED not in old["metadata"].get("tags", []):
            assert shown(new) == shown(old), source(old)
    assert seconds < BUDGET_SECONDS, f"用了 {seconds:.0f} 秒 CPU 时间"


@pytest.mark.parametrize(
    ("name", "least_gain"), [("00_quickstart", 0.045), ("03_causal_lm", 0.15)]
)
def test_the_committed_scores_say_that_it_learned(name: str, least_gain: float) -> None:
    """二十来步之后，小史的留出集每字比特数明显下降，通用文字没有坏到两成。

    提交的成绩由上面的重跑核对到第三位小数，不必再训练一次。
    """
    path = ROOT / "notebooks" / f"{name}.ipynb"
    [cell] = [c for c in code_cells(path) if "scores_table(result" in source(c)]
    found = re.findall(r"(领域|通用) +每字比特数 +([\d.]+) +([\d.]+)", shown(cell))
    change = {side: float(after) / float(before) - 1 for side, before, after in found}
    assert change["领域"] < -least_gain
    assert change["通用"] < 0.2


def test_what_a_cell_shows_is_compared_to_three_decimals() -> None:
    """文字差一个字就不同；第三位小数之后、用时、路径随机器而变，不算。"""
    cells = [
        {"outputs": [{"text": [f"损失 {loss}，用时 {seconds} 秒\n"]}]}
        for loss, seconds in (
            ("4.56789", "3.1"),
            ("4.56712", "4.0"),
            ("4.56812", "3.1"),
        )
    ]
    assert shown(cells[0]) == shown(cells[1]) != shown(cells[2])
    table = {"outputs": [{"data": {"text/plain": ["表"], "text/html": ["<b>1</b>"]}}]}
    assert shown(table) == "表<b>1</b>"


def test_a_notebook_reads_the_corpus_of_its_reader(tmp_path: Path) -> None:
    """CORPUS 一栏填上自己的文件，从头跑到尾。"""
    own = [
        f"第{number}章，院里的水缸满了，他把书放在窗前。" * 5 for number in range(60)
    ]
    (tmp_path / "own.txt").write_text("\n\n".join(own), encoding="utf-8")
    path = ROOT / "notebooks" / "00_quickstart.ipynb"
    done, _ = run(path, tmp_path, "CORPUS", "own.txt")
    assert "own.txt：本机的文件" in "".join(map(shown, (
        cell for cell in done["cells"] if cell["cell_type"] == "code"
    )))  # fmt: skip


def test_every_notebook_is_in_the_table_of_contents() -> None:
    """notebooks/ 里的每个文件都在 _toc.yml 里，书里才看得到。"""
    listed = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    missing = [p.stem for p in NOTEBOOKS if f"file: notebooks/{p.stem}\n" not in listed]
    assert not missing, f"_toc.yml 里没有 {missing}"
