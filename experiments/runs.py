"""实验共用的：起步模型在《资治通鉴》上训练一次要哪些设置，怎样跑，怎样记。

留出集、考题与起步模型都固定，各次运行因此可比，训练前的成绩也只要考一次。`--quick` 换成
随包附带的小史书，不要语料文件夹，几秒一次，只看方向对不对。
"""

import argparse
import functools
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from recording import RESULTS, record, spread

SETUPS: dict[str, tuple[str, str, str]] = {
    "bert": ("bert", "masked_lm", "classical"),
    "bloom": ("bloom", "causal_lm", "modern"),
    "qwen3": ("qwen3", "causal_lm", "modern"),
    "t5": ("t5", "span_corruption", "classical"),
    "bart": ("bart", "text_infilling", "classical"),
    "prefix": ("glm", "prefix_lm", "modern"),
    "glm": ("glm", "blank_infilling", "classical"),
    "unilm": ("bert", "unified_lm", "classical"),
}
"""起步模型、训练目标、读文言还是白话。"""

Run = dict[str, Any]
Job = tuple[Run, Callable[[], Run]]
"""这次运行的标签，与做它的函数。"""

QUICK: Run = {"eval_max_chars": 1_000}
"""`--quick` 的考卷更短。"""
SMALL_STEPS: Run = {
    "tokens_per_batch": 512,
    "warmup_steps": 0.1,
    "eval_max_chars": 12_000,
}
"""小步子、短考卷：一次约半分钟处理器时间，跑得起许多次。"""


def full_settings(kind: str, data: Path) -> Run:
    """在《资治通鉴》上训练；步数、种子、输出文件夹由各个实验给。"""
    starter, objective, side = SETUPS[kind]
    return {
        "objective": objective,
        "model": f"starter:{starter}",
        "corpus": str(data / f"tongjian/train.{side}.txt.gz"),
        "valid": str(data / f"tongjian/valid.{side}.txt"),
        "general": str(data / "general/valid.txt"),
        "block_size": 128,
        "tokens_per_batch": 1024,
        "learning_rate": 1e-3,
        "eval_max_chars": 25_000,
        "save_steps": 100_000,
        "logging_steps": 50,
    }


def quick_settings(kind: str) -> Run:
    """在随包附带的小史书上训练，几秒一次。"""
    starter, objective, side = SETUPS[kind]
    samples = resources.files("companion.corpus") / "samples"
    return {
        "objective": objective,
        "model": f"starter:{starter}",
        "corpus": f"sample:{side}",
        "valid": str(samples / f"valid.{side}.txt"),
        "general": str(samples / "general.valid.txt"),
        "block_size": 128,
        "learning_rate": 1e-3,
        "save_steps": 100_000,
    }


def replay_text(args: argparse.Namespace) -> str:
    """回放用的通用文本，与量遗忘的通用留出集同源而不相交。"""
    if args.quick:
        return str(resources.files("companion.corpus") / "samples/general.train.txt")
    return str(args.data / "general/train.txt")


def control_text(kind: str, args: argparse.Namespace) -> str:
    """对照组读的：起步模型早已读过的别的史书，文言或白话同领域的那一份。"""
    return str(args.data / f"base/train.{SETUPS[kind][2]}.txt.gz")


def parser_of(script_doc: str) -> argparse.ArgumentParser:
    """各个实验都有的参数。"""
    parser = argparse.ArgumentParser(description=script_doc.splitlines()[0])
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("COMPANION_DATA", "data")),
        help="语料文件夹",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--quick",
        action="store_true",
        help="随包语料、几步、一个种子；只打印，不写结果文件",
    )
    return parser


def settings_of(kind: str, args: argparse.Namespace) -> Run:
    """正式的或 `--quick` 的设置；精度写定，不由计时决定。"""
    common = {**SMALL_STEPS, "precision": "fp32"}
    if args.quick:
        return {**quick_settings(kind), **common, **QUICK}
    return {**full_settings(kind, args.data), **common}


def train_once(settings: Run) -> Run:
    """训练一次，单线程，前后各考一次；输出文件夹不留。

    Returns:
        种子、步数、词元、用时，训练前后每字比特数，以及领域与通用的相对变化。
    """
    import torch

    from companion.config import TrainingConfig
    from companion.training import train

    torch.set_num_threads(1)
    before = bits_per_char(settings["model"], settings)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        started = time.process_time()
        config = TrainingConfig(**settings, output=str(output), eval=False)
        metrics = train(config, quiet=True).metrics
        cpu_seconds = time.process_time() - started
        after = bits_per_char(str(output / "model"), settings)
    return {
        "seed": settings["seed"],
        "steps": metrics["steps"],
        "tokens_trained": metrics["tokens_trained"],
        "seconds": metrics["seconds"],
        "cpu_seconds": round(cpu_seconds, 1),
        "before": before,
        "after": after,
        **{name: round(after[name] / before[name] - 1, 5) for name in after},
    }


def train_and_examine(settings: Run, examine: Callable[[str], Run]) -> Run:
    """训练一次，单线程，把存下的模型交给 `examine`；输出文件夹不留。

    Returns:
        步数、词元、用时，与 `examine` 的各项。
    """
    import torch

    from companion.config import TrainingConfig
    from companion.training import train

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        config = TrainingConfig(**settings, output=str(output), eval=False)
        metrics = train(config, quiet=True).metrics
        found = examine(str(output / "model"))
    kept = ("steps", "tokens_trained", "seconds")
    return {name: metrics[name] for name in kept} | found


def bits_per_char(model: str, settings: Run) -> dict[str, float]:
    """领域与通用留出集的每字比特数；起步模型的只算一次。"""
    wanted = ("objective", "valid", "general", "eval_max_chars")
    score = _score_starter if model.startswith("starter:") else _score
    return score(model, *(settings[name] for name in wanted))


def _score(
    model: str, objective: str, valid: str, general: str, max_chars: int
) -> dict[str, float]:
    from companion.checkpoints.loading import load_checkpoint
    from companion.corpus.sources import read_corpus
    from companion.evaluation.scoring import evaluate

    checkpoint = load_checkpoint(model, objective)
    return {
        name: round(
            evaluate(
                checkpoint,
                objective,
                list(read_corpus(path)),
                block_size=128,
                max_chars=max_chars,
            ).scores.bits_per_char,
            4,
        )
        for name, path in (("domain", valid), ("general", general))
    }


_score_starter = functools.cache(_score)


def change(run: Run, where: str) -> float:
    """`companion train` 的 metrics 里，每字比特数的相对变化。"""
    before, after = (run[when][where]["bits_per_char"] for when in ("before", "after"))
    return after / before - 1


def run_all(
    name: str,
    claim: str,
    jobs: Iterable[Job],
    facts: Run,
    *,
    keys: tuple[str, ...],
    measures: tuple[str, ...],
    save: bool,
) -> None:
    """依次跑完，打印汇总；每跑完一次就重写结果文件，中途停下也不丢，重跑时接着跑。

    Args:
        name: 结果文件的名字，不带后缀。
        claim: 这份结果要说明什么。
        jobs: （这次运行的标签，做它的函数）；标签连同种子，各次不同。
        facts: 各次相同的设置，原样写进结果；与上次不同就从头跑。
        keys: 标签里哪几项区分一组；同组的运行只有种子不同。
        measures: 汇总哪几项。
        save: 写不写结果文件。
    """
    finished = unfinished_study(name, facts) if save else []
    runs: list[Run] = []
    summary: list[Run] = []
    for label, work in jobs:
        same = [run for run in finished if label.items() <= run.items()]
        runs.append(same[0] if same else {**label, **work()})
        print(json.dumps(runs[-1], ensure_ascii=False), file=sys.stderr, flush=True)
        summary = summarise(runs, keys, measures)
        if save:
            content = {"claim": claim, **facts, "summary": summary, "runs": runs}
            record(name, content)
    print(json.dumps(summary, ensure_ascii=False, indent=2))


SIGNIFICANT = 0.05
WORDS = {
    "domain": ("领域上", "学得少", "学得多"),
    "general": ("通用上", "忘得多", "忘得少"),
}
"""量的是什么 → 怎样称呼，差是正的怎样说，是负的怎样说。"""


def paired_p(differences: list[float]) -> float:
    """三个成对的差，双侧 t 检验的 p；自由度 2 时 t 分布有闭式。

    >>> round(paired_p([1.0, 2.0, 3.0]), 4)
    0.0742
    """
    found = spread(differences)
    if found["std"] == 0:
        return 1.0 if found["mean"] == 0 else 0.0
    t = abs(found["mean"]) / (found["std"] / math.sqrt(len(differences)))
    return 1 - t / math.sqrt(2 + t * t)


def verdict(measure: str, differences: list[float]) -> str:
    """成对的差与它的检验，写成一句：“领域上学得多（差 −0.80%，p = 0.01）”。"""
    subject, more, less = WORDS[measure]
    mean, p = spread(differences)["mean"], paired_p(differences)
    word = (more if mean > 0 else less) if p < SIGNIFICANT else "分不出高下"
    sure = "p < 0.01" if p < 0.01 else f"p = {p:.2f}"
    return f"{subject}{word}（差 {mean:+.2%}，{sure}）".replace("-", "−")


def conclude_study(name: str, conclude: Callable[[list[Run]], Run]) -> Run:
    """跑完之后，由各次运行写出裁断，补进结果文件；返回补的几项。"""
    written = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    written.pop("provenance")
    claim, found = written.pop("claim"), conclude(written["runs"])
    record(name, {"claim": claim, **found, **written})
    return found


def unfinished_study(name: str, facts: Run) -> list[Run]:
    """上次停下之前跑完的几次；设置不同的不算。"""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return []
    written = json.loads(path.read_text("utf-8"))
    if any(written.get(key) != value for key, value in facts.items()):
        return []
    return written["runs"]


def summarise(
    runs: list[Run], keys: tuple[str, ...], measures: tuple[str, ...]
) -> list[Run]:
    """每组一项：标签、几个种子、各项的均值与散布；组里没有的项略过。"""
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(run[key] for key in keys), []).append(run)
    return [
        {
            **dict(zip(keys, label, strict=True)),
            "seeds": len(members),
            **{
                measure: spread([float(each[measure]) for each in members])
                for measure in measures
                if measure in members[0]
            },
        }
        for label, members in groups.items()
    ]
