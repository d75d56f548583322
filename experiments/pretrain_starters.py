"""预训练起步模型：`starter:bert`、`bloom`、`t5`、`bart`。

    python experiments/pretrain_starters.py bert --work build/starters

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

**BART 从 BERT 热启动。** BART 也是 post-LN 配学习得来的位置，同样会停在平台上。它的编码
器三层与词嵌入抄自 `starter:bert`（同一份词表），解码器从零开始；抄法见 Rothe 等（2020，
§2）。其余照它自己的目标训练。
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
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BloomConfig,
    BloomForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from companion.corpus.packing import BlockDataset, plan_packing
from companion.corpus.reading import Document, read_documents
from companion.corpus.tokens import tokenize_documents
from companion.models.running import model_options, special_edges
from companion.models.starters import starter_path
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
WIDTH = 192
TEMPLATES = {
    "bert": {"single": "[CLS] $A [SEP]", "pair": "[CLS] $A [SEP] $B:1 [SEP]:1"},
    "t5": {"single": "$A </s>", "pair": "$A </s> $B:1 </s>:1"},
    "bart": {"single": "<s> $A </s>", "pair": "<s> $A </s> </s>:1 $B:1 </s>:1"},
}
"""分词器在两头加什么；BLOOM 不加。"""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """一个起步模型的配方；比例与阶段按词元计。"""

    objective: str
    shares: dict[str, float]
    phases: tuple[tuple[float, int, dict[str, Any]], ...]
    """(占全程的比例, 行长, 整理器的参数)，先短行后长行，遮得先多后少。"""
    tokens: int
    peak_learning_rate: float = 2e-3
    reading: float = 1.0
    """T5：编码器在哨兵处猜第一个字，这一项损失的权重。"""
    warmup_tokens: int = 400_000
    decay_share: float = 0.3
    tokens_per_step: int = 2048
    seed: int = 0


RECIPES = {
    "bert": Recipe(
        objective="masked_lm",
        shares={"classical": 0.5, "modern": 0.25, "general": 0.25},
        phases=(
            (0.4, 64, {"mlm_probability": 0.3}),
            (0.35, 128, {"mlm_probability": 0.2}),
            (0.25, POSITIONS, {"mlm_probability": 0.15}),
        ),
        tokens=5_500_000,
    ),
    "bloom": Recipe(
        objective="causal_lm",
        shares={"classical": 0.2, "modern": 0.5, "general": 0.3},
        phases=((0.4, 64, {}), (0.35, 128, {}), (0.25, POSITIONS, {})),
        tokens=3_500_000,
    ),
    "t5": Recipe(
        objective="span_corruption",
        shares={"classical": 0.5, "modern": 0.25, "general": 0.25},
        phases=(
            (0.35, 64, {"noise_density": 0.3, "mean_noise_span_length": 1.5}),
            (0.35, 128, {"noise_density": 0.3}),
            (0.3, POSITIONS, {"noise_density": 0.15}),
        ),
        tokens=3_500_000,
        tokens_per_step=1024,
        warmup_tokens=200_000,
        peak_learning_rate=2e-3,
    ),
    "bart": Recipe(
        objective="text_infilling",
        shares={"classical": 0.5, "modern": 0.25, "general": 0.25},
        phases=((0.4, 64, {}), (0.35, 128, {}), (0.25, POSITIONS, {})),
        tokens=3_500_000,
        peak_learning_rate=1e-3,
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
        names |= {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    else:
        names |= {"bos_token": "<s>", "eos_token": "</s>"}
    if kind == "bart":
        names |= {"mask_token": "[MASK]"}
    if kind in TEMPLATES:
        template = TEMPLATES[kind]
        tokenizer.post_processor = TemplateProcessing(
            **template,
            special_tokens=[
                (word, words.index(word))
                for word in SPECIAL
                if word in template["pair"]
            ],
        )
    rest = [w for w in (*SPECIAL, *EXTRA) if w not in names.values()]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        extra_special_tokens=rest,
        model_max_length=POSITIONS,
        **names,
    )


def build_model(kind: str, vocabulary: int, recipe: Recipe) -> PreTrainedModel:
    """随机初始化的模型；BERT 的前两层对准左右邻，BART 的编码器抄自 BERT。"""
    torch.manual_seed(recipe.seed)
    common: dict[str, Any] = {
        "vocab_size": vocabulary,
        "pad_token_id": 0,
        "companion_peak_learning_rate": recipe.peak_learning_rate,
    }
    if kind == "bloom":
        sizes = {"hidden_size": WIDTH, "n_layer": 4, "n_head": 4}
        return BloomForCausalLM(
            BloomConfig(**sizes, bos_token_id=5, eos_token_id=6, **common)
        )
    if kind == "t5":
        model = T5ForConditionalGeneration(
            T5Config(
                d_model=WIDTH,
                d_kv=32,
                num_heads=6,
                d_ff=512,
                num_layers=3,
                num_decoder_layers=2,
                dropout_rate=0.0,
                eos_token_id=6,
                decoder_start_token_id=0,
                **common,
            )
        )
        aim_t5(model, zipf(vocabulary))
        return model
    if kind == "bart":
        model = BartForConditionalGeneration(
            BartConfig(
                d_model=WIDTH,
                encoder_layers=3,
                decoder_layers=2,
                encoder_attention_heads=6,
                decoder_attention_heads=6,
                encoder_ffn_dim=768,
                decoder_ffn_dim=384,
                max_position_embeddings=POSITIONS,
                dropout=0.0,
                bos_token_id=5,
                eos_token_id=6,
                decoder_start_token_id=6,
                forced_eos_token_id=6,
                **common,
            )
        )
        copy_encoder_from_bert(model)
        return model
    model = BertForMaskedLM(
        BertConfig(
            hidden_size=WIDTH,
            num_hidden_layers=4,
            num_attention_heads=6,
            intermediate_size=768,
            max_position_embeddings=POSITIONS,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            **common,
        )
    )
    aim_heads_at_neighbours(model)
    return model


def zipf(vocabulary: int) -> torch.Tensor:
    """词表按频率排列，第 r 个字的对数频率约为 −ln(r + 10)，(V,)；哨兵当作常见字。"""
    ranks = torch.arange(vocabulary) - len(SPECIAL) - len(EXTRA)
    ranks[: len(SPECIAL)] = vocabulary
    ranks[SPECIAL.index("</s>")] = 0
    first = EXTRA.index("<extra_id_0>") + len(SPECIAL)
    ranks[first : first + 100] = torch.arange(100) * 4
    return -(ranks.clamp(min=0) + 10.0).log()


@torch.no_grad()
def aim_t5(model: T5ForConditionalGeneration, log_frequency: torch.Tensor) -> None:
    """T5 也会停在只会猜字频的平台上；几处起点让它走得出去。

    - 相对位置偏置：编码器的各头偏向 ±1、±2、±3，解码器的偏向左边 1 到 3 个，同 BERT 的
      道理，只是 T5 的偏置就是距离的表，直接填。
    - 交叉注意力的查询与键取同一个矩阵：解码器读到 <extra_id_3>，自然看向编码器里的
      <extra_id_3>。
    - 词嵌入抄自 `starter:bert`（同一份词表），标准差取 0.03；各层的输出缩到 0.02 倍，残
      差流里仍以词嵌入为主，哨兵认得出哨兵。T5 原来的标准差是 1：输入与输出共用词嵌入，
      一开始总猜输入的那个字，而 Adam 每步只动千分之二，久久改不过来（原用的 Adafactor
      的步长与参数的大小成比例）。
    - 字频：T5 没有一处偏置，字频只能写进残差流的一个固定方向；让它自己去找，编码器会塌
      成那个方向，不再随输入而变。这里把第 0 维给它：字字都有一份常数，另加对数频率。
    """
    for stack, offsets in (
        (model.encoder, (-1, 1, -2, 2, -3, 3)),
        (model.decoder, (0, -1, -2, -3, -1, -2)),
    ):
        attention = stack.block[0].layer[0].SelfAttention
        table = attention.relative_attention_bias.weight  # (桶, 头)
        table.zero_()
        for head, offset in enumerate(offsets):
            bucket = attention._relative_position_bucket(
                torch.tensor([[offset]]),
                bidirectional=not stack.is_decoder,
                num_buckets=table.shape[0],
            )
            table[bucket.item(), head] = 4.0
    for block in model.decoder.block:
        cross = block.layer[1].EncDecAttention
        cross.q.weight.normal_(0, 0.039)
        cross.k.weight.copy_(cross.q.weight)
    for name, parameter in model.named_parameters():
        if name.endswith((".o.weight", ".wo.weight")):
            parameter.mul_(0.02)
    bert = BertForMaskedLM.from_pretrained(starter_path("bert")).float()
    words = bert.get_input_embeddings().weight
    words = words - words.mean(0)
    words = words / words.std(0).clamp(min=1e-3)
    names = slice(len(SPECIAL), len(SPECIAL) + len(EXTRA))  # 哨兵没有学过
    words[names] = torch.randn(len(EXTRA), WIDTH)
    words = 0.03 * words
    words[:, 0] = 0.6 + 0.08 * (log_frequency - log_frequency.mean())
    model.shared.weight.copy_(words)
    model.decoder.final_layer_norm.weight.fill_(15.0)


@torch.no_grad()
def copy_encoder_from_bert(model: BartForConditionalGeneration) -> None:
    """词嵌入、位置嵌入与前几层抄自 `starter:bert`；两者都是 post-LN，逐项对应。

    BART 的位置表开头多两行；句类嵌入加进词嵌入里，因为 BART 没有。
    """
    bert = BertForMaskedLM.from_pretrained(starter_path("bert")).float().bert
    encoder, decoder = model.model.encoder, model.model.decoder
    model.model.shared.weight.copy_(
        bert.embeddings.word_embeddings.weight
        + bert.embeddings.token_type_embeddings.weight[0]
    )
    for stack in (encoder, decoder):
        stack.embed_positions.weight[2:] = bert.embeddings.position_embeddings.weight
        stack.layernorm_embedding.load_state_dict(
            bert.embeddings.LayerNorm.state_dict()
        )
    for ours, theirs in zip(encoder.layers, bert.encoder.layer, strict=False):
        pairs = (
            (ours.self_attn.q_proj, theirs.attention.self.query),
            (ours.self_attn.k_proj, theirs.attention.self.key),
            (ours.self_attn.v_proj, theirs.attention.self.value),
            (ours.self_attn.out_proj, theirs.attention.output.dense),
            (ours.self_attn_layer_norm, theirs.attention.output.LayerNorm),
            (ours.fc1, theirs.intermediate.dense),
            (ours.fc2, theirs.output.dense),
            (ours.final_layer_norm, theirs.output.LayerNorm),
        )
        for mine, source in pairs:
            mine.load_state_dict(source.state_dict())


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


def read_first(
    model: T5ForConditionalGeneration, batch: dict[str, Any]
) -> tuple[dict[str, Any], torch.Tensor]:
    """编码器在哨兵处就该猜到这一段的第一个字；返回换上编码结果的批量与平均损失。"""
    rest = dict(batch)
    inputs, labels = rest.pop("input_ids"), rest["labels"]
    encoded = model.encoder(input_ids=inputs, attention_mask=rest["attention_mask"])
    first = len(SPECIAL) + EXTRA.index("<extra_id_0>")
    asked = (inputs >= first) & (inputs < first + 100)
    heads = (labels >= first) & (labels < first + 100)
    answers = labels[heads.roll(1, dims=1)]  # 输入与目标里的哨兵次序相同
    hidden = model.decoder.final_layer_norm(encoded.last_hidden_state[asked])
    logits = model.lm_head(hidden * model.config.d_model**-0.5)
    rest["encoder_outputs"] = encoded
    return rest, torch.nn.functional.cross_entropy(logits, answers)


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
    edges = special_edges(tokenizer)
    num_edges = len(edges.prefix) + len(edges.suffix)
    document_end = [tokenizer.eos_token_id] if objective.causal else []
    ends = np.cumsum([share for share, _, _ in recipe.phases]) * recipe.tokens
    start, began = seen, time.monotonic()
    log = (work / f"{kind}.log.jsonl").open("a")
    while seen < recipe.tokens:
        while seen >= ends[phase]:
            phase, taken = phase + 1, {}
        _, block_size, options = recipe.phases[phase]
        seeded = {"seed": recipe.seed} if "seed" in objective.options else {}
        collator = objective.make_collator(
            tokenizer, **options, **seeded, **model_options(model, objective)
        )
        capacity = objective.row_capacity(collator, block_size, num_edges)
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
                seed=recipe.seed + phase,
            )
            for name, store in stores.items()
        }
        for name, count in taken.items():
            streams[name].taken = count
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
            extra: torch.Tensor | float = 0.0
            if kind == "t5":
                batch, extra = read_first(model, batch)
            losses = target_losses(model, batch, causal=objective.causal)
            loss = losses.total_nats / len(losses.nats) + recipe.reading * extra
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
                    "bits_per_target": round(float(loss.detach()) / math.log(2), 4),
                    "accuracy": round(float(losses.correct.float().mean()), 4),
                    "reading": round(float(extra) / math.log(2), 4),
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
