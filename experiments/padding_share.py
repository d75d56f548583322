"""填充占几成：同样的文本，四种凑批的办法。

    python experiments/padding_share.py
    python experiments/padding_share.py --quick    # 随包的小史书，只打印

只数长度，不训练。文本是《资治通鉴》训练集开头的若干卷，一行一篇；词元由起步模型的分词器切。
"""

import argparse
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from recording import record
from runs import parser_of

SPECIAL = 2
"""[CLS] 与 [SEP]。"""
ROWS = 128
"""2023 年的做法：一批 128 行。"""


def batches_of(
    lengths: NDArray[np.int64], block_size: int, budget: int
) -> dict[str, list[NDArray[np.int64]]]:
    """办法 → 各批，每批是行长的数组。"""
    from companion.corpus.packing import plan_packing
    from companion.training.batching import bucket_by_length

    rng = np.random.default_rng(0)
    rows = np.minimum(lengths + SPECIAL, block_size)
    shuffled = rng.permutation(rows)
    at_random = [shuffled[i : i + ROWS] for i in range(0, len(rows), ROWS)]
    plan = plan_packing(lengths, block_size, overhead_per_piece=SPECIAL)
    packed = np.array(
        [sum(piece.stop - piece.start + SPECIAL for piece in row) for row in plan]
    )
    return {
        "max_length": at_random,
        "longest": at_random,
        "bucketed": [rows[p] for p in bucket_by_length(rows, budget, rng)],
        "packed": [packed[p] for p in bucket_by_length(packed, budget, rng)],
    }


def padding_share(batches: list[NDArray[np.int64]], width: int | None) -> float:
    """填充占全部位置的几成；`width` 给定时每行都补到这么长。"""
    grid = sum(len(batch) * (width or int(batch.max())) for batch in batches)
    return 1 - sum(int(batch.sum()) for batch in batches) / grid


def read_lines(args: argparse.Namespace) -> list[str]:
    """一句一行：《资治通鉴》的若干卷，或小史书。"""
    if args.quick:
        from companion.corpus import read_corpus

        chapters = [each.text for each in read_corpus("sample:classical")]
        return [line for text in chapters for line in text.split("。") if line]
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    from recipe_2023 import read_chapters

    chapters = read_chapters(args.data, "classical", args.chars)
    return [line for chapter in chapters for line in chapter]


def main() -> None:
    """四种办法，写进 results/。"""
    from companion.checkpoints.loading import load_tokenizer

    parser = parser_of(__doc__)
    parser.add_argument("--chars", type=int, default=200_000)
    parser.add_argument("--block-size", type=int, default=128)
    parser.add_argument("--tokens-per-batch", type=int, default=2048)
    args = parser.parse_args()
    tokenizer = load_tokenizer("starter:bert")
    lines = read_lines(args)
    encoded = tokenizer(lines, add_special_tokens=False)["input_ids"]
    lengths = np.array([len(ids) for ids in encoded], np.int64)
    rows: list[dict[str, Any]] = []
    every = batches_of(lengths, args.block_size, args.tokens_per_batch)
    for name, batches in every.items():
        width = args.block_size if name == "max_length" else None
        rows.append(
            {
                "batching": name,
                "rows": int(sum(len(batch) for batch in batches)),
                "padding": round(padding_share(batches, width), 4),
            }
        )
    if args.quick:
        print(json.dumps(rows))
        return
    path = record(
        "padding_share",
        {
            "claim": "补到固定的长度，大半是填充；按长度分桶与打包都只剩零头",
            "lines": len(lines),
            "mean_tokens": round(float(lengths.mean()), 1),
            "longest_tokens": int(lengths.max()),
            "block_size": args.block_size,
            "tokens_per_batch": args.tokens_per_batch,
            "summary": rows,
        },
    )
    print(path, rows)


if __name__ == "__main__":
    main()
