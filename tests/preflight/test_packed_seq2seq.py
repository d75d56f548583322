"""编码器–解码器打包：三处注意力都隔开；装在一行与各自成行，损失与梯度相同。"""

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from strategies import tokenizer_of

from companion.batch import IGNORE_INDEX
from companion.checkpoints.running import model_options
from companion.checkpoints.tiny import TINY_TEXT, tiny_model
from companion.losses.target_head import cross_attention, head_plan, target_losses
from companion.objectives import get_objective
from companion.objectives.collate import Example, collate
from companion.preflight.visibility import packing_leak

PATHS = ("attention_mask", "decoder_attention_mask", "cross_attention_mask")
IMPLEMENTATIONS = pytest.mark.parametrize("implementation", ["eager", "sdpa"])
PACKED = [
    ("t5", "span_corruption"),
    ("t5", "masked_seq2seq"),
    ("mt5", "mixture_of_denoisers"),
    ("mt5", "gap_sentences"),
]


def packed_example(model, kind: str, goal: str, count: int = 3) -> Example:
    """几篇短文装进一行，破坏之后。"""
    tokenizer, objective = tokenizer_of(kind), get_objective(goal)
    rows = [tokenizer(text)["input_ids"] for text in TINY_TEXT[4 : 4 + count]]
    starts = [sum(map(len, rows[:n])) for n in range(count)]
    feature = {
        "input_ids": [*itertools.chain(*rows)],
        "document_starts": starts,
        "example_id": 1,
    }
    collator = objective.make_collator(tokenizer, **model_options(model, objective))
    return collator.examples([feature])[0]


def alone(example: Example, document: int) -> Example:
    """其中一篇单独成行。"""
    here = example.documents == document
    there = example.decoder_documents == document
    return replace(
        example,
        input_ids=example.input_ids[here],
        documents=torch.zeros(int(here.sum()), dtype=torch.int64),
        labels=example.labels[there],
        origin=example.origin[there],
        hidden=example.hidden[there],
        decoder_input_ids=example.decoder_input_ids[there],
        decoder_documents=torch.zeros(int(there.sum()), dtype=torch.int64),
        decoder_visible=None
        if example.decoder_visible is None
        else example.decoder_visible[there],
    )


def outputs(model, example: Example, **changes) -> tuple[torch.Tensor, torch.Tensor]:
    """编码器的 (L, D) 与解码器的 (K, V)；`changes` 换掉批量里的几项。"""
    batch = {**collate([example], pad_token_id=0), **changes}
    del batch["labels"]
    mask = batch.pop("cross_attention_mask")
    with torch.no_grad(), cross_attention(model, mask):
        found = model(**batch, use_cache=False)
    return found.encoder_last_hidden_state[0], found.logits[0]


def disturbed(example: Example) -> list[Example]:
    """只在解码器、只在编码器里，换掉第 0 篇的一个词元。"""
    inputs, decoder = example.input_ids.clone(), example.decoder_input_ids.clone()
    inputs[1] += 1
    decoder[1] += 1
    return [
        replace(example, decoder_input_ids=decoder),
        replace(example, input_ids=inputs),
    ]


def largest_change(model, example: Example, **changes) -> list[float]:
    """第 0 篇变了一个词元之后，别的几篇变了多少：解码器里变、编码器里变。"""
    others = example.documents != 0, example.decoder_documents != 0
    before = outputs(model, example, **changes)
    found = []
    for other in disturbed(example):
        after = outputs(model, other, **changes)
        found.append(
            max(
                (new[kept] - old[kept]).abs().max().item()
                for new, old, kept in zip(after, before, others, strict=True)
            )
        )
    return found


@IMPLEMENTATIONS
@pytest.mark.parametrize(("kind", "goal"), PACKED)
def test_a_token_of_one_document_never_touches_another(kind, goal, implementation):
    """编码器、解码器、交叉注意力：换掉一篇的词元，别的几篇的输出不变，自己的变。"""
    model = tiny_model(kind, tokenizer_of(kind), attn_implementation=implementation)
    example = packed_example(model, kind, goal)
    assert max(largest_change(model, example)) < 1e-6
    first = example.decoder_documents == 0
    before = outputs(model, example)[1][first]
    for other in disturbed(example):
        changed = outputs(model, other)[1][first] - before
        assert changed.abs().max() > 1e-4


@IMPLEMENTATIONS
@pytest.mark.parametrize("path", PATHS)
def test_each_of_the_three_masks_is_needed(path, implementation):
    """任一处的掩码换成处处可见（解码器仍不看右边），就漏了：试验试得出来。"""
    model = tiny_model("t5", attn_implementation=implementation)
    example = packed_example(model, "t5", "span_corruption")
    mask = collate([example], pad_token_id=0)[path]
    hidden = torch.finfo(mask.dtype).min
    open_ = torch.zeros_like(mask)
    if path.startswith("decoder"):
        open_ += torch.full_like(mask, hidden).triu(1)
    changes = largest_change(model, example, **{path: open_})
    assert max(changes) > 1e-4
    assert path != "cross_attention_mask" or changes[0] < 1e-6  # 只从编码器漏


@pytest.mark.parametrize(("kind", "goal"), PACKED)
def test_a_packed_row_costs_what_its_documents_cost_alone(kind, goal):
    """逐目标的损失与全部梯度，装在一行与一篇一行相同。"""
    model = tiny_model(kind, tokenizer_of(kind))
    example = packed_example(model, kind, goal, 4)
    apart = [alone(example, number) for number in range(4)]
    found = []
    for examples in ([example], apart):
        model.zero_grad()
        batch = collate(examples, pad_token_id=0)
        assert ("cross_attention_mask" in batch) == (len(examples) == 1)
        losses = target_losses(model, batch, causal=False)
        losses.total_nats.backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
        found.append((losses.nats, gradients))
    (nats, gradients), (nats_apart, gradients_apart) = found
    torch.testing.assert_close(nats, nats_apart, rtol=1e-5, atol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            gradient, gradients_apart[name], rtol=1e-4, atol=1e-4, msg=name
        )


def test_bart_cannot_count_its_positions_from_each_document():
    """BART 的三处注意力也隔得开，但位置从行首数起：与单独成行不同，所以不打包。"""
    model = tiny_model("bart")
    example = packed_example(model, "bart", "text_infilling")
    assert max(largest_change(model, example)) < 1e-6
    assert packing_leak(model) > 1e-3


def test_the_hook_on_the_decoder_is_gone_afterwards():
    """期间之外，解码器用的仍是传进来的掩码；出错也撤得掉。"""
    model = tiny_model("t5")
    mask = torch.zeros(1, 1, 2, 3)
    with cross_attention(model, mask):
        assert len(model.decoder._forward_pre_hooks) == 1
    with pytest.raises(ZeroDivisionError), cross_attention(model, mask):
        raise ZeroDivisionError
    with cross_attention(model, None):
        assert not model.decoder._forward_pre_hooks
    assert not model.decoder._forward_pre_hooks


def test_the_encoder_runs_inside_the_forward_of_the_model():
    """自动混合精度裹着模型的 forward：打包时编码器也在里面，以 bf16 计算。"""
    model = tiny_model("t5")
    example = packed_example(model, "t5", "span_corruption")
    head_plan(model)
    kinds = []
    layer = model.encoder.block[0].layer[0].SelfAttention.q
    layer.register_forward_hook(lambda _m, _a, output: kinds.append(output.dtype))
    forward = model.forward
    # accelerate 就是这样裹的
    model.forward = torch.autocast("cpu", dtype=torch.bfloat16)(forward)
    batch = collate([example], pad_token_id=0)
    rounded = target_losses(model, batch, causal=False)
    model.forward = forward
    exact = target_losses(model, batch, causal=False)
    assert kinds == [torch.bfloat16, torch.float32]
    torch.testing.assert_close(rounded.nats, exact.nats, rtol=0.02, atol=0.05)


# ── 输出头 ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kind", "goal"),
    [
        ("t5", "span_corruption"),
        ("mt5", "span_corruption"),
        ("bart", "text_infilling"),
        ("bart", "masked_seq2seq"),
        ("pegasus", "gap_sentences"),
        ("mbart", "text_infilling"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_losses_equal_those_of_the_model_itself(kind, goal, wrapped):
    """损失与梯度同模型自己的；BART 一族的 final_logits_bias 不漏。"""
    tokenizer, objective = tokenizer_of(kind), get_objective(goal)
    model = tiny_model(kind, tokenizer)
    if hasattr(model, "final_logits_bias"):
        torch.manual_seed(0)
        model.final_logits_bias.normal_()
    if wrapped:  # 有人换过线性层的 forward：不走合并计算
        head = model.lm_head
        head.forward = lambda states: F.linear(states, head.weight)
    collator = objective.make_collator(tokenizer, **model_options(model, objective))
    batch = collator(
        [
            {"input_ids": tokenizer(text)["input_ids"], "example_id": n}
            for n, text in enumerate(TINY_TEXT[4:9])
        ]
    )
    library = model(**batch, use_cache=False).loss
    library.backward()
    expected = {
        n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad
    }
    model.zero_grad()
    ours = target_losses(model, batch, causal=False)
    count = int((batch["labels"] != IGNORE_INDEX).sum())
    assert len(ours.nats) == count
    (ours.total_nats / count).backward()
    torch.testing.assert_close(ours.total_nats / count, library, rtol=1e-5, atol=1e-5)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(
                parameter.grad, expected[name], rtol=1e-4, atol=1e-5, msg=name
            )
