"""掩码语言建模之外的损失：从命令到存盘，续训逐位相等，用不得时按名拒绝。"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from companion.checkpoints.loading import load_checkpoint
from companion.checkpoints.locating import BOUNDARY_FILE
from companion.checkpoints.saving import save_checkpoint
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.config import TrainingConfig
from companion.errors import ConfigError, ModelError, ObjectiveError
from companion.training.loop import read_log
from companion.training.run import train

SPAN = {"preset": "spanbert", "span_boundary": True, "max_steps": 4}

pytestmark = pytest.mark.usefixtures("no_curve")


@pytest.fixture
def spoken(monkeypatch):
    """训练时说过的话。"""
    said: list[str] = []
    monkeypatch.setattr("companion.training.run.speaker", lambda _console: said.append)
    return said


def boundary(folder: Path) -> dict[str, bytes]:
    """边界头的每一位。"""
    tensors = load_file(folder / BOUNDARY_FILE)
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def forget_the_end(output: Path) -> None:
    """像是第二步之后断了。"""
    shutil.rmtree(output / "checkpoint-4")
    shutil.rmtree(output / "model")
    (output / "metrics.json").unlink()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, configure):
    """不曾中断的一次片段边界。"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("companion.plots.curves.plot_curve", lambda *_a, **_k: None)
        patch.setattr("companion.plots.style.save_figure", lambda *_args: None)
        return train(configure(tmp_path_factory.mktemp("一气") / "out", **SPAN))


def test_span_boundaries_resume_bit_for_bit(whole, tmp_path, configure, weights):
    """断了接着训：模型、边界头与日志的损失都与一气呵成的逐位相等。"""
    output = tmp_path / "out"
    shutil.copytree(whole.output, output)
    forget_the_end(output)
    resumed = train(configure(output, **SPAN), resume=True, quiet=True)
    assert weights(output / "model") == weights(whole.output / "model")
    assert boundary(output / "model") == boundary(whole.output / "model")
    for name in ("loss", "boundary_loss", "boundary_accuracy"):
        assert [r[name] for r in resumed.log] == [r[name] for r in whole.log]


def test_the_trained_model_is_stock_and_the_head_is_beside_it(whole):
    """model/ 由标准的类打开，一个键不多不少；头在旁边，日志与账本各有这一份。"""
    for folder in (whole.output / "model", whole.output / "checkpoint-2"):
        _, report = transformers.AutoModelForMaskedLM.from_pretrained(
            folder, output_loading_info=True
        )
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        assert (folder / BOUNDARY_FILE).is_file()
    assert boundary(whole.output / "model") != boundary(whole.output / "checkpoint-2")
    ledger = json.loads((whole.output / "ledger.json").read_text())
    assert 0 < ledger["boundary_targets"] < ledger["targets"]
    assert read_log(whole.output / "log.jsonl")[-1]["boundary_loss"] > 0


def test_a_later_run_goes_on_with_the_head(whole, tmp_path, configure, spoken):
    """以上一次的 model/ 再训练，边界头接着用；头一次说从随机练起，末了说存在哪里。"""
    model = str(whole.output / "model")
    result = train(
        configure(tmp_path / "out", model=model, **SPAN | {"max_steps": 1}), quiet=True
    )
    assert any("接着" in each and BOUNDARY_FILE in each for each in spoken)
    assert any("边界头存在" in each for each in spoken)
    spoken.clear()
    train(configure(tmp_path / "new", **SPAN | {"max_steps": 1}), quiet=True)
    assert any("边界头" in each and "从随机练起" in each for each in spoken)
    assert result.log[0]["boundary_loss"] < whole.log[0]["boundary_loss"]


def test_lora_trains_the_head_whole(tmp_path, configure):
    """LoRA 只套在模型上：边界头照样训练、续训，并好的 model/ 旁边有它。"""
    pytest.importorskip("peft")
    options = SPAN | {"lora_rank": 2}
    straight = train(configure(tmp_path / "a", **options), quiet=True)
    shutil.copytree(straight.output, tmp_path / "b")
    forget_the_end(tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "adapter")
    train(configure(tmp_path / "b", **options), resume=True, quiet=True)
    first = boundary(straight.output / "model")
    assert first == boundary(tmp_path / "b" / "model")
    assert first != boundary(straight.output / "checkpoint-2")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """极小的 distilbert、窄而短的 bert、分不开文档的 convbert，词表相同，权重随机。"""
    folder, tokenizer = tmp_path_factory.mktemp("师生"), tiny_tokenizer("bert")
    narrow = {"hidden_size": 16, "max_position_embeddings": 24}
    for name, kind, extra in (
        ("distilbert", "distilbert", {}),
        ("narrow", "bert", narrow),
        ("convbert", "convbert", {}),
    ):
        save_checkpoint(tiny_model(kind, tokenizer, **extra), tokenizer, folder / name)
    save_checkpoint(tiny_model("roberta"), tiny_tokenizer("roberta"), folder / "other")
    return folder


def test_a_distilled_student_resumes_bit_for_bit(
    tmp_path, configure, models, checkpoints, weights, spoken
):
    """DistilBERT 学 BERT，打包：断了接着训逐位相等，教师一位不变，三份都在日志里。"""
    options = {
        "model": str(models / "distilbert"),
        "teacher": str(checkpoints / "bert"),
        "max_steps": 4,
    }
    before = weights(checkpoints / "bert")
    straight = train(configure(tmp_path / "a", **options), quiet=True)
    assert any("余弦" in each and "冻结" in each for each in spoken)
    assert any("打包，文档互不可见" in each for each in spoken)
    shutil.copytree(straight.output, tmp_path / "b")
    forget_the_end(tmp_path / "b")
    resumed = train(configure(tmp_path / "b", **options), resume=True, quiet=True)
    assert weights(tmp_path / "b" / "model") == weights(straight.output / "model")
    for name in ("loss", "teacher_loss", "teacher_accuracy", "hidden_loss"):
        assert [r[name] for r in resumed.log] == [r[name] for r in straight.log]
    assert "hidden_accuracy" not in straight.log[-1]
    ledger = json.loads((straight.output / "ledger.json").read_text())
    assert ledger["teacher_targets"] == ledger["hidden_targets"] == ledger["trained"]
    assert weights(checkpoints / "bert") == before
    kept = weights(straight.output / "model").keys()
    assert kept == weights(models / "distilbert").keys()


def test_a_narrow_teacher_and_one_that_cannot_pack_are_announced(
    tmp_path, configure, models, spoken
):
    """隐藏层宽不同，说余弦不计；教师分不开文档，就不打包，并说是教师的缘故。"""
    narrow = {"teacher": str(models / "narrow"), "block_size": 24, "max_steps": 1}
    result = train(configure(tmp_path / "a", **narrow), quiet=True)
    assert any("教师的隐藏层宽 16，学生的宽 32，余弦一项不计" in s for s in spoken)
    assert "teacher_loss" in result.log[0]
    assert "hidden_loss" not in result.log[0]
    spoken.clear()
    loose = {"teacher": str(models / "convbert"), "max_steps": 1}
    train(configure(tmp_path / "b", **loose), quiet=True)
    assert any("不打包" in s and "教师：convbert" in s for s in spoken)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"teacher": "other"}, ModelError, r"词表.*同系列"),
        ({"teacher": "narrow"}, ConfigError, r"32 个词元.*至多读 24 个.*block_size=24"),
        (
            {"teacher": "narrow", "objective": "unified_lm"},
            ConfigError,
            r"teacher.*unified_lm.*masked_lm",
        ),
    ],
)
def test_a_teacher_that_cannot_teach_is_named(
    changes, error, words, tmp_path, configure, models
):
    """词表不同、读不了这么长、别的目标：开训之前点名，什么也不写。"""
    changes = changes | {"teacher": str(models / changes["teacher"])}
    with pytest.raises(error, match=f"(?s){words}"):
        train(configure(tmp_path / "out", **changes), quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"span_boundary": True}, ObjectiveError, r"span_boundary.*granularity=token"),
        (
            {"span_boundary": True, "preset": "albert"},
            ObjectiveError,
            r"granularity=ngram.*spanbert",
        ),
        (
            {"span_boundary": True, "objective": "sentence_order"},
            ConfigError,
            r"span_boundary.*sentence_order.*masked_lm",
        ),
    ],
)
def test_what_does_not_fit_is_named(changes, error, words, tmp_path, configure):
    """粒度不合、目标不合：开训之前就点名，什么也不写。"""
    with pytest.raises(error, match=f"(?s){words}"):
        train(configure(tmp_path / "out", **changes), quiet=True)
    assert not (tmp_path / "out").exists()


def test_a_student_starts_from_the_layers_of_its_teacher(tmp_path, configure, no_curve):
    """学生取教师的第 0、2 层：两层，断了再接逐位相等，存下的按普通检查点打开。"""
    config = TrainingConfig.from_sources(
        None,
        {
            **configure(tmp_path / "整", eval=True, eval_max_chars=300).as_dict(),
            "teacher": "starter:bert",
            "model": "starter:bert",
            "student_layers": "0,2",
        },
    )
    result = train(config, quiet=True)
    student = load_checkpoint(str(result.output / "model"), "masked_lm").model
    assert student.config.num_hidden_layers == 2
    rows = [row for row in result.log if "teacher_loss" in row]
    assert rows[-1]["teacher_loss"] < rows[0]["teacher_loss"]
    output = tmp_path / "续"
    shutil.copytree(result.output, output)
    for name in ("checkpoint-6", "model"):
        shutil.rmtree(output / name)
    (output / "metrics.json").unlink()
    train(replace(result.config, output=str(output)), resume=True, quiet=True)
    kept = [load_file(each / "model" / "model.safetensors")
            for each in (output, result.output)]  # fmt: skip
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[1])


def test_the_model_of_a_student_is_its_teacher(tmp_path, corpus):
    """只给教师与层：底座就是教师。"""
    given = {
        "objective": "masked_lm", "corpus": str(corpus), "output": str(tmp_path),
        "teacher": "starter:bert", "student_layers": "0,2",
    }  # fmt: skip
    assert TrainingConfig.from_sources(None, given).model == "starter:bert"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"student_layers": "0,x"}, ConfigError, "依次递增"),
        ({"student_layers": "2,0"}, ConfigError, "依次递增"),
        ({"student_layers": "0,2", "teacher": None}, ConfigError, "底座就是教师"),
        ({"student_layers": "0,2", "model": "starter:glm"}, ConfigError, "就是教师"),
        ({"student_layers": "0,9"}, ModelError, "第 9 层.*只有 4 层"),
    ],
)
def test_layers_a_student_cannot_take_are_refused(
    tmp_path, configure, changes, error, message
):
    """写坏的、次序乱的、没有教师的、另有底座的、教师没有的层；什么也没写。"""
    given = {"teacher": "starter:bert", "model": "starter:bert", **changes}
    with pytest.raises(error, match=message):
        train(configure(tmp_path / "输出", **given), quiet=True)
    assert not (tmp_path / "输出").exists()
