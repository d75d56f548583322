"""学习率曲线：几种走法画在一格里，线型与颜色都不同。"""

# matplotlib 自带的类型注解不全（**kwargs 没有类型），以下两项因此关掉
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from companion.errors import TrainingError
from companion.plots import style
from companion.plots.font import prose
from companion.plots.style import WIDTH, Card, drawing, finish, plain, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOOKS: tuple[tuple[str, Any], ...] = (
    (style.BLUE, "-"),
    (style.VERMILION, (0, (6, 2))),
    (style.GREEN, (0, (1, 1.5))),
    (style.PURPLE, (0, (6, 2, 1, 2))),
)


def plot_schedules(
    curves: Mapping[str, Sequence[float]],
    *,
    num_warmup: int,
    title: str,
    width: float = WIDTH,
) -> "Figure":
    """画几种走法；第 i 个数是第 i 步（从 0 数）的学习率占峰值的几倍。

    Args:
        curves: 名字 → 各步的倍数，一样长，至多四种。
        num_warmup: 预热几步，画一条竖线。
        title: 图题。
        width: 图宽，英寸；给手机看的图用 4。

    Raises:
        TrainingError: 没有曲线，多于四种，或长短不一。
    """
    sizes = {len(curve) for curve in curves.values()}
    if len(sizes) != 1 or len(curves) > len(_LOOKS):
        raise TrainingError(
            found=f"{len(curves)} 条曲线，长短有 {len(sizes)} 种",
            expected=f"一到 {len(_LOOKS)} 条，一样长",
            remedy="各取同样的总步数再画",
        )
    with drawing():
        size = style.MEDIUM + 1
        card = Card(width, 3.6, constrained=True)
        plain(card.suptitle(wrap(title, width - 0.3, size), size=size))
        axes: Axes = card.add_subplot()
        for number, (name, curve) in enumerate(curves.items()):
            color, dashes = _LOOKS[number]
            axes.plot(
                range(len(curve)), curve, color=color, ls=dashes, lw=2,
                label=prose(name), gid=f"schedule-{number}",
            )  # fmt: skip
        axes.axvline(num_warmup, color=style.GREY, lw=1, ls=(0, (2, 2)))
        axes.text(num_warmup, 0.02, f" 预热 {num_warmup} 步", color=style.GREY)
        axes.set_xlabel("步")
        axes.set_ylabel("峰值的几倍")
        axes.set_ylim(0, 1.05)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=style.PALE, lw=0.7)
        axes.set_axisbelow(True)
        legend = axes.legend(  # 放在框外，不盖住线
            loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False,
            handlelength=2.8, borderpad=0.2,
        )  # fmt: skip
        for text in legend.get_texts():
            plain(text)
        said = "；".join(
            f"{name}由 {curve[0]:.2f} 倍升到 {max(curve):.2f} 倍，"
            f"末步 {curve[-1]:.2f} 倍"
            for name, curve in curves.items()
        )
        return finish(card, f"{title}。预热 {num_warmup} 步：{said}。")
