"""混合去噪（UL2）：七种去噪轮着来，既练填空，也练续写。

每篇文档抽一种，机会相等（Tay 等，2022）；μ 是一段平均几个词元，r 是盖住的比例：

    R 常规    μ=3 或 8，r=0.15                        [NLU]
    X 极端    μ=3 或 8，r=0.5；μ=64，r=0.15 或 0.5    [NLG]
    S 续写    末尾一段，平均占四分之一                [S2S]

例（输入 → 目标；R 与 X 就是 T5 的片段破坏，S 没有哨兵）：

    R   [NLU] 天下大势，<X>久必合，合久必<Y>    →  <X> 分 <Y> 分。
    S   [S2S] 天下大势，分久必合，              →  合久必分。

S 的后缀长度在 1 到 L/2 之间均匀，所以平均是四分之一。模式词元放在输入最前，不参与破坏；
词表里三个都是单个词元才放（`mode_ids`），一般的 T5 没有，就省去。

形状字母：D 文档数。
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from companion.objectives.ragged import Ragged, uniform
from companion.objectives.seq2seq import Corruption, Seq2SeqCollator
from companion.objectives.span_corruption import (
    place_spans,
    replace_spans,
    require_sentinels,
    sentinel_ids_of,
    span_counts,
)

_WHICH, _SUFFIX = 10, 11  # 片段破坏用了前几股
_MODES = ("[NLU]", "[NLG]", "[S2S]")


@dataclass(frozen=True)
class Denoiser:
    """七种去噪之一。"""

    mode: str
    """模式词元。"""
    noise_density: float
    """盖住的比例；S 是平均比例。"""
    mean_noise_span_length: float | None
    """一段平均几个词元；None 表示末尾一整段（S）。"""


DENOISERS = (
    Denoiser("[NLU]", 0.15, 3),
    Denoiser("[NLU]", 0.15, 8),
    Denoiser("[NLG]", 0.5, 3),
    Denoiser("[NLG]", 0.5, 8),
    Denoiser("[NLG]", 0.15, 64),
    Denoiser("[NLG]", 0.5, 64),
    Denoiser("[S2S]", 0.25, None),
)
"""UL2 的七种（Tay 等，2022，“Mixture of Denoisers”一节）。"""

_EXTREME_DENSITY = 0.3  # 论文以 μ ≥ 12 或 r ≥ 0.3 为极端
_MODE_OF = [each.mode for each in DENOISERS]
_DENSITIES = np.array([each.noise_density for each in DENOISERS])
_MEANS = np.array([each.mean_noise_span_length or 1.0 for each in DENOISERS])
_SEQUENTIAL = np.array([each.mean_noise_span_length is None for each in DENOISERS])


@dataclass
class MixtureOfDenoisersCollator(Seq2SeqCollator):
    """混合去噪的数据整理器；输入与输出见 `Seq2SeqCollator`。

    一篇文档抽哪一种、怎样破坏，只由（seed, epoch, example_id, 行内第几篇）决定。

    Raises:
        ObjectiveError: 词表里没有哨兵或不够用，或原文里已有哨兵。
    """

    mode_ids: NDArray[np.int64] | None = field(init=False, default=None, compare=False)
    """各去噪的模式词元，(7,)；词表里缺了哪个，就是 None，输入也就不放。"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sentinel_ids = sentinel_ids_of(self.tokenizer)
        self.reserve(self.sentinel_ids.tolist())
        self.mode_ids = _mode_ids_of(self.tokenizer)

    def corrupt_documents(
        self, documents: Ragged, keys: NDArray[np.uint64]
    ) -> Corruption:
        """每篇照抽到的那一种破坏，输入最前放上模式词元。"""
        which = self.draw(keys)
        sequential = _SEQUENTIAL[which]
        num_noise, num_spans = span_counts(
            documents.lengths, _DENSITIES[which], _MEANS[which]
        )
        longest = np.maximum(documents.lengths // 2, 1)
        suffix = 1 + (uniform(keys, 1, _SUFFIX)[:, 0] * longest).astype(np.int64)
        noise = place_spans(
            documents.lengths,
            np.where(sequential, suffix, num_noise),
            np.where(sequential, 1, num_spans),
            keys,
        )
        result = replace_spans(documents, noise, self.sentinel_ids)
        # 只有一个词元的文档什么也没盖，目标里仍是那个哨兵
        result = _without_sentinels(result, sequential & (documents.lengths > 1))
        return self._with_modes(result, which)

    def hide_tokens(self, documents: Ragged, noise: NDArray[np.bool_]) -> Corruption:
        """每段相连的换成一个哨兵；遮住不少于三成算极端（[NLG]），否则算常规（[NLU]）。"""
        hidden = np.bincount(documents.owners, noise, len(documents))
        extreme = hidden >= _EXTREME_DENSITY * documents.lengths
        which = np.where(extreme, _MODE_OF.index("[NLG]"), _MODE_OF.index("[NLU]"))
        return self._with_modes(
            replace_spans(documents, noise, self.sentinel_ids), which
        )

    def draw(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """各篇抽到 `DENOISERS` 的第几种，(D,) int64。"""
        return (uniform(keys, 1, _WHICH)[:, 0] * len(DENOISERS)).astype(np.int64)

    def _with_modes(
        self, corruption: Corruption, which: NDArray[np.int64]
    ) -> Corruption:
        """每篇的输入最前放上所抽去噪的模式词元。"""
        if self.mode_ids is None:
            return corruption
        inputs = corruption.inputs
        values = np.insert(inputs.values, inputs.starts, self.mode_ids[which])
        return replace(corruption, inputs=Ragged(values, inputs.lengths + 1))

    def row_capacity(self, block_size: int, num_edges: int) -> int:
        """原文一行的词元数，就是 `block_size`：S 去噪几乎不缩短输入。

        Args:
            block_size: 编码器一行的长度，含特殊词元。
            num_edges: 首尾共有几个特殊词元。

        Raises:
            ObjectiveError: 装满一行要用的哨兵比词表里的多。
        """
        body = np.full(len(DENOISERS), max(1, block_size - num_edges))
        _, num_spans = span_counts(body, _DENSITIES, _MEANS)
        require_sentinels(int(num_spans[~_SEQUENTIAL].max()), self.sentinel_ids)
        return block_size


def _mode_ids_of(tokenizer: Any) -> NDArray[np.int64] | None:
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    if not all(mode in vocabulary for mode in _MODES):
        return None
    return np.array([vocabulary[each.mode] for each in DENOISERS], np.int64)


def _without_sentinels(
    corruption: Corruption, documents: NDArray[np.bool_]
) -> Corruption:
    """所选的文档去掉哨兵：输入的末一个，目标的头一个。"""
    inputs, targets = corruption.inputs, corruption.targets
    last = (inputs.starts + inputs.lengths - 1)[documents]
    first = targets.starts[documents]
    return Corruption(
        inputs=Ragged(np.delete(inputs.values, last), inputs.lengths - documents),
        targets=Ragged(np.delete(targets.values, first), targets.lengths - documents),
        origin=np.delete(corruption.origin, first),
        hidden=np.delete(corruption.hidden, first),
    )
