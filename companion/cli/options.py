"""几个命令共有的选项：同样的名字，同样的说明。"""

from pathlib import Path
from typing import Annotated, Any

import typer

from companion.errors import ConfigError


def objective_names(incomplete: str) -> list[str]:
    """给 shell 补全训练目标的名字。"""
    from companion.objectives import OBJECTIVES

    return [name for name in OBJECTIVES if name.startswith(incomplete)]


MODEL_HELP = "starter:名字、文件夹、GGUF 文件，或 组织/模型@版本"
CORPUS_HELP = "文件、文件夹，或 corpus list 里的名字，或 hf:组织/名字"

AsJson = Annotated[bool, typer.Option("--json", help="结果打印成一个 JSON 对象")]
ObjectiveName = Annotated[
    str,
    typer.Option(
        metavar="名字",
        help="训练目标，见 companion objectives",
        autocompletion=objective_names,
    ),
]
ModelName = Annotated[str, typer.Option(metavar="模型", help=MODEL_HELP)]
CorpusName = Annotated[str, typer.Option(metavar="语料", help=CORPUS_HELP)]
Seed = Annotated[int, typer.Option(metavar="整数", help="随机种子")]


def refuse_existing(path: Path) -> Path:
    """输出的文件不得已经存在。

    Raises:
        ConfigError: 已经存在；从不悄悄覆盖。
    """
    if path.exists():
        raise ConfigError(
            found=f"{path} 已经存在",
            expected="一个新的文件名，本程序从不覆盖别的结果",
            remedy="换个名字，或先把它移走",
        )
    return path


def key_values(pairs: list[str]) -> dict[str, Any]:
    """`--set KEY=VALUE` 的各项 → 字典。

    Raises:
        ConfigError: 没有等号，或同一项写了两次。
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(
                found=f"--set {pair}",
                expected="--set 名字=值，例如 --set learning_rate=1e-4",
                remedy="补上等号；值里有空格时给整项加引号",
            )
        if key in settings:
            raise ConfigError(
                found=f"--set {key} 写了两次",
                expected="每项设置只给一次",
                remedy="删去其中一个",
            )
        settings[key] = value.strip()
    return settings
