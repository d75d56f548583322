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

形状字母：T 一行或一篇正文的词元数。
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from companion.batch import IGNORE_INDEX, Feature
from companion.errors import ObjectiveError
from companion.objectives.collate import Example, PrefixCollator, make_example
from companion.objectives.rows import Document, Row, draw_split
from companion.objectives.seq2seq import Corruption, Ids, Seq2SeqCollator, divided


@dataclass
class PrefixLMCollator(PrefixCollator):
    """前缀语言建模的数据整理器，给只有解码器的模型；可单独用在 `transformers.Trainer`。

    输出 `input_ids`、`labels`、`position_ids` (B, L) int64 与 `attention_mask`
    (B, 1, L, L) float32；标签不移位，由模型的损失移。正文不足两个词元的文档切不开，没有
    前缀，照因果语言建模出标签。
    """

    def example(self, row: Row) -> Example:
        """逐篇切成前缀与后缀；词元一个不动。"""
        prefix = np.zeros(len(row), np.bool_)
        positions = np.arange(len(row))
        for document in row.documents:
            rng = row.rng(self.seed, document.number)
            prefix[document.start : row.split(document, rng)] = True
            positions[document.start : document.stop] -= document.start
        target = ~prefix & (positions > 0)  # 首个词元没有上文
        return make_example(
            row.input_ids,
            np.where(target, row.input_ids, IGNORE_INDEX),
            documents=row.document_index,
            prefix=prefix,
            position_ids=positions,
        )

    def hide(self, feature: Feature, noise: NDArray[np.bool_]) -> Example:
        """在第一个要遮的词元之前切开；填空题用，没有随机。

        Args:
            feature: 一个样本，只有一篇文档。
            noise: 要遮的，与不带首尾特殊词元的正文等长，bool。
        """
        [document] = self.read(feature).documents
        split = document.left + int(noise.argmax())
        return self.examples([{**feature, "prefix_length": split}])[0]


@dataclass
class PrefixSeq2SeqCollator(Seq2SeqCollator):
    """前缀语言建模的数据整理器，给编码器–解码器（T5、BART）。

    前缀与后缀各自套上首尾的特殊词元。只有一个普通词元的文档切不开，前缀为空，编码器只看见
    特殊词元。样本可带 `prefix_length`，见 `PrefixCollator`。

    Raises:
        ObjectiveError: 前缀与文字一样长，或只有一个词元而分词器又不加特殊词元。
    """

    def corrupt_document(self, row: Row, document: Document) -> Corruption:
        """在随机的或样本给定的切点一分为二。"""
        cut = row.split(document, row.rng(self.seed, document.number))
        if cut == document.start and document.length == document.stop - document.start:
            raise ObjectiveError(
                found=f"{row.name} 里有一篇文档只有一个词元，分词器又不加特殊词元",
                expected="编码器至少看得见一个词元",
                remedy="删去一个词元的文档，或分词时加上特殊词元",
            )
        tokens = row.body(document)
        return divided(tokens, max(0, cut - document.left))

    def corrupt(self, tokens: Ids, rng: np.random.Generator) -> Corruption:
        """在随机的切点一分为二；只有一个词元的不切。"""
        return divided(tokens, draw_split(len(tokens), rng))

    def hide_tokens(self, tokens: Ids, noise: NDArray[np.bool_]) -> Corruption:
        """在第一个要遮的词元之前切开。"""
        return divided(tokens, int(noise.argmax()) if noise.any() else len(tokens))
