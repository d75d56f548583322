"""试训选得对不对：六种目标，十二格的网格与 `tune` 选定的一格相差多少。

    python experiments/tuning.py
    python experiments/tuning.py --kinds bert qwen3

网格：学习率（默认值的 1/9、1/3、1、3 倍）× 回放（0、5%、25%），每格训练到底；`tune`
只用一成的步数来选。相差的是训练到底之后领域的每字比特数，与守得住 2% 的几格里最好的比。
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from recording import record
from runs import (
    Run,
    parser_of,
    replay_text,
    settings_of,
    train_once,
    unfinished_study,
)

KINDS = ("bert", "qwen3", "t5", "bart", "glm", "unilm")
RATIOS = (0.0, 0.05, 0.25)
BOUND = 0.02
NAME = "tuning"
STEPS = 1_720
"""一成分给七次试训，一次恰有 20 步。"""


def settings_for(kind: str, args: argparse.Namespace) -> Run:
    """一种目标的设置；学习率由起步模型定，所以不写。"""
    small = {"tokens_per_batch": 256, "block_size": 64}
    settings = {**settings_of(kind, args), **small, "max_steps": args.steps, "seed": 0}
    del settings["learning_rate"]
    return settings


def tuned(settings: Run, replay: str) -> Run:
    """试训一遍：选了什么，试了哪些，用去多少处理器时间。"""
    from companion.config import TrainingConfig
    from companion.training import tune

    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        config = TrainingConfig(
            **settings, replay=replay, output=str(Path(folder) / "tuning")
        )
        found = tune(config, quiet=True).as_dict()
    return {
        "learning_rate": found["learning_rate"],
        "replay_ratio": found["replay_ratio"],
        "probes": found["probes"],
        "cpu_seconds": round(time.process_time() - started, 1),
    }


def jobs(args: argparse.Namespace) -> Iterator[tuple[Run, Callable[[], Run]]]:
    """一种目标先试训，再跑网格；选定的不在网格里时补跑它。"""
    replay = replay_text(args)
    for kind in args.kinds:
        settings = settings_for(kind, args)
        yield {"kind": kind, "what": "tune"}, lambda s=settings: tuned(s, replay)
        for rate in args.rates:
            for ratio in RATIOS:
                yield (
                    {
                        "kind": kind,
                        "what": "grid",
                        "replay_ratio": ratio,
                        "times": rate,
                    },
                    lambda s=settings, t=rate, r=ratio: full_run(s, t, r, replay),
                )


def full_run(settings: Run, times: float, ratio: float, replay: str) -> Run:
    """默认学习率的若干倍，训练到底。"""
    from companion.checkpoints.loading import load_checkpoint
    from companion.config import TrainingConfig
    from companion.training.arguments import choose_learning_rate

    checkpoint = load_checkpoint(settings["model"], settings["objective"])
    config = TrainingConfig(**settings, output="unused")
    rate = float(f"{times * choose_learning_rate(config, checkpoint.model):.3g}")
    mixed: Run = {"replay": replay, "replay_ratio": ratio} if ratio else {}
    return {
        "learning_rate": rate,
        **train_once({**settings, **mixed, "learning_rate": rate}),
    }


def compared(kind: str, runs: list[Run]) -> Run:
    """选定的一格与网格里最好的一格。"""
    mine = [run for run in runs if run["kind"] == kind]
    grid = [run for run in mine if run["what"] == "grid"]
    [chosen] = [run for run in mine if run["what"] == "tune"]
    kept = [run for run in grid if run["general"] <= BOUND] or grid
    best = min(kept, key=lambda run: run["after"]["domain"])
    same = [
        run
        for run in grid
        if run["learning_rate"] == chosen["learning_rate"]
        and run["replay_ratio"] == chosen["replay_ratio"]
    ]
    facts: Run = {
        "kind": kind,
        "best": [best["learning_rate"], best["replay_ratio"]],
        "best_domain": best["after"]["domain"],
        "best_general": best["general"],
        "chosen": [chosen["learning_rate"], chosen["replay_ratio"]],
        "tuning_share": round(
            chosen["cpu_seconds"] / (sum(r["cpu_seconds"] for r in grid) / len(grid)), 3
        ),
    }
    if same:
        domain = same[0]["after"]["domain"]
        facts |= {
            "chosen_domain": domain,
            "chosen_general": same[0]["general"],
            "gap": round(domain / best["after"]["domain"] - 1, 5),
            "bound_kept": same[0]["general"] <= BOUND,
        }
    return facts


def main() -> None:
    """各种目标依次做完；做完一格就写一次，重跑时接着做。"""
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    args = parser.parse_args()
    args.rates = (1 / 9, 1 / 3, 1.0, 3.0)
    facts: dict[str, Any] = {"max_steps": args.steps, "bound": BOUND}
    finished = unfinished_study(NAME, facts)
    runs: list[Run] = []
    done: list[str] = []
    for label, work in jobs(args):
        same = [run for run in finished if label.items() <= run.items()]
        runs.append(same[0] if same else {**label, **work()})
        print(json.dumps(runs[-1], ensure_ascii=False), flush=True)
        count = sum(run["kind"] == label["kind"] for run in runs)
        if count == 1 + len(args.rates) * len(RATIOS):
            done.append(label["kind"])
        summary = [compared(kind, runs) for kind in done]
        claim = "tune 选定的一格与十二格里守得住界的最好一格相差多少"
        record(NAME, {"claim": claim, **facts, "summary": summary, "runs": runs})
    print(json.dumps([compared(k, runs) for k in done], ensure_ascii=False, indent=2))


if __name__ == "__main__":
    main()
