"""预训练起步模型：`starter:bert`、`bloom`、`t5`、`bart`、`glm`、`electra`。

    python experiments/pretrain_starters.py bert --work build/starters

环境变量 COMPANION_DATA（或 --data）指语料文件夹，内有 `base/`（《资治通鉴》以外的史籍，
文白对照）与 `general/`（现代汉语）。起步模型从未见过《资治通鉴》，于是“继续预训练学到了
什么”才有得量。

每 200 步存一次检查点，被打断后同一条命令接着跑。学习率是 WSD（预热、恒定、线性衰减）。
训练完写出半精度的权重；打分、写模型卡、放进包里用 `experiments/score_starters.py`。

小模型从随机的参数开始，会在只会猜标点的平台上停很久；各家的起点怎样安排，见 `starters/`
里的各个 `aim_*` 与 `models.copy_encoder_from_bert`。架构都是原样的。
"""

import argparse
import json
import math
import os
import time
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from starters.aim_t5 import keep_names, read_first
from starters.models import build_model
from starters.vocabulary import POSITIONS, build_tokenizer

from companion.checkpoints.running import model_options, special_edges
from companion.checkpoints.saving import write_checkpoint
from companion.corpus.document import Document
from companion.corpus.packing import BlockDataset, plan_packing
from companion.corpus.reading import read_documents
from companion.corpus.tokens import tokenize_documents
from companion.objectives import get_objective


@dataclass(frozen=True)
class Phase:
    """训练的一段：先短行后长行，遮得先多后少。"""

    share: float
    """占全程词元的比例。"""
    row_length: int
    options: dict[str, Any] = field(default_factory=dict)
    """整理器的参数。"""
    reading: float = 0.0
    """T5：编码器在哨兵处猜这一段的第一个字，这一项损失的权重。"""
    decoding: bool = True
    """假：解码器还不上场，只练编码器的那一项。"""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """一个起步模型的配方；比例与阶段按词元计。"""

    objective: str
    shares: dict[str, float]
    phases: tuple[Phase, ...]
    tokens: int
    peak_learning_rate: float = 2e-3
    warmup_tokens: int = 400_000
    decay_share: float = 0.3
    tokens_per_step: int = 2048
    seed: int = 0


RECIPES = {
    "bert": Recipe(
        objective="masked_lm",
        shares={"classical": 0.5, "modern": 0.25, "general": 0.25},
        phases=(
            Phase(0.4, 64, {"mlm_probability": 0.3}),
            Phase(0.35, 128, {"mlm_probability": 0.2}),
            Phase(0.25, POSITIONS, {"mlm_probability": 0.15}),
        ),
        tokens=5_500_000,
    ),
    "bloom": Recipe(
        objective="causal_lm",
        shares={"classical": 0.2, "modern": 0.5, "general": 0.3},
        phases=(Phase(0.4, 64), Phase(0.35, 128), Phase(0.25, POSITIONS)),
        tokens=3_500_000,
    ),
    "t5": Recipe(
        objective="span_corruption",
        shares={"classical": 0.5, "modern": 0.25, "general": 0.25},
        phases=(
            Phase(
                0.25,
                64,
                {"noise_density": 0.3, "mean_noise_span_length": 1.0},
                reading=1.0,
                decoding=False,
            ),
            Phase(
                0.25,
                64,
                {"noise_density": 0.3, "mean_noise_span_length": 1.5},
                reading=1.0,
            ),
            Phase(0.25, 128, {"noise_density": 0.3}, reading=0.5),
            Phase(0.25, POSITIONS, {"noise_density": 0.15}),
        ),
        tokens=5_500_000,
        warmup_tokens=200_000,
    ),
    "bart": Recipe(
        objective="text_infilling",
        shares={"classical": 0.5, "modern": 0.25, "general": 0.25},
        phases=(Phase(0.4, 64), Phase(0.35, 128), Phase(0.25, POSITIONS)),
        tokens=3_500_000,
        peak_learning_rate=1e-3,
    ),
    "glm": Recipe(
        objective="blank_infilling",
        shares={"classical": 0.5, "modern": 0.25, "general": 0.25},
        phases=(
            Phase(0.4, 64, {"noise_density": 0.3}),
            Phase(0.35, 128, {"noise_density": 0.2}),
            Phase(0.25, POSITIONS),
        ),
        tokens=3_500_000,
        warmup_tokens=200_000,
    ),
    "electra": Recipe(
        objective="replaced_token",
        shares={"classical": 0.5, "modern": 0.25, "general": 0.25},
        phases=(Phase(0.4, 64), Phase(0.35, 128), Phase(0.25, POSITIONS)),
        tokens=3_000_000,
        peak_learning_rate=1e-3,
        warmup_tokens=200_000,
    ),
}


def read_sources(data: Path) -> dict[str, list[Document]]:
    """三路语料，一篇（或一段）一个文档。"""
    return {
        "classical": list(read_documents(data / "base/train.classical.txt.gz")),
        "modern": list(read_documents(data / "base/train.modern.txt.gz")),
        "general": [
            Document(text=line, id=f"general#{n}", source="general/train.txt")
            for n, line in enumerate(
                (data / "general/train.txt").read_text("utf-8").splitlines()
            )
        ],
    }


class Stream:
    """一路语料的行，打乱后一轮接一轮地取。"""

    def __init__(self, dataset: BlockDataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed
        self.taken = 0

    def draw(self, num_tokens: int) -> list[dict[str, Any]]:
        """取行，直到凑够这么多词元。"""
        features: list[dict[str, Any]] = []
        while num_tokens > 0:
            epoch, place = divmod(self.taken, len(self.dataset))
            if place == 0 or not hasattr(self, "order"):
                rng = np.random.default_rng((self.seed, epoch))
                self.order = rng.permutation(len(self.dataset))
            feature = self.dataset[epoch, int(self.order[place])]
            self.taken += 1
            num_tokens -= len(feature["input_ids"])
            features.append(feature)
        return features


def scattered_positions(input_ids: torch.Tensor, step: int) -> torch.Tensor:
    """各行的位置从随机处数起，短行也练到全部位置；一半的行仍从 0 起，(B, L) int64。"""
    rows, length = input_ids.shape
    return scattered_starts(rows, length - 1, step) + torch.arange(length)


def scattered_starts(rows: int, last: int, step: int) -> torch.Tensor:
    """各行的位置从几数起，一半的行是 0，(B, 1) int64；`last` 是从 0 数起时的末位。"""
    rng = np.random.default_rng((7, step))
    first = rng.integers(0, POSITIONS - last, rows) * rng.integers(0, 2, rows)
    return torch.from_numpy(first)[:, None]


def learning_rate(tokens: int, recipe: Recipe) -> float:
    """WSD：线性预热，恒定，末段线性衰减到零；解码器上场时再预热一次。"""
    left = (recipe.tokens - tokens) / (recipe.decay_share * recipe.tokens)
    alone = sum(p.share for p in recipe.phases if not p.decoding) * recipe.tokens
    since = tokens if tokens < alone else tokens - alone
    factor = min(1.0, since / recipe.warmup_tokens, max(0.0, left))
    return recipe.peak_learning_rate * factor


def train(kind: str, data: Path, work: Path, tokens: int | None) -> None:
    """训练到底，或从检查点接着训练，最后写出起步模型。"""
    recipe = RECIPES[kind]
    if tokens is not None:
        recipe = Recipe(**{**vars(recipe), "tokens": tokens})
    objective = get_objective(recipe.objective)
    sources = read_sources(data)
    tokenizer = build_tokenizer(chain.from_iterable(sources.values()), kind)
    stores = {
        name: tokenize_documents(documents, tokenizer, cache_dir=work / "cache")
        for name, documents in sources.items()
    }
    model = build_model(
        kind,
        vocab_size=len(tokenizer),
        seed=recipe.seed,
        companion_peak_learning_rate=recipe.peak_learning_rate,
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=0.0, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01
    )
    checkpoint = work / f"{kind}.pt"
    step = seen = number = 0
    taken: dict[str, int] = {}
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, seen, number, taken = (
            state[k] for k in ("step", "seen", "phase", "taken")
        )
    edges = special_edges(tokenizer)
    num_edges = len(edges.prefix) + len(edges.suffix)
    document_end = [tokenizer.eos_token_id] if objective.causal else []
    ends = np.cumsum([phase.share for phase in recipe.phases]) * recipe.tokens
    start, began = seen, time.monotonic()
    log = (work / f"{kind}.log.jsonl").open("a")
    while seen < recipe.tokens:
        while seen >= ends[number]:
            number, taken = number + 1, {}
        phase = recipe.phases[number]
        seeded = {"seed": recipe.seed} if "seed" in objective.options else {}
        collator = objective.make_collator(
            tokenizer, **phase.options, **seeded, **model_options(model, objective)
        )
        capacity = objective.row_capacity(collator, phase.row_length, num_edges)
        streams = {
            name: Stream(
                BlockDataset(
                    store,
                    plan_packing(
                        store.lengths,
                        capacity,
                        pack=False,
                        overhead_per_piece=num_edges,
                        overhead_per_document=len(document_end),
                    ),
                    prefix_ids=edges.prefix,
                    suffix_ids=edges.suffix,
                    document_end_ids=document_end,
                ),
                seed=recipe.seed + number,
            )
            for name, store in stores.items()
        }
        for name, count in taken.items():
            streams[name].taken = count
        hooks = [] if phase.decoding else keep_names(model)
        while seen < ends[number] and seen < recipe.tokens:
            features = [
                feature
                for name, stream in streams.items()
                for feature in stream.draw(
                    int(recipe.tokens_per_step * recipe.shares[name])
                )
            ]
            batch = collator(features)
            if kind == "bert":
                batch["position_ids"] = scattered_positions(batch["input_ids"], step)
            if kind == "glm":
                batch["position_ids"][:, 0] += scattered_starts(
                    len(batch["input_ids"]),
                    int(batch["position_ids"][:, 0].max()),
                    step,
                )
            loss, accuracy, first_bits = torch.zeros(()), 0.0, 0.0
            more: dict[str, float] = {}
            if phase.reading:
                batch, first = read_first(model, batch)
                first_bits = first.item() / math.log(2)
                loss = loss + phase.reading * first
            if phase.decoding:
                parts = objective.make_loss()(model, batch)
                for part in parts:
                    mean = part.losses.total_nats / len(part.losses.nats)
                    loss = loss + part.weight * mean
                    more[f"{part.name}_bits"] = round(mean.item() / math.log(2), 4)
                accuracy = parts[0].losses.correct.float().mean().item()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(seen, recipe)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            seen += sum(len(feature["input_ids"]) for feature in features)
            if step % 50 == 0:
                row = {
                    "step": step,
                    "tokens": seen,
                    "loss_bits": round(loss.item() / math.log(2), 4),
                    "accuracy": round(accuracy, 4),
                    "first_bits": round(first_bits, 4),
                    **more,
                    "tokens_per_second": round(
                        (seen - start) / (time.monotonic() - began)
                    ),
                }
                print(json.dumps(row), file=log, flush=True)
            if step % 200 == 0:
                torch.save(
                    {
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "step": step,
                        "seen": seen,
                        "phase": number,
                        "taken": {n: s.taken for n, s in streams.items()},
                    },
                    checkpoint.with_suffix(".tmp"),
                )
                checkpoint.with_suffix(".tmp").replace(checkpoint)
        for hook in hooks:
            hook.remove()
    output = work / kind
    write_checkpoint(model.half(), tokenizer, output)
    facts = {"steps": step, "tokens_seen": seen, "seed": recipe.seed}
    (output / "training.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=RECIPES)
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("COMPANION_DATA"), help="语料文件夹"
    )
    parser.add_argument("--work", type=Path, default=Path("build/starters"))
    parser.add_argument("--tokens", type=int, help="全程词元数，缺省取配方里的")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    train(args.kind, args.data, args.work, args.tokens)
