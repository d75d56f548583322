"""取一个模型的几层，拼成一个浅的：蒸馏的学生由教师隔层取来（Sanh 等，2019，§3）。

    教师  嵌入  0  1  2  3  输出头
    学生  嵌入  0     2     输出头      student_layers=0,2

学生与教师一样宽，所以嵌入、输出头与留下的层都照搬，不是从随机练起。
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from companion.checkpoints.loading import Checkpoint
from companion.checkpoints.running import layer_stacks, read_setting, text_config
from companion.errors import ModelError


def keep_layers(checkpoint: Checkpoint, layers: Sequence[int]) -> Checkpoint:
    """只留这几层的一个新检查点；原来的不动。

    Args:
        checkpoint: 打开了的检查点，只有一串层（编码器或解码器）。
        layers: 留下哪几层，从 0 数，依次递增。

    Raises:
        ModelError: 没有这一层，层分不出来（ALBERT 各层共用），或不止一串。
    """
    model = checkpoint.model
    config = text_config(model)
    depth = read_setting(config, "num_hidden_layers", 0)
    stacks = [name for name, each in layer_stacks(model) if len(each) == depth]
    if len(stacks) != 1:
        raise ModelError(
            found=f"{checkpoint.name}（{model.config.model_type}）有 {depth} 层，"
            f"找到 {len(stacks)} 串这么长的层",
            expected="各层有自己的权重，依次排成一串（BERT 一类的编码器）",
            remedy="去掉 student_layers，另给一个浅的检查点作 --model",
        )
    outside = [number for number in layers if not 0 <= number < depth]
    if outside:
        raise ModelError(
            found=f"student_layers 里有第 {outside[0]} 层，而 {checkpoint.name} 只有 "
            f"{depth} 层",
            expected=f"0 到 {depth - 1}",
            remedy=f"例如隔层取：student_layers="
            f"{','.join(map(str, range(0, depth, 2)))}",
        )
    smaller = copy.deepcopy(model.config)
    smaller.num_hidden_layers = len(layers)
    kinds = getattr(smaller, "layer_types", None)  # 逐层写明的（ModernBERT 的远近两种）
    if kinds:
        smaller.layer_types = [kinds[number] for number in layers]
    with torch.random.fork_rng(devices=[]):
        student: Any = type(model)(smaller)
    student.load_state_dict(_renumbered(model, stacks[0], layers))
    student.tie_weights()
    student.name_or_path = model.name_or_path
    chosen = "、".join(map(str, layers))
    notice = f"学生取 {checkpoint.name} 的第 {chosen} 层（共 {depth} 层，从 0 数）"
    notices = [*checkpoint.notices, notice]
    return replace(checkpoint, model=student.eval(), notices=notices)


def _renumbered(model: Any, stack: str, layers: Sequence[int]) -> dict[str, Any]:
    """留下的权重，层号改成新的。"""
    found: dict[str, Any] = {}
    new = {str(old): str(number) for number, old in enumerate(layers)}
    for name, weight in model.state_dict().items():
        if not name.startswith(f"{stack}."):
            found[name] = weight
            continue
        number, _, rest = name.removeprefix(f"{stack}.").partition(".")
        if number in new:
            found[f"{stack}.{new[number]}.{rest}"] = weight
    return found
