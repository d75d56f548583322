"""速度：我们的训练，与 2023 年博文里流行的做法，同一文本、同一模型、一遍，同一次运行。

    python benchmarks/recipe_2023.py masked
    python benchmarks/recipe_2023.py causal

2023 年的做法：一行一个样本，补到批内最长，批量 128（掩码）或 32 × 8 累积（因果），库的
整理器，Trainer 的缺省设置。只有学习率换成与我们相同，因为质量也要比：一遍之后，在同一份
留出集上比每字比特数。

速度按“每秒读进多少个字”计，两边读的是同一批字；评估的时间不算。
"""

import argparse
import gzip
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
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

from companion.config import TrainingConfig
from companion.corpus.document import Document
from companion.corpus.reading import read_documents
from companion.corpus.writing import write_documents
from companion.evaluation.scoring import evaluate
from companion.models.loading import load_checkpoint
from companion.training import train

SETUPS = {
    "masked": ("masked_lm", "bert", "classical", 128, 1),
    "causal": ("causal_lm", "bloom", "modern", 32, 8),
}
LEARNING_RATE = 1e-3


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


def recipe(kind: str, chapters: list[list[str]], seed: int) -> tuple[Any, float]:
    """2023 年的做法；返回训练好的检查点与秒数（含分词）。"""
    objective, starter, _, batch, accumulation = SETUPS[kind]
    checkpoint = load_checkpoint(f"starter:{starter}", objective)
    tokenizer = checkpoint.tokenizer
    set_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
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
                learning_rate=LEARNING_RATE,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                dataloader_pin_memory=False,
                use_cpu=True,
            ),
            train_dataset=rows,
            data_collator=DataCollatorForLanguageModeling(
                tokenizer, mlm=kind == "masked"
            ),
        ).train()
        seconds = time.perf_counter() - began
    return checkpoint, seconds


def ours(kind: str, chapters: list[list[str]], seed: int) -> tuple[Any, float]:
    """我们的做法：一卷一个文档，切成整行，只在目标上算输出头。秒数含分词与打包。"""
    objective, starter, _, _, _ = SETUPS[kind]
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.jsonl"
        documents = [
            Document(text="".join(lines), id=str(n), source="tongjian")
            for n, lines in enumerate(chapters)
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
            block_size=128,
            tokens_per_batch=1024,
            learning_rate=LEARNING_RATE,
            eval=False,
            save_steps=100_000,
            deduplicate=False,
        )
        began = time.perf_counter()
        result = train(config, quiet=True)
        seconds = time.perf_counter() - began
        checkpoint = load_checkpoint(str(result.output / "model"), objective)
    return checkpoint, seconds


def main() -> None:
    """同一次运行里交替计时，写进 results/。"""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=SETUPS)
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("COMPANION_DATA"), help="语料文件夹"
    )
    parser.add_argument("--chars", type=int, default=60_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    objective, _, side, _, _ = SETUPS[args.kind]
    chapters = read_chapters(args.data, side, args.chars)
    characters = sum(len(line) for chapter in chapters for line in chapter)
    held_out = args.data / f"tongjian/valid.{side}.txt"
    valid = {
        # 一行一个文档，正是 2023 年做法训练时的样子；一卷一个文档，是我们训练时的样子
        "lines": [
            Document(text=line, id=str(n), source="valid")
            for n, line in enumerate(held_out.read_text("utf-8").splitlines())
        ],
        "chapters": list(read_documents(held_out)),
    }
    runs: list[dict[str, Any]] = []
    for seed in args.seeds:
        for name, method in (("recipe_2023", recipe), ("companion", ours)):
            checkpoint, seconds = method(args.kind, chapters, seed)
            bits = {
                unit: round(
                    evaluate(
                        checkpoint, objective, documents, max_chars=15_000
                    ).scores.bits_per_char,
                    4,
                )
                for unit, documents in valid.items()
            }
            runs.append(
                {
                    "method": name,
                    "seed": seed,
                    "seconds": round(seconds, 2),
                    "characters_per_second": round(characters / seconds, 1),
                    "bits_per_char": bits,
                }
            )
            print(json.dumps(runs[-1]), file=sys.stderr, flush=True)

    def mean(name: str, pick: Callable[[dict[str, Any]], float]) -> float:
        values = [pick(run) for run in runs if run["method"] == name]
        return sum(values) / len(values)

    names = ("recipe_2023", "companion")
    seconds = {name: mean(name, lambda run: run["seconds"]) for name in names}
    ratio = seconds["recipe_2023"] / seconds["companion"]
    quality = {
        name: {
            unit: round(
                mean(name, lambda run, unit=unit: run["bits_per_char"][unit]), 4
            )
            for unit in valid
        }
        for name in names
    }
    path = record(
        f"recipe_2023_{args.kind}",
        {
            "claim": "同一文本一遍，我们每秒读的字数是 2023 年做法的几倍，质量不差",
            "characters": characters,
            "speed_ratio": round(ratio, 2),
            "bits_per_char": quality,
            "threads": torch.get_num_threads(),
            "runs": runs,
        },
    )
    print(path, f"{ratio:.2f}")


if __name__ == "__main__":
    main()
