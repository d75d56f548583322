"""取几层拼成一个浅的：与在原来的模型里跳过别的层相等；取不得的按名拒绝。"""

import copy

import pytest
import torch
from torch import nn

from companion.checkpoints.layers import keep_layers
from companion.checkpoints.loading import Checkpoint, load_checkpoint
from companion.checkpoints.running import layer_stacks, plain_batch
from companion.checkpoints.saving import save_checkpoint
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.errors import ModelError


def deep(kind: str, depth: int = 4) -> Checkpoint:
    """四层的极小模型。"""
    name = "n_layers" if kind == "distilbert" else "num_hidden_layers"
    model = tiny_model(kind, **{name: depth})
    return Checkpoint(model, tiny_tokenizer(kind), "教师")


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "ernie"])
def test_the_logits_are_those_of_the_model_without_the_others(kind, tmp_path):
    """第 0、2 层拼成的，与原来的模型拿掉第 1、3 层逐位相等；存下再打开也一样。"""
    whole = deep(kind)
    before = copy.deepcopy(whole.model.state_dict())
    student = keep_layers(whole, (0, 2))
    batch = plain_batch(whole.model)
    cut = copy.deepcopy(whole.model)
    [(name, stack)] = layer_stacks(cut)
    holder, _, last = name.rpartition(".")
    setattr(cut.get_submodule(holder), last, nn.ModuleList([stack[0], stack[2]]))
    with torch.no_grad():
        expected = cut(**batch).logits
        assert torch.equal(student.model(**batch).logits, expected)
        assert not torch.equal(whole.model(**batch).logits, expected)
        save_checkpoint(student.model, student.tokenizer, tmp_path / kind)
        opened = load_checkpoint(str(tmp_path / kind), "masked_lm").model
        assert torch.equal(opened(**batch).logits, expected)
    for key, weight in whole.model.state_dict().items():
        assert torch.equal(weight, before[key]), key
    words = student.model.get_input_embeddings().weight
    assert student.model.get_output_embeddings().weight is words
    assert "第 0、2 层（共 4 层" in student.notices[-1]


@pytest.mark.parametrize(
    ("kind", "layers", "message"),
    [("bert", (0, 4), "第 4 层.*只有 4 层.*0,2"), ("albert", (0, 2), "albert.*串")],
)
def test_layers_that_do_not_exist_are_refused(kind, layers, message):
    """没有的层；ALBERT 各层共用一份。"""
    with pytest.raises(ModelError, match=f"(?s){message}"):
        keep_layers(deep(kind), layers)
