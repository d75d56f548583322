"""编码器–解码器的样本 → 批量：两侧各自补齐，同一行里的几个文档互不可见。"""

from collections.abc import Sequence

from torch import Tensor

from companion.batch import IGNORE_INDEX, Batch
from companion.errors import ObjectiveError
from companion.objectives.attention import (
    PADDING,
    additive_mask,
    visible_between_documents,
    visible_within_documents,
)
from companion.objectives.example import Example
from companion.objectives.padding import pad_rows, padded_length


def collate_pairs(
    examples: Sequence[Example],
    pad_token_id: int | None,
    pad_to_multiple_of: int | None = None,
) -> Batch:
    """补齐并配上掩码；行里有几个文档时，三处注意力都隔开。

    Args:
        examples: B 个有解码器一侧的样本。
        pad_token_id: 补什么；没有填充词元时用 0 补。
        pad_to_multiple_of: 把行长补到它的倍数。
    """
    pad = pad_token_id or 0
    length = padded_length(
        [len(each.input_ids) for each in examples], pad_to_multiple_of
    )
    width = padded_length([len(each.labels) for each in examples], pad_to_multiple_of)
    batch = {
        "input_ids": pad_rows([e.input_ids for e in examples], pad, length),
        "labels": pad_rows([e.labels for e in examples], IGNORE_INDEX, width),
        "decoder_input_ids": pad_rows(
            [_given(e.decoder_input_ids) for e in examples], pad, width
        ),
    }
    documents = pad_rows([e.documents for e in examples], PADDING, length)
    decoder = pad_rows([_given(e.decoder_documents) for e in examples], PADDING, width)
    partly = examples[0].decoder_visible is not None
    if partly:
        visible = [_given(each.decoder_visible) for each in examples]
        decoder[~pad_rows(visible, False, width)] = PADDING  # 没有内容处同填充
    if any(int(each.documents[-1]) > 0 for each in examples):
        batch["attention_mask"] = additive_mask(
            visible_within_documents(documents, causal=False)
        )
        batch["decoder_attention_mask"] = additive_mask(
            visible_within_documents(decoder, causal=True)
        )
        batch["cross_attention_mask"] = additive_mask(
            visible_between_documents(decoder, documents)
        )
        return batch
    batch["attention_mask"] = (documents != PADDING).long()
    if partly:
        batch["decoder_attention_mask"] = (decoder != PADDING).long()
    return batch


def _given(value: Tensor | None) -> Tensor:
    if value is None:
        raise ObjectiveError(
            found="这个样本没有解码器的一侧",
            expected="编码器–解码器目标自己破坏出来的样本",
            remedy="用同一个整理器的 examples 造出样本，再交给 collate",
        )
    return value
