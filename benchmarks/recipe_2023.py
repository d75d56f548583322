"""速度：我们的训练，与 2023 年博文里流行的做法，同一文本、同一模型、一遍，同一次运行。

    python benchmarks/recipe_2023.py masked
    python benchmarks/recipe_2023.py causal

2023 年的做法：一行一个样本，补到批内最长，批量 128（掩码）或 32 × 8 累积（因果），库的
整理器，Trainer 的缺省设置。只有学习率没有用 Trainer 的 5e-5，而是放大 20 倍：几步之内，
原来的几乎学不到东西。质量也要比：一遍之后，在同一份留出集上比每字比特数，逐行考与整卷考
都要不差。`--recipe-learning-rate` 可以替它换一个学习率，看结论是否由它而来。

速度按“每秒读进多少个字”计，两边读的是同一批字；评估的时间不算。墙上时间之外也记处理器时
间：机器上另有任务时，后者稳得多。

我们的精度由设备决定（`precision=auto`），Trainer 的缺省是 float32；`companion_fp32` 把
精度换回 float32，看快的几倍里有多少是精度的功劳。
"""

import argparse
import gzip
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
    set_seed,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

from recording import record

from companion.checkpoints.loading import load_checkpoint
from companion.config import Precision, TrainingConfig
from companion.corpus.document import Document
from companion.corpus.reading import read_documents, write_documents
from companion.evaluation.scoring import evaluate
from companion.preflight.device import best_device
from companion.training import train

SETUPS = {
    "masked": ("masked_lm", "bert", "classical", 128, 1),
    "causal": ("causal_lm", "bloom", "modern", 32, 8),
}
RECIPE_LEARNING_RATE = 1e-3
LEARNING_RATES = {"masked": 3e-4, "causal": 2e-4}
"""我们的学习率峰值：步子小而步数多，取得比一步几千词元时低。"""
SETTINGS: dict[str, Any] = {
    "block_size": 128,
    "tokens_per_batch": 2048,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.1,
}
"""我们的其余设置；与 2023 年做法一样线性降到 0。"""
LINES_PER_DOCUMENT = 2
"""我们把几行合成一篇文档：只有单行，学不到行与行之间；整卷，学不到一行从何说起。"""


@dataclass(frozen=True)
class Stopwatch:
    """一段训练用的时间，秒。"""

    wall: float
    cpu: float
    """本进程用去的处理器时间。"""

    @classmethod
    def start(cls) -> "Stopwatch":
        return cls(time.perf_counter(), time.process_time())

    def stop(self) -> "Stopwatch":
        return Stopwatch(
            time.perf_counter() - self.wall, time.process_time() - self.cpu
        )


def read_chapters(data: Path, side: str, num_chars: int) -> list[list[str]]:
    """《资治通鉴》训练集开头的若干卷，每卷是行的列表。"""
    compressed = (data / f"tongjian/train.{side}.txt.gz").read_bytes()
    lines = gzip.decompress(compressed).decode("utf-8").splitlines()
    rows = (data / "tongjian/chapters.tsv").read_text("utf-8").splitlines()[1:]
    chapters: list[list[str]] = []
    size = 0
    for row in rows:
        split, *_, first, count = row.split("\t")
        if split != "train" or size >= num_chars:
            continue
        part = lines[int(first) - 1 : int(first) - 1 + int(count)]
        chapters.append(part)
        size += sum(map(len, part))
    return chapters


def recipe(
    kind: str,
    chapters: list[list[str]],
    seed: int,
    learning_rate: float = RECIPE_LEARNING_RATE,
) -> tuple[Any, Stopwatch]:
    """2023 年的做法；返回训练好的检查点与用时（含分词）。"""
    objective, starter, _, batch, accumulation = SETUPS[kind]
    checkpoint = load_checkpoint(f"starter:{starter}", objective)
    tokenizer = checkpoint.tokenizer
    set_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        watch = Stopwatch.start()
        rows = [
            {"input_ids": tokenizer(line, truncation=True, max_length=256)["input_ids"]}
            for chapter in chapters
            for line in chapter
        ]
        Trainer(
            model=checkpoint.model,
            args=TrainingArguments(
                output_dir=folder,
                num_train_epochs=1,
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=accumulation,
                learning_rate=learning_rate,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                dataloader_pin_memory=False,
                use_cpu=True,
                seed=seed,
            ),
            train_dataset=rows,
            data_collator=DataCollatorForLanguageModeling(
                tokenizer, mlm=kind == "masked"
            ),
        ).train()
        taken = watch.stop()
    return checkpoint, taken


def ours(
    kind: str, chapters: list[list[str]], seed: int, precision: Precision = "auto"
) -> tuple[Any, Stopwatch]:
    """我们的做法：打包或按长度分桶，只在目标上算输出头。用时含分词、打包与写记录。"""
    objective, starter, _, _, _ = SETUPS[kind]
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.jsonl"
        documents = [
            Document(
                text="".join(lines[at : at + LINES_PER_DOCUMENT]),
                id=f"{n}-{at}",
                source="tongjian",
            )
            for n, lines in enumerate(chapters)
            for at in range(0, len(lines), LINES_PER_DOCUMENT)
        ]
        write_documents(documents, corpus)
        config = TrainingConfig(
            objective=objective,
            model=f"starter:{starter}",
            corpus=str(corpus),
            valid=str(corpus),
            output=str(Path(folder) / "run"),
            seed=seed,
            num_train_epochs=1,
            eval=False,
            save_steps=100_000,
            deduplicate=False,
            learning_rate=LEARNING_RATES[kind],
            precision=precision,
            **SETTINGS,
        )
        watch = Stopwatch.start()
        result = train(config, quiet=True)
        taken = watch.stop()
        checkpoint = load_checkpoint(str(result.output / "model"), objective)
    return checkpoint, taken


def main() -> None:
    """同一次运行里交替计时，写进 results/。"""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=SETUPS)
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("COMPANION_DATA"), help="语料文件夹"
    )
    parser.add_argument("--chars", type=int, default=60_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--recipe-learning-rate", type=float, default=RECIPE_LEARNING_RATE
    )
    args = parser.parse_args()
    objective, starter, side, batch, accumulation = SETUPS[args.kind]
    chapters = read_chapters(args.data, side, args.chars)
    characters = sum(len(line) for chapter in chapters for line in chapter)
    held_out = args.data / f"tongjian/valid.{side}.txt"
    valid = {
        # 一行一篇，正是 2023 年做法训练时的样子；整卷一篇，是文本本来的样子
        "lines": [
            Document(text=line, id=str(n), source="valid")
            for n, line in enumerate(held_out.read_text("utf-8").splitlines())
        ],
        "chapters": list(read_documents(held_out)),
    }

    def score(checkpoint: Any) -> dict[str, float]:
        return {
            unit: round(
                evaluate(
                    checkpoint, objective, documents, max_chars=15_000
                ).scores.bits_per_char,
                4,
            )
            for unit, documents in valid.items()
        }

    methods: dict[str, Callable[[int], tuple[Any, Stopwatch]]] = {
        "recipe_2023": lambda seed: recipe(
            args.kind, chapters, seed, args.recipe_learning_rate
        ),
        "companion": lambda seed: ours(args.kind, chapters, seed),
        "companion_fp32": lambda seed: ours(args.kind, chapters, seed, "fp32"),
    }
    untrained = score(load_checkpoint(f"starter:{starter}", objective))
    runs: list[dict[str, Any]] = []
    for seed in args.seeds:
        for name, method in methods.items():
            checkpoint, taken = method(seed)
            runs.append(
                {
                    "method": name,
                    "seed": seed,
                    "seconds": round(taken.wall, 2),
                    "cpu_seconds": round(taken.cpu, 2),
                    "characters_per_second": round(characters / taken.wall, 1),
                    "bits_per_char": score(checkpoint),
                }
            )
            print(json.dumps(runs[-1]), file=sys.stderr, flush=True)

    def mean(name: str, pick: Callable[[dict[str, Any]], float]) -> float:
        values = [pick(run) for run in runs if run["method"] == name]
        return sum(values) / len(values)

    def ratio(clock: str, name: str = "companion") -> float:
        slow, fast = (mean(n, lambda run: run[clock]) for n in ("recipe_2023", name))
        return round(slow / fast, 2)

    path = record(
        f"recipe_2023_{args.kind}",
        {
            "claim": "同一文本一遍，我们每秒读的字数是 2023 年做法的几倍，质量不差",
            "characters": characters,
            "speed_ratio": ratio("seconds"),
            "cpu_speed_ratio": ratio("cpu_seconds"),
            "cpu_speed_ratio_fp32": ratio("cpu_seconds", "companion_fp32"),
            "bits_per_char": {
                "untrained": untrained,
                **{
                    name: {
                        unit: round(
                            mean(name, lambda r, u=unit: r["bits_per_char"][u]), 4
                        )
                        for unit in valid
                    }
                    for name in methods
                },
            },
            "settings": {
                "recipe_2023": {
                    "per_device_train_batch_size": batch,
                    "gradient_accumulation_steps": accumulation,
                    "learning_rate": args.recipe_learning_rate,
                },
                "companion": {
                    **SETTINGS,
                    "learning_rate": LEARNING_RATES[args.kind],
                    "lines_per_document": LINES_PER_DOCUMENT,
                    "precision": best_device().precision,
                },
            },
            "threads": torch.get_num_threads(),
            "runs": runs,
        },
    )
    print(path, ratio("seconds"), ratio("cpu_seconds"))


if __name__ == "__main__":
    main()
