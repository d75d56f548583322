"""训练前后的对照表：成绩、填空、填补、续写，以及报告的结论。"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from companion.errors import EvaluationError
from companion.evaluation.report import MARKDOWN_FILE
from companion.evaluation.verdict import signed_percent
from companion.notebook.tables import Table, fixed

_SETS = {"domain": "领域", "general": "通用"}
_MEASURES = {
    "bits_per_char": "每字比特数",
    "accuracy": "准确率",
    "unk_rate": "未登录率",
}


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
    checkpoints: Mapping[str, Any], texts: Sequence[str], max_new_tokens: int = 12
) -> Table:
    """填补：每句一行，每个检查点一列，几处之间用“／”隔开，没写完的以“……”收尾。"""
    from companion.inference import infill

    rows: list[list[str]] = []
    for text in texts:
        written = [infill(each, text, max_new_tokens) for each in checkpoints.values()]
        rows.append([text, *("／".join(_ended(each)) for each in written)])
    return Table(["题面", *checkpoints], rows)


def _ended(written: Any) -> list[str]:
    return [
        fill + ("" if finished else "……")
        for fill, finished in zip(written.fills, written.finished, strict=True)
    ]


def completions_table(
    checkpoints: Mapping[str, Any],
    prompts: Sequence[str],
    max_new_tokens: int = 24,
    **options: Any,
) -> Table:
    """续写：每个开头一行，每个检查点一列；`options` 交给 `complete`，缺省是贪心。"""
    from companion.inference import complete

    rows = [
        [
            prompt,
            *(
                complete(each, prompt, max_new_tokens, **options)[0].new_text
                for each in checkpoints.values()
            ),
        ]
        for prompt in prompts
    ]
    return Table(["开头", *checkpoints], rows)
