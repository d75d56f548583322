"""下游的用处：文言译白话。同样的句对、同样的步数，只有起点不同。

    泠水不欺人。  →  泠水不欺骗人。

编码器读文言，解码器写白话，目标里没有掩码与哨兵；这一步是微调，不是继续预训练。只有解码器
的模型也做得到：文言在前，末尾一个 [gMASK]，空里写白话，样本给出 `prefix_length`。

形状字母：B 句对数，L 文言一侧的长，K 白话一侧的长。
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from companion.batch import IGNORE_INDEX, Batch
from companion.checkpoints.running import adapt_batch, model_options, special_edges
from companion.corpus import read_corpus
from companion.corpus.sources import NAMED
from companion.errors import CorpusError
from companion.evaluation.chrf import chrf
from companion.inference.completion import complete
from companion.inference.reading import (
    require_causal,
    require_seq2seq,
    without_added_spaces,
)
from companion.losses.target_head import target_losses
from companion.notebook.tables import Table
from companion.objectives import get_objective
from companion.objectives.collate import pad_rows
from companion.preflight.device import best_device

Pair = tuple[str, str]
_WARMUP = 0.1
_DECODED_TOGETHER = 50
ROOM = 16
"""译文比最长的参考译文还能多写几个词元。"""


@dataclass(frozen=True, kw_only=True)
class TranslationPlan:
    """一档的微调：用多长的句对，训练多少步，考多少句。"""

    max_chars: int
    """一侧至多多少字；更长的句对不用。"""
    num_valid: int
    """考多少句。"""
    steps: int
    batch_size: int
    """一步几个句对。"""
    learning_rate: float


TRANSLATION: dict[str, TranslationPlan] = {
    "tiny": TranslationPlan(
        max_chars=32, num_valid=40, steps=30, batch_size=8, learning_rate=1e-3
    ),
    "t4": TranslationPlan(
        max_chars=64, num_valid=500, steps=1500, batch_size=16, learning_rate=5e-5
    ),
    "full": TranslationPlan(
        max_chars=64, num_valid=2000, steps=6000, batch_size=32, learning_rate=5e-5
    ),
}
"""档 → 微调的设置。"""


def sentence_pairs(
    corpus: str, plan: TranslationPlan, seed: int = 0
) -> tuple[list[Pair], list[Pair]]:
    """语料的句对：训练用的全部，考试用的随机抽取。

    Args:
        corpus: 有名字的语料（写了哪一侧都行，两侧一起取），或装着句对的文件。
        plan: 多长的句对、考多少句。
        seed: 抽哪些句子来考。

    Returns:
        训练集与留出集的（文言，白话）。

    Raises:
        CorpusError: 语料没有句对或留出集，或没有一对够短。
    """
    name = corpus.partition(":")[0]
    spec = f"{name}:pairs" if name in NAMED else corpus
    train, valid = (
        [
            (document.text, document.target)
            for document in read_corpus(spec, split)
            if document.target is not None
            and max(len(document.text), len(document.target)) <= plan.max_chars
        ]
        for split in ("train", "valid")
    )
    if not train or not valid:
        raise CorpusError(
            found=f"{spec} 里没有一侧不超过 {plan.max_chars} 字的句对",
            expected="训练集与留出集各至少一对",
            remedy="用 sample 或 tongjian，或放宽 max_chars",
        )
    return train, random.Random(seed).sample(valid, min(plan.num_valid, len(valid)))


def finetune(
    checkpoint: Any, pairs: Sequence[Pair], plan: TranslationPlan, seed: int = 0
) -> Any:
    """在句对上微调编码器–解码器，就地改动模型。

    Args:
        checkpoint: 编码器–解码器的检查点。
        pairs: （文言，白话）。
        plan: 步数、一步几对、学习率。
        seed: 每步取哪些句对；起点不同而种子相同，读的就相同。

    Returns:
        同一个检查点，已放到最好的设备上。

    Raises:
        ModelError: 不是编码器–解码器。
    """
    require_seq2seq(checkpoint)
    return fit_pairs(checkpoint, pairs, plan, seed, make_batch=translation_batch)


def fit_pairs(
    checkpoint: Any,
    pairs: Sequence[Pair],
    plan: TranslationPlan,
    seed: int,
    *,
    make_batch: Callable[[Any, Sequence[Pair]], Batch],
) -> Any:
    """微调的循环：AdamW，线性预热，余弦降到零；标签都与输出同列。

    Args:
        checkpoint: 要微调的检查点，就地改动。
        pairs: （文言，白话）。
        plan: 步数、一步几对、学习率。
        seed: 每步取哪些句对。
        make_batch: （检查点，句对）→ 批量。
    """
    from transformers import get_cosine_schedule_with_warmup, set_seed

    set_seed(seed)
    order = random.Random(seed)
    model = checkpoint.model.to(best_device(checkpoint.model.config.model_type).kind)
    optimizer = torch.optim.AdamW(model.parameters(), plan.learning_rate)
    schedule = get_cosine_schedule_with_warmup(
        optimizer, round(_WARMUP * plan.steps), plan.steps
    )
    model.train()
    for _ in range(plan.steps):
        chosen = order.sample(pairs, min(plan.batch_size, len(pairs)))
        batch = make_batch(checkpoint, chosen)
        batch = {key: value.to(model.device) for key, value in batch.items()}
        losses = target_losses(model, batch, causal=False)
        (losses.total_nats / len(losses.nats)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()
    return checkpoint


def translation_batch(checkpoint: Any, pairs: Sequence[Pair]) -> Batch:
    """句对 → 批量：标签照抄白话，解码器的输入右移一格。

    Returns:
        `input_ids`、`attention_mask` (B, L)，`labels`、`decoder_input_ids` (B, K)，
        都是 int64。
    """
    tokenizer = checkpoint.tokenizer
    start, pad = checkpoint.model.config.decoder_start_token_id, tokenizer.pad_token_id
    sources, targets = (
        [torch.tensor(ids) for ids in tokenizer(list(side))["input_ids"]]
        for side in zip(*pairs, strict=True)
    )
    shifted = [torch.cat([ids.new_tensor([start]), ids[:-1]]) for ids in targets]
    seen = [torch.ones_like(ids) for ids in sources]

    def padded(rows: list[Tensor], value: int) -> Tensor:
        return pad_rows(rows, value, max(map(len, rows)))

    return {
        "input_ids": padded(sources, pad),
        "attention_mask": padded(seen, 0),
        "decoder_input_ids": padded(shifted, pad),
        "labels": padded(targets, IGNORE_INDEX),
    }


@torch.no_grad()
def translate(checkpoint: Any, sources: Sequence[str], max_chars: int) -> list[str]:
    """贪心地译，一句一项。

    Args:
        checkpoint: 微调过的编码器–解码器。
        sources: 文言。
        max_chars: 参考译文至多多少字；再多写十几个词元就截断。
    """
    require_seq2seq(checkpoint)
    model, tokenizer = checkpoint.model.eval(), checkpoint.tokenizer
    written: list[str] = []
    for first in range(0, len(sources), _DECODED_TOGETHER):
        batch = tokenizer(
            list(sources[first : first + _DECODED_TOGETHER]),
            padding=True,
            return_tensors="pt",
        ).to(model.device)
        ids = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=max_chars + ROOM,
            do_sample=False,
            num_beams=1,
        )
        texts = tokenizer.batch_decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        written += [without_added_spaces(tokenizer, each).strip() for each in texts]
    return written


def translations_table(
    translators: Mapping[str, Any],
    pairs: Sequence[Pair],
    max_chars: int,
    show: int = 4,
    write: Callable[[Any, Sequence[str], int], list[str]] = translate,
) -> Table:
    """每个检查点各译一遍，写出前几句；最后是全部句子的 chrF，照抄原文的也算一份。

    Args:
        translators: 名字 → 微调过的检查点。
        pairs: 留出集的（文言，白话）。
        max_chars: 同 `translate`。
        show: 写出几句。
        write: 怎样译，参数同 `translate`。
    """
    sources, references = (list(side) for side in zip(*pairs, strict=True))
    written = {
        name: write(each, sources, max_chars) for name, each in translators.items()
    }
    rows: list[list[str]] = []
    for at in range(min(show, len(pairs))):
        rows.append([str(at + 1), "文言", sources[at]])
        rows.append(["", "人译", references[at]])
        rows += [["", name, texts[at]] for name, texts in written.items()]
    rows.append(["chrF", "照抄文言", f"{chrf(sources, references):.1f}"])
    rows += [
        ["", name, f"{chrf(texts, references):.1f}"] for name, texts in written.items()
    ]
    return Table(["句", "谁写的", f"共 {len(pairs)} 句"], rows)


def finetune_blank(
    checkpoint: Any, pairs: Sequence[Pair], plan: TranslationPlan, seed: int = 0
) -> Any:
    """在句对上微调 GLM，就地改动模型。

    Args:
        checkpoint: 用 blank_infilling 训练过的检查点。
        pairs: （文言，白话）。
        plan: 步数、一步几对、学习率。
        seed: 每步取哪些句对。

    Returns:
        同一个检查点，已放到最好的设备上。

    Raises:
        ModelError: 不是只有解码器的模型。
        ObjectiveError: 分词器缺写空的词元，或句对长过模型的位置。
    """
    require_causal(checkpoint)
    return fit_pairs(checkpoint, pairs, plan, seed, make_batch=blank_batch)


def blank_batch(checkpoint: Any, pairs: Sequence[Pair]) -> Batch:
    """句对 → 批量：文言是前缀，白话是一个文档级的空，标签与输入对齐。"""
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    goal, edges = get_objective("blank_infilling"), special_edges(tokenizer)
    collator = goal.make_collator(tokenizer, **model_options(model, goal))
    features: list[dict[str, Any]] = []
    for number, pair in enumerate(pairs):
        source, target = tokenizer(list(pair), add_special_tokens=False)["input_ids"]
        features.append(
            {
                "input_ids": [*edges.prefix, *source, *target, *edges.suffix],
                "prefix_length": len(edges.prefix) + len(source),
                "example_id": number,
            }
        )
    return adapt_batch(model, collator(features))


def write_after(checkpoint: Any, sources: Sequence[str], max_chars: int) -> list[str]:
    """逐句：双向地读文言，贪心地写后面的空。

    Args:
        checkpoint: GLM。
        sources: 文言。
        max_chars: 参考译文至多多少字；再多写十几个词元就截断。
    """
    return [
        complete(checkpoint, each, max_chars + ROOM, objective="blank_infilling")[
            0
        ].new_text
        for each in sources
    ]
