"""谁影响谁：试出来的可见矩阵，与掩码声称的相同。"""

from typing import Any

import pytest
import torch
from torch import Tensor

from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.errors import ModelError
from companion.preflight.visibility import (
    SEEN,
    measured_visibility,
    neighbours,
    plain_ids,
    require_left_to_right,
    token_influence,
)
from companion.show import show_example

SENTENCE = "狡兔死，走狗烹。"
CASES = [
    ("causal_lm", "bloom"),
    ("causal_lm", "gpt2"),
    ("masked_lm", "bert"),
    ("masked_lm", "roberta"),
    ("span_corruption", "t5"),
    ("text_infilling", "bart"),
    ("prefix_lm", "llama"),
    ("unified_lm", "bert"),
    ("blank_infilling", "glm_two_row"),
]


def padded(kind: str, length: int = 16) -> dict[str, Tensor]:
    """一句补到 `length` 个词元的话。"""
    return tiny_tokenizer(kind)(
        SENTENCE, padding="max_length", max_length=length, return_tensors="pt"
    )


@pytest.mark.parametrize(("objective", "kind"), CASES)
def test_every_family_sees_exactly_what_its_mask_says(
    objective: str, kind: str
) -> None:
    """四个家族，试出来的各个矩阵与掩码声称的逐格相同。"""
    example = show_example(objective, SENTENCE, tiny_tokenizer(kind), 3)
    measured = measured_visibility(tiny_model(kind), example.batch)
    claimed = [torch.as_tensor(panel.visible) for panel in example.masks()]
    assert len(measured) == len(claimed)
    for found, said in zip(measured, claimed, strict=True):
        assert torch.equal(found, said)


def test_packed_documents_of_a_pair_are_apart_in_all_three_matrices() -> None:
    """T5 一行装两篇：交叉注意力自己的掩码也照办。"""
    texts = [SENTENCE, "飞鸟尽，良弓藏。"]
    example = show_example("span_corruption", texts, tiny_tokenizer("t5"), 3)
    measured = measured_visibility(tiny_model("t5"), example.batch)
    for found, panel in zip(measured, example.masks(), strict=True):
        assert torch.equal(found, torch.as_tensor(panel.visible))
        assert not found.all()


def test_an_encoder_hides_nothing_but_the_padding() -> None:
    """改动真词元，处处都变；改动填充，只有它自己那一格变。"""
    batch = padded("bert")
    real = batch["attention_mask"][0].bool()
    [found] = measured_visibility(tiny_model("bert"), batch)
    assert found[:, real].all()
    assert torch.equal(
        found[:, ~real], torch.eye(len(real), dtype=torch.bool)[:, ~real]
    )


def test_the_batched_change_equals_changing_one_token_at_a_time() -> None:
    """一次前向试完全部词元，与逐个改、逐个前向相同。"""
    model = tiny_model("bert")
    batch = dict(padded("bert", 10))
    one, other = plain_ids(model, 2).tolist()
    with torch.no_grad():
        original = model(**batch).logits[0]
        columns: list[Tensor] = []
        for place in range(10):
            ids = batch["input_ids"].clone()
            ids[0, place] = one if ids[0, place] != one else other
            changed = model(**batch | {"input_ids": ids}).logits[0]
            columns.append((changed - original).abs().amax(-1))
    naive = torch.stack(columns, dim=1)
    found = token_influence(model, batch)
    assert torch.equal(found > SEEN, naive / original.abs().max() > SEEN)
    torch.testing.assert_close(found / found.max(), naive / naive.max())


def test_the_model_and_the_batch_are_left_as_they_were() -> None:
    """试完还在训练模式，批量一个数没动，权重没有梯度。"""
    model: Any = tiny_model("gpt2").train()
    batch = show_example("causal_lm", SENTENCE, tiny_tokenizer("gpt2")).batch
    before = {name: value.clone() for name, value in batch.items()}
    measured_visibility(model, batch)
    assert model.training
    assert all(torch.equal(batch[name], before[name]) for name in before)
    assert all(weight.grad is None for weight in model.parameters())


def test_two_rows_are_refused() -> None:
    """一次只看一行。"""
    batch = {name: value.repeat(2, 1) for name, value in padded("bert").items()}
    with pytest.raises(ModelError, match="批量有 2 行"):
        measured_visibility(tiny_model("bert"), batch)


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("bert", "any"),
        ("bloom", "any"),
        ("bart", "any"),
        ("funnel", "same_length"),
        ("convbert", "same_length"),
    ],
)
def test_a_row_keeps_company_with_rows_that_do_not_change_it(
    kind: str, answer: str
) -> None:
    """池化与卷积看得见填充，只与等长的行同批；别的长短不论。"""
    assert neighbours(tiny_model(kind)) == answer


def test_a_model_that_mixes_its_rows_reads_them_one_by_one() -> None:
    """输出随同批的别的行而变（按整批分配名额的专家）：一批一行。"""

    class Mixed(type(tiny_model("bert"))):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            outputs = super().forward(*args, **kwargs)
            outputs.logits = outputs.logits - outputs.logits.mean(0, keepdim=True)
            return outputs

    model = tiny_model("bert")
    model.__class__ = Mixed
    assert neighbours(model) == "none"


@pytest.mark.parametrize("kind", ["gpt2", "bloom", "t5", "bart"])
def test_a_model_that_looks_left_writes_from_left_to_right(kind: str) -> None:
    """解码器与编码器–解码器的解码器看不见右边：从左到右的目标用得。"""
    require_left_to_right(tiny_model(kind))


def test_a_model_that_looks_right_is_refused_by_name() -> None:
    """要猜的词元就在眼前（BERT、没有排列掩码的 XLNet）：点名，不当作损失很低。"""
    with pytest.raises(ModelError, match=r"BertForMaskedLM 看得见右边的词元.*is_decod"):
        require_left_to_right(tiny_model("bert"))
