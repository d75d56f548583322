"""谁能看见谁：注意力掩码只在这里产生。

形状字母：B 行数，L 行长；可见矩阵的第 i 行是查询 i，第 j 列是键 j。

transformers 的各种注意力实现里，只有**加性浮点**掩码 (B, 1, L, L) 处处正确：布尔掩码在
eager 下会静默变成全可见，−inf 在整行被遮时得到 NaN。因此这里先算布尔的可见矩阵（好读、
好画、好测），再由 `additive_mask` 统一转成浮点。
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from companion.errors import ObjectiveError

PADDING = -1
"""文档编号里填充位置的编号。"""

MaskKind = Literal[
    "bidirectional", "left_to_right", "right_to_left", "prefix", "seq2seq"
]
"""五种掩码的名字。prefix（T5）与 seq2seq（UniLM）是同一张矩阵，两边的论文各叫各的。"""


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


def visible_pairs(
    documents: Tensor, prefix: Tensor | None = None, reverse: Tensor | None = None
) -> Tensor:
    """谁能看见谁，一条规则管所有目标。

        i 看得见 j  ⇔  同一文档，并且（j 是前缀，或 j ≤ i）

    前缀是整篇就是双向，没有前缀就是从左到右；`reverse` 把 j ≤ i 换成 j ≥ i。源端在前、
    目标在后时，把源端当前缀，便是 UniLM 的序列到序列（Dong 等，2019，图 1）；A 部分当前
    缀，便是 GLM 的填空（Du 等，2022，图 2）。填充位置只看见自己：softmax 因此处处有定
    义，而它的输出没有人用。

    Args:
        documents: 文档编号，(B, L) int64，填充处为 −1。
        prefix: 前缀处为真，(B, L) bool；None 表示没有前缀。
        reverse: 哪些行改看右边，(B,) bool；None 表示都看左边。

    Returns:
        可见处为真，(B, L, L) bool。

    >>> documents = torch.tensor([[0, 0, 0, -1]])
    >>> visible_pairs(documents, torch.tensor([[True, True, False, False]])).int()
    tensor([[[1, 1, 0, 0],
             [1, 1, 0, 0],
             [1, 1, 1, 0],
             [0, 0, 0, 1]]], dtype=torch.int32)
    """
    length = documents.shape[1]
    keys = documents.masked_fill(documents == PADDING, PADDING - 1)  # 填充不认填充
    visible = documents[:, :, None] == keys[:, None, :]
    everything = torch.ones(length, length, dtype=torch.bool)
    ahead = everything.tril()[None]  # (1, L, L) 自己与左边
    if reverse is not None and reverse.any():
        ahead = torch.where(reverse[:, None, None], everything.triu(), ahead)
    if prefix is not None:
        ahead = ahead | prefix[:, None, :]
    visible &= ahead
    visible.diagonal(dim1=1, dim2=2).fill_(True)
    return visible


def leading_positions(documents: Tensor, sizes: Tensor) -> Tensor:
    """每个文档开头的几个位置：给各文档的前缀长度，得到前缀。

    Args:
        documents: 文档编号，(B, L) int64，填充处为 −1。
        sizes: 各行各文档的前缀长度，(B, R) int64；R 不小于最大的文档编号加一。

    Returns:
        前缀处为真，(B, L) bool。

    >>> documents = torch.tensor([[0, 0, 0, 1, 1, -1]])
    >>> leading_positions(documents, torch.tensor([[2, 1]])).int().tolist()
    [[1, 1, 0, 1, 0, 0]]
    """
    wanted = sizes.gather(1, documents.clamp(min=0))
    return (restarting_positions(documents) < wanted) & (documents != PADDING)


def mask_rule(
    kind: MaskKind, documents: Tensor, sizes: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """一种掩码的名字 → `visible_pairs` 的后两个参数。

    Args:
        kind: 掩码的名字。
        documents: 文档编号，(B, L) int64，填充处为 −1。
        sizes: 各行各文档的前缀（源端）长度，(B, R) int64；只有 prefix 与 seq2seq 用。

    Returns:
        `prefix` (B, L) bool，`reverse` (B,) bool。

    Raises:
        ObjectiveError: 没有这个名字，或 prefix、seq2seq 没有给 `sizes`。
    """
    if kind not in get_args(MaskKind):
        raise ObjectiveError(
            found=f"掩码 {kind!r}",
            expected=f"{'、'.join(get_args(MaskKind))} 之一",
            remedy="照上面的名字改写",
        )
    prefix = torch.zeros_like(documents, dtype=torch.bool)
    if kind == "bidirectional":
        prefix = documents != PADDING
    elif kind in ("prefix", "seq2seq"):
        if sizes is None:
            raise ObjectiveError(
                found=f"掩码 {kind} 没有给前缀的长度",
                expected="每个文档的前缀有几个词元",
                remedy="补上 sizes，形状是（行数, 每行文档数）",
            )
        prefix = leading_positions(documents, sizes)
    reverse = torch.full((len(documents),), kind == "right_to_left")
    return prefix, reverse


def visible_within_documents(documents: Tensor, *, causal: bool) -> Tensor:
    """同一文档之内互相可见；`causal` 时只看自己与左边。

    Args:
        documents: 文档编号，(B, L) int64，填充处为 −1。
        causal: 是否只许看左边。

    Returns:
        可见处为真，(B, L, L) bool。
    """
    kind = "left_to_right" if causal else "bidirectional"
    return visible_pairs(documents, *mask_rule(kind, documents))


def visible_between_documents(queries: Tensor, keys: Tensor) -> Tensor:
    """交叉注意力：解码器的文档看编码器里的同一个文档。

    填充的查询看见全部键：softmax 因此处处有定义，而它的输出没有人用。

    Args:
        queries: 解码器各位置的文档编号，(B, K) int64，填充处为 −1。
        keys: 编码器各位置的文档编号，(B, L) int64，填充处为 −1。

    Returns:
        可见处为真，(B, K, L) bool。
    """
    same = queries[:, :, None] == keys[:, None, :]
    return same | (queries == PADDING)[:, :, None]


def additive_mask(visible: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """布尔可见矩阵 → 加性浮点掩码。

    Args:
        visible: 可见处为真，(B, L, L) bool。
        dtype: 模型计算所用的浮点类型。

    Returns:
        可见处为 0、不可见处为该类型的最小有限值，(B, 1, L, L)。
    """
    hidden = torch.tensor(torch.finfo(dtype).min, dtype=dtype)
    return torch.where(visible, torch.zeros((), dtype=dtype), hidden)[:, None]
