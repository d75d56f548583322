"""第二轮从哪里出发：带着动量（`continue_from`），还是只拿权重（`model`）。

    python experiments/second_round.py
    python experiments/second_round.py --quick

第一轮余弦走完；第二轮读同一份语料，种子另换，两种出发点读同样的批次、预热同样的步数。每隔
几步在留出集上评一次：开头升了多少（`jump`，前一成半里最高的减出发时的），走完降了多少
（`gain`，末步减出发时的），都是每字比特数的相对变化。
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from runs import Run, parser_of, run_all, settings_of

NAME = "second_round"
STARTS = ("moments", "weights")
EARLY = 0.15
"""“开头”是第二轮的这一部分。"""


def second_round(kind: str, start: str, seed: int, args: argparse.Namespace) -> Run:
    """两轮训练，量第二轮。"""
    import torch

    from companion.config import TrainingConfig
    from companion.training import train
    from companion.training.watching import evaluations

    torch.set_num_threads(1)
    common: Run = {**settings_of(kind, args), "eval_max_chars": args.chars}
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / "first"
        whole: dict[str, Any] = {**common, "max_steps": args.steps, "seed": seed}
        train(TrainingConfig(**whole, eval=False, output=str(first)), quiet=True)
        place = str(first / f"checkpoint-{args.steps}")
        origin = {"continue_from": place} if start == "moments" else {"model": place}
        again = TrainingConfig(
            **{**whole, **origin, "seed": seed + 50},
            output=str(Path(folder) / "second"),
            eval_steps=max(1, args.steps // 30),
            early_stopping_patience=1000,
        )
        result = train(again, quiet=True)
    rows = evaluations(result.log)
    begin = rows[0]["domain"]
    early = [row["domain"] for row in rows[1:] if row["step"] <= EARLY * args.steps]
    return {
        "jump": round(max(early) / begin - 1, 5),
        "gain": round(rows[-1]["domain"] / begin - 1, 5),
        "path": [[row["step"], row["domain"]] for row in rows],
    }


def jobs(args: argparse.Namespace) -> Iterator[tuple[Run, Callable[[], Run]]]:
    """每个种子两种出发点。"""
    for kind in args.kinds:
        for seed in args.seeds:
            for start in STARTS:
                label = {"kind": kind, "start": start, "seed": seed}
                yield label, partial(second_round, kind, start, seed, args)


def main() -> None:
    """全部运行，写进 results/。"""
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--chars", type=int, default=6_000)
    parser.add_argument("--kinds", nargs="+", default=["bert", "bloom"])
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.steps, args.kinds, args.chars = [0], 8, ["bert"], 500
    run_all(
        NAME,
        "带着动量出发的第二轮，开头不升；只拿权重的升",
        jobs(args),
        {"max_steps": args.steps, "chars": args.chars},
        keys=("kind", "start"),
        measures=("jump", "gain"),
        save=not args.quick,
    )


if __name__ == "__main__":
    main()
