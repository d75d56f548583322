"""结果走标准输出，其余一切走标准错误。

命令运行期间 `sys.stdout` 指向标准错误：哪个库在半路 `print` 一句，也不会混进 `--json`
的输出。结果由 `emit` 写到真正的标准输出。
"""

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Generator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

_stdout: ContextVar[TextIO | None] = ContextVar("stdout", default=None)

_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")

PATIENCE_SECONDS = 3.0
"""几个进程一同训练时，别的进程等第 0 个说话，等这么久。"""

_QUIET = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",  # 分词自有多进程，两层并行会告警
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


def silence_libraries() -> None:
    """让库安静，不上报；须在导入它们之前。用户自己设过的环境变量不动。"""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if not sys.stderr.isatty():  # 写进日志文件的进度条只是乱码
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not sys.warnoptions:
        import warnings

        warnings.simplefilter("ignore")


@contextlib.contextmanager
def results_only() -> Generator[None]:
    """其间 `print` 去标准错误，只有 `emit` 去标准输出。"""
    token = _stdout.set(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _stdout.reset(token)


def emit(
    payload: Mapping[str, Any], *shown: "RenderableType", as_json: bool = False
) -> None:
    """交出一个命令的结果。

    Args:
        payload: `--json` 时打印的一个 JSON 对象。
        *shown: 否则打印的表格与文字，依次一段一段。
        as_json: 是否打印 JSON。
    """
    if not is_first_process():
        return
    out = _stdout.get() or sys.stdout
    if as_json:
        text = json.dumps(payload, ensure_ascii=False, allow_nan=False) + "\n"
        # 文件名不是 UTF-8 时带着落单的代理码位，写不进 UTF-8 的输出
        out.write(text.encode("utf-8", "replace").decode("utf-8"))
    else:
        console = make_console(out)
        for each in shown:
            console.print(each, soft_wrap=isinstance(each, str), markup=False)
    out.flush()


def make_table(*columns: str, title: str = "") -> "Table":
    """一张表；长的中文折行而不省略（rich 缺省会把没有空格的长句截成“…”）。"""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title) if title else None)
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def make_console(file: TextIO | None = None) -> "Console":
    """一个 rich 控制台，缺省写到标准错误；不给数字、路径自动上色。"""
    from rich.console import Console

    return Console(file=file or sys.stderr, highlight=False)


def is_first_process() -> bool:
    """是不是第 0 个进程：几个进程一同训练时，只由它说话。"""
    return os.environ.get("RANK", "0") == "0"


def let_the_first_speak() -> None:
    """出错时先让第 0 个进程说。

    坏输入人人都会碰上，该说的话却只要一遍。第 0 个进程说完退出，启动器随即结束其余的；
    等到最后还活着，错就是自己这里独有的，那才自己说。
    """
    if not is_first_process():
        time.sleep(PATIENCE_SECONDS)


def complain(message: str) -> None:
    """往标准错误写一条消息，不折行。

    消息会引用语料里的字，其中的控制字符写成十六进制：它们会改写终端，或把一行断开。
    """
    shown = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", message)
    print(shown, file=sys.stderr, flush=True)


def note(*messages: str) -> None:
    """往标准错误写几条提醒。"""
    for message in messages:
        complain(f"提醒：{message}")
