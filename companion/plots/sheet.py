"""样本图共用的纸：格子、箭头、文字、图例，坐标就是英寸，x 向右，y 向下。

图上的每个格子、箭头都带编号（gid），如 `label-3`、`arrow-2-3`，测试与网页脚本据此找到
它们。

各列的宽随本列最宽的文字，因此“[MASK]”与“兔”各得其所；一排放不下就换排。
"""

# matplotlib 自带的类型注解不全（**kwargs 没有类型），以下两项因此关掉
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from matplotlib.patches import FancyArrowPatch, Rectangle

from companion.plots import style
from companion.plots.font import text_width, visible
from companion.plots.rows import LabelRows
from companion.plots.style import LARGE, SMALL, Card, plain

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


HEIGHT, EDGE = 0.40, 0.16  # 格子的高、四边留白
GAP, FALL, BETWEEN = 0.07, 0.46, 0.26  # 词元与输入、输入与标签（箭头）、两排之间
HEADER, LEGEND = 0.27, 0.27  # 文档号与列号各占一行；图例一行

Look = dict[str, Any]
PLAIN: Look = {"facecolor": "white", "edgecolor": style.GREY, "linewidth": 0.8}
SPECIAL: Look = {**PLAIN, "facecolor": style.PALE, "linestyle": (0, (2, 1.5))}
IGNORED: Look = {
    "facecolor": "white",
    "edgecolor": "#B8B8B8",
    "linewidth": 0.8,
    "hatch": "////",
}
TARGET: Look = {
    "facecolor": style.LIGHT_BLUE,
    "edgecolor": style.BLUE,
    "linewidth": 1.6,
}
MASKED: Look = {
    "facecolor": style.LIGHT_ORANGE,
    "edgecolor": style.ORANGE,
    "linewidth": 2.0,
}
REPLACED: Look = {
    "facecolor": style.LIGHT_PURPLE,
    "edgecolor": style.VERMILION,
    "linewidth": 2.0,
    "linestyle": "--",
}
KEPT: Look = {
    "facecolor": style.LIGHT_GREEN,
    "edgecolor": style.GREEN,
    "linewidth": 2.0,
    "linestyle": ":",
}


class Entry(NamedTuple):
    """图例的一项；`look` 为空时画一支箭头。"""

    left: float
    line: int
    text: str
    look: Look


def arrange_legend(entries: list[tuple[str, Look]], inner: float) -> list[Entry]:
    """图例按字宽排，放不下 `inner` 英寸就换行。"""
    placed: list[Entry] = []
    x, line = EDGE, 0
    for text, look in entries:
        width = 0.3 + text_width(text, SMALL) + 0.2
        if x > EDGE and x + width - 0.2 > EDGE + inner:
            x, line = EDGE, line + 1
        placed.append(Entry(x, line, text, look))
        x += width
    return placed


class Sheet:
    """一张宽、高以英寸计的纸。"""

    def __init__(self, width: float, height: float) -> None:
        self.card = Card(width, height, constrained=False)
        self.axes = self.card.add_axes((0, 0, 1, 1))
        self.axes.set_xlim(0, width)
        self.axes.set_ylim(height, 0)
        self.axes.set_axis_off()

    def cell(
        self, left: float, y: float, width: float, text: str, look: Look, name: str
    ) -> None:
        """一个格子，文字（已经过 `visible`）居中，放不下就缩小或省略。"""
        box = Rectangle((left + 0.02, y), width - 0.04, HEIGHT, **look)
        box.set_gid(name)
        self.axes.add_patch(box)
        if not text:
            return
        shown, size = fit(text, width)
        ignored = look is IGNORED
        written = self.text(
            left + width / 2,
            y + HEIGHT / 2,
            shown,
            size=SMALL if ignored else size,
            color=style.GREY if ignored or look is SPECIAL else style.INK,
        )
        if ignored:  # 斜线不穿过文字
            written.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8})

    def arrow(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        name: str,
        head: str = "-|>",
    ) -> None:
        """一支蓝色的箭头；`head` 为 "-" 时没有箭尖。"""
        arrow = FancyArrowPatch(
            start,
            end,
            arrowstyle=head,
            mutation_scale=9,
            shrinkA=1,
            shrinkB=1,
            color=style.BLUE,
            linewidth=1.3,
        )
        arrow.set_gid(name)
        self.axes.add_patch(arrow)

    def documents(
        self,
        places: Sequence[Place],
        owners: Sequence[int],
        tops: Sequence[float],
        depth: float,
        prefix: str = "",
    ) -> None:
        """文档号画成括线，文档之间画粗虚线。

        Args:
            places: 各列的位置。
            owners: 各列属于第几个文档，不少于 `places`；填充处为 −1。
            tops: 各排的顶。
            depth: 一排的格子到顶下多深为止。
            prefix: 编号的前缀；一张图有两组列时用它区分。
        """
        keys = [(place.line, owners[at]) for at, place in enumerate(places)]
        cuts = [at for at in range(1, len(keys)) if keys[at] != keys[at - 1]]
        for start, stop in pairwise([0, *cuts, len(keys)]):
            first, last = places[start], places[stop - 1]
            y = tops[first.line] + 0.22
            number = str(owners[start] + 1) if owners[start] >= 0 else ""
            name = f"文档 {number}" if number else "填充"
            if text_width(name, SMALL) > last.right - first.left - 0.02:
                name = number or "填"
            self._line(
                (first.left + 0.04, last.right - 0.04),
                (y, y),
                f"{prefix}document-{start}-{stop}",
                lw=1.2,
            )
            center = (first.left + last.right) / 2
            self.text(center, y - 0.03, name, SMALL, va="bottom")
        for at in cuts:
            if keys[at][0] != keys[at - 1][0]:
                continue  # 换排本身就是分界
            x = (places[at - 1].right + places[at].left) / 2
            top = tops[places[at].line]
            ys = top + 0.05, top + depth + 0.05
            self._line((x, x), ys, f"{prefix}boundary-{at}", lw=1.8, ls=(0, (3, 2)))

    def _line(
        self, xs: tuple[float, float], ys: tuple[float, float], name: str, **look: Any
    ) -> None:
        (drawn,) = self.axes.plot([*xs], [*ys], color=style.INK, **look)
        drawn.set_gid(name)

    def legend(self, entries: list[Entry], top: float) -> None:
        """从 `top` 起画图例。"""
        for entry in entries:
            x, y = entry.left, top + LEGEND * entry.line
            if entry.look:
                self.axes.add_patch(Rectangle((x, y + 0.04), 0.22, 0.16, **entry.look))
            else:
                self.arrow((x, y + 0.03), (x + 0.22, y + 0.2), "legend-arrow")
            self.text(x + 0.29, y + 0.12, entry.text, SMALL, ha="left")

    def text(self, x: float, y: float, text: str, size: float, **kwargs: Any) -> Any:
        """一段文字，缺省居中。"""
        options: Any = {"ha": "center", "va": "center_baseline", **kwargs}
        return plain(self.axes.text(x, y, text, size=size, linespacing=1.1, **options))
