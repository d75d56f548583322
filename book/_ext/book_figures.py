"""书里的图：数据取自 `results/` 或当场算出，画法都在 `companion.plots`。"""

from collections.abc import Callable
from typing import Any

from measured import read_result


def replay_tradeoff() -> Any:
    """回放与学习率：学到的对忘掉的。"""
    from companion.plots import plot_tradeoff

    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for run in read_result("replay_tradeoff")["runs"]:
        rate, ratio = run["learning_rate"], run["replay_ratio"]
        point = groups.setdefault(
            (rate, ratio),
            {
                "series": f"峰值 {rate:g}",
                "level": f"回放 {ratio:.0%}" if ratio else "不回放",
                "learned": [],
                "forgotten": [],
            },
        )
        before, after = run["before"], run["after"]
        point["learned"].append(before["domain"] - after["domain"])
        point["forgotten"].append(after["general"] - before["general"])
    points = [groups[key] for key in sorted(groups)]
    return plot_tradeoff(points, title="学到的与忘掉的，每字比特数")


def packing() -> Any:
    """同样的十来篇短文档，打包前后。"""
    from companion.corpus.packing import plan_packing
    from companion.corpus.sources import read_corpus
    from companion.plots import RowsPanel, plot_rows

    capacity, special = 128, 2
    lengths = [len(each.text) for each in read_corpus("sample:classical", "train")]
    lengths = [size % 90 + 6 for size in lengths][:12]
    panels = []
    for title, pack in (("一篇一行，补到最长", False), ("打包", True)):
        plan = plan_packing(lengths, capacity, pack=pack, overhead_per_piece=special)
        rows = [
            [(piece.document, piece.stop - piece.start + special) for piece in row]
            for row in plan
        ]
        widest = max(sum(size for _, size in row) for row in rows)
        panels.append(RowsPanel(title, rows, [widest] * len(rows)))
    return plot_rows(panels)


FIGURES: dict[str, Callable[[], Any]] = {
    "replay_tradeoff": replay_tradeoff,
    "packing": packing,
}
