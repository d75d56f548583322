"""掩码语言建模之外的损失：从命令到存盘，续训逐位相等，用不得时按名拒绝。"""

import json
import shutil
from pathlib import Path

import pytest
import transformers
from safetensors.torch import load_file

from companion.errors import ConfigError, ObjectiveError
from companion.models.locating import BOUNDARY_FILE
from companion.training.callbacks import read_log
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
