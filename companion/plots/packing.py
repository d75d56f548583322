"""装行图：一行一条横杠，一色一篇文档，斜线是填充；打包前后并排，省了多少一眼看见。

行的内容是 `(文档, 词元数)` 的列表，与 `corpus.packing` 的计划一一对应；填充由批的宽度减
去它们得出，所以图上的每一格都对得上账。
"""

# matplotlib 自带的类型注解不全（**kwargs 没有类型），以下两项因此关掉
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from companion.errors import CorpusError
from companion.plots import style
from companion.plots.style import WIDTH, Card, drawing, finish, plain, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = (style.LIGHT_BLUE, style.LIGHT_ORANGE, style.LIGHT_GREEN, style.LIGHT_PURPLE)
_ROW = 0.26
"""一行的高度，英寸。"""


@dataclass(frozen=True)
class RowsPanel:
    """一种装法。"""

    title: str
    rows: Sequence[Sequence[tuple[int, int]]]
    """每行装的（文档，词元数）。"""
    widths: Sequence[int]
    """每行在批里占多宽：同批里最长的一行有多长。"""

    @property
    def padded(self) -> int:
        """填充有多少格。"""
        return sum(self.widths) - sum(size for row in self.rows for _, size in row)

    @property
    def share(self) -> float:
        """填充占全部位置的几成。"""
        return self.padded / max(1, sum(self.widths))


def plot_rows(
    panels: Sequence[RowsPanel], *, title: str = "", width: float = WIDTH
) -> "Figure":
    """几种装法自上而下排开，横轴是词元。

    Args:
        panels: 各种装法。
        title: 图题；空的不写。
        width: 图宽，英寸；给手机看的图用 4。

    Raises:
        CorpusError: 没有行，行数与宽度的个数不同，或某行比它的宽度还长。
    """
    for panel in panels:
        _check(panel)
    heights = [max(2, len(panel.rows)) for panel in panels]
    with drawing():
        height = _ROW * sum(heights) + 0.75 * len(panels) + 0.5 * bool(title) + 0.3
        card = Card(width, height, constrained=True)
        if title:
            big = style.MEDIUM + 1
            plain(card.suptitle(wrap(title, width - 0.3, big), size=big))
        grid = card.subplots(
            len(panels), 1, squeeze=False, sharex=True, height_ratios=heights
        )
        for panel, axes in zip(panels, grid[:, 0], strict=True):
            _draw(axes, panel, width)
        grid[-1, 0].set_xlabel("词元（斜线是填充，竖线是文档的起止）")
        return finish(card, _say(title, panels))


def _draw(axes: "Axes", panel: RowsPanel, width: float) -> None:
    for number, (row, full) in enumerate(zip(panel.rows, panel.widths, strict=True)):
        at = 0
        for document, size in row:
            axes.barh(
                number,
                size,
                left=at,
                height=0.78,
                color=COLORS[document % len(COLORS)],
                edgecolor=style.INK,
                lw=0.8,
                gid=f"document-{document}",
            )
            at += size
        if full > at:
            axes.barh(
                number,
                full - at,
                left=at,
                height=0.78,
                color="white",
                edgecolor=style.GREY,
                hatch="////",
                lw=0.6,
                gid="padding",
            )
    axes.set_ylim(len(panel.rows) - 0.4, -0.6)
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)
    said = f"{panel.title}：{len(panel.rows)} 行，填充 {panel.share:.0%}"
    plain(axes.set_title(wrap(said, width - 0.4, style.MEDIUM), loc="left"))


def _check(panel: RowsPanel) -> None:
    sizes = [sum(size for _, size in row) for row in panel.rows]
    if not sizes or len(sizes) != len(panel.widths):
        raise CorpusError(
            found=f"“{panel.title}”有 {len(sizes)} 行、{len(panel.widths)} 个宽度",
            expected="至少一行，每行一个宽度",
            remedy="宽度写成与行一样多的列表",
        )
    for number, (size, full) in enumerate(zip(sizes, panel.widths, strict=True)):
        if size > full:
            raise CorpusError(
                found=f"“{panel.title}”第 {number} 行有 {size} 个词元，宽度只有 {full}",
                expected="一行不比它在批里占的宽度长",
                remedy="宽度取同批里最长的一行",
            )


def _say(title: str, panels: Sequence[RowsPanel]) -> str:
    said = [
        f"{panel.title}，{len(panel.rows)} 行，填充占 {panel.share:.0%}"
        for panel in panels
    ]
    return (f"{title}。" if title else "") + "；".join(said) + "。"
