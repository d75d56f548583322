"""状态页的三张表：版本、笔记本的用时与内存、各项实验的日期与提交。

    ```{status-table} versions
    ```

参数是 versions、notebooks 或 results。数字全部来自 constraints.txt、pyproject.toml 与
results/*.json，构建时读出。
"""

import ast
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]
_SHOWN = ("torch", "transformers", "tokenizers", "accelerate", "numpy", "jupyter-book")


def version_rows(root: Path = ROOT) -> Iterator[tuple[str, ...]]:
    """主要的包：声明的范围与测过的确切版本。"""
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["book"]]
    lines = (root / "constraints.txt").read_text("utf-8").splitlines()
    locked = dict(line.split("==") for line in lines if "==" in line)
    yield "`companion`", "", project["version"]
    yield "Python", f"`{project['requires-python']}`", "3.11、3.12、3.13"
    for name in _SHOWN:
        [line] = [each for each in declared if each.split(">=")[0] == name]
        yield f"`{name}`", f"`{line.removeprefix(name)}`", locked[name]


def notebook_rows(root: Path = ROOT) -> Iterator[tuple[str, ...]]:
    """每个笔记本以极小的设置重跑一次的用时与内存；没有量过的写“未量”。"""
    recorded = root / "results" / "notebook_runs.json"
    content = json.loads(recorded.read_text("utf-8")) if recorded.exists() else {}
    measured = content.get("notebooks", {})
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        link = f"[{path.stem}](../notebooks/{path.name})"
        run = measured.get(path.stem)
        if run is None:
            yield link, "未量", "未量", "未量"
        else:
            memory = f"{run['peak_megabytes']:.0f} MB"
            yield link, f"{run['cpu_seconds']:.0f} 秒", memory, run["date"]


def _about(root: Path, name: str) -> str:
    """没有写明说明什么的，取写出它的脚本开头的一句。"""
    script = root / "experiments" / f"{name}.py"
    if not script.exists():
        return ""
    said = ast.get_docstring(ast.parse(script.read_text("utf-8"))) or ""
    return said.partition("\n")[0].rstrip("。")


def result_rows(root: Path = ROOT) -> Iterator[tuple[str, ...]]:
    """每份结果：量的是什么、几次、哪一天、哪次提交。"""
    for path in sorted((root / "results").glob("*.json")):
        content = json.loads(path.read_text("utf-8"))
        source = content.get("provenance", {})
        runs = content.get("runs")
        yield (
            f"`{path.name}`",
            str(content.get("claim") or _about(root, path.stem)),
            str(len(runs)) if isinstance(runs, list) else "",
            str(source.get("date", "")),
            f"`{str(source.get('commit', ''))[:7]}`",
        )


TABLES = {
    "versions": (("包", "声明的范围", "测过的版本"), version_rows),
    "notebooks": (("笔记本", "CPU 时间", "内存峰值", "日期"), notebook_rows),
    "results": (("文件", "说明什么", "次数", "日期", "提交"), result_rows),
}


class StatusTable(SphinxDirective):
    """一张状态的表。"""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """写成 Markdown 的表。"""
        heads, rows = TABLES[self.arguments[0]]
        for path in [ROOT / "constraints.txt", *(ROOT / "results").glob("*.json")]:
            self.env.note_dependency(str(path))
        lines = [f"|{'|'.join(heads)}|", f"|{'---|' * len(heads)}"]
        lines += [f"|{'|'.join(row)}|" for row in rows()]
        box = nodes.container()
        self.state.nested_parse(lines, self.content_offset, box)
        return box.children


def setup(app: Sphinx) -> dict[str, Any]:
    """登记指令。"""
    app.add_directive("status-table", StatusTable)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
