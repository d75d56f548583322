"""书末的“模型×目标支持表”，由 `results/model_support.json` 在构建时写成。

    ```{support-table}
    ```

一列一个问题，用得的打钩，用不得的打叉并注出缘由；缘由相同的合用一条。

transformers 的每一种文字架构，由 `results/architectures.json` 写成两张：走得通的，结果
相同的合为一行；走不通的，一种一行，写着缘由。

    ```{architecture-table}
    ```
"""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

RESULTS = Path(__file__).parents[2] / "results"
DATA = RESULTS / "model_support.json"
ARCHITECTURES = RESULTS / "architectures.json"
HEADS = {
    "fused": "合在一起算",
    "rows": "挑行，logits 整块",
    "whole": "整行的 logits",
}
COMPANY = {"any": "长短不论", "same_length": "等长的", "none": "一批一行"}
OUTCOMES = {"refused": "拒绝，说明缘由", "unbuilt": "搭不出来", "broken": "出错"}
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


class ArchitectureTable(SphinxDirective):
    """每一种文字架构走不走得通。"""

    def run(self) -> list[nodes.Node]:
        """读测量的结果，写成 Markdown 的两张表。"""
        self.env.note_dependency(str(ARCHITECTURES))
        written = json.loads(ARCHITECTURES.read_text(encoding="utf-8"))
        box = nodes.container()
        lines = architecture_lines(written["rows"])
        self.state.nested_parse(lines, self.content_offset, box)
        return box.children


def architecture_lines(rows: list[dict[str, Any]]) -> list[str]:
    """总数与两张表，一行一个字符串。"""
    counts = Counter(row["outcome"] for row in rows)
    alike: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row["outcome"] == "trains":
            key = (row["objective"], row["head"], row["rows"])
            alike.setdefault(key, []).append(row["model_type"])
    failed = [row for row in rows if row["outcome"] != "trains"]
    return [
        f"共 {len(rows)} 个（架构，目标）：走得通的 {counts['trains']} 个，"
        + "，".join(f"{text}的 {counts[name]} 个" for name, text in OUTCOMES.items())
        + "。",
        "",
        "```{table} 走得通的架构",
        ":name: tab-architectures",
        "",
        "| 目标 | 输出头 | 同批的行 | 几种 | 架构 |",
        "|:--|:--|:--|--:|:--|",
        *(
            f"| `{objective}` | {HEADS[head]} | {COMPANY[company]} | {len(names)} | "
            + "、".join(f"`{name}`" for name in names)
            + " |"
            for (objective, head, company), names in sorted(alike.items())
        ),
        "```",
        "",
        "```{table} 走不通的架构与缘由",
        ":name: tab-architectures-refused",
        "",
        "| 架构 | 目标 | 结果 | 缘由 |",
        "|:--|:--|:--|:--|",
        *(
            f"| `{row['model_type']}` | `{row['objective']}` | "
            f"{OUTCOMES[row['outcome']]} | {_in_cell(row['reason'])} |"
            for row in failed
        ),
        "```",
    ]


def _in_cell(reason: str) -> str:
    """缘由里的竖线、反引号与尖括号不当作记号。"""
    plain = reason.replace("|", "／").replace("`", "'")
    return re.sub(r"[ -~]{12,}", lambda found: f" `{found[0].strip()}` ", plain).strip()


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
    app.add_directive("architecture-table", ArchitectureTable)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
