"""词元库：词界、字宽、传给别的进程、不完好的认得出。"""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from built_tokenizers import TEXTS, documents, whole
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from companion.corpus.store import Piece, TokenStore
from companion.corpus.tokens import tokenize_documents
from companion.corpus.words import dictionary_segmenter
from companion.errors import CorpusError


def test_word_ids_of_a_piece_start_afresh(
    wordpiece: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """词界存在库里；从词的中间切开，后半个词自成一词。"""
    segmenter = dictionary_segmenter(["天子之职", "大于"])
    store = tokenize_documents(
        documents(["曰天子之职大于礼"]),
        wordpiece,
        cache_dir=tmp_path,
        segmenter=segmenter,
    )
    assert store.word_ids(whole(store, 0)).tolist() == [0, 1, 1, 1, 1, 2, 2, 3]
    assert store.word_ids(Piece(0, 2, 8), first=5).tolist() == [5, 5, 5, 6, 6, 7]


def test_word_ids_need_a_segmenter() -> None:
    """没有给切词器的库没有词界，错误说明怎么办。"""
    with pytest.raises(CorpusError, match="segmenter"):
        TokenStore.from_ids([[1, 2]]).word_ids(Piece(0, 0, 2))


@given(st.lists(st.integers(-1, 5), min_size=1, max_size=20))
def test_stored_word_ids_keep_the_partition(raw: list[int]) -> None:
    """一个字节的记号足以还原词的划分：相邻的同词仍同词，−1 仍是 −1。"""
    ids = np.where(np.array(raw) < 0, -1, np.maximum.accumulate(raw))
    store = TokenStore.from_ids([[7] * len(raw)], word_ids=[ids.tolist()])
    found = store.word_ids(Piece(0, 0, len(raw)))
    assert ((found < 0) == (ids < 0)).all()
    inside = ids[ids >= 0]
    assert np.array_equal(np.diff(found[ids >= 0]) > 0, np.diff(inside) > 0)


def test_large_vocabularies_take_four_bytes() -> None:
    """词表到 65,536 才用 uint32。"""
    assert TokenStore.from_ids([[1]], vocab_size=65_535).ids.dtype == np.uint16
    store = TokenStore.from_ids([[65_535, 70_000]])
    assert store.ids.dtype == np.uint32
    assert store.tokens(Piece(0, 0, 2)).tolist() == [65_535, 70_000]


def test_a_store_travels_by_its_path(
    wordpiece: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """送进别的进程的是路径而非数据；内存中的库照样能送。"""
    store = tokenize_documents(documents(TEXTS * 50), wordpiece, cache_dir=tmp_path)
    data = pickle.dumps(store)
    assert len(data) < 500 < store.num_tokens
    assert np.array_equal(pickle.loads(data).ids, store.ids)
    small = TokenStore.from_ids([[3, 4]], word_ids=[[0, 0]])
    assert pickle.loads(pickle.dumps(small)).ids.tolist() == [3, 4]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "meta.json").unlink(),
        lambda folder: (folder / "meta.json").write_text("[]"),
        lambda folder: (folder / "offsets.npy").write_bytes(b""),
        lambda folder: (folder / "num_chars.bin").unlink(),
        lambda folder: (folder / "meta.json").write_text('{"version": 99}'),
    ],
)
def test_a_folder_that_is_no_store_is_refused(
    damage: Callable[[Path], object], wordpiece: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """缺文件、坏文件、别的版本，都说不是完好的词元库。"""
    store = tokenize_documents(documents(TEXTS), wordpiece, cache_dir=tmp_path)
    assert store.path is not None
    damage(store.path)
    with pytest.raises(CorpusError, match="不是完好的词元库"):
        TokenStore.open(store.path)
