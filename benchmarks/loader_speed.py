"""数据加载器自己有多快：每个训练目标，0、2、4 个备批的进程，每秒交出多少词元。

    python benchmarks/loader_speed.py
    python benchmarks/loader_speed.py span_corruption --tokens 200000

只读样本、破坏、补齐，不训练；`trained` 是起步模型（三百万参数）在一个线程上训练每秒用掉
的，供对照。词元是随机的：破坏的快慢与内容无关，只有句子的长短要像样，所以每二十个字有
一个句号。两种行：整行（一行一篇，破坏之后约是一行 512）与短句（一行一句，5 到 59 个词
元）；一批约 8,192 个词元。计墙上时间，几遍里取最快的一遍；进程数多过核数时，快不了的是
机器。
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

from recording import record

from companion.checkpoints.loading import (
    load_checkpoint,
    load_model_options,
    load_tokenizer,
)
from companion.objectives import OBJECTIVES, Objective

BLOCK = 512
TOKENS_PER_BATCH = 8192
TOKENS_PER_STEP = 2048
SENTENCE = 20
WORKERS = (0, 2, 4)
REPEATS = 3


def lengths_of(shape: str, tokens: int, capacity: int) -> list[int]:
    """各行正文的词元数，共约 `tokens` 个。"""
    if shape == "rows":
        return [capacity] * (tokens // capacity)
    return np.random.default_rng(0).integers(5, 60, tokens // 32).tolist()


def rows_of(goal: Objective, tokenizer: Any, lengths: list[int]) -> list[dict]:
    """随机的样本；要句对的目标，一行两篇。"""
    rng = np.random.default_rng(1)
    special = set(tokenizer.all_special_ids)
    plain = np.array(sorted(set(range(len(tokenizer))) - special))
    stop = tokenizer.convert_tokens_to_ids("。")
    empty = tokenizer("")["input_ids"]
    head, tail = empty[: len(empty) // 2], empty[len(empty) // 2 :]
    rows: list[dict] = []
    for number, length in enumerate(lengths):
        body = rng.choice(plain, length)
        body[rng.random(length) < 1 / SENTENCE] = stop
        parts = np.array_split(body, 2) if goal.pairs_required else [body]
        documents = [[*head, *part.tolist(), *tail] for part in parts]
        starts = np.cumsum([0, *map(len, documents)])[:-1]
        rows.append(
            {
                "input_ids": np.concatenate(documents),
                "document_starts": starts,
                "example_id": number,
            }
        )
    return rows


def tokens_per_second(collator: Any, rows: list[dict], workers: int) -> float:
    """几遍里最快的一遍；备批的进程先起好，不算在内。"""
    tokens = sum(len(row["input_ids"]) for row in rows)
    size = max(1, TOKENS_PER_BATCH * len(rows) // tokens)
    loader = DataLoader(
        rows,
        batch_size=size,
        collate_fn=collator,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    seconds: list[float] = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        for _ in loader:
            pass
        seconds.append(time.perf_counter() - began)
    return tokens / min(seconds[1:])


def trained_per_second(goal: Objective, collator: Any, rows: list[dict]) -> float:
    """起步模型在一个线程上向前、向后一遍，每秒用掉多少词元。"""
    model = load_checkpoint(goal.starter, goal).model.train()
    loss = goal.make_loss()
    some = rows[: max(1, TOKENS_PER_STEP // len(rows[0]["input_ids"]))]
    seconds: list[float] = []
    for _ in range(REPEATS):
        batch = collator(some)
        began = time.perf_counter()
        sum(part.losses.total_nats for part in loss(model, batch)).backward()
        seconds.append(time.perf_counter() - began)
    return sum(len(row["input_ids"]) for row in some) / min(seconds)


def measure(goal: Objective, tokens: int) -> dict[str, Any]:
    """一个目标：两种行、三种进程数，千词元每秒。"""
    tokenizer = load_tokenizer(goal.starter)
    options = load_model_options(goal.starter, goal)
    options.pop("max_length", None)  # 起步模型的位置只有 256
    collator = goal.make_collator(tokenizer, **options)
    edges = len(tokenizer("")["input_ids"])
    capacity = goal.row_capacity(collator, BLOCK, edges) - edges
    found: dict[str, Any] = {"objective": goal.key, "title": goal.title}
    for shape in ("lines", "rows"):
        rows = rows_of(goal, tokenizer, lengths_of(shape, tokens, capacity))
        found[shape] = {
            str(workers): tokens_per_second(collator, rows, workers) / 1000
            for workers in WORKERS
        }
    short = goal.row_capacity(collator, 128, edges) - edges
    rows = rows_of(goal, tokenizer, [short] * 64)
    found["trained"] = trained_per_second(goal, collator, rows) / 1000
    return found


def main() -> None:
    """逐个目标测，写进 results/loader_speed.json。"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("objectives", nargs="*", choices=[*OBJECTIVES, []])
    parser.add_argument("--tokens", type=int, default=400_000)
    arguments = parser.parse_args()
    summary: list[dict[str, Any]] = []
    for key in arguments.objectives or OBJECTIVES:
        summary.append(measure(OBJECTIVES[key], arguments.tokens))
        print(summary[-1], flush=True)
    if not arguments.objectives:
        claim = "数据加载器自己每秒交出多少词元，各训练目标"
        content = {
            "claim": claim,
            "tokens": arguments.tokens,
            "block_size": BLOCK,
            "summary": summary,
        }
        print(record("loader_speed", content))


if __name__ == "__main__":
    main()
