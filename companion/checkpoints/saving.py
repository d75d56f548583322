"""保存检查点：要么完整，要么不动。

先写进同一目录下的临时文件夹，写全、落盘之后才改名顶替旧的；写到一半断电、磁盘满或按
Ctrl-C，旧检查点都还在。写成的是标准检查点，`AutoModel….from_pretrained` 直接打开。

文件夹里的 `companion_checkpoint.json` 记着我们写了哪些文件：别人的文件夹，或者添了别的
文件的旧检查点，绝不覆盖。
"""

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

from companion.checkpoints.locating import BOUNDARY_FILE
from companion.checkpoints.reading import quiet_transformers
from companion.checkpoints.running import inner_model
from companion.errors import ModelError

MARKER = "companion_checkpoint.json"
BOUNDARY_HEAD = "span_boundary_head"
"""片段边界目标的头挂在模型的这个属性上（`companion.losses.span_boundary`）。"""


def save_checkpoint(model: Any, tokenizer: Any, directory: str | Path) -> Path:
    """保存模型与分词器，顶替同一处的旧检查点。

    Args:
        model: `transformers.PreTrainedModel`，按现有精度保存；一对模型（`ElectraPair`）
            各存在自己名字的文件夹里，各是一个标准检查点。
        tokenizer: transformers 的分词器。
        directory: 目标文件夹；不存在则建，已有则必须是我们写的检查点或空的。

    Returns:
        目标文件夹。

    Raises:
        ModelError: 目标放着别的东西、不可写，或磁盘已满；旧检查点原样不动。
    """
    target = Path(directory)
    _refuse_foreign(target)
    with failures_explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.new-"))
        try:
            _write(model, tokenizer, fresh)
            _swap(fresh, target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return target


def write_checkpoint(model: Any, tokenizer: Any, folder: Path) -> None:
    """把模型与分词器写进文件夹；一对模型各在自己名字的文件夹里，边界头另存一个文件。"""
    with quiet_transformers():
        for name, each in getattr(model, "parts", {"": model}).items():
            with stock(each):
                each.save_pretrained(folder / name)
            save_boundary_head(each, folder / name)
            tokenizer.save_pretrained(folder / name)


def boundary_head(model: Any) -> Any:
    """模型上挂着的边界头；没有的为 None。"""
    return getattr(inner_model(model), BOUNDARY_HEAD, None)


@contextlib.contextmanager
def stock(model: Any) -> Generator[None]:
    """期间摘下边界头，模型与库里的一样；没有挂的原样不动。"""
    inner, head = inner_model(model), boundary_head(model)
    if head is None:
        yield
        return
    delattr(inner, BOUNDARY_HEAD)
    try:
        yield
    finally:
        inner.add_module(BOUNDARY_HEAD, head)


def save_boundary_head(model: Any, folder: Path) -> None:
    """把模型上挂着的边界头存进文件夹；没有挂的不写。"""
    from safetensors.torch import save_file

    head = boundary_head(model)
    if head is not None:
        save_file(head.state_dict(), folder / BOUNDARY_FILE)


def _write(model: Any, tokenizer: Any, folder: Path) -> None:
    write_checkpoint(model, tokenizer, folder)
    files = sorted(_contents(folder))
    (folder / MARKER).write_text(
        json.dumps({"written_by": "cpt-companion", "files": files}, indent=2) + "\n",
        encoding="utf-8",
    )
    folder.chmod(0o755)  # mkdtemp 只给本人权限，检查点常要给同组的人读
    for path in folder.rglob("*"):
        flush(path)


def _swap(fresh: Path, target: Path) -> None:
    """改名顶替。POSIX 不能一步互换两个文件夹，所以旧的先让位，失败则搬回来。"""
    if not target.exists():
        fresh.rename(target)
        return
    aside = fresh.with_name(fresh.name.replace(".new-", ".old-"))
    target.rename(aside)
    try:
        fresh.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    shutil.rmtree(aside)


def flush(path: Path) -> None:
    """等一个文件或文件夹真正到了盘上：否则断电后改名在、内容不在。"""
    if os.name == "nt":  # 那里只能冲刷以写方式打开的文件
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse_foreign(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise ModelError(
            found=f"{target} 是一个文件",
            expected="用来放检查点的文件夹",
            remedy="换一个输出路径",
        )
    present = _contents(target)
    if not present:
        return
    foreign = present - _ours(target)
    if foreign:
        shown = "、".join(sorted(foreign)[:3])
        raise ModelError(
            found=f"文件夹 {target} 里有不是本程序保存的内容（{shown}）",
            expected="空文件夹，或本程序先前保存的检查点",
            remedy="换一个输出路径，或自己先把它移走",
        )


def _contents(folder: Path) -> set[str]:
    """里面的每个文件与空文件夹，写成相对的路径。"""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if not path.is_dir() or not any(path.iterdir())
    }


def _ours(target: Path) -> set[str]:
    """标记文件登记过的文件名；没有标记或标记读不懂则为空。"""
    try:
        marker = json.loads((target / MARKER).read_text(encoding="utf-8"))
        return {MARKER, *marker["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


@contextlib.contextmanager
def failures_explained(target: Path) -> Generator[None]:
    """其间写不进 `target` 就变成一句说得清的话。

    Raises:
        ModelError: 磁盘已满，或不可写。
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors 把磁盘满报成自己的错误，只在文字里留下错误号
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if full or "os error 28" in str(error):
            raise ModelError(
                found=f"保存到 {target} 时磁盘已满",
                expected="盘上放得下一份新检查点（旧的在写完之前不删）",
                remedy="清出空间或换一个盘再存；旧检查点完好",
            ) from error
        raise ModelError(
            found=f"写不进 {target}：{error}",
            expected="可写的文件夹",
            remedy="检查权限，或换一个输出路径；旧检查点完好",
        ) from error
