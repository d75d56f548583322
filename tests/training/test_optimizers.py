"""优化器：谁用 Muon，谁用 AdamW，词嵌入的学习率；一步与手工的相等，续训逐位相等。"""

import shutil
from dataclasses import replace

import pytest
import torch

from companion.checkpoints.tiny import tiny_model
from companion.errors import ConfigError
from companion.training import train
from companion.training.optimizing import PortableMuon, Together, make_optimizer

pytestmark = pytest.mark.usefixtures("no_curve")


def names_of(model, part) -> set[str]:
    """一个优化器管着的参数的名字。"""
    held = {id(weight) for group in part.param_groups for weight in group["params"]}
    return {name for name, weight in model.named_parameters() if id(weight) in held}


@pytest.mark.parametrize("kind", ["bert", "bloom"])
def test_muon_takes_the_hidden_matrices_and_nothing_else(tmp_path, configure, kind):
    """隐藏层的矩阵归 Muon；嵌入表、输出头、偏置与归一化归 AdamW；一个不漏。"""
    model = tiny_model(kind)
    config = configure(tmp_path, kind, optimizer="muon", weight_decay=0.1)
    decayed = {n for n, w in model.named_parameters() if w.ndim == 2}
    made = make_optimizer(model, config, 1e-3, decayed)
    assert isinstance(made, Together)
    muon, adamw = (names_of(model, part) for part in made.parts)
    every = dict(model.named_parameters())
    assert muon | adamw == set(every)
    assert not muon & adamw
    assert all(every[name].ndim == 2 for name in muon)
    assert not [name for name in muon if "embeddings" in name or "decoder" in name]
    assert {name for name in adamw if every[name].ndim == 2} <= {
        n for n in every if "embedding" in n
    }
    for group in made.param_groups:
        plain = all(weight.ndim < 2 for weight in group["params"])
        assert group["weight_decay"] == (0.0 if plain else 0.1)


def test_a_step_is_that_of_the_two_optimizers(tmp_path, configure):
    """走两步，与 torch 的 Muon、AdamW 各自走两步逐位相等。"""
    torch.manual_seed(0)
    weights = [torch.randn(6, 4), torch.randn(4)]
    ours, theirs = ([w.clone().requires_grad_() for w in weights] for _ in range(2))
    parts = [
        (torch.optim.Muon([w[0]], lr=1e-2), torch.optim.AdamW([w[1]], lr=1e-2))
        for w in (ours, theirs)
    ]
    together = Together(*parts[0])
    for step in range(2):
        for each in (ours, theirs):
            for weight in each:
                weight.grad = 0.1 * (step + 1) * weight.detach()
        together.step()
        for part in parts[1]:
            part.step()
        together.zero_grad()
    for mine, yours in zip(ours, theirs, strict=True):
        assert torch.equal(mine, yours)
    assert len(together.state) == 2


def test_on_a_cpu_the_update_is_orthogonal_and_close_to_that_of_torch():
    """float32 的更新：奇异值都在 0.5 到 1.3 之间，与 torch 的 bf16 差不到百分之三。"""
    torch.manual_seed(0)
    gradient = torch.randn(24, 16)
    moved = []
    for kind in (PortableMuon, torch.optim.Muon):
        weight = torch.zeros(24, 16, requires_grad=True)
        weight.grad = gradient.clone()
        kind([weight], lr=1.0, weight_decay=0.0, adjust_lr_fn="original").step()
        assert torch.equal(weight.grad, gradient)
        moved.append(weight.detach() / 1.5**0.5)
    ours, theirs = moved
    values = torch.linalg.svdvals(ours)
    assert 0.5 < values.min() < values.max() < 1.3
    assert 0 < (ours - theirs).norm() / theirs.norm() < 0.03


@pytest.mark.parametrize("optimizer", ["muon", "adafactor"])
def test_an_interrupted_run_resumes_bit_for_bit(
    tmp_path, configure, weights, optimizer
):
    """停在第 4 步再续，与一气走完逐位相等；与 AdamW 的不同，学习率照曲线走。"""
    config = configure(tmp_path / "整", optimizer=optimizer)
    whole = train(config, quiet=True)
    output = tmp_path / "续"
    shutil.copytree(whole.output, output)
    shutil.rmtree(output / "checkpoint-6")
    (output / "metrics.json").unlink()
    shutil.rmtree(output / "model")
    again = train(replace(whole.config, output=str(output)), resume=True, quiet=True)
    assert weights(output / "model") == weights(whole.output / "model")
    assert again.log[-1]["learning_rate"] < again.log[0]["learning_rate"]
    adamw = train(configure(tmp_path / "AdamW"), quiet=True)
    assert weights(adamw.output / "model") != weights(whole.output / "model")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_embeddings_have_a_rate_of_their_own(tmp_path, configure, optimizer):
    """词嵌入与输出头一组，学习率是另给的；别的照旧。"""
    model = tiny_model("bert")
    config = configure(tmp_path, optimizer=optimizer, embedding_learning_rate=1e-5)
    made = make_optimizer(model, config, 1e-3, set())
    words = model.get_input_embeddings().weight
    for group in made.param_groups:
        own = any(weight is words for weight in group["params"])
        assert group["lr"] == (1e-5 if own else 1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "muno"}, "是不是想写 muon"),
        ({"embedding_learning_rate": 0}, "embedding_learning_rate"),
        ({"embedding_learning_rate": 1e-5, "lora_rank": 4}, "LoRA 却冻结它"),
        ({"optimizer": "muon", "new_characters": 5}, "又要扩充词表"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    tmp_path, configure, changes, message
):
    """写错的名字、零、与 LoRA 或扩充词表相左的。"""
    with pytest.raises(ConfigError, match=message):
        configure(tmp_path, **changes)
