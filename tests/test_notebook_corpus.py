"""笔记本 02 的支撑：朴素写法与包里的相同；三种切法、三种装法说的是真话。"""

import sys
from dataclasses import replace
from importlib import resources
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.corpus import (
    Document,
    deduplicate,
    overlap,
    plan_packing,
    read_corpus,
    read_documents,
)
from companion.corpus.document import content_letters
from companion.errors import ConfigError, CorpusError
from companion.notebook import (
    best_fit,
    longest_match,
    merge_bytes,
    most_likely,
    pieces_of,
    public_tokenizers,
    shared_characters,
    train_tokenizers,
    without_similar,
)
from companion.notebook import tokenizers as tokenizers_module
from companion.notebook.naive import first_of_each, shingles, similarity
from companion.notebook.tokenizers import measure, sentences

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "experiments"))

from tokenize_tongjian import packings

SENTENCE = "臣光曰：臣闻天子之职莫大于礼，礼莫大于分。"


def paragraphs() -> list[Document]:
    """随包的通用段落，一段一篇。"""
    samples = resources.files("companion.corpus") / "samples"
    return list(read_documents(str(samples / "general.train.txt")))


@pytest.fixture(scope="module")
def trained() -> dict[str, object]:
    """由样本的头三卷练出的三种分词器。"""
    return train_tokenizers(list(read_corpus("sample:classical"))[:3], 1000)


def han_runs(text: str) -> list[str]:
    """一段文字里连续的汉字。"""
    cut = groupby(text, key=str.isalpha)
    return ["".join(run) for is_word, run in cut if is_word]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=30), st.integers(20, 40))
def test_ten_lines_of_best_fit_pack_like_the_package(
    lengths: list[int], capacity: int
) -> None:
    """十行的最佳适配，与分桶的逐行相同，连同样好的几行里选哪一行也一样。"""
    plan = plan_packing(lengths, capacity)
    assert best_fit(lengths, capacity) == [[p.document for p in row] for row in plan]


def test_comparing_every_pair_keeps_what_the_package_keeps() -> None:
    """两两比较与 MinHash 留下的相同：转载全去掉，原文一篇不少。"""
    texts = [replace(each, text=each.text.replace("，", " ")) for each in paragraphs()]
    documents = [*paragraphs(), *texts[::2]]
    kept, report = deduplicate(documents)
    texts = [document.text for document in kept]
    assert texts == without_similar([document.text for document in documents])
    assert len(texts) == len(paragraphs())
    exact, counted = deduplicate(documents, near=False)
    assert [each.text for each in exact] == first_of_each([d.text for d in documents])
    assert counted.exact == report.exact == 0  # 转载换了标点，不是逐字相同
    assert report.near == len(paragraphs()) // 2
    twice, counted = deduplicate([*documents, *documents[:5]], near=False)
    assert len(list(twice)) == len(documents)
    assert counted.exact == 5
    assert similarity(shingles(SENTENCE), shingles(SENTENCE.replace("，", ""))) == 1


def test_a_set_of_runs_finds_the_same_shared_characters() -> None:
    """存下全部二十字片段，与只存锚的数出同样多的字。"""
    documents = paragraphs()
    borrowed = Document(f"云：{documents[0].text[20:70]}也。", "乙#1", "乙")
    valid = [borrowed, *documents[90:]]
    train = documents[:90]
    found = overlap(train, valid, near=False)
    expected = shared_characters([d.text for d in train], [d.text for d in valid])
    assert found.shared_characters == expected
    assert expected == len(content_letters(documents[0].text[20:70]))


def test_naive_splits_equal_the_tokenizers(trained: dict) -> None:
    """三种切法的朴素写法，与 transformers 的分词器切得一模一样。"""
    word_piece, unigram, byte_bpe = trained.values()
    words, scores, merges = map(pieces_of, trained.values())
    text = next(iter(read_corpus("sample:modern", "valid"))).text
    runs = [*han_runs(text)[:80], "浑瑊破朱泚"]
    for run in runs:
        assert byte_bpe.tokenize(run) == merge_bytes(run, merges)
        assert word_piece.tokenize(run) == [
            piece for char in run for piece in longest_match(char, words)
        ]
        if all(char in scores for char in run):
            assert unigram.tokenize(run) == most_likely("▁" + run, scores)


def test_the_three_kinds_behave_as_the_chapter_says(trained: dict) -> None:
    """一字一元丢缺的字；做 NFKC 的丢全角标点；字节打底的一字不差，半个字也写得出。"""
    documents = list(read_corpus("sample:classical", "valid"))[:1]
    found = {name: measure(each, documents) for name, each in trained.items()}
    word_piece, unigram, byte_bpe = found.values()
    assert word_piece["tokens_per_char"] == 1
    assert 0 < word_piece["unk_rate"] < 0.2
    assert unigram["restored_rate"] < word_piece["restored_rate"] < 1
    assert (byte_bpe["unk_rate"], byte_bpe["restored_rate"]) == (0, 1)
    assert "[UNK]" in trained["WordPiece"].tokenize("浑瑊，")


def test_training_the_tokenizers_again_gives_the_same(trained: dict) -> None:
    """同样的语料练出同样的词表，笔记本的输出才重现得了。"""
    again = train_tokenizers(list(read_corpus("sample:classical"))[:3], 1000)
    text = next(iter(read_corpus("sample:modern", "valid"))).text
    for name, tokenizer in trained.items():
        assert set(pieces_of(tokenizer)) == set(pieces_of(again[name]))
        assert tokenizer.tokenize(text) == again[name].tokenize(text)


def test_a_vocabulary_too_small_for_the_characters_is_refused() -> None:
    """词表小得装不下每个字，说出要多大。"""
    with pytest.raises(CorpusError, match="把 vocab_size 调到"):
        train_tokenizers([Document(SENTENCE, "甲#1", "甲")], 10)


def test_public_tokenizers_are_opened_by_name(
    trained: dict, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tiny` 一个也不打开；别的档照名字打开，走同一段代码。"""
    assert public_tokenizers("tiny") == {}
    with pytest.raises(ConfigError, match="改成 t4"):
        public_tokenizers("t44")
    folders = {}
    for number, (name, tokenizer) in enumerate(trained.items()):
        tokenizer.save_pretrained(tmp_path / str(number))
        folders[name] = str(tmp_path / str(number))
    monkeypatch.setitem(tokenizers_module.PUBLIC, "t4", folders)
    opened = public_tokenizers("t4")
    for name, tokenizer in opened.items():
        assert tokenizer.tokenize(SENTENCE) == trained[name].tokenize(SENTENCE)


def test_sentences_keep_every_character() -> None:
    """断成句再接起来，一字不少。"""
    text = next(iter(read_corpus("sample:modern"))).text
    assert "".join(sentences(text)) == text
    assert sentences("") == []


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(8, 40))
def test_every_way_of_packing_balances(lengths: list[int], capacity: int) -> None:
    """词元 = 格子 − 填充 + 丢弃；最佳适配不丢不切，行数不少于首尾相接。"""
    found = packings(lengths, capacity)
    for each in found.values():
        assert sum(lengths) == each["grid"] - each["padded"] + each["dropped"]
        assert each["grid"] == each["rows"] * capacity
    one_each, joined, fitted = found.values()
    assert joined["rows"] <= fitted["rows"]
    assert joined["rows"] <= one_each["rows"] or one_each["dropped"]
    assert fitted["dropped"] == fitted["cut"] == 0
