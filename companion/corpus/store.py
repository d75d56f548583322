"""词元库：整个语料的词元编号排成一条，存在磁盘上，用到哪里读到哪里。

一个文件夹是一个库：

    ids.bin         每个词元的编号，uint16（词表小于 65,536）或 uint32
    num_chars.bin   每个词元所占的字数，uint8
    word_start.bin  每个词元与词的关系，uint8，给了切词器才有
    offsets.npy     每篇文档的起点，int64，末尾加上词元总数
    meta.json       版本、词表大小、字数与 [UNK] 的账

词元不含特殊词元，那是打包时的事。

形状字母：D 文档，T 词元。
"""

import json
from array import array
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from companion.corpus.tokenization import (
    OUTSIDE,
    STARTS,
    Encoded,
    unknown_id,
    word_codes,
)
from companion.corpus.words import Segmenter, segmenter_fingerprint
from companion.errors import CorpusError

FORMAT_VERSION = 1
"""分词或存储的做法一变就加一，旧库随之作废。"""

Array = NDArray[Any]


class Piece(NamedTuple):
    """一篇文档中连续的一段词元，[start, stop)。"""

    document: int
    start: int
    stop: int


class TokenStore:
    """分好词的语料；数组是内存映射，打开一个大库几乎不占内存。

    通常由 `tokenize_documents` 得到，或用 `open` 打开已有的文件夹。送进别的进程时只送
    路径，到那里重新打开。

    Attributes:
        path: 库所在的文件夹；在内存中的库为 None。
        ids: 全部词元的编号，不含特殊词元，(T,) uint16 或 uint32。
        num_chars: 每个词元所占的字数，(T,) uint8。
        word_start: 每个词元与词的关系（0 承接、1 另起、2 不属于词），(T,) uint8；
            没有切词器时为 None。
        offsets: 每篇文档的起点，(D + 1,) int64。
        meta: 词表大小 `vocab_size`，账目 `num_documents` `num_tokens`
            `num_characters` `num_dropped_characters`（分词器丢掉的字，多为空白）
            `num_unk`。
    """

    def __init__(
        self,
        ids: Array,
        num_chars: Array,
        word_start: Array | None,
        offsets: NDArray[np.int64],
        meta: Mapping[str, Any],
        path: Path | None = None,
    ) -> None:
        self.path = path
        self.ids = ids
        self.num_chars = num_chars
        self.word_start = word_start
        self.offsets = offsets
        self.meta = dict(meta)
        self.lengths: NDArray[np.int64] = np.diff(offsets)
        """每篇文档的词元数，(D,) int64。"""

    @classmethod
    def open(cls, path: str | Path) -> "TokenStore":
        """打开一个库。

        Raises:
            CorpusError: 文件夹不是库、版本不同，或文件长短与记录不符。
        """
        folder = Path(path)
        try:
            meta = json.loads((folder / "meta.json").read_text("utf-8"))
            offsets = np.load(folder / "offsets.npy", allow_pickle=False)
            count = int(meta["num_tokens"])
            if meta["version"] != FORMAT_VERSION or offsets[-1] != count:
                raise ValueError(f"版本 {meta['version']}，词元 {count}")
            words = folder / "word_start.bin"
            return cls(
                _map(folder / "ids.bin", np.dtype(meta["dtype"]), count),
                _map(folder / "num_chars.bin", np.dtype(np.uint8), count),
                _map(words, np.dtype(np.uint8), count) if meta["has_words"] else None,
                offsets,
                meta,
                folder,
            )
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            EOFError,
            IndexError,
        ) as error:
            raise CorpusError(
                found=f"{folder} 不是完好的词元库（{error}）",
                expected=f"第 {FORMAT_VERSION} 版的词元库，各文件齐全且长短与记录相符",
                remedy="删去这个文件夹，重新分词",
            ) from error

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
        codes = None
        if word_ids is not None:
            rows = [word_codes(np.array(row, np.int64)) for row in word_ids]
            codes = np.concatenate([np.empty(0, np.uint8), *rows])
        size = vocab_size or int(flat.max(initial=0)) + 1
        offsets = np.cumsum([0, *map(len, documents)], dtype=np.int64)
        total = int(counts.sum())
        meta = _meta(size, offsets, characters=total, placed=total, unk=0)
        return cls(flat.astype(meta["dtype"]), counts, codes, offsets, meta)

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
        codes = np.asarray(self.word_start[self._span(piece)])
        inside = codes != OUTSIDE
        starts = codes == STARTS
        if inside.any():
            starts[np.argmax(inside)] = True
        return np.where(inside, first - 1 + np.cumsum(starts), -1).astype(np.int64)

    def _span(self, piece: Piece) -> slice:
        base = int(self.offsets[piece.document])
        return slice(base + piece.start, base + piece.stop)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.path is not None:  # 内存映射一经 pickle 就会整个读进内存
            return TokenStore.open, (self.path,)
        return TokenStore, (
            self.ids,
            self.num_chars,
            self.word_start,
            self.offsets,
            self.meta,
        )


def _map(path: Path, dtype: np.dtype[Any], count: int) -> Array:
    if path.stat().st_size != count * dtype.itemsize:
        raise ValueError(f"{path.name} 的长度不对")
    if count == 0:  # 空文件不能映射
        return np.empty(0, dtype)
    return np.memmap(path, dtype, mode="r")


def _dtype(vocab_size: int) -> str:
    return "uint16" if vocab_size < 65_536 else "uint32"


def _meta(
    vocab_size: int,
    offsets: NDArray[np.int64],
    *,
    characters: int,
    placed: int,
    unk: int,
    **more: Any,
) -> dict[str, Any]:
    return {
        "version": FORMAT_VERSION,
        "dtype": _dtype(vocab_size),
        "vocab_size": vocab_size,
        "num_documents": len(offsets) - 1,
        "num_tokens": int(offsets[-1]),
        "num_characters": characters,
        "num_dropped_characters": characters - placed,
        "num_unk": unk,
        **more,
    }


class StoreWriter:
    """把一批批词元追加到文件夹里，最后写下起点与账目。"""

    def __init__(
        self, folder: Path, tokenizer: Any, segmenter: Segmenter | None
    ) -> None:
        self.characters = 0
        self._folder = folder
        self._vocab_size = max(tokenizer.get_vocab().values()) + 1
        self._dtype = _dtype(self._vocab_size)
        self._unk_id = unknown_id(tokenizer)
        self._placed = self._unk = self._tokens = 0
        self._offsets = array("q", [0])
        self._more = {
            "tokenizer": type(tokenizer).__name__,
            "segmenter": segmenter_fingerprint(segmenter),
            "has_words": segmenter is not None,
        }
        names = ["ids.bin", "num_chars.bin", "word_start.bin"]
        with ExitStack() as stack:  # 第二个文件打不开时，第一个也要关上
            self._files = [
                stack.enter_context((folder / name).open("wb"))
                for name in names[: 2 if segmenter is None else 3]
            ]
            self._stack = stack.pop_all()

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def write(self, batch: Encoded) -> None:
        """追加一批。"""
        columns = [batch.ids.astype(self._dtype), batch.num_chars]
        if batch.words is not None:
            columns.append(batch.words)
        for file, column in zip(self._files, columns, strict=True):
            file.write(column.data)
        for length, end in zip(batch.lengths.tolist(), batch.ends, strict=True):
            self._tokens += length
            if end:
                self._offsets.append(self._tokens)
        self.characters += batch.characters
        self._placed += int(batch.num_chars.sum())
        self._unk += int((batch.ids == self._unk_id).sum())

    def finish(self, key: str) -> None:
        """写下 offsets.npy 与 meta.json。"""
        offsets = np.array(self._offsets, np.int64)
        if self._tokens == 0:
            raise CorpusError(
                found=f"{len(offsets) - 1} 篇文档里没有一个词元",
                expected="语料里有文字",
                remedy="打开语料看看是否为空，或是否只有空白",
            )
        for file in self._files:
            file.flush()
        np.save(self._folder / "offsets.npy", offsets)
        meta = _meta(
            self._vocab_size,
            offsets,
            characters=self.characters,
            placed=self._placed,
            unk=self._unk,
            key=key,
            **self._more,
        )
        text = json.dumps(meta, ensure_ascii=False, indent=2)
        (self._folder / "meta.json").write_text(text, "utf-8")
