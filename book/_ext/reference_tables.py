"""附录“设置”与“命令”：由代码写成，改了代码就改了书。

    ```{settings-tables}
    ```

    ```{command-tables}
    ```

设置取自 `companion.config`，命令取自命令行自己的选项。
"""

import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class SettingsTables(SphinxDirective):
    """一组设置一张表。"""

    def run(self) -> list[nodes.Node]:
        """读设置，写成 Markdown。"""
        return _parsed(self, settings_lines())


class CommandTables(SphinxDirective):
    """一个命令一节：说明、用法、选项。"""

    def run(self) -> list[nodes.Node]:
        """读命令，写成 Markdown。"""
        return _parsed(self, command_lines())


def _parsed(directive: SphinxDirective, lines: list[str]) -> list[nodes.Node]:
    box = nodes.container()
    directive.state.nested_parse(lines, directive.content_offset, box)  # pyright: ignore
    return box.children


def settings_lines() -> list[str]:
    """各组设置，一行一个字符串。"""
    from companion.config import settings_by_group

    lines: list[str] = []
    for number, (title, rows) in enumerate(settings_by_group().items(), 1):
        lines += _table(
            f"设置：{title}",
            f"tab-settings-{number}",
            ("名字", "缺省", "说明"),
            ((f"`{name}`", default, text) for name, default, text in rows),
        )
    return lines


def command_lines() -> list[str]:
    """各个命令，一行一个字符串。"""
    lines: list[str] = []
    for words, command in _commands():
        named = [
            each.metavar or each.name
            for each in command.params
            if each.param_type_name == "argument"
        ]
        usage = " ".join([*words, *named, "[选项]"])
        options = [
            each
            for each in command.params
            if each.param_type_name == "option" and not each.hidden
        ]
        lines += [
            f"**`{' '.join(words)}`**：{_one_line(command.help)}",
            "",
            "```text",
            usage,
            "```",
            "",
        ]
        lines += _table(
            f"{' '.join(words)} 的选项",
            "tab-" + "-".join(words),
            ("选项", "缺省", "说明"),
            (
                (
                    "、".join(f"`{n}`" for n in (*each.opts, *each.secondary_opts)),
                    _default(each.default),
                    _one_line(each.help),
                )
                for each in options
            ),
        )
    return lines


def _commands() -> Iterator[tuple[list[str], Any]]:
    """每个命令的几个词与它自己，次序同 `companion --help`。"""
    import typer

    from companion.cli import app

    root: Any = typer.main.get_command(app)
    for name, command in root.commands.items():
        for inner, each in getattr(command, "commands", {"": command}).items():
            yield [word for word in ("companion", name, inner) if word], each


def _default(value: Any) -> str:
    if value is None or value is False or value == ():
        return ""
    return f"`{value}`"


def _one_line(text: str | None) -> str:
    """一行；选项写成代码，免得两个连字符排成一个破折号。"""
    return re.sub(r"--[a-z][\w-]*", r"`\g<0>`", " ".join((text or "").split()))


def _table(caption: str, name: str, heads: tuple[str, ...], rows: Any) -> list[str]:
    return [
        f"```{{table}} {caption}",
        f":name: {name}",
        "",
        "|".join(["", *heads, ""]),
        "|".join(["", *[":--"] * len(heads), ""]),
        *(
            "|".join(["", *(cell.replace("|", "／") for cell in row), ""])
            for row in rows
        ),
        "```",
        "",
    ]


def setup(app: Sphinx) -> dict[str, Any]:
    """登记指令。"""
    app.add_directive("settings-tables", SettingsTables)
    app.add_directive("command-tables", CommandTables)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
