"""同一个模型、同样的文字，练成三样：因果、前缀、填空，各长于什么。

    python experiments/three_readings.py
    python experiments/three_readings.py --quick

模型是 `starter:glm`（GLM，两行位置），它三样都练得：先把同一段《资治通鉴》各读一遍，再
同考两门。一门是考卷：三个目标各出一份，每个模型三份都答。一门是动手写，在留出集里取互不重叠
的若干处，

- 续写：给前面 40 字，写后面 8 字；
- 填补：给前后各 40 字，补中间的 1–4 字。

每个模型照自己练的读法写：因果的从左到右，前缀的先双向读开头，填空的写末尾（或中间）的空。
填补时，前两种看不见右边，只能接着左边往下写。逐字比对，与原文同位同字才算写中。
"""

import random
import tempfile
from pathlib import Path
from typing import Any

from runs import bits_per_char, parser_of, run_all, settings_of, train_and_examine

OBJECTIVES = ("causal_lm", "prefix_lm", "blank_infilling")
READING = 40
"""续写与填补时，一边给多少字。"""
CONTINUATION, LONGEST_GAP = 8, 4


def first_chars(corpus: str, number: int, path: Path) -> None:
    """语料开头的若干篇文档，至少 `number` 个字，写进 `path`。"""
    from companion.corpus.reading import write_documents
    from companion.corpus.sources import read_corpus

    taken, size = [], 0
    for document in read_corpus(corpus):
        if size >= number:
            break
        taken.append(document)
        size += len(document.text)
    write_documents(taken, path)


def windows(valid: str, number: int) -> list[str]:
    """留出集里互不重叠的几处，每处左右各 40 字，中间最多 8 字；固定的种子。"""
    from companion.corpus.sources import read_corpus

    width = 2 * READING + CONTINUATION
    found = [
        text[at : at + width]
        for text in (document.text for document in read_corpus(valid))
        for at in range(0, len(text) - width + 1, width)
    ]
    return random.Random(0).sample(found, min(number, len(found)))


def hits(written: str, answer: str) -> int:
    """同位同字的字数。"""
    return sum(a == b for a, b in zip(written, answer, strict=False))


def written_accuracy(checkpoint: Any, objective: str, places: list[str]) -> Any:
    """照自己的读法续写与填补，各写中百分之几的字。"""
    from companion.inference import complete, infill

    right = {"continuation": 0, "infilling": 0}
    asked = {"continuation": 0, "infilling": 0}
    for number, text in enumerate(places):
        left, rest = text[:READING], text[READING:]
        answer = rest[:CONTINUATION]
        [after] = complete(checkpoint, left, CONTINUATION, objective=objective)
        right["continuation"] += hits(after.new_text, answer)
        asked["continuation"] += CONTINUATION
        size = 1 + number % LONGEST_GAP
        gap, right_side = rest[:size], rest[size : size + READING]
        if objective == "blank_infilling":
            text = f"{left}[MASK]{right_side}"
            fill = infill(checkpoint, text, LONGEST_GAP).fills[0]
        else:
            fill = after.new_text[:size]
        right["infilling"] += hits(fill, gap)
        asked["infilling"] += size
    return {f"{name}_accuracy": right[name] / asked[name] for name in right}


def examined(model: str, objective: str, settings: Any, places: list[str]) -> Any:
    """三份考卷的每字比特数，加上动手写的两项。"""
    from companion.checkpoints.loading import load_checkpoint

    papers = {
        key: bits_per_char(model, {**settings, "objective": key})["domain"]
        for key in OBJECTIVES
    }
    checkpoint = load_checkpoint(model, objective)
    return {**papers, **written_accuracy(checkpoint, objective, places)}


def run(settings: Any, places: list[str]) -> Any:
    """练一遍，考一遍。"""
    return train_and_examine(
        settings, lambda model: examined(model, settings["objective"], settings, places)
    )


def main() -> None:
    """三个目标、各个种子，写进 results/；没有训练的起步模型也考一遍，作底。"""
    parser = parser_of(__doc__)
    parser.add_argument("--chars", type=int, default=120_000, help="读多少字")
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--windows", type=int, default=200, help="动手写几处")
    args = parser.parse_args()
    settings = settings_of("glm", args) | {
        "tokens_per_batch": 1024,
        "learning_rate": args.learning_rate,
    }
    chars, number = (6_000, 12) if args.quick else (args.chars, args.windows)
    seeds = args.seeds[:1] if args.quick else args.seeds
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.jsonl"
        first_chars(settings["corpus"], chars, corpus)
        settings |= {"corpus": str(corpus), "num_train_epochs": 1}
        places = windows(settings["valid"], number)
        untrained = {
            key: examined(settings["model"], key, settings, places)
            for key in OBJECTIVES
        }
        jobs = [
            (
                {"objective": key, "seed": seed},
                lambda key=key, seed=seed: run(
                    {**settings, "objective": key, "seed": seed}, places
                ),
            )
            for seed in seeds
            for key in OBJECTIVES
        ]
        run_all(
            "three_readings",
            "同一个模型读同样的文字，练成因果、前缀、填空三样，各长于什么",
            jobs,
            {
                "model": settings["model"],
                "characters": chars,
                "windows": len(places),
                "untrained": untrained,
            },
            keys=("objective",),
            measures=(*OBJECTIVES, "continuation_accuracy", "infilling_accuracy"),
            save=not args.quick,
        )


if __name__ == "__main__":
    main()
