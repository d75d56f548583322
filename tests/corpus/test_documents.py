"""磁盘上的语料：用起来与文档的列表一样。"""

import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.corpus import documents as module
from companion.corpus.dedup import deduplicate
from companion.corpus.document import Document, letters_key
from companion.corpus.documents import (
    Documents,
    open_corpus,
    open_dataset,
    split_corpus,
    store_documents,
)
from companion.corpus.sources import Resolved, read_corpus
from companion.errors import CorpusError

TEXTS = ["天子曰", "礼。", "天子，曰", "大于", "", "礼"]
PAIRS = [Document(f"源{n}", f"#{n}", "档", f"目标{n}") for n in range(7)]


def listed(texts: list[str]) -> list[Document]:
    return [Document(text, f"#{n}", "档") for n, text in enumerate(texts)]


def stored(docs: list[Document], folder: Path) -> Documents:
    return store_documents(lambda: docs, folder, repr(docs))


@pytest.mark.parametrize("docs", [listed(TEXTS), PAIRS])
@pytest.mark.parametrize("size", [1, 100, 1 << 20])
def test_a_stored_corpus_reads_like_a_list(
    docs: list[Document], size: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """从头读、按下标取、切片、送进别的进程，都与列表相同，不论一批多大。"""
    monkeypatch.setattr(module, "BATCH_CHARACTERS", size)
    corpus = stored(docs, tmp_path)
    assert list(corpus) == docs
    assert [corpus[n] for n in range(-len(docs), len(docs))] == docs * 2
    assert corpus[1::2] == docs[1::2]
    assert list(pickle.loads(pickle.dumps(corpus))) == docs
    some = corpus.select(np.array([1, 3, 4]))
    assert list(some) == [some[n] for n in range(3)] == [docs[n] for n in (1, 3, 4)]
    with pytest.raises(IndexError):
        corpus[len(docs)]


def test_pairs_come_apart_into_both_sides(tmp_path: Path) -> None:
    """句对拆成源、目标相间的单语文档，选出的几对也一样。"""
    corpus = stored(PAIRS, tmp_path).select(np.array([2, 5]))
    texts = [each.text for each in corpus.sides()]
    assert texts == ["源2", "目标2", "源5", "目标5"]
    assert [each.text for each in corpus.sides()[1:3]] == texts[1:3]


@settings(max_examples=8)
@given(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=9))
def test_duplicates_go_as_in_the_stream(texts: list[str]) -> None:
    """磁盘上的去重与逐篇的完全去重留下同样的文档；切分也与列表的相同。"""
    docs = listed(texts)
    with tempfile.TemporaryDirectory() as folder:
        corpus = stored(docs, Path(folder)).without_duplicates()
        kept = list(deduplicate(docs, near=False)[0])
        assert list(corpus) == kept
        if len({letters_key(each) for each in kept}) > 1:
            ours, theirs = split_corpus(corpus), split_corpus(kept)
            assert list(ours.train) == list(theirs.train)
            assert list(ours.valid) == list(theirs.valid)


def test_line_breaks_are_counted(tmp_path: Path) -> None:
    """正文里的换行数得清，选出的几篇也一样。"""
    corpus = stored(listed(["春雨\n来得早\n", "水缸满了", "甲\n乙"]), tmp_path)
    assert corpus.line_breaks == 3
    assert corpus.select(np.array([1, 2])).line_breaks == 1


def test_line_breaks_are_joined_into_another_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """接成一行的是另一份，原来的不动；没有换行的就是它自己；只选几篇时各存一份。"""
    monkeypatch.setattr(module, "cache_folder", lambda: tmp_path / "缓存")
    corpus = stored(listed(["春雨\n来得早", "hello\nworld", "甲乙"]), tmp_path)
    assert [each.text for each in corpus.joined()] == [
        "春雨来得早",
        "hello world",
        "甲乙",
    ]
    assert corpus.line_breaks == 2
    few = corpus.select(np.array([1, 2]))
    assert [each.text for each in few.joined()] == ["hello world", "甲乙"]
    assert [each.id for each in few.joined()] == [each.id for each in few]
    plain = corpus.select(np.array([2]))
    assert plain.joined() is plain


def test_an_unchanged_file_is_read_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """文件没有变，第二次不再读；改了一个字就重读。"""
    monkeypatch.setattr(module, "cache_folder", lambda: tmp_path / "缓存")
    path = tmp_path / "语料.txt"
    path.write_text("天子曰。\n\n礼莫大于分。", encoding="utf-8")
    expected = list(read_corpus(str(path)))
    reads: list[object] = []
    read = Resolved.read

    def counted(self: Resolved, split: str) -> Iterator[Document]:
        reads.append(self.spec)
        return read(self, split)

    monkeypatch.setattr(Resolved, "read", counted)
    for _ in range(2):
        assert list(open_corpus(str(path))) == expected
    assert len(reads) == 1
    path.write_text("天子曰。\n\n礼莫大于分！", encoding="utf-8")
    assert open_corpus(str(path))[1].text == "礼莫大于分！"
    with pytest.raises(CorpusError, match="没有"):
        open_corpus(str(tmp_path / "别处.txt"))


def test_a_dataset_of_the_user_is_a_corpus(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Text 一列是单语，source 与 target 是句对；别的列名、不是文字的行按名拒绝。"""
    monkeypatch.setattr(module, "cache_folder", lambda: tmp_path)
    table = datasets.Dataset.from_dict({"text": ["天", "", "地"], "n": [1, 2, 3]})
    assert [each.text for each in open_dataset(table)] == ["天", "地"]
    pairs = datasets.Dataset.from_dict({"source": ["天"], "target": ["上天"]})
    [pair] = open_dataset(pairs)
    assert (pair.text, pair.target) == ("天", "上天")
    with pytest.raises(CorpusError, match="content"):
        open_dataset(datasets.Dataset.from_dict({"content": ["天"]}))
    with pytest.raises(CorpusError, match="第 2 行"):
        open_dataset(datasets.Dataset.from_dict({"text": ["天", None]}))
    with pytest.raises(CorpusError, match="一篇文档也没有"):
        open_dataset(datasets.Dataset.from_dict({"text": [""]}))


def test_the_keys_do_not_hold_the_text(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """取各篇的指纹时，读过的一批随即放手：峰值远小于全文。"""
    monkeypatch.setattr(module, "BATCH_CHARACTERS", 1 << 14)
    corpus = stored(listed([f"{n}" + "天" * 1000 for n in range(1000)]), tmp_path)
    usual = pyarrow.default_memory_pool()
    pool = pyarrow.proxy_memory_pool(usual)
    pyarrow.set_memory_pool(pool)
    try:
        assert corpus.keys("content").shape == (1000, 2)
    finally:
        pyarrow.set_memory_pool(usual)
    assert 0 < pool.max_memory() < 500_000  # 全文 3 MB
