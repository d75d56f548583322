"""词元库的缓存：内容相同才用旧的；中断、磁盘满、抢写都不留半个库。"""

import errno
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from built_tokenizers import TEXTS, TOKENIZERS, Slow, build, documents
from transformers import PreTrainedTokenizerFast

from companion.corpus import tokenization, tokens
from companion.corpus.store import StoreWriter, TokenStore
from companion.corpus.tokens import tokenize_documents, tokenizer_fingerprint
from companion.corpus.words import dictionary_segmenter
from companion.errors import CorpusError


def test_the_cache_opens_the_same_store(
    wordpiece: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """第二次不再分词，打开的是同一个文件夹；截断与填充的设置不算改变。"""
    first = tokenize_documents(documents(TEXTS), wordpiece, cache_dir=tmp_path)
    wordpiece.backend_tokenizer.enable_truncation(3)
    wordpiece.backend_tokenizer.enable_padding(length=9)

    def refuse(*_: object) -> Iterator[object]:
        raise AssertionError("不该再分词")

    monkeypatch.setattr(tokenization, "encode_batches", refuse)
    again = tokenize_documents(
        lambda: iter(documents(TEXTS)), wordpiece, cache_dir=tmp_path
    )
    assert again.path == first.path
    assert again.meta == first.meta
    assert np.array_equal(again.ids, first.ids)


def test_a_change_of_text_tokenizer_or_words_misses_the_cache(tmp_path: Path) -> None:
    """换一个字、挪一处文档分界、换分词器或切词器，都另起一个库。"""
    kinds = [TOKENIZERS["wordpiece"], TOKENIZERS["bytelevel"]]
    segmenters = [None, dictionary_segmenter(["天"]), dictionary_segmenter(["地"])]
    corpora = [["天子", "曰"], ["天子曰"], ["天子", "名"], ["天子", "曰", ""]]
    paths = {
        tokenize_documents(
            documents(texts), tokenizer, cache_dir=tmp_path, segmenter=segmenter
        ).path
        for texts in corpora
        for tokenizer in kinds
        for segmenter in segmenters
    }
    assert len(paths) == 24


def test_the_fingerprint_ignores_where_a_tokenizer_lies(tmp_path: Path) -> None:
    """同一分词器存到别处再打开，指纹不变；加一个词元就变。"""
    tokenizer = build("wordpiece")
    before = tokenizer_fingerprint(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert tokenizer_fingerprint(loaded) == before
    loaded.add_tokens(["乌孙"])
    assert tokenizer_fingerprint(loaded) != before
    assert tokenizer_fingerprint(Slow()) == tokenizer_fingerprint(Slow())


def test_a_damaged_store_is_built_again(
    wordpiece: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """文件短了一截的库打不开，再次分词时自动重做。"""
    store = tokenize_documents(documents(TEXTS), wordpiece, cache_dir=tmp_path)
    assert store.path is not None
    expected = np.array(store.ids)
    (store.path / "ids.bin").write_bytes(b"\0")
    with pytest.raises(CorpusError, match=r"ids\.bin"):
        TokenStore.open(store.path)
    again = tokenize_documents(documents(TEXTS), wordpiece, cache_dir=tmp_path)
    assert np.array_equal(again.ids, expected)


def test_an_interrupted_run_leaves_nothing(
    wordpiece: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """中途 Ctrl-C，文件夹里什么也不剩。"""

    def interrupt(done: int, total: int) -> None:
        assert 0 < done <= total
        assert list(tmp_path.iterdir())  # 正写到一半
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize_documents(
            documents(TEXTS), wordpiece, cache_dir=tmp_path, on_progress=interrupt
        )
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_reported_and_leaves_nothing(
    wordpiece: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """磁盘满了，错误说出文件夹与原因，半个库也不留。"""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(StoreWriter, "write", full)
    with pytest.raises(CorpusError, match="No space left"):
        tokenize_documents(documents(TEXTS), wordpiece, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder_is_reported(
    wordpiece: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """cache_dir 其实是个文件，错误说出它。"""
    path = tmp_path / "cache"
    path.write_text("")
    with pytest.raises(CorpusError, match="写不进"):
        tokenize_documents(documents(TEXTS), wordpiece, cache_dir=path)


def test_a_rival_that_finished_first_wins(
    wordpiece: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """两个进程同时分同一份语料，后写完的用先写完的那个库，不留残余。"""
    move = tokens._move

    def late(temporary: Path, target: Path) -> None:
        monkeypatch.setattr(tokens, "_move", move)
        tokenize_documents(documents(TEXTS), wordpiece, cache_dir=tmp_path)
        move(temporary, target)

    monkeypatch.setattr(tokens, "_move", late)
    store = tokenize_documents(documents(TEXTS), wordpiece, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == [store.path]
