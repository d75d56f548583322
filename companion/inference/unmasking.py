"""一步步揭开：掩码扩散的模型怎样写字，续写与填补共用（Nie 等，2025，§2.4）。

    狡 兔 [M] [M] [M] 烹     第 1 步  ， 猜得最准，留下
    狡 兔 [M] ，  [M] 烹     第 2 步  死
    狡 兔 死  ，  [M] 烹     第 3 步  走
    ……

每一步整行读一遍，每个 [MASK] 处都猜，只留概率最大的几个，其余的遮回去（低置信度重遮），
下一步看着刚写的重猜。空从左到右分成块，一块写完才写下一块：只按概率，模型爱先写标点与句
末。写几个词元由 [MASK] 的个数定，模型自己不会停。贪心没有随机；抽取的由 `seed` 定。

形状字母：R 并排写的几串，L 行长，M 还遮着的个数，V 词表。
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from companion.batch import IGNORE_INDEX
from companion.checkpoints.running import (
    adapt_batch,
    evaluation_mode,
    inner_model,
    over_limit,
    text_config,
)
from companion.errors import ConfigError, ModelError, ObjectiveError
from companion.inference.decoding import Decoding, choose
from companion.inference.reading import never_written, require_causal, require_masked
from companion.losses.parts import word_logits
from companion.objectives import Objective
from companion.objectives.collate import collate, make_example
from companion.preflight.visibility import require_mask

BLOCK = 32
"""一块几个空（Nie 等，2025，附录 B.4 的半自回归）。"""


@torch.no_grad()
def unmask(
    checkpoint: Any,
    goal: Objective,
    ids: list[int],
    how: Decoding,
    *,
    block: int = BLOCK,
    tokens_per_step: int = 1,
) -> list[list[int]]:
    """把一行里的 [MASK] 都写出来。

    Args:
        checkpoint: 用 masked_diffusion 训练过的检查点。
        goal: 训练目标用于这个模型时的样子。
        ids: 一行词元，连同首尾的特殊词元，(L,)；[MASK] 处要写。
        how: 怎样选；写几串由 `num_return_sequences` 定，`max_new_tokens` 不用。
        block: 一块几个空。
        tokens_per_step: 一步留下几个；多了快，也粗。

    Returns:
        R 串，各是 [MASK] 处依次写下的词元。

    Raises:
        ModelError: 模型与目标不合，不收全开的掩码，或文字太长。
        ObjectiveError: 解码器的第一个词元就要写。
        ConfigError: 要束搜索。
    """
    (require_causal if goal.masks else require_masked)(checkpoint)
    model, tokenizer = inner_model(checkpoint.model), checkpoint.tokenizer
    require_mask(model, *goal.masks)
    if (limit := over_limit(model, len(ids))) is not None:
        raise ModelError(
            found=f"这段文字连同要写的有 {len(ids)} 个词元",
            expected=f"不超过 {checkpoint.name} 的位置上限 {limit}",
            remedy="截短文字，或少写几个",
        )
    if how.num_beams > 1:
        raise ConfigError(
            found=f"num_beams = {how.num_beams}，而 {goal.key} 不从左到右写",
            expected="贪心，或按概率抽取",
            remedy="去掉 num_beams",
        )
    rows = torch.tensor([ids] * how.num_return_sequences)  # (R, L)
    spots = (rows[0] == tokenizer.mask_token_id).nonzero()[:, 0]
    if goal.causal and ids[0] == tokenizer.mask_token_id:
        raise ObjectiveError(
            found="要写的在最前面",
            expected="左边至少一个词元：解码器由左邻的位置猜",
            remedy="前面给一两个字",
        )
    banned = never_written(tokenizer, text_config(model).vocab_size)
    generator = torch.Generator().manual_seed(how.seed)
    with evaluation_mode(model):
        for here in spots.split(block):
            for _ in range(-(-len(here) // tokens_per_step)):
                hidden = rows[:, here] == tokenizer.mask_token_id
                left = here[hidden.nonzero()[:, 1]].view(len(rows), -1)  # (R, M)
                scores = _read(model, goal, rows, left).masked_fill(banned, -torch.inf)
                drawn = choose(scores.flatten(0, 1), how, generator).view_as(left)
                sure = scores.softmax(-1).gather(-1, drawn[..., None])[..., 0]
                best = sure.topk(min(tokens_per_step, left.shape[1])).indices
                rows.scatter_(1, left.gather(1, best), drawn.gather(1, best))
    return rows[:, spots].tolist()


def _read(model: Any, goal: Objective, rows: Tensor, places: Tensor) -> Tensor:
    """几串各在几个位置上的分数，(R, M, V) float32，在 CPU 上。"""
    size = rows.shape[1]
    opened = {"prefix": np.ones(size, np.bool_)} if goal.masks else {}
    labels = np.full(size, IGNORE_INDEX)
    batch = collate(
        [make_example(row.numpy(), labels, **opened) for row in rows], pad_token_id=0
    )
    device = next(model.parameters()).device
    batch = {k: v.to(device) for k, v in adapt_batch(model, batch).items()}
    logits = word_logits(model, batch).float().cpu()  # (R, L, V)
    at = (places - int(goal.causal))[..., None].expand(-1, -1, logits.shape[-1])
    return logits.gather(1, at)
