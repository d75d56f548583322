"""词元序列里的句子：在哪里断，分成哪几句。

句末是 。！？；…!? 与换行；紧跟着的句末与后引号、后括号（”’」』）》）归前一句，所以
“曰：「善！」”不会把」留给下一句，“……”也只断一次。最后一句不必有句末。

只看单个词元：它解码出来的文字以句末（可再带后引号）结尾，就是句末词元。字符词表、
SentencePiece 与字节级 BPE 一样判断。两种情形断不出来，那里就并作一句：字节级 BPE 把一个
标点拆成了几个词元（GPT-2 的词表里，中文的“；”有时如此）；一个词元跨过句末（“。臣”）。
西文的句点不算句末，它还是小数点和缩写。

形状字母：D 文档数，N 全部词元首尾相接的总长，S 句数。
"""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from companion.objectives.ragged import Ragged

ENDS = "。！？；…!?\n"
CLOSERS = "”’」』）》"

_END = re.compile(f"[{ENDS}][{ENDS}{CLOSERS}]*$")
_CLOSER = re.compile(f"[{CLOSERS}]+$")


def sentence_end_ids(tokenizer: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """词表里的句末与后引号、后括号。

    Args:
        tokenizer: transformers 的分词器；特殊词元不算。

    Returns:
        句末词元与全由后引号、后括号组成的词元，各一列升序的编号，int64。
    """
    special = set(tokenizer.all_special_ids)
    endings = tuple({*ENDS, *CLOSERS, *map(_in_bytes, ENDS + CLOSERS)})
    ends: list[int] = []
    closers: list[int] = []
    # 先按字面挑出可能的，再解码：逐个解码整个词表，mT5 要十几秒
    for token, number in tokenizer.get_vocab().items():
        if number in special or not token.endswith(endings):
            continue
        text = tokenizer.decode([number])
        if _END.search(text):
            ends.append(number)
        elif _CLOSER.fullmatch(text.strip()):
            closers.append(number)
    return np.array(sorted(ends), np.int64), np.array(sorted(closers), np.int64)


def split_sentences(
    documents: Ragged, ends: NDArray[np.int64], closers: NDArray[np.int64]
) -> Ragged:
    """把每篇文档分成句子；词元与次序不变，只是分得更细。

    第 s 句属于第 `documents.owners[sentences.starts[s]]` 篇。

    Args:
        documents: D 篇文档，不带特殊词元，每篇至少一个词元。
        ends: 句末词元，见 `sentence_end_ids`。
        closers: 后引号、后括号的词元。

    Returns:
        S 句，S ≥ D。

    例（2 是句末，3 是后引号）：

    >>> documents = Ragged.of([np.array([7, 2, 3, 8, 2]), np.array([9])])
    >>> split_sentences(documents, np.array([2]), np.array([3])).lengths.tolist()
    [3, 2, 1]
    """
    values = documents.values
    is_end = np.isin(values, ends)
    decides = is_end | ~np.isin(values, closers)  # 后引号随它前面的那个词元
    decides[documents.starts] = True
    latest = np.maximum.accumulate(np.where(decides, np.arange(len(values)), 0))
    tail = is_end[latest]  # 句末，或句末之后的后引号
    first = np.ones(len(values), np.bool_)  # 每句的第一个词元
    first[1:] = tail[:-1] & ~tail[1:]
    first[documents.starts] = True
    return Ragged(values, np.diff(np.flatnonzero(first), append=len(values)))


def _in_bytes(mark: str) -> str:
    """标点在字节级 BPE 词表里的写法：每个字节写成一个可见字符。"""
    from tokenizers import pre_tokenizers

    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return "".join(piece for piece, _ in level.pre_tokenize_str(mark))
