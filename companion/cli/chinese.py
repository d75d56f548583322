"""命令行的外壳：中文的帮助、中文的用法错误，以及唯一的一处异常处理。

| 结局 | 退出码 | 标准错误上 |
|---|---|---|
| 成功 | 0 | 进度与日志 |
| 用户能改正的错误（`CompanionError`） | 1 | 一条中文消息 |
| 命令写错（没有的选项、缺少的参数） | 2 | 用法与一条中文消息 |
| 我们的过失（其余异常） | 70 | 异常的名字与报告的办法 |
| Ctrl-C | 130 | 一句话 |

哪一种都没有栈回溯，除非加 `--debug`。放在这里而不放在各命令里，因此每个命令只管做事。
"""

import re
import sys
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from companion.cli.console import (
    complain,
    is_first_process,
    let_the_first_speak,
    results_only,
)
from companion.errors import CompanionError, raised

PROGRAM, DEBUG = "companion", "--debug"
INTERRUPTED, INTERNAL_ERROR = 130, 70  # 128 + SIGINT；sysexits.h 的 EX_SOFTWARE

_OPTION_HELP = {
    "help": "显示这段帮助",
    "install_completion": "给当前的 shell 装上命令补全",
    "show_completion": "打印补全脚本，供复制或改动",
}
_TITLES = {
    "ARGUMENTS_PANEL_TITLE": "参数",
    "OPTIONS_PANEL_TITLE": "选项",
    "COMMANDS_PANEL_TITLE": "命令",
    "DEFAULT_STRING": "[缺省：{}]",
    "REQUIRED_LONG_STRING": "[必需]",
}

_KINDS = {"int": "整数", "integer": "整数", "float": "数", "number": "数"}
_USAGE_ERRORS: list[tuple[str, str]] = [
    (r"No such command '(?P<a>.+?)'\.?(?P<near>.*)", "没有命令 {a}{near}"),
    (r"No such option: (?P<a>\S+?)\.?(?P<near> .*)?", "没有选项 {a}{near}"),
    (r"Missing command\.?", "没有写命令"),
    (r"Missing option (?P<a>.+?)\.(?:.*)", "缺少选项 {a}"),
    (r"Missing (?:argument|parameter) (?P<a>.+?)\.(?:.*)", "缺少参数 {a}"),
    (r"Option (?P<a>.+?) requires (?:an argument|\d+ arguments).*", "选项 {a} 缺少值"),
    (r"Option (?P<a>.+?) does not take a value\.?", "选项 {a} 不带值"),
    (r"Got unexpected extra arguments?(?:\(s\))? \((?P<a>.+)\)", "多出了参数 {a}"),
    (
        r"Invalid value for (?P<a>.+?): .*"
        r"(?:valid|a) (?P<kind>integer|int|number|float)\b.*",
        "{a} 的值不是{kind}",
    ),
    (r"Invalid value for (?P<a>.+?): (?P<b>.+)", "{a} 的值不对：{b}"),
]
"""typer 的英文消息 → 中文。匹配不上的照原文给出，版本变了也不致无话可说。"""


class ChineseCommand(TyperCommand):
    """一个命令；运行时标准输出只留给结果。"""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """读参数；读不懂时让错误记得是哪个命令，好给出它的用法。"""
        try:
            self._refuse_repeats(ctx, args)
            return super().parse_args(ctx, args)
        except Exception as error:
            if getattr(error, "ctx", ctx) is None:
                error.ctx = ctx  # pyright: ignore[reportAttributeAccessIssue]
            raise

    def _refuse_repeats(self, ctx: Any, args: list[str]) -> None:
        """只收一个值的选项写了几次：typer 只认最后一次，前面的会悄悄丢掉。"""
        if ctx.resilient_parsing:
            return
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for option, count in Counter(given).items():
            single = option.nargs == 1 and not option.multiple
            if count > 1 and single and not getattr(option, "is_flag", False):
                hint = "几份语料放进一个文件夹，路径写文件夹"
                ctx.fail(
                    f"选项 {option.opts[0]} 写了 {count} 次，它只收一个值"
                    + (f"；{hint}" if option.metavar == "语料" else "")
                )

    def invoke(self, ctx: Any) -> Any:
        """运行命令；其间库里打印的东西都改道标准错误。"""
        with results_only():
            return super().invoke(ctx)

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        """“用法：”一行。"""
        _write_usage(self, ctx, formatter)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """整页帮助。"""
        with _chinese_titles():
            super().format_help(ctx, formatter)

    def get_params(self, ctx: Any) -> Any:
        """全部选项，说明都是中文。"""
        return [_in_chinese(param) for param in super().get_params(ctx)]


class ChineseGroup(TyperGroup):
    """一组命令；最外层的 `main` 是唯一处理异常的地方。"""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """运行一次命令行，以约定的退出码结束进程。"""
        words, debug = _take_debug(sys.argv[1:] if args is None else args)
        try:
            code = super().main(
                words, PROGRAM, complete_var, False,
                windows_expand_args, **extra,
            )  # fmt: skip
        except Exception as error:
            code = _explain(error, debug)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        """运行子命令；Ctrl-C 以一句话收场。"""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            if is_first_process():
                complain("已中断。")
            raise typer.Exit(INTERRUPTED) from None

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        """“用法：”一行。"""
        _write_usage(self, ctx, formatter)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """整页帮助。"""
        with _chinese_titles():
            super().format_help(ctx, formatter)

    def get_params(self, ctx: Any) -> Any:
        """全部选项，说明都是中文。"""
        return [_in_chinese(param) for param in super().get_params(ctx)]


def _take_debug(args: Sequence[str]) -> tuple[list[str], bool]:
    """取走 `--debug`，它写在哪里都算；`--` 之后的是正文。"""
    words = list(args)
    stop = words.index("--") if "--" in words else len(words)
    kept = [word for word in words[:stop] if word != DEBUG]
    return kept + words[stop:], len(kept) < stop


def _explain(error: Exception, debug: bool) -> int:
    """向用户说清一个异常，返回退出码。"""
    if type(error).__name__ == "NoArgsIsHelpError":  # 帮助已经打印
        return 2
    let_the_first_speak()
    if debug:
        import traceback

        complain("".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, CompanionError):
        stopped = type(error).__name__ == "TrainingInterrupted"  # 检查点已存好
        if is_first_process() or not stopped:  # 停下是一同商定的，说一遍就够
            complain(str(error))
        return INTERRUPTED if stopped else 1
    if getattr(error, "exit_code", None) == 2 and hasattr(error, "format_message"):
        return _explain_usage(error)
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__:
        complain(
            "发现：内存（或显存）不够。应当：放得下模型与一个微批量。"
            "可以：调小 --set tokens_per_batch=… 与 --set block_size=…，"
            "或加 --set gradient_checkpointing=true。"
        )
        return 1
    complain(
        f"程序内部出错（{raised(error)}）。这是本程序的过失，不是你的。\n"
        f"可以：加 {DEBUG} 再运行一次，把完整输出连同命令报告到项目的问题页。"
    )
    return INTERNAL_ERROR


def _explain_usage(error: Any) -> int:
    ctx = getattr(error, "ctx", None)
    if ctx is not None:
        complain(ctx.get_usage())
    message = translate(error.format_message())
    complain(f"错误：{message}{'？' if '是不是' in message else '。'}")
    if ctx is not None:
        complain(f"运行 {ctx.command_path} --help 查看用法。")
    return 2


def translate(message: str) -> str:
    """用法错误的中文说法，不带句号。

    >>> translate("No such option: --ouput Did you mean --output?")
    '没有选项 --ouput，是不是想写 --output'
    >>> translate("Invalid value for '--seed': 'x' is not a valid int.")
    "'--seed' 的值不是整数"
    """
    text = " ".join(message.split())
    for pattern, chinese in _USAGE_ERRORS:
        if found := re.fullmatch(pattern, text):
            parts = found.groupdict()
            if "kind" in parts:
                parts["kind"] = _KINDS[parts["kind"]]
            if "near" in parts:
                parts["near"] = _guesses(parts["near"] or "")
            return chinese.format(**parts)
    return f"用法不对（{text.rstrip('.')}）"


def _guesses(text: str) -> str:
    names = re.search(r"(?:Did you mean|options:|one of:)\s*(.+?)[?)]*$", text)
    return f"，是不是想写 {names[1].replace(', ', ' 或 ')}" if names else ""


def _write_usage(command: Any, ctx: Any, formatter: Any) -> None:
    pieces = " ".join(command.collect_usage_pieces(ctx))
    for english, chinese in (
        ("[OPTIONS]", "[选项]"),
        ("COMMAND [ARGS]...", "命令 [参数]..."),
    ):
        pieces = pieces.replace(english, chinese)
    formatter.write_usage(ctx.command_path, pieces, "用法：")


def _in_chinese(param: Any) -> Any:
    """自带的选项换成中文说明；开关后面不写 `<bool>`。"""
    param.help = _OPTION_HELP.get(param.name, param.help)
    if getattr(param, "is_flag", False) and param.metavar is None:
        param.metavar = ""
    return param


@contextmanager
def _chinese_titles() -> Generator[None]:
    """栏目名换成中文，离开后恢复：同一进程里也许还有别的 typer 程序。"""
    from typer import rich_utils

    before = {name: getattr(rich_utils, name) for name in _TITLES}
    for name, title in _TITLES.items():
        setattr(rich_utils, name, title)
    try:
        yield
    finally:
        for name, title in before.items():
            setattr(rich_utils, name, title)
