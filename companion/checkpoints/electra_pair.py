"""ELECTRA 的一对模型：小的生成器造假，大的判别器逐个词元认假。

    损失 = 掩码语言建模（生成器，每个被遮的词元）
         + 50 × 二元交叉熵（判别器，每个普通词元）        （Clark 等，2020，§2）

生成器在被遮的位置上按自己的概率抽一个词元（温度 1），抽出来的是编号，梯度不回传：生成器
只由第一项训练，不是对抗。抽中原来的词元算“原文”。两者共用词嵌入、位置嵌入与片段嵌入。

与库的 `ElectraForPreTraining` 不同：那里的损失把 [CLS]、[SEP] 也算进去，又不认 −100（当
作目标值 −100 算进交叉熵），四维掩码还会报错。这里由 logits 自己算，只算普通词元。

三家判别器：

- ELECTRA：`ElectraForPreTraining`，1 是“换过”。
- Funnel：`FunnelForPreTraining`，发布的检查点里 1 是“**原文**”，符号相反。
- ConvBERT：库里没有它的判别头，用只有一个标签的 `ConvBertForTokenClassification`，头从
  随机练起，1 是“换过”。

形状字母：B 行数，L 行长，N 被遮的词元数，M 普通词元数，V 词表。
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from companion.batch import IGNORE_INDEX, Batch
from companion.errors import ModelError
from companion.losses.target_head import (
    TargetLosses,
    output_head,
    score_logits,
    widest_float,
)
from companion.objectives.replaced_token import NOISE_BITS
from companion.preflight.probing import adapt_batch

DISCRIMINATOR_WEIGHT = 50.0
"""判别器那一项的权重（Clark 等，2020，§2 与发布的代码）。"""

DISCRIMINATORS = {
    "electra": "AutoModelForPreTraining",
    "funnel": "AutoModelForPreTraining",
    "convbert": "AutoModelForTokenClassification",
}
"""架构 → 打开判别器的 Auto 类。"""

ORIGINAL_IS_ONE = ("funnel",)
"""判别器的 1 表示“原文”的架构。"""

TIED_TABLES = ("position_embeddings", "token_type_embeddings")
"""词嵌入之外，两个模型共用的嵌入表。"""

_CHUNK = 256
"""一次抽多少个词元。"""

LABEL_KEYS = (
    "labels",
    "original_ids",
    "sampling_noise",
    "sentence_order_label",
    "next_sentence_label",
    "span_borders",
    "attended",
)
"""批量里不交给模型的几项。"""


@dataclass(frozen=True)
class ReplacedTokenLosses:
    """一批的两份损失。"""

    targets: TargetLosses
    """生成器：被遮的词元。"""
    detection_total_nats: Tensor
    """判别器的损失之和，标量 float32，可求导；未乘 50。"""
    detection_nats: Tensor
    """每个普通词元的损失，(M,) float32，不求导。"""
    replaced: Tensor
    """真的换过为真，(M,) bool。"""
    guessed: Tensor
    """判别器说换过为真，(M,) bool。"""

    @property
    def detection(self) -> TargetLosses:
        """判别器的一份，写成与词元的一份同样的形式。"""
        return TargetLosses(
            self.detection_total_nats,
            self.detection_nats,
            self.guessed == self.replaced,
        )

    @property
    def loss(self) -> Tensor:
        """两项各自平均，判别器的乘 50，相加。"""
        words = self.targets.total_nats / max(1, len(self.targets.nats))
        detection = self.detection_total_nats / max(1, len(self.detection_nats))
        return words + DISCRIMINATOR_WEIGHT * detection


class ElectraPair(nn.Module):
    """生成器与判别器，嵌入共用；判别器的那一份为准。

    Args:
        generator: 带掩码语言建模头的模型。
        discriminator: `DISCRIMINATORS` 里的一种。

    Raises:
        ModelError: 不认识的判别器，或两者的词嵌入形状不同。
    """

    def __init__(self, generator: Any, discriminator: Any) -> None:
        super().__init__()
        kind = discriminator.config.model_type
        if kind not in DISCRIMINATORS:
            raise ModelError(
                found=f"{type(discriminator).__name__}（{kind}）不能作判别器",
                expected=f"{'、'.join(DISCRIMINATORS)} 之一",
                remedy="换一个这样的检查点；别的编码器用 masked_lm",
            )
        self.generator = generator
        self.discriminator = discriminator
        self.original_is_one = kind in ORIGINAL_IS_ONE
        self.tied = tie_embeddings(generator, discriminator)

    @property
    def parts(self) -> dict[str, Any]:
        """各存成一个标准检查点的两个模型：文件夹名 → 模型。"""
        return {"discriminator": self.discriminator, "generator": self.generator}

    @property
    def config(self) -> Any:
        """判别器的设置。"""
        return self.discriminator.config

    @property
    def device(self) -> torch.device:
        """参数所在的设备。"""
        return self.discriminator.device

    @property
    def dtype(self) -> torch.dtype:
        """参数的浮点类型。"""
        return self.discriminator.dtype

    @property
    def supports_gradient_checkpointing(self) -> bool:
        """两个模型都能重算激活。"""
        return all(each.supports_gradient_checkpointing for each in self.parts.values())

    def get_input_embeddings(self) -> nn.Module:
        """共用的词嵌入。"""
        return self.discriminator.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module | None:
        """生成器的输出头。"""
        return self.generator.get_output_embeddings()

    def forward(self, **batch: Tensor) -> ReplacedTokenLosses:
        """造一批假、认一遍，求两份损失。

        Args:
            **batch: `ReplacedTokenCollator` 的输出。
        """
        original_ids = batch["original_ids"]
        fakes, targets = self.make_fakes(batch)
        judged = original_ids != IGNORE_INDEX
        replaced = (fakes != original_ids)[judged]  # (M,)
        logits = self._says_replaced({**batch, "input_ids": fakes})[judged]
        nats = _detection_nats(logits, replaced)
        return ReplacedTokenLosses(
            targets=targets,
            detection_total_nats=nats.sum(),
            detection_nats=nats.detach(),
            replaced=replaced,
            guessed=logits > 0,
        )

    def detect(self, batch: Batch) -> TargetLosses:
        """假的已经造好时，判别器认得怎样；生成器不上场。

        Args:
            batch: `input_ids` 里有假；`labels` (B, L)：1 换过，0 原文，−100 不判。
        """
        judged = batch["labels"] != IGNORE_INDEX
        replaced = batch["labels"][judged] == 1
        logits = self._says_replaced(batch)[judged]
        nats = _detection_nats(logits, replaced)
        return TargetLosses(nats.sum(), nats.detach(), (logits > 0) == replaced)

    def _says_replaced(self, batch: Batch) -> Tensor:
        """判别器给每个词元“换过”的分数，(B, L) float32。"""
        inputs = submodel_inputs(self.discriminator, batch)
        logits = self.discriminator(**inputs).logits
        logits = logits.reshape(batch["input_ids"].shape).float()
        return -logits if self.original_is_one else logits  # 1 与 0 互换，等于取反

    def make_fakes(self, batch: Batch) -> tuple[Tensor, TargetLosses]:
        """生成器前向一次：判别器的输入 (B, L)，与生成器自己的损失。"""
        labels, inputs = batch["labels"], batch["input_ids"]
        chosen = labels != IGNORE_INDEX
        with _only_rows(output_head(self.generator), chosen):
            logits = self.generator(**submodel_inputs(self.generator, batch)).logits
        fakes = torch.where(chosen, labels, inputs)  # 原文
        fakes[chosen] = sample_tokens(logits.detach(), batch["sampling_noise"][chosen])
        return fakes, score_logits(logits, labels[chosen])


def sample_tokens(logits: Tensor, noise: Tensor) -> Tensor:
    """按 softmax 的概率各抽一个词元：累积概率头一次超过随机数的那一个。

    Args:
        logits: (N, V)。
        noise: 53 位的随机整数，(N,) int64。

    Returns:
        词元，(N,) int64。

    >>> half = 1 << (NOISE_BITS - 1)
    >>> sample_tokens(torch.zeros(3, 4), torch.tensor([0, half - 1, half])).tolist()
    [0, 1, 2]
    """
    # 词表几万时，单精度的累积概率会把小概率的词元吞掉
    precision = widest_float(logits.device)
    drawn: list[Tensor] = []
    for part, bits in zip(logits.split(_CHUNK), noise.split(_CHUNK), strict=True):
        total = part.to(precision).softmax(-1).cumsum(-1)
        lots = bits.to(precision)[:, None] * 2.0**-NOISE_BITS * total[:, -1:]
        drawn.append(torch.searchsorted(total, lots, right=True)[:, 0])
    if not drawn:
        return noise.new_empty(0)
    return torch.cat(drawn).clamp(max=logits.shape[-1] - 1)


def tie_embeddings(generator: Any, discriminator: Any) -> tuple[str, ...]:
    """生成器改用判别器的嵌入；返回共用了哪几张表。

    Raises:
        ModelError: 词嵌入的形状不同。
    """
    mine, theirs = (
        generator.get_input_embeddings(),
        discriminator.get_input_embeddings(),
    )
    if mine.weight.shape != theirs.weight.shape:
        raise ModelError(
            found=f"生成器的词嵌入是 {tuple(mine.weight.shape)}，判别器的是 "
            f"{tuple(theirs.weight.shape)}",
            expected="两者的词表与嵌入宽度相同，才能共用（Clark 等，2020，§3.2）",
            remedy="用同一系列的生成器（如 electra-small 的一对），"
            "或不给生成器，由本书新建一个",
        )
    head = generator.get_output_embeddings()
    if head is not None and head.weight is mine.weight:
        head.weight = theirs.weight
    mine.weight = theirs.weight
    tied = ["word_embeddings"]
    for name in TIED_TABLES:
        ours, others = _table(generator, name), _table(discriminator, name)
        if ours is None or others is None or ours.weight.shape != others.weight.shape:
            continue
        ours.weight = others.weight
        tied.append(name)
    return tuple(tied)


def _table(model: Any, name: str) -> nn.Embedding | None:
    for path, module in model.named_modules():
        if path.rpartition(".")[2] == name and isinstance(module, nn.Embedding):
            return module
    return None


def submodel_inputs(model: Any, batch: Batch) -> Batch:
    """只留模型要的几项，改成它收得下的样子；标签都不给。"""
    kept = {name: value for name, value in batch.items() if name not in LABEL_KEYS}
    return adapt_batch(model, kept)


def _detection_nats(logits: Tensor, replaced: Tensor) -> Tensor:
    """各词元的二元交叉熵，(M,)。"""
    return F.binary_cross_entropy_with_logits(
        logits, replaced.float(), reduction="none"
    )


@contextmanager
def _only_rows(head: nn.Module, rows: Tensor) -> Generator[None]:
    """期间输出头只算 `rows` 处：(B, L, D) → (N, D)。"""

    def select(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][rows], *args[1:])

    hook = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()
