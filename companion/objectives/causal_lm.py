"""因果语言建模：每个词元由它左边的词元预测。

    损失 = − Σ_t log p(x_t | x_<t)        （Radford 等，2018，§3.1）

例（`</s>` 是文档结尾，− 表示不计损失）：

    input_ids   臣   光   曰  </s>
    labels       −   光   曰  </s>

**标签不要自己移位。** transformers 的因果模型在损失内部把标签左移一格：位置 t 的输出对
位置 t+1 的标签。照网上“把标签设为下一个词元”的写法再移一次，模型学到的是下下个词元。

标签按**位置**遮，不按编号遮：填充处与每个文档的第一个词元（它左边没有上文）为 −100，
其余照抄。于是 `pad == eos` 时，真正的文档结尾仍是目标；库的整理器按编号遮，模型永远学不
会停下（huggingface/transformers#23530）。

形状字母：T 一行的词元数，R 行内文档数。
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from companion.batch import IGNORE_INDEX
from companion.objectives.collate import Collator, Example, make_example
from companion.objectives.rows import Row


def causal_labels(
    input_ids: NDArray[np.int64], document_starts: Sequence[int]
) -> NDArray[np.int64]:
    """一行的标签：照抄输入，只有各文档的首个词元为 −100。

    Args:
        input_ids: (T,) int64。
        document_starts: 各文档的起点，R 项。

    Returns:
        (T,) int64；恰有 T − R 个目标。

    >>> causal_labels(np.array([5, 6, 2, 7, 2]), [0, 3]).tolist()
    [-100, 6, 2, -100, 2]
    """
    labels = input_ids.copy()
    labels[list(document_starts)] = IGNORE_INDEX
    return labels


@dataclass
class CausalLMCollator(Collator):
    """因果语言建模的数据整理器，可单独用在 `transformers.Trainer` 里；没有噪声。

    输入样本见 `companion.batch`。输出 `input_ids`、`labels` (B, L) int64 与
    `attention_mask`；一行装有多个文档时，掩码是四维的，另有 `position_ids`。

    Trainer 缺省会删去模型不认得的列，`document_starts` 也在其内，行内文档就不再隔开；样
    本有这一项时，要设 `remove_unused_columns=False`。

    >>> from companion.checkpoints.tiny import tiny_tokenizer  # doctest: +SKIP
    >>> collator = CausalLMCollator(tiny_tokenizer("gpt2"))  # doctest: +SKIP
    >>> trainer = Trainer(model, args, train_dataset=rows,  # doctest: +SKIP
    ...                   data_collator=collator)
    """

    causal: ClassVar[bool] = True

    def example(self, row: Row) -> Example:
        """标签照抄，词元一个不动。"""
        labels = causal_labels(row.input_ids, row.document_starts)
        return make_example(row.input_ids, labels, documents=row.document_index)
