"""ELECTRA 的一对：打开、新建生成器、保存；存下的是两个标准检查点。

    DIR/discriminator   AutoModelForPreTraining；ConvBERT 是 …ForTokenClassification
    DIR/generator       AutoModelForMaskedLM

没有生成器时，新建一个判别器四分之一宽的，词嵌入照样共用，其余从随机练起，并说出来：它起初
只会乱猜，造的假很容易识破，判别器要过一阵才学得到东西。有配套的生成器总是更好。
"""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from companion.checkpoints.electra_pair import DISCRIMINATORS, ElectraPair
from companion.checkpoints.loading import (
    DISCRIMINATOR,
    GENERATOR,
    load_tokenizer,
    read_config,
)
from companion.checkpoints.locating import locate
from companion.checkpoints.quiet import quiet_transformers
from companion.checkpoints.saving import save_checkpoint
from companion.checkpoints.weights import check_weight_files, load_weights
from companion.errors import ModelError

GENERATOR_SHARE = 0.25
"""新建的生成器有判别器的几分之几宽（Clark 等，2020，§3.2：四分之一到二分之一）。"""


@dataclass(frozen=True)
class PairCheckpoint:
    """打开了的一对。"""

    pair: ElectraPair
    """评估模式，float32。"""
    tokenizer: Any
    """判别器的分词器。"""
    notices: list[str] = field(default_factory=list)
    """用户应当知道的事，中文。"""


def load_pair(
    discriminator: str, generator: str | None = None, *, revision: str | None = None
) -> PairCheckpoint:
    """打开判别器与生成器。

    Args:
        discriminator: 检查点的名字（写法见 `locating`），或 `save_pair` 存下的文件夹。
        generator: 生成器的名字；不给就用 `save_pair` 存在一起的那个，再没有就新建。
        revision: 判别器所在仓库的分支、标签或提交。

    Raises:
        ModelError: 找不到、残缺、不是判别器，或两者的词表、嵌入宽度不同。
    """
    folder = locate(discriminator, revision).folder
    if (folder / DISCRIMINATOR).is_dir():
        if generator is None and (folder / GENERATOR).is_dir():
            generator = str(folder / GENERATOR)
        discriminator, revision = str(folder / DISCRIMINATOR), None
    judge, notices = _load_discriminator(discriminator, revision)
    tokenizer = load_tokenizer(discriminator, revision=revision)
    if generator is None:
        maker = fresh_generator(judge)
        notices.append(
            f"没有给生成器：新建了一个（{_size(maker)}），词嵌入与判别器共用，其余随机。"
            "它起初只会乱猜，判别器要过一阵才学得到东西；有配套的生成器就用它"
        )
    else:
        location = locate(generator)
        notices += [*location.notices, *check_weight_files(location.folder)]
        with quiet_transformers():
            loaded = load_weights(location.folder, "AutoModelForMaskedLM")
        notices += loaded.notices
        maker = loaded.model
        _require_same_vocabulary(tokenizer, load_tokenizer(generator), generator)
        notices += _warn_untied(maker, judge)
    return PairCheckpoint(ElectraPair(maker, judge).eval(), tokenizer, notices)


def save_pair(pair: ElectraPair, tokenizer: Any, directory: str | Path) -> Path:
    """把两个模型各存成标准检查点，顶替同一处的旧检查点；要么都是新的，要么都是旧的。

    Returns:
        `directory`，下有 discriminator 与 generator 两个文件夹。

    Raises:
        ModelError: 见 `save_checkpoint`。
    """
    return save_checkpoint(pair, tokenizer, directory)


def fresh_generator(discriminator: Any, seed: int = 0) -> Any:
    """照判别器新建一个小的生成器，权重随机；全局随机状态原样不动。

    ELECTRA 与 ConvBERT 的嵌入宽度与隐藏层宽度是两回事，所以缩隐藏层：头数、宽度、前馈层
    都乘 `GENERATOR_SHARE`。Funnel 两者是一回事，为了共用嵌入，宽度不动，各段的层数乘
    `GENERATOR_SHARE`。
    """
    import torch
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


def _load_discriminator(name: str, revision: str | None) -> tuple[Any, list[str]]:
    from torch import nn

    location = locate(name, revision)
    kind = read_config(location.folder, name).model_type
    if kind not in DISCRIMINATORS:
        raise ModelError(
            found=f"{name} 的 model_type 是 {kind}，不能作判别器",
            expected=f"{'、'.join(DISCRIMINATORS)} 之一",
            remedy="换一个这样的检查点（例如 starter:electra）；别的编码器用 masked_lm",
        )
    notices = [*location.notices, *check_weight_files(location.folder)]
    with quiet_transformers():
        loaded = load_weights(location.folder, DISCRIMINATORS[kind])
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
    import torch

    mine = generator.get_input_embeddings().weight
    theirs = discriminator.get_input_embeddings().weight
    if mine.shape != theirs.shape or torch.equal(mine, theirs):
        return []
    return ["两个检查点的词嵌入不一样，以判别器的为准：生成器开头的损失会偏高"]


def _size(model: Any) -> str:
    millions = sum(each.numel() for each in model.parameters()) / 1e6
    return f"{millions:.1f} 百万参数"
