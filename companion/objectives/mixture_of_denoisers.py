"""混合去噪（UL2）：七种去噪轮着来，既练填空，也练续写。

每篇文档抽一种，机会相等（Tay 等，2022）；μ 是一段平均几个词元，r 是盖住的比例：

    R 常规    μ=3 或 8，r=0.15                        [NLU]
    X 极端    μ=3 或 8，r=0.5；μ=64，r=0.15 或 0.5    [NLG]
    S 续写    末尾一段，平均占四分之一                [S2S]

例（输入 → 目标；R 与 X 就是 T5 的片段破坏，S 没有哨兵）：

    R   [NLU] 天下大势，<X>久必合，合久必<Y>    →  <X> 分 <Y> 分。
    S   [S2S] 天下大势，分久必合，              →  合久必分。

S 的后缀长度在 1 到 L/2 之间均匀，所以平均是四分之一。模式词元放在输入最前，不参与破坏；
UL2 的词表里它们不是专门的词元，公开的用法是当作文字写在开头（“[NLU] …”），这里也照分词
器切成的样子放；词表写不出来的（切出 [UNK]）就不放，`companion check` 会说出来。

形状字母：L 一篇正文的词元数。
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from companion.objectives.rows import draw_below
from companion.objectives.seq2seq import (
    Corruption,
    Ids,
    Seq2SeqCollator,
    divided,
    require_sentinels,
    sentinel_ids_of,
)
from companion.objectives.span_corruption import (
    corrupt_spans,
    replace_spans,
    span_counts,
)

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


def keep_beginning(tokens: Ids, rng: np.random.Generator) -> Corruption:
    """S 去噪：末尾 1 到 L/2 个词元（均匀）归目标，没有哨兵。

    Args:
        tokens: 正文，(L,) int64，L ≥ 2。
        rng: 随机数来源。
    """
    cut = len(tokens) - 1 - draw_below(len(tokens) // 2, rng)
    return divided(tokens, cut)


@dataclass
class MixtureOfDenoisersCollator(Seq2SeqCollator):
    """混合去噪的数据整理器；输入与输出见 `Seq2SeqCollator`。

    Raises:
        ObjectiveError: 词表里没有哨兵或不够用，或原文里已有哨兵。
    """

    mode_ids: dict[str, list[int]] = field(
        init=False, default_factory=dict[str, list[int]], compare=False
    )
    """各模式写成的词元；词表写不出哪个，就是空的，输入也就不放。"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sentinel_ids = sentinel_ids_of(self.tokenizer)
        self.reserve(self.sentinel_ids.tolist())
        self.mode_ids = _mode_ids_of(self.tokenizer)

    def corrupt(self, tokens: Ids, rng: np.random.Generator) -> Corruption:
        """照抽到的那一种破坏，输入最前放上模式词元。"""
        denoiser = DENOISERS[draw_below(len(DENOISERS), rng)]
        mean = denoiser.mean_noise_span_length
        if mean is None and len(tokens) > 1:
            result = keep_beginning(tokens, rng)
        else:  # 只有一个词元的文档什么也不盖，目标里只有一个哨兵
            result = corrupt_spans(
                tokens,
                rng,
                self.sentinel_ids,
                noise_density=denoiser.noise_density,
                mean_noise_span_length=mean or 1.0,
            )
        return self._with_mode(result, denoiser.mode)

    def hide_tokens(self, tokens: Ids, noise: NDArray[np.bool_]) -> Corruption:
        """每段相连的换成一个哨兵；遮住不少于三成算极端（[NLG]），否则算常规（[NLU]）。"""
        extreme = noise.mean() >= _EXTREME_DENSITY
        return self._with_mode(
            replace_spans(tokens, noise, self.sentinel_ids),
            "[NLG]" if extreme else "[NLU]",
        )

    def _with_mode(self, corruption: Corruption, mode: str) -> Corruption:
        if not self.mode_ids:
            return corruption
        inputs = np.concatenate([self.mode_ids[mode], corruption.inputs])
        return replace(corruption, inputs=inputs)

    def row_capacity(self, block_size: int, num_edges: int) -> int:
        """原文一行的词元数，给模式留出位置：S 去噪几乎不缩短输入。

        Args:
            block_size: 编码器一行的长度，含特殊词元。
            num_edges: 首尾共有几个特殊词元。

        Raises:
            ObjectiveError: 装满一行要用的哨兵比词表里的多。
        """
        body = max(1, block_size - num_edges)
        most = max(
            span_counts(body, each.noise_density, each.mean_noise_span_length)[1]
            for each in DENOISERS
            if each.mean_noise_span_length is not None
        )
        require_sentinels(most, self.sentinel_ids)
        # S 至少挪走一个词元，正好放得下一个
        longest = max(map(len, self.mode_ids.values()), default=1)
        return block_size - (longest - 1)


def _mode_ids_of(tokenizer: Any) -> dict[str, list[int]]:
    """模式是单个词元就用它，否则照文字切开。"""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    found = {
        mode: [vocabulary[mode]]
        if mode in vocabulary
        else tokenizer(mode, add_special_tokens=False)["input_ids"]
        for mode in _MODES
    }
    spelt = all(tokenizer.unk_token_id not in ids for ids in found.values())
    return found if spelt else {}
