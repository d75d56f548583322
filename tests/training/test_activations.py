"""训练时换上的激活函数：与原来的只差浮点舍入，用完不留痕迹。"""

import copy

import pytest
import torch
from strategies import tokenizer_of
from torch import nn
from transformers.models.bloom.modeling_bloom import BloomGelu

from companion.checkpoints.tiny import TINY_TEXT, tiny_model
from companion.losses.target_head import target_losses
from companion.objectives.causal_lm import CausalLMCollator
from companion.training.loop import fused_gelu


def gelus(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if type(module) is BloomGelu]


def step(model: nn.Module) -> list[torch.Tensor]:
    """几句话上的损失与全部梯度。"""
    tokenizer = tokenizer_of("bloom")
    batch = CausalLMCollator(tokenizer)(
        [{"input_ids": tokenizer(text)["input_ids"]} for text in TINY_TEXT[:4]]
    )
    model.zero_grad()
    total = target_losses(model, batch, causal=True).total_nats
    total.backward()
    return [total.detach(), *(weight.grad.clone() for weight in model.parameters())]


def test_values_and_slopes_equal_those_of_the_slow_gelu():
    """从 −30 到 30，函数值与导数都相同，差别在 float32 的舍入之内。"""
    points = torch.linspace(-30, 30, 6001)
    model = nn.Sequential(BloomGelu())

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        x = points.clone().requires_grad_()
        y = model(x)
        y.sum().backward()
        return y.detach(), x.grad

    slow = both()
    with fused_gelu(model):
        fast = both()
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=2e-6)


def test_a_training_step_is_the_same():
    """BLOOM 走一步：损失与每个权重的梯度都相同。"""
    model = tiny_model("bloom")
    slow = step(model)
    with fused_gelu(model):
        fast = step(model)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)


def test_every_gelu_of_bloom_is_swapped():
    """期间，手写的那个反向一次也没有走。"""
    model = tiny_model("bloom")
    assert len(gelus(model)) == model.config.n_layer
    with fused_gelu(model):
        for module in gelus(model):
            slope = module(torch.ones(1, requires_grad=True)).grad_fn
            assert slope.name() == "GeluBackward0"


def test_the_model_is_left_without_a_trace():
    """期间权重的名字不变、模型能复制；出错离开，模块的字典也和原来相同。"""
    model = tiny_model("bloom")
    before = [dict(vars(module)) for module in gelus(model)]
    keys = list(model.state_dict())
    with fused_gelu(model):
        assert list(copy.deepcopy(model).state_dict()) == keys
    with pytest.raises(KeyError), fused_gelu(model):
        raise KeyError
    assert [dict(vars(module)) for module in gelus(model)] == before


def test_other_architectures_are_left_alone():
    """BERT 没有这种模块，一个 forward 也没换。"""
    model = tiny_model("bert")
    with fused_gelu(model):
        assert not any("forward" in vars(module) for module in model.modules())
