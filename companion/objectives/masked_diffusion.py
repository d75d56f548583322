"""掩码扩散：每行抽一个比例 t，遮去这么多，再猜回来；按 1/t 加权，就是似然的上界。

    损失 = E_t [ 1/t · Σ_{i ∈ 遮住} −log p(x_i | x_t) ] / L，t 在 (0, 1] 上均匀

（Sahoo 等，2024，§3.3–3.4，MDLM；Nie 等，2025，§2.1，LLaDA。L 是可遮的词元数。）

例（t = 0.6，可遮的 5 个里遮住 3 个，遮住的各乘 1/0.6；[CLS]、[SEP]、[UNK] 从不遮）：

    原文      [CLS]  臣     光     曰     名     也    [SEP]
    input_ids [CLS] [MASK]  光   [MASK]   名   [MASK]  [SEP]
    labels      −    臣     −     曰     −     也      −

与掩码语言建模只差三处：比例每行不同，从一个都不遮到全遮；遮住的都是 [MASK]，没有随机与
原样的；有权重。换来的是：它是一个完整的语言模型，−log p(x) 不大于这个损失的期望，从全是
[MASK] 起一步步揭开，就能写字。

- 训练：每个词元独立地以 t 遮住，权重 1/t。一个也没遮住的行损失是 0，照样算进除数，所以
  估计无偏；论文发布的代码把 t 截在 0.001 以上，这里不截。
- 评估（`exact`）：个数 l 在 1 到 L 之间均匀，恰好遮 l 个，权重 L/l。期望相同（Nie 等，
  2025，附录 A.2），起伏小得多；[MASK] 总有，权重至多 L。

t 不是各行各抽：起点 + 样本编号 × 黄金分割，取小数部分；起点由（种子, 轮次）定。每一行的
t 仍是均匀的，编号相邻的却摊得很匀，起伏因此小些（MDLM 发布的代码在一批之内摊匀，用意相
同）。没有编号的样本各抽各的。

两类模型各有一个整理器：

- `MaskedDiffusionCollator`：编码器（BERT、ModernBERT），原样就用得。
- `OpenedDiffusionCollator`：只有解码器的（GPT-2、Llama、Qwen）。四维掩码把一篇之内全打
  开。**标签照旧由损失移位**：这些检查点预训练时位置 t 的输出就在猜第 t + 1 个，Dream、
  DiffuLLaMA 从 Qwen、Llama 改来，都留着这一格（Gong 等，2025，§3.2）；LLaDA 从头训练，
  才不移。所以每篇的首个词元没有人猜，也就不遮。

形状字母：B 行数，L 行长，T 一行的词元数。
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from companion.batch import IGNORE_INDEX, LOSS_WEIGHTS, Batch, Feature
from companion.errors import ObjectiveError
from companion.objectives.collate import (
    Collator,
    Example,
    PrefixCollator,
    make_example,
    pad_rows,
)
from companion.objectives.noise import choose_tokens
from companion.objectives.rows import Row

Flags = NDArray[np.bool_]

_GOLDEN = (5**0.5 - 1) / 2


def missing_tokens(tokenizer: Any) -> dict[str, str]:
    """没有掩码词元的分词器要添的，`add_special_tokens` 的写法；有就是空的。"""
    return {} if tokenizer.mask_token_id is not None else {"mask_token": "<|mask|>"}


def draw_rate(row: Row, seed: int) -> float:
    """这一行的 t，在 (0, 1] 上均匀；相邻编号的行摊得很匀。"""
    if row.example_id is None:
        return 1.0 - row.rng(seed, 1).random()
    start = replace(row, example_id=0).rng(seed, 1).random()
    return 1.0 - (start + row.example_id * _GOLDEN) % 1.0


@dataclass
class MaskedDiffusionCollator(Collator):
    """掩码扩散的数据整理器，给编码器；可单独用在 `transformers.Trainer` 里。

    输出 `input_ids`、`labels` (B, L) int64、`attention_mask`，以及 `loss_weights`
    (B, L) float32：可遮处是这一行的权重，别处是 0；一行装有多个文档时，掩码是四维的，另
    有 `position_ids`。一行一个 t，由（seed, epoch, example_id）决定。

    Raises:
        ObjectiveError: 分词器没有掩码词元。
    """

    seed: int = 0
    exact: bool = False
    """恰好遮 l 个、权重 L/l（评估）；假则各自以 t 遮、权重 1/t（训练）。"""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_mask(self.tokenizer)

    def example(self, row: Row) -> Example:
        """遮住，配上权重。"""
        return _noised(self, row, ~row.special)

    def hide(self, feature: Feature, noise: Flags) -> Example:
        """遮住指定的词元；填空题用，没有随机。`noise` 与正文等长，bool。"""
        return _hidden(self, self.read(feature), noise)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """补齐并配上掩码与权重。"""
        return _weighted(super().collate(examples), examples)


@dataclass
class OpenedDiffusionCollator(PrefixCollator):
    """掩码扩散的数据整理器，给只有解码器的模型；输出同上，掩码总是四维的，全打开。

    Raises:
        ObjectiveError: 分词器没有掩码词元，或一篇长过模型的位置。
    """

    exact: bool = False
    """同 `MaskedDiffusionCollator`。"""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_mask(self.tokenizer)

    def example(self, row: Row) -> Example:
        """遮住，配上权重；各篇的首个词元左边没有位置来猜它，不遮。"""
        maskable = ~row.special
        maskable[row.document_starts] = False
        return _noised(self, row, maskable, prefix=np.ones(len(row), np.bool_))

    def hide(self, feature: Feature, noise: Flags) -> Example:
        """遮住指定的词元；填空题用，没有随机。`noise` 与正文等长，bool。"""
        row = self.read(feature)
        return _hidden(self, row, noise, prefix=np.ones(len(row), np.bool_))

    def collate(self, examples: Sequence[Example]) -> Batch:
        """补齐并配上掩码与权重。"""
        return _weighted(super().collate(examples), examples)


def _noised(collator: Any, row: Row, maskable: Flags, **fields: Any) -> Example:
    rate, rng = draw_rate(row, collator.seed), row.rng(collator.seed)
    size = int(maskable.sum())
    if collator.exact:
        count = ceil(rate * size)
        chosen, weight = choose_tokens(maskable, count, rng), size / max(1, count)
    else:
        chosen, weight = maskable & (rng.random(len(row)) < rate), 1 / rate
    weights = np.where(maskable, weight, 0).astype(np.float32)
    return _masked(collator, row, chosen, weights, **fields)


def _hidden(collator: Any, row: Row, noise: Flags, **fields: Any) -> Example:
    [document] = row.documents
    chosen = np.zeros(len(row), np.bool_)
    chosen[document.left : document.right] = noise
    return _masked(collator, row, chosen, chosen.astype(np.float32), **fields)


def _masked(
    collator: Any, row: Row, chosen: Flags, weights: NDArray[Any], **fields: Any
) -> Example:
    return make_example(
        np.where(chosen, collator.tokenizer.mask_token_id, row.input_ids),
        np.where(chosen, row.input_ids, IGNORE_INDEX),
        documents=row.document_index,
        extra={LOSS_WEIGHTS: torch.from_numpy(weights)},
        **fields,
    )


def _weighted(batch: Batch, examples: Sequence[Example]) -> Batch:
    rows = [each.extra[LOSS_WEIGHTS] for each in examples]
    return batch | {LOSS_WEIGHTS: pad_rows(rows, 0, batch["labels"].shape[1])}


def _require_mask(tokenizer: Any) -> None:
    if tokenizer.mask_token_id is None:
        raise ObjectiveError(
            found=f"分词器 {type(tokenizer).__name__} 没有掩码词元",
            expected="有 mask_token（BERT 的是 [MASK]）",
            remedy="用 load_checkpoint(名字, 'masked_diffusion') 打开，缺的会添上",
        )
