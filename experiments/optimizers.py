"""Muon 与 AdamW：读同样多的词元，各用自己最好的学习率，谁学得多，谁忘得多。

    python experiments/optimizers.py
    python experiments/optimizers.py --quick

学习率由另一个种子选：从三个峰值试起，最好的一个两侧都试过才停，所以它不在格点的边上。
比较用另外三个种子，文字的次序逐个种子相同，差按种子配对，作 t 检验（自由度 2）。另有三
次对照，读起步模型已读过的别的史书（base）：两组之差才是领域语料的功劳。

裁断的一句由检验写出，存在结果的 `conclusion` 里。
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

from recording import spread
from runs import (
    SETUPS,
    WORDS,
    Run,
    bits_per_char,
    conclude_study,
    control_text,
    paired_p,
    parser_of,
    run_all,
    settings_of,
    train_once,
    unfinished_study,
    verdict,
)

NAME = "optimizers"
NAMES = {"adamw": "AdamW", "muon": "Muon"}
LADDER = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
"""学习率的格点，相邻约差三倍。"""
START = (1e-4, 3e-4, 1e-3)
"""先试的三个。"""
SEARCH_SEED = 100
"""选学习率的种子；比较时不用它。"""
DOMAIN, CONTROL = "tongjian", "control"


def jobs(
    args: argparse.Namespace, finished: list[Run]
) -> Iterator[tuple[Run, Callable[[], Run]]]:
    """先选学习率，再以选中的跑各个种子，连同对照。"""
    for kind, optimizer in product(args.kinds, NAMES):
        base: Run = {
            **settings_of(kind, args),
            "max_steps": args.steps,
            "optimizer": optimizer,
        }
        group = {"kind": kind, "optimizer": optimizer}
        seen: dict[float, float] = {}

        def job(
            rate: float, corpus: str, seed: int, base: Run = base, group: Run = group
        ) -> tuple[Run, Callable[[], Run]]:
            label = {**group, "learning_rate": rate, "corpus": corpus, "seed": seed}
            settings = {**base, "learning_rate": rate, "seed": seed}
            if corpus == CONTROL:
                settings["corpus"] = control_text(label["kind"], args)
            return label, partial(train_once, settings)

        def remember(
            rate: float, work: Callable[[], Run], seen: dict[float, float] = seen
        ) -> Run:
            done = work()
            seen[rate] = done["after"]["domain"]
            return done

        wanted = list(args.rates)
        while wanted:
            rate = wanted.pop()
            label, work = job(rate, DOMAIN, SEARCH_SEED)
            before = [run for run in finished if label.items() <= run.items()]
            if before:
                seen[rate] = before[0]["after"]["domain"]
            yield label, partial(remember, rate, work)
            if not wanted and not args.quick:
                at = LADDER.index(min(seen, key=seen.__getitem__))
                beside = LADDER[max(0, at - 1) : at + 2]
                wanted = [each for each in beside if each not in seen]
        best = min(seen, key=seen.__getitem__)
        for corpus, seed in product(args.corpora, args.seeds):
            yield job(best, corpus, seed)


def compared(runs: list[Run]) -> list[Run]:
    """一个模型一种优化器一行：选中的学习率，领域、通用、对照，与净得（领域减对照）。"""
    rows: list[Run] = []
    chosen = [run for run in runs if run["seed"] != SEARCH_SEED]
    groups = dict.fromkeys((run["kind"], run["optimizer"]) for run in chosen)
    for kind, optimizer in groups:
        mine = [r for r in chosen if (r["kind"], r["optimizer"]) == (kind, optimizer)]
        read = [run for run in mine if run["corpus"] == DOMAIN]
        control = [run for run in mine if run["corpus"] == CONTROL]
        net = [a["domain"] - b["domain"] for a, b in zip(read, control, strict=True)]
        rows.append(
            {
                "kind": kind,
                "optimizer": optimizer,
                "learning_rate": read[0]["learning_rate"],
                "seeds": len(read),
                "domain": spread([run["domain"] for run in read]),
                "general": spread([run["general"] for run in read]),
                "control": spread([run["domain"] for run in control]),
                "net": spread(net),
                "cpu_seconds": spread([run["cpu_seconds"] for run in read]),
            }
        )
    return rows


def conclude(runs: list[Run]) -> tuple[str, list[dict[str, Any]]]:
    """裁断的一句，与每个模型的差（Muon 减 AdamW，占训练前的比例）和 p。"""
    tests: list[dict[str, Any]] = []
    said: list[str] = []
    for kind in dict.fromkeys(run["kind"] for run in runs):
        test: dict[str, Any] = {"kind": kind}
        words: list[str] = []
        for measure in WORDS:
            of: dict[str, dict[int, float]] = {name: {} for name in NAMES}
            for run in runs:
                if (run["kind"], run["corpus"]) == (kind, DOMAIN):
                    of[run["optimizer"]][run["seed"]] = run[measure]
            seeds = sorted(of["adamw"].keys() - {SEARCH_SEED})
            apart = [of["muon"][seed] - of["adamw"][seed] for seed in seeds]
            p = round(paired_p(apart), 4)
            test[measure] = {"difference": spread(apart), "p": p}
            words.append(verdict(measure, apart))
        tests.append(test)
        said.append(f"{kind}：Muon 比 AdamW，{'，'.join(words)}")
    return "；".join(said), tests


def written(runs: list[Run]) -> Run:
    """裁断、检验与各组的一行。"""
    said, tests = conclude(runs)
    return {"conclusion": said, "tests": tests, "compared": compared(runs)}


def main() -> None:
    """全部运行，写进 results/。"""
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--kinds", nargs="+", default=["bert", "bloom"])
    args = parser.parse_args()
    args.rates, args.corpora = START, (DOMAIN, CONTROL)
    if args.quick:
        # 只有一个学习率，选它的那一次就够了
        args.seeds, args.steps, args.kinds = [], 4, ["bert"]
        args.rates, args.corpora = (3e-4,), (DOMAIN,)
    elif len(args.seeds) != 3:
        parser.error("成对的 t 检验用三个种子")
    facts: Run = {"max_steps": args.steps, "kinds": args.kinds}
    if not args.quick:
        facts["untrained"] = {
            kind: bits_per_char(f"starter:{SETUPS[kind][0]}", settings_of(kind, args))
            for kind in args.kinds
        }
    run_all(
        NAME,
        "同样多的词元，各用最好的学习率：Muon 与 AdamW 谁学得多，谁忘得多",
        jobs(args, unfinished_study(NAME, facts)),
        facts,
        keys=("kind", "optimizer", "learning_rate", "corpus"),
        measures=("domain", "general", "cpu_seconds"),
        save=not args.quick,
    )
    if args.quick:
        return
    said = conclude_study(NAME, written)["conclusion"]
    print(said)


if __name__ == "__main__":
    main()
