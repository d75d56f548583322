"""书里的图：数据取自 `results/` 或当场算出，画法都在 `companion.plots`。"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import checkpoint_costs
from recorded import recorded

WIDTH = 5.0
"""英寸；比正文窄一些，手机上缩得不多，字还读得清。"""


def replay_tradeoff() -> Any:
    """回放与学习率：学到的对忘掉的。"""
    from companion.plots import plot_tradeoff

    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for run in recorded("replay_tradeoff")["runs"]:
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
    return plot_tradeoff(points, title="学到的与忘掉的，每字比特数", width=WIDTH)


def schedules() -> Any:
    """四种学习率曲线，一百步，预热一成。"""
    from companion.plots import plot_schedules
    from companion.training.arguments import factor_at

    steps, warmup = 100, 10
    names = {
        "cosine": "余弦（缺省）",
        "warmup_stable_decay": "预热、平稳、衰减",
        "linear": "线性",
        "constant": "不变",
    }
    curves = {
        name: [factor_at(step, kind, steps, warmup) for step in range(steps)]
        for kind, name in names.items()
    }
    return plot_schedules(
        curves, num_warmup=warmup, title="学习率怎样升、怎样降", width=WIDTH
    )


def packing() -> Any:
    """随包史书开头的十六句，一句一篇，打包前后。"""
    from companion.checkpoints.loading import load_tokenizer
    from companion.corpus.packing import plan_packing
    from companion.corpus.sources import read_corpus
    from companion.plots import RowsPanel, plot_rows

    capacity, special = 112, 2
    tokenizer = load_tokenizer("starter:bert")
    [text] = [each.text for each in read_corpus("sample:classical")][:1]
    lines = [line + "。" for line in text.split("。") if line][:16]
    encoded = tokenizer(lines, add_special_tokens=False)["input_ids"]
    lengths = [len(ids) for ids in encoded]
    panels: list[RowsPanel] = []
    for title, pack in (("一篇一行，补到最长", False), ("打包，一行至多 112", True)):
        plan = plan_packing(lengths, capacity, pack=pack, overhead_per_piece=special)
        rows = [
            [(piece.document, piece.stop - piece.start + special) for piece in row]
            for row in plan
        ]
        widest = max(sum(size for _, size in row) for row in rows)
        panels.append(RowsPanel(title, rows, [widest] * len(rows)))
    return plot_rows(panels, width=WIDTH)


def memory() -> list[dict[str, Any]]:
    """几个公开的检查点训练时占多少，照 `training_memory` 的公式；只搭空壳，不下载。"""
    import torch

    from companion.preflight.device import Device, training_memory

    gpu = Device("cuda", "GPU", torch.bfloat16, 0, "")
    shells = {
        "SIKU-BERT/sikubert": "AutoModelForMaskedLM",
        "bigscience/bloom-560m": "AutoModelForCausalLM",
        "Qwen/Qwen3-0.6B-Base": "AutoModelForCausalLM",
    }
    rows: list[dict[str, Any]] = []
    for name, auto in shells.items():
        model = checkpoint_costs.hull(name, auto)
        parameters = sum(weight.numel() for weight in model.parameters())
        fixed = 16 * parameters
        whole = training_memory(model, gpu, 4096, 512)
        rows.append(
            {
                "model": f"`{name}`",
                "millions": parameters / 1e6,
                "states": fixed / 2**30,
                "activations": (whole - fixed) / 2**30,
                "whole": whole / 2**30,
                "frozen": (4 * parameters + whole - fixed) / 2**30,
            }
        )
    return rows


def failure(key: str) -> Any:
    """失败目录的一条：第一个种子，做错与做对的第一条曲线。"""
    from companion.notebook.contrast import Contrast

    first = recorded("failures")["runs"][key][0]
    sides = [
        {name: _curve(value) for name, value in first[side].items()}
        for side in ("wrong", "right")
    ]
    return Contrast(first["title"], *sides, "higher", first["x"]).plot(width=WIDTH)


def _curve(value: Any) -> Any:
    """记下的曲线读回来：横轴 → 纵轴，None 是非数；单个的数原样。"""
    if not isinstance(value, list):
        return value
    return {x: math.nan if y is None else y for x, y in value}


TABLES: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "memory": memory,
    "checkpoints_t4": partial(checkpoint_costs.rows, "t4"),
    "checkpoints_full": partial(checkpoint_costs.rows, "full"),
}

FIGURES: dict[str, Callable[[], Any]] = {
    "replay_tradeoff": replay_tradeoff,
    "packing": packing,
    "schedules": schedules,
    **{
        f"failures_{key}": partial(failure, key)
        for key in recorded("failures")["cases"]
    },
}
