"""去掉笔记本里随机器而变的元数据，保留输出；`make nb-clean` 与 pre-commit 用它。"""

import sys
from pathlib import Path

import nbformat

KEPT_CELL = ("tags", "mystnb")


def clean(path: Path) -> bool:
    """就地清理一个笔记本，返回是否改动。"""
    before = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(before, as_version=4)
    notebook.metadata = {
        "kernelspec": {
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"name": "python"},
    }
    number = 0
    for cell in notebook.cells:
        cell.metadata = {k: v for k, v in cell.metadata.items() if k in KEPT_CELL}
        if cell.cell_type != "code":
            continue
        if cell.execution_count is not None:
            number += 1
            cell.execution_count = number
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = cell.execution_count
    notebook.nbformat_minor = max(notebook.nbformat_minor, 5)
    _, notebook = nbformat.validator.normalize(notebook)
    after = nbformat.writes(notebook) + "\n"
    if after != before:
        path.write_text(after, encoding="utf-8")
    return after != before


if __name__ == "__main__":
    changed = [name for name in sys.argv[1:] if clean(Path(name))]
    print("\n".join(f"清理了 {name}" for name in changed) or "都是干净的")
    sys.exit(bool(changed))
