"""掩码的四种粒度，同样多的词元：逐词元、整词、词组、片段，各三个种子。

    python experiments/mask_granularity.py --steps 80

都从 starter:bert 起，读《资治通鉴》文言，考同一份卷子：留出集里冻结的 15% 词元，逐个换
成 [MASK]。卷子与逐词元的练法最像，所以量到的是“换了练法，逐词元的题还答得多好”，不是哪
一种粒度练出的模型更好用。整词、词组、片段遮住的题更难，训练损失之间不可比。

一次跑完一种就写一次 results/，中途断了，已有的还在。
"""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from in_process import continue_once
from recording import record, spread

from companion.config import TrainingConfig
from companion.evaluation.comparison import prepare_exam
from companion.evaluation.scoring import score_targets
from companion.models import load_checkpoint
from companion.training.data import read_corpora

GRANULARITIES = ("token", "whole_word", "ngram", "span")


def summarise(runs: list[dict[str, Any]], before: dict[str, Any]) -> dict[str, Any]:
    """各粒度：前后相对变化、之后的每字比特数与准确率，跨种子。"""
    found: dict[str, Any] = {}
    for granularity in GRANULARITIES:
        own = [each for each in runs if each["granularity"] == granularity]
        for where in ("domain", "general") if own else ():
            first = before[where]["bits_per_char"]
            after = [each["after"][where] for each in own]
            found[f"{granularity}_{where}"] = {
                "relative_change_of_bits_per_char": spread(
                    [each["bits_per_char"] / first - 1 for each in after]
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
    """一个种子一个种子地跑，四种粒度轮着来；训练前只考一次。"""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("COMPANION_DATA"), help="语料文件夹"
    )
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--eval-chars", type=int, default=15_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    config = TrainingConfig(
        objective="masked_lm",
        model="starter:bert",
        corpus=str(args.data / "tongjian/train.classical.txt.gz"),
        valid=str(args.data / "tongjian/valid.classical.txt"),
        general=str(args.data / "general/valid.txt"),
        output="不用",
        block_size=128,
        tokens_per_batch=args.tokens,
        learning_rate=args.learning_rate,
        max_steps=args.steps,
        save_steps=100_000,
    )
    corpora = read_corpora(config)
    starter = load_checkpoint(config.model, config.objective)
    exam = prepare_exam(
        starter,
        config.objective,
        corpora.valid,
        corpora.general,
        block_size=128,
        max_chars=args.eval_chars,
    )

    def sit(checkpoint: Any) -> dict[str, Any]:
        targets = {"domain": exam.domain, "general": exam.general}
        return {
            where: score_targets(checkpoint.model, part).scores.as_dict()
            for where, part in targets.items()
            if part is not None
        }

    before = sit(starter)
    runs: list[dict[str, Any]] = []
    for seed in args.seeds:
        for granularity in GRANULARITIES:
            settings = replace(config, seed=seed, granularity=granularity)
            trained, facts = continue_once(settings, corpora)
            after = sit(trained)
            runs.append({"granularity": granularity, **facts, "after": after})
            path = record(
                "mask_granularity",
                {
                    "claim": "同样多的词元，四种掩码粒度在冻结的逐词元考题上相差多少",
                    "settings": config.as_dict()
                    | {name: None for name in ("corpus", "valid", "general", "output")},
                    "before": before,
                    "scores": summarise(runs, before),
                    "bits_per_char_minus_token": paired(runs),
                    "runs": runs,
                },
            )
    print(path, json.dumps(summarise(runs, before), ensure_ascii=False, indent=2))


if __name__ == "__main__":
    main()
