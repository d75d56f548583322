"""量每个笔记本以极小的设置从头跑到尾要用多少 CPU 时间与内存，写进 results/。

    python experiments/measure_notebooks.py            # 全部
    python experiments/measure_notebooks.py 03 04      # 只量编号以它们开头的，其余照旧

每个笔记本在一个空文件夹里单独运行，不连网，单线程。CPU 时间与机器忙不忙无关；内存是笔
记本的进程与它的内核之中较大的一个的峰值。书的状态页显示这里的数。
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from execute_notebooks import NOTEBOOKS, OFFLINE
from recording import RESULTS, record

NAME = "notebook_runs"


def measure(path: Path) -> dict[str, Any]:
    """跑一遍，返回用时与内存；有一格出错就停下。"""
    with tempfile.TemporaryDirectory() as empty:
        command = [
            *(sys.executable, "-m", "papermill", str(path), "out.ipynb"),
            *("-k", "python3", "-p", "PROFILE", "tiny"),
            *("--no-progress-bar", "--log-level", "WARNING"),
        ]
        process = subprocess.Popen(command, cwd=empty, env={**os.environ, **OFFLINE})
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{path.name} 没有跑完")
    return {
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_megabytes": round(_megabytes(usage), 0),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _megabytes(usage: resource.struct_rusage) -> float:
    """峰值内存；macOS 以字节计，Linux 以千字节计。"""
    return usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def main(prefixes: list[str]) -> None:
    """依次量，量完一个存一个。"""
    recorded = RESULTS / f"{NAME}.json"
    found: dict[str, Any] = {}
    if recorded.exists():
        found = json.loads(recorded.read_text("utf-8"))["notebooks"]
    here = {path.stem for path in NOTEBOOKS}
    found = {stem: run for stem, run in found.items() if stem in here}
    for path in NOTEBOOKS:
        if not prefixes or path.name.startswith(tuple(prefixes)):
            found[path.stem] = measure(path)
            print(path.stem, found[path.stem], flush=True)
            record(
                NAME,
                {
                    "claim": "每个笔记本以极小的设置跑一遍的 CPU 时间与内存",
                    "notebooks": dict(sorted(found.items())),
                },
            )


if __name__ == "__main__":
    main(sys.argv[1:])
