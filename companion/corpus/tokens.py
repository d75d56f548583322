"""词元库：整个语料的词元，存在磁盘上，用到哪里读到哪里。

    documents --tokenize_documents--> TokenStore --plan_packing--> 打包的行

库是 datasets 的一张表，一行一篇文档，列是：

    ids         各词元的编号，uint16（词表小于 65,536）或 uint32
    num_chars   各词元所占的字数，uint8
    word_start  各词元与词的关系，uint8，给了切词器才有
    characters placed unknown  这一篇的字数、写进词元的字数、[UNK] 数

词元不含特殊词元，那是打包时的事。库按内容的指纹缓存：文字、分词器的全部设置、切词器与格式
版本，任一改变都另起一个。

形状字母：D 文档，T 词元。
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from companion.corpus.document import Document, join_lines
from companion.corpus.documents import Documents, store_documents
from companion.corpus.tokenization import (
    OUTSIDE,
    STARTS,
    cut_texts,
    encode_texts,
    joined,
    keeps_line_breaks,
    require_offsets,
    unknown_id,
    word_codes,
)
from companion.corpus.words import Segmenter, segmenter_fingerprint
from companion.errors import CorpusError

FORMAT_VERSION = 4
"""分词或存储的做法一变就加一，旧库随之作废。"""
WORTH_PROCESSES = 1_000_000
"""少于这么多字时，启动几个进程得不偿失。"""
PART_CHARACTERS = 1 << 18
"""不在磁盘上的文档，一部分约多少字。"""

Array = NDArray[Any]


class Piece(NamedTuple):
    """一篇文档中连续的一段词元，[start, stop)。"""

    document: int
    start: int
    stop: int


class Column:
    """首尾相接的几段数组，当作一条来切片；各段是内存映射，切到哪里读到哪里。

    Args:
        parts: 各段，(T_i,)，类型相同，至少一段。
    """

    def __init__(self, parts: Sequence[Array]) -> None:
        self.parts = parts
        self.dtype = parts[0].dtype
        self._firsts = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def __getitem__(self, span: slice) -> Array:
        start, stop, _ = span.indices(len(self))
        found: list[Array] = []
        at = int(np.searchsorted(self._firsts, start, side="right")) - 1
        while start < stop:
            first, last = self._firsts[at], min(stop, self._firsts[at + 1])
            found.append(self.parts[at][start - first : last - first])
            start, at = int(last), at + 1
        return (
            found[0] if len(found) == 1 else np.concatenate([self.parts[0][:0], *found])
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """整条读进内存。"""
        return np.concatenate(self.parts).astype(dtype or self.dtype, copy=False)


class TokenStore:
    """分好词的语料；各列是内存映射，打开一个大库几乎不占内存。

    通常由 `tokenize_documents` 得到，或用 `open` 打开已有的文件夹。送进别的进程时只送
    路径，到那里重新打开。

    Attributes:
        path: 库所在的文件夹；在内存中的库为 None。
        ids: 全部词元的编号，不含特殊词元，(T,) uint16 或 uint32；切片才读，
            `np.asarray` 读进全部。
        num_chars: 每个词元所占的字数，(T,) uint8，同上。
        word_start: 每个词元与词的关系（0 承接、1 另起、2 不属于词），(T,) uint8，
            同上；没有切词器时为 None。
        offsets: 每篇文档的起点，末尾加上词元总数，(D + 1,) int64。
        lengths: 每篇文档的词元数，(D,) int64。
        meta: 账目 `num_documents` `num_tokens` `num_characters`
            `num_dropped_characters`（分词器丢掉的字，多为空白）`num_unk`。
    """

    def __init__(
        self,
        ids: Column,
        num_chars: Column,
        word_start: Column | None,
        lengths: NDArray[np.int64],
        meta: Mapping[str, int],
        path: Path | None = None,
    ) -> None:
        self.path = path
        self.ids = ids
        self.num_chars = num_chars
        self.word_start = word_start
        self.lengths = lengths
        self.offsets: NDArray[np.int64] = np.cumsum([0, *lengths], dtype=np.int64)
        self.meta = dict(meta)

    @classmethod
    def open(cls, path: str | Path) -> "TokenStore":
        """打开一个库。

        Raises:
            CorpusError: 文件夹不是库，或缺了一块。
        """
        from companion.corpus.arrow import BROKEN, open_table

        try:
            return cls._of(open_table(path).data.to_batches(), Path(path))
        except BROKEN as error:
            raise CorpusError(
                found=f"{path} 不是完好的词元库（{error}）",
                expected=f"第 {FORMAT_VERSION} 版的词元库，各文件齐全且长短与记录相符",
                remedy="删去这个文件夹，重新分词",
            ) from error

    @classmethod
    def _of(cls, batches: list[Any], path: Path | None) -> "TokenStore":
        def column(name: str) -> list[Array]:
            columns = [batch.column(name) for batch in batches]
            lists = name in ("ids", "num_chars", "word_start")
            return [(c.flatten() if lists else c).to_numpy() for c in columns]

        lengths = [b.column("ids").value_lengths().to_numpy() for b in batches]
        words = None
        if "word_start" in batches[0].schema.names:
            words = Column(column("word_start"))
        total, placed, unknown = (
            sum(int(part.sum(dtype=np.int64)) for part in column(name))
            for name in ("characters", "placed", "unknown")
        )
        counts = np.concatenate(lengths).astype(np.int64)
        return cls(
            Column(column("ids")),
            Column(column("num_chars")),
            words,
            counts,
            _meta(counts, characters=total, placed=placed, unk=unknown),
            path,
        )

    @classmethod
    def from_ids(
        cls,
        documents: Sequence[Sequence[int]],
        *,
        num_chars: Sequence[Sequence[int]] | None = None,
        word_ids: Sequence[Sequence[int]] | None = None,
        vocab_size: int | None = None,
    ) -> "TokenStore":
        """直接由编号造一个内存中的库，供测试与演示。

        Args:
            documents: 每篇文档的编号。
            num_chars: 每个词元的字数，缺省都是 1。
            word_ids: 每个词元的词号，−1 不属于词。
            vocab_size: 缺省为最大的编号加一。
        """
        flat = np.array([i for ids in documents for i in ids], np.int64)
        counts = np.ones(len(flat), np.uint8)
        if num_chars is not None:
            counts = np.array([n for row in num_chars for n in row], np.uint8)
        words = None
        if word_ids is not None:
            rows = [word_codes(np.array(row, np.int64)) for row in word_ids]
            words = Column([np.concatenate([np.empty(0, np.uint8), *rows])])
        size = vocab_size or int(flat.max(initial=0)) + 1
        lengths = np.array([len(ids) for ids in documents], np.int64)
        total = int(counts.sum())
        meta = _meta(lengths, characters=total, placed=total, unk=0)
        return cls(
            Column([flat.astype(_dtype(size))]), Column([counts]), words, lengths, meta
        )

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def num_tokens(self) -> int:
        """全部词元数。"""
        return int(self.offsets[-1])

    def tokens(self, piece: Piece) -> NDArray[np.int64]:
        """一个片段的编号，(T,) int64，是一份拷贝。"""
        return self.ids[self._span(piece)].astype(np.int64)

    def characters(self, piece: Piece) -> NDArray[np.int64]:
        """一个片段中每个词元的字数，(T,) int64。"""
        return self.num_chars[self._span(piece)].astype(np.int64)

    def word_ids(self, piece: Piece, first: int = 0) -> NDArray[np.int64]:
        """一个片段中每个词元的词号，(T,) int64，从 `first` 编起，不属于词的为 −1。

        片段从词的中间开始时，剩下的半个词自成一词。

        Raises:
            CorpusError: 分词时没有给切词器。
        """
        if self.word_start is None:
            raise CorpusError(
                found="词元库里没有词界",
                expected="全词掩码要在分词时给出切词器",
                remedy="把 segmenter 传给 tokenize_documents，或改用 granularity=token",
            )
        codes = self.word_start[self._span(piece)]
        inside = codes != OUTSIDE
        starts = codes == STARTS
        if inside.any():
            starts[np.argmax(inside)] = True
        return np.where(inside, first - 1 + np.cumsum(starts), -1).astype(np.int64)

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """从头到尾的编号，一段一段：(第一个词元是第几个, 编号)；读过的随即放手。"""
        from companion.corpus.arrow import batches_of

        if self.path is None:
            yield 0, np.asarray(self.ids)
            return
        first = 0
        for path in sorted(self.path.glob("*.arrow")):
            for batch in batches_of(str(path)):
                ids = batch.column("ids").flatten().to_numpy()
                yield first, ids
                first += len(ids)

    def _span(self, piece: Piece) -> slice:
        base = int(self.offsets[piece.document])
        return slice(base + piece.start, base + piece.stop)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.path is not None:  # 内存映射一经 pickle 就会整个读进内存
            return TokenStore.open, (self.path,)
        columns = self.ids, self.num_chars, self.word_start
        return TokenStore, (*columns, self.lengths, self.meta)


def _dtype(vocab_size: int) -> str:
    return "uint16" if vocab_size < 65_536 else "uint32"


def _meta(
    lengths: NDArray[np.int64], *, characters: int, placed: int, unk: int
) -> dict[str, int]:
    return {
        "num_documents": len(lengths),
        "num_tokens": int(lengths.sum()),
        "num_characters": characters,
        "num_dropped_characters": characters - placed,
        "num_unk": unk,
    }


def tokenize_documents(
    documents: Sequence[Document] | Callable[[], Iterable[Document]],
    tokenizer: Any,
    *,
    cache_dir: str | Path | None = None,
    segmenter: Segmenter | None = None,
    num_proc: int | None = None,
) -> TokenStore:
    """给语料分词，存成词元库；同样的文字与分词器第二次直接打开。

    Args:
        documents: 文档的列表；大语料给 `Documents`，或一个产出文档的无参数函数。
        tokenizer: transformers 的分词器。
        cache_dir: 放库的文件夹，不在就新建；None 时文字不多，留在内存里，不存。
        segmenter: 切词器，全词掩码才要。
        num_proc: 几个进程，结果都相同；缺省时字数不多用一个，多则用全部的核。

    Raises:
        CorpusError: 没有一个词元；分词器没有偏移却要词界；文件夹写不进去或磁盘已满。
    """
    require_offsets(tokenizer, segmenter)
    if callable(documents):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            stored = store_documents(documents, folder, "")
            return tokenize_documents(
                stored,
                tokenizer,
                cache_dir=cache_dir,
                segmenter=segmenter,
                num_proc=num_proc,
            )
    read, parts = _readable(documents)
    if cache_dir is None:
        tables = list(_tables(read, tokenizer, segmenter, parts))
        if not tables:
            raise _no_tokens(0)
        batches = [each for table in tables for each in table.to_batches()]
        return _full(TokenStore._of(batches, None))
    from datasets import Features

    from companion.corpus.arrow import build_table

    digest, characters = _content(read(parts))
    if num_proc is None:
        num_proc = _num_cores() if characters >= WORTH_PROCESSES else 1
    key = (str(FORMAT_VERSION), digest, tokenizer_fingerprint(tokenizer))
    with _one_thread(num_proc):
        table = build_table(
            cache_dir,
            "tokens",
            hashlib.sha256(
                "\n".join((*key, segmenter_fingerprint(segmenter))).encode()
            ).hexdigest()[:32],
            Features.from_arrow_schema(_schema(tokenizer, segmenter)),
            partial(_tables, read, tokenizer, segmenter),
            parts,
            num_proc,
        )
    if not len(table):
        raise _no_tokens(0)
    path = Path(table.cache_files[0]["filename"]).parent
    return _full(TokenStore._of(table.data.to_batches(), path))


def _full(store: TokenStore) -> TokenStore:
    """库里至少有一个词元。"""
    if not store.num_tokens:
        raise _no_tokens(len(store))
    return store


def _num_cores() -> int:
    """可用的核数；macOS 与 Windows 问不出分到了哪几个，就是全部的。"""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """分词器的指纹，sha256 十六进制：只由决定切法的设置而定，与存放的路径无关。"""
    if tokenizer.is_fast:
        settings = json.loads(tokenizer.backend_tokenizer.to_str())
        settings.pop("truncation", None)  # 每次调用都会改写，与切法无关
        settings.pop("padding", None)
        parts = [json.dumps(settings, sort_keys=True).encode()]
    else:
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            files = sorted(p for p in Path(folder).rglob("*") if p.is_file())
            parts = [data for p in files for data in (p.name.encode(), p.read_bytes())]
    digest = hashlib.sha256(type(tokenizer).__name__.encode())
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def content_fingerprint(documents: Sequence[Document]) -> str:
    """全部文字（句对含两侧）与文档分界的指纹；存在哪里、叫什么名字都不影响它。"""
    read, parts = _readable(documents)
    return _content(read(parts))[0]


def _readable(documents: Sequence[Document]) -> tuple[Callable[[Any], Any], list[Any]]:
    """文档切成可以分给几个进程的部分（磁盘上的批，或内存里的几段文字），与读它们的函数。"""
    if isinstance(documents, Documents):
        return documents.text_batches, list(documents.parts())
    parts: list[list[str]] = [[]]
    size = 0
    for document in documents:
        if size >= PART_CHARACTERS:
            parts.append([])
            size = 0
        parts[-1].append(document.text)
        size += len(document.text) + 64  # 空文档也占一点
    return _arrays, parts


def _arrays(parts: Iterable[list[str]]) -> Iterator[Any]:
    import pyarrow as pa

    return (pa.array(part, pa.string()) for part in parts if part)


def _content(arrays: Iterable[Any]) -> tuple[str, int]:
    """全部文字与文档分界的指纹，与字数。"""
    pc: Any = import_module("pyarrow.compute")
    data, lengths = hashlib.sha256(), hashlib.sha256()
    characters = 0
    for texts in arrays:
        offsets = np.frombuffer(texts.buffers()[1], np.int32)
        offsets = offsets[texts.offset : texts.offset + len(texts) + 1]
        lengths.update(np.diff(offsets).data)
        if texts.buffers()[2] is not None:
            data.update(memoryview(texts.buffers()[2])[offsets[0] : offsets[-1]])
        characters += pc.sum(pc.utf8_length(texts)).as_py() or 0
    return data.hexdigest() + lengths.hexdigest(), characters


def _schema(tokenizer: Any, segmenter: Segmenter | None) -> Any:
    """词元库各列的类型，pyarrow.Schema。"""
    import pyarrow as pa

    size = max(tokenizer.get_vocab().values()) + 1
    ids = pa.uint16() if _dtype(size) == "uint16" else pa.uint32()
    words = {} if segmenter is None else {"word_start": pa.list_(pa.uint8())}
    counts = {name: pa.int32() for name in ("characters", "placed", "unknown")}
    return pa.schema(
        {"ids": pa.list_(ids), "num_chars": pa.list_(pa.uint8()), **words, **counts}
    )


def _tables(
    read: Callable[[Any], Iterator[Any]],
    tokenizer: Any,
    segmenter: Segmenter | None,
    parts: list[Any],
) -> Iterator[Any]:
    """各部分的文字 → 各部分的词元，一行一篇。"""
    import pyarrow as pa

    schema = _schema(tokenizer, segmenter)
    unknown = unknown_id(tokenizer)
    keeps = keeps_line_breaks(tokenizer)
    for array in read(parts):
        texts: list[str] = array.to_pylist()
        sizes = [len(text) for text in texts]
        if not keeps:
            texts = [
                join_lines(each.split("\n")) if "\n" in each else each for each in texts
            ]
        batches = cut_texts(texts)
        encoded = joined([encode_texts(each, tokenizer, segmenter) for each in batches])
        offsets = np.cumsum([0, *encoded.lengths])  # (D + 1,)

        def counted(values: Array, offsets: Array = offsets) -> Any:
            sums = np.concatenate(([0], np.cumsum(values, dtype=np.int64)))
            return pa.array(np.diff(sums[offsets]).astype(np.int32))

        def listed(values: Array, name: str, offsets: Array = offsets) -> Any:
            kind = schema.field(name).type
            flat = pa.array(values.astype(kind.value_type.to_pandas_dtype()))
            return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat)

        columns = {
            "ids": listed(encoded.ids, "ids"),
            "num_chars": listed(encoded.num_chars, "num_chars"),
            "characters": pa.array(sizes, pa.int32()),
            "placed": counted(encoded.num_chars),
            "unknown": counted(encoded.ids == unknown),
        }
        if encoded.words is not None:
            columns["word_start"] = listed(encoded.words, "word_start")
        arrays = [columns[name].cast(schema.field(name).type) for name in schema.names]
        yield pa.Table.from_arrays(arrays, schema=schema)


@contextmanager
def _one_thread(num_proc: int) -> Generator[None]:
    """几个进程一同分词时，各自单线程。"""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    if num_proc > 1:
        os.environ[name] = "false"
    try:
        yield
    finally:
        if num_proc > 1 and before is None:
            del os.environ[name]
        elif before is not None:
            os.environ[name] = before


def _no_tokens(documents: int) -> CorpusError:
    return CorpusError(
        found=f"{documents} 篇文档里没有一个词元",
        expected="语料里有文字",
        remedy="打开语料看看是否为空，或是否只有空白",
    )
