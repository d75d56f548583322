"""等宽终端里对得齐的中文表格：汉字占两格，西文占一格。"""

import unicodedata
from collections.abc import Sequence


def display_width(text: str) -> int:
    """终端里占的格数：全角与宽字符两格，组合符不占，其余一格。"""
    return sum(
        0
        if unicodedata.combining(char)
        else 2
        if unicodedata.east_asian_width(char) in "WF"
        else 1
        for char in text
    )


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """排成表格：首列左对齐，其余右对齐；整数每三位加逗号。

    Args:
        header: 列名。
        rows: 各行，与列名一样长。

    Returns:
        多行文本，末尾没有换行符。
    """
    cells = [list(header)] + [
        [f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row]
        for row in rows
    ]
    widths = [max(map(display_width, column)) for column in zip(*cells, strict=True)]
    lines: list[str] = []
    for row in cells:
        padded = [
            cell + " " * (width - display_width(cell))
            if index == 0
            else " " * (width - display_width(cell)) + cell
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(lines)
