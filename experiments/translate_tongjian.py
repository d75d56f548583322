"""继续预训练有什么用：文言译白话，从起步模型与从继续预训练之后各微调一次，各三个种子。

    python experiments/translate_tongjian.py --continued PATH1 PATH2 PATH3

`--continued` 是三个种子的继续预训练结果（`companion train` 输出里的 `model/`），只读
《资治通鉴》训练集的文言，没有见过句对。微调用训练集里的句对，两组的句对、步数、种子都相
同，只有起点不同；在留出卷的句对上用贪心解码，以 sacrebleu 的 chrF 与 BLEU（中文分字）打
分。
"""

import argparse
import gzip
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import sacrebleu
from recording import record, spread

from companion.checkpoints.loading import load_checkpoint
from companion.notebook.translation import TranslationPlan, finetune, translate

MAX_CHARS = 64
"""一侧至多多少字；更长的句对不用。"""
Pair = tuple[str, str]


def read_pairs(data: Path, split: str) -> list[Pair]:
    """句对，两侧各一行；太长的略去。"""
    sides: list[list[str]] = []
    for side in ("classical", "modern"):
        path = data / f"tongjian/{split}.{side}.txt"
        if path.exists():
            text = path.read_text("utf-8")
        else:
            text = gzip.decompress(path.with_suffix(".txt.gz").read_bytes()).decode()
        sides.append(text.splitlines())
    return [
        (source, target)
        for source, target in zip(*sides, strict=True)
        if 4 <= len(source) < MAX_CHARS and 4 <= len(target) < MAX_CHARS
    ]


def run(
    model: str,
    pairs: list[Pair],
    valid: list[Pair],
    seed: int,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """微调一次，打分。"""
    checkpoint = load_checkpoint(model, args.objective)
    plan = TranslationPlan(
        max_chars=MAX_CHARS,
        num_valid=len(valid),
        steps=args.steps,
        batch_size=args.batch,
        learning_rate=args.learning_rate,
    )
    began = time.monotonic()
    finetune(checkpoint, pairs, plan, seed)
    seconds = time.monotonic() - began
    sources, references = (list(side) for side in zip(*valid, strict=True))
    written = translate(checkpoint, sources, MAX_CHARS)
    return {
        "start": "starter" if model.startswith("starter:") else "continued",
        "seed": seed,
        "chrf": sacrebleu.corpus_chrf(written, [references]).score,
        "bleu": sacrebleu.corpus_bleu(written, [references], tokenize="zh").score,
        "seconds": round(seconds, 1),
        "samples": [
            {"source": source, "reference": reference, "written": text}
            for source, reference, text in list(
                zip(sources, references, written, strict=True)
            )[:5]
        ],
    }


def main() -> None:
    """两组起点，各三个种子，写进 results/。"""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("COMPANION_DATA"), help="语料文件夹"
    )
    parser.add_argument("--starter", default="starter:bart")
    parser.add_argument("--objective", default="text_infilling")
    parser.add_argument("--continued", nargs="+", required=True, help="一个种子一个")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--valid", type=int, default=500)
    args = parser.parse_args()
    pairs = read_pairs(args.data, "train")
    valid = read_pairs(args.data, "valid")
    random.Random(0).shuffle(pairs)
    random.Random(0).shuffle(valid)
    pairs, valid = pairs[: args.pairs], valid[: args.valid]
    runs = []
    for seed, continued in enumerate(args.continued):
        for model in (args.starter, continued):
            runs.append(run(model, pairs, valid, seed, args))
            print(json.dumps(runs[-1], ensure_ascii=False), file=sys.stderr)
    summary = {
        f"{start}_{metric}": spread([r[metric] for r in runs if r["start"] == start])
        for start in ("starter", "continued")
        for metric in ("chrf", "bleu")
    }
    path = record(
        f"translate_tongjian_{args.starter.removeprefix('starter:')}",
        {
            "claim": "文言译白话：从继续预训练之后微调，与从起步模型微调，差多少",
            "summary": summary,
            "steps": args.steps,
            "pairs": len(pairs),
            "valid_pairs": len(valid),
            "runs": runs,
        },
    )
    print(path, json.dumps(summary, ensure_ascii=False, indent=2))


if __name__ == "__main__":
    main()
