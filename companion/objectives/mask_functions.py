"""同样的可见矩阵，写成函数：给 FlexAttention 用，长行不必真造出 L × L 的矩阵。

稠密掩码每行要 L² 个数：L = 4096 时，布尔 16 MB，float32 64 MB。FlexAttention 改收一
个函数 `f(b, h, q, kv) -> bool`，由编译好的核在用到时才问；整块不可见的地方连算也不算。
规则仍是 `attention.visible_pairs` 那一条，测试逐格核对两者相等。

    from torch.nn.attention.flex_attention import create_block_mask
    block = create_block_mask(mask_function(documents, prefix), B, None, L, L)
    model(input_ids=…, attention_mask=block)     # attn_implementation="flex_attention"

transformers 把 `BlockMask` 原样交给注意力层；同一个函数也可以作 `create_causal_mask` 的
`or_mask_function`。
"""

from typing import Protocol

import torch
from torch import Tensor

from companion.objectives.attention import PADDING


class MaskFunction(Protocol):
    """FlexAttention 的 `mask_mod`：四个整数标量张量进，一个布尔标量张量出。"""

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, kv: Tensor, /) -> Tensor:
        """第 b 行第 h 头的查询 q 看得见键 kv 时为真。"""
        ...


def mask_function(
    documents: Tensor, prefix: Tensor | None = None, reverse: Tensor | None = None
) -> MaskFunction:
    """与 `visible_pairs` 同一规则的函数；参数也相同，放在哪个设备就在哪个设备上算。

    Args:
        documents: 文档编号，(B, L) int64，填充处为 −1。
        prefix: 前缀处为真，(B, L) bool；None 表示没有前缀。
        reverse: 哪些行改看右边，(B,) bool；None 表示都看左边。

    Returns:
        `f(b, h, q, kv)`；填充位置只看见自己。
    """
    first = torch.zeros_like(documents, dtype=torch.bool) if prefix is None else prefix
    turned = (
        torch.zeros_like(documents[:, 0], dtype=torch.bool)
        if reverse is None
        else reverse
    )

    def visible(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        del h  # 各头相同
        document = documents[b, q]
        same = (document == documents[b, kv]) & (document != PADDING)
        ahead = torch.where(turned[b], kv >= q, kv <= q)
        return (q == kv) | same & (first[b, kv] | ahead)

    return visible
