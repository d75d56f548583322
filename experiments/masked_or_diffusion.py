"""同一个 BERT，同样多的词元：练成掩码语言模型，还是掩码扩散。

    python experiments/masked_or_diffusion.py
    python experiments/masked_or_diffusion.py --quick

`starter:bert` 各读同样多的《资治通鉴》文言。各评三样：

- 掩码的评估集：遮一成半时的每字比特数，领域与通用。
- 扩散的评估集：似然上界的每字比特数与标准误，领域与通用。
- 动手写：留出集里取互不重叠的几处，前后各给 40 字，中间 8 字全遮，一步步揭开；一步留
  1、2、4、8 个各写一遍，逐字比对，同位同字才算写中。一步留 8 个就是各空独立地猜。
"""

from typing import Any

from runs import Run, parser_of, run_all, settings_of, train_and_examine
from three_readings import CONTINUATION, READING, hits, windows

OBJECTIVES = ("masked_lm", "masked_diffusion")
TOKENS_PER_STEP = (1, 2, 4, 8)
SCORES = ("masked", "general_masked", "bound", "general_bound", "bound_error")


def examined(model: str, settings: Run, places: list[str]) -> Run:
    """三样成绩。"""
    from companion.checkpoints.loading import load_checkpoint
    from companion.corpus.sources import read_corpus
    from companion.evaluation.scoring import evaluate

    checkpoint = load_checkpoint(model, "masked_diffusion")

    def scores(objective: str, name: str) -> Any:
        return evaluate(
            checkpoint,
            objective,
            list(read_corpus(settings[name])),
            block_size=settings["block_size"],
            max_chars=settings["eval_max_chars"],
        ).scores

    bound = scores("masked_diffusion", "valid")
    found = {
        "masked": scores("masked_lm", "valid").bits_per_char,
        "general_masked": scores("masked_lm", "general").bits_per_char,
        "bound": bound.bits_per_char,
        "general_bound": scores("masked_diffusion", "general").bits_per_char,
        "bound_error": bound.standard_error or 0.0,
    }
    written = {f"written_{n}": accuracy(checkpoint, places, n) for n in TOKENS_PER_STEP}
    return {name: round(value, 4) for name, value in {**found, **written}.items()}


def accuracy(checkpoint: Any, places: list[str], tokens_per_step: int) -> float:
    """中间 8 字揭开，一步留这么多个，写中百分之几。"""
    from companion.checkpoints.running import special_edges
    from companion.corpus.tokenization import text_ids
    from companion.inference.decoding import Decoding
    from companion.inference.unmasking import unmask
    from companion.objectives import get_objective

    tokenizer, right = checkpoint.tokenizer, 0
    goal, edges = get_objective("masked_diffusion"), special_edges(checkpoint.tokenizer)
    for text in places:
        before, rest = text[:READING], text[READING:]
        gap, after = rest[:CONTINUATION], rest[CONTINUATION:]
        ids = [
            *edges.prefix,
            *text_ids(before, tokenizer),
            *[tokenizer.mask_token_id] * CONTINUATION,
            *text_ids(after, tokenizer),
            *edges.suffix,
        ]
        [found] = unmask(
            checkpoint, goal, ids, Decoding(), tokens_per_step=tokens_per_step
        )
        right += hits("".join(tokenizer.convert_ids_to_tokens(found)), gap)
    return right / (CONTINUATION * len(places))


def run(settings: Run, places: list[str]) -> Run:
    """练一遍，评一遍。"""
    return train_and_examine(settings, lambda model: examined(model, settings, places))


def main() -> None:
    """两个目标、各个种子，写进 results/；没有训练的也评一遍，作底。"""
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--windows", type=int, default=100, help="动手写几处")
    args = parser.parse_args()
    settings = settings_of("bert", args)
    settings |= {"max_steps": 4 if args.quick else args.steps}
    places = windows(settings["valid"], 8 if args.quick else args.windows)
    jobs = [
        (
            {"objective": key, "seed": seed},
            lambda key=key, seed=seed: run(
                {**settings, "objective": key, "seed": seed}, places
            ),
        )
        for seed in (args.seeds[:1] if args.quick else args.seeds)
        for key in OBJECTIVES
    ]
    run_all(
        "masked_or_diffusion",
        "同一个 BERT 读同样多的词元，练成掩码语言模型或掩码扩散，各长于什么",
        jobs,
        {
            "model": settings["model"],
            "steps": settings["max_steps"],
            "windows": len(places),
            "untrained": examined(settings["model"], settings, places),
        },
        keys=("objective",),
        measures=(
            "tokens_trained",
            *SCORES,
            *(f"written_{n}" for n in TOKENS_PER_STEP),
        ),
        save=not args.quick,
    )


if __name__ == "__main__":
    main()
