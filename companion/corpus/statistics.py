"""语料概况：多少篇、多少字、多长、重复多少。"""

from array import array
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from companion.corpus.dedup import content_key
from companion.corpus.document import Document, is_wide
from companion.corpus.table import format_table
from companion.errors import CorpusError

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
    keys: set[bytes] = set()
    pairs = 0
    for doc in docs:
        lengths.append(doc.num_chars)
        keys.add(content_key(doc))
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
    duplicates = documents - len(keys)
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
