"""掩码语言建模：遮住一部分词元，由两边的上下文猜回来。

    损失 = − Σ_{t ∈ 选中} log p(x_t | x̃)        （Devlin 等，2019，§3.1）

例（− 表示不计损失；选中两个，“光”换成掩码，“名”碰巧原样保留）：

    原文      [CLS]  臣   光    曰   名   也  [SEP]
    input_ids [CLS]  臣  [MASK]  曰   名   也  [SEP]
    labels      −    −    光     −   名   −    −

粒度（`granularity`）决定谁和谁一起被选中：

- `token`：逐个词元（BERT）。
- `whole_word`：同属一词的词元同进同退（Cui 等，2021，§III），词由样本的 `word_ids` 给
  出。transformers 的 `whole_word_mask=True` 以字符间隙断词，中文没有间隙，整句就是一个
  “词”，要么全遮、要么一个不遮。
- `ngram`：一次选相连的一至三个词（ALBERT；`ngram_shares` 可改）。
- `span`：一次选相连的一至十个词，个数恰好，末一段可能断在词中间（SpanBERT）。

选中的词元各自以 80% 换成 [MASK]、10% 换成随机词元、10% 保留；`span` 是一段一个决定：全
是 [MASK]，全随机，或全保留。给了 `similar_words`，就逐词决定，以近义词代替 [MASK]
（MacBERT）。各论文的整套选法见 `companion.objectives.presets`。

SpanBERT 的第二个损失（`span_boundary`）由片段两侧的词元猜片段里的，要另加一个头，见
`companion.losses.span_boundary`；这里只给出边界在哪里（`span_borders`）。

形状字母：B 行数，L 补齐后的行长，T 一行的词元数。
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from companion.batch import IGNORE_INDEX, Batch
from companion.errors import ObjectiveError
from companion.objectives.choices import Granularity
from companion.objectives.collate import Collator, Example, make_example, pad_rows
from companion.objectives.noise import (
    ALBERT_SHARES,
    SPAN_SHARES,
    Rounding,
    choose_bernoulli,
    choose_ngrams,
    choose_spans,
    choose_tokens,
    masking_budget,
    read_words,
    replace_tokens,
)
from companion.objectives.rows import Row, ordinary_ids_of, require_probability, runs_of
from companion.objectives.similar_words import SimilarWords, replace_words

Selection = Literal["exact", "bernoulli"]

MAX_BORDER_TARGETS = 15
"""片段边界目标一段至多猜几个词元（SpanBERT 发布的训练命令：`max_pair_targets` 15）。"""


@dataclass
class MaskedLMCollator(Collator):
    """掩码语言建模的数据整理器，可单独用在 `transformers.Trainer` 里。

    输入样本见 `companion.batch`。输出 `input_ids`、`labels` (B, L) int64 与
    `attention_mask`；一行装有多个文档时，掩码是四维的，另有 `position_ids`。
    每行至少有一个目标，除非它只有特殊词元。

    样本带 `example_id`（与 `epoch`）时，噪声只由（seed, epoch, example_id）决定；没有编
    号的样本退而用 torch 的全局随机数，每次都不同，但不可复现。

    Trainer 缺省会删去模型不认得的列（`word_ids`、`document_starts`、`example_id` 等）；
    样本有这些项时，要设 `remove_unused_columns=False`。

    Raises:
        ObjectiveError: 分词器没有掩码词元，概率越界，或以词选而样本缺少 `word_ids`。
    """

    mlm_probability: float = 0.15
    """选中的比例（Devlin 等，2019，§3.1）；T 个词元选 max(1, round(0.15·T)) 个。"""
    granularity: Granularity = "token"
    selection: Selection = "exact"
    """`exact` 个数恰好；`bernoulli` 逐个独立，与库的整理器同一规律，只用于 `token`。"""
    rounding: Rounding = "nearest"
    """p·T 怎样取整：舍入、`up`、`down`，或 `stochastic`（⌊p·T + u⌋，平均恰是 p·T）。"""
    ngram_shares: tuple[float, ...] = ALBERT_SHARES
    """`ngram`：一个词、两个词……的词组各占多少。"""
    mask_replace_prob: float = 0.8
    """换成 [MASK] 的比例；给了 `similar_words` 时是换成近义词的比例。"""
    random_replace_prob: float = 0.1
    similar_words: SimilarWords | None = None
    """近义词表；给了它，输入里就没有 [MASK]。"""
    span_boundary: bool = False
    """另给 `span_borders` (B, L, 2) int64，供片段边界目标用；只用于 `span`。"""
    mark_attended: bool = False
    """另给 `attended` (B, L) bool：真有词元处，蒸馏在这些位置上学教师。"""
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check()
        self._random_ids = ordinary_ids_of(self.tokenizer)

    def example(self, row: Row) -> Example:
        """选出、换掉；标签是选中处的原文。"""
        inputs, labels = self.corrupt(row, row.rng(self.seed))
        extra: dict[str, torch.Tensor] = {}
        if self.span_boundary:
            chosen = labels != IGNORE_INDEX
            borders = span_borders(chosen, row.document_index, ~row.plain)
            extra["span_borders"] = torch.from_numpy(borders)
        return make_example(inputs, labels, documents=row.document_index, extra=extra)

    def corrupt(
        self, row: Row, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """一行的输入与标签，各 (T,) int64。"""
        chosen = self.choose(row, rng)
        inputs = self._replace(row, chosen, rng)
        return inputs, np.where(chosen, row.input_ids, IGNORE_INDEX)

    def choose(self, row: Row, rng: np.random.Generator) -> NDArray[np.bool_]:
        """选哪些词元，(T,) bool。"""
        candidates = ~row.special
        if self.selection == "bernoulli":
            return choose_bernoulli(candidates, self.mlm_probability, rng)
        budget = masking_budget(
            len(row), int(candidates.sum()), self.mlm_probability, self.rounding, rng
        )
        if self.granularity == "token":
            return choose_tokens(candidates, budget, rng)
        if row.word_ids is None:
            raise ObjectiveError(
                found="样本里没有 word_ids",
                expected=f"granularity={self.granularity} 需要每个词元所属的词",
                remedy="用 companion.corpus.words.word_ids 由分词结果算出"
                "（在 Trainer 里还要设 remove_unused_columns=False），"
                "或改用 granularity=token",
            )
        words = read_words(row.word_ids, candidates, row.document_starts)
        documents = row.document_index
        if self.granularity == "span":
            return choose_spans(words, documents, budget, SPAN_SHARES, rng)
        shares = self.ngram_shares if self.granularity == "ngram" else (1.0,)
        return choose_ngrams(words, documents, budget, shares, rng)

    def _replace(
        self, row: Row, chosen: NDArray[np.bool_], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """选中的换成什么，(T,) int64。"""
        if self.similar_words is not None:
            words = row.word_ids
            if words is None or self.granularity == "token":
                words = np.arange(len(row))  # 一个词元算一个词
            return replace_words(
                row.input_ids,
                runs_of(chosen, words),
                self.similar_words,
                random_ids=self._random_ids,
                similar_prob=self.mask_replace_prob,
                random_prob=self.random_replace_prob,
                rng=rng,
            )
        by_span = self.granularity == "span"
        return replace_tokens(
            row.input_ids,
            chosen,
            mask_token_id=self.tokenizer.mask_token_id,
            random_ids=self._random_ids,
            mask_replace_prob=self.mask_replace_prob,
            random_replace_prob=self.random_replace_prob,
            rng=rng,
            units=runs_of(chosen, row.document_index) if by_span else None,
        )

    def collate(self, examples: Sequence[Example]) -> Batch:
        """补齐并配上掩码；要的话另给片段的边界与真有词元处。"""
        batch = super().collate(examples)
        length = batch["input_ids"].shape[1]
        if self.span_boundary:
            borders = [each.extra["span_borders"].T for each in examples]
            batch["span_borders"] = pad_rows(borders, IGNORE_INDEX, length).mT
        if self.mark_attended:
            ones = [torch.ones_like(each.input_ids).bool() for each in examples]
            batch["attended"] = pad_rows(ones, False, length)
        return batch

    def _check(self) -> None:
        for name in ("mlm_probability", "mask_replace_prob", "random_replace_prob"):
            require_probability(name, getattr(self, name))
        require_probability(
            "mask_replace_prob + random_replace_prob",
            self.mask_replace_prob + self.random_replace_prob,
        )
        for name, kind in (
            ("granularity", Granularity),
            ("selection", Selection),
            ("rounding", Rounding),
        ):
            if getattr(self, name) not in get_args(kind):
                raise ObjectiveError(
                    found=f"{name} = {getattr(self, name)!r}",
                    expected=f"{name} 是 {'、'.join(get_args(kind))} 之一",
                    remedy="照上面的名字改写",
                )
        if self.granularity != "token" and self.selection == "bernoulli":
            raise ObjectiveError(
                found=f"granularity={self.granularity} 配了 selection=bernoulli",
                expected="以词选的都按预算来（selection=exact）",
                remedy="去掉 selection，或改用 granularity=token",
            )
        if self.span_boundary and self.granularity != "span":
            raise ObjectiveError(
                found=f"span_boundary 配了 granularity={self.granularity}",
                expected="片段边界目标要有片段：granularity=span",
                remedy="加 preset=spanbert 或 granularity=span，或去掉 span_boundary",
            )
        if min(self.ngram_shares, default=0) < 0 or sum(self.ngram_shares) <= 0:
            raise ObjectiveError(
                found=f"ngram_shares = {self.ngram_shares}",
                expected="每项不小于 0，总和大于 0",
                remedy="改用例如 ngram_shares=(0.4, 0.3, 0.2, 0.1)",
            )
        if self.tokenizer.mask_token_id is None and self.similar_words is None:
            raise ObjectiveError(
                found=f"分词器 {type(self.tokenizer).__name__} 没有掩码词元",
                expected="掩码语言建模的分词器有 mask_token（BERT 的是 [MASK]）",
                remedy="换一个编码器检查点，或改用 causal_lm",
            )


def span_borders(
    chosen: NDArray[np.bool_],
    documents: NDArray[np.int64],
    edges: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """片段边界目标：每个选中的词元所在片段外侧的两个词元在哪里。

        x_i ← h_{s−1}、h_{e+1}、第 i − s + 1 个位置，s ≤ i ≤ e  （Joshi 等，2020，§3.2）

    例（片段是第 2 到 3 个词元，边界在第 1 与第 4 个）：

        原文         [CLS]  魏   文    侯    曰   [SEP]
        input_ids    [CLS]  魏 [MASK] [MASK] 曰   [SEP]
        span_borders   −    −   1,4   1,4    −     −

    80/10/10 一段一个决定，有的片段看上去原样未动，所以边界在破坏时就记下，不从 [MASK]
    去猜。边界要是同一篇文档里的词元，而不是 [CLS]、[SEP]：片段贴着它们、行端或另一篇文
    档的，没有这个目标，与发布的代码相同（`masking.py`：`start > 0 and end <
    sent_length − 1`）。一段至多猜开头 `MAX_BORDER_TARGETS` 个。

    Args:
        chosen: 选中处为真，(T,) bool。
        documents: 每个词元属于行内第几篇文档，(T,) int64。
        edges: 作不得边界的为真（[CLS]、[SEP] 等），(T,) bool。

    Returns:
        左边界与右边界的位置，(T, 2) int64；没有目标处两个都是 −100。

    >>> chosen = np.array([0, 0, 1, 1, 0, 0, 1, 0], bool)
    >>> edges = np.array([1, 0, 0, 0, 0, 0, 0, 1], bool)
    >>> span_borders(chosen, np.zeros(8, int), edges)[:, 0].tolist()
    [-100, -100, 1, 1, -100, -100, -100, -100]
    """
    borders = np.full((len(chosen), 2), IGNORE_INDEX)
    for start, stop in runs_of(chosen, documents):
        left, right = start - 1, stop
        inside = left >= 0 and right < len(chosen)
        if not inside or edges[left] or edges[right]:
            continue
        if documents[left] == documents[start] == documents[right]:
            borders[start : min(stop, start + MAX_BORDER_TARGETS)] = left, right
    return borders
