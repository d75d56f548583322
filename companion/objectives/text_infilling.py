"""文本填补（BART、中文 BART、mBART）：弄坏一篇文字，让解码器从头写出原文。

    损失 = − Σ_t log p(x_t | x_<t, x̃)        （Lewis 等，2020，§2.2）

例（论文图 2；_ 是掩码）：

    原文        A B C . D E .
    文本填补    A _ . D _ E .        B C 换成一个掩码；长度为 0 的一段在 D 后插进一个
    打乱句子    D E . A B C .
    目标        A B C . D E .        总是原来次序的全文

一篇有 n 个词元，盖住 T = ⌈0.3·n⌉ 个：段长逐个取自泊松分布（λ = 3），加到 T 为止，最后
一段截短到恰好（fairseq 的 `denoising_dataset.py` 同此）。解码器看不出一个掩码下面藏着
几个词元，所以还要学会猜长短。段的放法有两种：

- `unbiased`：互不重叠，恰好盖住 T 个。一切排法机会相等，再把文档首尾接成一圈随机转一个
  角度，于是每个词元盖住的机会都恰是 T/n（转到一段的中间，这一段断成首尾两段）。
- `reference` 照 fairseq：各段的起点是不同的词元，段与段可以重叠，伸出文末的截去。实际只
  盖住约 26.8%，文首几个词元盖住的机会又小得多。

长度为 0 的段随后各自插在任意一条缝里。至多插到输入与原文一样长（只有几个词元的短文才会
碰到），所以输入从不超过原文的长度。

`noise` 可换成论文比较过的另两种：`token_masking` 逐个换成掩码，`token_deletion` 逐个
删去（至少留一个），都恰好 T 个。打乱句子在弄坏之前，论文的大模型打乱全部句子（§5.1），
句末见 `companion.objectives.sentences`。`rotate` 在最后，输入改从任意一个词元读起。

形状字母：n 一篇正文的词元数。
"""

import math
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from companion.errors import ObjectiveError
from companion.objectives.choices import InfillingNoise, SpanPlacement
from companion.objectives.noise import choose_tokens
from companion.objectives.rows import draw_below, require_probability, runs_of, shuffled
from companion.objectives.sentences import SentenceMarks, sentence_marks
from companion.objectives.seq2seq import Corruption, Ids, Seq2SeqCollator

Spans = list[tuple[int, int]]
"""各段从哪里起、到哪里止；各换成一个掩码。"""


def noise_budget(length: int, density: float) -> int:
    """T = ⌈density·n⌉；0.07 × 100 在浮点数里略大于 7，减去一点再进位。"""
    return math.ceil(length * density - 1e-9)


def poisson_bounds(mean: float) -> NDArray[np.float64]:
    """泊松分布的累积概率，P(≤ 0)、P(≤ 1)……，到余下不足 1e-12 为止。

    >>> poisson_bounds(3.0)[:3].round(3).tolist()
    [0.05, 0.199, 0.423]
    """
    sizes = range(int(mean + 12.0 * math.sqrt(mean) + 24.0))
    logs = [k * math.log(mean) - mean - math.lgamma(k + 1) for k in sizes]
    return np.exp(logs).cumsum()


def draw_span_lengths(
    budget: int, bounds: NDArray[np.float64], rng: np.random.Generator
) -> tuple[list[int], int]:
    """逐个抽段长，加到 `budget` 为止，最后一段截短到恰好。

    Args:
        budget: 共盖住几个词元。
        bounds: 段长的累积概率，见 `poisson_bounds`。
        rng: 随机数来源。

    Returns:
        长度为正的段，总和恰为 `budget`，次序打乱（不打乱，截短的那段总在最后）；长度为
        0 的段有几个。
    """
    lengths: list[int] = []
    num_empty, left = 0, budget
    while left > 0:
        length = int(np.searchsorted(bounds, rng.random(), side="right"))
        length = min(length, left)
        if length:
            lengths.append(length)
        else:
            num_empty += 1
        left -= length
    return [lengths[n] for n in shuffled(len(lengths), rng)], num_empty


def place_disjoint(length: int, sizes: list[int], rng: np.random.Generator) -> Spans:
    """互不重叠地放下各段，每个词元盖住的机会相等。

    留下的词元与段混排成一列，段在其中的位置均匀；再把文档首尾接成一圈转一个角度，转到一段
    的中间，这一段断成首尾两段。

    Args:
        length: 词元数。
        sizes: 段长，都为正，总和不超过 `length`。
        rng: 随机数来源。
    """
    slots = length - sum(sizes) + len(sizes)
    places = sorted(shuffled(slots, rng)[: len(sizes)])
    angle = draw_below(length, rng)
    spans: Spans = []
    before = 0  # 左边的各段比一格多占的
    for place, size in zip(places, sizes, strict=True):
        start = (place + before + angle) % length
        before += size - 1
        if start + size <= length:
            spans.append((start, start + size))
        else:
            spans += [(start, length), (0, start + size - length)]
    return sorted(spans)


def place_overlapping(length: int, sizes: list[int], rng: np.random.Generator) -> Spans:
    """照 fairseq 放下各段：起点是不同的词元，可以重叠，伸出文末的截去。

    起点落在别的段里的，并入那一段，没有自己的掩码。参数同 `place_disjoint`。
    """
    spans: Spans = []
    starts = sorted(shuffled(length, rng)[: len(sizes)])
    for start, size in zip(starts, sizes, strict=True):
        stop = min(start + size, length)
        if spans and start < spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], stop))
        else:
            spans.append((start, stop))
    return spans


def replace_spans(tokens: Ids, spans: Spans, mask_id: int) -> Ids:
    """每段换成一个掩码。

    >>> replace_spans(np.array([5, 6, 7, 8]), [(1, 3), (3, 4)], 0).tolist()
    [5, 0, 0]
    """
    pieces: list[int] = []
    done = 0
    for start, stop in spans:
        pieces += [*tokens[done:start].tolist(), mask_id]
        done = stop
    return np.array([*pieces, *tokens[done:].tolist()], np.int64)


def permuted_sentences(
    tokens: Ids, marks: SentenceMarks, rng: np.random.Generator
) -> Ids:
    """句子随意排列：新的第 i 个词元原来是第几个，(n,)。"""
    lengths = marks.split(tokens.tolist())
    sentences = np.split(np.arange(len(tokens)), np.cumsum(lengths)[:-1])
    return np.concatenate([sentences[n] for n in shuffled(len(sentences), rng)])


@dataclass
class TextInfillingCollator(Seq2SeqCollator):
    """文本填补的数据整理器；输入与输出见 `Seq2SeqCollator`。

    目标总是原来次序的全文，连同首尾的特殊词元；`hidden` 是弄坏之后编码器看不见的词元，
    只挪了位置的不算。

    Raises:
        ObjectiveError: 分词器没有掩码词元，参数越界，或原文里已有掩码。
    """

    noise_density: float = 0.3
    """盖住的比例（Lewis 等，2020，§5.1）；0 表示只打乱句子或旋转。"""
    poisson_lambda: float = 3.0
    """段长的平均（同上，§2.2）。"""
    span_placement: SpanPlacement = "unbiased"
    noise: InfillingNoise = "text_infilling"
    permute_sentences: bool = True
    rotate: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check()
        self._marks = sentence_marks(self.tokenizer)
        mask = self.tokenizer.mask_token_id
        self._mask_id = -1 if mask is None else int(mask)  # 逐个删去用不着掩码
        self.reserve([self._mask_id])
        self._bounds = poisson_bounds(self.poisson_lambda)

    def corrupt(self, tokens: Ids, rng: np.random.Generator) -> Corruption:
        """打乱句子，弄坏，旋转；目标是原文。"""
        order = np.arange(len(tokens))  # 打乱之后各处是原来的哪一个
        if self.permute_sentences:
            order = permuted_sentences(tokens, self._marks, rng)
        inputs, covered = self._corrupt(tokens[order], rng)
        if self.rotate:
            inputs = np.roll(inputs, -draw_below(len(inputs), rng))
        hidden = np.empty_like(covered)
        hidden[order] = covered
        return Corruption(
            inputs=inputs, targets=tokens, origin=np.arange(len(tokens)), hidden=hidden
        )

    def hide_tokens(self, tokens: Ids, noise: NDArray[np.bool_]) -> Corruption:
        """照训练时的样子：每段换成一个掩码、逐个换成掩码，或删去；目标是全文。"""
        if self.noise == "text_infilling":
            inputs = replace_spans(tokens, runs_of(noise), self._mask_id)
        else:
            inputs = self._one_by_one(tokens, noise)
        return Corruption(
            inputs=inputs, targets=tokens, origin=np.arange(len(tokens)), hidden=noise
        )

    def _corrupt(
        self, tokens: Ids, rng: np.random.Generator
    ) -> tuple[Ids, NDArray[np.bool_]]:
        """编码器的输入，与看不见的词元 (n,) bool。"""
        length = len(tokens)
        budget = noise_budget(length, self.noise_density)
        if self.noise != "text_infilling":
            if self.noise == "token_deletion":
                budget = min(budget, length - 1)  # 至少留一个
            covered = choose_tokens(np.ones(length, np.bool_), budget, rng)
            return self._one_by_one(tokens, covered), covered
        sizes, num_empty = draw_span_lengths(budget, self._bounds, rng)
        unbiased = self.span_placement == "unbiased"
        place = place_disjoint if unbiased else place_overlapping
        spans = place(length, sizes, rng)
        covered = np.zeros(length, np.bool_)
        for start, stop in spans:
            covered[start:stop] = True
        inputs = replace_spans(tokens, spans, self._mask_id)
        num_empty = min(num_empty, length - len(inputs))
        # 首尾也算缝
        gaps = [draw_below(len(inputs) + 1, rng) for _ in range(num_empty)]
        return np.insert(inputs, np.array(gaps, np.int64), self._mask_id), covered

    def _one_by_one(self, tokens: Ids, covered: NDArray[np.bool_]) -> Ids:
        """逐个换成掩码，或删去。"""
        if self.noise == "token_deletion":
            return tokens[~covered]
        return np.where(covered, self._mask_id, tokens)

    def _check(self) -> None:
        require_probability("noise_density", self.noise_density)
        if not 0.1 <= self.poisson_lambda <= 100.0:
            raise ObjectiveError(
                found=f"poisson_lambda = {self.poisson_lambda}",
                expected="平均段长在 0.1 与 100 之间；再小就几乎全是空段",
                remedy="改用例如 poisson_lambda=3",
            )
        for name, kind in (
            ("noise", InfillingNoise),
            ("span_placement", SpanPlacement),
        ):
            if getattr(self, name) not in get_args(kind):
                raise ObjectiveError(
                    found=f"{name} = {getattr(self, name)!r}",
                    expected=f"{name} 是 {'、'.join(get_args(kind))} 之一",
                    remedy="照上面的名字改写",
                )
        if self.tokenizer.mask_token_id is None and self.noise != "token_deletion":
            raise ObjectiveError(
                found=f"分词器 {type(self.tokenizer).__name__} 没有掩码词元",
                expected="文本填补的分词器有 mask_token（BART 的是 <mask>）",
                remedy="换一个 BART 类的检查点；T5 类的用 span_corruption",
            )
