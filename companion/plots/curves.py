"""训练曲线：损失随读过的词元下降，学习率在下，前后成绩在最下。

日志的一行是一个字典，键与 `log.jsonl` 相同；认得的键：

| 键 | 单位 | 画成 |
|---|---|---|
| `step` | 步 | 没有 `tokens` 时的横轴 |
| `tokens` | 词元，累计 | 横轴 |
| `loss` | 奈特/目标 | 细点与平滑线，换算成比特 |
| `learning_rate` | | 第二格 |
| `event` | `"resume"` 或 `"evaluation"` | 竖线 |

续训会重走几步，同一步出现两次时以后写的为准；损失是非数的步画成“×”。
"""

# matplotlib 自带的类型注解不全（**kwargs 没有类型），以下两项因此关掉
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from companion.errors import TrainingError
from companion.plots import style
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
    "evaluation": ("评估", style.GREEN, (0, (1, 1.5))),
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
    heights = [3.0] + [1.0] * bool(rates)
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
        _label_amounts(lowest, x, "词元" if by_tokens else "步", by_tokens)
        if scores:
            _draw_scores(panels[-1], scores)
        return finish(card, _say(title, x, bits, by_tokens, scores))


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
