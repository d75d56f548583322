"""失败目录：笔记本 11 的十格各跑几个种子，步数多些，写进 results/。

    python experiments/failures.py                      # 全部，约十分钟
    python experiments/failures.py double_shift         # 只跑这一种，别的留着上次的
    python experiments/failures.py --seeds 1 2          # 再添两个种子
    python experiments/failures.py --quick              # 一个种子，几步，只看方向

跑的就是笔记本里的代码：装着 `found["键"] = contrast(…)` 的那一格。模型都是起步模型，
语料是随包的小史书，不用下载。一步训练也没有的三种（打包泄漏、fp16 溢出、累积）只跑一个
种子。
"""

import argparse
import json
import math
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from recording import RESULTS, record, spread

NAME = "failures"
NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "11_failures.ipynb"
STEPS, QUICK_STEPS = 40, 4
UNTRAINED = ("leaking_pack", "fp16_overflow", "accumulated_loss")
"""一步训练也没有的：种子只有一个。"""


def cells() -> tuple[str, dict[str, str]]:
    """笔记本的准备一格，与失败的键 → 它那一格的代码。"""
    sources = [
        cell.source
        for cell in nbformat.read(NOTEBOOK, as_version=4).cells
        if cell.cell_type == "code"
    ]
    [first] = [each for each in sources if "found = {}" in each]
    found = {
        key: each
        for each in sources
        for key in re.findall(r'^found\["(\w+)"\] = ', each, re.MULTILINE)
    }
    return first, found


def run(keys: list[str], seed: int, steps: int) -> dict[str, Any]:
    """在一个空文件夹里依次跑几格，键 → `contrast` 的结果。"""
    first, found = cells()
    given: dict[str, Any] = {"PROFILE": "tiny", "SEED": seed}
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            exec(first, given)
            given["steps"] = steps
            for key in keys:
                exec(found[key], given)
        finally:
            os.chdir(home)
    return given["found"]


def as_record(found: Any, seed: int, steps: int) -> dict[str, Any]:
    """一次的结果，写得进 JSON：曲线是 [横, 纵] 的列表，不是有限的数记作 None。"""
    from companion.notebook.contrast import points

    def plain(value: Any) -> Any:
        if isinstance(value, int | float):
            return round(value, 5) if math.isfinite(value) else None
        return [[x, plain(y)] for x, y in points(value)]

    return {
        "seed": seed,
        "steps": steps,
        "title": found.title,
        "x": found.x,
        "tell": found.tell,
        **{
            side: {name: plain(value) for name, value in outcome.items()}
            for side, outcome in (("wrong", found.wrong), ("right", found.right))
        },
    }


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """各种子合起来：做错与做对的各个数，各是均值与散布；有非数的不算。"""
    return {
        "tell": runs[0]["tell"],
        "seeds": [each["seed"] for each in runs],
        "steps": runs[0]["steps"],
        **{
            side: {
                name: spread([each[side][name] for each in runs])
                for name, value in runs[0][side].items()
                if isinstance(value, int | float)
            }
            for side in ("wrong", "right")
        },
    }


def main() -> None:
    """跑选中的几种；每跑完一次就存盘，步数相同的旧结果留着。"""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("keys", nargs="*", metavar="失败", help="缺省是全部")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument(
        "--quick", action="store_true", help="一个种子、几步；只看方向，不写结果"
    )
    args = parser.parse_args()
    from companion.notebook import setup

    setup()
    import torch

    torch.set_num_threads(1)
    seeds, steps = ([0], QUICK_STEPS) if args.quick else (args.seeds, args.steps)
    path = RESULTS / f"{NAME}.json"
    saved = json.loads(path.read_text("utf-8")) if path.exists() else {}
    cases, runs = saved.get("cases", {}), saved.get("runs", {})
    jobs = [
        (seed, key)
        for seed in seeds
        for key in args.keys or cells()[1]
        if seed == seeds[0] or key not in UNTRAINED
    ]
    for seed, key in jobs:  # 先跑完一个种子：中途停下，各种都有数
        started = time.process_time()
        [found] = run([key], seed, steps).values()
        if not found.betrayed:
            sys.exit(f"{key} 没有重现（种子 {seed}）")
        done = as_record(found, seed, 0 if key in UNTRAINED else steps)
        done["cpu_seconds"] = round(time.process_time() - started, 1)
        same = [r for r in runs.get(key, []) if r["steps"] == done["steps"]]
        others = [r for r in same if r["seed"] != seed]
        runs[key] = sorted([*others, done], key=lambda each: each["seed"])
        cases[key] = summarise(runs[key])
        if not args.quick:
            claim = "十种失败，只差一处的两次运行，做错的更坏，各个种子都是"
            record(NAME, {"claim": claim, "cases": cases, "runs": runs})


if __name__ == "__main__":
    main()
