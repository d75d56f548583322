"""途中的评估占多少时间，事先说的准不准；几份语料照权重读，占的份量准不准。

    python experiments/watching.py

两件事各三个种子：缺省的途中评估，开训前说的比例与实际用去的比例；三份语料照 3:1:1 掺，
另有5% 的回放，读到的比例与要的比例相差多少。
"""

import argparse
import re
import tempfile
from io import StringIO
from pathlib import Path
from typing import Any

from recording import record, spread
from rich.console import Console
from runs import Run, parser_of, replay_text, settings_of

SHARE = re.compile(r"估计占训练时间的 ([\d.]+)%")
WEIGHTS = {"文言": 3, "白话": 1, "史书": 1}


def watched(settings: Run) -> dict[str, float]:
    """训练一次：说的比例，实际的比例。"""
    from companion.config import TrainingConfig
    from companion.training import train

    said = StringIO()
    with tempfile.TemporaryDirectory() as folder:
        config = TrainingConfig(**settings, output=str(Path(folder) / "run"))
        metrics = train(config, console=Console(file=said, width=200)).metrics
    [share] = SHARE.findall(said.getvalue())
    spent = metrics["evaluations"]["seconds"]
    return {"said": float(share) / 100, "spent": spent / metrics["seconds"]}


def mixed(args: argparse.Namespace, seed: int) -> float:
    """读到的比例与要的比例至多相差多少。"""
    from companion.config import TrainingConfig
    from companion.training import rehearse_training

    paths = {
        "文言": "tongjian/train.classical.txt.gz",
        "白话": "tongjian/train.modern.txt.gz",
        "史书": "base/valid.classical.txt",
    }
    with tempfile.TemporaryDirectory() as folder:
        config = TrainingConfig(
            objective="masked_lm",
            model="starter:bert",
            corpus=tuple(f"{n}={args.data / paths[n]}:{w}" for n, w in WEIGHTS.items()),
            replay=replay_text(args),
            replay_ratio=0.05,
            output=str(Path(folder) / "run"),
            block_size=128,
            tokens_per_batch=1024,
            max_steps=400,
            eval=False,
            seed=seed,
        )
        found = rehearse_training(config, quiet=True).sources
    whole = sum(WEIGHTS.values())
    asked = {name: 0.95 * weight / whole for name, weight in WEIGHTS.items()}
    asked["回放"] = 0.05
    return max(abs(found[name]["share"] - share) for name, share in asked.items())


def main() -> None:
    """两种目标各三个种子，写进 results/。"""
    args = parser_of(__doc__).parse_args()

    import torch

    torch.set_num_threads(1)
    looks: list[dict[str, Any]] = []
    for kind in ("bert", "bloom"):
        settings = {**settings_of(kind, args), "tokens_per_batch": 1024}
        runs = [watched({**settings, "max_steps": 200, "seed": s}) for s in args.seeds]
        print(kind, runs, flush=True)
        looks.append(
            {
                "kind": kind,
                "seeds": len(runs),
                **{key: spread([run[key] for run in runs]) for key in runs[0]},
            }
        )
    shares = [mixed(args, seed) for seed in args.seeds]
    print(shares, flush=True)
    content = {
        "claim": "途中的评估占训练时间的几成，与事先说的相比；几份语料照权重读",
        "summary": looks,
        "largest_share_error": spread(shares),
    }
    record("watching", content)


if __name__ == "__main__":
    main()
