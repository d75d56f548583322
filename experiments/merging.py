"""合并检查点：领域学到的与另一种本事，加在一起还剩多少。

    python experiments/merging.py

起步模型没有对话的版本，所以用“一问一答”代替：底座（`starter:bloom`）在别的史书的句对
上练出“问：文言 答：白话”的格式，这是承接；底座另在《资治通鉴》的白话上继续预训练，这
是续训。几种做法各三个种子，量两样：《资治通鉴》留出卷的每字比特数（领域），与没有见过
的一问一答的每字比特数（格式）。
"""

import argparse
import gzip
import os
import random
import tempfile
from pathlib import Path
from typing import Any

from recording import record, spread
from runs import SMALL_STEPS, bits_per_char

BASE = "starter:bloom"
RATIOS = (0.25, 0.5, 0.75, 1.0)
VALID_PAIRS = 400
TRAIN_PAIRS = 6_000


def dialogues(data: Path, folder: Path) -> dict[str, str]:
    """别的史书的句对写成一问一答，空行隔开；训练与留出各一个文件。"""
    sides = [
        gzip.decompress((data / f"base/train.{side}.txt.gz").read_bytes()).decode()
        for side in ("classical", "modern")
    ]
    pairs = [
        f"问：{source}\n答：{target}"
        for source, target in zip(*(text.splitlines() for text in sides), strict=True)
        if 8 <= len(source) < 40 and 8 <= len(target) < 60
    ]
    random.Random(0).shuffle(pairs)
    parts = {
        "valid": pairs[:VALID_PAIRS],
        "train": pairs[VALID_PAIRS : VALID_PAIRS + TRAIN_PAIRS],
    }
    for name, chosen in parts.items():
        (folder / f"{name}.txt").write_text("\n\n".join(chosen), encoding="utf-8")
    return {name: str(folder / f"{name}.txt") for name in parts}


def main() -> None:
    """三个种子，每个训练三次，合并五次；写进 results/。"""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data = Path(os.environ.get("COMPANION_DATA", "data"))
    parser.add_argument("--data", type=Path, default=data)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--learning-rate", type=float, default=6e-4)
    args = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    measured: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as kept:
        folder = Path(kept)
        files = dialogues(args.data, folder)
        settings = {
            **SMALL_STEPS,
            "objective": "causal_lm",
            "block_size": 128,
            "learning_rate": args.learning_rate,
            "precision": "fp32",
            "max_steps": args.steps,
            "save_steps": 100_000,
            "eval": False,
        }
        examined = {
            "objective": "causal_lm",
            "valid": str(args.data / "tongjian/valid.modern.txt"),
            "general": files["valid"],
            "eval_max_chars": 12_000,
        }
        domain = str(args.data / "tongjian/train.modern.txt.gz")
        for seed in args.seeds:
            models = one_seed(
                settings, domain, files["train"], seed, folder / str(seed)
            )
            for name, model in {"底座": BASE, **models}.items():
                bits = bits_per_char(model, examined)
                found = {"domain": bits["domain"], "format": bits["general"]}
                measured.setdefault(name, []).append(found)
                print(seed, name, found, flush=True)
            summary = [
                {
                    "model": name,
                    "ratio": ratio_of(name),
                    "seeds": len(runs),
                    **{key: spread([run[key] for run in runs]) for key in runs[0]},
                }
                for name, runs in measured.items()
            ]
            content: dict[str, Any] = {
                "claim": "领域学到的加到会一问一答的模型上，两样各剩多少",
                "settings": {**settings, "base": BASE},
                "summary": summary,
            }
            record("merging", content)


def ratio_of(name: str) -> float | None:
    """差乘了多少；不是加上差得来的为 None。"""
    return float(name.split()[2]) if name.endswith("差") else None


def one_seed(
    settings: dict[str, Any], domain: str, answers: str, seed: int, folder: Path
) -> dict[str, str]:
    """一个种子的各种做法 → 检查点的文件夹。"""
    from companion.checkpoints import merge_checkpoints

    def trained(name: str, model: str, corpus: str) -> str:
        from companion.config import TrainingConfig
        from companion.training import train

        config = TrainingConfig(
            **settings, model=model, corpus=corpus, seed=seed, output=str(folder / name)
        )
        train(config, quiet=True)
        return str(folder / name / "model")

    tuned = trained("tuned", BASE, domain)
    chat = trained("chat", BASE, answers)
    after = trained("after", chat, domain)
    models = {"续训": tuned, "问答": chat, "问答之后再续训": after}
    for ratio in RATIOS:
        merged = merge_checkpoints(
            BASE, tuned, folder / f"merged-{ratio}", onto=chat, ratio=ratio
        )
        models[f"问答 + {ratio:g} × 差"] = str(merged.output)
    half = merge_checkpoints(chat, after, folder / "half", ratio=0.5)
    models["问答与再续训之间插值一半"] = str(half.output)
    return models


if __name__ == "__main__":
    main()
