"""命令行：`companion …` 与 `python -m companion …`。

每个命令只做三件事：收齐参数，调用某一层的一个函数，把结果排成表或 JSON。训练、推理、
评估都到用时才导入，所以 `companion --help` 立刻就有回答。

| 文件 | 命令 |
|---|---|
| `training` | demo、train、tune |
| `measuring` | check、evaluate、compare |
| `inference` | fill、complete、infill |
| `look` | show、objectives |
| `checkpoints` | merge、export |
| `corpora` | corpus list、fetch、stats、clean、split |
| `chinese`、`console`、`options` | 外壳、输出、共有的选项 |
"""

from typing import Annotated

import typer

from companion.cli import (
    checkpoints,
    corpora,
    inference,
    look,
    measuring,
    training,
)
from companion.cli.chinese import DEBUG, ChineseCommand, ChineseGroup
from companion.cli.console import silence_libraries

app = typer.Typer(
    cls=ChineseGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="继续预训练：在自己的语料上接着训练一个预训练语言模型，再量出学到与忘掉了多少。",
)

_PANELS = {
    "开始": (training.demo, training.train, training.tune),
    "前后": (measuring.check, measuring.evaluate, measuring.compare),
    "看与用": (
        look.show,
        inference.fill,
        inference.complete,
        inference.infill,
        look.objectives,
        checkpoints.merge,
        checkpoints.export,
    ),
}
for _panel, _commands in _PANELS.items():
    for _command in _commands:
        app.command(cls=ChineseCommand, rich_help_panel=_panel)(_command)
app.add_typer(corpora.app, name="corpus", rich_help_panel="语料")


def _print_version(wanted: bool) -> None:
    if wanted:
        from companion import __version__

        typer.echo(f"companion {__version__}")
        raise typer.Exit


@app.callback()
def _root(  # pyright: ignore[reportUnusedFunction]
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="打印版本", is_eager=True, callback=_print_version
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option(DEBUG, help="出错时打印栈回溯；写在命令前后都行")
    ] = False,
) -> None:
    """`--debug` 由最外层取走，列在这里是为了帮助里看得见。"""


def main() -> None:
    """`companion` 命令的入口。"""
    silence_libraries()
    app()
