"""带缓存逐个地写，与训练时一次前向算的是同一件事：logits 相差不到 1e-5（float32）。"""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from companion.checkpoints.running import adapt_batch
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.inference.decoding import Decoding, Limits, decode
from companion.inference.writers import (
    BlankWriter,
    EncodedWriter,
    MaskWriter,
    Memory,
    PrefixWriter,
    read_part_a,
)
from companion.objectives.attention import additive_mask, mask_rule, visible_pairs
from companion.objectives.blank_infilling import (
    BlankInfillingCollator,
    BlankTokens,
    blank_out,
)
from companion.objectives.collate import make_example
from companion.objectives.prefix_lm import PrefixLMCollator, PrefixSeq2SeqCollator

DECODERS = ("gpt2", "llama", "qwen3", "glm", "glm_two_row")
ENCODERS = ("bert", "ernie", "roberta", "xlm-roberta", "electra",
            "albert", "distilbert")  # fmt: skip
PAIRS = ("t5", "bart")
TEXT = "狡兔死，走狗烹；飞鸟尽，良弓藏。"
IMPLEMENTATIONS = pytest.mark.parametrize("implementation", ["eager", "sdpa"])

tokenizer_of = cache(tiny_tokenizer)


def model_of(kind: str, implementation: str | None = None):
    """极小模型；权重加倍，掩码或位置错了，logits 一定变。"""
    model = tiny_model(kind, tokenizer_of(kind), attn_implementation=implementation)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight *= 2
    return model


class Recorder:
    """转手的 Writer，记下每一步的 logits。"""

    def __init__(self, writer) -> None:
        self.writer = writer
        self.steps: list[Tensor] = []

    def start(self) -> Tensor:
        self.steps.append(self.writer.start())
        return self.steps[-1]

    def advance(self, tokens: Tensor) -> Tensor:
        self.steps.append(self.writer.advance(tokens))
        return self.steps[-1]

    def select(self, rows: Tensor) -> None:
        self.writer.select(rows)


def free(model) -> Limits:
    """什么都许写，写够为止。"""
    return Limits(frozenset(), torch.zeros(model.config.vocab_size, dtype=torch.bool))


def write(model, writer, count: int = 6) -> tuple[list[int], Tensor]:
    """贪心写 `count` 个；词元，与每一步的 logits (count, V)。"""
    recorder = Recorder(writer)
    [written] = decode(recorder, Decoding(max_new_tokens=count), free(model))
    assert len(written.ids) == count
    return written.ids, torch.cat(recorder.steps)


def full_pass(model, batch) -> Tensor:
    """训练时的一次前向，(L, V)。"""
    batch = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        return model(**adapt_batch(model, batch)).logits[0]


def same(cached: Tensor, whole: Tensor) -> None:
    assert float((cached - whole).abs().max()) < 1e-5
    assert float(whole.std()) > 1e-2  # 不是一片零


@IMPLEMENTATIONS
@pytest.mark.parametrize("kind", DECODERS)
def test_a_prefix_decoder_writes_what_it_was_trained_on(kind, implementation):
    """双向读前缀、再逐个写，与 PrefixLMCollator 的一行的一次前向相同。"""
    model, tokenizer = model_of(kind, implementation), tokenizer_of(kind)
    prefix = tokenizer(TEXT, add_special_tokens=False)["input_ids"][:9]
    ids, cached = write(model, PrefixWriter(model, prefix))
    whole = full_pass(
        model,
        PrefixLMCollator(tokenizer)(
            [{"input_ids": prefix + ids, "prefix_length": len(prefix)}]
        ),
    )
    same(cached, whole[len(prefix) - 1 : -1])


@pytest.mark.parametrize("kind", PAIRS)
def test_an_encoder_decoder_writes_what_it_was_trained_on(kind):
    """前缀进编码器、解码器逐个写，与 PrefixSeq2SeqCollator 的一行的一次前向相同。"""
    model, tokenizer = model_of(kind), tokenizer_of(kind)
    whole = tokenizer(TEXT)["input_ids"]
    start = model.config.decoder_start_token_id
    collator = PrefixSeq2SeqCollator(tokenizer, decoder_start_token_id=start)
    batch = collator([{"input_ids": whole, "prefix_length": 7}])
    labels = batch["labels"][0].tolist()
    source = batch["input_ids"][0].tolist()
    writer = EncodedWriter(model, source, [start])
    with torch.no_grad():
        steps = [writer.start(), *(writer.advance(torch.tensor([t])) for t in labels)]
        expected = model(**batch).logits[0]
    same(torch.cat(steps[:-1]), expected)


@IMPLEMENTATIONS
@pytest.mark.parametrize("kind", ENCODERS)
def test_appending_masks_equals_one_pass_under_the_seq2seq_mask(kind, implementation):
    """第 t 步的 logits，与把 [MASK] 摆在第 t 处、用序列到序列掩码的一次前向相同。"""
    model, tokenizer = model_of(kind, implementation), tokenizer_of(kind)
    source = tokenizer(TEXT[:8])["input_ids"]
    mask = tokenizer.mask_token_id
    segments = (0, min(1, getattr(model.config, "type_vocab_size", 1) - 1))
    ids, cached = write(model, MaskWriter(model, source, mask, segments), count=5)
    for step in range(5):
        row = torch.tensor([[*source, *ids[:step], mask]])
        documents = torch.zeros_like(row)
        rule = mask_rule("seq2seq", documents, torch.tensor([[len(source)]]))
        second = (torch.arange(row.shape[1]) >= len(source)).long()[None]
        batch = {
            "input_ids": row,
            "attention_mask": additive_mask(visible_pairs(documents, *rule)),
            "position_ids": torch.arange(row.shape[1])[None],
            "token_type_ids": torch.where(second == 1, segments[1], segments[0]),
        }
        same(cached[step], full_pass(model, batch)[-1])


def blank_tokens(kind: str) -> BlankTokens:
    """写空用的词元；没有的借用词表里的几个编号。"""
    if kind == "glm_two_row":
        tokenizer = tokenizer_of(kind)
        names = ("[MASK]", "[sMASK]", "[gMASK]", "[sop]", "[eop]")
        return BlankTokens(*tokenizer.convert_tokens_to_ids(list(names)))
    return BlankTokens(10, 11, 12, 13, 14)


class Blanker(BlankInfillingCollator):
    """整理器的后半：片段由测试指定，补齐与掩码是它自己的。"""

    def __init__(self, tokenizer, rows: int) -> None:
        self.tokenizer, self.position_rows = tokenizer, rows
        self.pad_to_multiple_of, self.shift_labels = None, False


@IMPLEMENTATIONS
@pytest.mark.parametrize("kind", ["glm_two_row", "glm", "llama"])
@pytest.mark.parametrize("level", ["mask", "sentence_mask", "document_mask"])
def test_blanks_are_filled_as_they_were_trained(kind, level, implementation):
    """三个空逐个写，与 `blank_out` 造的一行的一次前向相同，[S] 与 [E] 都在内。"""
    model, tokens = model_of(kind, implementation), blank_tokens(kind)
    rows = 2 if kind == "glm_two_row" else 1
    pieces = [[30, 31, 32], [33], [34, 35], [36, 37]]  # 空的左右
    part_a: list[int] = []
    places: list[int] = []
    for piece in pieces[:-1]:
        part_a += [*piece, getattr(tokens, level)]
        places.append(len(part_a) - 1)
    part_a += pieces[-1]
    memory = read_part_a(model, part_a)
    fills: list[list[int]] = []
    steps: list[Tensor] = []
    for count, place in zip((3, 1, 2), places, strict=True):
        writer = BlankWriter(memory.copy(), tokens.start, place, rows)
        ids, _ = write(model, writer, count)
        fills.append(ids)
        with torch.no_grad():  # 照 write_blanks：选中的再读一遍，连末一个词元
            kept = BlankWriter(memory, tokens.start, place, rows)
            steps += [kept.start(), *(kept.advance(torch.tensor([t])) for t in ids)]

    text = list(pieces[0])
    starts = []
    for fill, piece in zip(fills, pieces[1:], strict=True):
        starts.append(len(text))
        text += [*fill, *piece]
    spans = [(at, at + len(fill)) for at, fill in zip(starts, fills, strict=True)]
    mask_id = getattr(tokens, level)
    parts = blank_out(np.array(text), spans, range(3), mask_id, tokens)
    examples = [make_example(parts.pop("input_ids"), parts.pop("labels"), **parts)]
    collator = Blanker(tokenizer_of(kind), rows)
    batch = collator.collate(examples)
    assert batch["input_ids"][0, : len(part_a)].tolist() == part_a
    written = [label for fill in fills for label in (*fill, tokens.end)]
    assert batch["labels"][0, len(part_a) :].tolist() == written
    same(torch.cat(steps), full_pass(model, batch)[len(part_a) :])


def test_greedy_steps_see_what_the_kept_steps_see():
    """一个空写到一半的 logits，与写完再读一遍的相同：抄一份缓存不改原来的。"""
    model, tokens = model_of("glm_two_row"), blank_tokens("glm_two_row")
    memory = read_part_a(model, [30, tokens.mask, 31])
    before = memory.length
    trial = BlankWriter(memory.copy(), tokens.start, 1, 2)
    ids, cached = write(model, trial, 4)
    assert memory.length == before
    kept = BlankWriter(memory, tokens.start, 1, 2)
    with torch.no_grad():
        again = [kept.start(), *(kept.advance(torch.tensor([t])) for t in ids[:-1])]
    same(cached, torch.cat(again))


WRITERS: dict[str, Callable] = {
    "gpt2": lambda model: PrefixWriter(model, [20, 21, 22]),
    "glm_two_row": lambda model: PrefixWriter(model, [20, 21, 22]),
    "bert": lambda model: MaskWriter(model, [2, 20, 21, 3], 4, (0, 1)),
    "albert": lambda model: MaskWriter(model, [2, 20, 21, 3], 4, (0, 1)),
    "t5": lambda model: EncodedWriter(model, [20, 21, 1], [0]),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_rows_side_by_side_are_the_rows_alone(kind):
    """几串并排写、中途换位与退出，各串的 logits 与单独写的相同。"""
    model = model_of(kind)
    with torch.no_grad():
        together = WRITERS[kind](model)
        together.start()
        together.select(torch.tensor([0, 0, 0]))
        together.advance(torch.tensor([30, 31, 32]))
        together.select(torch.tensor([2, 0]))
        found = together.advance(torch.tensor([33, 34]))
        for row, path in enumerate(((32, 33), (30, 34))):
            alone = WRITERS[kind](model)
            alone.start()
            for token in path:
                logits = alone.advance(torch.tensor([token]))
            same(found[row], logits[0])


def test_two_way_reading_differs_from_one_way():
    """试验本身分得出双向与单向：前缀只看左边时，logits 不同。"""
    model = model_of("llama")
    ids, places = torch.tensor([[20, 21, 22, 23]]), torch.arange(4)
    with torch.no_grad():
        first, second = Memory(model), Memory(model)
        first.read(ids, places, two_way=True)
        second.read(ids, places)
        last, at = torch.tensor([[24]]), torch.tensor([4])
        assert (first.read(last, at) - second.read(last, at)).abs().max() > 1e-3
