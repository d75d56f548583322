"""三种切法的朴素写法：十来行、不讲速度，与 transformers 的分词器切得相同。

    WordPiece      从左起，取词表里最长的一段
    字节 BPE        先拆成字节，再照训练时的次序一对一对地合并
    Unigram        在全部切法里取概率最大的（SentencePiece 缺省的一种）

词表、合并的次序、各段的分数从分词器里取出，见 `pieces_of`。
"""

import json
import math
from collections.abc import Container, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

UNK = "[UNK]"
MAX_PIECE = 16
"""SentencePiece 的一段至多多少字。"""


def longest_match(word: str, vocabulary: Container[str]) -> list[str]:
    """WordPiece：从左起取最长的一段，词中的各段前面加 ##；有一段取不出，全词 [UNK]。

    汉字在此之前已经逐字分开，一个字就是一个词。

    >>> longest_match("playing", {"play", "##ing", "##in", "##g"})
    ['play', '##ing']
    """
    pieces: list[str] = []
    at = 0
    while at < len(word):
        stop = len(word)
        while stop > at and _piece(word, at, stop) not in vocabulary:
            stop -= 1
        if stop == at:
            return [UNK]
        pieces.append(_piece(word, at, stop))
        at = stop
    return pieces


def _piece(word: str, at: int, stop: int) -> str:
    return ("##" if at else "") + word[at:stop]


def merge_bytes(text: str, merges: Sequence[tuple[str, str]]) -> list[str]:
    """字节 BPE：拆成字节，每次合并最早学会的那一对，直到没有可合并的。

    Args:
        text: 一段连续的汉字；标点另成一段。
        merges: 学会的各对，按学会的次序；字节写作 `byte_letters` 的字符。
    """
    rank = {pair: number for number, pair in enumerate(merges)}
    pieces = [byte_letters()[byte] for byte in text.encode("utf-8")]
    while pairs := [pair for pair in pairwise(pieces) if pair in rank]:
        best = min(pairs, key=rank.__getitem__)
        merged: list[str] = []
        for piece in pieces:
            if merged and (merged[-1], piece) == best:
                merged[-1] += piece
            else:
                merged.append(piece)
        pieces = merged
    return pieces


@cache
def byte_letters() -> str:
    """256 个字节各用哪个看得见的字符表示（GPT-2 的约定）。

    >>> "".join(byte_letters()[byte] for byte in "史".encode())
    'åı²'
    """
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown}
    letters |= {byte: chr(256 + number) for number, byte in enumerate(hidden)}
    return "".join(letters[byte] for byte in range(256))


def most_likely(text: str, scores: Mapping[str, float]) -> list[str]:
    """Unigram：各段分数（对数概率）之和最大的切法，动态规划。

    Args:
        text: 一段文字。
        scores: 段 → 分数；缺的字比最低分再低 10 分。

    >>> most_likely("天子曰", {"天": -2, "子": -2, "曰": -2, "天子": -3})
    ['天子', '曰']
    """
    unknown = min(scores.values()) - 10
    best: list[tuple[float, int]] = [(0.0, 0)]  # 到此为止的分数，最后一段的起点
    for stop in range(1, len(text) + 1):
        choices: list[tuple[float, int]] = []
        for start in range(max(0, stop - MAX_PIECE), stop):
            lone = unknown if stop - start == 1 else -math.inf
            score = scores.get(text[start:stop], lone)
            choices.append((best[start][0] + score, start))
        best.append(max(choices))
    pieces: list[str] = []
    stop = len(text)
    while stop:
        start = best[stop][1]
        pieces.insert(0, text[start:stop])
        stop = start
    return pieces


def pieces_of(tokenizer: Any) -> Any:
    """分词器里的词表：WordPiece 的段，BPE 的合并次序，或 Unigram 的分数。"""
    model: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    if model["type"] == "BPE":
        return [tuple(pair) for pair in model["merges"]]
    return dict(model["vocab"])
