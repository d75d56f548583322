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
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from companion.batch import IGNORE_INDEX, Batch, Feature
from companion.errors import ObjectiveError
from companion.objectives.documents import example_name
from companion.objectives.example import Example
from companion.objectives.masked_lm import MaskedLMCollator
from companion.objectives.padding import pad_rows
from companion.objectives.ragged import Ragged, document_keys, uniform
from companion.objectives.rows import Row, edge_ids_of, read_row
from companion.objectives.sentences import sentence_end_ids, split_sentences

OrderLabel = Literal["sentence_order_label", "next_sentence_label"]


@dataclass(frozen=True, kw_only=True)
class OrderExample(Example):
    """带句序的样本。"""

    order: int
    """0 原来的次序，1 对调过，−100 只有一句、不计。"""


@dataclass
class SentenceOrderCollator(MaskedLMCollator):
    """掩码语言建模加句序判断的数据整理器，给 ALBERT、BERT、ERNIE 的预训练类。

    输入与掩码的参数见 `MaskedLMCollator`；一行一篇文档（不打包），带 [CLS] 与 [SEP]。
    输出另有 `token_type_ids` (B, L) 与 `order_label` 所说的标签 (B,)，都是 int64。

    切在哪里、对不对调，只由（seed, epoch, example_id）决定。整批都只有一句时，库自己的
    损失是 NaN；`companion.losses.sentence_order` 不受影响。

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
        self._ends, self._closers = sentence_end_ids(self.tokenizer)
        self._edge_ids = edge_ids_of(self.tokenizer)

    def row_capacity(self, block_size: int, num_edges: int) -> int:
        """两段之间要插一个 [SEP]，原文少装一个词元。"""
        del num_edges
        return block_size - 1

    def examples(self, features: Sequence[Feature]) -> list[Example]:
        """样本 → 切开、或许对调、遮好的样子。"""
        return [self._example(feature) for feature in features]

    def collate(self, examples: Sequence[Example]) -> Batch:
        """补齐，配上片段编号与句序的标签。"""
        batch = super().collate(examples)
        length = batch["input_ids"].shape[1]
        segments = [_given(each).token_type_ids for each in examples]
        present = [segment for segment in segments if segment is not None]
        batch["token_type_ids"] = pad_rows(present, 0, length)
        batch[self.order_label] = torch.tensor(
            [_given(each).order for each in examples]
        )
        return batch

    def sentence_lengths(self, feature: Feature) -> list[int]:
        """一个样本的正文里各句的词元数；不足两句的练不了句序。"""
        row = read_row(feature, self._special_ids)
        return self._sentences(row, *self._body(row, feature))

    def _example(self, feature: Feature) -> OrderExample:
        row = read_row(feature, self._special_ids)
        left, right = self._body(row, feature)
        sentences = self._sentences(row, left, right)
        source = torch.arange(len(row.input_ids))  # 每个位置取原行的第几个词元
        order, boundary = IGNORE_INDEX, len(source)
        if len(sentences) > 1:
            which, lot = self._draw(row)
            cut = left + sum(sentences[: 1 + int(which * (len(sentences) - 1))])
            first, second = source[left:cut], source[cut:right]
            order = int(lot < 0.5)
            if order:
                first, second = second, first
            boundary = left + len(first) + 1
            separator = torch.tensor([-1])
            source = torch.cat(
                [source[:left], first, separator, second, source[right:]]
            )
        missing = source < 0
        ids = row.input_ids[source].masked_fill(missing, self.tokenizer.sep_token_id)
        composed: Feature = {
            "input_ids": ids,
            "special_tokens_mask": row.special[source] | missing,
            "example_id": row.example_id,
            "epoch": row.epoch,
        }
        if row.word_ids is not None:
            composed["word_ids"] = row.word_ids[source].masked_fill(missing, -1)
        masked = super().examples([composed])[0]
        segments = (torch.arange(len(ids)) >= boundary).long()
        fields: dict[str, Any] = vars(masked) | {
            "origin": source,
            "token_type_ids": segments,
        }
        return OrderExample(**fields, order=order)

    def _sentences(self, row: Row, left: int, right: int) -> list[int]:
        if left == right:
            return []
        body = Ragged.of([row.input_ids[left:right].numpy()])
        return split_sentences(body, self._ends, self._closers).lengths.tolist()

    def _draw(self, row: Row) -> tuple[float, float]:
        """切在哪里、对不对调的两个随机数，[0, 1)。"""
        number = row.example_id
        if number is None:
            number = int(torch.randint(2**62, ()))
        keys = document_keys(
            self.seed, np.array([row.epoch]), np.array([number]), np.array([0])
        )
        which, lot = uniform(keys, 2)[0].tolist()
        return which, lot

    def _body(self, row: Row, feature: Feature) -> tuple[int, int]:
        """正文从第几个词元起、到哪里止。"""
        if len(row.document_starts) > 1:
            raise ObjectiveError(
                found=f"样本 {example_name(feature)} 一行有 "
                f"{len(row.document_starts)} 篇文档",
                expected="句序判断一行一篇：每行只有一个 [CLS]、一个标签",
                remedy="训练时设 packing=false",
            )
        plain = (~torch.isin(row.input_ids, self._edge_ids)).nonzero()[:, 0]
        if len(plain) == 0:
            return len(row.input_ids), len(row.input_ids)
        left, right = int(plain[0]), int(plain[-1]) + 1
        if left == 0:
            raise ObjectiveError(
                found=f"样本 {example_name(feature)} 的开头没有 [CLS]",
                expected="句序由第一个位置（[CLS]）的输出判断",
                remedy="分词时加上特殊词元（add_special_tokens=True）",
            )
        return left, right


def _given(example: Example) -> OrderExample:
    if isinstance(example, OrderExample):
        return example
    raise ObjectiveError(
        found="这个样本没有句序",
        expected="句序判断的整理器自己造出的样本",
        remedy="用同一个整理器的 examples 造出样本，再交给 collate",
    )
