"""每个词元算几个字：一个字只记一次，一个字也不漏。"""

from pathlib import Path

import numpy as np
import pytest
from built_tokenizers import (
    BYTES,
    CHARACTERS,
    KINDS,
    TEXTS,
    TOKENIZERS,
    Slow,
    documents,
    whole,
)
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from companion.corpus import tokenization
from companion.corpus.tokenization import TextBatch, align_pieces, encode_texts
from companion.corpus.tokens import tokenize_documents


@pytest.mark.parametrize("kind", KINDS)
@given(st.text(CHARACTERS + " \n鬱é▁", max_size=30))
def test_every_character_is_counted_once(kind: str, text: str) -> None:
    """字数之和加丢掉的字数等于原文字数；字节 BPE 一个字也不丢。"""
    encoded = encode_texts(TextBatch([text], [True]), TOKENIZERS[kind])
    total = int(encoded.num_chars.sum())
    assert encoded.num_chars.dtype == np.uint8
    if kind == "wordpiece":  # 只丢空白与 BertNormalizer 去掉的重音
        assert total == len("".join(text.split()))
    else:
        assert total == len(text)


@pytest.mark.parametrize("kind", BYTES)
@given(st.text(CHARACTERS + " \n鬱é▁", max_size=30))
def test_tokens_that_are_bytes_count_every_character_once(kind: str, text: str) -> None:
    """写成字节的字，没有偏移的分词器：字数之和也等于原文字数。"""
    encoded = encode_texts(TextBatch([text], [True]), TOKENIZERS[kind])
    assert int(encoded.num_chars.sum()) == len(text)


@pytest.mark.parametrize("kind", ["fallback", "byt5"])
def test_a_run_of_bytes_counts_each_character_at_its_first_byte(kind: str) -> None:
    """“鬱𠮷” 是三个字节与四个字节：各在首个字节上记 1。"""
    encoded = encode_texts(TextBatch(["鬱𠮷"], [True]), TOKENIZERS[kind])
    counts = encoded.num_chars.tolist()
    assert counts[-7:] == [1, 0, 0, 1, 0, 0, 0]
    assert not any(counts[:-7])


def test_a_long_run_of_bytes_loses_no_character() -> None:
    """三百个生字连写，共有一个区间：不因一个词元至多记 255 而丢字。"""
    encoded = encode_texts(TextBatch(["鬱" * 300], [True]), TOKENIZERS["fallback"])
    assert int(encoded.num_chars.sum()) == 300


def test_a_character_of_several_tokens_counts_at_the_first() -> None:
    """𠮷 是四个字节、四个词元：首个记 1，其余记 0。"""
    encoded = encode_texts(TextBatch(["a𠮷"], [True]), TOKENIZERS["bytelevel"])
    assert encoded.num_chars.tolist() == [1, 1, 0, 0, 0]


def test_offsets_that_step_back_count_nothing_twice() -> None:
    """后一个词元的偏移退回到前一个之内，字也不重记。"""
    offsets = np.array([(0, 2), (0, 1), (1, 3), (5, 6)])
    counts = tokenization.count_characters(np.arange(4), offsets, "天子之职大于")
    assert counts.tolist() == [2, 0, 1, 1]


def test_an_invented_metaspace_counts_no_character() -> None:
    """行首添的 ▁ 不占字，原文的空格占一个字。"""
    tokenizer = TOKENIZERS["sentencepiece"]
    encoded = encode_texts(TextBatch(["子 天"], [True]), tokenizer)
    names = tokenizer.convert_ids_to_tokens(encoded.ids.tolist())
    assert names == ["▁", "子", "▁天"]
    assert encoded.num_chars.tolist() == [0, 1, 2]


def test_a_space_that_the_offsets_hide_still_counts() -> None:
    """GPT-2 的偏移略去 Ġ 代表的空格，可空格确实要预测，字数照记。"""
    encoded = encode_texts(TextBatch(["a b"], [True]), TOKENIZERS["trimmed"])
    assert encoded.num_chars.tolist() == [1, 1, 1]


def test_one_token_holds_at_most_255_characters(
    wordpiece: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """三百字母的怪词成了一个 [UNK]：记 255 字，其余算作丢掉，总账仍平。"""
    store = tokenize_documents(documents(["x" * 300]), wordpiece, cache_dir=tmp_path)
    assert np.asarray(store.num_chars).tolist() == [255]
    assert store.meta["num_dropped_characters"] == 45
    assert store.meta["num_unk"] == 1


def test_the_meta_counts_unknown_and_dropped(
    wordpiece: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """账目：词表里没有的字记作 [UNK]，空格与换行丢掉。"""
    store = tokenize_documents(documents(TEXTS), wordpiece, cache_dir=tmp_path)
    assert store.meta["num_characters"] == sum(map(len, TEXTS))
    assert store.meta["num_dropped_characters"] == 2
    assert store.meta["num_unk"] == int((np.asarray(store.ids) == 0).sum()) > 0


def test_a_slow_tokenizer_counts_characters_by_alignment(tmp_path: Path) -> None:
    """没有偏移的分词器：改写的标点、[UNK] 也都记到字数。"""
    texts = ["天子，A 地天", "龍"]
    store = tokenize_documents(documents(texts), Slow(), cache_dir=tmp_path)
    assert store.tokens(whole(store, 0)).tolist() == [1, 2, 4, 3, 0, 1]
    assert store.characters(whole(store, 0)).tolist() == [1, 1, 1, 1, 1, 1]
    assert store.characters(whole(store, 1)).tolist() == [1]
    assert store.meta["num_dropped_characters"] == 1  # 空格


@given(st.text("天子，A 龍İ", max_size=12), st.lists(st.sampled_from("天子aх龍")))
def test_alignment_stays_in_order_and_in_the_text(text: str, pieces: list[str]) -> None:
    """对齐的区间依次向后、互不重叠，也不越出原文。"""
    flat = align_pieces(pieces, text).reshape(-1)
    assert (np.diff(flat) >= 0).all()
    assert flat.min(initial=0) >= 0
    assert flat.max(initial=0) <= len(text)
