"""中间填补要不要拿从左到右的本事去换（“FIM for free”，Bavarian 等，2022，§4.1）。

    python experiments/fim_for_free.py
    python experiments/fim_for_free.py --quick

`starter:bloom` 在同样的《资治通鉴》白话上各读同样多的词元，一次照因果语言建模，一次照中
间填补（一半的片改写）。各评三样：

- 因果的评估集：从左到右的每字比特数，领域与通用。差多少，就是改写的代价。
- 中间填补的评估集：看得见两边时中段的每字比特数，与同样的字只看左边的。
- 动手写：留出集里取互不重叠的几处，前后各给 40 字，补中间 1–4 字；只练过因果的看不见右
  边，接着左边往下写。逐字比对，同位同字才算写中。

中间填补另练一次长的（一个种子）：右边有没有用，短的看不出来。
"""

from typing import Any

from runs import Run, parser_of, run_all, settings_of, train_and_examine
from three_readings import LONGEST_GAP, READING, hits, windows

OBJECTIVES = ("causal_lm", "fill_in_the_middle")
SCORES = ("causal", "general_causal", "middle", "left_only", "infilling_accuracy")


def examined(model: str, key: str, settings: Run, places: list[str]) -> Run:
    """三样成绩；没有记号的检查点，打开时添上。"""
    from companion.checkpoints.loading import load_checkpoint
    from companion.corpus.sources import read_corpus
    from companion.evaluation.scoring import evaluate

    def scores(objective: str, path: str) -> Any:
        return evaluate(
            load_checkpoint(model, objective),
            objective,
            list(read_corpus(path)),
            block_size=settings["block_size"],
            max_chars=settings["eval_max_chars"],
        ).scores

    filled = scores("fill_in_the_middle", settings["valid"])
    causal, general = (
        scores("causal_lm", settings[name]).bits_per_char
        for name in ("valid", "general")
    )
    return {
        "causal": round(causal, 4),
        "general_causal": round(general, 4),
        "middle": round(filled.bits_per_char, 4),
        "left_only": round(filled.left_only or 0.0, 4),
        "infilling_accuracy": accuracy(load_checkpoint(model, key), key, places),
    }


def accuracy(checkpoint: Any, key: str, places: list[str]) -> float:
    """补中间的 1–4 字，写中百分之几。"""
    from companion.inference import complete, infill

    right = asked = 0
    for number, text in enumerate(places):
        size = 1 + number % LONGEST_GAP
        left, gap = text[:READING], text[READING : READING + size]
        after = text[READING + size : 2 * READING + size]
        if key == "causal_lm":
            [written] = complete(checkpoint, left, size, objective=key)
            fill = written.new_text
        else:
            fill = infill(checkpoint, f"{left}[MASK]{after}", size, objective=key)
            fill = fill.fills[0]
        right, asked = right + hits(fill, gap), asked + size
    return round(right / asked, 4)


def run(settings: Run, places: list[str]) -> Run:
    """练一遍，评一遍。"""
    return train_and_examine(
        settings, lambda model: examined(model, settings["objective"], settings, places)
    )


def main() -> None:
    """两个目标、各个种子，另有一次长的，写进 results/；没有训练的也评一遍，作底。"""
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--windows", type=int, default=120, help="动手写几处")
    parser.add_argument("--long", type=int, default=1200, help="另练一次长的，几步")
    args = parser.parse_args()
    settings = settings_of("bloom", args)
    steps, long = (4, 8) if args.quick else (args.steps, args.long)
    places = windows(settings["valid"], 8 if args.quick else args.windows)
    seeds = args.seeds[:1] if args.quick else args.seeds
    asked = [(key, seed, steps) for seed in seeds for key in OBJECTIVES]
    jobs = [
        (
            {"objective": key, "seed": seed, "steps": number},
            lambda key=key, seed=seed, number=number: run(
                {**settings, "objective": key, "seed": seed, "max_steps": number},
                places,
            ),
        )
        for key, seed, number in [*asked, (OBJECTIVES[1], seeds[0], long)]
    ]
    run_all(
        "fim_for_free",
        "改写一半的文档去练中间填补，从左到右的本事少了多少，填得怎样",
        jobs,
        {
            "model": settings["model"],
            "steps": steps,
            "windows": len(places),
            "untrained": {
                key: examined(settings["model"], key, settings, places)
                for key in OBJECTIVES
            },
        },
        keys=("objective", "steps"),
        measures=("tokens_trained", *SCORES),
        save=not args.quick,
    )


if __name__ == "__main__":
    main()
