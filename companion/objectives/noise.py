"""选哪些词元、换成什么：各个去噪目标共用的几个函数，都只管一行。

怎样选（p 是比例，见 `masked_lm` 的“粒度”）：

    逐词元      恰好 max(1, round(p·T)) 个（BERT）
    整词        词不拆开，总数不超过预算（Cui 等，2021，§III）
    n 元词组    p(n) ∝ 1/n，n ≤ 3：6/11、3/11、2/11，平均 1.64 个词（Lan 等，2020）
    片段        p(n) ∝ 0.2·0.8ⁿ⁻¹，n ≤ 10，归一，平均 3.80 个词（Joshi 等，2020，§3.1）

片段的长度是截断后归一，不是把超过十个的都算作十个：那样平均是 4.46，与论文的 3.8 不合。
发布的命令行缺省 p = 0.3，论文与它的 README 都是 0.2。

随机数全部来自外面传入的 `np.random.Generator`（`Row.rng`），而且只用它的 `random()`：
numpy 保证这一列数逐版不变，`integers`、`permutation` 等没有这个保证。

形状字母：T 一行的词元数，N 选中的词元数，C 可作随机替换的词元数。
"""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from companion.objectives.rows import Runs, draw_from, shuffled

Rounding = Literal["nearest", "up", "down", "stochastic"]
"""p·T 不是整数时怎么取：舍入取偶（BERT），向上（SpanBERT），向下（MacBERT），或随机：
⌊p·T + u⌋，u 在 [0, 1) 上均匀，平均恰是 p·T（RoBERTa；fairseq
`mask_tokens_dataset.py`）。"""

ALBERT_SHARES = (6 / 11, 3 / 11, 2 / 11)
"""一至三个词的词组各占多少（Lan 等，2020，§4.1）。"""

SPAN_SHARES = tuple(0.2 * 0.8**n / (1 - 0.8**10) for n in range(10))
"""一至十个词的片段各占多少（Joshi 等，2020，§3.1）。"""


def masking_budget(
    num_tokens: int,
    num_candidates: int,
    probability: float,
    rounding: Rounding = "nearest",
    rng: np.random.Generator | None = None,
) -> int:
    """一行该选多少个词元：`max(1, round(p·T))`，不超过候选数。

    T 含特殊词元，舍入取偶，与 BERT 的发布代码一致（Devlin 等，2019，附录 A.1；
    `create_pretraining_data.py`）：512 个词元恰好选 77 个。

    >>> masking_budget(512, 510, 0.15), masking_budget(512, 510, 0.15, "down")
    (77, 76)
    >>> masking_budget(3, 1, 0.15), masking_budget(2, 0, 0.15)
    (1, 0)
    """
    share = num_tokens * probability
    if rounding == "stochastic":
        assert rng is not None
        wanted = math.floor(share + rng.random())
    else:
        wanted = {"nearest": round, "up": math.ceil, "down": math.floor}[rounding](
            share
        )
    return min(max(1, wanted), num_candidates)


def choose_tokens(
    candidates: NDArray[np.bool_], budget: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """从候选位置里不放回地均匀选 `budget` 个；不够时全选。

    Args:
        candidates: 候选处为真，(T,) bool。
        budget: 要选的个数。
        rng: 随机数来源。

    Returns:
        选中处为真，(T,) bool。
    """
    places = np.flatnonzero(candidates)
    chosen = np.zeros_like(candidates)
    chosen[places[shuffled(len(places), rng)[:budget]]] = True
    return chosen


def choose_bernoulli(
    candidates: NDArray[np.bool_], probability: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """每个候选独立地以 `probability` 选中；一个也没中时补选一个。

    transformers 的 `DataCollatorForLanguageModeling` 用同一规律而不补选：三个候选的短句
    有 0.85³ ≈ 61% 的机会没有标签。

    Returns:
        选中处为真，(T,) bool。
    """
    chosen = candidates & (rng.random(len(candidates)) < probability)
    return chosen if chosen.any() else choose_tokens(candidates, 1, rng)


def read_words(
    word_ids: NDArray[np.int64],
    candidates: NDArray[np.bool_],
    document_starts: Sequence[int],
) -> Runs:
    """一行里可以遮的词：词号相同、彼此相连的一段词元，全是候选；不跨文档。

    Args:
        word_ids: 每个词元属于第几个词，(T,) int64，−1 不属于词。
        candidates: 可以遮的为真，(T,) bool；有一个词元不可以，整词就不算。
        document_starts: 行内各文档的起点。

    例（词号 4 的词里有特殊词元）：

    >>> ids = np.array([-1, 3, 3, 4, 5, 5, 6, -1])
    >>> fit = np.array([0, 1, 1, 0, 1, 1, 1, 0], bool)
    >>> read_words(ids, fit, [0])
    [(1, 3), (4, 6), (6, 7)]
    """
    fresh = np.ones(len(word_ids), np.bool_)
    fresh[1:] = word_ids[1:] != word_ids[:-1]
    fresh[list(document_starts)] = True
    heads: list[int] = [*np.flatnonzero(fresh).tolist(), len(word_ids)]
    return [
        (start, stop)
        for start, stop in itertools.pairwise(heads)
        if word_ids[start] >= 0 and candidates[start:stop].all()
    ]


def choose_ngrams(
    words: Runs,
    documents: NDArray[np.int64],
    budget: int,
    shares: Sequence[float],
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """选 n 元词组，词不拆开，总数不超过 `budget`；`shares` 只有一项就是选整词。

    起点的次序随机；每个起点按 `shares` 抽一个 n（够不着的先除外）。超出预算就改用短些
    的，与已选的重叠就跳过；轮完一遍还有余，再逐词补足（做法同 BERT 的
    `do_whole_word_mask`）。一个词都放不下时取最短的那个，因为一行至少要有一个标签。因此
    `budget − 最长词 < 选中数 ≤ budget`，词元都是单字词时恰好等于 `budget`。

    Args:
        words: `read_words` 的结果。
        documents: 每个词元属于行内第几篇，(T,)；词组不跨文档。
        budget: 至多选多少个词元。
        shares: 一个词、两个词……的词组各占多少。
        rng: 随机数来源。

    Returns:
        选中处为真，(T,) bool。
    """
    chosen = np.zeros(len(documents), np.bool_)
    if not words or budget < 1:
        return chosen
    reach = _reach(words, documents)
    order = shuffled(len(words), rng)
    lots: list[float] = rng.random(len(words)).tolist()
    left = budget
    for longest in (len(shares), 1):  # 第二遍：逐词补足
        for first in order:
            if left == 0:
                break
            size = draw_length(shares[: min(longest, reach[first])], lots[first])
            start = words[first][0]
            while size and words[first + size - 1][1] - start > left:
                size -= 1
            if size and not chosen[start : words[first + size - 1][1]].any():
                stop = words[first + size - 1][1]
                chosen[start:stop] = True
                left -= stop - start
    if left == budget:
        start, stop = min((words[n] for n in order), key=lambda word: word[1] - word[0])
        chosen[start:stop] = True
    return chosen


def choose_spans(
    words: Runs,
    documents: NDArray[np.int64],
    budget: int,
    shares: Sequence[float],
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """选片段，恰好 `budget` 个词元，除非词里的词元不够。

    起点在词元上均匀，退到词首；片段可以重叠、相接（那就并成一段）；最后一段在预算用完处截
    断，可能断在词中间，这与发布的代码相同。

    Args:
        words: `read_words` 的结果。
        documents: 每个词元属于行内第几篇，(T,)；片段不跨文档。
        budget: 要选多少个词元。
        shares: 一个词、两个词……的片段各占多少。
        rng: 随机数来源。

    Returns:
        选中处为真，(T,) bool。
    """
    word_of = {at: number for number, word in enumerate(words) for at in range(*word)}
    reach = _reach(words, documents)
    chosen = np.zeros(len(documents), np.bool_)
    left = budget
    places = list(word_of)
    for anchor in [places[n] for n in shuffled(len(places), rng)]:
        if left <= 0:
            break
        if chosen[anchor]:
            continue
        first = word_of[anchor]
        size = min(draw_length(shares, rng.random()), reach[first])
        for place in range(words[first][0], words[first + size - 1][1]):
            if left > 0 and not chosen[place]:
                chosen[place] = True
                left -= 1
    return chosen


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


def replace_tokens(
    input_ids: NDArray[np.int64],
    chosen: NDArray[np.bool_],
    *,
    mask_token_id: int,
    random_ids: NDArray[np.int64],
    mask_replace_prob: float,
    random_replace_prob: float,
    rng: np.random.Generator,
    units: Runs | None = None,
) -> NDArray[np.int64]:
    """把选中的词元换成掩码、随机词元，或原样保留。

    逐个词元决定（Devlin 等，2019，§3.1 的 80/10/10）；给了 `units`，就逐段决定（Joshi
    等，2020，§3.1）。随机词元总是逐个抽，且只从 `random_ids` 抽取；库的整理器从整个词表
    抽，会抽到 [PAD]、[CLS]、[MASK]。

    Args:
        input_ids: 原文，(T,) int64，不改动。
        chosen: 选中处为真，(T,) bool。
        mask_token_id: 掩码词元。
        random_ids: 可作替换的词元，(C,) int64，不含特殊词元。
        mask_replace_prob: 换成掩码的概率。
        random_replace_prob: 换成随机词元的概率；其余保留原样。
        rng: 随机数来源。
        units: 选中的词元分作哪几段；None 表示一个词元一段。

    Returns:
        破坏后的输入，(T,) int64。
    """
    places = np.flatnonzero(chosen)  # (N,)
    if units is None:
        lots = rng.random(len(places))
    else:
        sizes = [stop - start for start, stop in units]
        lots = np.repeat(rng.random(len(units)), sizes)
    draws = draw_from(random_ids, len(places), rng)
    corrupted = input_ids.copy()
    masked = lots < mask_replace_prob
    random = ~masked & (lots < mask_replace_prob + random_replace_prob)
    corrupted[places[masked]] = mask_token_id
    corrupted[places[random]] = draws[random]
    return corrupted


def _reach(words: Runs, documents: NDArray[np.int64]) -> list[int]:
    """从每个词起，连它在内，有几个词一个挨着一个。"""
    reach = [1] * len(words)
    for word in range(len(words) - 2, -1, -1):
        end, following = words[word][1], words[word + 1][0]
        if end == following and documents[end - 1] == documents[end]:
            reach[word] += reach[word + 1]
    return reach
