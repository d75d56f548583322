"""语料各步的朴素写法：十来行、不讲速度，与包里的结果相同，只用来讲解与核对。

| 这里 | 包里 | 差在哪里 |
|---|---|---|
| `first_of_each` | `deduplicate(near=False)` | 存全文，不存指纹 |
| `without_similar` | `deduplicate` | 两两比较，相似度是准的 |
| `shared_characters` | `overlap` | 存下训练集的全部片段 |
| `best_fit` | `plan_packing` | 逐行查找，不分桶；没有特殊词元，也不切长文 |
"""

import unicodedata
from collections.abc import Sequence

from companion.corpus.dedup import SHINGLE_CHARS
from companion.corpus.document import content_letters


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
