"""掩码的四种粒度，同样多的词元：逐词元、整词、词组、片段，各三个种子。

    python experiments/mask_granularity.py --steps 300

都从 starter:bert 起，读《资治通鉴》文言，考同一份卷子：留出集里冻结的 15% 词元，逐个换
成 [MASK]。卷子与逐词元的练法最像，所以量到的是“换了练法，逐词元的题还答得多好”，不是哪
一种粒度练出的模型更好用。整词、词组、片段遮住的题更难，训练损失之间不可比。

一次跑完一种就写一次 results/，中途断了，已有的还在。
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from continue_tongjian import run
from recording import record, spread

GRANULARITIES = ("token", "whole_word", "ngram", "span")


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """各粒度：前后相对变化、之后的每字比特数与准确率，跨种子。"""
    found: dict[str, Any] = {}
    for granularity in GRANULARITIES:
        own = [each for each in runs if each["granularity"] == granularity]
        for where in ("domain", "general") if own else ():
            before = [each["before"][where] for each in own]
            after = [each["after"][where] for each in own]
            found[f"{granularity}_{where}"] = {
                "relative_change_of_bits_per_char": spread(
                    [
                        b["bits_per_char"] / a["bits_per_char"] - 1
                        for a, b in zip(before, after, strict=True)
                    ]
                ),
                "bits_per_char": spread([each["bits_per_char"] for each in after]),
                "accuracy": spread([each["accuracy"] for each in after]),
            }
    return found


def paired(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """每种粒度减去逐词元，同一个种子相减，领域留出集的每字比特数。"""
    scores = {
        (each["granularity"], each["seed"]): each["after"]["domain"]["bits_per_char"]
        for each in runs
    }
    seeds = sorted({seed for _, seed in scores})
    return {
        granularity: spread(differences)
        for granularity in GRANULARITIES[1:]
        if (
            differences := [
                scores[granularity, seed] - scores["token", seed]
                for seed in seeds
                if {(granularity, seed), ("token", seed)} <= scores.keys()
            ]
        )
    }


def main() -> None:
    """一个种子一个种子地跑，四种粒度轮着来。"""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("COMPANION_DATA"), help="语料文件夹"
    )
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--keep", type=Path, help="各次运行留在这个文件夹里")
    args = parser.parse_args()
    corpus = args.data / "tongjian/train.classical.txt.gz"
    runs: list[dict[str, Any]] = []
    for seed in args.seeds:
        for granularity in GRANULARITIES:
            metrics = run(
                "bert", granularity, corpus, seed, args, f"granularity={granularity}"
            )
            runs.append({"granularity": granularity, **metrics, "output": None})
            path = record(
                "mask_granularity",
                {
                    "claim": "同样多的词元，四种掩码粒度在冻结的逐词元考题上相差多少",
                    "scores": summarise(runs),
                    "bits_per_char_minus_token": paired(runs),
                    "runs": runs,
                },
            )
    print(path, json.dumps(summarise(runs), ensure_ascii=False, indent=2))


if __name__ == "__main__":
    main()
