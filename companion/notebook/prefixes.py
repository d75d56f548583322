"""前缀语言模型的样本：UniLM 的四种任务、GLM 的三个层次，以及少了四维掩码会怎样。"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from companion.checkpoints.running import model_options
from companion.checkpoints.tiny import tiny_model
from companion.errors import ObjectiveError
from companion.notebook.tables import Table
from companion.objectives import get_objective
from companion.plots.rows import AttentionPanel
from companion.preflight.influence import SEEN, token_influence
from companion.show import Example, show_example

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TASKS = {
    "bidirectional": "双向",
    "left_to_right": "从左到右",
    "right_to_left": "从右到左",
    "seq2seq": "序列到序列",
}
"""UniLM 的四种任务，次序照论文的图 1。"""

LEVELS: dict[str, dict[str, Any]] = {
    "词元级 [MASK]": {"sentence_probability": 0.0, "document_probability": 0.0},
    "句级 [sMASK]": {"sentence_probability": 1.0, "document_probability": 0.0},
    "文档级 [gMASK]": {"sentence_probability": 0.0, "document_probability": 1.0},
}
"""GLM 的三个层次 → 只抽它的参数。"""

_EPOCHS = 80
"""至多试几轮；四种任务里最少的一种占六分之一，八十轮里几乎不会没有。"""


def unified_examples(checkpoint: Any, text: str, seed: int) -> dict[str, Example]:
    """同一句话，UniLM 的四种任务各一个样本，按 `TASKS` 的次序。

    任务逐行抽，抽到什么由（种子，轮次，样本编号）定；这里一轮一轮地试，每种取先碰到的。

    Raises:
        ObjectiveError: 文字太短，切不成两段，有的任务分不出来。
    """
    found: dict[str, Example] = {}
    for epoch in range(_EPOCHS):
        example = prefix_example("unified_lm", checkpoint, text, seed, epoch=epoch)
        found.setdefault(_task(example), example)
        if len(found) == len(TASKS):
            return {task: found[task] for task in TASKS}
    raise ObjectiveError(
        found=f"{text!r} 只抽得出{'、'.join(TASKS[task] for task in found)}",
        expected="切得成两段的文字，四种任务才分得出来",
        remedy="给一句长些的，例如 狡兔死，走狗烹。",
    )


def _task(example: Example) -> str:
    """抽到的是哪种任务。"""
    if example.reverse:
        return "right_to_left"
    parts = example.parts or []
    if all(parts):
        return "bidirectional"
    return "seq2seq" if any(parts) else "left_to_right"


def blank_examples(
    checkpoint: Any, text: str, seed: int, **options: Any
) -> dict[str, Example]:
    """同一段文字，GLM 的三个层次各一个样本；`options` 交给整理器。"""
    return {
        name: prefix_example(
            "blank_infilling", checkpoint, text, seed, **level, **options
        )
        for name, level in LEVELS.items()
    }


def prefix_example(
    objective: str,
    checkpoint: Any,
    text: str,
    seed: int,
    *,
    epoch: int = 0,
    **options: Any,
) -> Example:
    """一个样本；整理器的参数里只有模型知道的，从检查点里取。"""
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    goal = get_objective(objective).for_config(model.config)
    known = model_options(model, goal)
    return show_example(
        goal, text, tokenizer, seed, epoch=epoch, model_options=known, **options
    )


def mask_panels(
    examples: Mapping[str, Example], titles: Mapping[str, str] | None = None
) -> list[AttentionPanel]:
    """各个样本的可见矩阵，一个样本一个；题目是 `titles` 里的，没有的用样本的名字。"""
    titles = titles or {}
    return [
        replace(panel, title=titles.get(name, name))
        for name, example in examples.items()
        for panel in example.masks()
    ]


def seen_without_mask(
    tokenizer: Any, text: str, seed: int, kind: str = "glm"
) -> tuple[Table, list[AttentionPanel]]:
    """一行 GLM 填空交给 transformers 自带的模型，掩码有三种给法，各试出谁看得见谁。

    位置只有一行，B 部分的各个词元因此与自己的空同号：没有掩码时，transformers 见位置不
    是逐个加一，就当作几篇文档装在一行，各看各的。模型的权重是随机的：谁看得见谁与权重无
    关。

    Args:
        tokenizer: 有 [MASK]、[sop]、[eop] 的分词器。
        text: 一句话。
        seed: 挖哪里。
        kind: 极小模型的架构（`checkpoints.tiny.TINY_KINDS`），位置只有一行的。

    Returns:
        一种给法一行的表，与同样次序的三个矩阵（B 部分各列从虚线起）。
    """
    example = show_example(
        "blank_infilling",
        text,
        tokenizer,
        seed,
        model_options={"position_rows": 1},
        **LEVELS["词元级 [MASK]"],
    )
    import torch

    model, ids = tiny_model(kind, tokenizer), example.batch["input_ids"]
    bare = {name: example.batch[name] for name in ("input_ids", "position_ids")}
    ways = {
        "四维掩码": {**bare, "attention_mask": example.batch["attention_mask"]},
        "不给掩码": bare,
        "全 1 的二维掩码": {**bare, "attention_mask": torch.ones_like(ids)},
    }
    [panel] = example.masks()
    seen = {
        name: (token_influence(model, batch) > SEEN).numpy()
        for name, batch in ways.items()
    }
    first = sum(example.parts or [])  # A 部分有几个词元
    rows = [["应当", *_counts(example.visible, first)]]
    rows += [[name, *_counts(each, first)] for name, each in seen.items()]
    header = ["掩码的给法", "A 看 A", "B 看 A", "B 看 B", "A 看 B"]
    panels = [replace(panel, title=name, visible=each) for name, each in seen.items()]
    return Table(header, rows), panels


def _counts(visible: "NDArray[np.bool_]", first: int) -> list[str]:
    """A 看 A、B 看 A、B 看 B、A 看 B 各有几格看得见。"""
    quarters = (
        visible[:first, :first],
        visible[first:, :first],
        visible[first:, first:],
        visible[:first, first:],
    )
    return [f"{int(each.sum())} / {each.size}" for each in quarters]
