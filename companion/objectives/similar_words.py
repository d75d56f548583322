"""MacBERT 的替换：选中的词换成近义词，输入里没有 [MASK]（Cui 等，2021，§IV）。

    原文    天 子 之 职 莫 大 于 礼
    [MASK]  [MASK][MASK] 之 职 莫 大 于 礼      下游任务里从来见不到这个词元
    MacBERT 皇 帝 之 职 莫 大 于 礼             标签仍是“天子”

选中的词 80% 换成近义词、10% 换成随机的词、10% 保留，逐词决定。没有近义词的词退而换成随
机的词，这与论文相同。

近义词与原词的**词元数必须相同**，否则后面的词元都错位，标签跟着错位。论文用 word2vec 的
Synonyms 工具；这里由两处得来：一张现成的近义词表，或模型自己的词嵌入（一个词的向量是它
各词元向量的平均）。

形状字母：T 一行的词元数，V 词表，D 宽度，W 词数，K 每词几个近义词，n 一个词的词元数。
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from companion.errors import ObjectiveError
from companion.objectives.rows import Runs, draw_below, draw_from

if TYPE_CHECKING:
    from torch import Tensor

NEIGHBOURS = 5
"""由词嵌入取最近的几个词。"""

_CHUNK = 1024
"""一次算多少个词的相似度。"""

Spelling = tuple[int, ...]
"""一个词的各词元。"""


@dataclass(frozen=True)
class SimilarWords:
    """近义词表；可以送进 DataLoader 的进程。"""

    neighbours: Mapping[Spelling, NDArray[np.int64]]
    """词 → 它的近义词，(K, n) int64。"""
    pool: Mapping[int, NDArray[np.int64]]
    """词元数 n → 可作随机替换的词，(W, n) int64。"""

    def __len__(self) -> int:
        return len(self.neighbours)


def similar_from_lists(
    tokenizer: Any, table: Mapping[str, Sequence[str]]
) -> SimilarWords:
    """由现成的近义词表造出；词元数与原词不等的近义词略去。

    Args:
        tokenizer: 模型的分词器。
        table: 词 → 近义词。

    Raises:
        ObjectiveError: 没有一个词有等长的近义词。
    """
    spell = _Speller(tokenizer)
    neighbours: dict[Spelling, NDArray[np.int64]] = {}
    words: set[Spelling] = set()
    for word, others in table.items():
        key = spell(word)
        spelled = {spell(other) for other in others} - {key}
        equal = sorted(each for each in spelled if len(each) == len(key))
        if key and equal:
            neighbours[key] = np.array(equal)
            words |= {key, *equal}
    return _built(neighbours, words, f"近义词表里的 {len(table)} 个词")


def similar_from_embeddings(
    tokenizer: Any, embeddings: "Tensor", words: Iterable[str]
) -> SimilarWords:
    """由词嵌入造出：词元数相同的词里，余弦最大的 `NEIGHBOURS` 个。

    一个词的向量是它各词元向量的平均，先减去全部词的均值：词嵌入大多挤在一个方向上，不减
    的话谁和谁都像。

    Args:
        tokenizer: 模型的分词器。
        embeddings: 词嵌入，(V, D)，`model.get_input_embeddings().weight`。
        words: 语料里的词。

    Raises:
        ObjectiveError: 没有两个词的词元数相同。
    """
    import torch

    spell = _Speller(tokenizer)
    spellings = {spell(word) for word in words} - {()}
    table = embeddings.detach().float().cpu()
    neighbours: dict[Spelling, NDArray[np.int64]] = {}
    for group in _by_length(spellings).values():
        if len(group) < 2:
            continue
        vectors = table[torch.from_numpy(group)].mean(1)  # (W, n, D) → (W, D)
        vectors = torch.nn.functional.normalize(vectors - vectors.mean(0), dim=1)
        count = min(NEIGHBOURS, len(group) - 1)
        for start in range(0, len(group), _CHUNK):
            some = np.arange(start, min(start + _CHUNK, len(group)))
            cosine = vectors[some] @ vectors.T  # (≤ 1024, W)
            cosine[np.arange(len(some)), some] = -2.0  # 自己不算
            nearest = cosine.topk(count, dim=1).indices.numpy()
            for word, others in zip(group[some].tolist(), nearest, strict=True):
                neighbours[tuple(word)] = group[others]
    return _built(neighbours, spellings, f"给出的 {len(spellings)} 个词")


def replace_words(
    input_ids: NDArray[np.int64],
    units: Runs,
    similar: SimilarWords,
    *,
    random_ids: NDArray[np.int64],
    similar_prob: float,
    random_prob: float,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """逐词换成近义词、随机的词，或原样保留；词元数不变。

    Args:
        input_ids: 原文，(T,) int64，不改动。
        units: 选中的各词。
        similar: 近义词表。
        random_ids: 没有等长的词可换时，逐个词元从这里抽，(C,) int64。
        similar_prob: 换成近义词的概率；没有近义词的改换随机的词。
        random_prob: 换成随机的词的概率；其余保留原样。
        rng: 随机数来源。

    Returns:
        破坏后的输入，(T,) int64。
    """
    replaced = input_ids.copy()
    for start, stop in units:
        kind = rng.random()
        if kind >= similar_prob + random_prob:
            continue
        choices = None
        if kind < similar_prob:
            choices = similar.neighbours.get(tuple(input_ids[start:stop].tolist()))
        if choices is None:
            choices = similar.pool.get(stop - start)
        if choices is None:
            replaced[start:stop] = draw_from(random_ids, stop - start, rng)
        else:
            replaced[start:stop] = choices[draw_below(len(choices), rng)]
    return replaced


class _Speller:
    """词 → 词元；含特殊词元（词表外的字）的记作空。"""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = set(tokenizer.all_special_ids)

    def __call__(self, word: str) -> Spelling:
        ids: list[int] = self._tokenizer(word, add_special_tokens=False)["input_ids"]
        return () if self._special & set(ids) else tuple(ids)


def _by_length(spellings: Iterable[Spelling]) -> dict[int, NDArray[np.int64]]:
    """词元数 n → 这样的词，(W, n) int64，次序固定。"""
    groups: defaultdict[int, list[Spelling]] = defaultdict(list)
    for spelling in sorted(spellings):
        groups[len(spelling)].append(spelling)
    return {size: np.array(group) for size, group in groups.items()}


def _built(
    neighbours: dict[Spelling, NDArray[np.int64]], words: Iterable[Spelling], name: str
) -> SimilarWords:
    if neighbours:
        return SimilarWords(neighbours, _by_length(words))
    raise ObjectiveError(
        found=f"{name}里，没有一个找得到词元数相同的近义词",
        expected="近义词与原词的词元数相同（字符词表里就是字数相同）",
        remedy="换一张近义词表，或多给一些词，由词嵌入去找",
    )
