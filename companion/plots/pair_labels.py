"""编码器–解码器的样本图：原文 → 编码器的输入 → 解码器的输入 → 标签。

上半是编码器：原文在上，输入在下，盖住的几个词元与换上的掩码画成一段，上下对齐。下半是
解码器：同一格的输出预测下面的标签，标签下的数字说它是原文的第几列。
"""

from dataclasses import dataclass
from itertools import groupby

from companion.plots import style
from companion.plots.font import visible
from companion.plots.rows import Fate, PairRows, Target
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
    WIDEST,
    Look,
    Place,
    Sheet,
    arrange_legend,
    column_width,
    place,
)
from companion.plots.style import SMALL, Card, finish, wrap
from companion.plots.texts import alt_text

REMOVED: Look = {**IGNORED, "edgecolor": style.GREY, "hatch": "...."}
ADDED: Look = {**MASKED, "facecolor": "white", "linestyle": "-."}
UNSCORED: Look = {**TARGET, "facecolor": "white", "linestyle": (0, (4, 1.5))}

FATES: dict[Fate, tuple[str, Look]] = {
    "masked": ("换成掩码或哨兵", MASKED),
    "replaced": ("换成别的词元", REPLACED),
    "exposed": ("原样留下", KEPT),
    "removed": ("不在输入里", REMOVED),
    "added": ("原文里没有", ADDED),
}
TARGETS: dict[Target, tuple[str, Look]] = {
    "scored": ("计损失，评估也考", TARGET),
    "extra": ("计损失，评估不考", UNSCORED),
    "copied": ("计损失，评估不考", UNSCORED),
    "unknown": ("计损失，评估不考", UNSCORED),
    "ignored": ("−100：不计损失", IGNORED),
}


@dataclass(frozen=True)
class _Column:
    """上半的一列。"""

    span: int
    """属于第几段。"""
    token: int | None
    document: int


def draw_pair(rows: PairRows, columns: int, limit: int) -> Card:
    """画一个样本；参数见 `plot_labels`。"""
    return _Drawing(rows, columns, limit).draw()


class _Drawing:
    """先定两半的版面，再画。"""

    def __init__(self, rows: PairRows, columns: int, limit: int) -> None:
        self.rows, self.fates, self.targets = rows, rows.fates, rows.targets
        self.columns = _columns(rows)
        widths = self._widths()
        documents = [column.document for column in self.columns]
        self.above = place(widths[:limit], documents, columns)
        widths = [
            column_width((given, "−100" if label is None else label))
            for given, label in zip(rows.decoder_inputs, rows.labels, strict=True)
        ]
        self.below = place(widths[:limit], rows.decoder_document, columns)
        width = max(each.right for each in (*self.above, *self.below)) + EDGE
        width = max(width, min(GUTTER + columns * CELL + EDGE, 4.4))
        self.title = wrap(self._title(), width - 2 * EDGE, style.MEDIUM + 1)
        self.packed = len(set(rows.document)) > 1
        self.first_y = HEADER * (2 if self.packed else 1)  # 以下都相对一排的顶
        self.input_y = self.first_y + HEIGHT + GAP
        self.label_y = self.first_y + HEIGHT + FALL
        self.origin_y = self.label_y + HEIGHT + 0.13
        top = EDGE + 0.26 * (self.title.count("\n") + 1) + 0.06
        self.tops_above, top = _tops(top, self.above, self.input_y + HEIGHT + BETWEEN)
        self.tops_below, top = _tops(
            top + 0.06, self.below, self.origin_y + 0.13 + BETWEEN
        )
        self.legend = arrange_legend(self._legend(), width - 2 * EDGE)
        self.legend_y = top
        height = top + LEGEND * (self.legend[-1].line + 1) + EDGE
        self.sheet = Sheet(width, height)

    def draw(self) -> Card:
        sheet, (encoder, decoder) = self.sheet, self.rows.sides
        sheet.text(EDGE, EDGE, self.title, style.MEDIUM + 1, ha="left", va="top")
        self._name_rows(
            self.tops_above, ("原文", self.first_y), (encoder, self.input_y)
        )
        self._name_rows(
            self.tops_below, (decoder, self.first_y), ("标签", self.label_y)
        )
        for top in self.tops_below:
            y = top + self.origin_y
            sheet.text(GUTTER - 0.12, y, "原文列", SMALL, ha="right")
        for at in range(len(self.above)):
            self._draw_token(at)
        for pieces in self._pieces():
            self._draw_input(pieces)
        for at in range(len(self.below)):
            self._draw_target(at)
        if self.packed:
            owners = [column.document for column in self.columns]
            depth = self.input_y + HEIGHT
            sheet.documents(self.above, owners, self.tops_above, depth)
            depth = self.origin_y + 0.1
            owners = self.rows.decoder_document
            sheet.documents(self.below, owners, self.tops_below, depth, "decoder-")
        sheet.legend(self.legend, self.legend_y)
        return finish(sheet.card, alt_text(self.rows))

    def _title(self) -> str:
        counts = (
            ("原文", len(self.columns), len(self.above)),
            (self.rows.sides[1], len(self.rows.labels), len(self.below)),
        )
        cut = [
            f"{name}共 {whole} 列，只画前 {shown} 列"
            for name, whole, shown in counts
            if shown < whole
        ]
        if self.rows.jumps:
            cut.append("句子换了次序，原文照新的次序排")
        return self.rows.title + (f"（{'；'.join(cut)}）" if cut else "")

    def _widths(self) -> list[float]:
        """上半各列的宽；一段的掩码比它盖住的词元还宽时，各列匀着加宽。"""
        widths: list[float] = []
        for span in self.rows.spans:
            own = [column_width((self.rows.tokens[at],)) for at in span.tokens]
            own = own or [CELL]
            texts = " ".join(self.rows.inputs[at] for at in span.inputs)
            short = column_width((texts,)) - sum(own) if span.inputs else 0.0
            extra = max(short, 0.0) / len(own)
            widths += [min(width + extra, WIDEST) for width in own]
        return widths

    def _name_rows(self, tops: list[float], *names: tuple[str, float]) -> None:
        for top in tops:
            y = top + self.first_y - 0.13
            self.sheet.text(GUTTER - 0.12, y, "列", SMALL, ha="right")
            for name, down in names:
                y = top + down + HEIGHT / 2
                self.sheet.text(GUTTER - 0.12, y, name, style.MEDIUM, ha="right")

    def _draw_token(self, at: int) -> None:
        token, spot = self.columns[at].token, self.above[at]
        if token is None:
            return
        y = self.tops_above[spot.line] + self.first_y
        look = SPECIAL if self.rows.special[token] else PLAIN
        text = visible(self.rows.tokens[token])
        self.sheet.cell(spot.left, y, spot.width, text, look, f"token-{token}")
        self.sheet.text(spot.center, y - 0.13, str(token), SMALL, color=style.GREY)

    def _pieces(self) -> list[list[tuple[int, int]]]:
        """各段分成几截，一截是同一排里的列 [起, 止)。"""
        lines = [
            (column.span, spot.line)
            for column, spot in zip(self.columns, self.above, strict=False)
        ]
        cuts = [at for at in range(1, len(lines)) if lines[at] != lines[at - 1]]
        pieces = zip([0, *cuts], [*cuts, len(lines)], strict=True)
        return [list(group) for _, group in groupby(pieces, lambda p: lines[p[0]][0])]

    def _draw_input(self, pieces: list[tuple[int, int]]) -> None:
        """一段的输入；分成几截时写在最宽的一截里，其余写省略号。"""
        first = pieces[0][0]
        number = self.columns[first].span
        span, fate = self.rows.spans[number], self.fates[number]
        if fate == "moved" and not span.inputs:
            return  # 次序变了：输入列在后面
        special = bool(span.tokens) and self.rows.special[span.tokens[0]]
        look = FATES[fate][1] if fate in FATES else SPECIAL if special else PLAIN
        name = f"input-{span.inputs[0]}" if span.inputs else f"removed-{first}"
        text = " ".join(visible(self.rows.inputs[at]) for at in span.inputs)
        widths = [self.above[b - 1].right - self.above[a].left for a, b in pieces]
        widest = widths.index(max(widths))
        for at, ((start, _), width) in enumerate(zip(pieces, widths, strict=True)):
            place = self.above[start]
            y = self.tops_above[place.line] + self.input_y
            here = text if at == widest or not text else "…"
            part = name if at == widest else f"{name}-part-{at}"
            self.sheet.cell(place.left, y, width, here, look, part)

    def _draw_target(self, at: int) -> None:
        rows, spot, target = self.rows, self.below[at], self.targets[at]
        top = self.tops_below[spot.line]
        numbers = rows.decoder_columns
        number = at if numbers is None else numbers[at]
        y = top + self.first_y
        seen = rows.decoder_visible[at]
        given, look = visible(rows.decoder_inputs[at]), PLAIN if seen else IGNORED
        self.sheet.cell(spot.left, y, spot.width, given, look, f"decoder-{at}")
        self.sheet.text(spot.center, y - 0.13, str(number), SMALL, color=style.GREY)
        label = rows.labels[at]
        text = "−100" if label is None else visible(label)
        look, name = TARGETS[target][1], f"label-{at}"
        y = top + self.label_y
        self.sheet.cell(spot.left, y, spot.width, text, look, name)
        if label is None:
            return
        above = top + self.first_y + HEIGHT
        self.sheet.arrow((spot.center, above), (spot.center, y), f"arrow-{at}-{at}")
        source = rows.origin[at]
        if source is not None:
            y = top + self.origin_y
            self.sheet.text(spot.center, y, str(source), SMALL, color=style.GREY)

    def _legend(self) -> list[tuple[str, Look]]:
        """图例只列图上出现的。"""
        rows, shown = self.rows, range(len(self.above))
        tokens = [self.columns[at].token for at in shown]
        fates = {self.fates[self.columns[at].span] for at in shown}
        targets = set(self.targets[: len(self.below)])
        entries: list[tuple[str, Look]] = []
        if any(rows.special[token] for token in tokens if token is not None):
            entries.append(("特殊词元", SPECIAL))
        entries += [entry for fate, entry in FATES.items() if fate in fates]
        for target, entry in TARGETS.items():
            if target in targets and entry not in entries:
                entries.append(entry)
        if not all(rows.decoder_visible[: len(self.below)]):
            entries.append(("斜线的解码器输入：看不见", IGNORED))
        if targets - {"ignored"}:
            entries.append(("由箭头起点的输出预测", {}))
        return entries


def _columns(rows: PairRows) -> list[_Column]:
    """上半的各列：一个词元一列，没有词元的段也占一列。"""
    return [
        _Column(
            number,
            token,
            rows.input_document[span.inputs[0]]
            if token is None
            else rows.document[token],
        )
        for number, span in enumerate(rows.spans)
        for token in (span.tokens or (None,))
    ]


def _tops(top: float, places: list[Place], pitch: float) -> tuple[list[float], float]:
    """各排的顶，与全部画完之后的 y。"""
    lines = places[-1].line + 1
    return [top + pitch * line for line in range(lines)], top + pitch * lines
