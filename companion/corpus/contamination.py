"""留出集有没有混进训练集：数据污染的检查。

留出集的分数只有在模型没见过它时才有意义。这里查三件事：整篇相同、近似重复、以及与
训练集有连续 20 字以上相同的**长片段**（史书互相转引，整段照抄很常见）。

查长片段不必存下所有 20 字片段：留出集每隔 10 字取一个 10 字的锚，任何 20 字的
公共片段必然完整地盖住一个锚；训练集逐字滑动，碰到锚再向两边伸展。内存只与
留出集有关，训练集可以是 10 GB 的流。
"""

from collections.abc import Iterable
from dataclasses import dataclass

from companion.corpus.dedup import (
    NearIndex,
    check_threshold,
    content_key,
    content_letters,
)
from companion.corpus.document import Document
from companion.errors import CorpusError


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
        worst = self.worst
        return {
            "documents": self.documents,
            "contaminated": self.contaminated,
            "exact": self.exact,
            "near": self.near,
            "shared": self.shared,
            "characters": self.characters,
            "shared_characters": self.shared_characters,
            "shared_ratio": self.shared_ratio,
            "run_length": self.run_length,
            "worst": None
            if worst is None
            else {
                "valid_id": worst.valid_id,
                "train_id": worst.train_id,
                "text": worst.text,
                "length": worst.length,
            },
        }

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

    def scan(self, doc: Document) -> None:
        """把一篇训练文档滑过所有锚。"""
        text, width, anchors = _letters(doc), self.anchor, self.anchors
        reached: dict[tuple[int, int], int] = {}  # 同一条对角线上已伸展到哪里
        for start in range(len(text) - width + 1):
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


def _letters(doc: Document) -> str:
    """两侧的文字，以换行隔开：公共片段不会跨过文言与白话。"""
    sides = [content_letters(doc.text)]
    if doc.target is not None:
        sides.append(content_letters(doc.target))
    return "\n".join(sides)
