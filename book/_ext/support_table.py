"""书末的“模型×目标支持表”，由 `results/model_support.json` 在构建时写成。

    ```{support-table}
    ```

一列一个问题，用得的打钩，用不得的打叉并注出缘由；缘由相同的合用一条。
"""

import json
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

DATA = Path(__file__).parents[2] / "results" / "model_support.json"
COLUMNS = {
    "packing": "打包",
    "four_d_mask": "四维掩码",
    "bf16": "bf16",
    "gradient_checkpointing": "重算激活",
    "compile": "`torch.compile`",
}


class SupportTable(SphinxDirective):
    """整张表，与表下的缘由。"""

    def run(self) -> list[nodes.Node]:
        """读测量的结果，写成 Markdown 的表。"""
        self.env.note_dependency(str(DATA))
        written = json.loads(DATA.read_text(encoding="utf-8"))
        box = nodes.container()
        lines = table_lines(written["rows"])
        self.state.nested_parse(lines, self.content_offset, box)
        return box.children


def table_lines(rows: list[dict[str, Any]]) -> list[str]:
    """表与缘由，一行一个字符串。"""
    reasons: list[str] = []
    body: list[str] = []
    for row in rows:
        cells = [row["name"], f"`{row['objective']}`"]
        for column in COLUMNS:
            reason = row[column]
            if reason is None:
                cells.append("没有试")
            elif not reason:
                cells.append("✓")
            else:
                if reason not in reasons:
                    reasons.append(reason)
                cells.append(f"✗（{reasons.index(reason) + 1}）")
        body.append("|".join(["", *cells, ""]))
    heads = ["模型", "目标", *COLUMNS.values()]
    return [
        "```{table} 点了名的模型，各样能力试出来的结果",
        ":name: tab-model-support",
        "",
        "|".join(["", *heads, ""]),
        "|".join(["", ":--", ":--", *[":-:"] * len(COLUMNS), ""]),
        *body,
        "```",
        "",
        "打叉的缘由：",
        "",
        *(f"{number}. {_readable(each)}" for number, each in enumerate(reasons, 1)),
    ]


def _readable(reason: str) -> str:
    """库的英文报错写成代码。"""
    said, colon, raised = reason.rpartition("：")
    if colon and re.fullmatch(r"[ -~]+", raised):
        return f"{said}：`{raised}`"
    return f"`{reason}`" if re.fullmatch(r"[ -~]+", reason) else reason


def setup(app: Sphinx) -> dict[str, Any]:
    """登记指令。"""
    app.add_directive("support-table", SupportTable)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
