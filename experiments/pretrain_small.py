"""在一个没有 bf16 的 CPU 核上预训练小模型：`qwen3`、`bert`。

    python experiments/pretrain_small.py qwen3 --work build/small --tokens 60_000_000

`pretrain_starters.py` 的后继，一步一步都在这一个文件里。环境变量 COMPANION_DATA（或
--data）指语料文件夹，内有 `base/` 与 `general/`；从不读《资治通鉴》的训练文字，只拿
`tongjian/valid` 打分。<work> 里有 `poetry.txt.gz`（`fetch_poetry.py` 取来）就多读一路
诗词。词表就是随包起步模型的那一份，分数因此可以直接相比。

矩阵用 Muon，词嵌入与其余参数用 AdamW；输出头先只算候选，末一段算全部（见
`starters/fast.py`）。行从短到长，文字首尾相接，没有填充；掩码从多到少。学习率是梯形：预
热，恒定，后一半线性降到零；降到零之前，分数看参数的滑动平均（EMA）。

分数总照 256 个词元一行考，短行的阶段会吃亏；训练损失在只算候选时偏低，与分数不可比。每
`SAVE_STEPS` 步存盘，每 `SCORE_STEPS` 步打分，都写进 `<work>/<kind>.log.jsonl`。被打断
后同一条命令接着跑，与不打断的逐位相同。衰减开始之前，--tokens 可以改：想早些收尾，改成
已读词元的两倍以下。
"""

import argparse
import copy
import json
import math
import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from starters.fast import Muon, Rows, batch_loss
from starters.models import build_model
from starters.vocabulary import POSITIONS
from torch import nn

from companion.batch import IGNORE_INDEX
from companion.checkpoints.loading import load_tokenizer
from companion.checkpoints.running import special_edges
from companion.checkpoints.saving import write_checkpoint
from companion.corpus import read_documents
from companion.evaluation.scoring import score_targets
from companion.evaluation.targets import FrozenTargets, build_targets
from companion.objectives import get_objective

SAVE_STEPS, SCORE_STEPS = 50, 250
FILES = {
    "classical": "base/train.classical.txt.gz",
    "modern": "base/train.modern.txt.gz",
    "general": "general/train.txt",
}
SCORED_CHARS = 20_000
"""存盘时每份留出集用多少字打分；总是同样的字。"""


@dataclass(frozen=True)
class Phase:
    """训练的一段。"""

    share: float
    """占全程词元的比例。"""
    row_length: int
    mlm_probability: float | None = None
    whole_head: bool = False
    """输出头算全部的字，而不只是候选。"""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """一个模型的配方。"""

    objective: str
    like: str
    """分词器抄自哪个起步模型。"""
    shares: dict[str, float]
    """每一步的词元，各路文字各占多少。"""
    poetry_share: float = 0.1
    """有诗词时，诗词占多少；其余各路照比例让出。"""
    phases: tuple[Phase, ...]
    tokens: int = 60_000_000
    tokens_per_step: int = 4096
    matrix_rate: float = 0.02
    """Muon 的峰值学习率。"""
    other_rate: float = 2e-3
    """AdamW 的。"""
    weight_decay: float = 0.1
    """只用于矩阵。"""
    warmup: float = 0.01
    decay: float = 0.5
    """末段多长，占全程的比例。"""
    average: float = 0.998
    """EMA 每步保留多少。"""
    seed: int = 0


RECIPES = {
    "qwen3": Recipe(
        objective="causal_lm",
        like="bloom",
        shares={"classical": 0.42, "modern": 0.45, "general": 0.13},
        phases=(
            Phase(0.2, 64),
            Phase(0.4, 128),
            Phase(0.3, POSITIONS),
            Phase(0.1, POSITIONS, whole_head=True),
        ),
    ),
    "bert": Recipe(
        objective="masked_lm",
        like="bert",
        shares={"classical": 0.5, "modern": 0.35, "general": 0.15},
        phases=(
            Phase(0.2, 64, 0.4),
            Phase(0.4, 128, 0.3),
            Phase(0.3, POSITIONS, 0.15),
            Phase(0.1, POSITIONS, 0.15, whole_head=True),
        ),
    ),
}


def read_streams(
    data: Path, tokenizer: Any, end: int, cache: Path
) -> dict[str, NDArray[np.int16]]:
    """各路文字的词元，首尾相接，文档之间一个 `end`；分好的存在 `cache` 里。"""
    streams = {}
    files = {name: data / file for name, file in FILES.items()}
    if (cache / "poetry.txt.gz").exists():
        files["poetry"] = cache / "poetry.txt.gz"
    for name, file in files.items():
        saved = cache / f"{name}.{end}.npy"
        if not saved.exists():
            texts = [document.text for document in read_documents(file)]
            if name in ("general", "poetry"):  # 一行一段，各不相干
                texts = [line for text in texts for line in text.splitlines()]
            rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
            np.save(saved, np.concatenate([np.array([*r, end], "<i2") for r in rows]))
        streams[name] = np.load(saved)
    return streams


def learning_factor(done: float, recipe: Recipe) -> float:
    """梯形：预热，恒定，线性降到零；`done` 是全程的几成。"""
    return max(0.0, min(1.0, done / recipe.warmup, (1 - done) / recipe.decay))


def held_out(data: Path, tokenizer: Any, objective: str) -> dict[str, FrozenTargets]:
    """《资治通鉴》留出集的冻结目标，文言与白话。"""
    return {
        side: build_targets(
            tokenizer,
            objective,
            list(read_documents(data / f"tongjian/valid.{side}.txt")),
            block_size=POSITIONS,
            max_chars=SCORED_CHARS,
        )
        for side in ("classical", "modern")
    }


def score(model: Any, exams: dict[str, FrozenTargets]) -> dict[str, float]:
    """各份留出集的每字比特数与准确率。"""
    found = {name: score_targets(model, exam).scores for name, exam in exams.items()}
    bits = {name: round(each.bits_per_char, 4) for name, each in found.items()}
    hits = {f"{name}_hits": round(each.accuracy, 4) for name, each in found.items()}
    return bits | hits


def train(kind: str, data: Path, work: Path, tokens: int | None, stop: float) -> None:
    """训练到底，或到第 `stop` 步，或到收到 SIGTERM；从存盘处接着来。"""
    recipe = RECIPES[kind] if tokens is None else replace(RECIPES[kind], tokens=tokens)
    goal = get_objective(recipe.objective)
    causal = goal.left_to_right
    tokenizer = load_tokenizer(f"starter:{recipe.like}")
    edges = special_edges(tokenizer)
    end = tokenizer.sep_token_id or tokenizer.eos_token_id
    streams = read_streams(data, tokenizer, end, work)
    shares = recipe.shares
    if "poetry" in streams:
        left = 1 - recipe.poetry_share
        shares = {name: share * left for name, share in shares.items()}
        shares["poetry"] = recipe.poetry_share
    frequency = torch.zeros(len(tokenizer))
    for name, share in shares.items():
        counts = np.bincount(streams[name], minlength=len(tokenizer))
        frequency += torch.from_numpy(counts / counts.sum() * share)
    exams = held_out(data, tokenizer, recipe.objective)
    model: Any = build_model(kind, vocab_size=len(tokenizer), seed=recipe.seed)
    averaged = copy.deepcopy(model)
    matrices, others = [], []
    for name, p in model.named_parameters():
        (matrices if p.ndim == 2 and "embed" not in name else others).append(p)
    muon = Muon(matrices, recipe.weight_decay)
    adam = torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0)
    peaks = ((muon, recipe.matrix_rate), (adam, recipe.other_rate))
    parts = {"model": model, "average": averaged, "muon": muon, "adam": adam}
    step = seen = number = 0
    taken: dict[str, int] = {}
    seconds = 0.0
    path = work / f"{kind}.pt"
    if path.exists():
        loaded = torch.load(path, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(loaded[name])
        step, seen, number, taken, seconds = loaded["place"]

    def store() -> None:
        kept: dict[str, Any] = {n: part.state_dict() for n, part in parts.items()}
        kept["place"] = step, seen, number, taken, seconds
        torch.save(kept, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)  # 写全了才顶替旧的

    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    ends = np.cumsum([phase.share for phase in recipe.phases]) * recipe.tokens
    with (work / f"{kind}.log.jsonl").open("a") as log:
        while seen < recipe.tokens and step < stop and not asked:
            while seen >= ends[number]:
                number, taken = number + 1, {}
            phase = recipe.phases[number]
            noise = {} if causal else {"mlm_probability": phase.mlm_probability}
            collator = goal.make_collator(tokenizer, **noise)
            length = phase.row_length
            inside = length - len(edges.prefix) - len(edges.suffix)
            rows = {
                name: Rows(ids, inside, recipe.seed + number, taken.get(name, 0))
                for name, ids in streams.items()
            }
            bits: list[float] = []
            while seen < min(recipe.tokens, ends[number]) and step < stop and not asked:
                began = time.monotonic()
                rng = np.random.default_rng((recipe.seed, step))
                features = [
                    {"input_ids": torch.tensor([*edges.prefix, *ids, *edges.suffix])}
                    for name, share in shares.items()
                    for ids in rows[name].draw(
                        round(share * recipe.tokens_per_step / length)
                    )
                ]
                for place, feature in enumerate(features):
                    feature["example_id"] = step * 1000 + place
                batch = collator(features)
                unknown = batch["labels"] == tokenizer.unk_token_id
                batch["labels"].masked_fill_(unknown, IGNORE_INDEX)
                if kind == "bert":  # 位置从随机处数起，短行也练到全部位置
                    first = rng.integers(0, POSITIONS - length + 1, (len(features), 1))
                    batch["position_ids"] = torch.from_numpy(first + np.arange(length))
                whole = phase.whole_head
                loss = batch_loss(model, batch, causal, whole, frequency, rng)
                loss.backward()
                nn.utils.clip_grad_norm_(others, 1.0)
                factor = learning_factor(seen / recipe.tokens, recipe)
                for optimizer, peak in peaks:
                    optimizer.param_groups[0]["lr"] = peak * factor
                    optimizer.step()
                    optimizer.zero_grad()
                keep = min(recipe.average, (step + 1) / (step + 10))
                with torch.no_grad():
                    for name, slow in averaged.named_parameters():
                        slow.lerp_(model.get_parameter(name), 1 - keep)
                step, seen = step + 1, seen + len(features) * length
                taken = {name: each.taken for name, each in rows.items()}
                bits.append(loss.item() / math.log(2))
                seconds += time.monotonic() - began
                if step % SAVE_STEPS:
                    continue
                row = {
                    "step": step,
                    "tokens": seen,
                    "loss_bits": round(sum(bits) / len(bits), 4),
                    "rate": round(factor, 4),
                    "seconds": round(seconds),
                }
                bits = []
                if step % SCORE_STEPS == 0:
                    row |= score(averaged, exams)
                print(json.dumps(row), file=log, flush=True)
                store()
    store()
    if seen >= recipe.tokens:
        facts = {"steps": step, "tokens_seen": seen, "seed": recipe.seed}
        model.config.companion_peak_learning_rate = recipe.other_rate
        write_checkpoint(model.half(), tokenizer, work / kind)
        (work / kind / "training.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=RECIPES)
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("COMPANION_DATA"), help="语料文件夹"
    )
    parser.add_argument("--work", type=Path, default=Path("build/small"))
    parser.add_argument("--tokens", type=int, help="全程词元数，缺省取配方里的")
    parser.add_argument("--stop", type=float, default=math.inf, help="到第几步停下")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    train(args.kind, args.data, args.work, args.tokens, args.stop)
