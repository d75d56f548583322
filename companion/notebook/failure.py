"""一次失败的复现：做错与做对各跑一遍，留下要画的线、要看的数与一句裁断。"""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from companion.notebook.tables import Table
from companion.plots.curves import Line, plot_contrast

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Failure:
    """做错与做对并排的结果；在笔记本里写出变量名，就显示裁断与表。"""

    title: str
    wrong: str
    """做错了什么。"""
    right: str
    """应当怎样做。"""
    measure: str
    """`wrong_value`、`right_value` 是什么，连单位。"""
    wrong_value: float
    right_value: float
    worse_is_higher: bool = True
    """做错的那个数应当更高，还是更低。"""
    verdict: str
    """一句话：看到了什么，说明什么。"""
    lines: tuple[Line, ...]
    xlabel: str
    ylabel: str
    table: Table
    """旁证：装着的 transformers 怎样做，本包怎样做。"""
    facts: dict[str, float] = field(default_factory=dict[str, float])
    """别的要记下的数，名字是英文。"""

    @property
    def reproduced(self) -> bool:
        """方向对：做错的果然更坏。"""
        gap = self.wrong_value - self.right_value  # 非数与什么比都是假
        return gap > 0 if self.worse_is_higher else gap < 0

    def plot(self, width: float | None = None) -> "Figure":
        """对照图：做错的是虚线与叉，做对的是实线与圆点。"""
        given = {} if width is None else {"width": width}
        return plot_contrast(
            self.lines,
            title=self.title,
            xlabel=self.xlabel,
            ylabel=self.ylabel,
            **given,
        )

    def as_dict(self) -> dict[str, Any]:
        """可写成 JSON 的字典。"""
        return {
            "title": self.title,
            "xlabel": self.xlabel,
            "ylabel": self.ylabel,
            "measure": self.measure,
            "wrong": round(self.wrong_value, 5),
            "right": round(self.right_value, 5),
            "reproduced": self.reproduced,
            "verdict": self.verdict,
            "facts": {name: round(each, 5) for name, each in self.facts.items()},
            "lines": [
                {"name": each.name, "right": each.right,
                 "x": [*each.x], "y": [_plain(y) for y in each.y]}
                for each in self.lines
            ],
        }  # fmt: skip

    def __str__(self) -> str:
        return f"{self.verdict}\n{self.table}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        import html

        return f"<p>{html.escape(self.verdict)}</p>\n{self.table._repr_html_()}"


def _plain(value: float) -> float | None:
    """五位小数；JSON 写不出非数与无穷，记作 None。"""
    return round(value, 5) if math.isfinite(value) else None
