"""标签图：词元 → 输入 → 标签，以及每个标签由哪一列的输出预测。

因果语言建模的箭头从前一列的输入斜指标签（移位由模型完成，标签本身不移位），掩码语言
建模的箭头在同一列里直下。图上的每个格子、箭头都带编号（gid），如 `label-3`、
`arrow-2-3`，测试与网页脚本据此找到它们。

尺寸以英寸计，坐标系就是纸面：x 向右，y 向下。
"""

# matplotlib 自带的类型注解不全（**kwargs 没有类型），以下两项因此关掉
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from matplotlib.patches import FancyArrowPatch, Rectangle

from companion.errors import ObjectiveError
from companion.plots import style
from companion.plots.font import text_width, visible
from companion.plots.layout import CELL, GUTTER, fit, place_columns
from companion.plots.rows import LabelRows, Role, alt_text
from companion.plots.style import SMALL, Card, drawing, finish, plain, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["LabelRows", "alt_text", "plot_labels"]

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
CHANGED: dict[Role, Look] = {
    "masked": {
        "facecolor": style.LIGHT_ORANGE,
        "edgecolor": style.ORANGE,
        "linewidth": 2.0,
    },
    "replaced": {
        "facecolor": style.LIGHT_PURPLE,
        "edgecolor": style.VERMILION,
        "linewidth": 2.0,
        "linestyle": "--",
    },
    "kept": {
        "facecolor": style.LIGHT_GREEN,
        "edgecolor": style.GREEN,
        "linewidth": 2.0,
        "linestyle": ":",
    },
}
MARKS: dict[Role, str] = {"masked": "遮", "replaced": "换", "kept": "留"}
DROPPED: Look = {**PLAIN, "edgecolor": style.VERMILION, "linestyle": "--"}


def plot_labels(rows: LabelRows, *, columns: int = 16, limit: int = 64) -> "Figure":
    """把一个样本画成“词元 → 输入 → 标签”。

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
        return _Drawing(rows, columns, limit).draw()


class _Drawing:
    """一次作画：先定版面，再逐排画格子，最后画箭头与图例。"""

    def __init__(self, rows: LabelRows, columns: int, limit: int) -> None:
        self.rows = rows
        self.roles = rows.roles()
        self.places = place_columns(rows, columns=columns, limit=limit)
        self.shown = len(self.places)
        self.width = max(place.right for place in self.places) + EDGE
        self.width = max(self.width, min(GUTTER + columns * CELL + EDGE, 4.4))
        inner = self.width - 2 * EDGE
        more = f"（共 {len(rows)} 列，只画前 {self.shown} 列）"
        title = rows.title + (more if self.shown < len(rows) else "")
        self.title = wrap(title, inner, style.MEDIUM + 1)
        self.documents = len(set(rows.document)) > 1
        self.top = EDGE + 0.26 * (self.title.count("\n") + 1) + 0.06
        header = HEADER * (2 if self.documents else 1)
        self.token_y = header  # 以下都相对一排的顶
        self.input_y = self.token_y + HEIGHT + GAP
        self.label_y = self.input_y + HEIGHT + FALL
        self.pitch = self.label_y + HEIGHT + BETWEEN
        self.legend = self._arrange_legend(inner)
        self.legend_y = self.top + self.pitch * (self.places[-1].line + 1)
        self.height = self.legend_y + LEGEND * (self.legend[-1][1] + 1) + EDGE

    def draw(self) -> Card:
        card = Card(self.width, self.height, constrained=False)
        axes = card.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, self.width)
        axes.set_ylim(self.height, 0)
        axes.set_axis_off()
        self.axes: Axes = axes
        self._text(EDGE, EDGE, self.title, style.MEDIUM + 1, ha="left", va="top")
        for line in range(self.places[-1].line + 1):
            y = self.top + self.pitch * line
            self._text(GUTTER - 0.12, y + self.token_y - 0.13, "列", SMALL, ha="right")
            for name, down in (
                ("词元", self.token_y),
                ("输入", self.input_y),
                ("标签", self.label_y),
            ):
                self._text(
                    GUTTER - 0.12, y + down + HEIGHT / 2, name, style.MEDIUM, ha="right"
                )
        for column in range(self.shown):
            self._draw_column(column)
        if self.documents:
            self._draw_documents()
        for source, column in self.rows.arrows():
            if max(source, column) < self.shown:
                self._draw_arrow(source, column)
        self._draw_legend()
        return finish(card, alt_text(self.rows))

    def _y(self, column: int, down: float) -> float:
        return self.top + self.pitch * self.places[column].line + down

    def _draw_column(self, column: int) -> None:
        rows, role = self.rows, self.roles[column]
        base = SPECIAL if rows.special[column] else PLAIN
        changed = rows.inputs[column] != rows.tokens[column]
        look = CHANGED.get(role) or (CHANGED["replaced"] if changed else base)
        self._cell(column, "token", self.token_y, rows.tokens[column], base)
        self._cell(column, "input", self.input_y, rows.inputs[column], look)
        label = rows.labels[column]
        if label is None:
            self._cell(column, "label", self.label_y, "−100", IGNORED)
        else:
            look = DROPPED if role == "dropped" else TARGET
            self._cell(column, "label", self.label_y, label, look)
        place = self.places[column]
        y = self._y(column, self.token_y - 0.13)
        self._text(place.center, y, str(column), SMALL, color=style.GREY)

    def _cell(self, column: int, row: str, down: float, text: str, look: Look) -> None:
        place, y = self.places[column], self._y(column, down)
        box = Rectangle((place.left + 0.02, y), place.width - 0.04, HEIGHT, **look)
        box.set_gid(f"{row}-{column}")
        self.axes.add_patch(box)
        shown, size = fit(visible(text), place.width)
        ignored = look is IGNORED
        written = self._text(
            place.center,
            y + HEIGHT / 2,
            shown,
            size=SMALL if ignored else size,
            color=style.GREY if ignored or look is SPECIAL else style.INK,
        )
        if ignored:  # 斜线不穿过文字
            written.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8})

    def _draw_documents(self) -> None:
        """文档号画成括线，文档之间画粗虚线。"""
        for start, stop in self._runs():
            first, last = self.places[start], self.places[stop - 1]
            y = self._y(start, 0.22)
            document = self.rows.document[start]
            span = last.right - first.left - 0.02
            name = f"文档 {document + 1}" if document >= 0 else "填充"
            if text_width(name, SMALL) > span:
                name = str(document + 1) if document >= 0 else "填"
            (bar,) = self.axes.plot(
                [first.left + 0.04, last.right - 0.04], [y, y], color=style.INK, lw=1.2
            )
            bar.set_gid(f"document-{start}-{stop}")
            self._text(
                (first.left + last.right) / 2, y - 0.03, name, SMALL, va="bottom"
            )
        for left, right in pairwise(range(self.shown)):
            if self.rows.document[left] == self.rows.document[right]:
                continue
            if self.places[left].line != self.places[right].line:
                continue  # 换排本身就是分界
            x = (self.places[left].right + self.places[right].left) / 2
            ys = self._y(left, 0.05), self._y(left, self.label_y + HEIGHT + 0.05)
            (wall,) = self.axes.plot(
                [x, x], ys, color=style.INK, lw=1.8, ls=(0, (3, 2))
            )
            wall.set_gid(f"boundary-{right}")

    def _runs(self) -> list[tuple[int, int]]:
        """同一排里同一文档的连续列，[起, 止)。"""
        keys = [(self.places[c].line, self.rows.document[c]) for c in range(self.shown)]
        cuts = [0, *(c for c in range(1, self.shown) if keys[c] != keys[c - 1])]
        return list(pairwise([*cuts, self.shown]))

    def _draw_arrow(self, source: int, column: int) -> None:
        start, end = self.places[source], self.places[column]
        below = self._y(source, self.input_y + HEIGHT)
        above = self._y(column, self.label_y)
        name = f"arrow-{source}-{column}"
        if start.line == end.line:
            self._arrow((start.center, below), (end.center, above), name)
            if role := MARKS.get(self.roles[column]):
                self._text(
                    end.center + 0.06, (below + above) / 2, role, SMALL, ha="left"
                )
            return
        # 跨排：在上一排的右边出去，从下一排的左边进来
        half = (FALL - 0.06) / 2
        self._arrow(
            (start.center, below), (start.right + 0.1, below + half), f"{name}-out", "-"
        )
        self._arrow((end.left - 0.12, above - half), (end.center, above), name)

    def _arrow(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        name: str,
        head: str = "-|>",
    ) -> None:
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

    def _arrange_legend(self, inner: float) -> list[tuple[float, int, str, Look]]:
        """图例只列图上出现的；按字宽排，放不下就换行。"""
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
        placed: list[tuple[float, int, str, Look]] = []
        x, line = EDGE, 0
        for text, look in entries:
            width = 0.3 + text_width(text, SMALL) + 0.2
            if x > EDGE and x + width - 0.2 > EDGE + inner:
                x, line = EDGE, line + 1
            placed.append((x, line, text, look))
            x += width
        return placed

    def _draw_legend(self) -> None:
        for x, line, text, look in self.legend:
            y = self.legend_y + LEGEND * line
            if look:
                self.axes.add_patch(Rectangle((x, y + 0.04), 0.22, 0.16, **look))
            else:
                self._arrow((x, y + 0.03), (x + 0.22, y + 0.2), "legend-arrow")
            self._text(x + 0.29, y + 0.12, text, SMALL, ha="left")

    def _text(self, x: float, y: float, text: str, size: float, **kwargs: Any) -> Any:
        options: Any = {"ha": "center", "va": "center_baseline", **kwargs}
        return plain(self.axes.text(x, y, text, size=size, linespacing=1.1, **options))
