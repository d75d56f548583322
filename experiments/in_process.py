"""同一进程里训练许多次：语料只读一遍，卷子只出一份，不写报告。

与 `companion train` 走同一条路：同样的打包、批次、噪声、种子；只是省去每次重读语料、重
考训练之前、画图写报告。
"""

import tempfile
from dataclasses import replace
from typing import Any

from companion.config import TrainingConfig
from companion.corpus.catalog import cache_folder
from companion.models import load_checkpoint
from companion.models.device import best_device
from companion.models.loading import Checkpoint
from companion.models.running import fitted_objective
from companion.objectives import get_objective
from companion.training.data import Corpora, choose_block_size, prepare_data
from companion.training.extending import extend_for_corpus
from companion.training.loop import run_loop
from companion.training.team import ALONE


def continue_once(
    config: TrainingConfig, corpora: Corpora
) -> tuple[Checkpoint, dict[str, Any]]:
    """训练一次，返回训练好的检查点与几个数；不评估。

    Args:
        config: 训练设置；`output` 不用，写在临时文件夹里。
        corpora: `read_corpora` 的结果，几次共用。
    """
    checkpoint = load_checkpoint(config.model, config.objective)
    objective = fitted_objective(checkpoint.model, get_objective(config.objective))
    device = best_device(checkpoint.model.config.model_type)
    extension = extend_for_corpus(checkpoint, config, corpora.train)
    checkpoint = extension.checkpoint if extension else checkpoint
    with tempfile.TemporaryDirectory() as folder:
        config = replace(
            config,
            output=folder,
            precision="fp32",
            block_size=choose_block_size(config, checkpoint.model),
        )
        data = prepare_data(
            config,
            corpora,
            objective,
            checkpoint.model,
            checkpoint.tokenizer,
            packed=True,
            cache_dir=cache_folder() / "tokens",
        )
        ran = run_loop(
            config,
            objective,
            checkpoint,
            data,
            device,
            ALONE,
            False,
            None,
            extension.ids if extension else (),
        )
    facts = {
        "seed": config.seed,
        "steps": data.plan.num_steps,
        "tokens_trained": data.plan.tokens,
        "targets": ran.targets,
        "seconds": ran.rows[-1]["seconds"],
    }
    return replace(checkpoint, model=ran.model.eval()), facts
