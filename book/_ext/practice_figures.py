"""第 15 到 17 章的图与表：配比、遍数、学习率、第二轮、背诵。"""

from collections.abc import Callable
from typing import Any

from recorded import recorded

WIDTH = 5.0
"""英寸，同 `book_figures`。"""


def _by_epochs() -> list[dict[str, Any]]:
    """读过的那份，遍数由少到多。"""
    rows = recorded("extraction")["summary"]
    return [row for row in rows if row["corpus"] == "read"]


def repetition() -> Any:
    """同样几千字反复读：没读过的文字，每字比特数先降后升。"""
    from companion.plots import style
    from companion.plots.style import Card, drawing, finish

    rows, start = _by_epochs(), recorded("extraction")["untrained"]["bits"]
    epochs = [row["epochs"] for row in rows]
    with drawing():
        card = Card(WIDTH, 2.9, constrained=True)
        axes = card.subplots()
        axes.errorbar(
            epochs, [row["bits"]["mean"] for row in rows],
            yerr=[row["bits"]["std"] for row in rows],
            fmt="o-", color=style.BLUE, capsize=3,
        )  # fmt: skip
        axes.axhline(start, color=style.GREY, lw=1, ls="--")
        axes.text(epochs[0], start, "没有训练", ha="left", va="bottom")
        _doubling(axes, epochs)
        axes.set_ylabel("没读过的文字：每字比特数")
        said = "；".join(
            f"{row['epochs']} 遍 {row['bits']['mean']:.2f}" for row in rows
        )
        return finish(card, f"没有训练 {start:.2f}；{said}。须是三个种子的标准差。")


def recitation() -> Any:
    """反复读：30 字的开头，接下来的 10 字背得出几处。"""
    from companion.plots import style
    from companion.plots.style import Card, drawing, finish

    rows = _by_epochs()
    epochs = [row["epochs"] for row in rows]
    with drawing():
        card = Card(WIDTH, 2.9, constrained=True)
        axes = card.subplots()
        for name, label, color, mark in (
            ("read", "读过的", style.VERMILION, "o-"),
            ("unread", "没读过的", style.GREY, "s--"),
        ):
            found = [row[f"{name}_whole"] for row in rows]
            axes.errorbar(
                epochs, [100 * each["mean"] for each in found],
                yerr=[100 * each["std"] for each in found],
                fmt=mark, color=color, capsize=3, label=label,
            )  # fmt: skip
        _doubling(axes, epochs)
        axes.set_ylabel("十字全对，%")
        axes.legend(frameon=False)
        said = "；".join(
            f"{row['epochs']} 遍 {row['read_whole']['mean']:.0%}" for row in rows
        )
        return finish(card, f"读过的文字背得出的比例：{said}。没读过的一处也没有。")


def _doubling(axes: Any, epochs: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(epochs, [str(each) for each in epochs])
    axes.set_xlabel("读几遍")
    axes.spines[["top", "right"]].set_visible(False)


def second_round() -> Any:
    """第二轮的头几步：带着动量与只拿权重，三个种子。"""
    from companion.plots import style
    from companion.plots.style import Card, drawing, finish

    names = {
        "moments": ("带着动量", style.BLUE, "-"),
        "weights": ("只拿权重", style.VERMILION, "--"),
    }
    runs = recorded("second_round")["runs"]
    with drawing():
        card = Card(WIDTH, 3.0, constrained=True)
        axes = card.subplots()
        seen: set[str] = set()
        for run in runs:
            name, color, line = names[run["start"]]
            steps, bits = zip(*run["path"], strict=True)
            axes.plot(
                steps, [100 * (each / bits[0] - 1) for each in bits],
                line, color=color, lw=1.2, label=None if name in seen else name,
            )  # fmt: skip
            seen.add(name)
        axes.axhline(0, color=style.GREY, lw=0.8)
        axes.set_xlabel("第二轮的第几步")
        axes.set_ylabel("每字比特数比出发时，%")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        said = "；".join(
            f"{names[row['start']][0]}开头最高 {100 * row['jump']['mean']:+.2f}%，"
            f"走完 {100 * row['gain']['mean']:+.2f}%"
            for row in recorded("second_round")["summary"]
        )
        return finish(card, f"三个种子的第二轮。{said}。")


def rates() -> Any:
    """学习率的峰值：学到的与忘掉的，掩码与因果各一格。"""
    from companion.plots import style
    from companion.plots.style import Card, drawing, finish

    runs = recorded("replay_tradeoff")["summary"]
    kinds = {"bert": "bert，文言", "qwen3": "qwen3，白话"}
    said: list[str] = []
    with drawing():
        card = Card(WIDTH, 3.0, constrained=True)
        panels = card.subplots(1, 2, sharey=True)
        for axes, (kind, title) in zip(panels, kinds.items(), strict=True):
            wanted = {"kind": kind, "corpus": "tongjian", "replay_ratio": 0.05}
            rows = [row for row in runs if wanted.items() <= row.items()]
            rows.sort(key=lambda row: row["learning_rate"])
            for key, label, color, mark in (
                ("domain", "领域", style.BLUE, "o-"),
                ("general", "通用", style.VERMILION, "s--"),
            ):
                axes.errorbar(
                    range(len(rows)), [100 * row[key]["mean"] for row in rows],
                    yerr=[100 * row[key]["std"] for row in rows],
                    fmt=mark, color=color, label=label, capsize=2,
                )  # fmt: skip
            axes.axhline(0, color=style.GREY, lw=0.8)
            axes.set_xticks(
                range(len(rows)), [f"{r['learning_rate']:f}".rstrip("0") for r in rows]
            )
            axes.tick_params(axis="x", rotation=45)
            axes.set_ylim(-10, 12)
            axes.set_title(title)
            axes.set_xlabel("学习率的峰值")
            axes.spines[["top", "right"]].set_visible(False)
            said += [
                f"{kind} {row['learning_rate']:g}："
                f"领域 {100 * row['domain']['mean']:+.1f}%，"
                f"通用 {100 * row['general']['mean']:+.1f}%"
                for row in rows
            ]
        panels[0].set_ylabel("每字比特数的变化，%")
        panels[0].legend(frameon=False)
        return finish(card, f"学习率的峰值与变化，掺 5% 回放。{'；'.join(said)}。")


def mixture() -> list[dict[str, Any]]:
    """三份大小悬殊的语料，温度由低到高：各占多少，小的读几遍。"""
    from companion.corpus.mixing import Source, shares_of

    sizes = {"large": 1_000_000, "middle": 100_000, "small": 10_000}
    sources = [Source(name, name) for name in sizes]
    rows: list[dict[str, Any]] = []
    for temperature in (1.0, 1.5, 2.0, 3.0, 5.0):
        shares = shares_of(sources, list(sizes.values()), temperature)
        found = dict(zip(sizes, shares, strict=True))
        rows.append(
            {
                "temperature": temperature,
                **found,
                "passes": found["small"] * sum(sizes.values()) / sizes["small"],
            }
        )
    return rows


FIGURES: dict[str, Callable[[], Any]] = {
    "rates": rates,
    "repetition": repetition,
    "recitation": recitation,
    "second_round": second_round,
}
