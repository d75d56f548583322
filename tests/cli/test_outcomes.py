"""一条命令的五种结局：退出码、标准输出、标准错误。"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from companion.cli import look
from companion.cli.console import complain, emit
from companion.errors import TrainingError


def _failing(error: BaseException) -> Callable[..., None]:
    def fail(*_args: object, **_options: object) -> None:
        raise error

    return fail


def test_a_result_is_one_json_object_and_nothing_else(
    start: Callable[..., Any],
) -> None:
    """`--json`：标准输出恰是一个 JSON 对象，一行。"""
    result = start("corpus", "stats", "sample:classical", "--json")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\n") == 1
    assert json.loads(result.stdout)["documents"] > 10


def test_what_libraries_print_never_reaches_stdout(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """库在半路 `print` 的话去标准错误，JSON 不受污染。"""
    make_table = look.make_table

    def noisy(*columns: str, title: str = "") -> Any:
        print("库里的闲话")
        return make_table(*columns, title=title)

    monkeypatch.setattr(look, "make_table", noisy)
    result = run("objectives", "--json")
    assert "masked_lm" in [
        each["key"] for each in json.loads(result.stdout)["objectives"]
    ]
    assert "库里的闲话" in result.stderr


def test_a_user_error_is_one_chinese_message_and_exit_1(
    start: Callable[..., Any],
) -> None:
    """用户的错：退出码 1，发现、应当、可以俱全，没有栈回溯，标准输出是空的。"""
    result = start("corpus", "stats", "没有.txt", "--json")
    assert result.returncode == 1
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    assert all(word in lines[0] for word in ("发现：", "应当：", "可以："))


def test_control_characters_in_a_message_are_shown_not_obeyed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """消息引用的语料里有转义符、C1 控制符也不改写终端；换行照旧。"""
    complain("发现：\x1b[2J\x85第二段\n第二行")
    assert capsys.readouterr().err == "发现：\\x1b[2J\\x85第二段\n第二行\n"


@pytest.mark.parametrize("place", ["before", "after"])
def test_debug_shows_the_traceback_wherever_it_stands(
    place: str, run: Callable[..., Any]
) -> None:
    """`--debug` 写在命令前后都行；退出码与消息不变。"""
    words = ["corpus", "stats", "没有.txt"]
    result = run(*(["--debug", *words] if place == "before" else [*words, "--debug"]))
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "发现：" in result.stderr


def test_text_after_two_dashes_may_look_like_an_option(
    run: Callable[..., Any], checkpoints: Path
) -> None:
    """`--` 之后是正文，`--debug` 也不例外。"""
    model = checkpoints / "bloom"
    result = run("show", "causal_lm", "--json", "--model", model, "--", "--debug")
    assert result.exit_code == 0
    assert "".join(json.loads(result.stdout)["rows"][0]["tokens"]) == "--debug</s>"


def test_our_own_fault_exits_70_and_says_how_to_report(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """意外的异常是我们的过失：退出码 70，一句中文，栈回溯只在 `--debug` 时给。"""
    monkeypatch.setattr(look, "emit", _failing(KeyError("奇怪")))
    result = run("objectives")
    assert result.exit_code == 70
    assert "KeyError" in result.stderr
    assert "本程序的过失" in result.stderr
    assert "--debug" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" in run("objectives", "--debug").stderr


def test_out_of_memory_is_something_the_user_can_change(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """内存不够：退出码 1，说调小哪一项。"""
    monkeypatch.setattr(look, "emit", _failing(MemoryError()))
    result = run("objectives")
    assert result.exit_code == 1
    assert "tokens_per_batch" in result.stderr


def test_ctrl_c_exits_130_with_a_word(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C：退出码 130，一句话，没有栈回溯。"""
    monkeypatch.setattr(look, "emit", _failing(KeyboardInterrupt()))
    result = run("objectives")
    assert result.exit_code == 130
    assert "已中断" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_interrupted_training_exits_130_and_says_how_to_resume(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """训练收到信号、存好检查点后停下，也是 130，消息照给。"""
    from companion.training import TrainingInterrupted

    stopped = TrainingInterrupted(
        found="停在第 3/9 步", expected="走完", remedy="companion train --resume"
    )
    monkeypatch.setattr(look, "emit", _failing(stopped))
    result = run("objectives")
    assert result.exit_code == 130
    assert "companion train --resume" in result.stderr


def test_only_the_first_process_prints_the_result(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """多进程训练时，结果只由第 0 个进程打印。"""
    monkeypatch.setenv("RANK", "1")
    emit({"a": 1}, as_json=True)
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("RANK", "0")
    emit({"a": 1}, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"a": 1}


@pytest.mark.parametrize(("rank", "waited"), [("0", []), ("1", [3.0])])
def test_the_other_processes_let_the_first_speak(
    rank: str, waited: list[float], run: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """出错时别的进程先等第 0 个说完；等到最后还在，才自己说，错误因此不会没人说。"""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setenv("RANK", rank)
    error = TrainingError(found="磁盘满了", expected="放得下", remedy="腾出空间")
    monkeypatch.setattr(look, "emit", _failing(error))
    result = run("objectives")
    assert (result.exit_code, slept) == (1, waited)
    assert result.stderr.count("磁盘满了") == 1


@pytest.mark.parametrize(("rank", "times"), [("0", 1), ("1", 0)])
def test_an_interruption_is_reported_by_the_first_process_only(
    rank: str, times: int, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """停下是几个进程一同商定的：第 0 个说一遍就够，退出码都是 130。"""
    from companion.training import TrainingInterrupted

    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    monkeypatch.setenv("RANK", rank)
    stopped = TrainingInterrupted(found="停下", expected="走完", remedy="--resume")
    monkeypatch.setattr(look, "emit", _failing(stopped))
    result = run("objectives")
    assert (result.exit_code, result.stderr.count("停下")) == (130, times)


def test_python_dash_m_is_the_same_command(start: Callable[..., Any]) -> None:
    """`python -m companion` 自称 companion。"""
    assert start("--version").stdout.startswith("companion ")
    assert "用法：companion" in start("nope").stderr


def test_libraries_are_silenced_without_overriding_the_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """不上报、不刷屏是缺省；用户自己设过的环境变量不动。"""
    import os
    import warnings

    from companion.cli.console import silence_libraries

    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "debug")
    for name in ("DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "placeholder")  # 用后复原
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "warnoptions", ["error"])
    with warnings.catch_warnings():
        silence_libraries()
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "debug"
    assert os.environ["DO_NOT_TRACK"] == "1"
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_auto_tunes_beside_the_output_and_then_trains(
    run: Callable[..., Any], checkpoints: Path, corpus: Path, tmp_path: Path
) -> None:
    """`train --auto`：试训写在 `输出.tuning`，选定了再训练；`tune` 认得它。"""
    words = (
        "--objective", "masked_lm", "--model", checkpoints / "bert", "--corpus", corpus,
        "--max-steps", "1100", "--set", "block_size=16", "--set", "tokens_per_batch=32",
        "--set", "eval_steps=0", "--quiet", "--json",
    )  # fmt: skip
    result = run("train", *words, "--auto", "--output", tmp_path / "输出")
    assert result.exit_code == 0, result.stderr
    tuned = run("tune", *words, "--output", tmp_path / "输出.tuning")
    assert tuned.exit_code == 0, tuned.stderr
    chosen = json.loads(tuned.stdout)["learning_rate"]
    config = (tmp_path / "输出/config.yaml").read_text(encoding="utf-8")
    assert f"learning_rate: {chosen}" in config
