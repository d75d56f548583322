"""各层共用的数据形状：样本（Feature）与批量（Batch）。

样本是一个字典，键名与 transformers 相同，因此我们的整理器也能直接放进
`transformers.Trainer`：

| 键 | 形状与类型 | 含义 |
|---|---|---|
| `input_ids` | (T,) int64 | 含特殊词元的一行 |
| `document_starts` | (R,) int64，可省 | 行内各文档的起点，缺省为 [0] |
| `special_tokens_mask` | (T,) bool，可省 | 特殊词元处为真 |
| `word_ids` | (T,) int64，可省 | 词的编号，特殊词元为 −1 |
| `num_chars` | (T,) int64，可省 | 每个词元所占的字数，评估用 |
| `example_id` | int，可省 | 样本编号，噪声由它决定 |
| `epoch` | int，可省 | 第几轮，噪声由它决定 |
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

IGNORE_INDEX = -100
"""`labels` 中不计损失的位置（torch 交叉熵的 `ignore_index`）。"""

LOSS_WEIGHTS = "loss_weights"
"""批量里的这一项，(B, L) float32：各目标的损失乘以它；没有遮的也有数，不可遮的是 0。"""

Feature = dict[str, Any]
Batch = dict[str, "Tensor"]
