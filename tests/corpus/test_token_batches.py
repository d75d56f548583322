"""怎样分词才快：长文切段，成批，多进程；结果与内存都不因此改变。"""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from built_tokenizers import TEXTS, TOKENIZERS, Slow, Text, documents, whole
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from companion.corpus import tokenization
from companion.corpus.tokenization import cut_texts
from companion.corpus.tokens import tokenize_documents
from companion.corpus.words import dictionary_segmenter


def test_long_documents_are_cut_at_line_ends(
    wordpiece: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """长文切成小段再分词，仍是一篇文档，编号与不切时相同。"""
    text = "天子之职，莫大于礼。礼莫大于分\n" * 9 + "臣光曰" * 30
    expected = wordpiece(text, add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(tokenization, "CHUNK_CHARACTERS", 40)
    batches = list(cut_texts([text]))
    chunks = [chunk for batch in batches for chunk in batch.texts]
    assert "".join(chunks) == text
    assert max(map(len, chunks)) <= 40
    assert all(chunk.endswith(("\n", "。")) for chunk in chunks[:4])
    assert sum(batch.ends.count(True) for batch in batches) == 1
    store = tokenize_documents(documents([text]), wordpiece, cache_dir=tmp_path)
    assert store.tokens(whole(store, 0)).tolist() == expected


@given(st.lists(st.text("天。\n a", max_size=60), max_size=6))
def test_cutting_keeps_every_character_and_document(texts: list[str]) -> None:
    """切段凑批之后，接起来还是原来的各篇文档。"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenization, "CHUNK_CHARACTERS", 8)
        patch.setattr(tokenization, "BATCH_CHARACTERS", 100)
        found, current = [], ""
        for batch in cut_texts(texts):
            for chunk, end in zip(*batch, strict=True):
                assert len(chunk) <= 8
                current += chunk
                if end:
                    found.append(current)
                    current = ""
    assert found == texts


def test_two_processes_give_the_same_store(
    wordpiece: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """分给两个进程，写出的文件与一个进程的逐字节相同。"""
    monkeypatch.setattr(tokenization, "WORTH_PROCESSES", 0)
    monkeypatch.setattr(tokenization, "BATCH_CHARACTERS", 100)
    texts = [text * n for n in range(1, 7) for text in TEXTS]
    stores = [
        tokenize_documents(
            documents(texts),
            wordpiece,
            cache_dir=tmp_path / str(num_proc),
            segmenter=dictionary_segmenter(["天子", "大于"]),
            num_proc=num_proc,
        )
        for num_proc in (1, 2)
    ]
    one, two = (store.path for store in stores)
    assert one is not None
    assert two is not None
    assert one.name == two.name
    for file in one.iterdir():
        assert file.read_bytes() == (two / file.name).read_bytes()


def test_processes_are_used_where_they_pay() -> None:
    """快速分词器不切词时自己就是多线程的；切词与纯 Python 的分词器字多才值得。"""
    fast, cut = TOKENIZERS["wordpiece"], dictionary_segmenter([])
    assert not tokenization.processes_pay(fast, None, 10**9)
    assert tokenization.processes_pay(fast, cut, 10**9)
    assert tokenization.processes_pay(Slow(), None, 10**9)
    assert not tokenization.processes_pay(Slow(), cut, 10**4)


def test_memory_does_not_grow_with_the_corpus(
    wordpiece: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """语料大到八倍，峰值内存几乎不变：内存里只有一批。"""
    monkeypatch.setattr(tokenization, "BATCH_CHARACTERS", 4_000)

    def peak(count: int) -> int:
        def stream() -> Iterator[Any]:
            return (Text("天子之职莫大于礼。" * 50) for _ in range(count))

        tracemalloc.start()
        tokenize_documents(stream, wordpiece, cache_dir=tmp_path / str(count))
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(1)  # 首次使用的一次性开销
    assert peak(200) < 1.25 * peak(25)
