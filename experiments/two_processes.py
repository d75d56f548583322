"""两个进程一步各算一批，与一个进程累积两批：损失逐步相同。

    python experiments/two_processes.py

用 torchrun 拉起两个 CPU 进程（gloo），与在两块 GPU 上是同一段代码。
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from recording import ROOT, record

SETTINGS: dict[str, Any] = {
    "objective": "masked_lm",
    "model": "starter:bert",
    "corpus": "sample:classical",
    "max_steps": 6,
    "block_size": 64,
    "tokens_per_batch": 256,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "eval": "false",
    "save_steps": 1000,
    "precision": "fp32",
}


def losses(output: Path, launcher: list[str], accumulation: int) -> list[float]:
    """训练一次，返回每步的损失（奈特/目标）。"""
    settings = {**SETTINGS, "gradient_accumulation_steps": accumulation}
    words = [f"--set={name}={value}" for name, value in settings.items()]
    words += ["--output", str(output)]
    subprocess.run(
        [sys.executable, *launcher, "-m", "companion", "train", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
    )
    lines = (output / "log.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [row["loss"] for row in rows if "loss" in row]


def main() -> None:
    """两种跑法，写进 results/。"""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with tempfile.TemporaryDirectory() as folder:
        alone = losses(Path(folder) / "alone", [], accumulation=2)
        pair = losses(Path(folder) / "pair", torchrun, accumulation=1)
    steps = [
        {"step": number, "one_process": one, "two_processes": two}
        for number, (one, two) in enumerate(zip(alone, pair, strict=True), 1)
    ]
    gap = max(abs(two / one - 1) for one, two in zip(alone, pair, strict=True))
    path = record(
        "two_processes",
        {
            "claim": "两个进程与一个进程累积两批，损失逐步相同，只差浮点舍入",
            "settings": SETTINGS,
            "largest_relative_difference": gap,
            "steps": steps,
        },
    )
    print(path, gap)


if __name__ == "__main__":
    main()
