"""LoRA：只训练适配器，并好的模型与普通检查点一样打开。"""

import os
import signal
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from companion.checkpoints.loading import load_checkpoint
from companion.training import TrainingInterrupted, arguments, train
from companion.training.loop import LogCallback
from companion.training.trainer import CompanionTrainer

pytest.importorskip("peft")

OPTIONS = {"lora_rank": 4, "max_steps": 4, "learning_rate": 1e-2}
AUTO = {"bert": "AutoModelForMaskedLM", "gpt2": "AutoModelForCausalLM"}


def test_only_the_adapter_is_trained_and_the_merged_model_opens(
    tmp_path, configure, checkpoints, monkeypatch, no_curve
):
    """可训练的只有 lora_ 参数；model/ 缺不了一个键，adapter/ 并回底座与它相同。"""
    trainable = []
    real = CompanionTrainer.train

    def look(self, **options):
        names = [n for n, p in self.model.named_parameters() if p.requires_grad]
        trainable.extend(names)
        return real(self, **options)

    monkeypatch.setattr(CompanionTrainer, "train", look)
    result = train(configure(tmp_path / "输出", **OPTIONS), quiet=True)
    assert trainable
    assert all("lora_" in name for name in trainable)
    adapter = load_file(result.output / "adapter" / "adapter_model.safetensors")
    assert len(adapter) == len(trainable)

    model, info = transformers.AutoModelForMaskedLM.from_pretrained(
        result.output / "model", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]

    before = load_file(checkpoints / "bert" / "model.safetensors")
    after = load_file(result.output / "model" / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    adapted = {name.partition(".lora_")[0] for name in trainable}
    adapted = {name.removeprefix("base_model.model.") + ".weight" for name in adapted}
    assert changed == adapted
    assert not any("embeddings" in name for name in changed)

    merged = load_checkpoint(str(result.output / "adapter"), "masked_lm").model
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name], msg=name)


def test_the_update_keeps_its_scale_when_the_rank_grows(tmp_path, configure):
    """换成 rsLoRA 的一步没有台阶：秩 16、63、64 的缩放都是 2，此后随 √r 降。"""
    scales = {}
    for rank in (16, 63, 64, 256):
        model = load_checkpoint("starter:bert", "masked_lm").model
        wrapped = arguments.add_lora(model, configure(tmp_path, lora_rank=rank))
        scales[rank] = {
            scale
            for module in wrapped.modules()
            if hasattr(module, "lora_A")
            for scale in module.scaling.values()
        }
    assert scales == {16: {2.0}, 63: {2.0}, 64: {2.0}, 256: {1.0}}


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_an_interrupted_adapter_resumes_exactly(
    kind, tmp_path, configure, weights, monkeypatch, no_curve
):
    """LoRA 断了再接：并好的权重与不曾中断逐位相等。"""
    whole = train(configure(tmp_path / "一气", kind, **OPTIONS), quiet=True)
    config = configure(tmp_path / "断过", kind, **OPTIONS)

    def send(self, args, state, control, **_):
        if state.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(LogCallback, "on_step_end", send)
        with pytest.raises(TrainingInterrupted):
            train(config, quiet=True)
    train(config, resume=True, quiet=True)
    output = Path(config.output)
    assert weights(output / "model") == weights(whole.output / "model")
    getattr(transformers, AUTO[kind]).from_pretrained(output / "model")
