"""翻译语言建模（XLM）：句对接成一行，两边都遮，猜一边时可以看另一边。

    损失 = − Σ_{t ∈ 两边选中的} log p(x_t | x̃, ỹ)      （Conneau 与 Lample，2019，§3.3）

例（文言与白话；“光”遮住了，右边的“司马光”帮得上忙）：

    input_ids     [CLS]  臣  [MASK]  说  [SEP] [CLS]  司   马   光   说   道  [SEP]
    position_ids    0     1    2     3     4     0     1    2    3    4    5    6
    langs           0     0    0     0     0     1     1    1    1    1    1    1

- 后一句的位置从 0 重新数起，两句因此对得齐。重数的位置**不**隔开两句：编码器不靠它来分
  文档，批量也只带二维掩码。
- 每个词元带语言编号。XLM 的叫 `langs`；BERT 一类没有，用 `token_type_ids`。XLM 也收
  `token_type_ids`，却拿它去查**词**嵌入，所以绝不能给。
- 两边各按自己的长短选 15%。XLM 在整行上选，短句对里常常只遮到一边，那就学不到对齐。

样本是一行两篇文档：`document_starts` 的第二项是后一句的起点，首尾的特殊词元照各句原样
（XLM 的一行因此是 `</s> x </s> </s> y </s>`，共四个）。`pair_feature` 由两段文字造出。

形状字母：B 行数，L 行长，T 一行的词元数。
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from companion.batch import Batch, Feature
from companion.errors import ObjectiveError
from companion.objectives.documents import example_name
from companion.objectives.example import Example
from companion.objectives.masked_lm import MaskedLMCollator
from companion.objectives.padding import pad_rows
from companion.objectives.rows import Row, read_row


@dataclass(frozen=True, kw_only=True)
class PairExample(Example):
    """一个句对。"""

    side: Tensor
    """每个词元属于前一句（0）还是后一句（1），(T,) int64。"""


@dataclass
class TranslationLMCollator(MaskedLMCollator):
    """XLM 的 TLM 的数据整理器，给 XLM、BERT、XLM-R 一类的掩码语言模型。

    掩码的参数见 `MaskedLMCollator`。输出另有 `position_ids` (B, L)，以及模型收得下的
    `token_type_ids` 或 `langs` (B, L)，都是 int64。RoBERTa 一类的位置不从 0 数起，喂模
    型之前要经过 `companion.preflight.adapt_batch`。

    Raises:
        ObjectiveError: 一行不是两篇文档，或语言编号超出模型的。
    """

    type_vocab_size: int = 2
    """检查点有几种片段编号，抄自 `model.config`；不足两种时不给 `token_type_ids`。"""
    num_languages: int = 0
    """检查点有几种语言，抄自 `model.config.n_langs`；不足两种时不给 `langs`。"""
    language_ids: tuple[int, int] = (0, 1)
    """前一句与后一句的语言编号，见检查点的 `model.config.lang2id`。"""

    def __post_init__(self) -> None:
        super().__post_init__()
        last = self.num_languages - 1
        if last > 0 and not all(0 <= each <= last for each in self.language_ids):
            raise ObjectiveError(
                found=f"language_ids = {self.language_ids}，检查点只有 "
                f"{self.num_languages} 种语言",
                expected=f"两个编号都在 0 与 {last} 之间",
                remedy="照检查点的 config.json 里 lang2id 填写",
            )

    def examples(self, features: Sequence[Feature]) -> list[Example]:
        """样本 → 两边各自遮好、接成一行的样子。"""
        return [self._pair(feature) for feature in features]

    def collate(self, examples: Sequence[Example]) -> Batch:
        """补齐，配上重数的位置与语言编号。"""
        batch = super().collate(examples)
        length = batch["input_ids"].shape[1]
        sides = [_given(each).side for each in examples]
        positions = [_restarting(side) for side in sides]
        batch["position_ids"] = pad_rows(positions, 0, length)
        if self.type_vocab_size > 1:
            batch["token_type_ids"] = pad_rows(sides, 0, length)
        if self.num_languages > 1:
            languages = torch.tensor(self.language_ids)
            batch["langs"] = pad_rows(
                [languages[side] for side in sides], self.language_ids[0], length
            )
        return batch

    def _pair(self, feature: Feature) -> PairExample:
        row = read_row(feature, self._special_ids)
        count = len(row.document_starts)
        if count != 2:
            raise ObjectiveError(
                found=f"样本 {example_name(feature)} 一行有 {count} 篇文档",
                expected="恰好两篇：一个句对",
                remedy="用 pair_feature 由句对造样本；没有译文的语料改用 masked_lm",
            )
        middle = int(row.document_starts[1])
        pieces = (slice(0, middle), slice(middle, None))
        halves = super().examples(
            [_half(row, piece, side) for side, piece in enumerate(pieces)]
        )
        labels = torch.cat([half.labels for half in halves])
        side = (torch.arange(len(labels)) >= middle).long()
        return PairExample(
            input_ids=torch.cat([half.input_ids for half in halves]),
            labels=labels,
            origin=torch.arange(len(labels)),
            hidden=torch.cat([half.hidden for half in halves]),
            documents=torch.zeros_like(side),  # 两句互相看得见
            position_ids=_restarting(side),
            token_type_ids=side if self.type_vocab_size > 1 else None,
            side=side,
        )


def pair_feature(tokenizer: Any, source: str, target: str, **extras: Any) -> Feature:
    """两段文字 → 一个句对样本，各带自己的首尾。

    Args:
        tokenizer: 模型的分词器。
        source: 前一句，如文言。
        target: 后一句，如白话。
        **extras: 样本的其他项，如 `example_id`。
    """
    first: list[int] = tokenizer(source)["input_ids"]
    second: list[int] = tokenizer(target)["input_ids"]
    return {
        "input_ids": first + second,
        "document_starts": [0, len(first)],
        **extras,
    }


def _half(row: Row, piece: slice, side: int) -> Feature:
    """句对的一边；两边的样本编号不同，噪声才互不相干。"""
    half: Feature = {
        "input_ids": row.input_ids[piece],
        "special_tokens_mask": row.special[piece],
        "epoch": row.epoch,
    }
    if row.example_id is not None:
        half["example_id"] = 2 * row.example_id + side
    if row.word_ids is not None:
        half["word_ids"] = row.word_ids[piece]
    return half


def _restarting(side: Tensor) -> Tensor:
    """后一句从 0 重新数起的位置，(T,) int64。"""
    places = torch.arange(len(side))
    return places - side * (side == 0).sum()


def _given(example: Example) -> PairExample:
    if isinstance(example, PairExample):
        return example
    raise ObjectiveError(
        found="这个样本不是句对",
        expected="翻译语言建模的整理器自己造出的样本",
        remedy="用同一个整理器的 examples 造出样本，再交给 collate",
    )
