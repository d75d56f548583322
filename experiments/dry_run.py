"""`companion train --dry-run` 说得准吗：预演的内存与时间，与随后真训练的相比。

    python experiments/dry_run.py
    python experiments/dry_run.py --quick    # 只试一种，只打印

每种设置在新的进程里预演一次、真训练一次，各两轮；比是预演除以实测。
"""

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from recording import record, spread
from runs import parser_of

ROUNDS = 2
CASES: dict[str, dict[str, Any]] = {
    "masked_lm": {
        "model": "starter:bert", "corpus": "sample:classical", "num_train_epochs": 4.0,
    },
    "causal_lm": {
        "model": "starter:bloom", "corpus": "sample:modern", "num_train_epochs": 2.0,
    },
    "span_corruption": {
        "model": "starter:t5", "corpus": "sample:classical", "num_train_epochs": 3.0,
        "block_size": 128,
    },
}  # fmt: skip


def run(settings: dict[str, Any], *words: str) -> tuple[dict[str, Any], int]:
    """一条 `companion train`：它的 JSON，与进程的内存峰值（字节）。"""
    with tempfile.TemporaryDirectory() as folder:
        given = [f"--set={name}={value}" for name, value in settings.items()]
        output = str(Path(folder) / "输出")
        command = [sys.executable, "-W", "ignore", __file__, "--child", "train", *given]
        done = subprocess.run(
            [*command, "--output", output, "--json", "-q", *words],
            capture_output=True,
            text=True,
            check=True,
        )
    content, peak = done.stdout.rsplit("\n", 2)[:2]
    return json.loads(content), int(peak)


def child() -> None:
    """在自己的进程里运行命令，末行打印内存峰值。"""
    from companion.cli import app

    try:
        app(sys.argv[2:])
    finally:  # 命令以 SystemExit 收尾
        unit = 1 if sys.platform == "darwin" else 1024
        print(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def main() -> None:
    """逐种相比，打印并记下。"""
    args = parser_of(__doc__).parse_args()
    found: dict[str, Any] = {}
    for objective, settings in list(CASES.items())[: 1 if args.quick else None]:
        times: list[float] = []
        sizes: list[float] = []
        for _ in range(1 if args.quick else ROUNDS):
            given = {"objective": objective, **settings}
            said, _ = run(given, "--dry-run")
            real, peak = run(given)
            times.append(said["training_seconds"] / real["seconds"])
            sizes.append(said["memory_bytes"] / peak)
        found[objective] = {"time_ratio": spread(times), "memory_ratio": spread(sizes)}
    print(json.dumps(found, ensure_ascii=False, indent=2))
    if not args.quick:
        record("dry_run", {"cases": found})


if __name__ == "__main__":
    child() if sys.argv[1:2] == ["--child"] else main()
