"""笔记本里的表：成绩、标签、填空、续写；在网页里是 HTML，在终端里是对齐的文字。

数字一律三位小数。

形状字母：B 行数，L 行长。
"""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.cells import cell_len

from companion.batch import IGNORE_INDEX
from companion.errors import EvaluationError, ModelError
from companion.evaluation.report import MARKDOWN_FILE
from companion.evaluation.verdict import signed_percent
from companion.show import token_text

MINUS = "\u2212"
_SETS = {"domain": "领域", "general": "通用"}
_MEASURES = {
    "bits_per_char": "每字比特数",
    "accuracy": "准确率",
    "unk_rate": "未登录率",
}


def fixed(value: float) -> str:
    """三位小数，负号用 U+2212。

    >>> fixed(-0.0004), fixed(7.12345)
    ('0.000', '7.123')
    """
    text = f"{value:.3f}"
    return "0.000" if text == "-0.000" else text.replace("-", MINUS)


@dataclass(frozen=True)
class Table:
    """一张小表；各格都是写好的文字。

    >>> print(Table(["字", "数"], [["臣光", "1.000"]]))
    字    数
    臣光  1.000
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        lines = [self.header, *self.rows]
        columns = zip(*lines, strict=True)
        widths = [max(cell_len(cell) for cell in column) for column in columns]
        return "\n".join(
            "  ".join(
                cell + " " * (width - cell_len(cell))
                for cell, width in zip(line, widths, strict=True)
            ).rstrip()
            for line in lines
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        left = ' style="text-align: left"'

        def row(cells: Sequence[str], tag: str) -> str:
            inside = "".join(f"<{tag}{left}>{html.escape(c)}</{tag}>" for c in cells)
            return f"<tr>{inside}</tr>"

        body = "\n".join(row(cells, "td") for cells in self.rows)
        return f"<table>\n{row(self.header, 'th')}\n{body}\n</table>"


def scores_table(metrics: Mapping[str, Any]) -> Table:
    """`metrics.json` 里的前后成绩，三位小数。

    Args:
        metrics: `TrainingResult.metrics`。

    Raises:
        EvaluationError: 训练时关了评估。
    """
    if "before" not in metrics or "after" not in metrics:
        raise EvaluationError(
            found="这次训练没有前后的成绩",
            expected="metrics 里有 before 与 after",
            remedy="去掉 eval=False，重新训练",
        )
    rows: list[list[str]] = []
    for key, name in _SETS.items():
        if key not in metrics["before"]:
            continue
        before, after = metrics["before"][key], metrics["after"][key]
        for measure, title in _MEASURES.items():
            old, new = before[measure], after[measure]
            moved = measure == "bits_per_char" and old
            change = signed_percent(new / old - 1) if moved else fixed(new - old)
            rows.append([name, title, fixed(old), fixed(new), change])
    return Table(["留出集", "量什么", "训练前", "训练后", "变化"], rows)


def verdict(output: str | Path) -> str:
    """报告 `report.md` 的结论一节，去掉记号，一句一行。

    Raises:
        EvaluationError: 这个文件夹里没有报告。
    """
    path = Path(output) / MARKDOWN_FILE
    if not path.is_file():
        raise EvaluationError(
            found=f"{output} 里没有 {MARKDOWN_FILE}",
            expected="一次训练完、前后评估过的输出文件夹",
            remedy="先用 train 训练，不要关掉评估",
        )
    text = path.read_text(encoding="utf-8")
    section = text.partition("## 结论\n")[2].partition("\n## ")[0]
    lines = (line.strip("*> ") for line in section.splitlines())
    return "\n".join(line for line in lines if line)


def answers_table(
    checkpoints: Mapping[str, Any], objective: str, clozes: Iterable[Any]
) -> Table:
    """填空题，每个检查点各答一遍。

    Args:
        checkpoints: 名字 → 检查点，如 `{"训练前": …, "训练后": …}`。
        objective: 训练目标的键。
        clozes: 题目（`companion.read_cloze`）。

    Returns:
        一题一行，写出所猜的与正确答案的名次；最后一行是答对的题数。
    """
    from companion.evaluation.answers import answer_clozes

    listed = list(clozes)
    sheets = [answer_clozes(each, objective, listed) for each in checkpoints.values()]
    rows: list[list[str]] = []
    totals = [0] * len(sheets)
    for number, cloze in enumerate(listed):
        row = [cloze.text, cloze.answer]
        for column, sheet in enumerate(sheets):
            answer = sheet[number]
            if answer is None:
                row.append("答不了")
                continue
            totals[column] += answer.correct
            mark = "✓ " if answer.correct else ""
            row.append(f"{mark}{answer.guess}（答案第 {answer.rank} 名）")
        rows.append(row)
    rows.append(["答对", f"共 {len(listed)} 题", *map(str, totals)])
    return Table(["题面", "答案", *checkpoints], rows)


def fills_table(
    checkpoints: Mapping[str, Any], texts: Sequence[str], top_k: int = 3
) -> Table:
    """填空：每个掩码一行，每个检查点一列，写出前几名与概率。"""
    from companion.inference import fill

    rows: list[list[str]] = []
    for text in texts:
        sheets = [fill(each, text, top_k) for each in checkpoints.values()]
        for number, blanks in enumerate(zip(*sheets, strict=True), 1):
            listed = [
                "、".join(f"{c.token} {fixed(c.score)}" for c in b) for b in blanks
            ]
            rows.append([text if number == 1 else "", f"第 {number} 空", *listed])
    return Table(["题面", "", *checkpoints], rows)


def infills_table(
    checkpoints: Mapping[str, Any],
    texts: Sequence[str],
    max_new_tokens: int = 12,
    objective: str | None = None,
) -> Table:
    """填补：每句一行，每个检查点一列，几处之间用“／”隔开，没写完的以“……”收尾。"""
    from companion.inference import infill

    rows: list[list[str]] = []
    for text in texts:
        written = [
            infill(each, text, max_new_tokens, objective=objective)
            for each in checkpoints.values()
        ]
        rows.append([text, *("／".join(_ended(each)) for each in written)])
    return Table(["题面", *checkpoints], rows)


def _ended(written: Any) -> list[str]:
    return [
        fill + ("" if finished else "……")
        for fill, finished in zip(written.fills, written.finished, strict=True)
    ]


def replaced_table(checkpoint: Any, text: str, seed: int = 0) -> Table:
    """ELECTRA 的一对过一遍：遮了哪些，生成器填了什么，判别器信不信。

    Args:
        checkpoint: 生成器与判别器的一对，例如 `starter:electra`。
        text: 一句话。
        seed: 遮哪些、抽什么的种子。

    Raises:
        ModelError: 检查点不是一对。
    """
    import torch

    from companion.checkpoints.electra_pair import ElectraPair
    from companion.checkpoints.running import evaluation_mode
    from companion.losses.parts import DetectionLoss
    from companion.show import show_example

    pair, tokenizer = checkpoint.model, checkpoint.tokenizer
    if not isinstance(pair, ElectraPair):
        raise ModelError(
            found=f"{checkpoint.name} 是 {type(pair).__name__}",
            expected="生成器与判别器的一对",
            remedy='用 load_checkpoint("starter:electra", "replaced_token") 打开',
        )
    batch = show_example("replaced_token", text, tokenizer, seed).batch
    batch = {name: value.to(pair.device) for name, value in batch.items()}
    original = batch["original_ids"]
    judged = original != IGNORE_INDEX
    with torch.no_grad(), evaluation_mode(pair):
        fakes, _ = pair.make_fakes(batch)
        truth = (fakes != original).long().masked_fill(~judged, IGNORE_INDEX)
        [part] = DetectionLoss()(pair, {**batch, "input_ids": fakes, "labels": truth})
    rows: list[list[str]] = []
    columns = (original, batch["input_ids"], fakes, truth)
    for (was, seen, fake, replaced), nats in zip(
        zip(*(column[judged].tolist() for column in columns), strict=True),
        part.losses.nats.tolist(),
        strict=True,
    ):
        right = math.exp(-nats)
        words = [token_text(tokenizer, each) for each in (was, seen, fake)]
        verdict = "换过" if replaced else ""
        rows.append([*words, verdict, fixed(right if replaced else 1 - right)])
    return Table(["原文", "生成器看到", "判别器看到", "真相", "说“换过”的把握"], rows)
