"""试一个模型之前要知道的几件事：只看哪边、位置从几数起、一行多长。"""

import inspect
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from companion.batch import Batch

_POSITION_TABLES = ("position_embeddings", "wpe", "embed_positions")
"""位置表在各架构里的属性名：BERT 一族，GPT-2，BART 与 OPT。"""
_OPTIONAL = ("position_ids", "token_type_ids")
"""批量里可有可无、有的模型不收的两项。"""


@contextmanager
def evaluation_mode(model: Any) -> Generator[None]:
    """期间关掉随机失活（dropout）与梯度；结束时每个子模块各回各的模式。"""
    import torch

    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def adapt_batch(model: Any, batch: Batch) -> Batch:
    """把整理器的批量改成这个模型收得下的样子，原批量不动。

    整理器不认识模型，位置一律从 0 数起。RoBERTa 一族从 `pad_token_id + 1` 数起，这里
    补上；模型不收的 `position_ids`、`token_type_ids`，这里去掉；加性掩码换成模型的浮点
    类型。训练与评估喂模型之前都经过它。

    Args:
        model: transformers 的模型，不带 DDP、peft 的外壳。
        batch: 整理器的输出。

    Returns:
        键与形状都与 `batch` 相同，至多少了模型不收的两项。一对模型（ELECTRA）各收什么，
        由它们自己去改，这里原样返回。
    """
    if hasattr(model, "parts"):
        return dict(batch)
    adapted = {
        name: _in_dtype(value, model.dtype)
        for name, value in batch.items()
        if name not in _OPTIONAL or takes(model, name)
    }
    if "position_ids" in adapted:
        adapted["position_ids"] = adapted["position_ids"] + position_offset(model)
    return adapted


def _in_dtype(value: Any, dtype: Any) -> Any:
    """加性掩码换成 `dtype`：遮住处是它的最小有限值，不溢出成 −inf；别的张量原样。"""
    import torch

    if not torch.is_tensor(value) or not value.is_floating_point():
        return value
    if value.dtype == dtype:
        return value
    least = torch.tensor(torch.finfo(dtype).min, dtype=dtype, device=value.device)
    return torch.where(value < 0, least, torch.zeros_like(least))


def takes(model: Any, argument: str) -> bool:
    """模型的 forward 收不收这个参数。"""
    return argument in inspect.signature(model.forward).parameters


def position_offset(model: Any) -> int:
    """第一个词元的位置编号：RoBERTa 一族是 `pad_token_id + 1`，其余是 0。"""
    embeddings: Any = getattr(model.base_model, "embeddings", None)
    if hasattr(embeddings, "create_position_ids_from_input_ids"):
        return int(embeddings.padding_idx) + 1
    return 0


def position_table(model: Any) -> int | None:
    """位置嵌入表够一行用多少词元；旋转位置、相对位置、ALiBi 等没有表的为 None。

    RoBERTa 的位置从 `pad_token_id + 1` 数起，BART 的从 2 数起，开头几行用不上；有几张表
    时（编码器与解码器）取小的。
    """
    from torch import nn

    tables = [
        module.num_embeddings - _unused_rows(module)
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in _POSITION_TABLES
        and isinstance(module, nn.Embedding)
    ]
    return min(tables, default=None)


def _unused_rows(table: Any) -> int:
    """位置表开头用不上的行数。"""
    offset = getattr(table, "offset", None)  # BART 一族写在模块上
    if offset is None:
        offset = 0 if table.padding_idx is None else table.padding_idx + 1
    return int(offset)


def is_causal(model: Any) -> bool:
    """输出是否只看左边：解码器，或设了 `is_decoder` 的编码器。"""
    from transformers import AutoModelForMaskedLM

    bidirectional = type(model.config) in AutoModelForMaskedLM._model_mapping
    return not bidirectional or bool(getattr(model.config, "is_decoder", False))
