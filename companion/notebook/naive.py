"""语料与分词各步的朴素写法：十来行、不讲速度，与包里的结果相同，只用来讲解与核对。

| 这里 | 包里 | 差在哪里 |
|---|---|---|
| `first_of_each` | `deduplicate(near=False)` | 存全文，不存指纹 |
| `without_similar` | `deduplicate` | 两两比较，相似度是准的 |
| `shared_characters` | `overlap` | 存下训练集的全部片段 |
| `best_fit` | `plan_packing` | 逐行查找，不分桶；没有特殊词元，也不切长文 |
| `longest_match` | WordPiece | 从左起，取词表里最长的一段 |
| `merge_bytes` | 字节 BPE | 先拆成字节，再照训练时的次序一对一对地合并 |
| `most_likely` | Unigram | 在全部切法里取概率最大的（SentencePiece 缺省的一种） |

三种切法与 transformers 的分词器切得相同；词表、合并的次序、各段的分数从分词器里取出，见
`pieces_of`。
"""

import json
import math
import unicodedata
from collections.abc import Container, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

from companion.corpus.dedup import SHINGLE_CHARS
from companion.corpus.document import content_letters

UNK = "[UNK]"
MAX_PIECE = 16
"""SentencePiece 的一段至多多少字。"""


def first_of_each(texts: Sequence[str]) -> list[str]:
    """逐字相同（合成字形之后）的只留先来的；差一个标点就不是同一篇。

    >>> first_of_each(["臣光曰：", "天子", "臣光曰：", "臣光曰"])
    ['臣光曰：', '天子', '臣光曰']
    """
    seen: set[str] = set()
    kept: list[str] = []
    for text in texts:
        same = unicodedata.normalize("NFC", text)
        if same not in seen:
            seen.add(same)
            kept.append(text)
    return kept


def shingles(text: str) -> set[str]:
    """全部五字片段；不足五字的，整段算一个。"""
    letters = content_letters(text)
    last = max(len(letters) - SHINGLE_CHARS + 1, 1)
    return {letters[at : at + SHINGLE_CHARS] for at in range(last)}


def similarity(left: set[str], right: set[str]) -> float:
    """Jaccard 相似度，[0, 1]：共有的片段占全部片段的几成。"""
    return len(left & right) / len(left | right)


def without_similar(texts: Sequence[str], threshold: float = 0.8) -> list[str]:
    """与已经留下的每一段都不够像，才留下。

    >>> without_similar(["初命晋大夫魏斯为诸侯", "天子之职", "初命晋大夫魏斯为诸侯也"])
    ['初命晋大夫魏斯为诸侯', '天子之职']
    """
    kept: dict[str, set[str]] = {}
    for text in texts:
        mine = shingles(text)
        if all(similarity(mine, other) < threshold for other in kept.values()):
            kept[text] = mine
    return list(kept)


def shared_characters(
    train: Sequence[str], valid: Sequence[str], run_length: int = 20
) -> int:
    """留出集里有多少字，落在与训练集相同的 `run_length` 字片段里。"""
    runs: set[str] = set()
    for letters in map(content_letters, train):
        starts = range(len(letters) - run_length + 1)
        runs |= {letters[at : at + run_length] for at in starts}
    total = 0
    for letters in map(content_letters, valid):
        covered: set[int] = set()
        for at in range(len(letters) - run_length + 1):
            if letters[at : at + run_length] in runs:
                covered |= set(range(at, at + run_length))
        total += len(covered)
    return total


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """由长到短，每篇放进剩余空间最小而够用的一行；都不够就另开一行。

    Args:
        lengths: 各篇的词元数，都在 1 与 `capacity` 之间。
        capacity: 一行至多多少词元。

    Returns:
        各行装的是第几篇。

    >>> best_fit([3, 5, 2, 6, 4], capacity=8)
    [[0, 1], [2, 3], [4]]
    """
    rows: list[list[int]] = []  # 最近动过的在前：剩余相同时先用它
    for document in sorted(range(len(lengths)), key=lambda each: -lengths[each]):
        used = {id(row): sum(lengths[each] for each in row) for row in rows}
        fits = [row for row in rows if used[id(row)] + lengths[document] <= capacity]
        row = max(fits, key=lambda each: used[id(each)], default=[])
        rows = [[*row, document], *(each for each in rows if each is not row)]
    return sorted(sorted(row) for row in rows)


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
