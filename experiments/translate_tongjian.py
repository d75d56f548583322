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
import torch
from recording import record, spread
from transformers import get_cosine_schedule_with_warmup, set_seed

from companion.models.loading import load_checkpoint
from companion.models.target_head import target_losses
from companion.objectives.padding import pad_rows

MAX_TOKENS = 64
"""一侧至多多少词元；更长的句对不用。"""
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
        if 4 <= len(source) < MAX_TOKENS and 4 <= len(target) < MAX_TOKENS
    ]


def finetune(
    checkpoint: Any, pairs: list[Pair], seed: int, args: argparse.Namespace
) -> float:
    """在句对上微调，就地改动模型；返回秒数。"""
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    set_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), args.learning_rate)
    schedule = get_cosine_schedule_with_warmup(optimizer, args.steps // 20, args.steps)
    rng = random.Random(seed)
    start = model.config.decoder_start_token_id
    model.train()
    began = time.monotonic()
    for _ in range(args.steps):
        chosen = rng.sample(pairs, args.batch)
        sources, targets = (
            [torch.tensor(ids) for ids in tokenizer(list(texts))["input_ids"]]
            for texts in zip(*chosen, strict=True)
        )
        width = max(map(len, targets))
        length = max(map(len, sources))
        shifted = [torch.cat([ids.new_tensor([start]), ids[:-1]]) for ids in targets]
        batch = {
            "input_ids": pad_rows(sources, 0, length),
            "attention_mask": pad_rows(
                [torch.ones_like(ids) for ids in sources], 0, length
            ),
            "decoder_input_ids": pad_rows(shifted, 0, width),
            "labels": pad_rows(targets, -100, width),
        }
        losses = target_losses(model, batch, causal=False)
        (losses.total_nats / len(losses.nats)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return time.monotonic() - began


@torch.no_grad()
def translate(checkpoint: Any, sources: list[str]) -> list[str]:
    """贪心解码。"""
    model, tokenizer = checkpoint.model.eval(), checkpoint.tokenizer
    written: list[str] = []
    for start in range(0, len(sources), 50):
        batch = tokenizer(
            sources[start : start + 50], padding=True, return_tensors="pt"
        )
        ids = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=MAX_TOKENS + 16,
            do_sample=False,
            num_beams=1,
        )
        written += tokenizer.batch_decode(ids, skip_special_tokens=True)
    return written


def run(
    model: str,
    pairs: list[Pair],
    valid: list[Pair],
    seed: int,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """微调一次，打分。"""
    checkpoint = load_checkpoint(model, args.objective)
    seconds = finetune(checkpoint, pairs, seed, args)
    sources, references = (list(side) for side in zip(*valid, strict=True))
    written = translate(checkpoint, sources)
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
    parser.add_argument("--starter", default="starter:t5")
    parser.add_argument("--objective", default="span_corruption")
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
            "claim": "文言译白话：从继续预训练之后微调，比从起步模型微调好",
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
