"""接着前一次训练另起一次：没有分成两次时怎样，分成两次也怎样；接不上的按名拒绝。"""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from companion.checkpoints.saving import save_checkpoint
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.config import TrainingConfig
from companion.errors import CompanionError, ConfigError
from companion.training import train
from companion.training.continuing import find_start
from companion.training.output import step_of

pytestmark = pytest.mark.usefixtures("no_curve")

PLATEAU = {
    "max_steps": 10,
    "lr_scheduler_type": "warmup_stable_decay",
    "warmup_steps": 2,
    "save_steps": 4,
    "save_total_limit": 5,
    "tokens_per_batch": 4096,
    "logging_steps": 1,
}
"""第 2 步升到峰值，第 8 步起下降；整份语料是一批，次序因此处处相同。"""
DECAY = {
    "max_steps": 2,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0,
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """没有随机失活的 BLOOM 与 BERT。"""
    folder = tmp_path_factory.mktemp("检查点")
    for kind in ("bloom", "bert"):
        tokenizer = tiny_tokenizer(kind)
        model = tiny_model(kind, tokenizer)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        for name in ("hidden_dropout", "attention_dropout"):
            if hasattr(model.config, name):
                setattr(model.config, name, 0.0)
        save_checkpoint(model, tokenizer, folder / kind)
    return folder


@pytest.fixture(scope="module")
def settings(plain, configure):
    """没有随机失活的 BLOOM 的设置。"""

    def build(output, **changes):
        given = {**PLATEAU, "model": str(plain / "bloom"), **changes}
        return configure(output, "bloom", **given)

    return build


def apart(one, other) -> float:
    """两个检查点的权重差得最多的一处。"""
    mine, yours = (
        load_file(each / "model" / "model.safetensors") for each in (one, other)
    )
    return max(float((mine[name] - yours[name]).abs().max()) for name in mine)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adamw"},
        {"optimizer": "muon", "embedding_learning_rate": 1e-4},
        {"lora_rank": 4, "learning_rate": 1e-2},
    ],
    ids=["AdamW", "Muon", "LoRA"],
)
def test_a_plateau_branched_into_a_decay_is_the_uninterrupted_run(
    tmp_path, settings, changes
):
    """WSD 十步，末两步下降：由平台上的第 8 步接一段两步的下降，差不到百万分之一。"""
    if "lora_rank" in changes:
        pytest.importorskip("peft")
    whole = train(settings(tmp_path / "一气", **changes), quiet=True)
    source = whole.output / "checkpoint-8"
    branch = settings(tmp_path / "分枝", continue_from=str(source), **changes, **DECAY)
    branched = train(branch, quiet=True)
    assert apart(branched.output, whole.output) < 1e-6
    rates = [row["learning_rate"] for row in whole.log]
    assert [row["learning_rate"] for row in branched.log] == rates[-2:]
    bare = settings(tmp_path / "只要权重", **changes, **DECAY)
    if "lora_rank" not in changes:
        without = train(replace(bare, model=str(source)), quiet=True)
        assert apart(without.output, whole.output) > 1e-4


@pytest.fixture(scope="module")
def earlier(settings, tmp_path_factory):
    """前一次：余弦走完，停在峰值的一成。"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("companion.plots.curves.plot_curve", lambda *_a, **_k: None)
        patch.setattr("companion.plots.style.save_figure", lambda *_a: None)
        config = settings(
            tmp_path_factory.mktemp("前") / "输出", lr_scheduler_type="cosine"
        )
        return train(config, quiet=True)


def test_the_rate_rises_again_from_where_it_stopped(tmp_path, settings, earlier):
    """停在一成，就从一成升到峰值；没有给峰值的，峰值同前一次；来处记在 inputs.json。"""
    config = settings(
        tmp_path / "后",
        continue_from=str(earlier.output),
        learning_rate=None,
        warmup_steps=3,
    )
    result = train(config, quiet=True)
    rates = [row["learning_rate"] for row in result.log[:4]]
    assert rates == pytest.approx([3.25e-4, 5.5e-4, 7.75e-4, 1e-3])
    inputs = json.loads((result.output / "inputs.json").read_text(encoding="utf-8"))
    assert inputs["start"] == {
        "checkpoint": str(earlier.output / "checkpoint-10"),
        "step": 10,
        "learning_rate": pytest.approx(1e-4),
        "moments": True,
    }
    moments = torch.load(result.output / "checkpoint-4" / "optimizer.pt")["state"]
    assert {int(each["step"]) for each in moments.values()} == {14}


def test_moments_find_their_parameters_in_other_groups(tmp_path, settings, earlier):
    """词嵌入另分一组、学习率却相同：动量对得上，结果与不另分的相同。"""
    given = {"continue_from": str(earlier.output), "max_steps": 3}
    plain = train(settings(tmp_path / "不分", **given), quiet=True)
    apart_groups = settings(tmp_path / "分", embedding_learning_rate=1e-3, **given)
    assert apart(train(apart_groups, quiet=True).output, plain.output) < 1e-6


def test_another_optimizer_starts_its_moments_anew(tmp_path, settings, earlier, capsys):
    """优化器不同：只要权重，并说出来。"""
    config = settings(
        tmp_path / "后",
        continue_from=str(earlier.output),
        optimizer="muon",
        max_steps=2,
    )
    result = train(config)
    said = capsys.readouterr().err.replace("\n", "")
    assert "optimizer 与前一次不同，优化器的动量从零起" in said
    inputs = json.loads((result.output / "inputs.json").read_text(encoding="utf-8"))
    assert inputs["start"]["moments"] is False


def test_an_interrupted_continuation_resumes_bit_for_bit(
    tmp_path, settings, earlier, weights
):
    """接着前一次的一次也断得：续训与一气走完逐位相等。"""
    whole = train(
        settings(tmp_path / "整", continue_from=str(earlier.output)), quiet=True
    )
    output = tmp_path / "续"
    shutil.copytree(whole.output, output)
    for name in ("checkpoint-8", "checkpoint-10", "model"):
        shutil.rmtree(output / name)
    (output / "metrics.json").unlink()
    train(replace(whole.config, output=str(output)), resume=True, quiet=True)
    assert weights(output / "model") == weights(whole.output / "model")


def test_a_pair_is_continued_with_its_moments(tmp_path, configure):
    """生成器与判别器的一对：两边的动量都带来。"""
    given = {"objective": "replaced_token", "model": "starter:electra", "max_steps": 1}
    first = train(configure(tmp_path / "前", **given), quiet=True)
    config = configure(tmp_path / "后", continue_from=str(first.output), **given)
    result = train(config, quiet=True)
    moments = torch.load(result.output / "checkpoint-1" / "optimizer.pt")["state"]
    assert {int(each["step"]) for each in moments.values()} == {2}


def test_the_best_step_is_the_place_to_start(tmp_path, settings, earlier):
    """那次留最好的一步的，从那一步出发；也可以自己指定。"""
    run = tmp_path / "前"
    shutil.copytree(earlier.output, run)
    (run / "metrics.json").write_text('{"best_step": 4}', encoding="utf-8")
    for place, step in ((run, 4), (run / "checkpoint-8", 8)):
        start = find_start(
            settings(tmp_path / "后", continue_from=str(place)),
            objective("causal_lm"),
        )
        assert start is not None
        assert step_of(start.folder) == step


def objective(key: str):
    from companion.objectives import get_objective

    return get_objective(key)


def test_an_adapter_that_is_not_kept_is_merged(tmp_path, settings):
    """前一次是 LoRA，这一次不是：适配器并进底座，从并好的模型练起。"""
    pytest.importorskip("peft")
    lora = {"lora_rank": 4, "learning_rate": 1e-2, "max_steps": 3}
    first = train(settings(tmp_path / "前", eval=True, **lora), quiet=True)
    config = settings(
        tmp_path / "后", continue_from=str(first.output), max_steps=1, eval=True
    )
    result = train(config, quiet=True)
    after = first.metrics["after"]["domain"]["bits_per_char"]
    before = result.metrics["before"]["domain"]["bits_per_char"]
    assert before == pytest.approx(after, abs=1e-5)
    kept = settings(
        tmp_path / "接着", continue_from=str(first.output), eval=True, **lora
    )
    before = train(kept, quiet=True).metrics["before"]["domain"]["bits_per_char"]
    assert before == pytest.approx(after, abs=1e-5)


def test_the_objective_and_the_model_need_not_be_repeated(tmp_path, corpus, earlier):
    """目标与底座缺省同前一次；给出的检查点文件夹也认得。"""
    given = {"corpus": str(corpus), "output": str(tmp_path / "后")}
    for place in (earlier.output, earlier.output / "checkpoint-4"):
        config = TrainingConfig.from_sources(
            None, {**given, "continue_from": str(place)}
        )
        assert (config.objective, config.model) == (
            earlier.config.objective, earlier.config.model,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("place", "changes", "message"),
    [
        ("没有", {}, "不存在"),
        ("model", {}, r"里没有 config\.yaml.*只要权重、不要动量的，用 --model"),
        ("checkpoint-7", {}, "没有完整的检查点 checkpoint-7.*checkpoint-4"),
        ("", {"model": "starter:glm"}, "是由.*bloom.*同一个底座"),
        ("", {"objective": "masked_lm", "model": None}, "AutoModelForMaskedLM.*输出头"),
    ],
)
def test_what_cannot_be_continued_is_refused(
    tmp_path, settings, earlier, place, changes, message
):
    """没有那次运行，给错了文件夹，没有那个检查点，别的底座，别的输出头；什么也没写。"""
    if "model" in changes and changes["model"] is None:
        changes = {**changes, "model": earlier.config.model}
    config = settings(
        tmp_path / "后", continue_from=str(earlier.output / place), **changes
    )
    with pytest.raises(CompanionError, match=f"(?s){message}"):
        train(config, quiet=True)
    assert not (tmp_path / "后").exists()


def test_a_damaged_checkpoint_is_refused(tmp_path, settings, earlier):
    """检查点截短了：按名拒绝。"""
    run = tmp_path / "前"
    shutil.copytree(earlier.output, run)
    (run / "checkpoint-10" / "optimizer.pt").write_bytes(b"")
    with pytest.raises(CompanionError, match=r"optimizer\.pt"):
        train(settings(tmp_path / "后", continue_from=str(run)), quiet=True)
    assert not (tmp_path / "后").exists()


def test_the_vocabulary_stays_that_of_the_earlier_run(tmp_path, settings, earlier):
    """扩充词表就不是同一个分词器了。"""
    with pytest.raises(ConfigError, match="同一个分词器"):
        settings(tmp_path, continue_from=str(earlier.output), new_characters=3)
