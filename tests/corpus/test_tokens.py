"""分词：库里的每一篇就是分词器的输出，读不了的语料按名拒绝。"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from built_tokenizers import KINDS, TEXTS, TOKENIZERS, Slow, build, documents, whole
from transformers import PreTrainedTokenizerFast

from companion.corpus.tokens import tokenize_documents
from companion.corpus.words import dictionary_segmenter
from companion.errors import CorpusError


@pytest.mark.parametrize("kind", KINDS)
def test_each_document_is_what_the_tokenizer_says(kind: str, tmp_path: Path) -> None:
    """库里的每一篇就是分词器对它的输出，空文档也占一篇。"""
    tokenizer = TOKENIZERS[kind]
    store = tokenize_documents(documents(TEXTS), tokenizer, cache_dir=tmp_path)
    assert len(store) == len(TEXTS)
    for number, text in enumerate(TEXTS):
        expected = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert store.tokens(whole(store, number)).tolist() == expected
    assert store.tokens(whole(store, 0)).dtype == np.int64
    assert store.ids.dtype == np.uint16


@pytest.mark.parametrize("kind", ["wordpiece", "bytelevel"])
def test_special_tokens_spelled_in_the_text_are_text(kind: str, tmp_path: Path) -> None:
    """语料里的 “[MASK]” 不会变成掩码词元，分词器自己的设置也不因此改变。"""
    tokenizer = build(kind)
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    store = tokenize_documents(documents(["天[MASK]子"]), tokenizer, cache_dir=tmp_path)
    assert tokenizer.mask_token_id not in store.ids
    assert tokenizer.mask_token_id in tokenizer("天[MASK]子")["input_ids"]
    tokenizer = build(kind)
    tokenize_documents(documents(["天子"]), tokenizer, cache_dir=tmp_path)
    assert not tokenizer.backend_tokenizer.encode_special_tokens


def test_a_slow_tokenizer_refuses_whole_words(tmp_path: Path) -> None:
    """没有偏移就没有可靠的词界，错误给出两条出路。"""
    with pytest.raises(CorpusError, match="granularity=token"):
        tokenize_documents(
            documents(TEXTS),
            Slow(),
            cache_dir=tmp_path,
            segmenter=dictionary_segmenter([]),
        )
    assert list(tmp_path.iterdir()) == []


def test_a_corpus_that_changes_between_the_passes_is_refused(
    wordpiece: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """指纹与内容必须是同一份文字：第二遍读到别的就停下。"""
    texts = ["天子"]

    def growing() -> Iterator[Any]:
        texts.append("曰")
        return iter(documents(texts))

    with pytest.raises(CorpusError, match="两遍读到的语料不同"):
        tokenize_documents(growing, wordpiece, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_iterator_that_reads_once_is_refused(
    wordpiece: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """一次性的迭代器读不了两遍，错误说明改传什么。"""
    once: Any = iter(documents(TEXTS))
    with pytest.raises(CorpusError, match="lambda"):
        tokenize_documents(once, wordpiece, cache_dir=tmp_path)


@pytest.mark.parametrize("texts", [[], [""], [" \n", "\u3000"]])
def test_a_corpus_without_tokens_is_refused(
    texts: list[str], wordpiece: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """没有文档、空文档、只有空白，都说明没有一个词元。"""
    with pytest.raises(CorpusError, match="没有一个词元"):
        tokenize_documents(documents(texts), wordpiece, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []
