"""帮助是中文的、完整的、立刻就有的。"""

import re
import resource
from collections.abc import Callable
from typing import Any

import pytest

from companion.cli.chinese import translate

ENGLISH = [
    "Usage",
    "Options",
    "Arguments",
    "Commands",
    "message",
    "default:",
    "Install",
    "required",
    "<bool>",
]
COMMANDS = [
    "",
    "demo",
    "train",
    "check",
    "evaluate",
    "compare",
    "show",
    "fill",
    "complete",
    "infill",
    "objectives",
    "corpus",
    "corpus list",
    "corpus fetch",
    "corpus stats",
    "corpus missing",
    "corpus clean",
    "corpus split",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_page_is_chinese_and_complete(
    command: str, run: Callable[..., Any]
) -> None:
    """栏目、用法、每个选项的说明都是中文，没有一句因为太窄而省略。"""
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert "用法：companion" in result.stdout
    for english in ENGLISH:
        assert english not in result.stdout
    details = result.stdout.split("选项", 1)[1]
    assert "…" not in details.replace("companion …", "")


@pytest.mark.parametrize("command", COMMANDS[1:])
def test_every_leaf_command_has_json(command: str, run: Callable[..., Any]) -> None:
    """除了命令组本身，每个命令都有 `--json`。"""
    if command != "corpus":
        assert "--json" in run(*command.split(), "--help").stdout


def test_help_answers_at_once_without_torch(start: Callable[..., Any]) -> None:
    """`companion --help` 只用 1.5 秒以内的处理器时间；指标是 0.6 秒。"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = start("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    assert result.returncode == 0
    assert "train" in result.stdout
    assert seconds < 1.5


def test_the_command_line_module_imports_nothing_heavy(root: Any) -> None:
    """导入 `companion.cli`（连同全部命令的参数）之后，重的库一个也没有。"""
    import subprocess
    import sys

    code = (
        "import sys, companion.cli; "
        "print([m for m in ('torch', 'transformers', 'matplotlib', 'pyarrow', 'jieba',"
        " 'tokenizers', 'numpy') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "[]"


def test_shell_completion_offers_the_commands(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """补全是开着的：脚本打印得出来。"""
    # 不看是谁启动了测试：那可能不是一个 shell
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    result = start("--show-completion", "bash")
    assert "_COMPANION_COMPLETE" in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nope",), "没有命令 nope"),
        (("trian",), "是不是想写 'train'？"),
        (("train", "--ouput", "x"), "没有选项 --ouput，是不是想写"),
        (("train", "--output"), "选项 '--output' 缺少值"),
        (("train", "--model", "甲", "--model", "乙"), "选项 --model 写了 2 次"),
        (("show", "causal_lm", "--seed", "1", "--seed", "1"), "选项 --seed 写了 2 次"),
        (("train", "--seed", "x"), "'--seed' 的值不是整数"),
        (("train", "多", "余"), "多出了参数 多 余"),
        (("evaluate",), "缺少选项 '--model'"),
        (("fill",), "缺少参数 '文字'"),
        (("corpus", "stat"), "是不是想写 'stats'？"),
    ],
)
def test_usage_errors_exit_2_in_chinese(
    words: tuple[str, ...], said: str, run: Callable[..., Any]
) -> None:
    """命令写错：退出码 2，标准错误上有用法、错在哪里、怎样看帮助；标准输出是空的。"""
    result = run(*words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "用法：companion" in result.stderr
    assert "--help 查看用法" in result.stderr
    assert result.stdout == ""


def test_no_command_shows_the_help_and_exits_2(run: Callable[..., Any]) -> None:
    """只写 `companion` 就给整页帮助。"""
    result = run()
    assert result.exit_code == 2
    assert "用法：companion [选项] 命令" in result.stdout + result.stderr


def test_an_unknown_usage_message_is_passed_on() -> None:
    """库换了措辞也不致无话可说：原文照给。"""
    assert translate("Something new went wrong.") == (
        "用法不对（Something new went wrong）"
    )


def test_version_is_printed(run: Callable[..., Any]) -> None:
    """`--version` 打印版本。"""
    result = run("--version")
    assert result.exit_code == 0
    assert re.fullmatch(r"companion \d+\.\d+\.\d+\S*\n", result.stdout)
