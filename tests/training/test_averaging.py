"""检查点的平均：是哪几个的平均，续训、留最好的一步、LoRA、一对模型都照样。"""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from companion.errors import ConfigError
from companion.training import train
from companion.training.output import list_checkpoints, step_of

pytestmark = pytest.mark.usefixtures("no_curve")

THREE = {"average_checkpoints": 3, "save_total_limit": 1, "max_steps": 8}
"""每两步存一个，共四个；取后三个。"""


def mean_of(checkpoints: list[Path], file: str) -> dict[str, torch.Tensor]:
    """几个检查点逐个张量的平均，以双精度算。"""
    read = [load_file(each / file) for each in checkpoints]
    return {n: sum(each[n].double() for each in read) / len(read) for n in read[0]}


@pytest.mark.parametrize(
    ("changes", "saved", "result"),
    [
        ({}, "model.safetensors", "model/model.safetensors"),
        (
            {"lora_rank": 4, "learning_rate": 1e-2},
            "adapter_model.safetensors",
            "adapter/adapter_model.safetensors",
        ),
        (
            {"objective": "replaced_token", "model": "starter:electra"},
            "discriminator/model.safetensors",
            "model/discriminator/model.safetensors",
        ),
    ],
    ids=["BERT", "LoRA", "一对"],
)
def test_the_model_is_the_mean_of_the_last_checkpoints(
    tmp_path, configure, changes, saved, result
):
    """末三个检查点的平均，逐个张量；检查点自己还是没有平均的。"""
    if "lora_rank" in changes:
        pytest.importorskip("peft")
    done = train(configure(tmp_path / "输出", **THREE, **changes), quiet=True)
    kept = list_checkpoints(done.output)
    assert [step_of(each) for each in kept] == [4, 6, 8]
    assert done.metrics["averaged_steps"] == [4, 6, 8]
    expected, last = mean_of(kept, saved), load_file(kept[-1] / saved)
    found = load_file(done.output / result)
    assert found.keys() == expected.keys()
    moved = 0.0
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name].to(tensor.dtype), msg=name)
        moved = max(moved, float((tensor - last[name]).abs().max()))
    assert moved > 1e-5


def test_an_interrupted_run_averages_the_same(tmp_path, configure, weights):
    """停在第 6 步再续：平均的还是那三步，逐位相等。"""
    whole = train(configure(tmp_path / "整", **THREE), quiet=True)
    output = tmp_path / "续"
    shutil.copytree(whole.output, output)
    for name in ("checkpoint-8", "model"):
        shutil.rmtree(output / name)
    (output / "metrics.json").unlink()
    again = train(replace(whole.config, output=str(output)), resume=True, quiet=True)
    assert again.metrics["averaged_steps"] == [4, 6, 8]
    assert weights(output / "model") == weights(whole.output / "model")


def test_the_window_ends_at_the_best_step(tmp_path, configure, weights):
    """留最好的一步的：到那一步为止的两个，此后存的不算，也没有把它们轮换掉。"""
    config = configure(
        tmp_path / "输出",
        load_best_model_at_end=True,
        eval=True,
        eval_max_chars=300,
        eval_steps=2,
        average_checkpoints=2,
        save_total_limit=1,
        max_steps=12,
        learning_rate=0.05,
        lr_scheduler_type="constant",
        warmup_steps=0,
    )
    done = train(config, quiet=True)
    best = done.metrics["best_step"]
    assert 2 < best < 12
    assert done.metrics["averaged_steps"] == [best - 2, best]
    pair = [done.output / f"checkpoint-{step}" for step in (best - 2, best)]
    expected = mean_of(pair, "model.safetensors")
    found = load_file(done.output / "model" / "model.safetensors")
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name].float(), msg=name)


@pytest.mark.parametrize(
    ("count", "message"),
    [(1, "至少为 2"), (5, "6 步、每 2 步存一次，只有 3 个检查点")],
)
def test_too_few_checkpoints_are_refused(tmp_path, configure, count, message):
    """一个不成平均；步数存不下那么多个的，动手之前就拒绝。"""
    with pytest.raises(ConfigError, match=message):
        train(configure(tmp_path / "输出", average_checkpoints=count), quiet=True)
    assert not (tmp_path / "输出").exists()
