"""逐个词元地填：遮住指定的几个，让模型照训练时的样子一个一个地猜。

与 `infill` 不同，缺几个词元是事先知道的；遮法由训练目标的整理器给出，所以 T5 的哨兵、
BART 的掩码、MASS 的整行、前缀模型的切点、GLM 的空都走同一条路。报告里的填空题用它。

形状字母：T 正文的词元数，N 遮住的词元数，V 词表。
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from companion.batch import IGNORE_INDEX
from companion.checkpoints.running import special_edges
from companion.losses.target_head import inner_model
from companion.preflight.probing import adapt_batch, evaluation_mode, takes


@dataclass(frozen=True)
class TokenFilling:
    """遮住的几个词元各猜成什么。"""

    guess: list[int]
    """逐个猜的词元，前面猜的作后面的上文，N 个。"""
    guess_probability: float
    """猜的这一串的概率。"""
    answer_probability: float
    """原来那一串的概率（前面给的都是原文）。"""
    rank: int
    """原来的词元在各处的名次，取最差的一处；1 是第一名。"""


@torch.no_grad()
def fill_tokens(
    checkpoint: Any,
    collator: Any,
    input_ids: list[int],
    noise: list[bool],
    *,
    causal: bool = False,
) -> TokenFilling:
    """遮住指定的词元，照训练时的样子让模型逐个猜。

    Args:
        checkpoint: 与整理器相配的检查点。
        collator: 训练目标的整理器，有 `hide`：编码器–解码器的各个，以及
            `PrefixLMCollator`、`BlankInfillingCollator`。
        input_ids: 正文，不带首尾的特殊词元，(T,)。
        noise: 遮住哪些，(T,)。
        causal: 位置 t 的输出对位置 t + 1 的标签（`Objective.causal`）。
    """
    model = inner_model(checkpoint.model)
    edges = special_edges(checkpoint.tokenizer)
    feature = {"input_ids": [*edges.prefix, *input_ids, *edges.suffix]}
    example = collator.hide(feature, np.array(noise))
    batch = adapt_batch(model, collator.collate([example]))
    device = next(model.parameters()).device
    batch = {name: value.to(device) for name, value in batch.items()}
    wanted = batch.pop("labels")[0]
    whole = torch.tensor(
        [*(False for _ in edges.prefix), *noise, *(False for _ in edges.suffix)]
    )
    asked = whole[example.origin.clamp(min=0)] & (example.origin >= 0)
    at = (asked & (example.labels != IGNORE_INDEX)).nonzero()[:, 0]  # (N,)
    options = {"use_cache": False} if takes(model, "use_cache") else {}
    with evaluation_mode(model):
        rows = at - int(causal)  # 预测由哪一行作出
        told = model(**batch, **options).logits[0, rows].float().softmax(-1)  # (N, V)
        chosen = told.gather(1, wanted[at][:, None])
        guess: list[int] = []
        probability = 1.0
        inputs = batch.get("decoder_input_ids", batch["input_ids"])
        for place in rows.tolist():
            logits = model(**batch, **options).logits[0, place]
            best = logits.float().softmax(-1).max(0)
            guess.append(int(best.indices))
            probability *= float(best.values)
            if place + 1 < inputs.shape[1]:
                inputs[0, place + 1] = best.indices
    return TokenFilling(
        guess,
        probability,
        float(chosen.prod()),
        int((told > chosen).sum(-1).max()) + 1,
    )
