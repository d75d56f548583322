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

形状字母：T 一篇正文的词元数，S 句数。
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from companion.batch import Feature
from companion.errors import ObjectiveError
from companion.objectives.choices import GapStrategy
from companion.objectives.rows import Runs, runs_of
from companion.objectives.sentences import sentence_marks
from companion.objectives.seq2seq import Corruption, Ids, Seq2SeqCollator, mask_id_of

SCORE_NOISE = 0.2
"""`principal` 的分数上下浮动的幅度。"""


def gap_count(num_sentences: int, noise_density: float) -> int:
    """挖去几句：至少一句，至少留一句；只有一句的不挖。

    >>> [gap_count(num, 0.3) for num in (1, 2, 3, 5, 10)]
    [0, 1, 1, 2, 3]
    """
    return min(max(round(num_sentences * noise_density), 1), num_sentences - 1)


def shared_with_the_rest(sentences: Sequence[Sequence[str]]) -> list[int]:
    """各句与其余各句相同的字数，重复的重复计，S 项。

        o_s = Σ_字 min(本句里几个, 其余各句里几个)

    Args:
        sentences: 各句的字。

    >>> shared_with_the_rest(["天下大势", "天下太平", "势"])
    [3, 2, 1]
    """
    counts = [Counter(sentence) for sentence in sentences]
    everywhere = sum(counts, Counter[str]())
    return [
        sum(min(num, everywhere[char] - num) for char, num in here.items())
        for here in counts
    ]


def replace_gaps(tokens: Ids, gaps: Runs, mask_id: int) -> Corruption:
    """每处换成一个掩码；目标是挖去的各处，依原来的次序。

    Args:
        tokens: 正文，(T,) int64。
        gaps: 挖去哪几处，从左到右。
        mask_id: 掩码。
    """
    inputs = tokens.copy()
    kept = np.ones(len(tokens), np.bool_)
    for start, stop in gaps:
        inputs[start] = mask_id
        kept[start + 1 : stop] = False
    at = np.array([n for gap in gaps for n in range(*gap)], np.int64)
    return Corruption(
        inputs=inputs[kept],
        targets=tokens[at],
        origin=at,
        hidden=np.ones(len(at), np.bool_),
    )


@dataclass
class GapSentencesCollator(Seq2SeqCollator):
    """PEGASUS 的数据整理器；输入与输出见 `Seq2SeqCollator`。

    掩码用 `<mask_1>`（Pegasus），没有就用分词器的掩码词元（BART），再没有就用第一个哨兵
    词元（T5）；几句都用同一个。

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
        self._marks = sentence_marks(self.tokenizer)
        self._spelled: dict[int, Sequence[str]] = {}

    def corrupt(self, tokens: Ids, rng: np.random.Generator) -> Corruption:
        """挖去分数最高的几句，同分取前一句；一句换成一个掩码，目标是挖去的各句。"""
        lengths = self._marks.split(tokens.tolist())
        ends = np.cumsum(lengths).tolist()
        sentences = [
            (end - length, end) for end, length in zip(ends, lengths, strict=True)
        ]
        scores = self._scores(tokens, sentences, rng)
        count = gap_count(len(sentences), self.noise_density)
        chosen = np.sort(np.argsort(-scores, kind="stable")[:count])
        return replace_gaps(tokens, [sentences[n] for n in chosen], self.mask_id)

    def has_sentences(self, feature: Feature) -> bool:
        """样本里有没有一篇不止一句；篇篇一句的只学得到“没有缺句”。"""
        return bool(self.examples([feature])[0].hidden.any())

    def hide_tokens(self, tokens: Ids, noise: NDArray[np.bool_]) -> Corruption:
        """每段相连的换成一个掩码。"""
        return replace_gaps(tokens, runs_of(noise), self.mask_id)

    def _scores(
        self, tokens: Ids, sentences: Runs, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """各句该不该挖，(S,)：高的先挖。"""
        if self.strategy == "lead":
            return np.zeros(len(sentences))
        noise = rng.random(len(sentences))
        if self.strategy == "random":
            return noise
        text: list[int] = tokens.tolist()
        overlap = shared_with_the_rest(
            [
                [char for token in text[start:stop] for char in self.spell(token)]
                for start, stop in sentences
            ]
        )
        # 一个字也不相同的几句，先后由噪声定
        return (np.array(overlap) + 1e-6) * (1.0 + SCORE_NOISE * (2.0 * noise - 1.0))

    def spell(self, token: int) -> Sequence[str]:
        """词元写出的字，标点与空白不算；第一次遇到时才解码。

        字节级 BPE 会把一个字拆给几个词元，单个解码不出来；这样的词元自己算一个字。特殊
        词元（[UNK]）不算字。
        """
        if token not in self._spelled:
            text: str = self.tokenizer.decode([token], skip_special_tokens=True)
            broken = "\N{REPLACEMENT CHARACTER}" in text
            self._spelled[token] = (
                (f"第 {token} 个词元",)
                if broken
                else tuple(char for char in text if char.isalnum())
            )
        return self._spelled[token]

    def decoder_side(
        self, corruption: Corruption, prefix: Ids, suffix: Ids
    ) -> dict[str, NDArray[Any]]:
        """目标不能一个词元也没有。"""
        if len(prefix) + len(suffix) + len(corruption.targets) == 0:
            raise ObjectiveError(
                found="有一篇文档只有一句，没有可挖的，首尾又没有特殊词元，目标是空的",
                expected="每篇至少两句，或首尾有特殊词元",
                remedy="分词时加上特殊词元（add_special_tokens=True），或改用 "
                "text_infilling",
            )
        return super().decoder_side(corruption, prefix, suffix)

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
