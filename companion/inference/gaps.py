"""填补的两头：缺处两边的文字怎样分词，写出的词元怎样还成文字。

训练时缺处的两边是同一段文字切开的，这里也照样分词：SentencePiece 给一段文字的开头添 ▁，
缺处之后的文字不能有它。
"""

from dataclasses import dataclass
from typing import Any

from companion.inference.decoding import Written
from companion.inference.filling import without_added_spaces

_ANCHORS = ("。", "一")
"""缺处之后的文字接在它后面分词，再把它去掉。"""


@dataclass(frozen=True)
class Infilling:
    """填补的结果。"""

    text: str
    """填好的全文；看得见的文字原样不动。"""
    fills: list[str]
    """每处写了什么，按出现的次序。"""
    finished: list[bool]
    """每处是自己写完的（真），还是到了 `max_new_tokens` 被截断的（假）。"""


def encode_pieces(tokenizer: Any, pieces: list[str]) -> list[list[int]]:
    """各段看得见的文字的编号，不带特殊词元；第一段之外都接在缺处之后。

    >>> from companion.checkpoints.tiny import tiny_tokenizer
    >>> t5 = tiny_tokenizer("t5")
    >>> [t5.convert_ids_to_tokens(ids) for ids in encode_pieces(t5, ["良", "良弓"])]
    [['▁', '良'], ['良', '弓']]
    """
    first, *others = pieces
    return [
        _encode(tokenizer, first),
        *(_continued(tokenizer, each) for each in others),
    ]


def fill_gaps(tokenizer: Any, pieces: list[str], written: list[Written]) -> Infilling:
    """把写出的放回缺处；`pieces` 是看得见的各段，比缺处多一段。"""
    fills = [
        without_added_spaces(
            tokenizer, tokenizer.decode(each.ids, clean_up_tokenization_spaces=False)
        ).strip()
        for each in written
    ]
    whole = pieces[0] + "".join(
        fill + piece for fill, piece in zip(fills, pieces[1:], strict=True)
    )
    return Infilling(whole, fills, [each.finished for each in written])


def _encode(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _continued(tokenizer: Any, text: str) -> list[int]:
    """接在别的文字后面的一段。"""
    for anchor in _ANCHORS:
        head, whole = _encode(tokenizer, anchor), _encode(tokenizer, anchor + text)
        if whole[: len(head)] == head:
            return whole[len(head) :]
    return _encode(tokenizer, text)  # 与两个字都并成了一个词元
