"""重复：去掉一模一样的与改了几个字的，查留出集有没有混进训练集，数出语料的概况。

重复的文本让模型背书而不是学语言，又让留出集名存实亡（Lee et al., 2022,
“Deduplicating Training Data Makes Language Models Better”）。

- **完全重复**：NFC 之后逐字相同；差一个负号、一个小数点，就不是。
- **近似重复**：只看汉字、字母与数字（不看标点、空白、全半角与大小写），5 字片段的集合，
  Jaccard 相似度估计不低于阈值。
  用 MinHash 签名与 LSH 分桶（Broder, 1997），不必两两比较。

留下的总是先来的那篇；签名的种子固定，同样的输入总得同样的结果。
内存：完全重复每篇 16 字节，近似重复每篇约 2 KB，与篇长无关；正文暂存在磁盘上。

留出集的分数只有在模型没见过它时才有意义。`overlap` 查三件事：整篇相同、近似重复、以及与
训练集有连续 20 字以上相同的**长片段**（史书互相转引，整段照抄很常见）。

查长片段不必存下所有 20 字片段：留出集每隔 10 字取一个 10 字的锚，任何 20 字的
公共片段必然完整地盖住一个锚；训练集逐字滑动，碰到锚再向两边伸展。内存只与
留出集有关，训练集可以是 10 GB 的流。
"""

import tempfile
import zlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from companion.corpus.document import (
    Document,
    content_key,
    content_letters,
    format_table,
    is_wide,
)
from companion.corpus.documents import first_occurrences, store_documents
from companion.errors import CorpusError

SHINGLE_CHARS = 5
"""片段长度（字）；五字约合古汉语一个小句。"""
_SHOWN = 5
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""散列的乘数：2^64 除以黄金比例，取奇数（Knuth，第 3 卷 §6.4）。"""
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
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        stored = store_documents(lambda: docs, folder, "")  # 全文在磁盘上
        keys = stored.keys("content")
        first = np.zeros(len(stored), np.bool_)
        first[first_occurrences(keys)] = True
        for place, doc in enumerate(stored):
            report.documents_in += 1
            report.characters_in += doc.num_chars
            original, similarity = None, 1.0
            if not first[place]:
                report.exact += 1
                if len(report.examples) < _SHOWN:
                    same = (keys[:place] == keys[place]).all(1)
                    original = stored[int(np.argmax(same))].id
            elif index is not None:
                original, similarity = index.add(doc)
                report.near += original is not None
            if first[place] and original is None:
                yield doc
                continue
            report.characters_dropped += doc.num_chars
            if original is not None and len(report.examples) < _SHOWN:
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


@dataclass(frozen=True)
class OverlapExample:
    """最严重的一例。

    Args:
        valid_id: 留出集文档。
        train_id: 训练集文档。
        text: 两者共有的最长片段（只含汉字、字母与数字），最多 60 字。
        length: 这个片段的全长（字）。
    """

    valid_id: str
    train_id: str
    text: str
    length: int


@dataclass(frozen=True)
class OverlapReport:
    """训练集与留出集的重合。

    Args:
        documents: 留出集篇数。
        exact: 整篇也在训练集中的篇数。
        near: 有近似重复的篇数（不含整篇相同）。
        shared: 与训练集有长片段相同的篇数（含前两种中的）。
        contaminated: 以上任一种的篇数。
        characters: 留出集字数（只计汉字、字母与数字）。
        shared_characters: 其中落在长片段里的字数。
        run_length: 长片段的最短字数。
        worst: 最长的一个片段；没有则为 None。
    """

    documents: int
    exact: int
    near: int
    shared: int
    contaminated: int
    characters: int
    shared_characters: int
    run_length: int
    worst: OverlapExample | None

    @property
    def shared_ratio(self) -> float:
        """留出集中也见于训练集的字的比例，[0, 1]。"""
        return self.shared_characters / self.characters if self.characters else 0.0

    def as_dict(self) -> dict[str, object]:
        """供 `--json` 输出的字典。"""
        return {**asdict(self), "shared_ratio": self.shared_ratio}

    def __str__(self) -> str:
        """一两句中文结论。"""
        summary = (
            f"留出集 {self.documents:,} 篇中，{self.exact:,} 篇整篇见于训练集，"
            f"{self.near:,} 篇近似重复，{self.shared:,} 篇与训练集有 "
            f"{self.run_length} 字以上相同；{self.shared_ratio:.2%} 的字在这些片段里"
        )
        if self.worst is None:
            return summary
        worst = self.worst
        return (
            f"{summary}。最长的一处 {worst.length} 字："
            f"{worst.valid_id} 与 {worst.train_id}，“{worst.text}”"
        )


def overlap(
    train: Iterable[Document],
    valid: Iterable[Document],
    *,
    run_length: int = 20,
    threshold: float = 0.8,
    near: bool = True,
) -> OverlapReport:
    """数出留出集与训练集的重合。

    Args:
        train: 训练集，流式读一遍。
        valid: 留出集，整个放进内存。
        run_length: 多少字连续相同算长片段，至少 4；只比汉字、字母与数字。
        threshold: 近似重复的相似度阈值，(0, 1]。
        near: 是否查近似重复；训练集很大时可以省去。

    Returns:
        各项篇数、字数与最严重的一例。

    Raises:
        CorpusError: 留出集为空，或参数越界。
    """
    check_threshold(threshold)
    if run_length < 4:
        raise CorpusError(
            found=f"run_length 是 {run_length}",
            expected="至少 4 字",
            remedy="通常取 20；太短则到处都是巧合",
        )
    held = list(valid)
    if not held:
        raise CorpusError(
            found="留出集里没有文档", expected="至少一篇", remedy="检查留出集的路径"
        )
    finder = _RunFinder(held, run_length)
    keys = {content_key(doc) for doc in held}
    index = NearIndex(threshold) if near else None
    twins: dict[str, list[int]] = {}
    if index is not None:
        twins = _index_valid(held, index)
    seen: set[bytes] = set()
    similar: set[int] = set()
    for doc in train:
        finder.scan(doc)
        key = content_key(doc)
        if key in keys:
            seen.add(key)
        if index is not None:
            for position in twins.get(index.find(doc)[0] or "", ()):
                similar.add(position)
    exact = {place for place, doc in enumerate(held) if content_key(doc) in seen}
    shared = {place for place, cover in enumerate(finder.covered) if any(cover)}
    return OverlapReport(
        documents=len(held),
        exact=len(exact),
        near=len(similar - exact),
        shared=len(shared),
        contaminated=len(exact | similar | shared),
        characters=sum(map(len, finder.letters)),
        shared_characters=sum(map(sum, finder.covered)),
        run_length=run_length,
        worst=finder.worst,
    )


def _index_valid(held: list[Document], index: NearIndex) -> dict[str, list[int]]:
    """收下留出集；彼此近似的几篇共用一个条目，训练集像其一便都算。"""
    twins: dict[str, list[int]] = {}
    for position, doc in enumerate(held):
        tag = str(position)
        found, _ = index.add(Document(doc.text, tag, doc.source, doc.target))
        twins.setdefault(found or tag, []).append(position)
    return twins


class _RunFinder:
    """找训练文档与留出文档的公共长片段。"""

    def __init__(self, held: list[Document], run_length: int) -> None:
        self.held = held
        self.run_length = run_length
        self.letters = [_letters(doc) for doc in held]
        self.covered = [bytearray(len(text)) for text in self.letters]
        self.worst: OverlapExample | None = None
        self.anchor = (run_length + 1) // 2  # 2a − 1 ≤ run_length：必盖住一个锚
        self.anchors: dict[str, list[tuple[int, int]]] = {}
        for place, text in enumerate(self.letters):
            for at in range(0, len(text) - self.anchor + 1, self.anchor):
                key = text[at : at + self.anchor]
                self.anchors.setdefault(key, []).append((place, at))
        hashes = [_window_hashes(key, self.anchor)[0] for key in self.anchors]
        self.hashes = np.unique(np.array(hashes, np.uint64))

    def scan(self, doc: Document) -> None:
        """把一篇训练文档滑过所有锚。"""
        text, width, anchors = _letters(doc), self.anchor, self.anchors
        reached: dict[tuple[int, int], int] = {}  # 同一条对角线上已伸展到哪里
        # 散列先筛一遍：训练文字有几亿字，逐字查表太慢；相同与否仍由文字定
        found = np.isin(_window_hashes(text, width), self.hashes)
        for start in np.flatnonzero(found).tolist():
            for place, at in anchors.get(text[start : start + width], ()):
                diagonal = (place, start - at)
                if reached.get(diagonal, -1) >= start + width:
                    continue
                left, right = self._extend(text, start, place, at)
                reached[diagonal] = start + right
                if left + right >= self.run_length:
                    self._record(doc, place, at - left, at + right)

    def _extend(self, text: str, start: int, place: int, at: int) -> tuple[int, int]:
        """向两边伸展，返回锚起点左边与右边（含锚）相同的字数。"""
        other = self.letters[place]
        left = 0
        while (
            left < start
            and left < at
            and text[start - left - 1] == other[at - left - 1]
        ):
            left += 1
        right = self.anchor
        most = min(len(text) - start, len(other) - at)
        while right < most and text[start + right] == other[at + right]:
            right += 1
        return left, right

    def _record(self, doc: Document, place: int, first: int, last: int) -> None:
        self.covered[place][first:last] = b"\x01" * (last - first)
        if self.worst is None or last - first > self.worst.length:
            shown = self.letters[place][first:last][:60]
            self.worst = OverlapExample(
                self.held[place].id, doc.id, shown, last - first
            )


def _window_hashes(text: str, width: int) -> NDArray[np.uint64]:
    """每个位置起 `width` 个字的散列，(N,) uint64，N 是窗口数。

    >>> _window_hashes("之乎者也之乎", 2)[[0, 4]].tolist() == 2 * [
    ...     _window_hashes("之乎", 2).item()]
    True
    """
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(
        np.uint64
    )
    size = max(0, len(codes) - width + 1)
    hashes = np.zeros(size, np.uint64)
    for shift in range(width):  # 溢出就是模 2^64
        hashes = hashes * _MULTIPLIER + codes[shift : shift + size]
    return hashes


def _letters(doc: Document) -> str:
    """两侧的文字，以换行隔开：公共片段不会跨过文言与白话。"""
    sides = [content_letters(doc.text)]
    if doc.target is not None:
        sides.append(content_letters(doc.target))
    return "\n".join(sides)


PERCENTILES = (5, 50, 95)


@dataclass(frozen=True)
class CorpusStatistics:
    """一份语料的概况。

    Args:
        documents: 篇数。
        pairs: 其中句对数。
        characters: 字数（Unicode 码点，句对计两侧）。
        distinct_characters: 不同的字符数。
        wide_ratio: 汉字与全角字符的比例，[0, 1]。
        mean_length: 平均篇长（字）。
        length_percentiles: 篇长的 5%、50%、95% 分位数（字）。
        longest: 最长一篇的字数。
        duplicates: 与前面某篇内容相同的篇数。
        duplicate_ratio: 重复篇数的比例，[0, 1]。
    """

    documents: int
    pairs: int
    characters: int
    distinct_characters: int
    wide_ratio: float
    mean_length: float
    length_percentiles: dict[str, int]
    longest: int
    duplicates: int
    duplicate_ratio: float

    def as_dict(self) -> dict[str, object]:
        """供 `--json` 输出的字典。"""
        return asdict(self)

    def __str__(self) -> str:
        """中文表格。"""
        shown = "/".join(f"{value:,}" for value in self.length_percentiles.values())
        rows: list[tuple[str, object]] = [
            ("篇数", self.documents),
            ("字数", self.characters),
            ("不同字符", self.distinct_characters),
            ("汉字与全角字符", f"{self.wide_ratio:.1%}"),
            ("平均篇长", f"{self.mean_length:,.1f}"),
            ("篇长 5%/50%/95%", shown),
            ("最长一篇", self.longest),
            ("重复篇数", f"{self.duplicates:,}（{self.duplicate_ratio:.2%}）"),
        ]
        if self.pairs:
            rows.insert(1, ("其中句对", self.pairs))
        return format_table(("项目", "数值"), rows)


def corpus_stats(docs: Iterable[Document]) -> CorpusStatistics:
    """走一遍语料，数出概况；每篇只占二十余字节。

    Args:
        docs: 文档。

    Returns:
        概况。

    Raises:
        CorpusError: 没有文档。
    """
    lengths = array("Q")
    counts: dict[str, int] = {}
    keys = bytearray()
    pairs = 0
    for doc in docs:
        lengths.append(doc.num_chars)
        keys += content_key(doc)
        pairs += doc.target is not None
        text = doc.text + (doc.target or "")
        for char in set(text):
            counts[char] = counts.get(char, 0) + text.count(char)
    if not lengths:
        raise CorpusError(
            found="语料里没有文档", expected="至少一篇", remedy="检查路径与清洗规则"
        )
    ordered = sorted(lengths)
    total = sum(ordered)
    wide = sum(count for char, count in counts.items() if is_wide(char))
    documents = len(ordered)
    distinct = first_occurrences(np.frombuffer(keys, "<u8").reshape(-1, 2))
    duplicates = documents - len(distinct)
    return CorpusStatistics(
        documents=documents,
        pairs=pairs,
        characters=total,
        distinct_characters=len(counts),
        wide_ratio=wide / total if total else 0.0,
        mean_length=total / documents,
        # 最近秩：第 ⌈p·n⌉ 个，总是真实存在的篇长
        length_percentiles={
            f"p{p}": ordered[max(-(-p * documents // 100) - 1, 0)] for p in PERCENTILES
        },
        longest=ordered[-1],
        duplicates=duplicates,
        duplicate_ratio=duplicates / documents,
    )
