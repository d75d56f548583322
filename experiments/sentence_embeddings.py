"""编码器变成句向量模型：继续预训练帮不帮忙，用对比学习之前与之后各量一次。

    python experiments/sentence_embeddings.py

检索：给一句文言，在全部留出句的白话译文里找它自己的那一句，量 mrr@10（找到的名次的倒
数，十名之外算 0）。编码器是起步模型与在《资治通鉴》上继续预训练过的，由
sentence-transformers打开，取各词元的平均；再以训练集的句对做对比学习（
MultipleNegativesRankingLoss，同一批的别的译文作反例），两边的句对、步数、种子都相同。
"""

import argparse
import os
import random
import tempfile
from pathlib import Path
from typing import Any

import torch
from recording import record, spread
from runs import SMALL_STEPS
from translate_tongjian import Pair, read_pairs

VALID = 1_000
"""多少句里找一句。"""


def main() -> None:
    """起步模型一次，继续预训练三个种子；各在对比学习前后考检索。"""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data = Path(os.environ.get("COMPANION_DATA", "data"))
    parser.add_argument("--data", type=Path, default=data)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300, help="继续预训练的步数")
    parser.add_argument("--pairs", type=int, default=3_200, help="对比学习的句对数")
    args = parser.parse_args()

    from companion.checkpoints.locating import starter_path

    torch.set_num_threads(1)
    valid = read_pairs(args.data, "valid")
    random.Random(0).shuffle(valid)
    valid = valid[:VALID]
    pairs = read_pairs(args.data, "train")
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as kept:
        for seed in args.seeds:
            continued = continue_pretraining(args, seed, Path(kept) / str(seed))
            chosen = random.Random(seed).sample(pairs, args.pairs)
            for name, folder in (
                ("起步模型", starter_path("starter:bert")),
                ("继续预训练之后", continued),
            ):
                runs.append({"start": name, "seed": seed})
                runs[-1] |= retrieve(folder, chosen, valid, seed)
                print(runs[-1], flush=True)
    summary = [
        {
            "start": name,
            "seeds": len(args.seeds),
            **{
                key: spread([run[key] for run in runs if run["start"] == name])
                for key in ("mrr_before", "mrr_after")
            },
        }
        for name in dict.fromkeys(run["start"] for run in runs)
    ]
    content = {
        "lexical": round(lexical(valid), 4),
        "claim": "继续预训练之后取平均检索，与再做对比学习之后检索",
        "steps": args.steps,
        "pairs": args.pairs,
        "valid_pairs": len(valid),
        "summary": summary,
        "runs": runs,
    }
    record("sentence_embeddings", content)


def continue_pretraining(args: argparse.Namespace, seed: int, output: Path) -> Path:
    """在《资治通鉴》的文言与白话上各读一半。"""
    from companion.config import TrainingConfig
    from companion.training import train

    sides = [
        str(args.data / f"tongjian/train.{side}.txt.gz")
        for side in ("classical", "modern")
    ]
    config = TrainingConfig(
        **{**SMALL_STEPS, "tokens_per_batch": 1024},
        objective="masked_lm",
        model="starter:bert",
        corpus=(f"文言={sides[0]}:1", f"白话={sides[1]}:1"),
        output=str(output),
        block_size=128,
        learning_rate=3e-4,
        precision="fp32",
        max_steps=args.steps,
        save_steps=100_000,
        eval=False,
        seed=seed,
    )
    return train(config, quiet=True).output / "model"


def retrieve(
    folder: Path, pairs: list[Pair], valid: list[Pair], seed: int
) -> dict[str, float]:
    """对比学习之前与之后的 mrr@10。"""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    # 缺省取平均；起步模型存成 float16，训练要 float32
    model = SentenceTransformer(
        str(folder), device="cpu", model_kwargs={"dtype": "float32"}
    )
    model.max_seq_length = 64
    before = mrr(model, valid)
    with tempfile.TemporaryDirectory() as kept:
        SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(
                output_dir=kept,
                num_train_epochs=1,
                per_device_train_batch_size=64,
                learning_rate=2e-4,
                warmup_steps=10,
                seed=seed,
                save_strategy="no",
                report_to=[],
                use_cpu=True,
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_dict(
                {"anchor": [a for a, _ in pairs], "positive": [b for _, b in pairs]}
            ),
            loss=MultipleNegativesRankingLoss(model),
        ).train()
    return {"mrr_before": round(before, 4), "mrr_after": round(mrr(model, valid), 4)}


def lexical(valid: list[Pair]) -> float:
    """尺子：只看字面，字的 TF-IDF 向量的夹角。"""
    from sklearn.feature_extraction.text import TfidfVectorizer

    counter = TfidfVectorizer(analyzer="char").fit([text for p in valid for text in p])
    sides = [counter.transform([pair[side] for pair in valid]) for side in (0, 1)]
    return rank_score(torch.from_numpy((sides[0] @ sides[1].T).toarray()))


def mrr(model: Any, valid: list[Pair]) -> float:
    """给文言找译文的 mrr@10。"""
    sides = [
        model.encode(
            [pair[side] for pair in valid],
            convert_to_tensor=True,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        for side in (0, 1)
    ]
    return rank_score(sides[0] @ sides[1].T)


def rank_score(likeness: torch.Tensor) -> float:
    """名次倒数的平均，十名之外算 0；`likeness` 是 (文言, 译文) 的相似度。"""
    right = likeness.diagonal().unsqueeze(1)
    ranks = 1 + (likeness > right).sum(1)
    return float(torch.where(ranks <= 10, 1 / ranks, 0.0).mean())


if __name__ == "__main__":
    main()
