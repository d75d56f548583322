"""磁盘上的一份语料与它的切分：用起来是 `Sequence[Document]`，内里是 datasets 的一张表。

    读者（`read_corpus`） --store_documents--> Documents --select--> 训练集、留出集

一行一篇：正文、译文、编号、出处，以及去重与切分各用的一个内容指纹（128 位）。从头读一遍
时顺着文件读，按下标取时走内存映射，所以多大的语料都不占内存；一篇在内存里只剩几个整数。

切分按文档内容的哈希：一篇归哪边只由它自己的文字和种子决定，所以打乱次序不变，添加新文档时
旧文档不动，重复的文档总在同一边。按行号或随机抽取做不到这三点，留出集会随数据的增删漏进
训练集。

形状字母：D 文档，N 选中的行。
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from companion.corpus.document import (
    CHAPTERS,
    SOURCES,
    Document,
    content_key,
    join_lines,
    letters_key,
)
from companion.corpus.sources import cache_folder, resolve
from companion.corpus.tables import table_documents
from companion.errors import CorpusError

if TYPE_CHECKING:
    import datasets

    from companion.corpus.arrow import Part


VERSION = 2
"""读法或存法一变就加一，旧表随之作废。"""
BATCH_CHARACTERS = 1 << 21
"""表里一批约多少字：小了，批的头比正文还费内存；大了，一批本身占内存。"""
_COLUMNS = ("text", "target", "id", "source")
_KEYS = {"content": content_key, "letters": letters_key}


class Documents(Sequence[Document]):
    """表里的一些行，一行一篇；送进别的进程时只送路径与行号。

    Args:
        table: `store_documents` 的表。
        rows: 取哪几行，由小到大，(N,) int64；None 是全部。
        sides: 为真时句对拆成源、目标相间的单语文档，共 2N 篇。
    """

    def __init__(
        self,
        table: "datasets.Dataset",
        rows: NDArray[np.int64] | None = None,
        *,
        sides: bool = False,
    ) -> None:
        self.table = table
        self.rows = rows
        self._sides = sides

    def __len__(self) -> int:
        size = len(self.table) if self.rows is None else len(self.rows)
        return 2 * size if self._sides else size

    @overload
    def __getitem__(self, index: int) -> Document: ...

    @overload
    def __getitem__(self, index: slice) -> list[Document]: ...

    def __getitem__(self, index: int | slice) -> Document | list[Document]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        row = place // 2 if self._sides else place
        found = self.table[row if self.rows is None else int(self.rows[row])]
        document = Document(
            *(found[name] for name in ("text", "id", "source", "target"))
        )
        return sides_of(document)[place % 2] if self._sides else document

    def __iter__(self) -> Iterator[Document]:
        from companion.corpus.arrow import batches_at

        for batch in batches_at(self.parts()):
            columns = (batch.column(n).to_pylist() for n in _COLUMNS)
            for text, target, name, source in zip(*columns, strict=True):
                document = Document(text, name, source, target)
                yield from sides_of(document) if self._sides else (document,)

    def parts(self) -> "list[Part]":
        """表的各批，连同其中选中的行；可以分给几个进程。"""
        import pyarrow as pa

        from companion.corpus.arrow import Part, files_of

        parts: list[Part] = []
        first = 0
        for path in files_of(self.table):
            with pa.memory_map(path) as file, pa.ipc.open_stream(file) as reader:
                for index, batch in enumerate(reader):
                    rows, size = self.rows, batch.num_rows
                    if rows is not None:
                        low, high = np.searchsorted(rows, (first, first + size))
                        rows = rows[low:high] - first
                    if rows is None or len(rows):
                        whole = rows is None or len(rows) == size
                        parts.append(Part(path, index, None if whole else rows))
                    first += size
        return parts

    def text_batches(self, parts: "Sequence[Part]") -> Iterator[Any]:
        """各部分的文字，一批一个数组；句对拆开时源、目标相间。"""
        from companion.corpus.arrow import batches_at

        for batch in batches_at(parts):
            yield _interleaved(batch) if self._sides else batch.column("text")

    def keys(self, kind: Literal["content", "letters"]) -> NDArray[np.uint64]:
        """各篇的 `content_key` 或 `letters_key`，(N, 2) uint64。"""
        from companion.corpus.arrow import batches_at

        keys = [np.empty(0, np.uint64)]
        for batch in batches_at(self.parts()):
            # 抄一份：一批的各列共用一块内存，留着切片，全文就都不放手
            keys.append(batch.column(kind).flatten().to_numpy().copy())
        return np.concatenate(keys).reshape(-1, 2)

    @property
    def line_breaks(self) -> int:
        """正文里的换行有几处。"""
        pc: Any = import_module("pyarrow.compute")
        counts = (
            pc.sum(pc.count_substring(texts, "\n")).as_py() or 0
            for texts in self.text_batches(self.parts())
        )
        return sum(counts)

    def select(self, places: NDArray[np.int64]) -> "Documents":
        """取其中几篇，(K,) 由小到大的下标。"""
        rows = places if self.rows is None else self.rows[places]
        return Documents(self.table, rows)

    def without_duplicates(self) -> "Documents":
        """内容相同的只留先来的一篇。"""
        kept = first_occurrences(self.keys("content"))
        return self if len(kept) == len(self) else self.select(kept)

    def joined(self) -> "Documents":
        """一篇之内的换行都接起来；没有换行的原样返回。"""
        if not self.line_breaks:
            return self
        return store_documents(
            lambda: map(_on_one_line, self),
            cache_folder() / "documents",
            repr((self.table._fingerprint, self._digest_of_rows(), "joined")),
        )

    def _digest_of_rows(self) -> str | None:
        return None if self.rows is None else hashlib.sha256(self.rows.data).hexdigest()

    def divided(self, sizes: Sequence[int]) -> "list[Documents]":
        """`chained` 的反面：表的前 `sizes[0]` 行归第一份，如此类推。"""
        rows = np.arange(len(self.table)) if self.rows is None else self.rows
        borders = np.searchsorted(rows, np.cumsum([0, *sizes]))
        return [
            Documents(self.table, rows[low:high]) for low, high in pairwise(borders)
        ]

    def sides(self) -> "Documents":
        """句对 → 源、目标相间的单语文档。"""
        return Documents(self.table, self.rows, sides=True)


def chained(parts: Sequence["Documents"]) -> "Documents":
    """几份接成一份，次序照给的；一份的就是它自己。"""
    from datasets import concatenate_datasets

    if len(parts) == 1:
        return parts[0]
    firsts = np.cumsum([0, *(len(each.table) for each in parts)])
    rows = [
        first + (np.arange(len(each.table)) if each.rows is None else each.rows)
        for each, first in zip(parts, firsts[:-1], strict=True)
    ]
    table = concatenate_datasets([each.table for each in parts])
    return Documents(table, np.concatenate(rows))


def _on_one_line(document: Document) -> Document:
    return replace(document, text=join_lines(document.text.split("\n")))


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


def joined_keys(
    documents: Iterable[Document], key: Callable[[Document], bytes] = content_key
) -> NDArray[np.uint64]:
    """各篇的指纹首尾相接，(2D,) uint64。"""
    return np.frombuffer(b"".join(map(key, documents)), "<u8")


def sides_of(pair: Document) -> tuple[Document, Document]:
    """句对的两侧，各成一篇单语文档。"""
    return (
        Document(pair.text, f"{pair.id}·源", pair.source),
        Document(pair.target or "", f"{pair.id}·目标", pair.source),
    )


def open_corpus(spec: str | Path, split: str | None = "train") -> Documents:
    """名字或路径 → 语料；文件没有变过的，第二次直接打开。

    Args:
        spec: 同 `companion.corpus.sources.resolve`。
        split: 读哪个切分；None 是当作留出集来读（`Resolved.held_out`）。

    Raises:
        CorpusError: 语料读不了，一篇也没有，或缓存写不进去。
    """
    resolved = resolve(spec)
    split = resolved.held_out if split is None else split
    files = resolved.files.get(split, ())
    state: list[Any] = [_state(path) for paths in files for path in paths]
    if split in resolved.tables:
        state = [resolved.tables[split]._fingerprint]
    return store_documents(
        lambda: resolved.read(split),
        cache_folder() / "documents",
        repr((str(spec), split, state)),
    )


def open_dataset(table: "datasets.Dataset") -> Documents:
    """Datasets 的一张表 → 语料：要有 `text` 一列，或 `source` 与 `target` 两列。

    Raises:
        CorpusError: 列名不对，某行不是文字，或一篇也没有。
    """
    return store_documents(
        lambda: table_documents(table, "dataset"),
        cache_folder() / "documents",
        repr((table._fingerprint, "dataset")),
    )


def store_documents(
    read: Callable[[], Iterable[Document]], cache_dir: str | Path, identity: str
) -> Documents:
    """把文档流写成磁盘上的一份语料；同一个 `identity` 第二次直接打开。

    Args:
        read: 从头产出文档；只有缓存里没有时才调用。
        cache_dir: 放表的文件夹。
        identity: 内容由它决定的一切。

    Raises:
        CorpusError: 文档读不了，或文件夹写不进去。
    """
    from companion.corpus.arrow import build_table

    fingerprint = hashlib.sha256(f"{VERSION}\n{identity}".encode()).hexdigest()[:32]
    table = build_table(
        cache_dir,
        "documents",
        fingerprint,
        _features(),
        lambda parts: _tables(part() for part in parts),
        [read],
    )
    return Documents(table)


def _features() -> "datasets.Features":
    import datasets

    columns: dict[str, Any] = {name: datasets.Value("string") for name in _COLUMNS}
    key = datasets.List(datasets.Value("uint64"), length=2)
    return datasets.Features({**columns, **dict.fromkeys(_KEYS, key)})


def _tables(streams: Iterable[Iterable[Document]]) -> Iterator[Any]:
    held: list[Document] = []
    size = 0
    for stream in streams:
        for document in stream:
            held.append(document)
            size += document.num_chars + 64  # 空文档也占一点，免得一批里有无数篇
            if size >= BATCH_CHARACTERS:
                yield _table(held)
                held, size = [], 0
    if held:
        yield _table(held)


def _table(documents: list[Document]) -> Any:
    import pyarrow as pa

    schema = _features().arrow_schema
    columns: list[Any] = [
        *(pa.array([getattr(d, name) for d in documents]) for name in _COLUMNS),
        *(
            pa.FixedSizeListArray.from_arrays(pa.array(joined_keys(documents, key)), 2)
            for key in _KEYS.values()
        ),
    ]
    typed = [
        c.cast(field.type) for c, field in zip(columns, schema, strict=True)
    ]  # 全是 None 的一列要说明是文字
    return pa.Table.from_arrays(typed, schema=schema)


def _interleaved(batch: Any) -> Any:
    import pyarrow as pa

    both = zip(batch.column("text"), batch.column("target"), strict=True)
    return pa.array([side.as_py() or "" for pair in both for side in pair], pa.string())


def _state(path: Path) -> list[tuple[str, int, int]]:
    """一个文件或文件夹的名字、长短与改动时间，连同旁边的篇目。"""
    path = path.resolve()
    beside = [path.with_name(name) for name in (CHAPTERS, SOURCES)]
    files = path.rglob("*") if path.is_dir() else [path, *beside]
    stats = [(str(each), each.stat()) for each in sorted(files) if each.is_file()]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


_SENTENCE_END = re.compile("[。！？；…][”’」』）]*|[.!?]\\s")


@dataclass(frozen=True)
class Split:
    """切分的结果。

    Args:
        train: 训练集，保持原来的次序。
        valid: 留出集，保持原来的次序。
        method: `hash`（按文档）或 `tail`（单篇留尾）。
    """

    train: Sequence[Document]
    valid: Sequence[Document]
    method: str

    def as_dict(self) -> dict[str, object]:
        """供 `--json` 输出的字典。"""
        return {
            "method": self.method,
            "train": {"documents": len(self.train), "characters": _size(self.train)},
            "valid": {"documents": len(self.valid), "characters": _size(self.valid)},
        }


def split_documents(
    docs: Iterable[Document], valid_ratio: float = 0.05, seed: int = 0
) -> Split:
    """按文档内容切成训练集与留出集，两边都不空。

    每篇的哈希落在 [0, 1)，小于 `valid_ratio` 的留出。文档很少、恰好一篇也没落进去时，
    取哈希最小的一篇（全落进去时，放回哈希最大的）：仍与次序无关，只是再添文档时
    这一篇可能回到训练集。

    Args:
        docs: 文档；内容相同的算一篇，总在同一边。
        valid_ratio: 留出的文档比例，(0, 1)。
        seed: 换一个种子就换一种切法。

    Returns:
        训练集与留出集。

    Raises:
        CorpusError: 比例越界，或内容不同的文档不足两篇。
    """
    _check_ratio(valid_ratio)
    listed = docs if isinstance(docs, Sequence) else list(docs)
    points = _points(listed, seed)
    distinct = np.unique(points)
    if len(distinct) < 2:
        raise CorpusError(
            found=f"内容不同的文档只有 {len(distinct)} 篇",
            expected="至少两篇，才能各放一边",
            remedy="用空行把长文分成几篇，或用 split_tail 留出文末",
        )
    # 第二小的哈希作界，至少留出一篇；最大的作界，至少训练一篇
    held = points < min(max(valid_ratio, distinct[1]), distinct[-1])
    return Split(_chosen(listed, ~held), _chosen(listed, held), "hash")


def split_point(doc: Document, seed: int = 0) -> float:
    """文档在 [0, 1) 上的位置，只由内容与种子决定；流式切分时与比例比较即可。"""
    return _point(letters_key(doc), seed)


def _point(key: bytes, seed: int) -> float:
    digest = hashlib.blake2b(key, digest_size=8, key=str(seed).encode("ascii")).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def _points(docs: Sequence[Document], seed: int) -> NDArray[np.float64]:
    """各篇的位置，(D,)；磁盘上的语料已经记下了内容的指纹。"""
    if isinstance(docs, Documents):
        keys = (key.tobytes() for key in docs.keys("letters"))
    else:
        keys = map(letters_key, docs)
    return np.fromiter((_point(key, seed) for key in keys), np.float64, len(docs))


def _chosen(docs: Sequence[Document], mask: NDArray[np.bool_]) -> Sequence[Document]:
    places = np.flatnonzero(mask)
    if isinstance(docs, Documents):
        return docs.select(places)
    return [docs[place] for place in places.tolist()]


def split_tail(doc: Document, valid_ratio: float = 0.05) -> Split:
    """单篇长文：留出连续的文末一段，在句末断开。

    随机抽句会让留出的句子与训练的句子互为上下文；文末一段则只在一处相接。

    Args:
        doc: 一篇单语文档。
        valid_ratio: 留出的字数比例，(0, 1)。

    Returns:
        训练集与留出集各一篇。

    Raises:
        CorpusError: 比例越界、是句对，或不足两句。
    """
    _check_ratio(valid_ratio)
    if doc.target is not None:
        raise CorpusError(
            found=f"{doc.id} 是句对",
            expected="一篇单语长文",
            remedy="句对是一行一个文档，改用 split_documents",
        )
    text = doc.text
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    ends = [end for end in ends if text[:end].strip() and text[end:].strip()]
    if not ends:
        raise CorpusError(
            found=f"{doc.id} 只有一句话",
            expected="至少两句，才能留出文末",
            remedy="另备一份留出集，用 --valid 指定",
        )
    wanted = len(text) * (1 - valid_ratio)
    cut = min(ends, key=lambda end: (abs(end - wanted), end))
    train = replace(doc, text=text[:cut].strip(), id=f"{doc.id}:train")
    valid = replace(doc, text=text[cut:].strip(), id=f"{doc.id}:valid")
    return Split([train], [valid], "tail")


def split_corpus(
    docs: Iterable[Document], valid_ratio: float = 0.05, seed: int = 0
) -> Split:
    """多篇按哈希切，单篇留文末；用了哪一种写在 `method` 里。

    Args:
        docs: 文档。
        valid_ratio: 留出的比例，(0, 1)。
        seed: 种子，只用于按哈希切。

    Returns:
        训练集与留出集。

    Raises:
        CorpusError: 没有文档，或无从切分。
    """
    listed = docs if isinstance(docs, Sequence) else list(docs)
    if len(np.unique(_points(listed, seed))) == 1:
        return split_tail(listed[0], valid_ratio)
    return split_documents(listed, valid_ratio, seed)


def _check_ratio(valid_ratio: float) -> None:
    if not 0 < valid_ratio < 1:
        raise CorpusError(
            found=f"valid_ratio 是 {valid_ratio}",
            expected="大于 0、小于 1 的数",
            remedy="通常取 0.05",
        )


def _size(docs: Sequence[Document]) -> int:
    return sum(doc.num_chars for doc in docs)
