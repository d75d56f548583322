"""背下来多少：给训练文字的开头，贪心地接着写，写出的与原文逐字相同的有几处。

    python experiments/extraction.py
    python experiments/extraction.py --quick

`starter:bloom` 读随包的《四境纪》白话开头几千字，一遍到十六遍；对照组读别处的文字，同样
多、同样遍数。在读过的与没读过的（留出集）文字里，各取互不重叠的若干处，给 30 字，看后面
10 字。
"""

import tempfile
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from runs import bits_per_char, parser_of, quick_settings, run_all, train_and_examine
from three_readings import first_chars, hits

PREFIX, ANSWER = 30, 10
EPOCHS = (1, 2, 4, 8, 16)
CONTROL_EPOCHS = 16

Places = dict[str, list[tuple[str, str]]]


def places_in(corpus: str, number: int) -> list[tuple[str, str]]:
    """语料里互不重叠的若干处，均匀地取：（开头 30 字，后面 10 字）。"""
    from companion.corpus.sources import read_corpus

    width = PREFIX + ANSWER
    found = [
        text[at : at + width]
        for text in (document.text for document in read_corpus(corpus))
        for at in range(0, len(text) - width + 1, width)
    ]
    chosen = found[:: max(1, len(found) // number)][:number]
    return [(text[:PREFIX], text[PREFIX:]) for text in chosen]


def extracted(model: str, places: Places, settings: Any) -> Any:
    """读过的与没读过的：全对的处数比例、同位同字的比例；留出集的每字比特数。"""
    from companion.checkpoints.loading import load_checkpoint
    from companion.inference import complete

    checkpoint = load_checkpoint(model, "causal_lm")
    found: dict[str, float] = {"bits": bits_per_char(model, settings)["domain"]}
    for name, asked in places.items():
        right = [
            # 一个字至多三个词元，多数一个：要两倍的词元，写够十个字
            hits(complete(checkpoint, start, 2 * ANSWER)[0].new_text, answer)
            for start, answer in asked
        ]
        found[f"{name}_whole"] = sum(n == ANSWER for n in right) / len(right)
        found[f"{name}_same"] = sum(right) / len(right) / ANSWER
    return found


def main() -> None:
    """没有训练的、读几遍的、对照组，写进 results/。"""
    parser = parser_of(__doc__)
    parser.add_argument("--chars", type=int, default=3_000, help="读多少字")
    parser.add_argument("--places", type=int, default=40, help="每份文字问几处")
    args = parser.parse_args()
    chars, number = (600, 6) if args.quick else (args.chars, args.places)
    epochs, seeds = ((16,), args.seeds[:1]) if args.quick else (EPOCHS, args.seeds)
    general = str(resources.files("companion.corpus") / "samples/general.train.txt")
    settings = quick_settings("bloom") | {
        "tokens_per_batch": 256,
        "warmup_steps": 0.1,
        "precision": "fp32",
        "eval_max_chars": 1_000 if args.quick else 4_000,
    }
    with tempfile.TemporaryDirectory() as folder:
        corpora: dict[str, str] = {}
        for name, source in (("read", settings["corpus"]), ("control", general)):
            corpora[name] = str(Path(folder) / f"{name}.jsonl")
            first_chars(source, chars, Path(corpora[name]))
        places = {
            "read": places_in(corpora["read"], number),
            "unread": places_in(settings["valid"], number),
        }
        examine = partial(extracted, places=places, settings=settings)
        grid = [("read", count) for count in epochs]
        if not args.quick:
            grid.append(("control", CONTROL_EPOCHS))
        jobs = [
            (
                {"corpus": corpus, "epochs": count, "seed": seed},
                partial(
                    train_and_examine,
                    settings
                    | {
                        "corpus": corpora[corpus],
                        "num_train_epochs": count,
                        "seed": seed,
                    },
                    examine,
                ),
            )
            for seed in seeds
            for corpus, count in grid
        ]
        run_all(
            "extraction",
            "给训练文字的 30 字，贪心写出的 10 字与原文逐字相同的比例，随遍数怎样变",
            jobs,
            {
                "model": settings["model"],
                "characters": chars,
                "prefix": PREFIX,
                "answer": ANSWER,
                "places": {name: len(asked) for name, asked in places.items()},
                "untrained": examine(settings["model"]),
            },
            keys=("corpus", "epochs"),
            measures=("bits", "read_whole", "read_same", "unread_whole", "unread_same"),
            save=not args.quick,
        )


if __name__ == "__main__":
    main()
