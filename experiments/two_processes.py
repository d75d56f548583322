"""两个进程一步各算一批，与一个进程累积两批：损失逐步相同；模型切开（FSDP2）也相同。

    python experiments/two_processes.py

用 torchrun 拉起两个 CPU 进程（gloo），与在两块 GPU 上是同一段代码。
"""

import json
import os
import re
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


def losses(
    output: Path, launcher: list[str], accumulation: int, **environment: str
) -> tuple[list[float], str]:
    """训练一次，返回每步的损失（奈特/目标）与屏幕上说的话。"""
    settings = {**SETTINGS, "gradient_accumulation_steps": accumulation}
    words = [f"--set={name}={value}" for name, value in settings.items()]
    words += ["--output", str(output)]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "companion", "train", *words],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            **environment,
        },
        check=True,
        capture_output=True,
        text=True,
    )
    lines = (output / "log.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [row["loss"] for row in rows if "loss" in row], done.stderr


def main() -> None:
    """三种跑法，写进 results/。"""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        alone, _ = losses(place / "alone", [], 2)
        pair, _ = losses(place / "pair", torchrun, 1)
        fsdp = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
        cut, said = losses(place / "cut", torchrun, 1, **fsdp)
    rows = list(zip(alone, pair, cut, strict=True))
    steps = [
        {"step": number, "one_process": one, "two_processes": two, "sharded": half}
        for number, (one, two, half) in enumerate(rows, 1)
    ]
    gap = max(abs(each / one - 1) for one, *others in rows for each in others)
    counts = re.search(r"整个模型 ([\d,]+) 个参数，这个进程存 ([\d,]+) 个", said)
    assert counts is not None, said
    whole, mine = (int(each.replace(",", "")) for each in counts.groups())
    path = record(
        "two_processes",
        {
            "claim": "两个进程与一个进程累积两批，损失逐步相同，只差浮点舍入；切开也是",
            "settings": SETTINGS,
            "largest_relative_difference": gap,
            "sharded_parameters": {"whole": whole, "mine": mine},
            "steps": steps,
        },
    )
    print(path, gap)


if __name__ == "__main__":
    main()
