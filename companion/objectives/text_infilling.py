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

形状字母：D 文档数，N 全部词元首尾相接的总长，M 全部输入首尾相接的总长，C 段数。
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from companion.errors import ObjectiveError
from companion.objectives.noise import require_probability
from companion.objectives.ragged import (
    Ragged,
    choose_ragged,
    uniform,
    uniform_ragged,
)
from companion.objectives.sentences import sentence_end_ids, split_sentences
from companion.objectives.seq2seq import Corruption, Seq2SeqCollator

Noise = Literal["text_infilling", "token_masking", "token_deletion"]
SpanPlacement = Literal["unbiased", "reference"]

# 几处随机各用一股
_SENTENCES, _LENGTHS, _LAST, _PLACES, _TURN, _INSERTS, _ROTATE = range(7)


@dataclass
class TextInfillingCollator(Seq2SeqCollator):
    """文本填补的数据整理器；输入与输出见 `Seq2SeqCollator`。

    目标总是原来次序的全文，连同首尾的特殊词元；`hidden` 是弄坏之后编码器看不见的词元，
    只挪了位置的不算。一篇文档的噪声只由（seed, epoch, example_id, 行内第几篇）决定。

    Raises:
        ObjectiveError: 分词器没有掩码词元，参数越界，或原文里已有掩码。
    """

    noise_density: float = 0.3
    """盖住的比例（Lewis 等，2020，§5.1）；0 表示只打乱句子或旋转。"""
    poisson_lambda: float = 3.0
    """段长的平均（同上，§2.2）。"""
    span_placement: SpanPlacement = "unbiased"
    noise: Noise = "text_infilling"
    permute_sentences: bool = True
    rotate: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check()
        self._ends, self._closers = sentence_end_ids(self.tokenizer)
        mask = self.tokenizer.mask_token_id
        self._mask_id = -1 if mask is None else int(mask)  # 逐个删去用不着掩码
        self.reserve([self._mask_id])
        self._lengths = _poisson_table(self.poisson_lambda)

    def corrupt_documents(
        self, documents: Ragged, keys: NDArray[np.uint64]
    ) -> Corruption:
        """打乱句子，弄坏，旋转；目标是原文。"""
        order = np.arange(len(documents.values))  # (N,) 打乱之后各处是原来的哪一个
        if self.permute_sentences:
            order = self._permuted(documents, keys)
        inputs, covered = self._corrupt(
            Ragged(documents.values[order], documents.lengths), keys
        )
        if self.rotate:
            shifts = uniform(keys, 1, _ROTATE)[:, 0] * inputs.lengths
            inputs = inputs.rolled(shifts.astype(np.int64))
        hidden = np.empty_like(covered)
        hidden[order] = covered
        return Corruption(
            inputs=inputs, targets=documents, origin=documents.places, hidden=hidden
        )

    def hide_tokens(self, documents: Ragged, noise: NDArray[np.bool_]) -> Corruption:
        """照训练时的样子：每段换成一个掩码、逐个换成掩码，或删去；目标是全文。"""
        if self.noise == "text_infilling":
            heads = documents.run_heads(noise)
        else:
            heads = noise & (self.noise == "token_masking")
        return Corruption(
            inputs=self._replaced(documents, heads, noise),
            targets=documents,
            origin=documents.places,
            hidden=noise,
        )

    def _permuted(
        self, documents: Ragged, keys: NDArray[np.uint64]
    ) -> NDArray[np.int64]:
        """各篇的句子随意排列，(N,)：新的第 i 个词元原来是第几个。"""
        sentences = split_sentences(documents, self._ends, self._closers)
        owners = documents.owners[sentences.starts]
        counts = np.bincount(owners, minlength=len(documents))
        scores = uniform_ragged(counts, keys, _SENTENCES)
        ranks = np.lexsort((scores, owners))
        lengths = sentences.lengths[ranks]
        shifts = sentences.starts[ranks] - (np.cumsum(lengths) - lengths)
        return np.arange(len(documents.values)) + np.repeat(shifts, lengths)

    def _corrupt(
        self, documents: Ragged, keys: NDArray[np.uint64]
    ) -> tuple[Ragged, NDArray[np.bool_]]:
        """编码器的输入，与看不见的词元 (N,) bool。"""
        lengths = documents.lengths
        budgets = _budgets(lengths, self.noise_density)
        if self.noise == "text_infilling":
            return self._infill(documents, budgets, keys)
        if self.noise == "token_deletion":
            budgets = np.minimum(budgets, lengths - 1)
        chosen = choose_ragged(lengths, budgets, keys, _PLACES)
        heads = chosen & (self.noise == "token_masking")
        return self._replaced(documents, heads, chosen), chosen

    def _infill(
        self, documents: Ragged, budgets: NDArray[np.int64], keys: NDArray[np.uint64]
    ) -> tuple[Ragged, NDArray[np.bool_]]:
        spans, inserts = draw_spans(budgets, self._lengths, keys)
        if self.span_placement == "unbiased":
            heads, covered = place_disjoint(documents.lengths, spans, keys)
        else:
            heads, covered = place_overlapping(documents.lengths, spans, keys)
        plain = self._replaced(documents, heads, covered)
        inserts = np.minimum(inserts, documents.lengths - plain.lengths)
        gaps = uniform_ragged(inserts, keys, _INSERTS)  # 各插在哪条缝里，首尾也算
        gaps *= np.repeat(plain.lengths + 1, inserts)
        at = np.repeat(plain.starts, inserts) + gaps.astype(np.int64)
        values = np.insert(plain.values, at, self._mask_id)
        return Ragged(values, plain.lengths + inserts), covered

    def _replaced(
        self, documents: Ragged, heads: NDArray[np.bool_], covered: NDArray[np.bool_]
    ) -> Ragged:
        """段首换成掩码，盖住的其余词元删去。"""
        kept = heads | ~covered
        values = np.where(heads, self._mask_id, documents.values)
        return Ragged(values[kept], _sums(kept, documents))

    def _check(self) -> None:
        require_probability("noise_density", self.noise_density)
        if not 0.1 <= self.poisson_lambda <= 100.0:
            raise ObjectiveError(
                found=f"poisson_lambda = {self.poisson_lambda}",
                expected="平均段长在 0.1 与 100 之间；再小就几乎全是空段",
                remedy="改用例如 poisson_lambda=3",
            )
        for name, kind in (("noise", Noise), ("span_placement", SpanPlacement)):
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


def draw_spans(
    budgets: NDArray[np.int64], table: NDArray[np.float64], keys: NDArray[np.uint64]
) -> tuple[Ragged, NDArray[np.int64]]:
    """逐个抽段长，加到 `budgets[d]` 为止，最后一段截短到恰好。

    Args:
        budgets: 各篇盖住几个词元，(D,)。
        table: 段长的累积概率，`table[k]` 是段长 ≤ k 的概率。
        keys: 各篇的钥匙，(D,) uint64。

    Returns:
        各篇长度为正的段，总和恰为 `budgets`，截短的那段排在任意一处；长度为 0 的段各有
        几个，(D,) int64。
    """
    mean = float(np.sum(1.0 - table))
    widths = (budgets / mean + 4.0 * np.sqrt(budgets / mean) + 8.0).astype(np.int64)
    while True:
        uniforms = uniform_ragged(widths, keys, _LENGTHS)
        drawn = Ragged(np.searchsorted(table, uniforms, side="right"), widths)
        sums = np.cumsum(drawn.values)
        before = sums - drawn.values  # 含前面各篇的
        sofar = before - np.repeat(before[drawn.starts], widths)
        if (sums[drawn.starts + widths - 1] - before[drawn.starts] >= budgets).all():
            break
        widths *= 2  # 随机数与要几个无关，前面的不变
    limits = np.repeat(budgets, widths)
    used = sofar < limits
    values = np.minimum(drawn.values, limits - sofar)[used]
    counts = _sums(used, drawn)
    spans = Ragged(values, counts)
    # 前面各段的次序无所谓先后，只有最后一段特别：与任意一段对调
    some = counts > 0
    last = (spans.starts + counts - 1)[some]
    other = uniform(keys, 1, _LAST)[:, 0] * counts
    other = (spans.starts + other.astype(np.int64))[some]
    values[last], values[other] = values[other], values[last]
    positive = values > 0
    num_positive = _sums(positive, spans)
    return Ragged(values[positive], num_positive), counts - num_positive


def place_disjoint(
    lengths: NDArray[np.int64], spans: Ragged, keys: NDArray[np.uint64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """互不重叠地放下各段，每个词元盖住的机会相等。

    留下的词元与段混排成一列，段在其中的位置均匀；再转一个角度。

    Args:
        lengths: 各篇的词元数，(D,)。
        spans: 各篇的段长，都为正，总和不超过 `lengths`。
        keys: 各篇的钥匙，(D,) uint64。

    Returns:
        每段的第一个词元、盖住的词元，各 (N,) bool。
    """
    totals = _sums(spans.values, spans)
    slots = lengths - totals + spans.lengths
    is_span = choose_ragged(slots, spans.lengths, keys, _PLACES)
    sizes = np.ones(len(is_span), np.int64)
    sizes[is_span] = spans.values
    state = np.repeat(is_span.astype(np.int8), sizes)  # 0 留下，1 盖住，2 段首
    state[(np.cumsum(sizes) - sizes)[is_span]] = 2
    shifts = uniform(keys, 1, _TURN)[:, 0] * lengths
    turned = Ragged(state, lengths).rolled(shifts.astype(np.int64))
    covered = turned.values > 0
    heads = turned.values == 2
    heads[turned.starts] = covered[turned.starts]
    return heads, covered


def place_overlapping(
    lengths: NDArray[np.int64], spans: Ragged, keys: NDArray[np.uint64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """照 fairseq 放下各段：起点是不同的词元，可以重叠，伸出文末的截去。

    起点落在别的段里的，并入那一段，没有自己的掩码。参数与返回值同 `place_disjoint`。
    """
    starts = choose_ragged(lengths, spans.lengths, keys, _PLACES)
    positions = np.arange(len(starts))
    ends = np.repeat(np.cumsum(lengths), lengths)
    reach = np.zeros(len(starts), np.int64)  # 到此为止，各段伸到的最远处
    reach[starts] = positions[starts] + spans.values
    reach = np.maximum.accumulate(np.minimum(reach, ends))
    covered = reach > positions
    inside = np.zeros_like(covered)  # 被左边的段盖住
    inside[1:] = reach[:-1] > positions[1:]
    return starts & ~inside, covered


def _budgets(lengths: NDArray[np.int64], density: float) -> NDArray[np.int64]:
    """⌈density·n⌉；0.07 × 100 在浮点数里略大于 7，减去一点再进位。"""
    return np.ceil(lengths * density - 1e-9).astype(np.int64)


def _poisson_table(mean: float) -> NDArray[np.float64]:
    """泊松分布的累积概率，末项为 1，(K,)；到概率小于 1e-12 为止。"""
    longest = int(mean + 12.0 * np.sqrt(mean) + 24.0)
    logs = np.arange(1, longest + 1)
    terms = np.exp(np.cumsum(np.log(mean) - np.log(logs)) - mean)
    table = np.cumsum(np.concatenate([[np.exp(-mean)], terms]))
    return table / table[-1]


def _sums(values: NDArray[Any], rows: Ragged) -> NDArray[np.int64]:
    """照 `rows` 分段求和（布尔值即数个数），(D,)。"""
    totals = np.concatenate([[0], np.cumsum(values)])
    return totals[rows.starts + rows.lengths] - totals[rows.starts]
