"""掩码序列到序列（MASS）：遮住连续的一半，由解码器把这一段写出来。

    损失 = − Σ_{t=u}^{v} log p(x_t | x_{u−1}…x_{t−1}, x̃)        （Song 等，2019，§3）

例（论文图 1：m = 8，k = 4，遮住 x₃…x₆；_ 是掩码，− 表示不计损失）：

    编码器    x₁  x₂  _   _   _   _   x₇  x₈
    解码器    _   _   x₂  x₃  x₄  x₅  _   _       只有这四格看得见
    labels    −   −   x₃  x₄  x₅  x₆  −   −

论文的图里解码器的第一格是掩码，发布的代码给的是片段左边的那个词元 x₂（片段在句首时是起
始词元），这里同代码：它在编码器里本来就看得见。

一篇有 m 个词元，片段长 k = max(1, round(m/2))，舍入取偶。k = 1 时像 BERT：只猜一个，两
边都看得见；k = m 时像普通的语言模型：编码器里只剩掩码。片段的起点照发布的代码：20% 在
最前，20% 在最后，其余在所有起点里均匀地选。编码器里片段的词元逐个以 80% 换成掩码、10%
换成随机词元、10% 保留；没有掩码词元的分词器（T5）用第一个哨兵词元，一个词元换一个。

解码器从不看编码器看得见的词元，只好向编码器要，这是它与 BART 的区别。位置有两种给法：

- `keep_positions=True`（BART，绝对位置）：解码器那一行与原文等长，片段留在原来的位置，
  别处填掩码，并由 `decoder_attention_mask` 遮去。
- `keep_positions=False`（T5，相对位置）：只留片段。T5 只认位置之差，两种给法结果相同，
  这一种短一半。

发布的代码里，有监督翻译一支（MASS-supNMT）在编码器中遮的是右移了两格的片段，于是要猜的
第一个词元总露在外面；这里遮的与猜的是同一段。

形状字母：m 一篇正文的词元数，K 解码器一行的长度。
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from companion.batch import IGNORE_INDEX
from companion.errors import ObjectiveError
from companion.objectives.noise import replace_tokens
from companion.objectives.rows import draw_below, ordinary_ids_of, require_probability
from companion.objectives.seq2seq import (
    Corruption,
    Ids,
    Seq2SeqCollator,
    mask_id_of,
)


def choose_fragment(
    length: int, noise_density: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """遮哪一段：连续 k = max(1, round(m·p)) 个；20% 在最前，20% 在最后，60% 均匀。

    有 n 个起点时，最前与最后各占 0.2 + 0.6/n，其余各占 0.6/n。

    Args:
        length: 正文的词元数 m，至少为 1。
        noise_density: 片段占全篇的比例。
        rng: 随机数来源。

    Returns:
        片段处为真，(m,) bool。
    """
    size = max(1, round(length * noise_density))
    slots = length - size + 1
    lot = rng.random()
    anywhere = draw_below(slots, rng)
    start = 0 if lot < 0.2 else slots - 1 if lot < 0.4 else anywhere
    fragment = np.zeros(length, np.bool_)
    fragment[start : start + size] = True
    return fragment


@dataclass
class MaskedSeq2SeqCollator(Seq2SeqCollator):
    """MASS 的数据整理器；输入与输出见 `Seq2SeqCollator`。

    每篇恰有 max(1, round(noise_density·m)) 个标签，位置相连。正文里的 [UNK] 也是词元，
    照样会遮、会猜；首尾的特殊词元不会。

    Raises:
        ObjectiveError: 既没有掩码词元也没有哨兵词元，参数越界，或原文里已有掩码。
    """

    noise_density: float = 0.5
    """片段占全篇的比例 k/m（Song 等，2019，§4：10% 到 90% 之中 50% 最好）。"""
    keep_positions: bool = True
    """解码器保留原来的位置（BART）；False 时只留片段（T5）。"""
    mask_replace_prob: float = 0.8
    random_replace_prob: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check()
        self.mask_id = mask_id_of(self.tokenizer)
        self.reserve([self.mask_id])
        self._random_ids = np.setdiff1d(ordinary_ids_of(self.tokenizer), self.mask_id)

    def corrupt(self, tokens: Ids, rng: np.random.Generator) -> Corruption:
        """遮住连续的一段，逐个换成掩码、随机词元，或原样保留。"""
        fragment = choose_fragment(len(tokens), self.noise_density, rng)
        inputs = replace_tokens(
            tokens,
            fragment,
            mask_token_id=self.mask_id,
            random_ids=self._random_ids,
            mask_replace_prob=self.mask_replace_prob,
            random_replace_prob=self.random_replace_prob,
            rng=rng,
        )
        return _only_fragment(tokens, inputs, fragment)

    def hide_tokens(self, tokens: Ids, noise: NDArray[np.bool_]) -> Corruption:
        """逐个换成掩码；训练时每篇遮住的总是相连。"""
        return _only_fragment(tokens, np.where(noise, self.mask_id, tokens), noise)

    def decoder_side(
        self, corruption: Corruption, prefix: Ids, suffix: Ids
    ) -> dict[str, NDArray[Any]]:
        """整行右移之后，片段之外填掩码；不保留位置时把片段裁下来。"""
        side = super().decoder_side(corruption, prefix, suffix)
        fragment = side["hidden"]
        if not self.keep_positions:
            return {name: values[fragment] for name, values in side.items()}
        shifted = side["decoder_input_ids"]
        return side | {
            "labels": np.where(fragment, side["labels"], IGNORE_INDEX),
            "decoder_input_ids": np.where(fragment, shifted, self.mask_id),
            "decoder_visible": fragment,
        }

    def _check(self) -> None:
        if not 0.0 < self.noise_density <= 1.0:
            raise ObjectiveError(
                found=f"noise_density = {self.noise_density}",
                expected="noise_density 大于 0，不超过 1",
                remedy="改用例如 noise_density=0.5",
            )
        for name in ("mask_replace_prob", "random_replace_prob"):
            require_probability(name, getattr(self, name))
        require_probability(
            "mask_replace_prob + random_replace_prob",
            self.mask_replace_prob + self.random_replace_prob,
        )


def _only_fragment(tokens: Ids, inputs: Ids, fragment: NDArray[np.bool_]) -> Corruption:
    """目标是全篇；看不见的只有片段，也只有它们计损失（`decoder_side`）。"""
    return Corruption(
        inputs=inputs, targets=tokens, origin=np.arange(len(tokens)), hidden=fragment
    )
