"""同一批数据走一步，分几个微批量累积：库的 Trainer 与本包的各记下多少。

噪声事先加好，随机失活关着，所以各种分法算的是同一件事，记下的损失与梯度应当相同。
"""

import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np

from companion.batch import Batch
from companion.checkpoints.loading import load_checkpoint
from companion.checkpoints.quiet import quiet_transformers
from companion.config import TrainingConfig

COUNTS = (1, 2, 4)
"""分成几个微批量。"""
_NO_CLIP = 1e9


@dataclass(frozen=True)
class Step:
    """一步记下的数。"""

    loss: float
    """奈特/目标。"""
    norm: float
    """裁剪之前的梯度范数。"""


class _Rows:
    """已加好噪声的行，按（轮次，行号）或行号取。"""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.lengths = np.full(len(self), batch["input_ids"].shape[1], np.int64)

    def __len__(self) -> int:
        return len(self.batch["input_ids"])

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        row = key[1] if isinstance(key, tuple) else key
        if row >= len(self):
            raise IndexError(row)
        return {name: each[row] for name, each in self.batch.items()}


def library_step(batch: Batch, count: int) -> Step:
    """Transformers 的 Trainer 走一步，`batch` 分成 `count` 个微批量。

    Args:
        batch: 掩码语言建模的一批，行数是 `count` 的倍数。
        count: `gradient_accumulation_steps`。
    """
    from transformers import Trainer, TrainingArguments, default_data_collator
    from transformers.trainer_callback import PrinterCallback

    rows = _Rows(batch)
    with tempfile.TemporaryDirectory() as folder, quiet_transformers():
        trainer = Trainer(
            load_checkpoint("starter:bert", "masked_lm").model,
            TrainingArguments(
                folder,
                max_steps=1,
                per_device_train_batch_size=len(rows) // count,
                gradient_accumulation_steps=count,
                max_grad_norm=_NO_CLIP,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                use_cpu=True,
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
            train_dataset=rows,  # type: ignore[arg-type]
            data_collator=default_data_collator,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    logged = trainer.state.log_history[0]
    return Step(float(logged["loss"]), float(logged["grad_norm"]))


def our_step(batch: Batch, count: int) -> Step:
    """本包的 Trainer 走同样的一步；参数同 `library_step`。"""
    from transformers import default_data_collator
    from transformers.trainer_callback import PrinterCallback

    from companion.losses.parts import WordLoss
    from companion.training.arguments import training_arguments
    from companion.training.batching import BatchPlan
    from companion.training.data import TrainingData
    from companion.training.trainer import CompanionTrainer

    rows = _Rows(batch)
    size = len(rows) // count
    parts = [
        [(0, row) for row in range(first, first + size)]
        for first in range(0, len(rows), size)
    ]
    plan = BatchPlan(parts, 1, 1.0, int(rows.lengths.sum()), 0, 0)
    with tempfile.TemporaryDirectory() as folder, quiet_transformers():
        config = TrainingConfig(
            objective="masked_lm",
            model="starter:bert",
            corpus="sample:classical",
            output=folder,
            gradient_accumulation_steps=count,
            max_grad_norm=_NO_CLIP,
            logging_steps=1,
        )
        trainer = CompanionTrainer(
            load_checkpoint("starter:bert", "masked_lm").model,
            config=config,
            data=TrainingData(rows, plan, None, 0, False, None),  # type: ignore[arg-type]
            collator=default_data_collator,  # type: ignore[arg-type]
            loss=WordLoss(),
            arguments=training_arguments(
                config, num_steps=1, learning_rate=1e-3, precision="fp32",
                device_kind="cpu",
            ),
            callbacks=[],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    norm = float(trainer.state.log_history[0]["grad_norm"])
    return Step(trainer.tally.take()["nats_per_target"], norm)
