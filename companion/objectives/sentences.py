"""词元序列里的句子：在哪里断，分成哪几句。

句末是 。！？；…!? 与换行；紧跟着的句末与后引号、后括号（”’」』）》）归前一句，所以
“曰：「善！」”不会把」留给下一句，“……”也只断一次。最后一句不必有句末。

只看单个词元：它解码出来的文字以句末（可再带后引号）结尾，就是句末词元。字符词表、
SentencePiece 与字节级 BPE 一样判断。两种情形断不出来，那里就并作一句：字节级 BPE 把一个
标点拆成了几个词元（GPT-2 的词表里，中文的“；”有时如此）；一个词元跨过句末（“。臣”）。
西文的句点不算句末，它还是小数点和缩写。
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

ENDS = "。！？；…!?\n"
CLOSERS = "”’」』）》"

_END = re.compile(f"[{ENDS}][{ENDS}{CLOSERS}]*$")
_CLOSER = re.compile(f"[{CLOSERS}]+$")


@dataclass(frozen=True)
class SentenceMarks:
    """词表里断句要看的词元，各一组编号。"""

    ends: frozenset[int]
    """以句末（可再带后引号）结尾的。"""
    closers: frozenset[int]
    """全由后引号、后括号组成的。"""

    def split(self, tokens: Iterable[int]) -> list[int]:
        """各句的词元数，依次；至少一句，总和是词元数。

        Args:
            tokens: 一篇文档的词元，不带特殊词元，至少一个。

        例（2 是句末，3 是后引号）：

        >>> SentenceMarks(frozenset({2}), frozenset({3})).split([7, 2, 3, 8, 2, 9])
        [3, 2, 1]
        """
        lengths = [0]
        ended = False  # 上一个词元是句末，或句末之后的后引号
        for token in tokens:
            if ended and token not in self.ends and token not in self.closers:
                lengths.append(0)
            lengths[-1] += 1
            ended = token in self.ends or (ended and token in self.closers)
        return lengths


def sentence_marks(tokenizer: Any) -> SentenceMarks:
    """词表里的句末与后引号、后括号。

    Args:
        tokenizer: transformers 的分词器；特殊词元不算。
    """
    special = set(tokenizer.all_special_ids)
    endings = tuple({*ENDS, *CLOSERS, *map(_in_bytes, ENDS + CLOSERS)})
    ends: set[int] = set()
    closers: set[int] = set()
    # 先按字面挑出可能的，再解码：逐个解码整个词表，mT5 要十几秒
    for token, number in tokenizer.get_vocab().items():
        if number in special or not token.endswith(endings):
            continue
        text = tokenizer.decode([number])
        if _END.search(text):
            ends.add(number)
        elif _CLOSER.fullmatch(text.strip()):
            closers.add(number)
    return SentenceMarks(frozenset(ends), frozenset(closers))


def _in_bytes(mark: str) -> str:
    """标点在字节级 BPE 词表里的写法：每个字节写成一个可见字符。"""
    from tokenizers import pre_tokenizers

    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return "".join(piece for piece, _ in level.pre_tokenize_str(mark))
