"""训练曲线：损失随读过的词元下降，学习率在下，前后成绩在最下。

日志的一行是一个字典，键与 `log.jsonl` 相同；认得的键：

| 键 | 单位 | 画成 |
|---|---|---|
| `step` | 步 | 没有 `tokens` 时的横轴 |
| `tokens` | 词元，累计 | 横轴 |
| `loss` | 奈特/目标 | 细点与平滑线，换算成比特 |
| `learning_rate` | | 第二格 |
| `event` | `"resume"` | 竖线 |
| `event` | `"evaluation"`，连同 `domain`、`general` | 每字比特数的变化，与学与忘的路 |

续训会重走几步，同一步出现两次时以后写的为准；损失是非数的步画成“×”。

`plot_schedules` 画学习率的几种走法。`plot_contrast` 把做错的线与做对的画在一格：做错
的是虚线与叉，做对的是实线与圆点，不只靠颜色分辨；不是有限数的点画成顶上的“×”。
"""

# matplotlib 自带的类型注解不全（**kwargs 没有类型），以下两项因此关掉
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from companion.errors import EvaluationError, TrainingError
from companion.plots import style
from companion.plots.font import prose
from companion.plots.style import WIDTH, Card, drawing, finish, plain, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

Row = Mapping[str, Any]
Scores = Mapping[str, Mapping[str, Any]]
"""`metrics.json` 的 `before` 或 `after`：`{"domain": E, "general": E}`。"""

EVENTS = {
    "resume": ("续训", style.VERMILION, (0, (4, 2))),
}
SETS = {"domain": "领域", "general": "通用"}


def plot_curve(
    rows: Sequence[Row],
    *,
    title: str = "训练曲线",
    before: Scores | None = None,
    after: Scores | None = None,
    smoothing: float = 0.05,
    width: float = WIDTH,
) -> "Figure":
    """画一次训练。

    Args:
        rows: 日志的各行，按写下的先后。
        title: 图题。
        before: 训练前的成绩；与 `after` 同给时画第三格。
        after: 训练后的成绩。
        smoothing: 平滑窗口占全程的比例，0 表示不平滑。
        width: 图宽，英寸；给手机看的图用 4。

    Raises:
        TrainingError: 没有一行含有 `loss`，或 `smoothing` 不在 [0, 1]。
    """
    steps = _losses(rows)
    if not steps or not 0 <= smoothing <= 1:
        raise TrainingError(
            found=f"日志 {len(rows)} 行，{len(steps)} 行有损失；smoothing={smoothing}",
            expected="至少一行有 step 和 loss，smoothing 在 0 与 1 之间",
            remedy="确认 log.jsonl 来自一次已经开始的训练",
        )
    by_tokens = all("tokens" in row for row in steps)
    axis = "tokens" if by_tokens else "step"
    x = np.array([row[axis] for row in steps], dtype=np.float64)
    bits = np.array([row["loss"] for row in steps], dtype=np.float64) / math.log(2)
    rates = [
        (row[axis], row["learning_rate"]) for row in steps if "learning_rate" in row
    ]
    scores = _pairs(before, after)
    looked = [row for row in rows if row.get("event") == "evaluation"]
    watched = len(looked) > 1 and all(axis in row for row in looked)
    path = watched and all("general" in row for row in looked)
    heights = [3.0] + [1.0] * bool(rates) + [1.6] * watched + [2.4] * path
    with drawing():
        size = (width, 0.75 + sum(heights) + (0.55 + 0.5 * len(scores)) * bool(scores))
        card = Card(*size, constrained=True)
        ratios = [*heights, *([0.5 * len(scores)] if scores else [])]
        grid = card.subplots(len(ratios), 1, squeeze=False, height_ratios=ratios)
        panels: list[Axes] = list(grid[:, 0])
        big = style.MEDIUM + 1
        plain(card.suptitle(wrap(title, width - 0.3, big), size=big))
        _draw_loss(panels[0], x, bits, smoothing)
        _draw_events(panels[0], rows, steps, axis)
        lowest = panels[0]
        if rates:
            lowest = panels[1]
            lowest.sharex(panels[0])
            panels[0].tick_params(labelbottom=False)
            lowest.plot(*zip(*rates, strict=True), color=style.PURPLE, lw=1.8)
            lowest.set_ylabel("学习率")
            lowest.set_ylim(bottom=0)
            lowest.yaxis.set_major_locator(MaxNLocator(3))
            lowest.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
            _tidy(lowest)
        if watched:
            lowest.tick_params(labelbottom=False)
            lowest = panels[1 + bool(rates)]
            lowest.sharex(panels[0])
            _draw_changes(lowest, looked, axis)
        _label_amounts(lowest, x, "词元" if by_tokens else "步", by_tokens)
        if path:
            _draw_path(panels[2 + bool(rates)], looked)
        if scores:
            _draw_scores(panels[-1], scores)
        said = _say(title, x, bits, by_tokens, scores)
        return finish(card, said + (_say_changes(looked) if watched else ""))


def smooth(values: "NDArray[np.float64]", window: float) -> "NDArray[np.float64]":
    """以每点为中心的加权平均（Hann 窗），不像滑动平均那样落后于数据。

    Args:
        values: (N,) 浮点；非数的点不参与平均。
        window: 窗宽，点数；不大于 1 时原样返回。
    """
    if window <= 1 or len(values) < 2:
        return values.copy()
    half = min(math.ceil(window), len(values) - 1)
    kernel = np.hanning(2 * half + 3)[1:-1]  # (2·half + 1,) 两端不为 0
    sound = np.isfinite(values)
    # full 再截取：mode="same" 在窗比数据长时返回窗的长度
    total = np.convolve(np.where(sound, values, 0.0), kernel)[half : half + len(values)]
    weight = np.convolve(sound.astype(np.float64), kernel)[half : half + len(values)]
    return np.divide(total, weight, out=np.full(len(values), np.nan), where=weight > 0)


def _losses(rows: Sequence[Row]) -> list[Row]:
    """有损失的行，每步一行，按步排列。"""
    latest = {row["step"]: row for row in rows if "loss" in row and "step" in row}
    return [latest[step] for step in sorted(latest)]


def _draw_loss(
    axes: "Axes",
    x: "NDArray[np.float64]",
    bits: "NDArray[np.float64]",
    smoothing: float,
) -> None:
    sound = np.isfinite(bits)
    dot: Any = {"marker": ".", "ls": "none", "ms": 3 if len(x) > 100 else 6}
    axes.plot(
        x[sound],
        bits[sound],
        **dot,
        color=style.SKY,
        alpha=0.7,
        label="每步",
        gid="raw",
    )
    line = smooth(bits, smoothing * len(bits))
    if sound.any():
        axes.plot(x, line, color=style.BLUE, lw=2.2, label="平滑", gid="smooth")
    if not sound.all():
        height = np.nanmax(np.where(sound, bits, np.nan)) if sound.any() else 0.0
        axes.plot(
            x[~sound],
            np.full((~sound).sum(), height),
            "x",
            color=style.VERMILION,
            label="非数",
            gid="broken",
        )
    axes.set_ylabel("损失（比特/目标）")
    _tidy(axes)


def _draw_events(
    axes: "Axes", rows: Sequence[Row], steps: Sequence[Row], axis: str
) -> None:
    """竖线标出续训与评估；同一种只在图例里说一次。"""
    at_step = {row["step"]: row[axis] for row in steps}
    named: set[str] = set()
    for row in rows:
        kind = row.get("event")
        if kind not in EVENTS:
            continue
        at = row.get(axis, at_step.get(row.get("step")))
        if at is None:
            continue
        name, color, dash = EVENTS[kind]
        axes.axvline(
            at,
            color=color,
            ls=dash,
            lw=1.4,
            label=None if kind in named else name,
            gid=f"{kind}-{at:g}",
        )
        named.add(kind)
    axes.legend(  # 放在框外，不盖住曲线
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=5,
        frameon=False,
        handlelength=1.4,
        columnspacing=1.0,
        borderpad=0.2,
    )


_SET_LOOKS: dict[str, dict[str, Any]] = {
    "domain": {"color": style.BLUE, "marker": "o", "ls": "-"},
    "general": {"color": style.VERMILION, "marker": "s", "ls": (0, (4, 2))},
}


def _changes(looked: Sequence[Row], key: str) -> list[float]:
    """相对开头那一次的变化，百分数。"""
    return [100 * (row[key] / looked[0][key] - 1) for row in looked]


def _draw_changes(axes: "Axes", looked: Sequence[Row], axis: str) -> None:
    """途中评估：每字比特数比开头变了百分之几，领域与通用各一条线。"""
    x = [row[axis] for row in looked]
    for key, name in SETS.items():
        if all(key in row for row in looked):
            axes.plot(
                x, _changes(looked, key), lw=1.8, ms=4, label=name,
                gid=f"watch-{key}", **_SET_LOOKS[key],
            )  # fmt: skip
    axes.axhline(0, color=style.GREY, lw=1)
    axes.set_ylabel("每字比特数\n变化（%）")
    axes.legend(loc="best", frameon=False, handlelength=2.4)
    _tidy(axes)


def _draw_path(axes: "Axes", looked: Sequence[Row]) -> None:
    """学与忘的路：横轴是领域，纵轴是通用，由原点一路走到末步。"""
    x, y = _changes(looked, "domain"), _changes(looked, "general")
    axes.axhline(0, color=style.GREY, lw=1)
    axes.axvline(0, color=style.GREY, lw=1)
    axes.plot(x, y, color=style.INK, lw=1.4, marker=".", ms=7, gid="path")
    axes.plot(x[0], y[0], "o", ms=7, mfc="white", mec=style.INK, gid="path-start")
    axes.plot(x[-1], y[-1], "D", ms=6, color=style.INK, gid="path-end")
    axes.set_xlabel("领域的变化（%，往左是学到）")
    axes.set_ylabel("通用的变化（%，\n往上是忘了）")
    _tidy(axes)


def _say_changes(looked: Sequence[Row]) -> str:
    parts = [
        f"{name}变了 {_changes(looked, key)[-1]:+z.1f}%".replace("-", "−")
        for key, name in SETS.items()
        if all(key in row for row in looked)
    ]
    return f"途中评估 {len(looked)} 次，每字比特数比开头：{'，'.join(parts)}。"


def _pairs(
    before: Scores | None, after: Scores | None
) -> list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    if before is None or after is None:
        return []
    return [
        (name, before[key], after[key])
        for key, name in SETS.items()
        if key in before and key in after
    ]


def _draw_scores(
    axes: "Axes", scores: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]
) -> None:
    """每组一条箭头，从训练前指到训练后；数字写在箭头上方，窄屏上也不占宽度。"""
    values: list[float] = []
    for row, (name, old, new) in enumerate(scores):
        start, end = float(old["bits_per_char"]), float(new["bits_per_char"])
        values += [start, end]
        axes.annotate(
            "",
            xy=(end, row),
            xytext=(start, row),
            arrowprops={
                "arrowstyle": "-|>",
                "color": style.BLUE if end <= start else style.VERMILION,
                "lw": 2,
                "shrinkA": 3,
                "shrinkB": 3,
            },
        )
        axes.plot(
            start, row, "o", ms=6, mfc="white", mec=style.INK, gid=f"before-{name}"
        )
        axes.plot(end, row, "D", ms=5, color=style.INK, gid=f"after-{name}")
        axes.annotate(
            f"{name} {start:.2f} → {end:.2f}（{_percent(start, end)}）",
            xy=(0.0, row - 0.42),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center_baseline",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        )
    margin = 0.08 * (max(values) - min(values) or 1.0)
    axes.set_xlim(min(values) - margin, max(values) + margin)
    axes.set_ylim(len(scores) - 0.65, -0.75)
    axes.set_yticks([])
    axes.set_xlabel("每字比特数（○ 训练前，◆ 训练后；越低越好）")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    _tidy(axes)


def _percent(start: float, end: float) -> str:
    change = 100 * (end / start - 1) if start else math.nan
    return f"{change:+z.1f}%".replace("-", "−")


def _label_amounts(
    axes: "Axes", x: "NDArray[np.float64]", noun: str, by_tokens: bool
) -> None:
    """横轴用“万”“亿”作单位，免得一串零。"""
    top = float(x.max())
    unit, name = (1e8, "亿") if top >= 2e8 else (1e4, "万") if top >= 2e4 else (1, "")

    def write(value: float, _: object) -> str:
        return f"{value / unit:g}"

    axes.xaxis.set_major_formatter(FuncFormatter(write))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=not by_tokens))
    unit_name = f"（{name}）" if name else ""
    axes.set_xlabel(f"读过的{noun}数{unit_name}" if by_tokens else f"步数{unit_name}")


def _tidy(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="both", color=style.PALE, lw=0.7)
    axes.set_axisbelow(True)


def _say(
    title: str,
    x: "NDArray[np.float64]",
    bits: "NDArray[np.float64]",
    by_tokens: bool,
    scores: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]],
) -> str:
    sound = bits[np.isfinite(bits)]
    text = f"{title}：{x[-1]:,.0f} {'个词元' if by_tokens else '步'}，"
    if len(sound):
        tenth = max(1, len(sound) // 10)
        first, last = sound[:tenth].mean(), sound[-tenth:].mean()
        text += f"损失从每目标 {first:.2f} 比特到 {last:.2f} 比特"
    if len(sound) < len(bits):
        text += f"，有 {len(bits) - len(sound)} 步的损失不是有限数"
    for name, old, new in scores:
        start, end = float(old["bits_per_char"]), float(new["bits_per_char"])
        text += f"；{name}每字 {start:.2f} 到 {end:.2f} 比特（{_percent(start, end)}）"
    return text + "。"


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


_WRONG: dict[str, Any] = {"ls": (0, (4, 2)), "marker": "x", "ms": 5}
_RIGHT: dict[str, Any] = {"ls": "-", "marker": "o", "ms": 4}
_SIDES = {
    True: (style.BLUE, style.GREEN, style.SKY),
    False: (style.VERMILION, style.PURPLE, style.ORANGE),
}
"""做对的用冷色，做错的用暖色。"""
_LEAST_SPAN = 0.02
"""纵轴至少跨最大值的这一比例。"""


@dataclass(frozen=True, kw_only=True)
class Line:
    """一条线。"""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    """与 `x` 等长；可以有非数与无穷。"""
    right: bool
    """是做对的那一种。"""


def plot_contrast(
    lines: Sequence[Line],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    width: float = WIDTH,
) -> "Figure":
    """画几条线，做错的与做对的分得开。

    Args:
        lines: 至少一条，每条至少一个有限的点。
        title: 图题。
        xlabel: 横轴是什么；只取整数刻度。
        ylabel: 纵轴是什么，连单位。
        width: 图宽，英寸；给手机看的图用 4。

    Raises:
        EvaluationError: 没有线，两轴不等长，或一个有限的点也没有。
    """
    _check_lines(lines)
    with drawing():
        size = style.MEDIUM + 1
        rows = math.ceil(len(lines) * (3.4 / width))  # 图例大约占几行
        card = Card(width, 3.4 + 0.22 * rows, constrained=True)
        plain(card.suptitle(wrap(title, width - 0.3, size), size=size))
        axes: Axes = card.add_subplot()
        top = max(v for line in lines for v in line.y if math.isfinite(v))
        used = {True: 0, False: 0}
        for number, line in enumerate(lines):
            palette = _SIDES[line.right]
            color = palette[used[line.right] % len(palette)]
            used[line.right] += 1
            _draw_line(axes, line, color, top, number)
        _widen(axes, top)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=style.PALE, lw=0.7)
        axes.set_axisbelow(True)
        legend = axes.legend(  # 放在框外，不盖住线
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=1 if width < 6 else 2,
            frameon=False,
            handlelength=2.4,
            borderpad=0.2,
        )
        for text in legend.get_texts():
            plain(text)
        return finish(card, _say_contrast(title, lines, ylabel))


def _check_lines(lines: Sequence[Line]) -> None:
    uneven = [line.name for line in lines if len(line.x) != len(line.y)]
    empty = [line.name for line in lines if not any(map(math.isfinite, line.y))]
    if not lines or uneven or empty:
        raise EvaluationError(
            found=f"{len(lines)} 条线；两轴不等长的：{uneven}；没有有限点的：{empty}",
            expected="至少一条线，两轴等长，各有至少一个有限的点",
            remedy="去掉空的线；全是非数的，另用一句话说明",
        )


def _draw_line(axes: "Axes", line: Line, color: str, top: float, number: int) -> None:
    shape = _RIGHT if line.right else _WRONG
    finite = [v if math.isfinite(v) else math.nan for v in line.y]
    axes.plot(
        line.x, finite, color=color, lw=1.8, label=prose(line.name),
        gid=f"line-{number}", **shape,
    )  # fmt: skip
    broken = [x for x, v in zip(line.x, line.y, strict=True) if not math.isfinite(v)]
    if broken:
        axes.plot(
            broken, [top] * len(broken), ls="none", marker="X", ms=9, color=color,
            label=f"{prose(line.name)}：非数或无穷", gid=f"broken-{number}",
        )  # fmt: skip


def _widen(axes: "Axes", top: float) -> None:
    """各线几乎相同时放宽纵轴，舍入的差别不画成大起大落。"""
    low, high = axes.get_ylim()
    lacking = _LEAST_SPAN * abs(top) - (high - low)
    if lacking > 0:
        axes.set_ylim(low - lacking / 2, high + lacking / 2)


def _say_contrast(title: str, lines: Sequence[Line], ylabel: str) -> str:
    parts: list[str] = []
    for line in lines:
        finite = [v for v in line.y if math.isfinite(v)]
        text = f"{line.name}从 {finite[0]:.2f} 到 {finite[-1]:.2f}"
        if len(finite) < len(line.y):
            text += f"，有 {len(line.y) - len(finite)} 处不是有限数"
        parts.append(text)
    return f"{title}。纵轴是{ylabel}：{'；'.join(parts)}。"
