"""LoRA：只训练适配器，并好的模型与普通检查点一样打开。"""

import os
import shutil
import signal
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from companion.checkpoints.loading import load_checkpoint
from companion.checkpoints.saving import save_checkpoint
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.errors import ConfigError
from companion.training import TrainingInterrupted, arguments, train
from companion.training.loop import LogCallback
from companion.training.optimizing import make_optimizer
from companion.training.trainer import CompanionTrainer

pytest.importorskip("peft")

OPTIONS = {"lora_rank": 4, "max_steps": 4, "learning_rate": 1e-2}
AUTO = {
    "bert": "AutoModelForMaskedLM",
    "gpt2": "AutoModelForCausalLM",
    "bloom": "AutoModelForCausalLM",
}
RARE = "龘鱻"


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


@pytest.fixture
def rare(corpus, tmp_path):
    """每篇都有一个生字的语料。"""
    texts = corpus.read_text("utf-8").split("\n\n")
    path = tmp_path / "生字.txt"
    lines = [f"{text}{RARE[n % 2]}曰。" for n, text in enumerate(texts)]
    path.write_text("\n\n".join(lines), encoding="utf-8")
    return str(path)


@pytest.fixture
def untied(tmp_path) -> Path:
    """输出头与词嵌入各是各的 BLOOM。"""
    tokenizer = tiny_tokenizer("bloom")
    model = tiny_model("bloom", tokenizer, tie_word_embeddings=False)
    return save_checkpoint(model, tokenizer, tmp_path / "各是各的")


def open_plainly(output: Path, kind: str):
    """由 base/ 与 adapter/，只用 transformers 与 peft。"""
    from peft import PeftModel

    base = getattr(transformers, AUTO[kind]).from_pretrained(output / "base")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        return PeftModel.from_pretrained(base, output / "adapter").eval()


def logits_of(model, ids) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([[5, 6, *ids, 7]])).logits


@pytest.mark.parametrize(
    ("kind", "dora"), [("bert", False), ("bloom", True), ("untied", False)]
)
def test_the_rows_of_new_characters_are_trained_beside_the_adapter(
    kind, dora, tmp_path, configure, rare, untied, no_curve
):
    """扩充词表又用 LoRA：只动新行与适配器；base/ 加 adapter/ 与 model/ 相等。"""
    changes = {"model": str(untied)} if kind == "untied" else {}
    kind = "bloom" if kind == "untied" else kind
    config = configure(
        tmp_path / "输出", kind, corpus=rare, new_characters=9, use_dora=dora,
        **OPTIONS, **changes,
    )  # fmt: skip
    output = train(config, quiet=True).output
    before, after = (
        load_file(output / name / "model.safetensors") for name in ("base", "model")
    )
    whole = getattr(transformers, AUTO[kind]).from_pretrained(output / "model").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(output / "adapter")
    ids = tokenizer(RARE, add_special_tokens=False).input_ids
    assert len(ids) == len(RARE)
    old = len(transformers.AutoTokenizer.from_pretrained(config.model))
    assert min(ids) >= old
    tables = {n for n in before if "word_embeddings.weight" in n or "lm_head" in n}
    assert len(tables) == (2 if changes else 1)
    for name in tables:
        assert torch.equal(before[name][:old], after[name][:old]), name
        for row in ids:
            assert not torch.equal(before[name][row], after[name][row]), name
    expected = logits_of(whole, ids)
    plain = open_plainly(output, kind)
    if kind == "bert":  # peft 在并入之前丢了输出头的偏置（huggingface/peft#3649）
        plain = plain.merge_and_unload()
    torch.testing.assert_close(logits_of(plain, ids), expected, atol=1e-4, rtol=1e-4)
    ours = load_checkpoint(str(output / "adapter"), config.objective)
    torch.testing.assert_close(logits_of(ours.model, ids), expected)
    assert len(ours.tokenizer) == len(tokenizer)
    moved = tmp_path / "搬了家"
    shutil.move(output, moved)
    again = load_checkpoint(str(moved / "adapter"), config.objective)
    torch.testing.assert_close(logits_of(again.model, ids), expected)


def test_a_wrapped_head_keeps_its_bias(tmp_path, configure):
    """套上 LoRA、训练新行之前，BERT 的 logits 与没有套时一样。"""
    model = tiny_model("bert")
    with torch.no_grad():
        model.get_output_embeddings().bias.normal_()
    expected = logits_of(model.eval(), [8])
    wrapped = arguments.add_lora(model, configure(tmp_path, lora_rank=2), [8, 9])
    torch.testing.assert_close(logits_of(wrapped.eval(), [8]), expected)


def test_an_extended_adapter_resumes_and_continues(
    tmp_path, configure, rare, weights, no_curve
):
    """扩充了词表的 LoRA：断了再接逐位相等；另起一次，从它停下的地方出发。"""
    options = {**OPTIONS, "corpus": rare, "new_characters": 9}
    whole = train(configure(tmp_path / "整", eval=True, **options), quiet=True)
    output = tmp_path / "续"
    shutil.copytree(whole.output, output)
    for name in ("checkpoint-4", "model", "adapter"):
        shutil.rmtree(output / name)
    (output / "metrics.json").unlink()
    train(replace(whole.config, output=str(output)), resume=True, quiet=True)
    assert weights(output / "model") == weights(whole.output / "model")
    second = configure(
        tmp_path / "后", continue_from=str(whole.output), corpus=rare, eval=True,
        **OPTIONS,
    )  # fmt: skip
    result = train(second, quiet=True)
    after = whole.metrics["after"]["domain"]["bits_per_char"]
    before = result.metrics["before"]["domain"]["bits_per_char"]
    assert before == pytest.approx(after, abs=1e-4)
    state = torch.load(result.output / "checkpoint-4" / "optimizer.pt")["state"]
    assert {int(each["step"]) for each in state.values()} == {8}
    saved = load_file(result.output / "adapter" / "adapter_model.safetensors")
    assert any("trainable_tokens_delta" in name for name in saved)


def test_dora_learns_the_lengths_and_reopens(tmp_path, configure, no_curve):
    """DoRA 多一组长度；并好的模型与适配器并回底座相同。"""
    result = train(configure(tmp_path / "输出", use_dora=True, **OPTIONS), quiet=True)
    saved = load_file(result.output / "adapter" / "adapter_model.safetensors")
    assert any("lora_magnitude_vector" in name for name in saved)
    whole = load_checkpoint(str(result.output / "model"), "masked_lm").model
    ours = load_checkpoint(str(result.output / "adapter"), "masked_lm").model
    torch.testing.assert_close(logits_of(ours, [8]), logits_of(whole, [8]))


@pytest.mark.parametrize(
    ("rank", "chosen", "scale"), [(16, True, 4.0), (64, False, 2.0), (64, None, 2.0)]
)
def test_the_scale_of_rslora_can_be_chosen(tmp_path, configure, rank, chosen, scale):
    """秩 16 用 α/√r（α = 16）是 4；秩 64 不用它（α = 2r）仍是 2。"""
    config = configure(tmp_path, lora_rank=rank, use_rslora=chosen)
    wrapped = arguments.add_lora(tiny_model("bert"), config)
    found = {
        found
        for module in wrapped.modules()
        if hasattr(module, "lora_A")
        for found in module.scaling.values()
    }
    assert found == {scale}


@pytest.mark.parametrize("dora", [False, True])
def test_the_groups_of_lora_plus_are_those_of_peft(tmp_path, configure, dora):
    """B（与 DoRA 的长度）的学习率是十六倍，新行与 A 的照旧：与 peft 分的组相同。"""
    from peft.optimizers import create_loraplus_optimizer

    config = configure(
        tmp_path, lora_rank=2, use_dora=dora, loraplus_lr_ratio=16, weight_decay=0.0
    )
    model = arguments.add_lora(tiny_model("bert"), config, [8, 9])
    theirs = create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16
    )
    ours = make_optimizer(model, config, 1e-3, set())

    def rates(made) -> dict[int, float]:
        return {
            id(weight): group["lr"]
            for group in made.param_groups
            for weight in group["params"]
        }

    assert rates(ours) == pytest.approx(rates(theirs))
    assert len(set(rates(ours).values())) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "use_dora 是 LoRA 的一项"),
        ({"use_rslora": True}, "use_rslora 是 LoRA 的一项"),
        ({"loraplus_lr_ratio": 16}, "loraplus_lr_ratio 是 LoRA 的一项"),
        ({"loraplus_lr_ratio": 0.5, "lora_rank": 4}, "至少为 1"),
    ],
)
def test_settings_of_lora_without_lora_are_refused(
    tmp_path, configure, changes, message
):
    """没有 lora_rank 的 LoRA 设置，小于一的倍数。"""
    with pytest.raises(ConfigError, match=message):
        configure(tmp_path, **changes)
