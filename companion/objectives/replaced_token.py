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
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from companion.batch import IGNORE_INDEX, Batch, Feature
from companion.errors import ObjectiveError
from companion.objectives.example import Example
from companion.objectives.masked_lm import MaskedLMCollator
from companion.objectives.noise import derive_generator
from companion.objectives.padding import pad_rows
from companion.objectives.ragged import document_keys, uniform
from companion.objectives.rows import Row, read_row

NOISE_BITS = 53
"""`sampling_noise` 是几位的整数；除以 2⁵³ 就是 [0, 1) 上的随机数。"""


@dataclass(frozen=True, kw_only=True)
class ReplacedTokenExample(Example):
    """带抽样随机数的样本。"""

    original_ids: Tensor
    """原文；特殊词元处为 −100，判别器不必判断，(T,) int64。"""
    sampling_noise: Tensor
    """每个位置一个 53 位的随机整数，(T,) int64。"""


@dataclass
class ReplacedTokenCollator(MaskedLMCollator):
    """ELECTRA 的数据整理器；掩码的参数见 `MaskedLMCollator`。

    输出另有 `original_ids` 与 `sampling_noise` (B, L) int64。生成器抽什么由
    `sampling_noise` 定，它只由（seed, epoch, example_id, 位置）决定；所以同样的权重、同
    样的样本，抽出同样的词元，与批量大小、进程数都无关（只差浮点舍入）。
    """

    mask_replace_prob: float = 0.85
    random_replace_prob: float = 0.0

    def examples(self, features: Sequence[Feature]) -> list[Example]:
        """样本 → 遮好、配上随机数的样子。"""
        return [
            self._with_noise(masked, read_row(feature, self._special_ids))
            for masked, feature in zip(
                super().examples(features), features, strict=True
            )
        ]

    def collate(self, examples: Sequence[Example]) -> Batch:
        """补齐；填充处不判断，也不抽样。"""
        batch = super().collate(examples)
        length = batch["input_ids"].shape[1]
        given = [_given(each) for each in examples]
        batch["original_ids"] = pad_rows(
            [each.original_ids for each in given], IGNORE_INDEX, length
        )
        batch["sampling_noise"] = pad_rows(
            [each.sampling_noise for each in given], 0, length
        )
        return batch

    def _with_noise(self, masked: Example, row: Row) -> ReplacedTokenExample:
        number = row.example_id
        if number is None:
            number = int(torch.randint(2**62, ()))
        keys = document_keys(
            self.seed, np.array([row.epoch]), np.array([number]), np.array([0])
        )
        lots = uniform(keys, len(row.input_ids))[0]
        return ReplacedTokenExample(
            **vars(masked),
            original_ids=row.input_ids.masked_fill(row.special, IGNORE_INDEX),
            sampling_noise=torch.from_numpy((lots * 2.0**NOISE_BITS).astype(np.int64)),
        )


@dataclass
class DrawnFakesCollator(MaskedLMCollator):
    """判别器的考题：假的不由生成器造，从同一行别处抽来，所以谁来考都是同一份。

    选中 15% 的普通词元，各换成这一行里随机抽到的一个；抽到与原来相同的，算原文。每个普
    通词元都要判断：标签 1 是换过，0 是原文，特殊词元处是 −100。

    生成器造的假更像真的，但它随训练而变：训练前后的考题不同，分数就不能相减。
    """

    def _corrupt(self, row: Row) -> tuple[Tensor, Tensor]:
        """换过的一行与每个词元的答案，各 (T,) int64。"""
        generator = derive_generator(self.seed, row.epoch, row.example_id or 0)
        chosen = self._choose(row, generator)
        ordinary = row.input_ids[~row.special]
        fakes = row.input_ids.clone()
        drawn = torch.randint(
            max(1, len(ordinary)), (int(chosen.sum()),), generator=generator
        )
        fakes[chosen] = ordinary[drawn]
        answers = (fakes != row.input_ids).long()
        return fakes, answers.masked_fill(row.special, IGNORE_INDEX)


def _given(example: Example) -> ReplacedTokenExample:
    if isinstance(example, ReplacedTokenExample):
        return example
    raise ObjectiveError(
        found="这个样本没有抽样用的随机数",
        expected="替换词元检测的整理器自己造出的样本",
        remedy="用同一个整理器的 examples 造出样本，再交给 collate",
    )
