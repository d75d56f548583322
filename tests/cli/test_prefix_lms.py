"""前缀语言模型的命令：训练、评估、对照走得通；用不得的模型、词表、行长点名拒绝。"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from companion.cli.measuring import guess_objective

GOALS = {"prefix_lm": "gpt2", "unified_lm": "bert", "blank_infilling": "glm_two_row"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """一个文件夹，里面有随机权重的检查点。"""
    from companion.checkpoints.saving import save_checkpoint
    from companion.checkpoints.tiny import tiny_model, tiny_tokenizer

    folder = tmp_path_factory.mktemp("checkpoints")
    for kind in ("gpt2", "bert", "glm_two_row", "t5", "modernbert"):
        tokenizer = tiny_tokenizer(kind)
        save_checkpoint(tiny_model(kind, tokenizer), tokenizer, folder / kind)
    return folder


@pytest.mark.parametrize("objective", GOALS)
def test_a_run_is_evaluated_as_it_was_trained(
    objective: str,
    run: Callable[..., Any],
    folder: Path,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Train 记下的成绩就是 evaluate 的；考哪个目标，由旁边的 config.yaml 知道。"""
    monkeypatch.setattr("companion.evaluation.answers.MAX_NEW_TOKENS", 2)
    monkeypatch.setattr("companion.plots.curves.plot_curve", lambda *_a, **_k: None)
    monkeypatch.setattr("companion.plots.style.save_figure", lambda *_args: None)
    model, output = folder / GOALS[objective], tmp_path / "out"
    trained = run(
        "train", "--objective", objective, "--model", model, "--corpus", corpus,
        "--valid", corpus, "--output", output, "--max-steps", 2, "--json", "-q",
    )  # fmt: skip
    assert trained.exit_code == 0, trained.stderr
    metrics = json.loads(trained.stdout)
    assert guess_objective(str(output / "model")) == objective
    words = ("--objective", objective, "--model", output, "--corpus", corpus)
    found = json.loads(run("evaluate", *words, "--json").stdout)
    expected = metrics["after"]["domain"]
    assert found["bits_per_char"] == pytest.approx(expected["bits_per_char"])
    assert found["num_targets"] == expected["num_targets"] > 0
    assert (output / "report.html").is_file()
    if objective == "prefix_lm":
        words = ("compare", model, output, "--corpus", corpus, "--json")
        assert json.loads(run(*words).stdout)["objective"] == objective


@pytest.mark.parametrize(
    ("objective", "kind", "settings", "said"),
    [
        ("unified_lm", "modernbert", (), "只看 8 个词元的窗口"),
        ("prefix_lm", "bert", (), "bert 是编码器"),
        ("unified_lm", "gpt2", (), "gpt2 是解码器"),
        ("blank_infilling", "t5", (), "t5 是编码器–解码器"),
        ("blank_infilling", "gpt2", (), "没有 [MASK]、[sMASK]、[gMASK]、[sop]、[eop]"),
        ("prefix_lm", "gpt2", ("block_size=129",), "位置上限 128"),
        ("unified_lm", "bert", ("block_size=129",), "位置上限 128"),
        ("unified_lm", "bert", ("target_mask_probability=1.5",), "在 0 与 1 之间"),
        ("blank_infilling", "glm_two_row", ("document_probability=2",), "不大于 1"),
        (
            "blank_infilling",
            "glm_two_row",
            ("document_probability=0.6", "sentence_probability=0.6"),
            "sentence_probability + document_probability",
        ),
    ],
)
def test_what_cannot_be_trained_is_named(
    objective: str,
    kind: str,
    settings: tuple[str, ...],
    said: str,
    run: Callable[..., Any],
    folder: Path,
    corpus: Path,
    tmp_path: Path,
) -> None:
    """退出码 1，一条消息说中要害，输出文件夹还没有建；不评估时也一样。"""
    words = ["train", "--objective", objective, "--model", folder / kind,
             "--corpus", corpus, "--output", tmp_path / "out"]  # fmt: skip
    for setting in ("eval=false", *settings):
        words += ["--set", setting]
    result = run(*words)
    assert result.exit_code == 1
    assert said in result.stderr
    assert "可以：" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["evaluate", "check"])
def test_a_rejected_mask_is_named_by_every_command(
    command: str, run: Callable[..., Any], folder: Path, corpus: Path
) -> None:
    """ModernBERT 只看一个窗口：评估与体检也点名，不是一串英文。"""
    words = ["--objective", "unified_lm", "--model", folder / "modernbert"]
    words += ["--corpus", corpus] if command == "evaluate" else ["--json"]
    result = run(command, *words)
    assert result.exit_code == 1
    if command == "evaluate":
        assert "用不得 bidirectional 掩码" in result.stderr
        return
    findings = {each["code"]: each for each in json.loads(result.stdout)["findings"]}
    assert findings["mask"]["severity"] == "error"
    assert "causal_lm" in findings["mask"]["remedy"]
    assert findings["head"]["severity"] == "notice"


@pytest.mark.parametrize("objective", GOALS)
def test_a_fitting_model_passes_the_check(
    objective: str, run: Callable[..., Any], folder: Path
) -> None:
    """体检试过目标要用的每种掩码，没有错误。"""
    words = ("--objective", objective, "--model", folder / GOALS[objective], "--json")
    found = json.loads(run("check", *words).stdout)
    assert found["ok"]
    codes = {each["code"]: each for each in found["findings"]}
    assert codes["mask"]["message"].startswith("试过：照办")
    assert codes["padding"]["severity"] == "ok"
