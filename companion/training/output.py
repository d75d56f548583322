"""输出文件夹：认领、续训时核对、写下每一份结果。"""

import json
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from companion.config import TrainingConfig
from companion.errors import CompanionError, ConfigError, TrainingError
from companion.training.checkpoints import how_to_go_on, latest_checkpoint

CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.json"


def check_output(output: Path, *, resume: bool) -> None:
    """动手之前先看输出文件夹能不能用；什么也不写。

    Raises:
        TrainingError: 里面有别的运行或别的文件，不可写，或没有可续的检查点。
    """
    if resume:
        if not (output / CONFIG_FILE).is_file():
            raise TrainingError(
                found=f"{output} 里没有 {CONFIG_FILE}",
                expected="上一次运行的输出文件夹",
                remedy="核对 --output；从头训练则去掉 --resume",
            )
        latest_checkpoint(output)
        return
    if output.is_file():
        raise TrainingError(
            found=f"{output} 是一个文件",
            expected="一个新的或空的文件夹",
            remedy="换一个 --output",
        )
    if output.is_dir() and any(output.iterdir()):
        previous = (output / CONFIG_FILE).is_file()
        raise TrainingError(
            found=f"{output} 里已有" + ("另一次运行" if previous else "别的文件"),
            expected="一个新的或空的文件夹，因为旧结果从不覆盖",
            remedy="换一个 --output"
            + ("；要接着上次训练就加 --resume" if previous else ""),
        )
    parent = output
    while not parent.exists():
        parent = parent.parent
    if not os.access(parent, os.W_OK | os.X_OK) or not parent.is_dir():
        raise TrainingError(
            found=f"{parent} 不可写",
            expected="一个能写的文件夹",
            remedy="换一个 --output，或改它的权限",
        )


def resumed_config(config: TrainingConfig) -> TrainingConfig:
    """上一次运行的设置；与这次给的不同就拒绝，续训必须一模一样。

    只有三样可以改：日志与存盘的间隔、保留几个检查点。它们不影响权重。

    Raises:
        ConfigError: 有别的设置改了。
    """
    output = Path(config.output)
    saved = TrainingConfig.from_sources(output / CONFIG_FILE, {"output": str(output)})
    free = ("output", "save_steps", "logging_steps", "save_total_limit")
    unsaid = (None, "auto")  # 由训练选定的几项：上一次已经选好
    changed = [
        spec.name
        for spec in fields(config)
        if spec.name not in free
        and getattr(config, spec.name) not in (getattr(saved, spec.name), *unsaid)
    ]
    if changed:
        name = changed[0]
        raise ConfigError(
            found=f"这次的 {'、'.join(changed)} 与上一次不同（{name}："
            f"{getattr(saved, name)} → {getattr(config, name)}）",
            expected=f"与 {output / CONFIG_FILE} 相同，续训才接得上",
            remedy="去掉这些设置，或换一个 --output 从头训练",
        )
    return replace(saved, **{name: getattr(config, name) for name in free})


@contextmanager
def writing(path: Path) -> Generator[None]:
    """其间写 `path` 遇到磁盘满等，就变成一句说得清的话；旧文件与检查点都不动。

    Raises:
        TrainingError: 写不下；写到一半的临时文件已清掉。
    """
    try:
        yield
    except (OSError, CompanionError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError):
            raise
        with suppress(OSError):
            _draft(path).unlink(missing_ok=True)
        raise TrainingError(
            found=f"{path.name} 写不进 {path.parent}（{cause.strerror or cause}）",
            expected="一个能写的文件夹，磁盘有空间",
            remedy=how_to_go_on(path.parent),
        ) from error


def write_text(path: Path, text: str) -> None:
    """写一份文本；先写到一旁再改名，不留半份。

    Raises:
        TrainingError: 写不下；旧的一字不变。
    """
    with writing(path):
        _draft(path).write_text(text, encoding="utf-8")
        _draft(path).replace(path)


def write_json(path: Path, content: Any) -> None:
    """写一份 JSON，同 `write_text`。"""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


def _draft(path: Path) -> Path:
    """正在写的一份；`TrainingConfig.save` 也写在这里。"""
    return path.with_name(f".{path.name}.new")
