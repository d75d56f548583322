"""学到的与忘掉的：回放 {0, 5%, 25%} × 两个学习率峰值，三个种子。

    python experiments/replay_tradeoff.py
    python experiments/replay_tradeoff.py --quick

每次训练的词元一样多：回放占去几成，领域就少读几成。量两件事：《资治通鉴》留出卷的每字比特
数降了多少（学到的），通用留出集的升了多少（忘掉的）。
"""

import argparse
from collections.abc import Callable, Iterator

from runs import (
    Run,
    parser_of,
    replay_text,
    run_all,
    settings_of,
    train_once,
)

RATIOS = (0.0, 0.05, 0.25)
RATES = (3e-4, 1e-3)


def jobs(
    args: argparse.Namespace, steps: int
) -> Iterator[tuple[Run, Callable[[], Run]]]:
    """种子在外层：中途停下，已有的几个种子仍是齐的。"""
    base = {**settings_of("bert", args), "max_steps": steps}
    for seed in args.seeds:
        for rate in RATES[-1:] if args.quick else RATES:
            for ratio in (0.0, 0.25) if args.quick else RATIOS:
                replay = {"replay": replay_text(args), "replay_ratio": ratio}
                settings = {
                    **base,
                    **(replay if ratio else {}),
                    "learning_rate": rate,
                    "seed": seed,
                }
                yield (
                    {"replay_ratio": ratio, "learning_rate": rate, "seed": seed},
                    lambda chosen=settings: train_once(chosen),
                )


def main() -> None:
    """全部组合，写进 results/。"""
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=120)
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.steps = [0], 16
    run_all(
        "replay_tradeoff",
        "同样多的词元，回放与学习率峰值各换来多少",
        jobs(args, args.steps),
        {"model": "starter:bert", "objective": "masked_lm", "max_steps": args.steps},
        keys=("learning_rate", "replay_ratio"),
        measures=("domain", "general", "cpu_seconds"),
        save=not args.quick,
    )


if __name__ == "__main__":
    main()
