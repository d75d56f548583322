"""GLM 的空：遮哪些片段，空用哪些词元写。

三个层次（Du 等，2022，§2.1、§2.2），都先定预算 ⌊0.15·T⌋（至少 1），T 是正文的词元数：

- 词元级：片段长度取自去掉零的泊松分布（λ = 3，只取 1 到 39，重新归一，均值 3.157），抽
  到总长够预算为止，最后一个不截短；片段互不相邻，摆法在全部摆法里均匀。
- 句级：整句整句地遮，句子次序随机，够预算为止；只有一句的文档改为词元级。
- 文档级：末尾的一整段，长度在 ⌈T/2⌉ 与 T − 1 之间均匀。

发布的代码（THUDM/GLM `blocklm_utils.py`）各片段的位置独立地抽再排序，相近的摆法略多；装
不下时整篇丢弃。这里均匀地摆，装不下的片段不遮，至少留一个词元不遮。

形状字母：D 文档数，W 一篇至多几个片段，S 全部片段数。
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from companion.errors import ObjectiveError
from companion.objectives.ragged import Ragged, choose_exactly, uniform
from companion.objectives.sentences import split_sentences

MAX_SPAN = 39
"""词元级片段至多多长（发布代码的 `max_block_length` 40，不含）。"""

_LENGTHS, _ORDER, _PLACES, _SENTENCES, _TAIL = range(10, 15)
"""各处随机数的流。"""

START_NAMES = ("[sop]", "<sop>", "<|startofpiece|>")
"""片段开头的几种写法；词表里有它，就是用 GLM 的填空训练过的。"""

_NAMES = {
    "mask": ("[MASK]",),
    "sentence_mask": ("[sMASK]",),
    "document_mask": ("[gMASK]",),
    "start": START_NAMES,
    "end": ("[eop]", "<eop>", "<|endofpiece|>"),
}
"""各种空与起止词元的名字；GLM、ChatGLM、GLM-4 写法不一，取词表里有的第一个。"""


@dataclass(frozen=True)
class BlankTokens:
    """写空用的五个词元的编号；这个分词器没有、也用不着的为 −1。"""

    mask: int
    sentence_mask: int
    document_mask: int
    start: int
    """一个片段的开头，论文记作 [S]。"""
    end: int
    """一个片段的结尾，论文记作 [E]。"""


@dataclass(frozen=True)
class Spans:
    """S 个片段，按（文档，起点）排列；起点从正文的第一个词元数起。"""

    documents: NDArray[np.int64]
    """各属第几篇，(S,)。"""
    starts: NDArray[np.int64]
    """(S,)。"""
    lengths: NDArray[np.int64]
    """(S,)，都不小于 1。"""


def find_blank_tokens(
    tokenizer: Any, *, sentences: bool = True, documents: bool = True
) -> BlankTokens:
    """在词表里找写空用的词元。

    Args:
        tokenizer: transformers 的分词器。
        sentences: 要不要句级的 [sMASK]。
        documents: 要不要文档级的 [gMASK]。

    Raises:
        ObjectiveError: 词表里缺要用的词元；消息逐个点名。
    """
    unused = {"sentence_mask": not sentences, "document_mask": not documents}
    found = {role: _find(tokenizer, names) for role, names in _NAMES.items()}
    if found["mask"] < 0 and tokenizer.mask_token_id is not None:
        found["mask"] = tokenizer.mask_token_id  # RoBERTa 的 <mask>
    missing = [
        _NAMES[role][0]
        for role, number in found.items()
        if number < 0 and not unused.get(role)
    ]
    if missing:
        raise ObjectiveError(
            found=f"分词器 {type(tokenizer).__name__} 没有 {'、'.join(missing)}",
            expected="GLM 填空的每个特殊词元在词表里各占一个编号",
            remedy="用 starter:glm；或先 tokenizer.add_special_tokens("
            f'{{"extra_special_tokens": {missing!r}}})，'
            "再 model.resize_token_embeddings(len(tokenizer))；"
            "只缺 [sMASK]、[gMASK] 时也可以把 sentence_probability、"
            "document_probability 设为 0（考题三级都有，所以另加 eval=false）",
        )
    return BlankTokens(**found)


def _find(tokenizer: Any, names: tuple[str, ...]) -> int:
    for name in names:
        number = tokenizer.convert_tokens_to_ids(name)
        if number is not None and tokenizer.convert_ids_to_tokens(number) == name:
            return int(number)
    return -1


def truncated_poisson(mean: float) -> NDArray[np.float64]:
    """去掉零、截到 39 的泊松分布：P(1), …, P(39)，(39,) float64。

    >>> chances = truncated_poisson(3.0)
    >>> round(float(chances[0]), 3), round(float(chances @ np.arange(1, 40)), 3)
    (0.157, 3.157)
    """
    sizes = np.arange(1, MAX_SPAN + 1)
    logs = sizes * math.log(mean) - np.array([math.lgamma(k + 1) for k in sizes])
    weights = np.exp(logs - logs.max())
    return weights / weights.sum()


def token_spans(
    lengths: NDArray[np.int64],
    keys: NDArray[np.uint64],
    *,
    density: float,
    mean_length: float,
) -> Spans:
    """词元级的片段：互不相邻，总长刚够预算。

    Args:
        lengths: 各篇正文的词元数，(D,)；为 0 的没有片段。
        keys: 各篇的随机数钥匙，(D,) uint64。
        density: 预算占正文的比例。
        mean_length: 泊松分布的 λ。
    """
    budget = np.where(lengths > 0, np.maximum(1, (density * lengths).astype(int)), 0)
    width = int(budget.max(initial=0))  # W：每段至少 1，所以不会更多
    bounds = truncated_poisson(mean_length).cumsum()
    bounds[-1] = 1.0
    lots = uniform(keys, width, _LENGTHS)
    sizes = 1 + np.searchsorted(bounds, lots, side="right")  # (D, W)
    sizes = np.minimum(sizes, np.maximum(lengths - 1, 1)[:, None])
    total = sizes.cumsum(axis=1)
    wanted = total - sizes < budget[:, None]
    fits = total + np.arange(width) <= lengths[:, None]  # 片段之间各隔一个
    sizes = np.where(wanted & fits, sizes, 0)
    counts = (sizes > 0).sum(axis=1)  # (D,)
    # 刚够预算的那一段偏长；不打乱，它就总在最右边
    scores = np.where(sizes > 0, uniform(keys, width, _ORDER), 2.0)
    sizes = np.take_along_axis(sizes, scores.argsort(axis=1), axis=1)
    # T − M 个不遮的词元里，n − 1 个用来隔开，其余与 n 个片段一起排队：选片段站在哪几位
    queue = lengths - sizes.sum(axis=1) + 1
    documents, place = choose_exactly(queue, counts, keys, _PLACES).nonzero()
    rank = np.arange(len(documents)) - np.searchsorted(documents, documents)
    before = sizes.cumsum(axis=1) - sizes
    return Spans(documents, place + before[documents, rank], sizes[documents, rank])


def sentence_spans(
    documents: Ragged,
    keys: NDArray[np.uint64],
    *,
    density: float,
    ends: NDArray[np.int64],
    closers: NDArray[np.int64],
) -> Spans:
    """句级的片段：整句，总长刚够预算，至少留一句；只有一句的文档没有片段。

    Args:
        documents: D 篇正文，每篇至少一个词元。
        keys: 各篇的随机数钥匙，(D,) uint64。
        density: 预算占正文的比例。
        ends: 句末词元，见 `companion.objectives.sentences`。
        closers: 后引号、后括号的词元。
    """
    sentences = split_sentences(documents, ends, closers)
    owner = documents.owners[sentences.starts]  # 每句属于第几篇
    counts = np.bincount(owner, minlength=len(documents))
    rank = np.arange(len(owner)) - np.searchsorted(owner, owner)
    lots = uniform(keys, int(counts.max(initial=0)), _SENTENCES)[owner, rank]
    order = np.lexsort((lots, owner))  # 各篇之内打乱
    sizes = sentences.lengths[order]
    total = sizes.cumsum()
    first = np.searchsorted(owner, owner)  # 排序之后各篇仍占原来的一段
    before = total - sizes - (total - sizes)[first]
    budget = np.maximum(1, (density * documents.lengths).astype(int))[owner]
    chosen = np.sort(order[(before < budget) & (rank < counts[owner] - 1)])
    starts = sentences.starts[chosen] - documents.starts[owner[chosen]]
    return Spans(owner[chosen], starts, sentences.lengths[chosen])


def tail_spans(lengths: NDArray[np.int64], keys: NDArray[np.uint64]) -> Spans:
    """文档级的片段：末尾的一段，长度在 ⌈T/2⌉ 与 T − 1 之间均匀。

    Args:
        lengths: 各篇正文的词元数，(D,)；一个词元的遮它自己，为 0 的没有片段。
        keys: 各篇的随机数钥匙，(D,) uint64。
    """
    least = np.maximum(1, np.minimum(-(-lengths // 2), lengths - 1))
    most = np.maximum(least, lengths - 1)
    lots = uniform(keys, 1, _TAIL)[:, 0]
    sizes = least + (lots * (most - least + 1)).astype(np.int64)
    documents = np.flatnonzero(lengths > 0)
    return Spans(documents, (lengths - sizes)[documents], sizes[documents])
