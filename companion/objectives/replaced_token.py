"""替换词元检测（ELECTRA）的批量：掩码语言建模，加上抽样要用的随机数。

    原文        天   子   之   职   莫   大   于   礼
    生成器看到  天 [MASK] 之   职   莫 [MASK] 于   礼
    判别器看到  天   子   之   职   莫   小   于   礼     生成器猜对了“子”，猜成了“小”
    判别器答    原   原   原   原   原   换   原   原     猜对的算原文

遮哪些在这里定；抽样与两份损失要两个模型，见 `companion.checkpoints.electra_pair`
（Clark 等，2020，§2）。发布的代码把 85% 换成 [MASK]、15% 保留，没有随机替换；它放回地
抽位置，512 个词元平均只有 71 个不同的，这里不放回，恰好 77 个。

形状字母：B 行数，L 行长，T 一行的词元数。
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from companion.batch import IGNORE_INDEX, Batch
from companion.objectives.collate import Example, pad_rows
from companion.objectives.masked_lm import MaskedLMCollator
from companion.objectives.rows import Row, draw_from

NOISE_BITS = 53
"""`sampling_noise` 是几位的整数；除以 2⁵³ 就是 [0, 1) 上的随机数。"""


@dataclass
class ReplacedTokenCollator(MaskedLMCollator):
    """ELECTRA 的数据整理器；掩码的参数见 `MaskedLMCollator`。

    输出另有 `original_ids`（原文；特殊词元与填充处为 −100，判别器不必判断）与
    `sampling_noise`（每个位置一个 53 位的随机整数），各 (B, L) int64。生成器抽什么由
    `sampling_noise` 定，它只由（seed, epoch, example_id, 位置）决定；所以同样的权重、同
    样的样本，抽出同样的词元，与批量大小、进程数都无关（只差浮点舍入）。
    """

    mask_replace_prob: float = 0.85
    random_replace_prob: float = 0.0

    def example(self, row: Row) -> Example:
        """遮好、配上随机数。"""
        original = np.where(row.special, IGNORE_INDEX, row.input_ids)
        lots = row.rng(self.seed, 1).random(len(row))
        noise = (lots * 2.0**NOISE_BITS).astype(np.int64)
        extra = {
            "original_ids": torch.from_numpy(original),
            "sampling_noise": torch.from_numpy(noise),
        }
        masked = super().example(row)
        return replace(masked, extra=masked.extra | extra)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """补齐；填充处不判断，也不抽样。"""
        batch = super().collate(examples)
        length = batch["input_ids"].shape[1]
        for name, value in (("original_ids", IGNORE_INDEX), ("sampling_noise", 0)):
            batch[name] = pad_rows([e.extra[name] for e in examples], value, length)
        return batch


@dataclass
class DrawnFakesCollator(MaskedLMCollator):
    """判别器的评估目标：假的不由生成器造，从同一行别处抽来，谁来评估都是同一份。

    选中 15% 的普通词元，各换成这一行里随机抽到的一个；抽到与原来相同的，算原文。每个普
    通词元都要判断：标签 1 是换过，0 是原文，特殊词元处是 −100。

    生成器造的假更像真的，但它随训练而变：训练前后的评估目标不同，分数就不能相减。
    """

    def corrupt(
        self, row: Row, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """换过的一行与每个词元的答案，各 (T,) int64。"""
        chosen = self.choose(row, rng)
        fakes = row.input_ids.copy()
        if chosen.any():
            ordinary = row.input_ids[~row.special]
            fakes[chosen] = draw_from(ordinary, int(chosen.sum()), rng)
        answers = (fakes != row.input_ids).astype(np.int64)
        return fakes, np.where(row.special, IGNORE_INDEX, answers)
