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

存下的是两个标准检查点：

    DIR/discriminator   AutoModelForPreTraining；ConvBERT 是 …ForTokenClassification
    DIR/generator       AutoModelForMaskedLM

没有生成器时，新建一个判别器四分之一宽的，词嵌入照样共用，其余从随机练起，并说出来：它起初
只会乱猜，造的假很容易识破，判别器要过一阵才学得到东西。有配套的生成器总是更好。

形状字母：B 行数，L 行长，N 被遮的词元数，M 普通词元数，V 词表。
"""

import copy
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from companion.batch import IGNORE_INDEX, Batch
from companion.checkpoints.locating import DISCRIMINATOR, GENERATOR, locate
from companion.checkpoints.reading import (
    check_weight_files,
    load_weights,
    quiet_transformers,
    read_config,
    read_tokenizer,
)
from companion.checkpoints.running import output_head, submodel_inputs, widest_float
from companion.errors import ModelError
from companion.objectives.replaced_token import NOISE_BITS

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

GENERATOR_SHARE = 0.25
"""新建的生成器有判别器的几分之几宽（Clark 等，2020，§3.2：四分之一到二分之一）。"""

_CHUNK = 256
"""一次抽多少个词元。"""


@dataclass(frozen=True)
class PairOutputs:
    """一批造假、认假的所得；损失由 `companion.losses.parts.PairLoss` 求。"""

    word_logits: Tensor
    """生成器在被遮处的分数，(N, V)，可求导。"""
    words: Tensor
    """被遮的词元，(N,) int64。"""
    scores: Tensor
    """判别器给每个普通词元“换过”的分数，(M,) float32，可求导。"""
    replaced: Tensor
    """真的换过为真，(M,) bool。"""


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

    def forward(self, **batch: Tensor) -> PairOutputs:
        """造一批假，认一遍。

        Args:
            **batch: `ReplacedTokenCollator` 的输出。
        """
        labels, original_ids = batch["labels"], batch["original_ids"]
        fakes, word_logits = self.make_fakes(batch)
        judged = original_ids != IGNORE_INDEX
        return PairOutputs(
            word_logits=word_logits,
            words=labels[labels != IGNORE_INDEX],
            scores=self.says_replaced({**batch, "input_ids": fakes})[judged],
            replaced=(fakes != original_ids)[judged],
        )

    def make_fakes(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """生成器前向一次：判别器的输入 (B, L)，与生成器在被遮处的分数 (N, V)。"""
        labels, inputs = batch["labels"], batch["input_ids"]
        chosen = labels != IGNORE_INDEX
        with _only_rows(output_head(self.generator), chosen):
            logits = self.generator(**submodel_inputs(self.generator, batch)).logits
        fakes = torch.where(chosen, labels, inputs)  # 原文
        fakes[chosen] = sample_tokens(logits.detach(), batch["sampling_noise"][chosen])
        return fakes, logits

    def says_replaced(self, batch: Batch) -> Tensor:
        """判别器给每个词元“换过”的分数，(B, L) float32，正的是说换过；生成器不上场。"""
        inputs = submodel_inputs(self.discriminator, batch)
        logits = self.discriminator(**inputs).logits
        logits = logits.reshape(batch["input_ids"].shape).float()
        return -logits if self.original_is_one else logits  # 1 与 0 互换，等于取反


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


def open_pair(
    name: str, generator: str | None = None, *, revision: str | None = None
) -> tuple[ElectraPair, Any, list[str]]:
    """打开判别器与生成器。

    Args:
        name: 判别器的名字（写法见 `locating`），或 `save_checkpoint` 存下一对的文件夹。
        generator: 生成器的名字；不给就用存在一起的那个，再没有就新建。
        revision: 判别器所在仓库的分支、标签或提交。

    Returns:
        一对（评估模式，float32），判别器的分词器，用户应当知道的事。

    Raises:
        ModelError: 找不到、残缺、不是判别器，或两者的词表、嵌入宽度不同。
    """
    location = locate(name, revision)
    folder = location.folder
    if (folder / DISCRIMINATOR).is_dir():
        if generator is None and (folder / GENERATOR).is_dir():
            generator = str(folder / GENERATOR)
        folder = folder / DISCRIMINATOR
    judge, remarks = _open_discriminator(folder, name)
    tokenizer, more = read_tokenizer(folder, name)
    notices = [*location.notices, *remarks, *more]
    if generator is None:
        maker = fresh_generator(judge)
        notices.append(
            f"没有给生成器：新建了一个（{_size(maker)}），词嵌入与判别器共用，其余随机。"
            "它起初只会乱猜，判别器要过一阵才学得到东西；有配套的生成器就用它"
        )
    else:
        place = locate(generator)
        notices += [*place.notices, *check_weight_files(place.folder)]
        with quiet_transformers():
            loaded = load_weights(place.folder, "AutoModelForMaskedLM")
        notices += loaded.notices
        maker = loaded.model
        theirs, _ = read_tokenizer(place.folder, generator)
        _require_same_vocabulary(tokenizer, theirs, generator)
        notices += _warn_untied(maker, judge)
    return ElectraPair(maker, judge).eval(), tokenizer, notices


def fresh_generator(discriminator: Any, seed: int = 0) -> Any:
    """照判别器新建一个小的生成器，权重随机；全局随机状态原样不动。

    ELECTRA 与 ConvBERT 的嵌入宽度与隐藏层宽度是两回事，所以缩隐藏层：头数、宽度、前馈层
    都乘 `GENERATOR_SHARE`。Funnel 两者是一回事，为了共用嵌入，宽度不动，各段的层数乘
    `GENERATOR_SHARE`。
    """
    from transformers import AutoModelForMaskedLM

    config = copy.deepcopy(discriminator.config)
    config.architectures = None

    def shrunk(value: int) -> int:
        return max(1, round(value * GENERATOR_SHARE))

    if config.model_type == "funnel":
        config.block_sizes = [shrunk(layers) for layers in config.block_sizes]
        config.block_repeats = [1] * len(config.block_sizes)
    else:
        heads = shrunk(config.num_attention_heads)
        ratio = heads / config.num_attention_heads
        config.hidden_size = round(config.hidden_size * ratio)
        config.intermediate_size = round(config.intermediate_size * ratio)
        config.num_attention_heads = heads
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.default_generator.manual_seed(seed)
        return AutoModelForMaskedLM.from_config(config).eval()


def _open_discriminator(folder: Path, name: str) -> tuple[Any, list[str]]:
    kind = read_config(folder, name).model_type
    if kind not in DISCRIMINATORS:
        raise ModelError(
            found=f"{name} 的 model_type 是 {kind}，不能作判别器",
            expected=f"{'、'.join(DISCRIMINATORS)} 之一",
            remedy="换一个这样的检查点（例如 starter:electra）；别的编码器用 masked_lm",
        )
    notices = check_weight_files(folder)
    with quiet_transformers():
        loaded = load_weights(folder, DISCRIMINATORS[kind])
    model = loaded.model
    if kind == "convbert" and model.config.num_labels != 1:
        # 别处来的 ConvBERT 没有判别头：两个标签的换成一个，反正都是随机的
        model.classifier = nn.Linear(model.config.hidden_size, 1)
        model.config.num_labels = model.num_labels = 1
    return model, notices + list(loaded.notices)


def _require_same_vocabulary(mine: Any, theirs: Any, generator: str) -> None:
    if mine.get_vocab() != theirs.get_vocab():
        raise ModelError(
            found=f"生成器 {generator} 与判别器的词表不同",
            expected="同一个词表：生成器抽出的编号，判别器要读作同一个词元",
            remedy="用同一系列的生成器，或不给生成器，由本书新建一个",
        )


def _warn_untied(generator: Any, discriminator: Any) -> list[str]:
    mine = generator.get_input_embeddings().weight
    theirs = discriminator.get_input_embeddings().weight
    if mine.shape != theirs.shape or torch.equal(mine, theirs):
        return []
    return ["两个检查点的词嵌入不一样，以判别器的为准：生成器开头的损失会偏高"]


def _size(model: Any) -> str:
    millions = sum(each.numel() for each in model.parameters()) / 1e6
    return f"{millions:.1f} 百万参数"


def _table(model: Any, name: str) -> nn.Embedding | None:
    for path, module in model.named_modules():
        if path.rpartition(".")[2] == name and isinstance(module, nn.Embedding):
            return module
    return None


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
