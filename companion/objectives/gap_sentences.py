"""缺句生成（PEGASUS）：挖去最能概括全文的几句，由解码器把它们写出来。

    损失 = − Σ_k log p(y_k | y_<k, x̃)        （Zhang 等，2020，§3.1）

例（论文图 1：三句里挖去第二句；每句换成一个掩码，目标是挖去的各句依原来的次序相接）：

    原文    Pegasus is mythical. It is pure white. It names the model.
    输入    Pegasus is mythical. <mask_1> It names the model.
    目标    It is pure white.

一篇有 S 句，挖去 g = round(0.3·S) 句（舍入取偶；至少一句，至少留一句。发布的代码向下取
整，又可以一句不留）。句末见 `companion.objectives.sentences`。`strategy` 说挖哪几句：

- `principal`：与其余各句最像的。像不像用 ROUGE-1 的 F 值（论文的 Ind-Orig：逐句独立，重
  复的字重复计），单位是**字**：中文没有空格可分词；标点不算。一句有 a 个字，其余有 b
  个，相同的有 o 个，F = 2o / (a + b)；a + b 是全篇的字数，所以同一篇里只要比 o。
- `random`：随意几句。
- `lead`：开头几句。

`principal` 的分数先乘上 1 ± 20% 之内均匀的噪声（论文 §6.6；发布的代码里是正态的，只有约
4%，而且每篇用同一列随机数），所以每一轮挖的不必是同几句。

目标是整句，输入里无处可抄，所以比 T5、BART 更像写摘要。只有一句的文档没有可挖的：输入
是全文，目标只有首尾的特殊词元，意思是“没有缺句”；全由这种文档组成的语料学不到东西，换
text_infilling。

形状字母：D 文档数，N 全部词元首尾相接的总长，S 句数，M 字数。
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from companion.errors import ObjectiveError
from companion.objectives.masked_seq2seq import mask_id_of
from companion.objectives.ragged import Ragged, uniform_ragged
from companion.objectives.sentences import sentence_end_ids, split_sentences
from companion.objectives.seq2seq import Corruption, Seq2SeqCollator

GapStrategy = Literal["principal", "random", "lead"]

SCORE_NOISE = 0.2
"""`principal` 的分数上下浮动的幅度。"""

_SCORE = 0  # 只有一处随机


@dataclass
class GapSentencesCollator(Seq2SeqCollator):
    """PEGASUS 的数据整理器；输入与输出见 `Seq2SeqCollator`。

    掩码用 `<mask_1>`（Pegasus），没有就用分词器的掩码词元（BART），再没有就用第一个哨兵
    词元（T5）；几句都用同一个。噪声只由（seed, epoch, example_id, 行内第几篇）决定。

    Raises:
        ObjectiveError: 没有可用来遮的词元，参数越界，原文里已有掩码，或文档只有一句而首
            尾又没有特殊词元。
    """

    noise_density: float = 0.3
    """挖去的句数占全篇的比例（Zhang 等，2020，§6.1.2：大模型取 30%）。"""
    strategy: GapStrategy = "principal"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check()
        self.mask_id = mask_id_of(self.tokenizer, "<mask_1>")
        self.reserve([self.mask_id])
        self._ends, self._closers = sentence_end_ids(self.tokenizer)
        self._characters = CharacterTable(self.tokenizer)

    def corrupt_documents(
        self, documents: Ragged, keys: NDArray[np.uint64]
    ) -> Corruption:
        """每篇挖去几句，一句换成一个掩码；目标是挖去的各句。"""
        sentences = split_sentences(documents, self._ends, self._closers)
        owners = documents.owners[sentences.starts]  # (S,) 各句属于第几篇
        counts = np.bincount(owners, minlength=len(documents))  # (D,)
        scores = self._scores(sentences, owners, counts, keys)
        chosen = choose_highest(scores, counts, gap_counts(counts, self.noise_density))
        heads = np.zeros(len(documents.values), np.bool_)
        heads[sentences.starts[chosen]] = True
        return self._replace(documents, np.repeat(chosen, sentences.lengths), heads)

    def hide_tokens(self, documents: Ragged, noise: NDArray[np.bool_]) -> Corruption:
        """每段相连的换成一个掩码。"""
        heads = noise.copy()
        heads[1:] &= ~noise[:-1]
        heads[documents.starts] = noise[documents.starts]
        return self._replace(documents, noise, heads)

    def _scores(
        self,
        sentences: Ragged,
        owners: NDArray[np.int64],
        counts: NDArray[np.int64],
        keys: NDArray[np.uint64],
    ) -> NDArray[np.float64]:
        """各句该不该挖，(S,)：高的先挖，同分取前一句。"""
        if self.strategy == "lead":
            return np.zeros(len(sentences))
        noise = uniform_ragged(counts, keys, _SCORE)
        if self.strategy == "random":
            return noise
        overlap = shared_with_the_rest(sentences, owners, self._characters)
        # 一个字也不相同的几句，先后由噪声定
        return (overlap + 1e-6) * (1.0 + SCORE_NOISE * (2.0 * noise - 1.0))

    def _replace(
        self,
        documents: Ragged,
        noise: NDArray[np.bool_],
        heads: NDArray[np.bool_],
    ) -> Corruption:
        """挖去 `noise` 处，`heads` 处换成掩码，各 (N,) bool。"""
        inputs = np.where(heads, self.mask_id, documents.values)
        kept = heads | ~noise
        places = documents.places[noise]

        def split(values: NDArray[np.int64], here: NDArray[np.bool_]) -> Ragged:
            sizes = np.bincount(documents.owners[here], minlength=len(documents))
            return Ragged(values[here], sizes)

        return Corruption(
            inputs=split(inputs, kept),
            targets=split(documents.values, noise),
            origin=places,
            hidden=np.ones(len(places), np.bool_),
        )

    def _target_columns(
        self,
        corruption: Corruption,
        prefix: NDArray[np.int64],
        suffix: NDArray[np.int64],
    ) -> dict[str, Ragged]:
        """目标不能一个词元也没有。"""
        bare = len(prefix) + len(suffix) == 0
        if bare and not corruption.targets.lengths.all():
            raise ObjectiveError(
                found="有一篇文档只有一句，没有可挖的，首尾又没有特殊词元，目标是空的",
                expected="每篇至少两句，或首尾有特殊词元",
                remedy="分词时加上特殊词元（add_special_tokens=True），或改用 "
                "text_infilling",
            )
        return super()._target_columns(corruption, prefix, suffix)

    def _check(self) -> None:
        if not 0.0 < self.noise_density < 1.0:
            raise ObjectiveError(
                found=f"noise_density = {self.noise_density}",
                expected="noise_density 在 0 与 1 之间，不含两端",
                remedy="改用例如 noise_density=0.3",
            )
        if self.strategy not in get_args(GapStrategy):
            raise ObjectiveError(
                found=f"strategy = {self.strategy!r}",
                expected=f"{'、'.join(get_args(GapStrategy))} 之一",
                remedy="照上面的名字改写",
            )


class CharacterTable:
    """词元 → 它写出的字，标点与空白不算；第一次遇到一个词元时才解码。

    字节级 BPE 会把一个字拆给几个词元，单个解码不出来；这样的词元自己算一个字。特殊词元
    （[UNK]）不算字。
    """

    _PARTS = 0x110000  # 统一码的码位都比它小

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._lengths = np.full(len(tokenizer), -1)  # −1：还没解码过
        self._starts = np.zeros(len(tokenizer), np.int64)
        self._characters = np.empty(0, np.int64)
        self.num_characters = self._PARTS + len(tokenizer)
        """字的编号都比它小。"""

    def spell(self, tokens: NDArray[np.int64]) -> Ragged:
        """各词元的字，len(tokens) 段。"""
        fresh = np.unique(tokens[self._lengths[tokens] < 0])
        if len(fresh):
            self._learn(fresh)
        lengths = self._lengths[tokens]
        shifts = self._starts[tokens] - (np.cumsum(lengths) - lengths)
        at = np.arange(int(lengths.sum())) + np.repeat(shifts, lengths)
        return Ragged(self._characters[at], lengths)

    def _learn(self, tokens: NDArray[np.int64]) -> None:
        spelled = Ragged.of([self._decode(token) for token in tokens.tolist()])
        self._lengths[tokens] = spelled.lengths
        self._starts[tokens] = len(self._characters) + spelled.starts
        self._characters = np.concatenate([self._characters, spelled.values])

    def _decode(self, token: int) -> NDArray[np.int64]:
        text: str = self._tokenizer.decode([token], skip_special_tokens=True)
        if "\N{REPLACEMENT CHARACTER}" in text:
            return np.array([self._PARTS + token])
        return np.array([ord(c) for c in text if c.isalnum()], np.int64)


def gap_counts(
    num_sentences: NDArray[np.int64], noise_density: float
) -> NDArray[np.int64]:
    """各篇挖去几句，(D,)：至少一句，至少留一句；只有一句的不挖。

    >>> gap_counts(np.array([1, 2, 3, 5, 10]), 0.3)
    array([0, 1, 1, 2, 3])
    """
    wanted = np.rint(num_sentences * noise_density).astype(np.int64)
    return np.minimum(np.maximum(wanted, 1), num_sentences - 1)


def choose_highest(
    scores: NDArray[np.float64],
    num_sentences: NDArray[np.int64],
    num_chosen: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """每篇取分数最高的几句，同分取前一句。

    Args:
        scores: 各句的分数，逐篇相接，(S,)。
        num_sentences: 各篇的句数，(D,)，总和为 S。
        num_chosen: 各篇取几句，(D,)。

    Returns:
        取中为真，(S,) bool。

    >>> choose_highest(np.array([1., 3., 2., 5., 5.]), np.array([3, 2]),
    ...                np.array([2, 1])).tolist()
    [False, True, True, True, False]
    """
    owners = np.repeat(np.arange(len(num_sentences)), num_sentences)
    order = np.lexsort((-scores, owners))
    starts = np.cumsum(num_sentences) - num_sentences
    places = np.arange(len(scores)) - np.repeat(starts, num_sentences)
    chosen = np.zeros(len(scores), np.bool_)
    chosen[order[places < np.repeat(num_chosen, num_sentences)]] = True
    return chosen


def shared_with_the_rest(
    sentences: Ragged, owners: NDArray[np.int64], characters: CharacterTable
) -> NDArray[np.int64]:
    """各句与同篇其余各句相同的字数，重复的重复计，(S,)。

        o_s = Σ_字 min(本句里几个, 其余各句里几个)

    Args:
        sentences: S 句。
        owners: 各句属于第几篇，(S,)。
        characters: 词元 → 字。
    """
    spelled = characters.spell(sentences.values)
    sentence = np.repeat(sentences.owners, spelled.lengths)  # (M,) 各字属于第几句
    word = owners[sentence] * characters.num_characters + spelled.values
    # 按（篇, 字, 句）排一次序：同一句里的同一个字相连，同一篇里的也相连
    pairs = np.sort(word * len(sentences) + sentence)
    heads = np.flatnonzero(np.diff(pairs, prepend=-1))
    here = np.diff(heads, append=len(pairs))  # 这一句里有几个这个字
    word, sentence = np.divmod(pairs[heads], max(1, len(sentences)))
    group = np.cumsum(np.diff(word, prepend=-1) != 0)
    everywhere = np.bincount(group, here)[group]  # 这一篇里有几个
    shared = np.minimum(here, everywhere - here)
    return np.bincount(sentence, shared, len(sentences)).astype(np.int64)
