"""锁：第一次取得并核对无误时，记下每个文件的 sha256，以后每次使用都再核对。

上游没有公布摘要，第一次取得的内容只能由提交号、传输加密与已知的行数字数担保；
从那以后，内容若有一个字节不同，就不再悄悄使用。
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from companion.corpus.download import sha256_of
from companion.errors import CorpusError

LOCK = "corpus.lock.json"


def write_lock(folder: Path, names: Iterable[str], facts: dict[str, Any]) -> None:
    """记下文件夹里各文件的 sha256 与字节数。

    Args:
        folder: 文件夹。
        names: 要记的文件，相对路径。
        facts: 另要记下的事实，如提交号。
    """
    files = {
        name: {
            "sha256": sha256_of(folder / name),
            "bytes": (folder / name).stat().st_size,
        }
        for name in sorted(names)
    }
    text = json.dumps({**facts, "files": files}, ensure_ascii=False, indent=1)
    (folder / LOCK).write_text(text + "\n", encoding="utf-8")


def read_lock(folder: Path) -> dict[str, Any] | None:
    """读出文件夹的锁；没有则为 None。

    Args:
        folder: 文件夹。

    Returns:
        锁的内容，`files` 是文件名到 `sha256` 与 `bytes` 的映射。

    Raises:
        CorpusError: 锁不是合法的 JSON。
    """
    path = folder / LOCK
    if not path.is_file():
        return None
    try:
        lock = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        lock = None
    if not isinstance(lock, dict) or "files" not in lock:
        raise CorpusError(
            found=f"{path} 损坏了",
            expected="取得语料时写下的 JSON",
            remedy=f"删去 {folder} 后重新取得",
        )
    return cast("dict[str, Any]", lock)


def check_lock(folder: Path) -> None:
    """核对文件夹里锁住的文件；没有锁则不查。

    Args:
        folder: 文件夹。

    Raises:
        CorpusError: 有文件缺失，或与记录的 sha256 不符。
    """
    lock = read_lock(folder)
    if lock is None:
        return
    for name, fact in lock["files"].items():
        path = folder / name
        found = sha256_of(path) if path.is_file() else "（文件不在了）"
        if found != fact["sha256"]:
            raise CorpusError(
                found=f"{path} 的 sha256 是 {found}",
                expected=f"{fact['sha256']}，取得时记在 {LOCK} 里",
                remedy=f"文件改动过；要用改动后的，另存到别处再以路径指明；"
                f"要恢复，删去 {folder} 后重新取得",
            )
