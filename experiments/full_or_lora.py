"""训练全部参数、LoRA 的几种秩、只训练词嵌入：读同样多的词元，各学多少、忘多少。

    python experiments/full_or_lora.py
    python experiments/full_or_lora.py --quick

各种做法合用的学习率不同，所以头一个种子各试三个峰值，此后用领域成绩最好的那一个；三个都写
在结果里。选峰值与报成绩用同一份留出集，三个里取一个，偏差很小，但不是没有。
"""

import argparse
import contextlib
from collections.abc import Callable, Generator, Iterator
from typing import Any
from unittest import mock

from runs import (
    Run,
    parser_of,
    run_all,
    settings_of,
    train_once,
    unfinished_study,
)

NAME = "full_or_lora"
METHODS: dict[str, tuple[int, tuple[float, ...]]] = {
    "full": (0, (3e-4, 1e-3, 3e-3)),
    "lora-4": (4, (1e-3, 3e-3, 1e-2)),
    "lora-16": (16, (1e-3, 3e-3, 1e-2)),
    "lora-64": (64, (1e-3, 3e-3, 1e-2)),
    "embeddings": (0, (3e-4, 1e-3, 3e-3)),
}
"""做法 → LoRA 的秩，要试的学习率峰值。"""
QUICK = {"full": (0, (3e-4,)), "lora-4": (4, (3e-4,))}
"""同一个学习率：训练的参数少得多，学到的、忘掉的也少。"""


@contextlib.contextmanager
def only_embeddings() -> Generator[None]:
    """期间 `train` 打开的检查点只训练词嵌入与输出头。"""
    from companion.checkpoints.loading import load_checkpoint
    from companion.checkpoints.vocabulary import embeddings_only
    from companion.training import run

    with contextlib.ExitStack() as stack:

        def load(*args: Any, **options: Any) -> Any:
            checkpoint = load_checkpoint(*args, **options)
            stack.enter_context(embeddings_only(checkpoint.model))
            return checkpoint

        stack.enter_context(mock.patch.object(run, "load_checkpoint", load))
        yield


def train_by(method: str, settings: Run) -> Run:
    """以一种做法训练一次。"""
    around = only_embeddings() if method == "embeddings" else contextlib.nullcontext()
    with around:
        return train_once(settings)


def num_trained(method: str, rank: int, objective: str, model: str) -> Run:
    """这种做法训练多少参数，占全部的几成。"""
    from companion.checkpoints.loading import load_checkpoint
    from companion.checkpoints.vocabulary import embeddings_only
    from companion.config import TrainingConfig
    from companion.training.arguments import add_lora

    network = load_checkpoint(model, objective).model
    whole = sum(weight.numel() for weight in network.parameters())
    around: Any = contextlib.nullcontext()
    if method == "embeddings":
        around = embeddings_only(network)
    elif rank:
        config = TrainingConfig(
            objective=objective, model=model, corpus="-", output="-", lora_rank=rank
        )
        network = add_lora(network, config)
    with around:
        trained = sum(w.numel() for w in network.parameters() if w.requires_grad)
    return {"parameters": trained, "share": round(trained / whole, 4)}


def jobs(
    args: argparse.Namespace, steps: int, finished: list[Run]
) -> Iterator[tuple[Run, Callable[[], Run]]]:
    """头一个种子各试三个峰值；其余的种子用最好的一个。"""
    base = {**settings_of("bert", args), "max_steps": steps}
    methods = QUICK if args.quick else METHODS
    first = args.seeds[0]
    seen: dict[str, dict[float, float]] = {method: {} for method in methods}
    for run in finished:
        if run["method"] in seen and run["seed"] == first:
            seen[run["method"]][run["learning_rate"]] = run["after"]["domain"]
    for seed in args.seeds:
        for method, (rank, rates) in methods.items():
            size = num_trained(method, rank, base["objective"], base["model"])
            best = min(seen[method], key=seen[method].__getitem__, default=0.0)
            for rate in rates if seed == first else (best,):
                settings = {
                    **base,
                    "learning_rate": rate,
                    "lora_rank": rank,
                    "seed": seed,
                }

                def work(
                    method: str = method, rate: float = rate, settings: Run = settings
                ) -> Run:
                    done = train_by(method, settings)
                    seen[method].setdefault(rate, done["after"]["domain"])
                    return done

                label = {"method": method, "learning_rate": rate, "seed": seed}
                yield {**label, **size}, work


def main() -> None:
    """全部做法，写进 results/。"""
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.steps = [0], 8
    facts = {
        "model": "starter:bert",
        "objective": "masked_lm",
        "max_steps": args.steps,
    }
    run_all(
        NAME,
        "同样多的词元，各用最好的峰值：全参数在领域上学得最多",
        jobs(args, args.steps, unfinished_study(NAME, facts)),
        facts,
        keys=("method", "learning_rate", "parameters", "share"),
        measures=("domain", "general", "cpu_seconds"),
        save=not args.quick,
    )


if __name__ == "__main__":
    main()
