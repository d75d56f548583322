"""注意力：同一行的文档互不可见，装在一行与各自成行算得一样。"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import DOCUMENT_LENGTHS, starts_of, tokenizer_of

from companion.checkpoints.tiny import tiny_model
from companion.objectives.attention import (
    PADDING,
    additive_mask,
    restarting_positions,
    visible_within_documents,
)
from companion.objectives.causal_lm import CausalLMCollator
from companion.objectives.masked_lm import MaskedLMCollator

LAYOUTS = st.lists(DOCUMENT_LENGTHS, min_size=1, max_size=3)
PACKABLE = pytest.mark.parametrize(
    ("kind", "implementation"),
    [
        (kind, implementation)
        for kind in ("bert", "gpt2", "llama")
        for implementation in ("eager", "sdpa")
    ],
)


def naive_documents(lengths: list[int], length: int) -> list[int]:
    documents = [index for index, size in enumerate(lengths) for _ in range(size)]
    return documents + [PADDING] * (length - len(documents))


def stacked(layout: list[list[int]], extra: int = 0) -> torch.Tensor:
    length = max(map(sum, layout)) + extra
    return torch.tensor([naive_documents(row, length) for row in layout])


@given(LAYOUTS, st.integers(0, 4))
def test_positions_restart_at_every_document(layout, extra):
    """每个文档的位置是 0、1、2……；填充处不超过行长。"""
    positions = restarting_positions(stacked(layout, extra))
    for row, lengths in zip(positions.tolist(), layout, strict=True):
        expected = [at for size in lengths for at in range(size)]
        assert row[: len(expected)] == expected
        assert all(0 <= at < len(row) for at in row)


@given(LAYOUTS, st.integers(0, 4), st.booleans())
def test_visibility_is_that_of_the_double_loop(layout, extra, causal):
    """与逐格判断的双重循环处处相同：同一文档且（因果时）不在右边；填充只见自己。"""
    documents = stacked(layout, extra)
    visible = visible_within_documents(documents, causal=causal)
    assert visible.dtype == torch.bool
    for row, number in zip(visible.tolist(), documents.tolist(), strict=True):
        for query, line in enumerate(row):
            for key, seen in enumerate(line):
                same = number[query] == number[key] != PADDING
                allowed = same and (key <= query or not causal)
                assert seen == (allowed or query == key)


@given(LAYOUTS, st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_the_additive_mask_is_finite(layout, dtype):
    """可见处为 0，不可见处为该类型最小的有限值，形状 (B, 1, L, L)。"""
    visible = visible_within_documents(stacked(layout, 2), causal=True)
    mask = additive_mask(visible, dtype)
    assert mask.dtype == dtype
    assert mask.shape == (len(layout), 1, *visible.shape[1:])
    assert mask.isfinite().all()
    assert torch.equal(mask[:, 0] == 0, visible)
    assert (mask[:, 0][~visible] == torch.finfo(dtype).min).all()


@given(LAYOUTS)
def test_a_padding_row_of_the_mask_has_a_softmax(layout):
    """填充位置只看自己：softmax 恰为独热，没有 NaN。"""
    documents = stacked(layout, 2)
    visible = visible_within_documents(documents, causal=False)
    weights = additive_mask(visible)[:, 0].softmax(-1)
    pads = documents == PADDING
    identity = torch.eye(documents.shape[1]).expand_as(weights)
    assert torch.equal(weights[pads], identity[pads])
    assert weights.isfinite().all()


def collate(kind: str, documents: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """几个文档装一行，走整理器；掩码模型的输入不破坏，好与单独成行相比。"""
    tokenizer = tokenizer_of(kind)
    feature = {
        "input_ids": torch.cat(documents),
        "document_starts": starts_of([len(ids) for ids in documents]),
        "example_id": 0,
    }
    neighbour = {"input_ids": [9] * 40, "example_id": 1}  # 另一行更长，带出填充
    if kind == "bert":
        collator = MaskedLMCollator(
            tokenizer, mask_replace_prob=0.0, random_replace_prob=0.0
        )
    else:
        collator = CausalLMCollator(tokenizer)
    return collator([feature, neighbour])


@torch.no_grad()
def logits_of(model, batch: dict[str, torch.Tensor], size: int) -> torch.Tensor:
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    if model.config.model_type != "bert":
        inputs["use_cache"] = False
    return model(**inputs).logits[0, :size]


def three_documents(kind: str) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    size = len(tokenizer_of(kind))
    return [torch.randint(5, size, (n,), generator=generator) for n in (7, 1, 11)]


@PACKABLE
def test_packed_documents_are_computed_as_if_alone(kind, implementation):
    """装在一行的三个文档，每个的 logits 与它单独成行时相同。"""
    model = tiny_model(kind, attn_implementation=implementation)
    documents = three_documents(kind)
    packed = logits_of(model, collate(kind, documents), 19)
    alone = [logits_of(model, collate(kind, [ids]), len(ids)) for ids in documents]
    torch.testing.assert_close(packed, torch.cat(alone), rtol=1e-5, atol=1e-5)


@PACKABLE
def test_a_change_in_one_document_moves_nothing_in_the_others(kind, implementation):
    """换掉中间文档前后各一篇的词元，别的文档的 logits 逐位不变，自己的变了。"""
    model = tiny_model(kind, attn_implementation=implementation)
    documents = three_documents(kind)
    spans = (slice(0, 7), slice(7, 8), slice(8, 19))
    before = logits_of(model, collate(kind, documents), 19)
    for number, span in enumerate(spans):
        changed = list(documents)
        changed[number] = torch.where(documents[number] == 6, 8, 6)
        after = logits_of(model, collate(kind, changed), 19)
        others = torch.ones(19, dtype=torch.bool)
        others[span] = False
        assert torch.equal(after[others], before[others])
        assert (after[span] - before[span]).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_nothing_flows_from_right_to_left_in_a_causal_row(kind):
    """换掉一个词元，它左边的 logits 逐位不变。"""
    model = tiny_model(kind)
    documents = three_documents(kind)
    before = logits_of(model, collate(kind, documents), 19)
    documents[2][4] = 6 if documents[2][4] != 6 else 8
    after = logits_of(model, collate(kind, documents), 19)
    assert torch.equal(after[:12], before[:12])
    assert not torch.equal(after[12], before[12])


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_boolean_mask_leaks_under_eager_attention(kind):
    """为什么要加性浮点掩码：同一可见矩阵以布尔给 eager，文档之间就渗透了。"""
    model = tiny_model(kind, attn_implementation="eager")
    documents = three_documents(kind)
    batch = collate(kind, documents)
    packed = logits_of(model, batch, 19)
    batch["attention_mask"] = batch["attention_mask"] == 0
    assert (logits_of(model, batch, 19) - packed).abs().max() > 1e-3
