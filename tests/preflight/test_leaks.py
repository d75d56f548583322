"""打包泄漏试验：该过的过，该拦的拦，而且试验本身试得出泄漏。"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from companion.batch import Batch
from companion.checkpoints.running import (
    adapt_batch,
    evaluation_mode,
    is_causal,
    position_offset,
    position_table,
)
from companion.checkpoints.tiny import TINY_KINDS, tiny_model, tiny_tokenizer
from companion.objectives import collate, get_objective
from companion.preflight.visibility import can_pack, packing_leak

PACKABLE = {
    "bert",
    "bloom",
    "ernie",
    "albert",
    "roberta",
    "distilbert",
    "xlm-roberta",
    "electra",
    "gpt2",
    "llama",
    "qwen3",
    "glm",
    "glm_two_row",
    "t5",
    "mt5",
}
"""能打包的；其余都不能，见 `test_the_table_says_who_may_pack`。"""

EAGER_ONLY = {"bloom", "convbert", "xlm", "flaubert", "funnel"}
ENCODER_DECODERS = {"t5", "mt5"}
SAFE = [
    (kind, how)
    for kind in sorted(PACKABLE)
    for how in ("eager", "sdpa")
    if how == "eager" or kind not in EAGER_ONLY
]


@pytest.mark.parametrize(("kind", "implementation"), SAFE)
def test_packed_documents_stay_apart(kind, implementation):
    """能打包的架构：换掉一个文档，另一个的输出不变；与单独成行时也相同。"""
    model = tiny_model(kind, attn_implementation=implementation)
    assert packing_leak(model) < 1e-5
    assert can_pack(model)


@pytest.mark.parametrize(("kind", "implementation"), SAFE)
def test_the_experiment_notices_a_leak(kind, implementation, monkeypatch):
    """把掩码换成处处可见：每个能打包的架构都试得出泄漏，远超容差。"""

    def everything(documents, *, causal):
        seen = torch.ones(*documents.shape, documents.shape[1], dtype=torch.bool)
        return seen.tril() if causal else seen

    monkeypatch.setattr(collate, "visible_within_documents", everything)
    verdict = can_pack(tiny_model(kind, attn_implementation=implementation))
    assert not verdict
    assert verdict.leak is not None
    assert verdict.leak > 1e-3


def test_positions_that_run_on_are_noticed(monkeypatch):
    """位置不从头数：注意力虽隔开，仍与单独成行时不同，照样拦下。"""

    def running_on(documents):
        return torch.arange(documents.shape[1]).expand_as(documents)

    monkeypatch.setattr(collate, "restarting_positions", running_on)
    assert not can_pack(tiny_model("bert"))


def test_roberta_positions_start_after_the_padding_id(monkeypatch):
    """RoBERTa 的位置若从 0 数起，打包与单独成行不同：补偏移正是为此。"""
    model = tiny_model("roberta")
    assert position_offset(model) == model.config.pad_token_id + 1
    monkeypatch.setattr("companion.checkpoints.running.position_offset", lambda _: 0)
    assert packing_leak(model) > 1e-3


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", TINY_KINDS)
def test_every_architecture_packs_or_says_why_not(kind, implementation):
    """每种架构 × 两种实现的判断；不能的都有缘由。"""
    try:
        model = tiny_model(kind, attn_implementation=implementation)
    except ValueError:
        assert kind in EAGER_ONLY
        assert implementation == "sdpa"
        return
    verdict = can_pack(model)
    assert verdict.ok == (kind in PACKABLE)
    assert verdict.reason


@pytest.mark.parametrize("kind", ["xlm", "flaubert", "funnel"])
def test_models_without_a_four_dimensional_mask_refuse_it(kind):
    """已知装不得的架构确实会拒收四维掩码：名单不是凭空写的。"""
    with pytest.raises((AssertionError, RuntimeError, ValueError)):
        packing_leak(tiny_model(kind))


def test_convbert_leaks_through_its_convolutions():
    """ConvBERT 收下四维掩码，却从卷积漏过去。"""
    assert packing_leak(tiny_model("convbert")) > 1e-3


def test_a_sliding_window_allows_packing_only_within_it():
    """ModernBERT 的局部层：行长不超过半个窗口才装得，超过则四维掩码会取代窗口。"""
    model = tiny_model("modernbert", local_attention=16)
    assert packing_leak(model) > 1e-4
    assert not can_pack(model, block_size=9)
    wide = tiny_model("modernbert", local_attention=128)
    assert can_pack(wide, block_size=64)
    assert not can_pack(wide)
    everywhere = ["full_attention", "full_attention"]
    assert can_pack(tiny_model("modernbert", layer_types=everywhere))


def test_the_experiment_leaves_the_model_as_it_was():
    """试完还原每个子模块的模式，不动权重与全局随机状态。"""
    model = tiny_model("bert").train()
    model.bert.embeddings.eval()  # 冻结的一段保持评估模式
    modes = [module.training for module in model.modules()]
    weights = {name: w.clone() for name, w in model.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    can_pack(model)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, weights[name])


def test_evaluation_mode_is_left_after_an_error_too():
    """块内出错也还原。"""
    model = tiny_model("bert").train()
    with pytest.raises(ZeroDivisionError), evaluation_mode(model):
        raise ZeroDivisionError
    assert model.training


def packed_batch(tokenizer, objective: str) -> Batch:
    """整理器对“一行两个文档”给出的批量。"""
    ids = tokenizer("良弓藏。飞鸟尽，")["input_ids"]
    feature = {"input_ids": ids, "document_starts": [0, 4], "example_id": 0}
    return get_objective(objective).make_collator(tokenizer)([feature])


@pytest.mark.parametrize("kind", sorted(PACKABLE - ENCODER_DECODERS))
def test_collator_batches_fit_every_packable_model(kind):
    """整理器的打包批量经 adapt_batch 之后，每个能打包的模型都收得下，损失有限。"""
    tokenizer = tiny_tokenizer(kind)
    model = tiny_model(kind, tokenizer)
    batch = packed_batch(tokenizer, "causal_lm" if is_causal(model) else "masked_lm")
    before = {name: tensor.clone() for name, tensor in batch.items()}
    loss = model(**adapt_batch(model, batch)).loss
    assert torch.isfinite(loss)
    for name, tensor in before.items():
        assert torch.equal(batch[name], tensor)


def test_positions_are_removed_where_the_model_takes_none():
    """BLOOM 不收 position_ids：去掉，其余照旧。"""
    batch = {"input_ids": torch.zeros(1, 2), "position_ids": torch.zeros(1, 2)}
    assert adapt_batch(tiny_model("bloom"), batch).keys() == {"input_ids"}


@given(positions=st.integers(3, 40))
def test_the_position_table_of_roberta_is_shorter_than_its_config(positions):
    """RoBERTa 能用的行长是 max_position_embeddings − pad_token_id − 1。"""
    model = tiny_model("roberta", max_position_embeddings=positions)
    assert position_table(model) == positions - 2


@pytest.mark.parametrize(
    ("kind", "length"),
    [
        ("bert", 128),
        ("gpt2", 128),
        ("bart", 128),
        ("pegasus", 128),
        ("bloom", None),
        ("llama", None),
        ("t5", None),
    ],
)
def test_only_tables_of_positions_have_a_limit(kind, length):
    """BERT、GPT-2、BART、Pegasus 有位置表；ALiBi、旋转位置与相对位置没有。"""
    assert position_table(tiny_model(kind)) == length
