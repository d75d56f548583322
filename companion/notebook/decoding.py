"""逐个地写，与训练时一次前向，算的是不是同一件事：把两边的 logits 相减。

形状字母：n 写下的词元数，V 词表，L 行长。
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from companion.batch import IGNORE_INDEX
from companion.checkpoints.running import position_rows, special_edges
from companion.inference.decoding import Decoding, Limits, Writer, decode
from companion.inference.reading import (
    encode_prompt,
    never_written,
    without_added_spaces,
)
from companion.inference.writers import (
    BlankWriter,
    MaskWriter,
    PrefixWriter,
    read_part_a,
)
from companion.notebook.tables import Table, fixed
from companion.objectives.attention import additive_mask, mask_rule, visible_pairs
from companion.objectives.blank_infilling import (
    BlankInfillingCollator,
    find_blank_tokens,
)
from companion.objectives.prefix_lm import PrefixLMCollator
from companion.preflight.probing import adapt_batch, evaluation_mode


class _Recorder:
    """转手的 Writer，记下每一步的 logits。"""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.steps: list[Tensor] = []

    def start(self) -> Tensor:
        self.steps.append(self._writer.start())
        return self.steps[-1]

    def advance(self, tokens: Tensor) -> Tensor:
        self.steps.append(self._writer.advance(tokens))
        return self.steps[-1]

    def select(self, rows: Tensor) -> None:
        self._writer.select(rows)


def decoding_table(
    cases: Iterable[tuple[str, Any]], text: str, max_new_tokens: int = 12
) -> Table:
    """每个目标写一遍，每一步的 logits 与训练时一次前向的相减，写出最大的相差。

    Args:
        cases: （训练目标的键，检查点）；目标是 prefix_lm、unified_lm 或
            blank_infilling。
        text: 开头。
        max_new_tokens: 写几个词元；为了步数相同，不许写结尾。

    Returns:
        一个目标一行；logits 的最大绝对值与两者之比也写出来，好知道相差是大是小。
    """
    rows: list[list[str]] = []
    for objective, checkpoint in cases:
        ids, cached, whole = both_ways(checkpoint, objective, text, max_new_tokens)
        gap, largest = (float(each.abs().max()) for each in (cached - whole, whole))
        written = without_added_spaces(
            checkpoint.tokenizer, checkpoint.tokenizer.decode(ids)
        )
        numbers = [f"{gap:.0e}", fixed(largest), f"{gap / largest:.0e}"]
        rows.append([objective, written, *numbers])
    header = ["训练目标", "写下的", "logits 最大相差", "logits 最大", "相对"]
    return Table(header, rows)


def both_ways(
    checkpoint: Any, objective: str, text: str, count: int
) -> tuple[list[int], Tensor, Tensor]:
    """带缓存逐个写，再照训练时的样子一次前向。

    Returns:
        写下的词元，(n,)；两边的 logits，各 (n, V)。
    """
    ways = {
        "prefix_lm": _after_prefix,
        "unified_lm": _after_source,
        "blank_infilling": _in_blank,
    }
    with evaluation_mode(checkpoint.model):
        return ways[objective](checkpoint, encode_prompt(checkpoint, text), count)


def _written(checkpoint: Any, writer: Writer, count: int) -> tuple[list[int], Tensor]:
    """贪心写 `count` 个词元，连同每一步的 logits。"""
    recorder = _Recorder(writer)
    banned = never_written(checkpoint.tokenizer, checkpoint.model.config.vocab_size)
    limits = Limits(frozenset(), banned)
    [found] = decode(recorder, Decoding(max_new_tokens=count), limits)
    return found.ids, torch.cat(recorder.steps).float().cpu()


def _forward(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """一次前向，(L, V)。"""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    inputs = {k: v.to(model.device) for k, v in adapt_batch(model, inputs).items()}
    return model(**inputs).logits[0].float().cpu()


def _after_prefix(
    checkpoint: Any, prompt: list[int], count: int
) -> tuple[list[int], Tensor, Tensor]:
    model = checkpoint.model
    ids, cached = _written(checkpoint, PrefixWriter(model, prompt), count)
    row = {"input_ids": prompt + ids, "prefix_length": len(prompt)}
    whole = _forward(model, PrefixLMCollator(checkpoint.tokenizer)([row]))
    return ids, cached, whole[len(prompt) - 1 : -1]


def _in_blank(
    checkpoint: Any, prompt: list[int], count: int
) -> tuple[list[int], Tensor, Tensor]:
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    tokens, suffix = find_blank_tokens(tokenizer), special_edges(tokenizer).suffix
    rows = position_rows(model)
    memory = read_part_a(model, [*prompt, tokens.document_mask, *suffix])
    writer = BlankWriter(memory, tokens.start, len(prompt), rows)
    ids, cached = _written(checkpoint, writer, count)
    row = {"input_ids": [*prompt, *ids, *suffix], "prefix_length": len(prompt)}
    collator = BlankInfillingCollator(tokenizer, position_rows=2 if rows == 2 else 1)
    batch = collator([row])
    targets = batch["labels"][0] != IGNORE_INDEX  # n 个词元与 [E]
    return ids, cached, _forward(model, batch)[targets][:-1]


def _after_source(
    checkpoint: Any, prompt: list[int], count: int
) -> tuple[list[int], Tensor, Tensor]:
    """训练时 [MASK] 在哪里就猜哪里，所以每一步各是一次前向。"""
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    source = [*prompt, *special_edges(tokenizer).suffix]
    second = min(1, getattr(model.config, "type_vocab_size", 1) - 1)
    writer = MaskWriter(model, source, tokenizer.mask_token_id, (0, second))
    ids, cached = _written(checkpoint, writer, count)
    steps: list[Tensor] = []
    for done in range(len(ids)):
        row = torch.tensor([[*source, *ids[:done], tokenizer.mask_token_id]])
        documents = torch.zeros_like(row)
        rule = mask_rule("seq2seq", documents, torch.tensor([[len(source)]]))
        place = torch.arange(row.shape[1])[None]
        batch = {
            "input_ids": row,
            "attention_mask": additive_mask(visible_pairs(documents, *rule)),
            "position_ids": place,
            "token_type_ids": (place >= len(source)).long() * second,
        }
        steps.append(_forward(model, batch)[-1:])
    return ids, cached, torch.cat(steps)
