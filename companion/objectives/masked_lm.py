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
`companion.losses.span_boundary`；这里只给出边界在哪里。

形状字母：B 行数，L 行长，T 一行的词元数。
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from companion.batch import IGNORE_INDEX, Batch, Feature
from companion.errors import ObjectiveError
from companion.objectives.attention import document_index
from companion.objectives.example import Example
from companion.objectives.noise import (
    choose_bernoulli,
    choose_tokens,
    choose_words,
    corrupt_tokens,
    derive_generator,
    masking_budget,
    require_probability,
    stochastic_budget,
)
from companion.objectives.padding import pad_rows
from companion.objectives.rows import (
    Row,
    assemble,
    edge_ids_of,
    make_example,
    read_row,
    special_ids_of,
)
from companion.objectives.similar_words import SimilarWords, replace_words
from companion.objectives.span_borders import pad_borders, span_borders
from companion.objectives.word_runs import (
    ALBERT_SHARES,
    SPAN_SHARES,
    adjoining_units,
    choose_ngrams,
    choose_spans,
    read_words,
)

Granularity = Literal["token", "whole_word", "ngram", "span"]
Selection = Literal["exact", "bernoulli"]
BudgetRounding = Literal["nearest", "up", "down", "stochastic"]


@dataclass
class MaskedLMCollator:
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

    tokenizer: Any
    """有 `mask_token` 的 transformers 分词器。"""
    mlm_probability: float = 0.15
    """选中的比例（Devlin 等，2019，§3.1）；T 个词元选 max(1, round(0.15·T)) 个。"""
    granularity: Granularity = "token"
    selection: Selection = "exact"
    """`exact` 个数恰好；`bernoulli` 逐个独立，与库的整理器同一规律，只用于 `token`。"""
    rounding: BudgetRounding = "nearest"
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
    pad_to_multiple_of: int | None = None

    def __post_init__(self) -> None:
        self._check()
        self._special_ids = special_ids_of(self.tokenizer)
        ids = torch.arange(len(self.tokenizer))
        self._random_ids = ids[~torch.isin(ids, self._special_ids)]
        self._edge_ids = edge_ids_of(self.tokenizer)

    def __call__(self, features: Sequence[Feature]) -> Batch:
        """样本 → 批量；不改动样本。"""
        return self.collate(self.examples(features))

    def examples(self, features: Sequence[Feature]) -> list[Example]:
        """样本 → 破坏之后、补齐之前的样子。"""
        rows = [read_row(feature, self._special_ids) for feature in features]
        masked = [make_example(row, *self._corrupt(row)) for row in rows]
        if not self.span_boundary:
            return masked
        return [
            replace(each, span_borders=self._borders(row, each))
            for row, each in zip(rows, masked, strict=True)
        ]

    def collate(self, examples: Sequence[Example]) -> Batch:
        """补齐并配上掩码。"""
        batch = assemble(
            examples,
            pad_token_id=self.tokenizer.pad_token_id,
            causal=False,
            pad_to_multiple_of=self.pad_to_multiple_of,
        )
        length = batch["input_ids"].shape[1]
        if self.span_boundary:
            batch["span_borders"] = pad_borders(
                [each.span_borders for each in examples], length
            )
        if self.mark_attended:
            batch["attended"] = pad_rows(
                [torch.ones_like(each.input_ids).bool() for each in examples],
                False,
                length,
            )
        return batch

    def _borders(self, row: Row, masked: Example) -> Tensor:
        """片段边界目标：每个标签左右的边界，(T, 2) int64。"""
        return span_borders(
            masked.labels != IGNORE_INDEX,
            masked.documents,
            torch.isin(row.input_ids, self._edge_ids),
        )

    def _corrupt(self, row: Row) -> tuple[Tensor, Tensor]:
        """一行的输入与标签，各 (T,) int64。"""
        if row.example_id is None:
            generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        else:
            generator = derive_generator(self.seed, row.epoch, row.example_id)
        chosen = self._choose(row, generator)
        inputs = self._replace(row, chosen, generator)
        return inputs, row.input_ids.masked_fill(~chosen, IGNORE_INDEX)

    def _replace(self, row: Row, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """选中的换成什么，(T,) int64。"""
        length = len(chosen)
        if self.similar_words is not None:
            words = row.word_ids
            if words is None or self.granularity == "token":
                words = torch.arange(length)  # 一个词元算一个词
            return replace_words(
                row.input_ids,
                adjoining_units(chosen, words),
                self.similar_words,
                random_ids=self._random_ids,
                similar_prob=self.mask_replace_prob,
                random_prob=self.random_replace_prob,
                generator=generator,
            )
        units = None
        if self.granularity == "span":
            documents = document_index(row.document_starts, length, length)
            units = adjoining_units(chosen, documents)
        return corrupt_tokens(
            row.input_ids,
            chosen,
            mask_token_id=self.tokenizer.mask_token_id,
            random_ids=self._random_ids,
            mask_replace_prob=self.mask_replace_prob,
            random_replace_prob=self.random_replace_prob,
            generator=generator,
            units=units,
        )

    def _choose(self, row: Row, generator: torch.Generator) -> Tensor:
        candidates = ~row.special
        if self.selection == "bernoulli":
            return choose_bernoulli(candidates, self.mlm_probability, generator)
        budget = self._budget(len(candidates), int(candidates.sum()), generator)
        if self.granularity == "token":
            return choose_tokens(candidates, budget, generator)
        if row.word_ids is None:
            raise ObjectiveError(
                found="样本里没有 word_ids",
                expected=f"granularity={self.granularity} 需要每个词元所属的词",
                remedy="用 companion.corpus.words.word_ids 由分词结果算出"
                "（在 Trainer 里还要设 remove_unused_columns=False），"
                "或改用 granularity=token",
            )
        if self.granularity == "whole_word":
            return choose_words(row.word_ids, candidates, budget, generator)
        words = read_words(row.word_ids, candidates, row.document_starts)
        if self.granularity == "ngram":
            return choose_ngrams(
                words, len(candidates), budget, self.ngram_shares, generator
            )
        return choose_spans(words, len(candidates), budget, SPAN_SHARES, generator)

    def _budget(
        self, num_tokens: int, num_candidates: int, generator: torch.Generator
    ) -> int:
        if self.rounding == "stochastic":
            return stochastic_budget(
                num_tokens, num_candidates, self.mlm_probability, generator
            )
        return masking_budget(
            num_tokens, num_candidates, self.mlm_probability, self.rounding
        )

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
            ("rounding", BudgetRounding),
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
