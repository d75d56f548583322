"""笔记本里的表：在网页里是 HTML，在终端里是对齐的文字，数字一律三位小数。

形状字母：B 行数，L 行长。
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len

from companion.batch import IGNORE_INDEX
from companion.errors import ObjectiveError
from companion.plots.rows import PairRows
from companion.show import token_text

MINUS = "\u2212"


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


def label_rows(tokenizer: Any, **batches: Any) -> Table:
    """几份标签并排，一列一个位置；−100 照写，别的写成词元。

    Args:
        tokenizer: 分词器。
        **batches: 名字 → (B, L) 张量；可以是输入，也可以是标签，长短要相同。

    Raises:
        ObjectiveError: 长短不同。
    """
    shapes = {name: tuple(batch.shape) for name, batch in batches.items()}
    if len(set(shapes.values())) != 1:
        raise ObjectiveError(
            found=f"各份的形状是 {shapes}",
            expected="同样的 (B, L)",
            remedy="用同样的样本、同样的填充整理它们",
        )
    [(size, length)] = set(shapes.values())
    rows = [
        [
            f"第 {line} 行",
            name,
            *(_cell(tokenizer, each) for each in batch[line].tolist()),
        ]
        for line in range(size)
        for name, batch in batches.items()
    ]
    return Table(["", "", *map(str, range(length))], rows)


def targets_table(tokenizer: Any, input_ids: Any, labels: Mapping[str, Any]) -> Table:
    """因果模型的损失实际比较什么：第 t 列的输出，对第 t + 1 列的标签。

    移位在模型的损失里，这里照样移一次，所以看得出标签有没有多移。

    Args:
        tokenizer: 分词器。
        input_ids: (1, L) int64。
        labels: 写法的名字 → (1, L) int64 标签。
    """
    inputs = input_ids[0].tolist()
    columns = [each[0].tolist() for each in labels.values()]
    rows = [
        [
            _cell(tokenizer, token_id),
            *(_cell(tokenizer, column[at + 1]) for column in columns),
        ]
        for at, token_id in enumerate(inputs[:-1])
    ]
    return Table(["看到这里", *(f"{name}：要它猜" for name in labels)], rows)


def sides_table(examples: Iterable[PairRows]) -> Table:
    """编码器–解码器的几个样本并排：编码器看到什么，解码器写出什么（−100 的不写）。"""
    rows = [
        [
            each.title,
            "".join(each.inputs),
            "".join(label for label in each.labels if label is not None),
        ]
        for each in examples
    ]
    return Table(["训练目标", "编码器看到", "解码器写出"], rows)


def _cell(tokenizer: Any, token_id: int) -> str:
    return (
        f"{MINUS}100" if token_id == IGNORE_INDEX else token_text(tokenizer, token_id)
    )
