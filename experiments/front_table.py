"""README 的表：没有训练的、训练过的、对照组、尺子，同样的目标。

    python experiments/front_table.py

两样。一样就是 `companion demo`：`starter:bert` 读随包的《四境纪》，掺两成回放；对照组
只读回放的那份，步数与学习率相同，各三个种子。另一样是尺子：
`continue_tongjian_bloom.json` 的留出集、同样的目标，由数出来的三元来答，数的是训练用的
《资治通鉴》。表由 `draw_readme.py` 写进 README。
"""

import argparse
import dataclasses
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from recording import RESULTS, record, spread
from runs import full_settings, quick_settings

from companion.checkpoints.loading import load_checkpoint
from companion.corpus import read_corpus, read_documents
from companion.evaluation.scoring import evaluate
from companion.training.run import demo_config, train

MEASURES = ("domain", "general")


def demo_run(seed: int, **changes: Any) -> dict[str, Any]:
    """演示一次；`changes` 是与演示不同的设置。"""
    with tempfile.TemporaryDirectory() as folder:
        config = demo_config("masked_lm", Path(folder) / "run")
        changes = {"seed": seed, **changes}
        metrics = train(dataclasses.replace(config, **changes), quiet=True).metrics
    return {
        "seed": seed,
        "steps": metrics["steps"],
        "before": metrics["before"],
        "after": metrics["after"],
    }


def rows_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """几个种子的训练前与训练后。"""
    return {
        when: {
            name: spread([run[when][name]["bits_per_char"] for run in runs])
            for name in MEASURES
        }
        for when in ("before", "after")
    } | {"steps": runs[0]["steps"], "seeds": len(runs)}


def ruler_of(
    settings: dict[str, Any], valid: Any, counted: Any, block: int, most: int | None
) -> dict[str, float]:
    """尺子，连同起步模型自己的分数：后者与训练前的评估相同，才说得上同样的目标。"""
    checkpoint = load_checkpoint(settings["model"], settings["objective"])
    scores = evaluate(
        checkpoint,
        settings["objective"],
        valid,
        block_size=block,
        max_chars=most,
        ruler=counted,
    ).scores
    return {"bits_per_char": scores.bits_per_char, **(scores.ruler or {})}


def same_targets(ruler: dict[str, float], run: dict[str, Any]) -> None:
    """起步模型两处的分数相同，尺子答的才是同样的目标。"""
    known = run["before"]["domain"]["bits_per_char"]
    if abs(ruler["bits_per_char"] - known) > 1e-3:
        raise SystemExit(f"不是同样的目标：{ruler['bits_per_char']} 与 {known}")


def main() -> None:
    """依次跑，写进 results/。"""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    data = Path(os.environ.get("COMPANION_DATA", "data"))
    parser.add_argument("--data", type=Path, default=data)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    config = demo_config("masked_lm", "unused")
    samples = Path(quick_settings("bert")["general"]).parent
    other = str(samples / "general.train.txt")
    demo: dict[str, Any] = {
        "ruler": ruler_of(
            {"model": config.model, "objective": config.objective},
            list(read_corpus("sample:classical", "valid")),
            list(read_corpus("sample:classical", "train")),
            config.block_size,
            config.eval_max_chars,
        )
    }
    tongjian: dict[str, Any] = {}
    for kind in ("bloom",):  # 掩码的评估目标后来换过，与那一份结果的不同
        settings = full_settings(kind, args.data)
        tongjian[kind] = ruler_of(
            settings,
            list(read_documents(settings["valid"])),
            list(read_documents(settings["corpus"])),
            settings["block_size"],
            settings["eval_max_chars"],
        )
        found = json.loads((RESULTS / f"continue_tongjian_{kind}.json").read_text())
        same_targets(tongjian[kind], found["runs"][0])
        print(kind, tongjian[kind], flush=True)
    runs: dict[str, list[dict[str, Any]]] = {"continued": [], "control": []}
    for seed in args.seeds:
        runs["continued"].append(demo_run(seed))
        steps = runs["continued"][-1]["steps"]
        # 留出集写明是演示的那一份；不写，就从自己读的文字里划
        control = {
            "corpus": other,
            "valid": str(samples / "valid.classical.txt"),
            "replay": None,
            "replay_ratio": 0.05,
        }
        runs["control"].append(demo_run(seed, max_steps=steps, **control))
        for found in runs.values():
            same_targets(demo["ruler"], found[-1])
        print(seed, runs["continued"][-1], runs["control"][-1], flush=True)
        content = {
            "claim": "没有训练的、训练过的、对照组与尺子，答同样的目标",
            "demo": demo | {key: rows_of(found) for key, found in runs.items()},
            "tongjian": tongjian,
            "runs": runs,
        }
        record("front_table", content)


if __name__ == "__main__":
    main()
