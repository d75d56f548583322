"""书的一次构建，几个测试文件共用：谁先到谁构建，并行的另一个进程等它。"""

import os
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
BUDGET_SECONDS = 180


def build_once(shared: Path) -> Path:
    """在 `shared` 里构建书，返回 html 文件夹；有一个警告就失败。"""
    out = shared / "book"
    with FileLock(shared / "book.lock"):
        if not (out / "said.txt").exists():
            build(out)
    if not (out / "done").exists():
        raise AssertionError((out / "said.txt").read_text("utf-8"))
    return out / "_build" / "html"


def build(out: Path) -> None:
    """构建到 `out`；构建者说的话记在 said.txt，成功才有 done。"""
    out.mkdir()
    done = subprocess.run(
        [
            *(sys.executable, "-c", "from jupyter_book.cli.main import main; main()"),
            *("build", str(ROOT)),
            *("-n", "-W", "--keep-going", "--path-output", str(out)),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=3 * BUDGET_SECONDS,
        check=False,
    )
    said = done.stdout + done.stderr
    wrong = [line for line in said.splitlines() if "WARNING" in line or "ERROR" in line]
    if done.returncode == 0:
        (out / "done").touch()
    (out / "said.txt").write_text("\n".join(wrong) or said[-3000:], "utf-8")
