"""照模板开一章：书的一页、它的笔记本，并写进目录。

    python book/new_chapter.py 13_topic "一章的名字"

写出 `book/13_topic.md` 与 `notebooks/13_topic.ipynb`，已有的文件不动。接着改文字，
`python experiments/execute_notebooks.py 13` 跑出笔记本的输出，`make preview` 看成书。
"""

import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = Path(__file__).parent / "_templates" / "chapter.md"
LIKE = "04_masked_lm"
"""新笔记本的头两格照它的：安装与参数。"""


def main() -> None:
    """写出两个文件与目录的两行。"""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stem", help="编号与英文名，例如 13_topic")
    parser.add_argument("title", help="章名，中文")
    args = parser.parse_args()
    try:
        written = new_chapter(ROOT, args.stem, args.title)
    except ValueError as error:
        sys.exit(str(error))
    print("\n".join(["写下", *(f"  {path.relative_to(ROOT)}" for path in written)]))
    print(f"接着：改文字；python experiments/execute_notebooks.py {args.stem[:2]}")
    print("然后 make preview")


def new_chapter(root: Path, stem: str, title: str) -> list[Path]:
    """开一章，返回写下的文件。

    Raises:
        ValueError: 名字不合，或文件已经有了。
    """
    if not re.fullmatch(r"\d\d_[a-z0-9_]+", stem):
        raise ValueError(f"名字 {stem} 不合：两位编号、下划线、小写英文，如 13_topic")
    page = root / "book" / f"{stem}.md"
    notebook = root / "notebooks" / f"{stem}.ipynb"
    for path in (page, notebook):
        if path.exists():
            raise ValueError(f"已经有 {path.relative_to(root)}：换一个编号或名字")
    number, _, key = stem.partition("_")
    text = TEMPLATE.read_text("utf-8")
    for name, value in (("NUMBER", number), ("TITLE", title), ("STEM", stem)):
        text = text.replace(name, value)
    page.write_text(text.replace("KEY", key.replace("_", "-")), "utf-8")
    notebook.write_text(_notebook(root, number, title, stem), "utf-8")
    toc = root / "_toc.yml"
    lines = (
        f"      - file: book/{stem}\n"
        f"        sections:\n          - file: notebooks/{stem}\n"
    )
    head, mark, tail = toc.read_text("utf-8").partition("  - caption: 附录\n")
    toc.write_text(head + lines + mark + tail, "utf-8")
    return [page, notebook, toc]


def _notebook(root: Path, number: str, title: str, stem: str) -> str:
    """四格的笔记本：开头的话、安装、参数、第一次调用。"""
    like = json.loads((root / "notebooks" / f"{LIKE}.ipynb").read_text("utf-8"))
    setup, parameters = [c for c in like["cells"] if c["cell_type"] == "code"][:2]
    first = (
        "from companion.notebook import get_corpus, new_run, profile_config\n\n"
        'config = profile_config(PROFILE, "masked_lm", new_run("topic"), SEED, '
        "corpus=CORPUS)\n"
        "print(get_corpus(config.corpus))"
    )
    opening = (
        f"# 动手：{number} {title}\n\n> **你将学会**\n>\n> 1. 第一件事。\n>\n"
        "> **时间**：`tiny` 约一分钟。**硬件与费用**：`tiny` 只用 CPU。\n\n"
        f"公式与源码见书中的 [{number} {title}](../book/{stem}.md)一章。"
    )
    source = "".join(parameters["source"]).splitlines()
    kept = "\n".join(line for line in source if not line.startswith("MODEL"))
    cells = [
        {"cell_type": "markdown", "id": "opening", "metadata": {}, "source": opening},
        _code("setup", "".join(setup["source"]), setup["metadata"]),
        _code("parameters", kept, parameters["metadata"]),
        _code("config", first, {}),
    ]
    return json.dumps({**like, "cells": cells}, ensure_ascii=False, indent=1) + "\n"


def _code(name: str, source: str, metadata: dict[str, object]) -> dict[str, object]:
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": name,
        "metadata": metadata,
        "outputs": [],
        "source": source,
    }


if __name__ == "__main__":
    main()
