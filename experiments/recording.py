"""把一次测量写进 `results/`：数字之外，还有命令、提交、机器、日期、版本。"""

import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"


def record(name: str, content: dict[str, Any]) -> Path:
    """写 `results/NAME.json`；`content` 之外的来历自动补上。"""
    packages = ("torch", "transformers", "tokenizers", "numpy")
    script = Path(sys.argv[0]).resolve()
    arguments = [_from_root(str(script)), *map(_from_root, sys.argv[1:])]
    provenance = {
        "command": "python " + shlex.join(arguments),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "companion")),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": os.environ.get("OMP_NUM_THREADS", "默认"),
        },
        "versions": {
            "python": platform.python_version(),
            **{package: metadata.version(package) for package in packages},
        },
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    text = json.dumps(
        {**content, "provenance": provenance}, ensure_ascii=False, indent=2
    )
    path.write_text(text + "\n", encoding="utf-8")
    return path


def spread(values: list[float]) -> dict[str, float]:
    """均值、标准差（n − 1）、最小与最大。"""
    mean = sum(values) / len(values)
    squares = sum((value - mean) ** 2 for value in values)
    return {
        "mean": mean,
        "std": (squares / max(1, len(values) - 1)) ** 0.5,
        "min": min(values),
        "max": max(values),
    }


def _from_root(argument: str) -> str:
    """绝对路径写成从仓库的根走的：命令在别的机器上也看得懂。"""
    return os.path.relpath(argument, ROOT) if Path(argument).is_absolute() else argument


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
