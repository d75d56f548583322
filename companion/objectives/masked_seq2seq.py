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

形状字母：D 文档数，N 全部词元首尾相接的总长，M 全部片段首尾相接的总长。
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from companion.errors import ObjectiveError
from companion.objectives.noise import require_probability
from companion.objectives.ragged import Ragged, uniform, uniform_ragged
from companion.objectives.seq2seq import Corruption, Seq2SeqCollator
from companion.objectives.span_corruption import sentinel_ids_of

_START, _FATE = range(2)  # 两处随机，各用一股


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
        ids = np.arange(len(self.tokenizer))
        excluded = [*self._special_ids.tolist(), self.mask_id]
        self._random_ids = ids[~np.isin(ids, excluded)]

    def corrupt_documents(
        self, documents: Ragged, keys: NDArray[np.uint64]
    ) -> Corruption:
        """每篇遮住连续的一段。"""
        lengths = documents.lengths
        sizes = np.rint(lengths * self.noise_density).astype(np.int64)  # (D,) k
        sizes = np.maximum(sizes, 1)
        starts = fragment_starts(lengths - sizes + 1, keys)
        begins = documents.starts + starts
        edges = np.zeros(len(documents.values) + 1, np.int8)
        edges[begins] += 1
        edges[begins + sizes] -= 1
        fragment = np.cumsum(edges[:-1], dtype=np.int8).astype(np.bool_)  # (N,)
        inputs = documents.values.copy()
        inputs[fragment] = self._replace(inputs[fragment], sizes, keys)
        return self._only_fragment(documents, inputs, fragment)

    def hide_tokens(self, documents: Ragged, noise: NDArray[np.bool_]) -> Corruption:
        """逐个换成掩码；训练时每篇遮住的总是相连。"""
        inputs = np.where(noise, self.mask_id, documents.values)
        return self._only_fragment(documents, inputs, noise)

    def _only_fragment(
        self,
        documents: Ragged,
        inputs: NDArray[np.int64],
        fragment: NDArray[np.bool_],
    ) -> Corruption:
        """目标是全篇，只有遮住的计损失，解码器也只看得见它们的格子。"""
        return Corruption(
            inputs=Ragged(inputs, documents.lengths),
            targets=documents,
            origin=documents.places,
            hidden=fragment,
            labelled=fragment,
            decoder_visible=fragment,
        )

    def _replace(
        self,
        tokens: NDArray[np.int64],
        sizes: NDArray[np.int64],
        keys: NDArray[np.uint64],
    ) -> NDArray[np.int64]:
        """片段的词元 → 编码器看到的，(M,)。"""
        fate = uniform_ragged(sizes, keys, _FATE)
        kept = fate >= self.mask_replace_prob + self.random_replace_prob
        random = (fate >= self.mask_replace_prob) & ~kept
        draw = fate[random] * 2.0**20 % 1.0  # 低位另作一个随机数
        seen = np.full(len(tokens), self.mask_id)
        seen[kept] = tokens[kept]
        seen[random] = self._random_ids[(draw * len(self._random_ids)).astype(np.int64)]
        return seen

    def _target_columns(
        self,
        corruption: Corruption,
        prefix: NDArray[np.int64],
        suffix: NDArray[np.int64],
    ) -> dict[str, Ragged]:
        """整行右移之后，片段之外填掩码；不保留位置时把片段裁下来。"""
        columns = super()._target_columns(corruption, prefix, suffix)
        visible = columns["decoder_visible"]
        if self.keep_positions:
            inputs = columns["decoder_input_ids"]
            columns["decoder_input_ids"] = Ragged(
                np.where(visible.values, inputs.values, self.mask_id), inputs.lengths
            )
            return columns
        del columns["decoder_visible"]  # 裁下来的处处有内容
        sizes = np.bincount(visible.owners[visible.values], minlength=len(visible))
        return {
            name: Ragged(column.values[visible.values], sizes)
            for name, column in columns.items()
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


def fragment_starts(
    slots: NDArray[np.int64], keys: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """片段从第几个词元起，(D,)：20% 最前，20% 最后，60% 均匀。

    有 n 个起点时，最前与最后各占 0.2 + 0.6/n，其余各占 0.6/n。

    Args:
        slots: 各篇有几个起点，(D,)，至少为 1。
        keys: 各篇的随机数钥匙，(D,) uint64。
    """
    lot, place = uniform(keys, 2, _START).T
    anywhere = (place * slots).astype(np.int64)
    return np.where(lot < 0.2, 0, np.where(lot < 0.4, slots - 1, anywhere))


def mask_id_of(tokenizer: Any, preferred: str | None = None) -> int:
    """用哪个词元遮：`preferred`，其次掩码词元，再次第一个哨兵词元。

    Raises:
        ObjectiveError: 一个也没有。
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    if preferred is not None and preferred in vocabulary:
        return vocabulary[preferred]
    if tokenizer.mask_token_id is not None:
        return int(tokenizer.mask_token_id)
    try:
        return int(sentinel_ids_of(tokenizer)[0])
    except ObjectiveError as error:
        raise ObjectiveError(
            found=f"分词器 {type(tokenizer).__name__} 既没有掩码词元，也没有哨兵词元",
            expected="有 mask_token（BART 的是 <mask>）或 <extra_id_0>（T5）",
            remedy="换用编码器–解码器的检查点",
        ) from error
