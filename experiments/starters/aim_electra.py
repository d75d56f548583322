"""`starter:electra` 的起点：嵌入与各层都抄自 `starter:bert`。

ELECTRA 的嵌入比隐藏层窄（Clark 等，2020，§3.2），所以词嵌入、位置嵌入不能照抄，要压到
E = 96 维。压法取自层归一化自己：它只看去掉均值之后的方向。设 P 去掉均值；U 是词嵌入（按
字频的平方根加权）与位置嵌入合起来的前 E − 1 个主方向；Q 把它们转到与全 1 向量垂直的 E
维里：

    z = Q Uᵀ P x，  LN(z) = √E · z / ‖z‖，  √D · P x / ‖P x‖ ≈ √(D / E) · U Qᵀ LN(z)

于是 BERT 的嵌入层 γ ⊙ LN(x) + β ≈ W · LN(z) + β，W = √(D / E) · diag(γ) U Qᵀ，正是
ELECTRA 的投影层；只差丢掉的那些主方向。判别器抄前三层，生成器抄第一层。

形状字母：D = 192，E = 96，V 词表。
"""

import math

import torch
from torch import Tensor
from transformers import BertForMaskedLM, ElectraForMaskedLM, ElectraForPreTraining

from companion.checkpoints.electra_pair import ElectraPair
from companion.checkpoints.locating import starter_path
from starters.vocabulary import EXTRA, SPECIAL, log_frequency


@torch.no_grad()
def copy_from_bert(
    generator: ElectraForMaskedLM, discriminator: ElectraForPreTraining
) -> ElectraPair:
    """两个模型的参数换成 `starter:bert` 的，共用嵌入；两个头从零开始，偏置除外。"""
    bert = BertForMaskedLM.from_pretrained(starter_path("bert")).float()
    source = bert.bert.embeddings
    size = discriminator.config.embedding_size
    down, up = _compression(
        source.word_embeddings.weight, source.position_embeddings.weight, size
    )
    norm = source.LayerNorm
    for model in (generator, discriminator):
        ours = model.electra.embeddings
        for name in ("word", "position", "token_type"):
            table = getattr(ours, f"{name}_embeddings")
            theirs = getattr(source, f"{name}_embeddings")
            table.weight.copy_(theirs.weight @ down)
        ours.LayerNorm.weight.fill_(1.0)
        ours.LayerNorm.bias.zero_()
        project = model.electra.embeddings_project
        project.weight.copy_(norm.weight[:, None] * up)
        project.bias.copy_(norm.bias)
        for mine, theirs in zip(
            model.electra.encoder.layer, bert.bert.encoder.layer, strict=False
        ):
            mine.load_state_dict(theirs.state_dict())
    # 字频：抄来的偏置让生成器一开始就不至于乱猜
    generator.generator_lm_head.bias.copy_(bert.cls.predictions.decoder.bias)
    return ElectraPair(generator, discriminator)


def _compression(words: Tensor, positions: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """压缩 (D, E) 与还原 (D, E)：x @ 前者是 z，后者 @ LN(z) 约是 LN(x)。"""
    width = words.shape[1]
    centred = torch.eye(width) - 1 / width
    shares = (log_frequency(len(words)) / 2).exp()
    shares[: len(SPECIAL) + len(EXTRA)] = 0
    shares /= shares.sum()
    # 词与位置相加之后的二阶矩，(D, D)；特征值由小到大
    moments = (words.T * shares) @ words + positions.T @ positions / len(positions)
    principal = torch.linalg.eigh(centred @ moments @ centred).eigenvectors
    # 与全 1 向量垂直的 E − 1 个标准正交方向，(E, E − 1)
    basis, _ = torch.linalg.qr(torch.eye(size)[:, : size - 1] - 1 / size)
    turned = principal[:, 1 - size :] @ basis.T  # U Qᵀ
    return centred @ turned, math.sqrt(width / size) * turned
