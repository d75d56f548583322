"""学到的与忘掉的：学习率五个峰值，掩码与因果；回放 {0, 5%, 25%, 50%}；三个种子。

    python experiments/replay_tradeoff.py
    python experiments/replay_tradeoff.py --kinds bert
    python experiments/replay_tradeoff.py --quick

每次训练的词元一样多：回放占去几成，领域就少读几成。量两件事：《资治通鉴》留出卷的每字比
特数降了多少（学到的），通用留出集的升了多少（忘掉的）。五个峰值都掺 5% 的回放；四种回放
在中间的两个峰值上比，只比掩码模型。另有对照：一样的安排，读起步模型已读过的别的史书。
"""

import argparse
from collections.abc import Callable, Iterator
from itertools import product

from runs import (
    WORDS,
    Run,
    conclude_study,
    control_text,
    parser_of,
    replay_text,
    run_all,
    settings_of,
    train_once,
    verdict,
)

DOMAIN, CONTROL = "tongjian", "control"
RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
COMPARED = (3e-4, 1e-3)
"""在这两个峰值上比回放与对照。"""
RATIOS = (0.0, 0.05, 0.25, 0.5)
USUAL = 0.05


def cells(kind: str) -> list[tuple[str, float, float]]:
    """读什么、峰值、回放；一个种子一遍。"""
    ratios = [each for each in product(COMPARED, RATIOS) if each[1] != USUAL]
    return [
        *((DOMAIN, rate, USUAL) for rate in RATES),
        *((CONTROL, rate, USUAL) for rate in COMPARED),
        *((DOMAIN, *each) for each in ratios if kind == "bert"),
    ]


def jobs(args: argparse.Namespace) -> Iterator[tuple[Run, Callable[[], Run]]]:
    """种子在外层：中途停下，已有的几个种子仍是齐的。"""
    for seed, (kind, corpus, rate, ratio) in product(args.seeds, args.cells):
        settings = {
            **settings_of(kind, args),
            "max_steps": args.steps,
            "learning_rate": rate,
            "seed": seed,
        }
        if ratio:
            settings |= {"replay": replay_text(args), "replay_ratio": ratio}
        if corpus == CONTROL:
            settings["corpus"] = control_text(kind, args)
        yield (
            {
                "kind": kind,
                "corpus": corpus,
                "learning_rate": rate,
                "replay_ratio": ratio,
                "seed": seed,
            },
            lambda chosen=settings: train_once(chosen),
        )


def conclude(runs: list[Run]) -> Run:
    """峰值、回放、语料各比一次：按种子配对，作双侧 t 检验，一次一句。"""

    def of(kind: str, measure: str, *cell: str | float) -> list[float]:
        names = ("corpus", "learning_rate", "replay_ratio")
        wanted = {"kind": kind, **dict(zip(names, cell, strict=True))}
        return [run[measure] for run in runs if wanted.items() <= run.items()]

    usual = (DOMAIN, 3e-4, USUAL)
    said: Run = {}
    for kind in dict.fromkeys(run["kind"] for run in runs):
        for name, title, other in (
            ("rate", "峰值 0.0003 比 0.001", (DOMAIN, 1e-3, USUAL)),
            ("replay", "掺 5% 比不回放", (DOMAIN, 3e-4, 0.0)),
            ("corpus", "读《资治通鉴》比读别的史书", (CONTROL, 3e-4, USUAL)),
        ):
            words: list[str] = []
            for measure in WORDS:
                both = of(kind, measure, *usual), of(kind, measure, *other)
                apart = [mine - theirs for mine, theirs in zip(*both, strict=False)]
                if len(apart) == 3:  # 没有比的一组是空的
                    words.append(verdict(measure, apart))
            if words:
                said.setdefault(kind, {})[name] = f"{title}，{'，'.join(words)}"
    return {"conclusions": said}


def main() -> None:
    """全部组合，写进 results/。"""
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--kinds", nargs="+", default=["bert", "qwen3"])
    args = parser.parse_args()
    args.cells = [(kind, *each) for kind in args.kinds for each in cells(kind)]
    if args.quick:
        args.seeds, args.steps = [0], 16
        args.cells = [("bert", DOMAIN, 1e-3, ratio) for ratio in (0.0, 0.25)]
    run_all(
        "replay_tradeoff",
        "同样多的词元，回放与学习率峰值各换来多少",
        jobs(args),
        {"max_steps": args.steps},
        keys=("kind", "corpus", "learning_rate", "replay_ratio"),
        measures=("domain", "general", "cpu_seconds"),
        save=not args.quick,
    )
    if not args.quick:
        conclude_study("replay_tradeoff", conclude)


if __name__ == "__main__":
    main()
