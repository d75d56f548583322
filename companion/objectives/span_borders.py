"""片段边界目标（SpanBERT）：由片段外侧的两个词元与位置，猜片段里的每一个词元。

    x_i ← h_{s−1}、h_{e+1}、第 i − s + 1 个位置，s ≤ i ≤ e      （Joshi 等，2020，§3.2）

例（片段是第 2 到 3 个词元，边界在第 1 与第 4 个）：

    原文         [CLS]  魏   文    侯    曰   [SEP]
    input_ids    [CLS]  魏 [MASK] [MASK] 曰   [SEP]
    span_borders   −    −   1,4   1,4    −     −

80/10/10 一段一个决定，有的片段看上去原样未动，所以边界在破坏时就记下，不从 [MASK] 去
猜。相接的片段已并成一段，边界因此总是没有选中的词元。

边界要是同一篇文档里的词元，而不是 [CLS]、[SEP]：片段贴着它们、行端或另一篇文档的，没有
这个目标，与发布的代码相同（`masking.py`：`start > 0 and end < sent_length − 1`）；那里
一行只有一篇，这里打包的行以文档为界。一段至多猜开头 `MAX_TARGETS` 个。

形状字母：B 行数，L 补齐后的行长，T 一行的词元数，U 片段数。
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from companion.batch import IGNORE_INDEX
from companion.errors import ObjectiveError
from companion.objectives.padding import pad_rows
from companion.objectives.word_runs import adjoining_units

MAX_TARGETS = 15
"""一段至多猜几个词元（发布的训练命令：`max_pair_targets` 为 15）。"""


def span_borders(chosen: Tensor, documents: Tensor, edges: Tensor) -> Tensor:
    """每个选中的词元所在片段的左右边界。

    Args:
        chosen: 选中处为真，(T,) bool。
        documents: 每个词元属于行内第几篇文档，(T,) int64。
        edges: 作不得边界的为真（[CLS]、[SEP] 等），(T,) bool。

    Returns:
        左边界与右边界的位置，(T, 2) int64；没有目标处两个都是 −100。

    >>> chosen = torch.tensor([0, 0, 1, 1, 0, 0, 1, 0]).bool()
    >>> edges = torch.tensor([1, 0, 0, 0, 0, 0, 0, 1]).bool()
    >>> span_borders(chosen, torch.zeros(8).long(), edges)[:, 0].tolist()
    [-100, -100, 1, 1, -100, -100, -100, -100]
    """
    length = len(chosen)
    units = adjoining_units(chosen, documents)  # (T,)
    places = torch.arange(length)
    before = torch.cat([units.new_tensor([-1]), units[:-1]])
    firsts = places[chosen & (units != before)]  # (U,)
    sizes = torch.bincount(units[chosen], minlength=len(firsts))  # (U,)
    lefts, rights = firsts - 1, firsts + sizes
    inside = (lefts >= 0) & (rights < length)
    a, b = lefts.clamp(min=0), rights.clamp(max=length - 1)
    same = (documents[a] == documents[firsts]) & (documents[b] == documents[firsts])
    sound = inside & same & ~edges[a] & ~edges[b]  # (U,)
    borders = torch.full((length, 2), IGNORE_INDEX)
    unit = units[chosen]  # (N,)
    early = places[chosen] - firsts[unit] < MAX_TARGETS
    wanted = sound[unit] & early
    at = places[chosen][wanted]
    borders[at] = torch.stack([lefts, rights], dim=1)[unit[wanted]]
    return borders


def pad_borders(rows: Sequence[Tensor | None], length: int) -> Tensor:
    """补齐成 (B, L, 2)，补处没有目标。

    Raises:
        ObjectiveError: 有一行没有记下边界。
    """
    given = [row for row in rows if row is not None]
    if len(given) < len(rows):
        raise ObjectiveError(
            found="这个样本没有记下片段的边界",
            expected="span_boundary=True 的整理器自己造出的样本",
            remedy="用同一个整理器的 examples 造出样本，再交给 collate",
        )
    sides = [
        pad_rows([row[:, n] for row in given], IGNORE_INDEX, length) for n in (0, 1)
    ]
    return torch.stack(sides, dim=-1)
