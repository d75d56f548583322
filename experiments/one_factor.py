"""从 2023 年的做法到我们的，一次只换一样，各用同样多的处理器时间，三个种子。

    python experiments/one_factor.py
    python experiments/one_factor.py --quick

2023 年的做法见 `benchmarks/recipe_2023.py`：一行一个样本，128 行一步，补到批内最长。依
次换上小步子、按长度分批、只在目标上算输出头、上下文跨行、打包，最后是 bf16。每一样先量
一步要多少处理器时间，再按同样的总时间定步数；学习率的曲线因此照常走完。

只比处理器时间，不比墙上时间：机器上另有任务时，后者一次与一次能差一倍。
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runs import Run, parser_of, run_all

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from recipe_2023 import LINES_PER_DOCUMENT, SETTINGS, read_chapters

OBJECTIVE, MODEL = "masked_lm", "starter:bert"
SMALL: Run = {
    "per_device_train_batch_size": 16,
    "learning_rate": 3e-4,
    "warmup_steps": 0.1,
}
"""小步子：一步的行数是原来的八分之一，学习率随之降低，并有预热。"""


@dataclass(frozen=True)
class Variant:
    """一种做法；次序就是换上的次序。"""

    trainer: dict[str, Any] | None = None
    """`transformers.TrainingArguments` 里要改的；None 表示用 `companion train`。"""
    lines: int = 1
    """几行合成一篇文档。"""
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    """`TrainingConfig` 里要改的。"""
    probe: tuple[int, int] = (1, 6)
    """量一步要多久：跑这么多步两次，相减。"""


LONG = LINES_PER_DOCUMENT
VARIANTS = {
    "recipe_2023": Variant(
        {"per_device_train_batch_size": 128, "learning_rate": 1e-3}, probe=(1, 3)
    ),
    "small_steps": Variant(SMALL),
    "padding": Variant({**SMALL, "train_sampling_strategy": "group_by_length"}),
    "targets_only": Variant(settings={"packing": False}),
    "context": Variant(lines=LONG, settings={"packing": False}),
    "packing": Variant(lines=LONG),
    "precision": Variant(lines=LONG, settings={"precision": "bf16"}, probe=(1, 2)),
}
QUICK = ("small_steps", "targets_only")

Chapters = list[list[str]]


def train_with_library(
    variant: Variant, chapters: Chapters, seed: int, steps: int
) -> tuple[Any, int]:
    """transformers 的 Trainer 与整理器；返回检查点与读进的字数。"""
    from transformers import (
        DataCollatorForLanguageModeling,
        Trainer,
        TrainingArguments,
        set_seed,
    )
    from transformers.trainer_callback import PrinterCallback

    from companion.checkpoints.loading import load_checkpoint

    checkpoint = load_checkpoint(MODEL, OBJECTIVE)
    tokenizer = checkpoint.tokenizer
    set_seed(seed)
    rows = [
        {"input_ids": tokenizer(line, truncation=True, max_length=256)["input_ids"]}
        for chapter in chapters
        for line in chapter
    ]
    arguments: dict[str, Any] = dict(variant.trainer or {})
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=checkpoint.model,
            args=TrainingArguments(
                output_dir=folder,
                max_steps=steps,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                dataloader_pin_memory=False,
                use_cpu=True,
                seed=seed,
                **arguments,
            ),
            train_dataset=rows,
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=True),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    size = sum(len(line) for chapter in chapters for line in chapter)
    lines = steps * arguments["per_device_train_batch_size"]
    return checkpoint, round(lines * size / len(rows))


def train_with_companion(
    variant: Variant, chapters: Chapters, seed: int, steps: int
) -> tuple[Any, int]:
    """`companion train`；返回检查点与读进的字数。"""
    from companion.checkpoints.loading import load_checkpoint
    from companion.config import TrainingConfig
    from companion.corpus.document import Document
    from companion.corpus.reading import write_documents
    from companion.training import train

    documents = [
        Document(
            text="".join(lines[at : at + variant.lines]),
            id=f"{number}-{at}",
            source="tongjian",
        )
        for number, lines in enumerate(chapters)
        for at in range(0, len(lines), variant.lines)
    ]
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.jsonl"
        write_documents(documents, corpus)
        settings: dict[str, Any] = {
            "objective": OBJECTIVE,
            "model": MODEL,
            "corpus": str(corpus),
            "valid": str(corpus),
            "output": str(Path(folder) / "run"),
            "seed": seed,
            "max_steps": steps,
            "eval": False,
            "save_steps": 100_000,
            "deduplicate": False,
            "learning_rate": SMALL["learning_rate"],
            "precision": "fp32",
            **SETTINGS,
            **variant.settings,
        }
        result = train(TrainingConfig(**settings), quiet=True)
        checkpoint = load_checkpoint(str(result.output / "model"), OBJECTIVE)
    special = 2 * result.metrics["tokens_trained"] / (2 + _mean_length(documents))
    return checkpoint, round(result.metrics["tokens_trained"] - special)


def _mean_length(documents: list[Any]) -> float:
    return sum(len(each.text) for each in documents) / len(documents)


def train_by(
    variant: Variant, chapters: Chapters, seed: int, steps: int
) -> tuple[Any, int, float]:
    """训练这么多步；返回检查点、字数与处理器时间（秒，含分词与打包）。"""
    work = train_with_library if variant.trainer else train_with_companion
    started = time.process_time()
    checkpoint, characters = work(variant, chapters, seed, steps)
    return checkpoint, characters, time.process_time() - started


def seconds_per_step(variant: Variant, chapters: Chapters) -> tuple[float, float]:
    """一步要多少处理器时间，开头的准备要多少。"""
    few, more = variant.probe
    first, second = (train_by(variant, chapters, 0, n)[2] for n in (few, more))
    step = max(1e-3, (second - first) / (more - few))
    return step, max(0.0, first - few * step)


def score(checkpoint: Any, held_out: Path, max_chars: int) -> dict[str, float]:
    """每字比特数：一行一篇地考，整卷一篇地考。"""
    from companion.corpus.document import Document
    from companion.corpus.sources import read_corpus
    from companion.evaluation.scoring import evaluate

    lines = held_out.read_text("utf-8").splitlines()
    exams = {
        "lines": [Document(text=t, id=str(n), source="v") for n, t in enumerate(lines)],
        "chapters": list(read_corpus(str(held_out))),
    }
    return {
        f"bits_by_{unit}": round(
            evaluate(
                checkpoint, OBJECTIVE, documents, block_size=128, max_chars=max_chars
            ).scores.bits_per_char,
            4,
        )
        for unit, documents in exams.items()
    }


def jobs(
    args: argparse.Namespace, chapters: Chapters, held_out: Path
) -> Iterator[tuple[Run, Callable[[], Run]]]:
    """种子在外层；一步要多久只量一次。"""
    costs: dict[str, tuple[float, float]] = {}
    for seed in args.seeds:
        for name in QUICK if args.quick else VARIANTS:
            variant = VARIANTS[name]

            def work(
                name: str = name, variant: Variant = variant, seed: int = seed
            ) -> Run:
                if name not in costs:
                    costs[name] = seconds_per_step(variant, chapters)
                step, setup = costs[name]
                steps = max(1, round((args.cpu_seconds - setup) / step))
                checkpoint, characters, taken = train_by(variant, chapters, seed, steps)
                return {
                    "steps": steps,
                    "cpu_seconds": round(taken, 1),
                    "cpu_seconds_per_step": round(step, 3),
                    "characters": characters,
                    "characters_per_cpu_second": round(characters / steps / step, 1),
                    **score(checkpoint, held_out, args.max_chars),
                }

            yield {"variant": name, "seed": seed}, work


def main() -> None:
    """每一样各三个种子，写进 results/。"""
    import torch

    from companion.checkpoints.loading import load_checkpoint

    parser = parser_of(__doc__)
    parser.add_argument("--cpu-seconds", type=float, default=15.0)
    parser.add_argument("--chars", type=int, default=80_000)
    parser.add_argument("--max-chars", type=int, default=8_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.quick:
        from importlib import resources

        samples = Path(str(resources.files("companion.corpus") / "samples"))
        held_out = samples / "valid.classical.txt"
        lines = (samples / "train.classical.txt").read_text("utf-8").splitlines()
        chapters = [[line for line in lines if line]]
        args.seeds, args.cpu_seconds, args.max_chars = [0], 0.5, 500
    else:
        held_out = args.data / "tongjian/valid.classical.txt"
        chapters = read_chapters(args.data, "classical", args.chars)
    run_all(
        "one_factor",
        "同样的处理器时间：每换上一样，读得更多或学得更好",
        jobs(args, chapters, held_out),
        {
            "model": MODEL,
            "objective": OBJECTIVE,
            "budget_cpu_seconds": args.cpu_seconds,
            "untrained": score(
                load_checkpoint(MODEL, OBJECTIVE), held_out, args.max_chars
            ),
        },
        keys=("variant",),
        measures=(
            "steps",
            "cpu_seconds",
            "characters_per_cpu_second",
            "bits_by_lines",
            "bits_by_chapters",
        ),
        save=not args.quick,
    )


if __name__ == "__main__":
    main()
