"""一次遮相连的几个词：ALBERT 的 n 元词组与 SpanBERT 的片段。

    n 元词组  p(n) ∝ 1/n，n ≤ 3：6/11、3/11、2/11，平均 1.64 个词（Lan 等，2020）
    片段      p(n) ∝ 0.2·0.8ⁿ⁻¹，n ≤ 10，归一，平均 3.80 个词（Joshi 等，2020，§3.1）

片段的长度是截断后归一，不是把超过十个的都算作十个：那样平均是 4.46，与论文的 3.8 不合。
发布的命令行缺省 p = 0.3，论文与它的 README 都是 0.2。

长度以**词**计，词由样本的 `word_ids` 给出；想以字计，让每个字自成一词即可。词组与片段都
不跨特殊词元，也不跨文档。

形状字母：T 一行的词元数，W 词数。
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

ALBERT_SHARES = (6 / 11, 3 / 11, 2 / 11)
"""一至三个词的词组各占多少（Lan 等，2020，§4.1）。"""

SPAN_SHARES = tuple(0.2 * 0.8**n / (1 - 0.8**10) for n in range(10))
"""一至十个词的片段各占多少（Joshi 等，2020，§3.1）。"""


class Words(NamedTuple):
    """一行里可以遮的词，从左到右。"""

    starts: list[int]
    """各词的第一个词元，(W,)。"""
    stops: list[int]
    """各词到哪里止，(W,)。"""
    reach: list[int]
    """从这个词起，连它在内，有几个词一个挨着一个，(W,)。"""


def read_words(word_ids: Tensor, candidates: Tensor, document_starts: Tensor) -> Words:
    """找出一行里的词：词号相同、彼此相连的一段词元，全是候选。

    Args:
        word_ids: 每个词元属于第几个词，(T,) int64，−1 不属于词。
        candidates: 可以遮的为真，(T,) bool；有一个词元不可以，整词就不算。
        document_starts: 行内各文档的起点，(R,) int64；词与词组都不跨过它。

    例（词号 4 的词里有特殊词元；两边的词因此不相连）：

    >>> ids = torch.tensor([-1, 3, 3, 4, 5, 5, 6, -1])
    >>> fit = torch.tensor([0, 1, 1, 0, 1, 1, 1, 0]).bool()
    >>> read_words(ids, fit, torch.tensor([0]))
    Words(starts=[1, 4, 6], stops=[3, 6, 7], reach=[1, 2, 1])
    """
    length = len(word_ids)
    fresh = torch.ones(length, dtype=torch.bool)
    fresh[1:] = word_ids[1:] != word_ids[:-1]
    fresh[document_starts] = True
    heads = fresh.nonzero()[:, 0]  # 每段的第一个词元，不属于词的也在内
    sizes = torch.diff(heads, append=torch.tensor([length]))
    fit = torch.ones(len(heads), dtype=torch.bool)
    run = torch.cumsum(fresh, 0) - 1  # (T,) 每个词元在第几段
    fit[run[~candidates | (word_ids < 0)]] = False
    starts, stops = heads[fit].tolist(), (heads + sizes)[fit].tolist()
    fences = set(document_starts.tolist())
    reach = [1] * len(starts)
    for word in range(len(starts) - 2, -1, -1):
        if stops[word] == starts[word + 1] and starts[word + 1] not in fences:
            reach[word] += reach[word + 1]
    return Words(starts, stops, reach)


def choose_ngrams(
    words: Words,
    length: int,
    budget: int,
    shares: Sequence[float],
    generator: torch.Generator,
) -> Tensor:
    """选 n 元词组，词不拆开，总数不超过 `budget`。

    起点的次序随机；每个起点按 `shares` 抽一个 n（够不着的先除外）。超出预算就改用短些
    的，与已选的重叠就跳过；轮完一遍还有余，再逐词补足。因此与整词一样，
    `budget − 最长词 < 选中数 ≤ budget`；一个词都放不下时取最短的那个。

    Args:
        words: `read_words` 的结果。
        length: 一行的词元数 T。
        budget: 至多选多少个词元。
        shares: 一个词、两个词……的词组各占多少。
        generator: 随机数来源。

    Returns:
        选中处为真，(T,) bool。
    """
    chosen = torch.zeros(length, dtype=torch.bool)
    count = len(words.starts)
    if count == 0 or budget < 1:
        return chosen
    order = torch.randperm(count, generator=generator).tolist()
    lots = torch.rand(count, generator=generator).tolist()
    taken = [False] * count
    left = budget
    for longest in (len(shares), 1):  # 第二遍：逐词补足
        for first in order:
            if left == 0:
                break
            most = min(longest, words.reach[first])
            size = draw_length(shares[:most], lots[first])
            while size and _extent(words, first, size) > left:
                size -= 1
            if size == 0 or any(taken[first : first + size]):
                continue
            taken[first : first + size] = [True] * size
            left -= _extent(words, first, size)
            chosen[words.starts[first] : words.stops[first + size - 1]] = True
    if left == budget:
        first = min(order, key=lambda word: _extent(words, word, 1))
        chosen[words.starts[first] : words.stops[first]] = True
    return chosen


def choose_spans(
    words: Words,
    length: int,
    budget: int,
    shares: Sequence[float],
    generator: torch.Generator,
) -> Tensor:
    """选片段，恰好 `budget` 个词元，除非词里的词元不够。

    起点在词元上均匀，退到词首；片段可以重叠、相接（那就并成一段）；最后一段在预算用完处截
    断，可能断在词中间，这与发布的代码相同。

    Args:
        words: `read_words` 的结果。
        length: 一行的词元数 T。
        budget: 要选多少个词元。
        shares: 一个词、两个词……的片段各占多少。
        generator: 随机数来源。

    Returns:
        选中处为真，(T,) bool。
    """
    word_of = [-1] * length
    for word, (start, stop) in enumerate(zip(words.starts, words.stops, strict=True)):
        word_of[start:stop] = [word] * (stop - start)
    order = torch.randperm(length, generator=generator).tolist()
    lots = torch.rand(length, generator=generator).tolist()
    taken = [False] * length
    left = budget
    for anchor, lot in zip(order, lots, strict=True):
        if left <= 0:
            break
        first = word_of[anchor]
        if first < 0 or taken[anchor]:
            continue
        size = min(draw_length(shares, lot), words.reach[first])
        for place in range(words.starts[first], words.stops[first + size - 1]):
            if left > 0 and not taken[place]:
                taken[place] = True
                left -= 1
    return torch.tensor(taken)


def draw_length(shares: Sequence[float], lot: float) -> int:
    """按 `shares`（不必和为一）抽一个长度，从 1 数起。

    >>> [draw_length((6 / 11, 3 / 11, 2 / 11), lot) for lot in (0.5, 0.6, 0.9)]
    [1, 2, 3]
    >>> draw_length((6 / 11, 3 / 11), 0.7)
    2
    """
    left = lot * sum(shares)
    for size, share in enumerate(shares, start=1):
        left -= share
        if left < 0:
            return size
    return len(shares)


def adjoining_units(chosen: Tensor, labels: Tensor) -> Tensor:
    """选中的词元里，相邻而 `labels` 相同的归作一个单元。

    Args:
        chosen: 选中处为真，(T,) bool。
        labels: 每个词元的归属，(T,) int64：词号，或行内第几篇文档。

    Returns:
        单元号，(T,) int64，从 0 编起；没选中的为 −1。

    >>> adjoining_units(torch.tensor([0, 1, 1, 0, 1, 1]).bool(),
    ...                 torch.tensor([0, 0, 0, 0, 0, 1])).tolist()
    [-1, 0, 0, -1, 1, 2]
    """
    heads = chosen.clone()
    heads[1:] &= ~chosen[:-1] | (labels[1:] != labels[:-1])
    return torch.where(chosen, heads.cumsum(0) - 1, -1)


def _extent(words: Words, first: int, size: int) -> int:
    """从第 `first` 个词起，相连的 `size` 个词共有几个词元。"""
    return words.stops[first + size - 1] - words.starts[first]
