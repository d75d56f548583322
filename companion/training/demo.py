"""离线演示：三分钟之内，一个真正预训练过的小模型在一段新史书上继续预训练。

史书是随包的《四境纪》，人名、地名、官名都是我们编的，任何模型都不可能事先知道；报告里的填空
题因此说明问题：训练前答不出，训练后答得出，只能是刚学到的。
"""

from importlib import resources
from pathlib import Path
from typing import Any

from companion.config import TrainingConfig
from companion.corpus.cloze import read_cloze
from companion.objectives import get_objective
from companion.training.run import TrainingResult, train


def demo_config(objective: str, output: str | Path) -> TrainingConfig:
    """演示用的设置：起步模型、随包语料、一点回放。"""
    goal = get_objective(objective)
    samples = resources.files("companion.corpus") / "samples"
    corpus = "sample:modern" if goal.usage == "complete" else "sample:classical"
    alone = not goal.pairs_required  # 通用的一份没有译文
    corpus = corpus if alone else "sample:pairs"
    return TrainingConfig(
        objective=goal.key,
        model=goal.starter,
        corpus=corpus,
        general=str(samples / "general.valid.txt") if alone else None,
        replay=str(samples / "general.train.txt") if alone else None,
        replay_ratio=0.2,
        output=str(output),
        block_size=128,
        tokens_per_batch=1024,
        # 因果模型每个词元都是目标，学得快，一步也慢一倍
        num_train_epochs=5.0 if goal.causal else 8.0,
        learning_rate=1e-3,
        warmup_steps=0.1,
        logging_steps=5,
        save_steps=100,
        save_total_limit=1,
    )


def run_demo(objective: str, output: Path, **options: Any) -> TrainingResult:
    """跑一次演示。

    Args:
        objective: 训练目标的键。
        output: 新的或空的文件夹。
        **options: 同 `train`。
    """
    goal = get_objective(objective)
    clozes = read_cloze("modern" if goal.usage == "complete" else "classical")
    return train(demo_config(objective, output), clozes=clozes, **options)
