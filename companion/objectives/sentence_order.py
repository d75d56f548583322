"""句序判断（ALBERT）：两段相连的文字，原来就是这个次序，还是对调过。

    损失 = 掩码语言建模（每个目标）+ 句序（每行）        （Lan 等，2020，§3.1）

例（一行三句，在第一句之后切开；对调的标签是 1）：

    原文              [CLS] 臣光曰。天子之职莫大于礼。礼莫大于分。 [SEP]
    标签 0            [CLS] 臣光曰。 [SEP] 天子之职莫大于礼。礼莫大于分。 [SEP]
    标签 1            [CLS] 天子之职莫大于礼。礼莫大于分。 [SEP] 臣光曰。 [SEP]
    token_type_ids    第一段与它前后的特殊词元为 0，其余为 1

切在哪两句之间，是均匀的；一半对调。比 BERT 的下一句预测难：两段出自同一处，话题相同，只
能靠前后的道理。句末见 `companion.objectives.sentences`。

只有一句的行没有次序可言：照样练掩码，句序的标签是 −100，不计损失。发布的代码这时换上别
处的一段、标作 1，那学到的是话题，不是次序；这里不造假。

形状字母：B 行数，L 行长，T 一行的词元数。
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from companion.batch import IGNORE_INDEX, Batch, Feature
from companion.errors import ObjectiveError
from companion.objectives.collate import Example
from companion.objectives.masked_lm import MaskedLMCollator
from companion.objectives.rows import Document, Row, draw_below
from companion.objectives.sentences import sentence_marks

OrderLabel = Literal["sentence_order_label", "next_sentence_label"]


@dataclass
class SentenceOrderCollator(MaskedLMCollator):
    """掩码语言建模加句序判断的数据整理器，给 ALBERT、BERT、ERNIE 的预训练类。

    输入与掩码的参数见 `MaskedLMCollator`；一行一篇文档（不打包），带 [CLS] 与 [SEP]。
    输出另有 `token_type_ids` (B, L) 与 `order_label` 所说的标签 (B,)，都是 int64。

    切在哪里、对不对调，只由（seed, epoch, example_id）决定。整批都只有一句时，库自己的
    损失是 NaN；`companion.losses.parts` 不受影响。

    Raises:
        ObjectiveError: 分词器没有 [SEP]，一行有几篇文档，或没有首部的 [CLS]。
    """

    order_label: OrderLabel = "sentence_order_label"
    """标签的名字：ALBERT 是 `sentence_order_label`，BERT、ERNIE 是
    `next_sentence_label`。"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tokenizer.sep_token_id is None:
            raise ObjectiveError(
                found=f"分词器 {type(self.tokenizer).__name__} 没有 sep_token",
                expected="句序判断用 [SEP] 隔开两段",
                remedy="换一个 ALBERT、BERT 类的检查点，或改用 masked_lm",
            )
        self._marks = sentence_marks(self.tokenizer)

    def row_capacity(self, block_size: int, num_edges: int) -> int:
        """两段之间要插一个 [SEP]，原文少装一个词元。"""
        del num_edges
        return block_size - 1

    def example(self, row: Row) -> Example:
        """切开、或许对调、遮好。"""
        document = self._only_document(row)
        sentences = self._sentences(row, document)
        source = np.arange(len(row))  # 每个位置取原行的第几个词元
        order, boundary = IGNORE_INDEX, len(row)
        if len(sentences) > 1:
            rng = row.rng(self.seed, 1)
            left, right = document.left, document.right
            cut = left + sum(sentences[: 1 + draw_below(len(sentences) - 1, rng)])
            first, second = source[left:cut], source[cut:right]
            order = int(rng.random() < 0.5)
            if order:
                first, second = second, first
            boundary = left + len(first) + 1
            source = np.concatenate(
                [source[:left], first, [-1], second, source[right:]]
            )
        missing = source < 0  # 插入的 [SEP]
        words = row.word_ids
        composed = replace(
            row,
            input_ids=np.where(
                missing, self.tokenizer.sep_token_id, row.input_ids[source]
            ),
            special=row.special[source] | missing,
            plain=row.plain[source] & ~missing,
            word_ids=None if words is None else np.where(missing, -1, words[source]),
        )
        masked = super().example(composed)
        return replace(
            masked,
            origin=torch.from_numpy(source),
            token_type_ids=torch.from_numpy(
                (np.arange(len(source)) >= boundary).astype(np.int64)
            ),
            extra=masked.extra | {"order": torch.tensor(order)},
        )

    def collate(self, examples: Sequence[Example]) -> Batch:
        """补齐，配上句序的标签：0 原来的次序，1 对调过，−100 只有一句、不计。"""
        batch = super().collate(examples)
        batch[self.order_label] = torch.stack([e.extra["order"] for e in examples])
        return batch

    def has_sentences(self, feature: Feature) -> bool:
        """样本里是否不止一句；不足两句的练不了句序。"""
        row = self.read(feature)
        return len(self._sentences(row, self._only_document(row))) > 1

    def _sentences(self, row: Row, document: Document) -> list[int]:
        tokens = row.body(document).tolist()
        return self._marks.split(tokens) if tokens else []

    def _only_document(self, row: Row) -> Document:
        """行内唯一的一篇。"""
        if len(row.document_starts) > 1:
            raise ObjectiveError(
                found=f"{row.name} 一行有 {len(row.document_starts)} 篇文档",
                expected="句序判断一行一篇：每行只有一个 [CLS]、一个标签",
                remedy="训练时设 packing=false",
            )
        [document] = row.documents
        if document.left == 0:
            raise ObjectiveError(
                found=f"{row.name} 的开头没有 [CLS]",
                expected="句序由第一个位置（[CLS]）的输出判断",
                remedy="分词时加上特殊词元（add_special_tokens=True）",
            )
        return document
