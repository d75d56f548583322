"""样本图的版面：各列多宽，哪里换排，文字用几号。

尺寸以英寸计。列宽随本列最宽的文字，因此“[MASK]”与“兔”各得其所；一排放不下就换排。
"""

from collections.abc import Sequence
from dataclasses import dataclass

from companion.plots.font import text_width, visible
from companion.plots.rows import LabelRows
from companion.plots.style import LARGE, SMALL

CELL, WIDEST = 0.405, 1.25  # 格子的最小宽、最大宽
GUTTER, SEAM = 0.92, 0.14  # 左侧行名、文档之间的缝


@dataclass(frozen=True)
class Place:
    """一列在纸面上的位置，英寸。"""

    line: int
    left: float
    width: float

    @property
    def center(self) -> float:
        """格子中线的 x。"""
        return self.left + self.width / 2

    @property
    def right(self) -> float:
        """格子右边的 x。"""
        return self.left + self.width


def place_columns(rows: LabelRows, *, columns: int, limit: int) -> list[Place]:
    """把一个样本的各列排成几排，至多排 `limit` 列。"""
    widths = [
        column_width((token, given, "−100" if label is None else label))
        for token, given, label in zip(
            rows.tokens, rows.inputs, rows.labels, strict=True
        )
    ]
    return place(widths[:limit], rows.document, columns)


def place(
    widths: Sequence[float], documents: Sequence[int], columns: int
) -> list[Place]:
    """把各列排成几排，一排至多 `columns` 列；换文档处留缝。

    Args:
        widths: 各列的宽，英寸。
        documents: 各列属于第几个文档，不少于 `widths`。
        columns: 一排至多几列。

    Returns:
        每列的位置；排数取最少，各排的列数尽量匀。
    """
    breaks = _break_lines(widths, documents, columns)
    for fewer in range(columns - 1, 1, -1):
        narrower = _break_lines(widths, documents, fewer)
        if narrower[-1][0] > breaks[-1][0]:
            break
        breaks = narrower
    return [
        Place(line, left, width)
        for (line, left), width in zip(breaks, widths, strict=True)
    ]


def _break_lines(
    widths: Sequence[float], documents: Sequence[int], columns: int
) -> list[tuple[int, float]]:
    """从左到右排满一排再换下一排。"""
    room = max(columns * CELL, WIDEST + SEAM)
    result: list[tuple[int, float]] = []
    line, x, count = 0, 0.0, 0
    for column, width in enumerate(widths):
        changed = column > 0 and documents[column] != documents[column - 1]
        seam = SEAM if changed and count else 0.0
        if count and (count == columns or x + seam + width > room + 1e-9):
            line, x, count, seam = line + 1, 0.0, 0, 0.0
        result.append((line, GUTTER + x + seam))
        x, count = x + seam + width, count + 1
    return result


def column_width(texts: Sequence[str]) -> float:
    """一列的宽：放得下其中最宽的文字。"""
    needed = max(text_width(visible(text), SMALL) for text in texts) + 0.1
    return min(max(CELL, needed), WIDEST)


def fit(text: str, width: float) -> tuple[str, float]:
    """放得进格子的文字与字号：先缩到 9 点，再从末尾省略。"""
    for size in (LARGE, 11.0, SMALL):
        if text_width(text, size) <= width - 0.06 and (
            "\n" not in text or size == SMALL
        ):
            return text, size
    while len(text) > 1 and text_width(text + "…", SMALL) > width - 0.06:
        text = text[:-1]
    return text + "…", SMALL
