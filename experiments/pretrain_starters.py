"""从零预训练起步模型：`starter:bert` 与 `starter:bloom`。

    python experiments/pretrain_starters.py bert --work build/starters
    python experiments/pretrain_starters.py bloom --work build/starters

环境变量 COMPANION_DATA（或 --data）指语料文件夹，内有 `base/`（《资治通鉴》以外的史籍，
文白对照）与 `general/`（现代汉语）。起步模型从未见过《资治通鉴》，于是“继续预训练学到了
什么”才有得量。

每 200 步存一次检查点，被打断后同一条命令接着跑。学习率是 WSD（预热、恒定、线性衰减）。
训练完写出半精度权重、模型卡与散列到 `companion/models/starters/`；留出集上的每字符比特
数由 `experiments/score_starters.py` 补进模型卡。

**BERT 怎样走出平台期。** 小型 post-LN BERT 配学习得来的位置，会在只会猜标点的平台上停几
千步，因为注意力要先自己发现“左邻右舍”。这里前两层的查询与键在初始化时就对准固定的偏移：位置嵌入取
随机频率的正弦，第 h 个头的查询是键转过偏移 o_h 的角度，softmax 因而集中在 i + o_h 上。
架构仍是原样的 `BertForMaskedLM`，只是起点不同；四十万个词元之后，非标点的命中率已是平台
的数倍。
"""

import argparse
import json
import math
import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BloomConfig,
    BloomForCausalLM,
    PreTrainedTokenizerFast,
)

from companion.corpus.packing import BlockDataset, plan_packing
from companion.corpus.reading import Document, read_documents
from companion.corpus.tokens import tokenize_documents
from companion.models.target_head import target_losses
from companion.objectives import get_objective

VOCABULARY_SIZE = 8000
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "</s>")
EXTRA = (
    "[sMASK]",
    "[gMASK]",
    "[sop]",
    "[eop]",
    *(f"<extra_id_{i}>" for i in range(100)),
)
POSITIONS = 256


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """一个起步模型的配方；比例与阶段按词元计。"""

    objective: str
    shares: dict[str, float]
    phases: tuple[tuple[float, int, float], ...]
    """(占全程的比例, 行长, 掩码率)，先短行后长行，先难后易。"""
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
        phases=((0.4, 64, 0.3), (0.35, 128, 0.2), (0.25, POSITIONS, 0.15)),
        tokens=5_500_000,
    ),
    "bloom": Recipe(
        objective="causal_lm",
        shares={"classical": 0.2, "modern": 0.5, "general": 0.3},
        phases=((0.4, 64, 0.0), (0.35, 128, 0.0), (0.25, POSITIONS, 0.0)),
        tokens=3_500_000,
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


def build_tokenizer(
    sources: dict[str, list[Document]], kind: str
) -> PreTrainedTokenizerFast:
    """单字词表：特殊词元，加上语料里最常见的字，共 8,000 个。"""
    counts: Counter[str] = Counter()
    for documents in sources.values():
        for document in documents:
            counts.update(document.text)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    characters = [c for c, _ in ranked if not c.isspace()]
    words = [*SPECIAL, *EXTRA, " ", *characters][:VOCABULARY_SIZE]
    tokenizer = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    names: dict[str, Any] = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    if kind == "bert":
        tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
        names |= {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    else:
        names |= {"bos_token": "<s>", "eos_token": "</s>"}
    rest = [w for w in (*SPECIAL, *EXTRA) if w not in names.values()]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        extra_special_tokens=rest,
        model_max_length=POSITIONS,
        **names,
    )


def build_model(kind: str, vocabulary: int, recipe: Recipe) -> torch.nn.Module:
    """随机初始化的模型；BERT 的前两层对准左右邻。"""
    torch.manual_seed(recipe.seed)
    if kind == "bloom":
        return BloomForCausalLM(
            BloomConfig(
                vocab_size=vocabulary,
                hidden_size=192,
                n_layer=4,
                n_head=4,
                bos_token_id=5,
                eos_token_id=6,
                pad_token_id=0,
                companion_peak_learning_rate=recipe.peak_learning_rate,
            )
        )
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=vocabulary,
            hidden_size=192,
            num_hidden_layers=4,
            num_attention_heads=6,
            intermediate_size=768,
            max_position_embeddings=POSITIONS,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=0,
            companion_peak_learning_rate=recipe.peak_learning_rate,
        )
    )
    aim_heads_at_neighbours(model)
    return model


@torch.no_grad()
def aim_heads_at_neighbours(
    model: BertForMaskedLM,
    *,
    num_layers: int = 2,
    offsets: tuple[int, ...] = (-1, 1, -2, 2, -3, 3),
    position_width: int = 64,
    word_std: float = 0.05,
    sharpness: float = 1.4,
) -> None:
    """让前几层的每个头一开始就看着固定的偏移。

    隐藏状态的前 `position_width` 维归位置，其余归词。位置 j 的特征是一组 (sin w_f j,
    cos w_f j)，频率 w_f 在 (0, π) 上均匀抽取；键直接读它，查询读它转过 w_f·o 的结果，于
    是 q_i·k_j ∝ Σ_f cos(w_f (i + o − j))，在 j = i + o 处最大。
    """
    embeddings = model.bert.embeddings
    half = position_width // 2
    frequencies = torch.rand(half, generator=torch.Generator().manual_seed(1)) * math.pi
    angles = torch.arange(POSITIONS)[:, None] * frequencies  # (P, half)
    embeddings.word_embeddings.weight.normal_(0, word_std)
    embeddings.word_embeddings.weight[:, :position_width] = 0
    embeddings.token_type_embeddings.weight.zero_()
    embeddings.position_embeddings.weight.zero_()
    waves = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
    embeddings.position_embeddings.weight[:, :position_width] = (
        math.sqrt(2) * word_std * waves
    )
    head_width = model.config.hidden_size // model.config.num_attention_heads
    gain = math.sqrt(sharpness)
    for layer in model.bert.encoder.layer[:num_layers]:
        attention = layer.attention
        query, key = attention.self.query.weight, attention.self.key.weight
        for head, offset in enumerate(offsets):
            used = range(head % 2, half, 2)[: head_width // 2]
            for slot, f in enumerate(used):
                turn = float(frequencies[f]) * offset
                sine, cosine = gain * math.sin(turn), gain * math.cos(turn)
                row, column = head * head_width + 2 * slot, 2 * f
                block = slice(row, row + 2), slice(column, column + 2)
                query[row : row + 2] = key[row : row + 2] = 0
                key[block] = gain * torch.eye(2)
                query[block] = torch.tensor([[cosine, sine], [-sine, cosine]])
        attention.self.value.weight.normal_(0, word_std)
        attention.output.dense.weight.normal_(0, word_std)


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
    rng = np.random.default_rng((7, step))
    first = rng.integers(0, POSITIONS - length + 1, rows) * rng.integers(0, 2, rows)
    return torch.from_numpy(first)[:, None] + torch.arange(length)


def learning_rate(tokens: int, recipe: Recipe) -> float:
    """WSD：线性预热，恒定，末段线性衰减到零。"""
    left = (recipe.tokens - tokens) / (recipe.decay_share * recipe.tokens)
    factor = min(1.0, tokens / recipe.warmup_tokens, max(0.0, left))
    return recipe.peak_learning_rate * factor


def train(kind: str, data: Path, work: Path, tokens: int | None) -> None:
    """训练到底，或从检查点接着训练，最后写出起步模型。"""
    recipe = RECIPES[kind]
    if tokens is not None:
        recipe = Recipe(**{**vars(recipe), "tokens": tokens})
    objective = get_objective(recipe.objective)
    sources = read_sources(data)
    tokenizer = build_tokenizer(sources, kind)
    stores = {
        name: tokenize_documents(documents, tokenizer, cache_dir=work / "cache")
        for name, documents in sources.items()
    }
    model = build_model(kind, len(tokenizer), recipe)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=0.0, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01
    )
    checkpoint = work / f"{kind}.pt"
    step = seen = phase = 0
    taken: dict[str, int] = {}
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, seen, phase, taken = (
            state[k] for k in ("step", "seen", "phase", "taken")
        )
    wrap = (
        {"prefix_ids": [2], "suffix_ids": [3]}
        if kind == "bert"
        else {"document_end_ids": [6]}
    )
    ends = np.cumsum([share for share, _, _ in recipe.phases]) * recipe.tokens
    start, began = seen, time.monotonic()
    log = (work / f"{kind}.log.jsonl").open("a")
    while seen < recipe.tokens:
        while seen >= ends[phase]:
            phase, taken = phase + 1, {}
        _, block_size, probability = recipe.phases[phase]
        streams = {
            name: Stream(
                BlockDataset(
                    store,
                    plan_packing(
                        store.lengths,
                        block_size,
                        pack=False,
                        overhead_per_piece=2 if kind == "bert" else 0,
                        overhead_per_document=0 if kind == "bert" else 1,
                    ),
                    **wrap,
                ),
                seed=recipe.seed + phase,
            )
            for name, store in stores.items()
        }
        for name, count in taken.items():
            streams[name].taken = count
        options = (
            {"mlm_probability": probability, "seed": recipe.seed}
            if kind == "bert"
            else {}
        )
        collator = objective.make_collator(tokenizer, **options)
        while seen < ends[phase] and seen < recipe.tokens:
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
            losses = target_losses(model, batch, causal=objective.causal)
            loss = losses.total_nats / len(losses.nats)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(seen, recipe)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            seen += int(batch["attention_mask"].sum())
            if step % 50 == 0:
                row = {
                    "step": step,
                    "tokens": seen,
                    "bits_per_target": round(float(loss.detach()) / math.log(2), 4),
                    "accuracy": round(float(losses.correct.float().mean()), 4),
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
                        "phase": phase,
                        "taken": {n: s.taken for n, s in streams.items()},
                    },
                    checkpoint.with_suffix(".tmp"),
                )
                checkpoint.with_suffix(".tmp").replace(checkpoint)
    output = work / kind
    model.half().save_pretrained(output)
    tokenizer.save_pretrained(output)
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
