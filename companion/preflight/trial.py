"""试读：拿几句话照训练时的样子破坏、装批，看整理器造不造得出，模型读不读得通。

体检的几项（特殊词元、输出头、填充）都从这里取批量，所以不管哪个目标、哪种模型，查的就是
训练时要走的那条路。试读的题是固定的，不碰全局的随机状态。
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from companion.batch import Batch, Feature
from companion.checkpoints.running import (
    DEFAULT_BLOCK_SIZE,
    model_options,
    position_limit,
    special_edges,
)
from companion.corpus.tokenization import text_ids
from companion.objectives import Objective
from companion.objectives.collate import Example
from companion.preflight.leaks import plain_ids
from companion.preflight.probing import adapt_batch, evaluation_mode, takes

_MAX_SENTENCES, _MAX_TOKENS = 16, 60
"""试读的句数与每句的词元数。"""


@dataclass(frozen=True)
class Trial:
    """试读的题。"""

    collator: Any
    """配好的整理器，参数同评估出题时。"""
    examples: list[Example]
    """每句一个样本。"""
    longer: Example | None
    """第一句连写两遍：与它同批，第一句就要填充。没有句子时为 None。"""
    packed: Example | None
    """两句各作一篇，装在一行。放不下，或句子不够时为 None。"""


def make_trial(
    model: Any,
    tokenizer: Any,
    goal: Objective,
    texts: Sequence[str],
    block_size: int | None = None,
) -> Trial:
    """出试读的题。

    Args:
        model: 受检的模型。
        tokenizer: 它的分词器。
        goal: 训练目标。
        texts: 语料里的文字。
        block_size: 打算用的行长；缺省取 512 与模型上限之小者。

    Raises:
        ObjectiveError: 分词器或文字与目标不合：没有掩码或哨兵，哨兵不够一行用，原文里已
            有它们。
        ModelError: 模型的设置里缺了目标要的一项。
    """
    collator = goal.make_collator(
        tokenizer, **{**goal.frozen_options, **model_options(model, goal)}
    )
    prefix, suffix = special_edges(tokenizer)
    limit = position_limit(model)
    row = block_size or min(DEFAULT_BLOCK_SIZE, limit or DEFAULT_BLOCK_SIZE)
    goal.row_capacity(collator, row, len(prefix) + len(suffix))
    # 连写两遍也要放得下
    room = max(0, min(_MAX_TOKENS, ((limit or row) - len(prefix) - len(suffix)) // 2))
    bodies = [text_ids(text, tokenizer)[:room] for text in texts[:_MAX_SENTENCES]]
    bodies = [body for body in bodies if body]

    def feature(number: int, body: list[int]) -> Feature:
        whole = [*prefix, *body, *suffix]
        if goal.pairs_required:  # 自己作自己的译文
            starts = [0, len(whole)]
            return {
                "input_ids": whole * 2,
                "document_starts": starts,
                "example_id": number,
            }
        return {"input_ids": whole, "example_id": number}

    features = [feature(number, body) for number, body in enumerate(bodies)]
    longer: list[Example] = []
    if bodies:
        longer = collator.examples([feature(len(bodies), bodies[0] * 2)])
    packed: list[Example] = []
    short = [body[: room - len(prefix) - len(suffix)] for body in bodies[:2]]
    if goal.packable and len(short) == 2 and all(short):
        rows = [[*prefix, *body, *suffix] for body in short]
        pair: Feature = {
            "input_ids": rows[0] + rows[1],
            "document_starts": [0, len(rows[0])],
            "example_id": len(bodies) + 1,
        }
        packed = collator.examples([pair])
    return Trial(
        collator,
        collator.examples(features) if features else [],
        longer[0] if longer else None,
        packed[0] if packed else None,
    )


def trial_batch(model: Any, trial: Trial, examples: Sequence[Example]) -> Batch:
    """整理器的批量，在模型的设备上，不用键值缓存；喂模型之前还要 `adapt_batch`。"""
    batch = trial.collator.collate(examples)
    batch = {name: value.to(model.device) for name, value in batch.items()}
    if takes(model, "use_cache"):
        batch["use_cache"] = False  # type: ignore[assignment]
    return batch


def packed_leak(model: Any, trial: Trial, example: Example) -> float:
    """装在一行的两篇，换掉一篇的输入，另一篇的输出变了多少，相对于输出幅度。

    批量由目标自己的整理器造出，掩码、位置与训练时一样；换词元而不换掩码，两篇各换一次，取
    大者。

    Args:
        model: 受检的模型；在评估模式下试，试完还原。
        trial: 试读的题。
        example: 一行两篇的样本。
    """
    batch = adapt_batch(model, trial_batch(model, trial, [example]))
    places = example.decoder_documents  # (K,)
    if places is None:
        places = example.documents
    if example.decoder_visible is not None:  # 没有内容处的输出无意义
        places = places.masked_fill(~example.decoder_visible, -1)
    owners = {"input_ids": example.documents, "decoder_input_ids": places}
    original = _logits(model, batch)  # (K, V)
    change = 0.0
    for document in (0, 1):
        changed = dict(batch)
        for name, owner in owners.items():
            if name in batch:
                ids = batch[name].clone()  # (1, L)
                there = (owner == document).nonzero()[:, 0]
                other = plain_ids(model.config, len(there)).to(ids.device)
                ids[0, there] = other
                changed[name] = ids
        others = (places == 1 - document).nonzero()[:, 0]
        difference = _logits(model, changed)[others] - original[others]
        change = max(change, float(difference.abs().max()))
    return change / max(float(original.abs().max()), 1e-12)


def _logits(model: Any, batch: Batch) -> Any:
    """一行的输出，(K, V) float32。"""
    from companion.losses.parts import word_logits
    from companion.losses.target_head import cross_attention

    inputs = dict(batch)
    mask = inputs.pop("cross_attention_mask", None)
    with evaluation_mode(model), cross_attention(model, mask):
        return word_logits(model, inputs)[0].float().cpu()
