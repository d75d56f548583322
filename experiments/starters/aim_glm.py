"""`starter:glm` 的起点：不让它停在只会猜标点的平台上。

架构仍是原样的 `TwoRowGlmForCausalLM`，只安排初始的参数：

- 位置是随机频率的正弦，前两层的注意力头对准固定的偏移，道理见 `aim_bert`。GLM 有两行
  位置，头也有两种。只看第一行的头，偏移 ±1、±2（第二层 ±1、±3）：A 部分看左邻右舍；B
  部分的各个词元与它的空同在一个位置，于是看的是**空的**左邻右舍。两行都看的头，第一行
  偏移 0，第二行偏移 −1、−2（−3）：B 部分看同一片段里刚写的一两个词元，[S] 则看 A 部分
  的那个空。
- 层归一化在残差支路的开头，残差流的大小就是嵌入的大小；对准了的两层，注意力的输出因此也
  要小，不然位置被它淹没，第二层就对不准了。
- 输出没有偏置，字频写进词嵌入专给的一维，由末尾的层归一化的偏置读出。
- 词嵌入的其余各维抄自 `starter:bert`（同一份词表），改成同样的大小。
"""

import math

import torch
from torch import Tensor
from transformers import BertForMaskedLM

from companion.checkpoints.locating import starter_path
from companion.checkpoints.two_row_glm import TwoRowGlmForCausalLM

# 各层各头：（第一行的偏移, 第二行的偏移；None 表示不看）
AIMS: tuple[tuple[tuple[int, int | None], ...], ...] = (
    ((-1, None), (1, None), (-2, None), (2, None), (0, -1), (0, -2)),
    ((-1, None), (1, None), (-3, None), (3, None), (0, -1), (0, -3)),
)
WAVES = 16
"""每行位置几个频率，各占两维。"""
FREQUENCY_DIM = 4 * WAVES
"""给字频的一维，紧接在位置之后。"""
FREQUENCY_BIAS = 20.0
WORD_STD = 0.05
BRANCH_STD = 0.003
"""对准了的两层，注意力输出矩阵的标准差：输出约为嵌入的一半。"""
SHARPNESS, INNER_SHARPNESS = 1.4, 2.2
"""两行的尖锐程度；一个片段里的词元第一行都相同，全靠第二行分辨，所以更尖。"""
INNER_WAVES = 10
"""两行都看的头里，第二行用几个频率。"""


@torch.no_grad()
def aim_glm(model: TwoRowGlmForCausalLM, log_frequency: Tensor) -> None:
    """安排初始的参数；`log_frequency` 是各词元的对数频率，(V,)。"""
    inner = model.model
    generator = torch.Generator().manual_seed(1)
    frequencies = torch.rand(2, WAVES, generator=generator) * math.pi
    tables = (inner.position_embeddings, inner.block_position_embeddings)
    for row, table in enumerate(tables):
        angles = torch.arange(table.num_embeddings)[:, None] * frequencies[row]
        waves = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
        table.weight.zero_()
        first = 2 * WAVES * row
        table.weight[:, first : first + 2 * WAVES] = math.sqrt(2) * WORD_STD * waves
    words = inner.word_embeddings.weight
    words.copy_(_words_of_bert())
    words[:, FREQUENCY_DIM] = (log_frequency - log_frequency.mean()) / FREQUENCY_BIAS
    inner.final_norm.bias[FREQUENCY_DIM] = FREQUENCY_BIAS
    inner.final_norm.weight[FREQUENCY_DIM] = 0
    for layer, aims in zip(inner.layers, AIMS, strict=False):
        attention = layer.attention
        for head, aim in enumerate(aims):
            _aim_head(attention, head, aim, frequencies)
        attention.value.weight.normal_(0, WORD_STD)
        attention.dense.weight.normal_(0, BRANCH_STD)


def _words_of_bert() -> Tensor:
    """`starter:bert` 的词嵌入，(V, 宽)；每行的均方根是 `WORD_STD`。"""
    bert = BertForMaskedLM.from_pretrained(starter_path("bert")).float()
    words = bert.get_input_embeddings().weight
    words = (words - words.mean(0)) / words.std(0).clamp(min=1e-3)
    words[:, :FREQUENCY_DIM] = 0
    size = words.norm(dim=1, keepdim=True) / math.sqrt(words.shape[1] - FREQUENCY_DIM)
    return WORD_STD * words / size


def _aim_head(
    attention: torch.nn.Module,
    head: int,
    aim: tuple[int, int | None],
    frequencies: Tensor,
) -> None:
    """一个头的查询与键：键读出正弦，查询读出转过偏移的正弦。"""
    outer, inside = aim
    count = 0 if inside is None else INNER_WAVES
    slots = [(0, wave, outer, SHARPNESS) for wave in range(WAVES - count)]
    slots += [(1, wave, inside, INNER_SHARPNESS) for wave in range(count)]
    first = head * attention.head_width
    for slot, (row, wave, offset, sharpness) in enumerate(slots):
        turn = float(frequencies[row, wave]) * offset
        gain = math.sqrt(sharpness)
        sine, cosine = gain * math.sin(turn), gain * math.cos(turn)
        at = slice(first + 2 * slot, first + 2 * slot + 2)
        column = 2 * (WAVES * row + wave)
        block = at, slice(column, column + 2)
        attention.query.weight[at] = 0
        attention.key.weight[at] = 0
        attention.key.weight[block] = gain * torch.eye(2)
        attention.query.weight[block] = torch.tensor([[cosine, sine], [-sine, cosine]])
