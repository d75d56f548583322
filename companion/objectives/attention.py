"""谁能看见谁：注意力掩码只在这里产生。

形状字母：B 行数，L 行长；可见矩阵的第 i 行是查询 i，第 j 列是键 j。

transformers 的各种注意力实现里，只有**加性浮点**掩码 (B, 1, L, L) 处处正确：布尔掩码在
eager 下会静默变成全可见，−inf 在整行被遮时得到 NaN。因此这里先算布尔的可见矩阵（好读、
好画、好测），再由 `additive_mask` 统一转成浮点。
"""

from collections.abc import Sequence

import torch
from torch import Tensor

PADDING = -1
"""`document_index` 中填充位置的编号。"""


def document_index(document_starts: Tensor, num_tokens: int, length: int) -> Tensor:
    """每个位置属于行内第几个文档。

    Args:
        document_starts: 各文档的起点，(R,) int64，升序，首项为 0。
        num_tokens: 这一行的真实词元数。
        length: 补齐后的行长。

    Returns:
        (length,) int64，填充处为 −1。

    >>> document_index(torch.tensor([0, 2]), 3, 4).tolist()
    [0, 0, 1, -1]
    """
    index = torch.zeros(length, dtype=torch.int64)
    index[document_starts] = 1
    index = index.cumsum(0) - 1
    index[num_tokens:] = PADDING
    return index


def restarting_positions(documents: Tensor) -> Tensor:
    """每个文档从 0 起的位置编号。

    Args:
        documents: 文档编号，(B, L) int64，同一文档连续。

    Returns:
        (B, L) int64；填充处也从 0 数起，只为保持在位置表之内。

    >>> restarting_positions(torch.tensor([[0, 0, 1, 1, 1, -1]])).tolist()
    [[0, 1, 0, 1, 2, 0]]
    """
    steps = torch.arange(documents.shape[1]).expand_as(documents)
    starts = torch.ones_like(documents, dtype=torch.bool)
    starts[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return steps - torch.where(starts, steps, 0).cummax(dim=1).values


def visible_within_documents(documents: Tensor, *, causal: bool) -> Tensor:
    """同一文档之内互相可见；`causal` 时只看自己与左边。

    填充位置只看见自己：softmax 因此处处有定义，而它的输出没有人用。

    Args:
        documents: 文档编号，(B, L) int64，填充处为 −1。
        causal: 是否只许看左边。

    Returns:
        可见处为真，(B, L, L) bool。
    """
    same = documents[:, :, None] == documents[:, None, :]
    real = documents != PADDING
    visible = same & real[:, :, None]
    if causal:
        visible = visible.tril()
    return visible | torch.eye(documents.shape[1], dtype=torch.bool)


def additive_mask(visible: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """布尔可见矩阵 → 加性浮点掩码。

    Args:
        visible: 可见处为真，(B, L, L) bool。
        dtype: 模型计算所用的浮点类型。

    Returns:
        可见处为 0、不可见处为该类型的最小有限值，(B, 1, L, L)。
    """
    mask = torch.zeros(visible.shape, dtype=dtype)
    return mask.masked_fill(~visible, torch.finfo(dtype).min)[:, None]


def stack_documents(
    starts: Sequence[Tensor], num_tokens: Sequence[int], length: int
) -> Tensor:
    """一批行的文档编号，(B, length) int64，填充处为 −1。"""
    return torch.stack(
        [document_index(s, n, length) for s, n in zip(starts, num_tokens, strict=True)]
    )
