"""等宽终端里对得齐的中文表格：汉字占两格，西文占一格。"""

from collections.abc import Sequence

from rich.cells import cell_len


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
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    lines: list[str] = []
    for row in cells:
        padded = [
            cell + " " * (width - cell_len(cell))
            if index == 0
            else " " * (width - cell_len(cell)) + cell
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(lines)
