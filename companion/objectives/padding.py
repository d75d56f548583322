"""把长短不一的行补齐成一个张量。"""

from collections.abc import Sequence

from torch import Tensor


def padded_length(lengths: Sequence[int], multiple: int | None = None) -> int:
    """补齐后的长度：最长的一行，再向上取到 `multiple` 的倍数。

    >>> padded_length([3, 9, 5]), padded_length([3, 9, 5], multiple=8)
    (9, 16)
    """
    longest = max(lengths)
    return longest if multiple is None else -(-longest // multiple) * multiple


def pad_rows(rows: Sequence[Tensor], value: int, length: int) -> Tensor:
    """在每行右侧补 `value`，直到 `length`。

    Args:
        rows: B 个一维张量，长度各异，类型相同。
        value: 补进去的值。
        length: 补齐后的长度，不小于最长的一行。

    Returns:
        (B, length)，类型同各行。

    >>> import torch
    >>> pad_rows([torch.tensor([1, 2]), torch.tensor([3])], 0, 3).tolist()
    [[1, 2, 0], [3, 0, 0]]
    """
    batch = rows[0].new_full((len(rows), length), value)
    for target, row in zip(batch, rows, strict=True):
        target[: len(row)] = row
    return batch
