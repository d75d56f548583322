"""输出文件夹：认领，续训时核对，写下每一份结果，存检查点。

检查点与结果都先写到一旁，落到盘上才改名，最后才删旧的；断电与磁盘写满都伤不到旧的。
`checkpoint-N` 里是 transformers 续训要的一切：权重、优化器、学习率、随机数状态。
"""

import hashlib
import json
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from companion.checkpoints.reading import read_json
from companion.checkpoints.saving import flush
from companion.config import TrainingConfig
from companion.errors import CompanionError, ConfigError, TrainingError
from companion.training.team import ALONE, Team

CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.json"
INPUTS_FILE = "inputs.json"
CHECKSUMS_FILE = "checksums.json"
"""检查点里每个文件的 sha256。"""


BEGINNING = {CONFIG_FILE, INPUTS_FILE}
"""动手时写下的两份；恰好只有它们的文件夹里没有结果，训练前的评估没有走完，可以再用。"""


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
    present = {path.name for path in output.iterdir()} if output.is_dir() else set()
    if present and present != BEGINNING:
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


STAGING = ".saving"
"""正在写的检查点放在这里；留下它说明上次没写完，续训时不看它。"""

_PREFIX = "checkpoint-"


def list_checkpoints(output: Path) -> list[Path]:
    """完整的检查点，按步数升序。"""
    found = [
        path
        for path in output.glob(f"{_PREFIX}*")
        if path.name.removeprefix(_PREFIX).isdigit()
        and (path / "trainer_state.json").is_file()
    ]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """检查点是第几步。"""
    return int(checkpoint.name.removeprefix(_PREFIX))


def latest_checkpoint(output: Path) -> Path:
    """最近的检查点。

    Raises:
        TrainingError: 没有可以接着训练的检查点。
    """
    found = list_checkpoints(output)
    if not found:
        raise TrainingError(
            found=f"{output} 里没有检查点",
            expected="上一次运行留下的 checkpoint-N 文件夹",
            remedy="核对 --output；若上一次还没到第一个 save_steps 就断了，"
            "换一个 --output 从头训练",
        )
    return found[-1]


def verify_checkpoint(checkpoint: Path) -> None:
    """检查点与写下时一字不差：缺了、截短了、换过的文件，都在这里说出来。

    没有 `checksums.json` 的是旧版本写的，只看续训要的文件在不在。

    Raises:
        TrainingError: 有文件不对；有更早的完好检查点时说出是哪一个。
    """
    wrong = _damaged(checkpoint)
    if not wrong:
        return
    older = [
        each
        for each in list_checkpoints(checkpoint.parent)
        if step_of(each) < step_of(checkpoint) and not _damaged(each)
    ]
    remedy = "从原处重新拷贝这个文件夹"
    if older:
        remedy += f"；或删去它，从完好的 {older[-1].name} 接着训练"
    else:
        remedy += "；没有更早的完好检查点，否则只好换一个 --output 从头训练"
    raise TrainingError(
        found=f"{checkpoint} 坏了：{'；'.join(wrong)}",
        expected=f"每个文件都与写下时相同（{CHECKSUMS_FILE} 里记着）",
        remedy=remedy,
    )


def _damaged(checkpoint: Path) -> list[str]:
    """不对的文件，各说一句。"""
    noted: dict[str, str] = read_json(checkpoint / CHECKSUMS_FILE)
    if not noted:
        needed = ("optimizer.pt", "scheduler.pt", "trainer_state.json")
        return [f"没有 {name}" for name in needed if not (checkpoint / name).is_file()]
    found: list[str] = []
    for name, digest in noted.items():
        path = checkpoint / name
        if not path.is_file():
            found.append(f"没有 {name}")
        elif _sha256(path) != digest:
            found.append(f"{name}（{path.stat().st_size:,} 字节）与写下时不同")
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def processes_of(output: Path) -> int:
    """这次运行开头用了几个进程；`config.yaml` 里的梯度累积是照它写的。

    早先的版本没有记：照最近的检查点里的随机数状态数，每个进程各存一份。
    """
    noted = read_json(output / INPUTS_FILE).get("processes")
    return noted or max(1, len(list(latest_checkpoint(output).glob("rng_state*.pth"))))


@contextmanager
def staged(
    output: Path,
    limit: int,
    team: Team = ALONE,
    *,
    keep: int | None = None,
    window: int = 1,
) -> Generator[Path]:
    """给出一个临时文件夹；正常退出时把其中的检查点移到 `output`，再删去过老的。

    Args:
        output: 运行的输出文件夹。
        limit: 至多留几个检查点。
        team: 一同训练的进程：人人都往临时文件夹里写，写齐了由第 0 个进程移走。
        keep: 这一步的检查点总留着，另算。
        window: 连同它之前的，留这么多个（`average_checkpoints`）。

    Raises:
        TrainingError: 写不下；临时文件已清掉，旧检查点原样不动。
    """
    staging = output / STAGING
    if team.is_main:
        shutil.rmtree(staging, ignore_errors=True)
    team.wait()
    try:
        yield staging
        team.wait()
        if team.is_main:
            _move_into_place(staging, output)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(staging, ignore_errors=True)
        if not _is_write_failure(error):
            raise
        raise TrainingError(
            found=f"检查点写不进 {output}：{error}",
            expected="磁盘放得下一个检查点（约为权重的三倍）",
            remedy=f"{how_to_go_on(output)}；或用 --set save_total_limit=1 少留几个",
        ) from error
    if team.is_main:
        shutil.rmtree(staging, ignore_errors=True)
        found = list_checkpoints(output)
        kept = [each for each in found if keep is not None and step_of(each) <= keep]
        others = [each for each in found if each not in kept[-window:]]
        for old in others[:-limit]:
            shutil.rmtree(old)


def how_to_go_on(output: Path) -> str:
    """写盘失败之后怎么办：有完好的检查点就接着它，没有就从头。"""
    kept = list_checkpoints(output)
    if not kept:
        return "腾出空间后换一个 --output 从头训练，这里还没有检查点"
    return f"腾出空间后用 --resume 接着训练，旧检查点 {kept[-1].name} 完好"


def _move_into_place(staging: Path, output: Path) -> None:
    """每个文件、每层文件夹先落盘，才改名；改名也落了盘，才算数。

    否则断电之后可能只剩一个名字：内容还在内存里，旧的却已删去。
    """
    fresh = list(staging.glob(f"{_PREFIX}*"))
    for checkpoint in fresh:
        files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file()]
        sums = {str(path.relative_to(checkpoint)): _sha256(path) for path in files}
        (checkpoint / CHECKSUMS_FILE).write_text(json.dumps(sums, indent=2) + "\n")
        for path in (*checkpoint.rglob("*"), checkpoint):
            flush(path)
    for checkpoint in fresh:
        target = output / checkpoint.name
        if target.exists():  # 续训后又走到同一步：旧的先让开，新的到位才删
            target.replace(staging / f"replaced-{checkpoint.name}")
        checkpoint.replace(target)
    flush(output)


def _is_write_failure(error: Exception) -> bool:
    """磁盘写满、配额用尽、无权写、盘坏了；torch 与 safetensors 把它包成自己的异常。"""
    if isinstance(error, OSError) and error.errno is not None:
        return True
    # 盘满时 torch 只说 inline_container.cc 里“unexpected pos”，不提磁盘
    signs = ("No space left", "PytorchStreamWriter", "inline_container", "I/O error")
    return any(sign in str(error) for sign in signs)
