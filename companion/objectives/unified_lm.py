"""UniLM：一个 BERT，三种掩码，同一个完形填空。

    损失 = − Σ_{t ∈ 选中} log p(x_t | 掩码许看的 x̃)    （Dong 等，2019，§2.3）

同一句话、同样的 [MASK]，换一张可见矩阵就换了一个任务（图 1）：

    双向          1/3   [CLS] S1 [SEP] S2 [SEP]   处处可见
    序列到序列     1/3   [CLS] S1 [SEP] S2 [SEP]   S1 互相可见，S2 看 S1 与自己的左边
    从左到右       1/6   [CLS] S  [SEP]            看自己与左边
    从右到左       1/6   [CLS] S  [SEP]            看自己与右边

四种都是填空：[MASK] 在自己的位置上预测，标签不移位。选中 15%（个数恰好），80% 换成
[MASK]、10% 随机、10% 保留；每挑一次，80% 只遮一个词元，20% 遮相连的两个或三个（§2.4）。

论文没有发布预训练的代码，这里定下几件它没有写明的事：

- 任务**逐行**抽，不逐批抽：每一步的梯度里四种任务都有；一行抽到什么只由（种子，轮次，
  样本编号）决定，与同谁一批、几个进程无关。一行装几篇文档时，各篇同一任务，各自切分。
- 两段由一篇文档在正文的词元之间均匀切开，中间插一个 [SEP]；所以一行会长一个词元。
- 不做下一句预测：两段总是相连的，检查点的语言建模头里也没有那个分类器。

片段编号（`token_type_ids`）：检查点有六种时照发布的代码，双向 0/1，从左到右 2，从右到左
3，序列到序列 4/5；普通的 BERT 只有两种，两段是 0/1，一段是 0。

微调（`fine_tuning`）只用序列到序列，只遮目标端，连同末尾的 [SEP]：模型由此学会停。个数
是 round(0.7 × 目标词元数)，词元数不含 [SEP]，候选含它（§2.5 与发布的代码）。

形状字母：B 行数，L 行长，T 一行的词元数。
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from companion.batch import IGNORE_INDEX
from companion.errors import ObjectiveError
from companion.objectives.attention import MaskKind
from companion.objectives.documents import Documents
from companion.objectives.example import Example
from companion.objectives.explicit_mask import ExplicitMaskCollator
from companion.objectives.noise import (
    choose_tokens,
    corrupt_tokens,
    masking_budget,
    require_probability,
)
from companion.objectives.ragged import uniform

TASKS: dict[MaskKind, float] = {
    "bidirectional": 1 / 3,
    "seq2seq": 1 / 3,
    "left_to_right": 1 / 6,
    "right_to_left": 1 / 6,
}
"""四种任务与抽中的概率（Dong 等，2019，§2.3）。"""

SEGMENTS: dict[MaskKind, tuple[int, int]] = {
    "bidirectional": (0, 1),
    "seq2seq": (4, 5),
    "left_to_right": (2, 2),
    "right_to_left": (3, 3),
}
"""有六种片段编号的检查点：第一段与第二段。从右到左的 3 没有公布，按空缺推定。"""

_TASK_STREAM, _SEED_STREAM = 1, 2
_BOUNDS = np.cumsum(tuple(TASKS.values()))[:-1]


def choose_ngrams(
    candidates: Tensor,
    budget: int,
    ngram_probability: float,
    generator: torch.Generator,
) -> Tensor:
    """挑词元，有时一次挑相连的两三个，共 `budget` 个。

    起点的次序随机；每个起点以 `1 − ngram_probability` 只挑自己，否则挑两个或三个（各
    半），遇到非候选处即止。挑满为止，最后一次可能挑不全。

    Args:
        candidates: 候选处为真，(T,) bool。
        budget: 要挑的个数；超过候选数时全挑。
        ngram_probability: 一次挑相连几个的概率。
        generator: 随机数来源。

    Returns:
        挑中处为真，(T,) bool。
    """
    length = len(candidates)
    turn = torch.rand(length, generator=generator)  # 第几个轮到以它为起点
    lot = torch.rand(length, generator=generator)
    size = 1 + (lot < ngram_probability).long() + (lot < ngram_probability / 2).long()
    never = torch.tensor(2.0)
    turn = torch.where(candidates, turn, never)  # 非候选不作起点
    first = turn.clone()  # 各位置最早在哪一轮被挑中
    linked = candidates[1:] & candidates[:-1]
    reach = torch.where(linked & (size[:-1] >= 2), turn[:-1], never)
    first[1:] = torch.minimum(first[1:], reach)
    reach = torch.where(linked[1:] & (size[:-2] >= 3), turn[:-2], never)
    first[2:] = torch.minimum(first[2:], reach)
    # 稳定排序：同一轮挑中的几个，左边的在先，挑不全时去掉的是尾巴
    order = first.sort(stable=True).indices[: min(budget, int(candidates.sum()))]
    chosen = torch.zeros_like(candidates)
    chosen[order] = True
    return chosen


@dataclass
class UnifiedLMCollator(ExplicitMaskCollator):
    """UniLM v1 的数据整理器，给 BERT 一类的掩码语言模型；可单独用在 `Trainer` 里。

    输出 `input_ids`、`labels`、`token_type_ids` (B, L) int64 与 `attention_mask`
    (B, 1, L, L) float32。样本带 `prefix_length` 时，源端照它划定（含 [CLS] 与中间的
    [SEP]，如 `tokenizer(源, 目标)` 的输出），不再插入 [SEP]。

    Raises:
        ObjectiveError: 分词器没有 [MASK] 或 [SEP]，概率越界，或见父类。
    """

    mlm_probability: float = 0.15
    """预训练时选中的比例；T 个词元选 max(1, round(0.15·T)) 个。"""
    ngram_probability: float = 0.2
    """一次遮相连两三个词元的概率；微调时总是一个。"""
    fine_tuning: bool = False
    """只用序列到序列，只遮目标端。"""
    target_mask_probability: float = 0.7
    """微调时遮住目标端的比例（§2.5；发布的各个方案都用 0.7，CoQA 用 0.5）。"""
    mask_replace_prob: float = 0.8
    random_replace_prob: float = 0.1
    type_vocab_size: int = 2
    """检查点有几种片段编号，抄自 `model.config`；不足两种时不给 `token_type_ids`。"""

    _random_ids: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check()
        ids = torch.arange(len(self.tokenizer))
        self._random_ids = ids[~torch.isin(ids, self._special_ids)]

    def row_capacity(self, block_size: int, num_edges: int) -> int:
        """两段之间要插一个 [SEP]，原文少装一个词元。"""
        del num_edges
        return block_size - 1

    def corrupt(self, documents: Documents) -> list[Example]:
        """逐行抽任务、分段、遮词元。"""
        first = np.searchsorted(documents.rows, np.arange(documents.num_rows))
        keys = documents.keys[first]  # 一行的任务与噪声由它第一篇的钥匙决定
        lots = uniform(keys, 1, _TASK_STREAM)[:, 0]
        tasks = np.searchsorted(_BOUNDS, lots, side="right")
        seeds = (uniform(keys, 1, _SEED_STREAM)[:, 0] * 2**53).astype(np.int64)
        splits = documents.splits()
        names = tuple(TASKS)
        return [
            self._row(
                documents,
                np.flatnonzero(documents.rows == row),
                splits,
                "seq2seq" if self.fine_tuning else names[tasks[row]],
                torch.Generator().manual_seed(int(seeds[row])),
            )
            for row in range(documents.num_rows)
        ]

    def _row(
        self,
        documents: Documents,
        inside: NDArray[np.int64],
        splits: NDArray[np.int64],
        task: MaskKind,
        generator: torch.Generator,
    ) -> Example:
        """一行：`inside` 是行内各篇的编号。"""
        begin = int(documents.starts[inside[0]])
        place = np.arange(begin, int(documents.stops[inside[-1]]))  # (T,)
        owner = np.repeat(
            np.arange(len(inside)), (documents.stops - documents.starts)[inside]
        )
        paired = task in ("bidirectional", "seq2seq")
        cut = splits[inside]  # 切不开的文档没有源端
        inserted = cut[
            paired & (documents.given[inside] < 0) & (cut > documents.starts[inside])
        ]
        second = paired & (place >= cut[owner])

        # 原文第几个词元；插入的 [SEP] 为 −1，归它前面的那篇、那一段
        origin = np.insert(place - begin, inserted - begin, -1)
        source = np.where(origin < 0, np.append(0, origin[:-1]), origin)

        def spread(values: NDArray[Any]) -> Tensor:
            return torch.from_numpy(values[source])

        missing = torch.from_numpy(origin < 0)
        ids = spread(documents.ids[place])
        ids[missing] = self.tokenizer.sep_token_id
        index, target = spread(owner), spread(second)
        candidates = ~(spread(documents.special[place]) | missing)
        if self.fine_tuning:
            last = documents.rights[inside]  # 各篇末尾的 [SEP]
            last = last[last < documents.stops[inside]] - begin
            ending = torch.from_numpy(np.isin(origin, last))
            chosen = self._choose_targets(candidates, target, ending, index, generator)
        else:
            budget = masking_budget(
                len(ids), int(candidates.sum()), self.mlm_probability
            )
            chosen = choose_ngrams(
                candidates, budget, self.ngram_probability, generator
            )
        corrupted = corrupt_tokens(
            ids,
            chosen,
            mask_token_id=self.tokenizer.mask_token_id,
            random_ids=self._random_ids,
            mask_replace_prob=self.mask_replace_prob,
            random_replace_prob=self.random_replace_prob,
            generator=generator,
        )
        prefix = {"bidirectional": torch.ones_like(target), "seq2seq": ~target}
        return Example(
            input_ids=corrupted,
            labels=ids.masked_fill(~chosen, IGNORE_INDEX),
            origin=torch.from_numpy(origin),
            hidden=chosen,
            documents=index,
            prefix=prefix.get(task, torch.zeros_like(target)),
            reverse=task == "right_to_left",
            token_type_ids=self._segments(task, target),
        )

    def _choose_targets(
        self,
        candidates: Tensor,
        target: Tensor,
        ending: Tensor,
        index: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """微调：各篇的目标端选 round(p·n) 个，末尾的 [SEP] 也是候选。"""
        chosen = torch.zeros_like(candidates)
        for number in range(int(index[-1]) + 1):
            words = candidates & target & (index == number)
            count = max(1, round(int(words.sum()) * self.target_mask_probability))
            allowed = words | (ending & (index == number))
            chosen |= choose_tokens(allowed, count, generator)
        return chosen

    def _segments(self, task: MaskKind, target: Tensor) -> Tensor | None:
        if self.type_vocab_size < 2:
            return None
        if self.type_vocab_size < 6:
            return target.long()
        source, destination = SEGMENTS[task]
        return torch.where(target, destination, source)

    def _check(self) -> None:
        for name in (
            "mlm_probability",
            "ngram_probability",
            "target_mask_probability",
            "mask_replace_prob",
            "random_replace_prob",
        ):
            require_probability(name, getattr(self, name))
        require_probability(
            "mask_replace_prob + random_replace_prob",
            self.mask_replace_prob + self.random_replace_prob,
        )
        needed = {"mask_token": "[MASK]", "sep_token": "[SEP]"}
        missing = [
            f"{name}（{example}）"
            for name, example in needed.items()
            if getattr(self.tokenizer, f"{name}_id") is None
        ]
        if missing:
            raise ObjectiveError(
                found=f"分词器 {type(self.tokenizer).__name__} 没有 "
                f"{'、'.join(missing)}",
                expected="UniLM 的分词器两者都有，如 BERT 的",
                remedy="换一个 BERT 类的检查点；只有解码器的模型改用 prefix_lm",
            )
