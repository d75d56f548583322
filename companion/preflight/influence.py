"""谁影响谁：改动一个词元，看哪些位置的输出变了。

一张可见矩阵写得再清楚，也只是声称；模型照不照办，改一个词元便知。第 j 个词元换成别的，
第 i 个位置的输出变了，就是 i 看得见 j（隔着别的词元看见也算）；一点不变，就是看不见。随
机的权重也试得出来：谁看得见谁由结构决定，与学到了什么无关。

对角线总是变的：第 i 个位置的输出里有第 i 个词元自己，不靠注意力，靠残差连接。

`mask_support` 以同样的办法考各架构收不收各种四维掩码；这里量的是一行真实的批量。

形状字母：Q 查询（输出的位置），K 键（被改动的词元），V 输出的宽度。
"""

from collections.abc import Mapping
from typing import Any

from companion.errors import ModelError
from companion.losses.target_head import cross_attention
from companion.preflight.leaks import plain_ids
from companion.preflight.probing import adapt_batch, evaluation_mode, takes

SEEN = 1e-5
"""变化超过它才算看得见，相对于输出幅度；舍入在 1e-6 左右，看得见的在 1e-4 以上。"""


def measured_visibility(model: Any, batch: Mapping[str, Any]) -> list[Any]:
    """一行批量里，谁看得见谁：试出来的。

    Args:
        model: 带输出头的 transformers 模型；在评估模式下试，试完还原。
        batch: 整理器或分词器的输出，只有一行；`labels` 不用。

    Returns:
        几个 (Q, K) bool 矩阵：编码器–解码器依次是编码器的自注意力、解码器的自注意力、交
        叉注意力，别的模型只有一个。

    Raises:
        ModelError: 批量不止一行。
    """
    rows = len(batch["input_ids"])
    if rows != 1:
        raise ModelError(
            found=f"批量有 {rows} 行",
            expected="恰好一行",
            remedy="取其中一行，例如 {k: v[:1] for k, v in batch.items()}",
        )
    if not model.config.is_encoder_decoder:
        return [token_influence(model, batch) > SEEN]
    inner = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return [
        token_influence(model.get_encoder(), inner) > SEEN,
        token_influence(model, batch, "decoder_input_ids") > SEEN,
        token_influence(model, batch) > SEEN,
    ]


def token_influence(
    model: Any, batch: Mapping[str, Any], changed: str = "input_ids"
) -> Any:
    """逐个改动词元，量每个位置的输出变了多少。

    Args:
        model: transformers 的模型，带不带输出头都可以。
        batch: 只有一行的批量。
        changed: 改动批量里的哪一项，(1, K) int64。

    Returns:
        相对于输出的最大绝对值，(Q, K) float32：第 i 行第 j 列是改动第 j 个词元之后，第
        i 个位置的输出变了多少。
    """
    import torch

    inputs = {k: v for k, v in adapt_batch(model, dict(batch)).items() if k != "labels"}
    ids = inputs[changed]  # (1, K)
    length = ids.shape[1]
    one, other = plain_ids(model.config, 2).to(ids)
    # 第 0 行是原样，第 j + 1 行只改动第 j 个词元
    variants = ids.repeat(length + 1, 1)
    place = torch.arange(length)
    variants[place + 1, place] = torch.where(ids[0] == one, other, one)
    inputs = {k: v.expand(length + 1, *v.shape[1:]) for k, v in inputs.items()}
    inputs = {k: v.to(model.device) for k, v in (inputs | {changed: variants}).items()}
    across = inputs.pop("cross_attention_mask", None)
    cache = {"use_cache": False} if takes(model, "use_cache") else {}
    with evaluation_mode(model), cross_attention(model, across):
        values = model(**inputs, **cache)[0].float().cpu()  # (K + 1, Q, V)
    change = (values[1:] - values[0]).abs().amax(-1)  # (K, Q)
    return change.T / values.abs().amax().clamp(min=1e-12)
