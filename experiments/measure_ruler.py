"""起步模型与数出来的字频，答《资治通鉴》留出集上同样的目标。

    python experiments/measure_ruler.py
    python experiments/measure_ruler.py --quick

环境变量 COMPANION_DATA（或 --data）指语料文件夹。尺子数的是 `base/train` 同一侧的全部
文字，起步模型读过的就是它（另有一些现代汉语）。写 `results/measure_ruler.json`，第 08
章的表由它生成；--quick 只在随包的小史书上考一个模型，不写。
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from recording import record

from companion.checkpoints.loading import load_checkpoint
from companion.corpus import read_corpus, read_documents
from companion.evaluation.scoring import evaluate

MODELS = {
    "bloom": "causal_lm",
    "qwen3": "causal_lm",
    "bert": "masked_lm",
    "t5": "span_corruption",
    "bart": "text_infilling",
    "glm": "blank_infilling",
}


def measure_one(name: str, held_out: Any, counted: Any, max_chars: int) -> dict:
    """一个起步模型在一份留出集上的分数与尺子。"""
    checkpoint = load_checkpoint(f"starter:{name}", MODELS[name])
    scores = evaluate(
        checkpoint, MODELS[name], held_out, max_chars=max_chars, ruler=counted
    ).scores
    return {
        "model": name,
        "bits_per_char": scores.bits_per_char,
        "accuracy": scores.accuracy,
        "num_chars": scores.num_chars,
        **(scores.ruler or {}),
    }


def main() -> None:
    """逐个模型、逐份留出集。"""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("COMPANION_DATA"), help="语料文件夹"
    )
    parser.add_argument("--max-chars", type=int, default=50_000, help="至多考几字")
    parser.add_argument("--quick", action="store_true", help="只看跑不跑得通")
    args = parser.parse_args()
    if args.quick:
        sample = [
            list(read_corpus("sample:classical", split)) for split in ("valid", "train")
        ]
        print(json.dumps([measure_one("bloom", *sample, 1000)]))
        return
    rows = []
    for side in ("classical", "modern"):
        held_out = list(read_documents(args.data / f"tongjian/valid.{side}.txt"))
        counted = list(read_documents(args.data / f"base/train.{side}.txt.gz"))
        for name in MODELS:
            row = measure_one(name, held_out, counted, args.max_chars)
            rows.append({"side": side, **row})
            print(rows[-1], flush=True)
    content = {
        "claim": "起步模型与数出来的一元、二元、三元，答同样的目标",
        "settings": {"max_chars": args.max_chars},
        "summary": rows,
    }
    print(record("measure_ruler", content))


if __name__ == "__main__":
    main()
