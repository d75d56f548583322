"""去重：一模一样的，和改了几个字的。

重复的文本让模型背书而不是学语言，又让留出集名存实亡（Lee et al., 2022,
“Deduplicating Training Data Makes Language Models Better”）。

- **完全重复**：只看汉字、字母与数字（不看标点、空白、全半角与大小写）的哈希相同。
- **近似重复**：上述文字的 5 字片段集合，Jaccard 相似度估计不低于阈值。
  用 MinHash 签名与 LSH 分桶（Broder, 1997），不必两两比较。

留下的总是先来的那篇；签名的种子固定，同样的输入总得同样的结果。
内存：完全重复每篇 16 字节，近似重复每篇约 2 KB，与篇长无关。
"""

import hashlib
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from companion.corpus.document import Document
from companion.corpus.table import format_table
from companion.errors import CorpusError

SHINGLE_CHARS = 5
"""片段长度（字）；五字约合古汉语一个小句。"""
NUM_PERMUTATIONS = 128
"""签名长度；相似度估计的标准差约 0.04。"""


@dataclass
class DedupReport:
    """去重的账目，随迭代器的消费而增长。

    Args:
        documents_in: 读入篇数。
        exact: 因完全重复丢弃的篇数。
        near: 因近似重复丢弃的篇数。
        characters_in: 读入字数。
        characters_dropped: 丢弃字数。
        examples: 前几例：(丢弃的编号, 与之重复的编号, 相似度)。
    """

    documents_in: int = 0
    exact: int = 0
    near: int = 0
    characters_in: int = 0
    characters_dropped: int = 0
    examples: list[tuple[str, str, float]] = field(
        default_factory=list[tuple[str, str, float]]
    )

    @property
    def documents_out(self) -> int:
        """留下篇数。"""
        return self.documents_in - self.exact - self.near

    def as_dict(self) -> dict[str, object]:
        """供 `--json` 输出的字典。"""
        return {
            "documents_in": self.documents_in,
            "documents_out": self.documents_out,
            "dropped": {"exact": self.exact, "near": self.near},
            "characters_in": self.characters_in,
            "characters_dropped": self.characters_dropped,
            "examples": [list(example) for example in self.examples],
        }

    def __str__(self) -> str:
        """中文表格。"""
        rows = [("完全重复", self.exact), ("近似重复", self.near)]
        return (
            format_table(("原因", "丢弃篇数"), rows)
            + f"\n读入 {self.documents_in:,} 篇，留下 {self.documents_out:,} 篇；"
            f"丢弃 {self.characters_dropped:,} 字（共 {self.characters_in:,} 字）"
        )


def content_letters(text: str) -> str:
    """只留汉字、字母与数字，统一全半角与大小写；只用来比较，不改原文。

    >>> content_letters("（臣光曰）：ＡＢ c！")
    '臣光曰abc'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(filter(str.isalnum, folded))


def content_key(doc: Document) -> bytes:
    """文档内容的 16 字节指纹：标点、空白不同而文字相同的两篇，指纹相同。"""
    letters = content_letters(doc.text) or doc.text.strip()
    if doc.target is not None:
        letters += "\0" + (content_letters(doc.target) or doc.target.strip())
    return hashlib.blake2b(letters.encode("utf-8"), digest_size=16).digest()


def first_occurrences(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """各个不同的指纹头一次出现的下标，由小到大。

    >>> first_occurrences(np.array([[5, 0], [7, 0], [5, 0], [5, 1]], np.uint64))
    array([0, 1, 3])

    Args:
        keys: `content_key` 的两半，(D, 2) uint64。

    Returns:
        (K,) int64。
    """
    order = np.lexsort(keys.T)  # 稳定排序：相同的指纹之间先来的在前
    ordered = keys[order]
    fresh = np.ones(len(order), np.bool_)
    fresh[1:] = (ordered[1:] != ordered[:-1]).any(1)
    return np.sort(order[fresh])


def deduplicate(
    docs: Iterable[Document], *, near: bool = True, threshold: float = 0.8
) -> tuple[Iterator[Document], DedupReport]:
    """去掉重复的文档，留先来的。

    Args:
        docs: 文档。
        near: 是否也去近似重复；为假则只去完全重复，快得多。
        threshold: 近似重复的相似度阈值，(0, 1]。

    Returns:
        留下的文档（惰性）与账目；账目在迭代器走完后才完整。

    Raises:
        CorpusError: 阈值越界。
    """
    check_threshold(threshold)
    report = DedupReport()
    index = NearIndex(threshold) if near else None
    return _deduplicate(docs, index, report), report


def check_threshold(threshold: float) -> None:
    """阈值须在 (0, 1]。"""
    if not 0 < threshold <= 1:
        raise CorpusError(
            found=f"相似度阈值是 {threshold}",
            expected="大于 0、不超过 1 的数",
            remedy="通常取 0.8",
        )


def _deduplicate(
    docs: Iterable[Document], index: "NearIndex | None", report: DedupReport
) -> Iterator[Document]:
    seen: dict[bytes, str] = {}
    for doc in docs:
        report.documents_in += 1
        report.characters_in += doc.num_chars
        key = content_key(doc)
        original, similarity = seen.get(key), 1.0
        if original is not None:
            report.exact += 1
        elif index is not None:
            original, similarity = index.add(doc)
            report.near += original is not None
        if original is None:
            seen[key] = doc.id
            yield doc
            continue
        report.characters_dropped += doc.num_chars
        if len(report.examples) < 5:
            report.examples.append((doc.id, original, round(similarity, 3)))


class NearIndex:
    """近似重复的索引：MinHash 签名按 LSH 分桶，候选再用整个签名核对。

    Args:
        threshold: 相似度阈值。
    """

    def __init__(self, threshold: float) -> None:
        """建一个空索引。"""
        datasketch = import_module("datasketch")  # 连带 scipy，载入要近一秒

        self.threshold = threshold
        # threshold 为 1 时 LSH 分不出桶；0.99 只放宽候选，核对仍按原阈值
        self._lsh: Any = datasketch.MinHashLSH(
            min(threshold, 0.99), num_perm=NUM_PERMUTATIONS
        )
        self._signatures: dict[str, Any] = {}

    def find(self, doc: Document) -> tuple[str | None, float]:
        """已收文档中与它最像的一篇。

        Returns:
            编号与相似度估计；没有达到阈值的则为 (None, 0)。
        """
        return self._nearest(minhash(doc))

    def add(self, doc: Document) -> tuple[str | None, float]:
        """没有近似重复就收下；有则不收，并返回最像的一篇。"""
        signature = minhash(doc)
        found = self._nearest(signature)
        if found[0] is None:
            # 编号可能重复（几份语料接在一起），键里带上序号
            key = f"{len(self._signatures)} {doc.id}"
            self._lsh.insert(key, signature)
            self._signatures[key] = signature
        return found

    def _nearest(self, signature: Any) -> tuple[str | None, float]:
        scored = [
            (float(signature.jaccard(self._signatures[key])), key)
            for key in self._lsh.query(signature)
        ]
        # 相似度并列时取先来的：结果与集合的遍历次序无关
        similarity, key = max(
            scored,
            key=lambda item: (item[0], -int(item[1].split(" ", 1)[0])),
            default=(0.0, ""),
        )
        if similarity < self.threshold:
            return None, 0.0
        return key.split(" ", 1)[1], similarity


def minhash(doc: Document) -> Any:
    """文档的 MinHash 签名，(128,)；句对把两侧接起来。"""
    letters = content_letters(doc.text) + content_letters(doc.target or "")
    last = max(len(letters) - SHINGLE_CHARS + 1, 1)
    shingles = {letters[start : start + SHINGLE_CHARS] for start in range(last)}
    signature: Any = import_module("datasketch").MinHash(
        NUM_PERMUTATIONS, seed=1, hashfunc=zlib.crc32
    )
    signature.update_batch([shingle.encode("utf-8") for shingle in shingles])
    return signature
