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
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from companion.batch import Batch, Feature
from companion.errors import ObjectiveError
from companion.objectives.collate import Example, make_example, pad_rows
from companion.objectives.masked_lm import MaskedLMCollator
from companion.objectives.rows import Row


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

    def example(self, row: Row) -> Example:
        """两边各自遮好，接成一行。"""
        count = len(row.document_starts)
        if count != 2:
            raise ObjectiveError(
                found=f"{row.name} 一行有 {count} 篇文档",
                expected="恰好两篇：一个句对",
                remedy="用 pair_feature 由句对造样本；没有译文的语料改用 masked_lm",
            )
        middle = row.document_starts[1]
        halves = [
            self.corrupt(_half(row, piece), row.rng(self.seed, side))
            for side, piece in enumerate((slice(0, middle), slice(middle, None)))
        ]
        inputs, labels = (np.concatenate(parts) for parts in zip(*halves, strict=True))
        side = row.document_index  # 前一句 0，后一句 1；两句互相看得见，算一篇
        return make_example(
            inputs,
            labels,
            position_ids=np.arange(len(row)) - side * middle,
            token_type_ids=side if self.type_vocab_size > 1 else None,
            extra={"side": torch.from_numpy(side)},
        )

    def collate(self, examples: Sequence[Example]) -> Batch:
        """补齐，配上语言编号。"""
        batch = super().collate(examples)
        if self.num_languages > 1:
            languages = torch.tensor(self.language_ids)
            batch["langs"] = pad_rows(
                [languages[each.extra["side"]] for each in examples],
                self.language_ids[0],
                batch["input_ids"].shape[1],
            )
        return batch


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


def _half(row: Row, piece: slice) -> Row:
    """句对的一边。"""
    return replace(
        row,
        input_ids=row.input_ids[piece],
        document_starts=[0],
        special=row.special[piece],
        plain=row.plain[piece],
        word_ids=None if row.word_ids is None else row.word_ids[piece],
    )
