"""掩码：一条规则得出五种；哪种架构收得下，逐一试过。"""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mask_support import mask_table, summarise
from recording import RESULTS
from strategies import FEW
from torch import nn

from companion.checkpoints.tiny import TINY_KINDS, tiny_model
from companion.errors import ModelError, ObjectiveError
from companion.objectives import attention
from companion.objectives.attention import (
    PADDING,
    leading_positions,
    mask_rule,
    visible_pairs,
    visible_within_documents,
)
from companion.preflight.visibility import mask_verdict, require_mask

KINDS = ("bidirectional", "left_to_right", "right_to_left", "prefix", "seq2seq")
REFUSALS = {
    "convbert": "泄漏",  # 卷积越过任何掩码
    "modernbert": "窗口",  # 四维掩码取代局部层的窗口
    "xlm": "不收四维掩码",
    "flaubert": "不收四维掩码",
    "funnel": "不收四维掩码",
}
"""用不得前缀掩码的架构，与理由里的字样；其余的都用得。"""


@st.composite
def layouts(draw: st.DrawFn):
    """几行文档编号、前缀、方向：每行几篇文档，末尾有填充。"""
    width = draw(st.integers(1, 12))
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        real = draw(st.integers(1, width))
        steps = draw(st.lists(st.integers(0, 1), min_size=real, max_size=real))
        numbers = torch.tensor(steps).cumsum(0) - steps[0]
        rows.append(torch.cat([numbers, torch.full((width - real,), PADDING)]))
    documents = torch.stack(rows)
    flags = st.lists(st.booleans(), min_size=width, max_size=width)
    prefix = torch.tensor([draw(flags) for _ in rows]) & (documents != PADDING)
    reverse = torch.tensor([draw(st.booleans()) for _ in rows])
    return documents, prefix, reverse


@FEW
@given(layouts())
def test_the_rule_is_that_of_the_double_loop(layout):
    """同一文档，并且键是前缀、或在查询的左边（反向时右边）；填充只见自己。"""
    documents, prefix, reverse = layout
    visible = visible_pairs(documents, prefix, reverse)
    assert visible.dtype == torch.bool
    for row, numbers in enumerate(documents.tolist()):
        for i, mine in enumerate(numbers):
            for j, other in enumerate(numbers):
                ahead = j >= i if reverse[row] else j <= i
                same = mine == other != PADDING
                allowed = same and (bool(prefix[row, j]) or ahead)
                assert bool(visible[row, i, j]) == (allowed or i == j)


def papers(kind: str, length: int, source: int) -> torch.Tensor:
    """论文里的矩阵 M（Dong 等，2019，图 1）：第 i 行看得见第 j 列。"""
    i, j = torch.arange(length)[:, None], torch.arange(length)[None]
    return {
        "bidirectional": (i >= 0) & (j >= 0),
        "left_to_right": j <= i,
        "right_to_left": j >= i,
        "prefix": (j < source) | ((i >= source) & (j <= i)),
        "seq2seq": (j < source) | ((i >= source) & (j <= i)),
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
@FEW
@given(sizes=st.lists(st.tuples(st.integers(1, 7), st.integers(0, 7)), min_size=1))
def test_a_packed_mask_is_made_of_the_masks_of_the_papers(kind, sizes):
    """一行几篇文档时，论文的矩阵排在对角线上，别处处处不可见。"""
    sizes = sizes[:4]
    lengths = torch.tensor([length for length, _ in sizes])
    sources = [min(length, source) for length, source in sizes]
    documents = torch.arange(len(sizes)).repeat_interleave(lengths)[None]
    rule = mask_rule(kind, documents, torch.tensor([sources]))
    blocks = [
        papers(kind, int(length), source)
        for length, source in zip(lengths, sources, strict=True)
    ]
    assert torch.equal(visible_pairs(documents, *rule)[0], torch.block_diag(*blocks))


@FEW
@given(layouts(), st.integers(0, 5))
def test_what_is_seen_by_what_is_seen_is_seen(layout, size):
    """前缀都在文档开头时可见是传递的：几层之后，看得见的仍只是许看的。"""
    documents, _, reverse = layout
    sizes = torch.full((len(documents), int(documents.max()) + 1), size)
    visible = visible_pairs(documents, leading_positions(documents, sizes), reverse)
    # 反向的行没有前缀：UniLM 的从右到左只有一段
    visible = torch.where(
        reverse[:, None, None], visible_pairs(documents, None, reverse), visible
    )
    assert torch.equal((visible.float() @ visible.float()) > 0, visible)


@FEW
@given(layouts(), st.data())
def test_the_prefix_is_the_head_of_every_document(layout, data):
    """各篇开头的几个位置，与逐篇数出来的相同；填充处总不是。"""
    documents = layout[0]
    count = int(documents.max()) + 1
    lists = st.lists(st.integers(0, 9), min_size=count, max_size=count)
    sizes = [data.draw(lists) for _ in documents]
    prefix = leading_positions(documents, torch.tensor(sizes))
    for row, numbers in enumerate(documents.tolist()):
        for at, number in enumerate(numbers):
            inside = (
                number != PADDING and at - numbers.index(number) < sizes[row][number]
            )
            assert bool(prefix[row, at]) == inside


@FEW
@given(layouts())
def test_the_old_masks_are_special_cases(layout):
    """双向是处处前缀，因果是没有前缀。"""
    documents = layout[0]
    everything = torch.ones_like(documents, dtype=torch.bool)
    assert torch.equal(
        visible_within_documents(documents, causal=False),
        visible_pairs(documents, everything),
    )
    assert torch.equal(
        visible_within_documents(documents, causal=True), visible_pairs(documents)
    )


def test_an_unknown_mask_is_refused_by_name():
    """没有的名字、少给的长度，各有一句话说清。"""
    documents = torch.zeros(1, 3, dtype=torch.int64)
    with pytest.raises(ObjectiveError, match=r"'diagonal'.*seq2seq"):
        mask_rule("diagonal", documents)
    with pytest.raises(ObjectiveError, match="prefix 没有给前缀的长度"):
        mask_rule("prefix", documents)


def test_the_table_says_who_accepts_which_mask():
    """每种架构 × 实现 × 精度 × 五种掩码 × 一篇或两篇：逐一扰动试过，不能的都有缘由。"""
    table = mask_table()
    cases = {
        (row.kind, row.implementation, row.dtype, row.mask, row.packed) for row in table
    }
    assert len(cases) == len(table) == len(TINY_KINDS) * 2 * 2 * len(KINDS) * 2
    assert {row.kind for row in table} == set(TINY_KINDS)
    for row in table:
        if row.reason == "没有 sdpa 实现":
            assert row.kind in (*REFUSALS, "bloom")
            assert row.implementation == "sdpa"
        elif row.kind in REFUSALS:
            # 单篇的双向掩码处处可见，卷积也漏不出去
            everything = row.mask == "bidirectional" and not row.packed
            assert row.ok == (row.kind == "convbert" and everything), row
            assert row.ok or REFUSALS[row.kind] in row.reason
        else:
            assert row.ok, row
            assert row.leak == 0.0, row
    recorded = json.loads((RESULTS / "mask_support.json").read_text("utf-8"))
    assert recorded["summary"] == summarise(table), "重跑 experiments/mask_support.py"


@pytest.mark.parametrize("kind", ["xlm", "funnel", "convbert", "modernbert"])
def test_a_model_that_rejects_the_mask_is_named(kind):
    """用不得前缀掩码的模型：点名模型与掩码，说清缘由，并指路。"""
    model = tiny_model(kind)
    with pytest.raises(ModelError, match=f"{type(model).__name__} 用不得 prefix 掩码"):
        require_mask(model, "prefix")


def test_a_model_that_accepts_the_mask_passes():
    """用得的模型不报错；窗口模型的行长在窗口之内时也用得。"""
    require_mask(tiny_model("llama"), "prefix", packed=True)
    wide = tiny_model("modernbert", local_attention=128)
    require_mask(wide, "prefix", block_size=64)
    assert not mask_verdict(wide, "prefix")


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_boolean_mask_is_found_to_leak(kind, monkeypatch):
    """同一张矩阵以布尔给 eager：试得出泄漏。"""
    monkeypatch.setattr(
        attention, "additive_mask", lambda visible, dtype: visible[:, None]
    )
    verdict = mask_verdict(tiny_model(kind, attn_implementation="eager"), "prefix")
    assert not verdict
    assert verdict.leak is not None
    assert verdict.leak > 1e-3


def test_a_mask_that_hides_too_much_is_found(monkeypatch):
    """只许看左边的掩码冒充前缀掩码：不泄漏，但许看的右边看不见，也拦下。"""
    whole = attention.additive_mask
    monkeypatch.setattr(
        attention, "additive_mask", lambda visible, dtype: whole(visible.tril(), dtype)
    )
    verdict = mask_verdict(tiny_model("llama"), "prefix")
    assert not verdict
    assert "右边" in verdict.reason


def test_a_float32_mask_breaks_a_bfloat16_encoder_under_eager():
    """为什么掩码要与模型同型：eager 的 BERT 报类型不合，sdpa 与 GPT-2 不报。"""
    ids = torch.arange(5, 11)[None]
    mask = attention.additive_mask(torch.ones(1, 6, 6, dtype=torch.bool))

    def run(kind: str, implementation: str) -> None:
        model = tiny_model(kind, attn_implementation=implementation)
        model.to(torch.bfloat16)(input_ids=ids, attention_mask=mask)

    run("bert", "sdpa")
    run("gpt2", "eager")
    with pytest.raises(RuntimeError, match="BFloat16"):
        run("bert", "eager")


def test_trying_a_mask_leaves_the_model_as_it_was():
    """试完还原每个子模块的模式，不动权重与全局随机状态。"""
    model = tiny_model("llama").train()
    frozen: nn.Module = model.model.layers[0]
    frozen.eval()
    modes = [module.training for module in model.modules()]
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    state = torch.get_rng_state()
    mask_verdict(model, "seq2seq", packed=True)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, weights[name])


@FEW
@given(st.integers(1, 5), st.integers(1, 5))
def test_a_source_of_any_length_gives_the_seq2seq_mask(source, target):
    """源端的行从不看见目标端；目标端看见全部源端与自己的左边。"""
    length = source + target
    documents = torch.zeros(1, length, dtype=torch.int64)
    visible = visible_pairs(
        documents, *mask_rule("seq2seq", documents, torch.tensor([[source]]))
    )[0]
    assert visible[:source, :source].all()
    assert not visible[:source, source:].any()
    assert visible[source:, :source].all()
    assert torch.equal(
        visible[source:, source:], torch.ones(target, target, dtype=torch.bool).tril()
    )
