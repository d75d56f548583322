"""开头双向地读的几种续写：前缀语言模型、UniLM 与 GLM。

| 目标 | 模型 | 读什么 | 怎样写 |
|---|---|---|---|
| prefix_lm | 只有解码器 | 开头 | 逐个往下写（`prefix_writing`） |
| prefix_lm | 编码器–解码器 | 开头进编码器 | 由解码器写 |
| unified_lm | BERT 一类 | [CLS] 开头 [SEP] | 末尾追加 [MASK]（`mask_writing`） |
| blank_infilling | GLM、Llama… | 开头 [gMASK] | 写这一个空（`blank_writing`） |

写到哪里为止，也照训练时的样子：依次是文档结尾、[SEP]、[eop]。

形状字母：V 词表。
"""

from collections.abc import Iterable
from typing import Any

import torch

from companion.checkpoints.running import (
    model_options,
    position_limit,
    position_rows,
    special_edges,
)
from companion.errors import ModelError, ObjectiveError
from companion.inference.blank_writing import BlankWriter, read_part_a
from companion.inference.decoding import Decoding, Limits, Writer, decode
from companion.inference.mask_writing import MaskWriter
from companion.inference.prefix_writing import EncodedWriter, PrefixWriter
from companion.inference.prompt import (
    Completion,
    as_completion,
    encode_prompt,
    stop_ids,
)
from companion.inference.running import require_causal, require_masked
from companion.inference.writable import never_written
from companion.losses.target_head import inner_model
from companion.objectives import get_objective
from companion.objectives.blanks import find_blank_tokens
from companion.objectives.unified_lm import SEGMENTS
from companion.preflight.mask_support import require_mask
from companion.preflight.probing import evaluation_mode


def complete_after_prefix(
    checkpoint: Any, text: str, objective: str, how: Decoding
) -> list[Completion]:
    """双向地读开头，再往下写。

    Args:
        checkpoint: 用 `objective` 训练过的检查点。
        text: 开头。
        objective: prefix_lm、unified_lm 或 blank_infilling。
        how: 怎样选词元。

    Raises:
        ModelError: 模型与目标不合，不收它的掩码，或开头太长。
        ObjectiveError: 开头没有词元，分词器缺要用的词元，或这个目标不会续写。
    """
    ways = {
        "prefix_lm": _after_prefix,
        "unified_lm": _after_source,
        "blank_infilling": _before_blank,
    }
    if objective not in ways:
        raise ObjectiveError(
            found=f"目标 {get_objective(objective).key} 不会续写",
            expected=f"causal_lm、{'、'.join(ways)} 之一",
            remedy="填空用 fill，填补用 infill",
        )
    model = inner_model(checkpoint.model)
    with evaluation_mode(model):
        return ways[objective](checkpoint, model, text, how)


def _after_prefix(
    checkpoint: Any, model: Any, text: str, how: Decoding
) -> list[Completion]:
    tokenizer, limit = checkpoint.tokenizer, position_limit(model)
    prompt = encode_prompt(checkpoint, text)
    if model.config.is_encoder_decoder:
        edges = special_edges(tokenizer)
        goal = get_objective("prefix_lm").for_config(model.config)
        start = model_options(model, goal)["decoder_start_token_id"]
        forced = [start, *edges.prefix]
        _require_room(checkpoint, len(prompt) + len(edges.suffix), limit)
        writer: Writer = EncodedWriter(model, [*prompt, *edges.suffix], forced)
        stops = {*stop_ids(model, tokenizer), *edges.suffix[:1]}
        used = len(forced)
    else:
        require_causal(checkpoint)
        require_mask(model, "prefix")
        writer = PrefixWriter(model, prompt)
        stops, used = stop_ids(model, tokenizer), len(prompt)
    how = how if limit is None else how.at_most(limit - used)
    return _written(checkpoint, text, prompt, writer, how, stops)


def _after_source(
    checkpoint: Any, model: Any, text: str, how: Decoding
) -> list[Completion]:
    require_masked(checkpoint)
    require_mask(model, "seq2seq")
    tokenizer, limit = checkpoint.tokenizer, position_limit(model)
    if tokenizer.sep_token_id is None:
        raise ObjectiveError(
            found=f"分词器 {type(tokenizer).__name__} 没有 sep_token（[SEP]）",
            expected="UniLM 的分词器有 [SEP]，用它隔开源端与目标端、结束目标端",
            remedy="换一个 BERT 类的检查点",
        )
    prompt = encode_prompt(checkpoint, text)
    source = [*prompt, *special_edges(tokenizer).suffix]
    _require_room(checkpoint, len(source) + 2, limit)
    kinds = getattr(model.config, "type_vocab_size", 0) or 0
    segments = SEGMENTS["seq2seq"] if kinds >= 6 else (0, 1) if kinds >= 2 else (0, 0)
    writer = MaskWriter(model, source, tokenizer.mask_token_id, segments)
    how = how if limit is None else how.at_most(limit - len(source))
    return _written(checkpoint, text, prompt, writer, how, [tokenizer.sep_token_id])


def _before_blank(
    checkpoint: Any, model: Any, text: str, how: Decoding
) -> list[Completion]:
    require_causal(checkpoint)
    require_mask(model, "prefix")
    tokenizer, limit = checkpoint.tokenizer, position_limit(model)
    tokens = find_blank_tokens(tokenizer, sentences=False, documents=False)
    mask = tokens.mask if tokens.document_mask < 0 else tokens.document_mask
    prompt = encode_prompt(checkpoint, text)
    part_a = [*prompt, mask, *special_edges(tokenizer).suffix]
    _require_room(checkpoint, len(part_a), limit)
    rows = position_rows(model)
    writer = BlankWriter(read_part_a(model, part_a), tokens.start, len(prompt), rows)
    if limit is not None and rows == 2:
        how = how.at_most(limit - 2)  # 第二行从 1 数起，[S] 也占一个
    return _written(checkpoint, text, prompt, writer, how, [tokens.end])


def _written(
    checkpoint: Any,
    text: str,
    prompt: list[int],
    writer: Writer,
    how: Decoding,
    stops: Iterable[int],
) -> list[Completion]:
    model, tokenizer = inner_model(checkpoint.model), checkpoint.tokenizer
    banned = never_written(tokenizer, model.config.vocab_size)
    with torch.no_grad():
        found = decode(writer, how, Limits(frozenset(stops), banned))
    return [
        as_completion(tokenizer, text, prompt, each.ids, finished=each.finished)
        for each in found
    ]


def _require_room(checkpoint: Any, used: int, limit: int | None) -> None:
    if limit is not None and used > limit:
        raise ModelError(
            found=f"开头连同特殊词元有 {used} 个词元",
            expected=f"不超过 {checkpoint.name} 的位置上限 {limit}",
            remedy="截短开头，只留最后几句",
        )
