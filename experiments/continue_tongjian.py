"""起步模型在《资治通鉴》上继续预训练：领域学到多少，通用忘掉多少，各三个种子。

    python experiments/continue_tongjian.py bert --steps 700
    python experiments/continue_tongjian.py bloom --steps 450
    python experiments/continue_tongjian.py t5 --steps 400 --keep build/continued

对照组读同样多的词元、用同样的学习率曲线，只是读的是起步模型已读过的别的史书（base）。两组
之差才是领域语料的功劳；对照组自己的进步，只说明起步模型还没训练够。

每次运行单线程，`--parallel` 个一起跑，缺省两个。
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from recording import record, spread
from runs import SETUPS, change, full_settings


def run(
    kind: str, name: str, corpus: Path, seed: int, args: argparse.Namespace
) -> dict[str, Any]:
    """一次继续预训练，返回它的 metrics。"""
    common = full_settings(kind, args.data) | {
        "corpus": corpus,
        "seed": seed,
        "max_steps": args.steps,
        "tokens_per_batch": args.tokens,
        "learning_rate": args.learning_rate,
    }
    with tempfile.TemporaryDirectory() as folder:
        output = (args.keep or Path(folder)) / f"{kind}-{name}-{seed}"
        command = [sys.executable, "-m", "companion", "train", "--json"]
        for key, value in {**common, "output": output}.items():
            command += ["--set", f"{key}={value}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, check=True, text=True
        )
    return json.loads(done.stdout)


def main() -> None:
    """全部种子，领域与对照，写进 results/。"""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=SETUPS)
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("COMPANION_DATA"), help="语料文件夹"
    )
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--corpora", nargs="+", default=["tongjian", "control"])
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="各次运行留在这个文件夹里")
    args = parser.parse_args()
    side = SETUPS[args.kind][2]
    available = {
        "tongjian": args.data / f"tongjian/train.{side}.txt.gz",
        "control": args.data / f"base/train.{side}.txt.gz",
    }
    corpora = {name: available[name] for name in args.corpora}
    jobs = [(name, seed) for seed in args.seeds for name in corpora]
    with ThreadPoolExecutor(args.parallel) as pool:
        finished = list(
            pool.map(
                lambda job: run(args.kind, job[0], corpora[job[0]], job[1], args), jobs
            )
        )
    runs = [
        {"corpus": name, **metrics, "output": None}
        for (name, _), metrics in zip(jobs, finished, strict=True)
    ]
    summary = {
        f"{name}_{where}": spread(
            [change(r, where) for r in runs if r["corpus"] == name]
        )
        for name in corpora
        for where in ("domain", "general")
    }
    path = record(
        f"continue_tongjian_{args.kind}",
        {
            "claim": "继续预训练使 tongjian/valid 的每字比特数下降"
            + ("，多于同样多的 base" if "control" in corpora else ""),
            "relative_change_of_bits_per_char": summary,
            "seconds": spread([r["seconds"] for r in runs]),
            "runs": runs,
        },
    )
    print(path, json.dumps(summary, ensure_ascii=False, indent=2))


if __name__ == "__main__":
    main()
