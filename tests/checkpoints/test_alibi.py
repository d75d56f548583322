"""ALiBi 与隔开文档的四维掩码：装在一行的各篇，与单独成行时相同。"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, FalconConfig, MptConfig
from transformers.models.bloom import modeling_bloom

from companion.checkpoints.alibi import accept_document_masks, by_document, positions
from companion.checkpoints.tiny import tiny_model
from companion.objectives.attention import additive_mask, visible_within_documents
from companion.preflight.visibility import can_pack

SIZES = (5, 1, 9, 6)


def model_of(kind: str, dtype: torch.dtype):
    """极小的 BLOOM、用 ALiBi 的 Falcon、MPT。"""
    accept_document_masks(kind)
    torch.manual_seed(0)
    if kind == "bloom":
        return tiny_model("bloom").to(dtype)
    config = {
        "falcon": FalconConfig(
            vocab_size=200, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
            alibi=True, multi_query=False, new_decoder_architecture=False,
        ),
        "mpt": MptConfig(
            vocab_size=200, d_model=32, n_heads=4, n_layers=2, max_seq_len=128
        ),
    }[kind]  # fmt: skip
    return AutoModelForCausalLM.from_config(config).to(dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["bloom", "falcon", "mpt"])
def test_packed_documents_equal_documents_apart(kind, dtype):
    """四篇装一行，各篇的 logits 与各自成行时相差不到 1e-5；半精度也只差舍入。"""
    model = model_of(kind, dtype)
    ids = torch.randint(5, 150, (1, sum(SIZES)), generator=torch.manual_seed(1))
    owner = torch.arange(len(SIZES)).repeat_interleave(torch.tensor(SIZES))[None]
    mask = additive_mask(visible_within_documents(owner, causal=True), dtype)
    with torch.no_grad():
        together = model(ids, attention_mask=mask, use_cache=False).logits[0]
        apart = [model(each, use_cache=False).logits[0] for each in ids.split(SIZES, 1)]
    scale = together.float().abs().max()
    off = (together.float() - torch.cat(apart).float()).abs().max() / scale
    assert off <= (1e-5 if dtype is torch.float32 else 2e-2)


@pytest.mark.parametrize("kind", ["bloom", "falcon", "mpt"])
def test_documents_do_not_leak(kind):
    """扰动实验：换掉一篇的词元，别篇的输出不变。"""
    assert can_pack(model_of(kind, torch.float32))


@settings(max_examples=30)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=6), st.booleans())
def test_every_document_counts_from_its_own_start(sizes, causal):
    """各位置是自己那一篇里的第几个，布尔与加性的掩码一样。"""
    owner = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))[None]
    visible = visible_within_documents(owner, causal=causal)
    expected = [place for size in sizes for place in range(size)]
    assert positions(visible[:, None])[0].tolist() == expected
    assert positions(additive_mask(visible))[0].tolist() == expected


def test_two_dimensional_masks_go_the_old_way():
    """二维掩码（左右填充）得到原来的偏置；换过一次的不再换。"""
    accept_document_masks("bloom")
    ours = modeling_bloom.build_alibi_tensor
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
    expected = ours.original(mask, 4, torch.float32)
    assert torch.equal(ours(mask, 4, torch.float32), expected)
    accept_document_masks("bloom")
    assert modeling_bloom.build_alibi_tensor is ours
    assert by_document(ours.original)(mask, 4, torch.float32).equal(expected)
