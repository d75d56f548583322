"""前缀语言建模：前一段双向地读，后一段从左到右地写。

    损失 = − Σ_{t ≥ s} log p(x_t | x_<t)，前缀 x_<s 之内互相可见
                                            （Raffel 等，2020，§3.2.1、§3.2.3）

例（在第 3 个词元之后切开，− 表示不计损失）：

    input_ids   臣   光   曰   臣   闻  </s>
    前缀        ✓    ✓    ✓
    labels      −    −    −    臣   闻  </s>
    看得见谁   1–3  1–3  1–3  1–4  1–5  1–6

切点在正文的词元之间均匀地取，所以不需要成对的语料；成对的语料用样本的 `prefix_length`
把切点定在源端之后。后缀连同文档结尾都是目标，前缀没有损失。

两类模型各有一个整理器：

- `PrefixLMCollator`：只有解码器的模型（GPT-2、Llama、Qwen）。掩码让前缀双向可见；标签照
  因果模型的惯例由损失移位：位置 t 的输出对位置 t + 1 的标签，所以后缀的第一个词元由前缀
  的最后一个位置预测。
- `PrefixSeq2SeqCollator`：编码器–解码器，前缀进编码器，其余由解码器写出。T5 的“语言模型
  适应”（Lester 等，2021，§2.2）就是以此再训十万步。

形状字母：N 首尾相接的总长，D 文档数。
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from companion.batch import IGNORE_INDEX, Feature
from companion.errors import ObjectiveError
from companion.objectives.documents import (
    Documents,
    draw_splits,
    given_splits,
    require_suffix,
    split_rows,
)
from companion.objectives.example import Example
from companion.objectives.explicit_mask import ExplicitMaskCollator
from companion.objectives.ragged import Ragged
from companion.objectives.rows import read_row
from companion.objectives.seq2seq import Corruption, Seq2SeqCollator


@dataclass
class PrefixLMCollator(ExplicitMaskCollator):
    """前缀语言建模的数据整理器，给只有解码器的模型；可单独用在 `transformers.Trainer`。

    输出 `input_ids`、`labels`、`position_ids` (B, L) int64 与 `attention_mask`
    (B, 1, L, L) float32；标签不移位，由模型的损失移。正文不足两个词元的文档切不开，没有
    前缀，照因果语言建模出标签。
    """

    def corrupt(self, documents: Documents) -> list[Example]:
        """切成前缀与后缀；词元一个不动。"""
        ids, owners = documents.ids, documents.owners
        place = np.arange(len(ids))
        splits = documents.splits()[owners]  # (N,)
        starts = documents.starts[owners]
        target = (place >= splits) & (place > starts)  # 首个词元没有上文
        columns = {
            "input_ids": ids,
            "labels": np.where(target, ids, IGNORE_INDEX),
            "origin": documents.row_places,
            "hidden": target,
            "documents": documents.inner[owners],
            "prefix": place < splits,
            "position_ids": place - starts,
        }
        return [Example(**row) for row in split_rows(columns, documents.row_sizes)]

    def hide(self, feature: Feature, noise: NDArray[np.bool_]) -> Example:
        """在第一个要遮的词元之前切开；填空题用，没有随机。

        Args:
            feature: 一个样本，只有一篇文档。
            noise: 要遮的，与不带首尾特殊词元的正文等长，bool。
        """
        left = int(self.read([feature]).lefts[0])
        split = left + int(noise.argmax())
        return self.examples([{**feature, "prefix_length": split}])[0]


@dataclass
class PrefixSeq2SeqCollator(Seq2SeqCollator):
    """前缀语言建模的数据整理器，给编码器–解码器（T5、BART）。

    前缀与后缀各自套上首尾的特殊词元。只有一个普通词元的文档切不开，前缀为空，编码器只看见
    特殊词元。

    Raises:
        ObjectiveError: 前缀与文字一样长，或只有一个词元而分词器又不加特殊词元。
    """

    def examples(self, features: Sequence[Feature]) -> list[Example]:
        """样本 → 破坏之后、补齐之前的样子；样本可带 `prefix_length`。"""
        rows, documents, prefix, suffix = self._read(features)
        given = given_splits(
            features, [read_row(each, self._special_ids) for each in features]
        )
        require_suffix(features, rows, given, documents.lengths + len(prefix))
        # prefix_length 把首部的特殊词元也算在内，正文里没有它们
        inside = np.maximum(given - len(prefix), 0)
        drawn = draw_splits(documents.lengths, self._keys(features, rows))
        splits = np.where(given >= 0, inside, drawn)
        bare = np.flatnonzero(splits == 0) if not len(prefix) + len(suffix) else []
        if len(bare):
            number = features[int(rows[bare[0]])].get("example_id", "（无编号）")
            raise ObjectiveError(
                found=f"样本 {number} 里有一篇文档只有一个词元，分词器又不加特殊词元",
                expected="编码器至少看得见一个词元",
                remedy="删去一个词元的文档，或分词时加上特殊词元",
            )
        return self._build(rows, documents, _divided(documents, splits), prefix, suffix)

    def corrupt_documents(
        self, documents: Ragged, keys: NDArray[np.uint64]
    ) -> Corruption:
        """在随机的切点一分为二。"""
        return _divided(documents, draw_splits(documents.lengths, keys))

    def hide_tokens(self, documents: Ragged, noise: NDArray[np.bool_]) -> Corruption:
        """在第一个要遮的词元之前切开。"""
        places = np.where(noise, documents.places, documents.lengths[documents.owners])
        return _divided(documents, np.minimum.reduceat(places, documents.starts))


def _divided(documents: Ragged, splits: NDArray[np.int64]) -> Corruption:
    """前 `splits[d]` 个词元给编码器，其余给解码器。"""
    after = documents.places >= splits[documents.owners]
    return Corruption(
        inputs=Ragged(documents.values[~after], splits),
        targets=Ragged(documents.values[after], documents.lengths - splits),
        origin=documents.places[after],
        hidden=np.ones(int(after.sum()), np.bool_),
    )
