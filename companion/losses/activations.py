"""训练时换上等价而更快的激活函数。

transformers 里 BLOOM 的 GELU 是 2022 年手写的：前向五遍、反向十几遍逐元素运算，每遍都写
出一个 (B, L, 4D) 的新张量。PyTorch 自带的 `gelu(approximate="tanh")` 是同一个式子
（Hendrycks 与 Gimpel，2016，§2），前向反向各一遍，只差浮点舍入。
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor


@contextmanager
def fused_gelu(model: Any) -> Generator[None]:
    """在这段时间里，BLOOM 的 GELU 用 PyTorch 的实现；别的架构原样不动。

    只换各模块实例的 `forward`，没有参数，不影响存盘；离开时还原。

    Args:
        model: transformers 模型，可以包着 peft。
    """
    from transformers.models.bloom.modeling_bloom import BloomGelu

    swapped = [module for module in model.modules() if type(module) is BloomGelu]
    for module in swapped:
        module.forward = _gelu
    try:
        yield
    finally:
        for module in swapped:
            del module.forward  # 露出类里的 forward


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")
