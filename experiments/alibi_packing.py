"""BLOOM 打包与分桶：同样的短文、同样的词元，各花多少 CPU 秒，留出的每字比特数差多少。

    python experiments/alibi_packing.py
    python experiments/alibi_packing.py --quick    # 一轮，只打印

语料是随包的白话小史书，一句一篇（平均约二十字）。两种办法轮流各跑几次，比的是同一次运行里
的比；留出集的分数只核对打包没有学到别的东西，不是要分高下。
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from recording import record, spread
from runs import parser_of

ROUNDS = 3
BASE: dict[str, Any] = {
    "objective": "causal_lm",
    "model": "starter:bloom",
    "max_steps": -1,
    "block_size": 256,
    "tokens_per_batch": 2048,
    "learning_rate": 3e-4,
    "precision": "fp32",
    "eval_max_chars": 4_000,
    "eval_steps": 0,
}


def main() -> None:
    """轮流训练，打印并记下比。"""
    from companion.config import TrainingConfig
    from companion.corpus import read_corpus
    from companion.training import train

    args = parser_of(__doc__).parse_args()
    texts = [each.text for each in read_corpus("sample:modern")]
    lines = [f"{line}。" for text in texts for line in text.split("。") if line]
    seconds: dict[str, list[float]] = {"packed": [], "bucketed": []}
    bits: dict[str, list[float]] = {"packed": [], "bucketed": []}
    shares: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "短文.txt"
        corpus.write_text("\n\n".join(lines), encoding="utf-8")
        for turn in range(1 if args.quick else ROUNDS):
            for name in seconds if turn % 2 == 0 else reversed(seconds):
                config = TrainingConfig(
                    **BASE,
                    corpus=str(corpus),
                    packing=name == "packed",
                    num_train_epochs=0.5 if args.quick else 3.0,
                    seed=turn,
                    output=str(Path(folder) / f"{name}-{turn}"),
                )
                began = time.process_time()
                metrics = train(config, quiet=True).metrics
                seconds[name].append(time.process_time() - began)
                bits[name].append(metrics["after"]["domain"]["bits_per_char"])
                shares[name] = metrics["tokens_trained"]
    pairs = zip(seconds["bucketed"], seconds["packed"], strict=True)
    ratios = [bucketed / packed for bucketed, packed in pairs]
    gaps = [p - b for b, p in zip(bits["bucketed"], bits["packed"], strict=True)]
    content = {
        "documents": len(lines),
        "mean_characters": sum(map(len, lines)) / len(lines),
        "tokens_trained": shares,
        "cpu_seconds": {name: spread(each) for name, each in seconds.items()},
        "speed_ratio": spread(ratios),
        "bits_per_char_packed_minus_bucketed": spread(gaps),
    }
    print(json.dumps(content, ensure_ascii=False, indent=2))
    if not args.quick:
        record("alibi_packing", content)


if __name__ == "__main__":
    main()
