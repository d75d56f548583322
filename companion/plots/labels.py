"""标签图：词元 → 输入 → 标签，以及每个标签由哪一列的输出预测。

因果语言建模的箭头从前一列的输入斜指标签（移位由模型完成，标签本身不移位），掩码语言
建模的箭头在同一列里直下。编码器–解码器的样本有两条行，画在 `pair_labels.py`。
"""

from typing import TYPE_CHECKING

from companion.errors import ObjectiveError
from companion.plots import style
from companion.plots.font import visible
from companion.plots.pair_labels import draw_pair
from companion.plots.rows import LabelRows, PairRows, Role
from companion.plots.sheet import (
    BETWEEN,
    CELL,
    EDGE,
    FALL,
    GAP,
    GUTTER,
    HEADER,
    HEIGHT,
    IGNORED,
    KEPT,
    LEGEND,
    MASKED,
    PLAIN,
    REPLACED,
    SPECIAL,
    TARGET,
    Look,
    Sheet,
    arrange_legend,
    place_columns,
)
from companion.plots.style import SMALL, Card, drawing, finish, wrap
from companion.plots.texts import alt_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHANGED: dict[Role, Look] = {"masked": MASKED, "replaced": REPLACED, "kept": KEPT}
MARKS: dict[Role, str] = {"masked": "遮", "replaced": "换", "kept": "留"}
DROPPED: Look = {**PLAIN, "edgecolor": style.VERMILION, "linestyle": "--"}


def plot_labels(
    rows: LabelRows | PairRows, *, columns: int = 16, limit: int = 64
) -> "Figure":
    """把一个样本画成“词元 → 输入 → 标签”，编码器–解码器的中间还有解码器的输入。

    Args:
        rows: 一个样本的几行。
        columns: 一排至多几列；给手机看的图用 8。
        limit: 至多画前几列，图上会写明共有多少列。

    Returns:
        一张卡片，`save_figure` 把它存成 PNG 或 SVG。

    Raises:
        ObjectiveError: `columns` 或 `limit` 小于 2。
    """
    if columns < 2 or limit < 2:
        raise ObjectiveError(
            found=f"columns={columns}，limit={limit}",
            expected="两者都至少是 2",
            remedy="书里用 columns=16，手机上用 columns=8",
        )
    with drawing():
        if isinstance(rows, PairRows):
            return draw_pair(rows, columns, limit)
        return _Drawing(rows, columns, limit).draw()


class _Drawing:
    """一次作画：先定版面，再逐排画格子，最后画箭头与图例。"""

    def __init__(self, rows: LabelRows, columns: int, limit: int) -> None:
        self.rows = rows
        self.roles = rows.roles()
        self.places = place_columns(rows, columns=columns, limit=limit)
        self.shown = len(self.places)
        width = max(place.right for place in self.places) + EDGE
        width = max(width, min(GUTTER + columns * CELL + EDGE, 4.4))
        more = f"（共 {len(rows)} 列，只画前 {self.shown} 列）"
        title = rows.title + (more if self.shown < len(rows) else "")
        self.title = wrap(title, width - 2 * EDGE, style.MEDIUM + 1)
        self.documents = len(set(rows.document)) > 1
        top = EDGE + 0.26 * (self.title.count("\n") + 1) + 0.06
        header = HEADER * (2 if self.documents else 1)
        self.token_y = header  # 以下都相对一排的顶
        self.input_y = self.token_y + HEIGHT + GAP
        self.label_y = self.input_y + HEIGHT + FALL
        pitch = self.label_y + HEIGHT + BETWEEN
        lines = self.places[-1].line + 1
        self.tops = [top + pitch * line for line in range(lines)]
        self.legend = arrange_legend(self._legend(), width - 2 * EDGE)
        self.legend_y = top + pitch * lines
        height = self.legend_y + LEGEND * (self.legend[-1].line + 1) + EDGE
        self.sheet = Sheet(width, height)

    def draw(self) -> Card:
        sheet = self.sheet
        sheet.text(EDGE, EDGE, self.title, style.MEDIUM + 1, ha="left", va="top")
        for top in self.tops:
            y = top + self.token_y - 0.13
            sheet.text(GUTTER - 0.12, y, "列", SMALL, ha="right")
            for name, down in (
                ("词元", self.token_y),
                ("输入", self.input_y),
                ("标签", self.label_y),
            ):
                y = top + down + HEIGHT / 2
                sheet.text(GUTTER - 0.12, y, name, style.MEDIUM, ha="right")
        for column in range(self.shown):
            self._draw_column(column)
        if self.documents:
            depth = self.label_y + HEIGHT
            sheet.documents(self.places, self.rows.document, self.tops, depth)
        for source, column in self.rows.arrows():
            if max(source, column) < self.shown:
                self._draw_arrow(source, column)
        sheet.legend(self.legend, self.legend_y)
        return finish(sheet.card, alt_text(self.rows))

    def _y(self, column: int, down: float) -> float:
        return self.tops[self.places[column].line] + down

    def _draw_column(self, column: int) -> None:
        rows, role = self.rows, self.roles[column]
        base = SPECIAL if rows.special[column] else PLAIN
        changed = rows.inputs[column] != rows.tokens[column]
        look = CHANGED.get(role) or (REPLACED if changed else base)
        self._cell(column, "token", self.token_y, rows.tokens[column], base)
        self._cell(column, "input", self.input_y, rows.inputs[column], look)
        label = rows.labels[column]
        if label is None:
            self._cell(column, "label", self.label_y, "−100", IGNORED)
        else:
            look = DROPPED if role == "dropped" else TARGET
            self._cell(column, "label", self.label_y, label, look)
        y = self._y(column, self.token_y - 0.13)
        center = self.places[column].center
        self.sheet.text(center, y, str(column), SMALL, color=style.GREY)

    def _cell(self, column: int, row: str, down: float, text: str, look: Look) -> None:
        place, y = self.places[column], self._y(column, down)
        name = f"{row}-{column}"
        self.sheet.cell(place.left, y, place.width, visible(text), look, name)

    def _draw_arrow(self, source: int, column: int) -> None:
        start, end = self.places[source], self.places[column]
        below = self._y(source, self.input_y + HEIGHT)
        above = self._y(column, self.label_y)
        name = f"arrow-{source}-{column}"
        if start.line == end.line:
            self.sheet.arrow((start.center, below), (end.center, above), name)
            if mark := MARKS.get(self.roles[column]):
                x, y = end.center + 0.06, (below + above) / 2
                self.sheet.text(x, y, mark, SMALL, ha="left")
            return
        # 跨排：在上一排的右边出去，从下一排的左边进来
        half = (FALL - 0.06) / 2
        out = (start.right + 0.1, below + half)
        self.sheet.arrow((start.center, below), out, f"{name}-out", "-")
        self.sheet.arrow((end.left - 0.12, above - half), (end.center, above), name)

    def _legend(self) -> list[tuple[str, Look]]:
        """图例只列图上出现的。"""
        roles = set(self.roles[: self.shown])
        entries: list[tuple[str, Look]] = []
        if any(self.rows.special[: self.shown]):
            entries.append(("特殊词元", SPECIAL))
        words = {"masked": "遮住", "replaced": "换成别的词元", "kept": "原样留下"}
        entries += [
            (f"{MARKS[role]}：{words[role]}", look)
            for role, look in CHANGED.items()
            if role in roles
        ]
        if roles - {"ignored", "dropped"}:
            entries.append(("计损失的标签", TARGET))
        if "dropped" in roles:
            entries.append(("有标签，没有位置预测它", DROPPED))
        if "ignored" in roles:
            entries.append(("−100：不计损失", IGNORED))
        if roles - {"ignored", "dropped"}:
            entries.append(("由箭头起点的输出预测", {}))
        return entries
