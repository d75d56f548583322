"""`starter:bert` 的起点：前两层的注意力头对准左右邻。

小型 post-LN BERT 配学习得来的位置，会在只会猜标点的平台上停几千步，因为注意力要先自己发
现“左邻右舍”。这里前两层的查询与键在初始化时就对准固定的偏移：位置嵌入取随机频率的正弦，第
h 个头的查询是键转过偏移 o_h 的角度，softmax 因而集中在 i + o_h 上。架构仍是原样的
`BertForMaskedLM`，只是起点不同；四十万个词元之后，非标点的命中率已是平台的数倍。
"""

import math

import torch
from transformers import BertForMaskedLM

from starters.vocabulary import POSITIONS


@torch.no_grad()
def aim_heads_at_neighbours(
    model: BertForMaskedLM,
    *,
    num_layers: int = 2,
    offsets: tuple[int, ...] = (-1, 1, -2, 2, -3, 3),
    position_width: int = 64,
    word_std: float = 0.05,
    sharpness: float = 1.4,
) -> None:
    """让前几层的每个头一开始就看着固定的偏移。

    隐藏状态的前 `position_width` 维归位置，其余归词。位置 j 的特征是一组 (sin w_f j,
    cos w_f j)，频率 w_f 在 (0, π) 上均匀抽取；键直接读它，查询读它转过 w_f·o 的结果，于
    是 q_i·k_j ∝ Σ_f cos(w_f (i + o − j))，在 j = i + o 处最大。
    """
    embeddings = model.bert.embeddings
    half = position_width // 2
    frequencies = torch.rand(half, generator=torch.Generator().manual_seed(1)) * math.pi
    angles = torch.arange(POSITIONS)[:, None] * frequencies  # (P, half)
    embeddings.word_embeddings.weight.normal_(0, word_std)
    embeddings.word_embeddings.weight[:, :position_width] = 0
    embeddings.token_type_embeddings.weight.zero_()
    embeddings.position_embeddings.weight.zero_()
    waves = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
    embeddings.position_embeddings.weight[:, :position_width] = (
        math.sqrt(2) * word_std * waves
    )
    head_width = model.config.hidden_size // model.config.num_attention_heads
    gain = math.sqrt(sharpness)
    for layer in model.bert.encoder.layer[:num_layers]:
        attention = layer.attention
        query, key = attention.self.query.weight, attention.self.key.weight
        for head, offset in enumerate(offsets):
            used = range(head % 2, half, 2)[: head_width // 2]
            for slot, f in enumerate(used):
                turn = float(frequencies[f]) * offset
                sine, cosine = gain * math.sin(turn), gain * math.cos(turn)
                row, column = head * head_width + 2 * slot, 2 * f
                block = slice(row, row + 2), slice(column, column + 2)
                query[row : row + 2] = key[row : row + 2] = 0
                key[block] = gain * torch.eye(2)
                query[block] = torch.tensor([[cosine, sine], [-sine, cosine]])
        attention.self.value.weight.normal_(0, word_std)
        attention.output.dense.weight.normal_(0, word_std)
