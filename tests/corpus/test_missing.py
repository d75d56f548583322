"""缺字缺词：哪些认不得，哪些要拆开，各多少次。"""

from collections import Counter

import pytest
from built_tokenizers import CHARACTERS, TOKENIZERS, Slow, build
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.corpus.document import Document
from companion.corpus.missing import missing_vocabulary
from companion.corpus.words import dictionary_segmenter
from companion.errors import CorpusError


def docs(*texts):
    return [Document(text, f"a#{n}", "a") for n, text in enumerate(texts, 1)]


def found(tokenizer, *texts, **options):
    result = missing_vocabulary(docs(*texts), tokenizer, min_count=1, **options)
    return [(p.text, p.count, p.pieces, p.unknown) for p in result.characters]


def test_a_character_outside_the_vocabulary_becomes_unknown():
    """WordPiece：鱻、龘不在词表里，各成 [UNK]，按次数排；空白不算字。"""
    assert found(TOKENIZERS["wordpiece"], "天 子鱻。", "鱻龘\n天") == [
        ("鱻", 2, ("[UNK]",), True),
        ("龘", 1, ("[UNK]",), True),
    ]


def test_a_byte_level_tokenizer_spells_a_character_in_bytes():
    """没有合并的字节 BPE：一个汉字三个词元，𠮷四个，字母一个；没有认不得的。"""
    rows = found(TOKENIZERS["bytelevel"], "天𠮷a")
    assert [(text, len(pieces), lost) for text, _, pieces, lost in rows] == [
        ("天", 3, False),
        ("𠮷", 4, False),
    ]


def test_the_marker_of_sentencepiece_is_not_a_piece():
    """Unigram 在词首加的 “▁” 不算：“子”不缺；“天”只有词首的写法，文中仍认不得。"""
    assert found(TOKENIZERS["sentencepiece"], "子曰") == []
    # 这一份词表里只有“▁乾”，没有“乾”
    from tokenizers import models

    tokenizer = build("sentencepiece")
    tokenizer.backend_tokenizer.model = models.Unigram(
        [("<unk>", 0.0), ("▁", -2.0), ("▁乾", -1.0)], unk_id=0
    )
    assert found(tokenizer, "乾") == [("乾", 1, ("乾",), True)]


def test_a_tokenizer_without_a_fast_backend_works_too():
    """纯 Python 的分词器没有偏移，这里也用不着。"""
    slow = Slow()
    assert found(slow, "天子鱻") == [("鱻", 1, ("<unk>",), True)]


def test_words_that_fall_apart_are_counted_by_the_segmenter():
    """切词器说“天子”是词，词表里没有：列出，连同切法；标点与单字不算词。"""
    segment = dictionary_segmenter(["天子", "大于", "。。"])
    text = "天子之职大于天子。。"
    result = missing_vocabulary(
        docs(text), TOKENIZERS["sentencepiece"], segmenter=segment, min_count=1
    )
    # “大于”本来就是一个词元，不缺
    assert [(word.text, word.count) for word in result.words] == [("天子", 2)]


def test_both_sides_of_a_pair_count_and_rare_ones_are_left_out():
    """句对两侧都算；次数不到 min_count 的不列，字数与认不得的字数照计。"""
    pair = Document("鱻龘", "a#1", "a", target="鱻")
    result = missing_vocabulary([pair], TOKENIZERS["wordpiece"], min_count=2)
    assert [piece.text for piece in result.characters] == ["鱻"]
    assert result.num_characters == 3
    assert result.num_unknown == 3
    assert result.unknown_rate == 1


def test_documents_are_read_once_as_a_stream():
    """一次性的迭代器也行。"""
    stream = iter(docs("鱻鱻"))
    result = missing_vocabulary(stream, TOKENIZERS["wordpiece"])
    assert result.tokens(5) == ["鱻"]
    assert next(stream, None) is None


def test_the_table_and_the_dictionary_tell_the_same():
    """表里有原文、次数与切法；字典可写成 JSON。"""
    result = missing_vocabulary(docs("鱻鱻天"), TOKENIZERS["wordpiece"])
    assert "鱻" in str(result)
    assert "66.67%" in str(result)
    assert result.as_dict()["characters"][0]["count"] == 2
    assert "缺 0 个字" in str(missing_vocabulary(docs("天"), TOKENIZERS["wordpiece"]))


def test_the_first_so_many_are_picked_characters_before_words():
    """tokens(字数, 词数)：各取最常见的。"""
    result = missing_vocabulary(
        docs("鱻鱻龘之天子之"),
        TOKENIZERS["wordpiece"],
        segmenter=dictionary_segmenter(["天子"]),
        min_count=1,
    )
    assert result.tokens(1) == ["鱻"]
    assert result.tokens(9, 9) == ["鱻", "龘", "天子"]


@pytest.mark.parametrize("kind", ["wordpiece", "bytelevel"])
@given(
    texts=st.lists(
        st.text(CHARACTERS + "鱻龘é ，\n", max_size=12), min_size=1, max_size=4
    )
)
@settings(max_examples=40)
def test_every_character_is_either_known_or_listed(kind, texts):
    """列出的字恰是单独切时认不得或不止一个词元的字，次数等于逐字去数。"""
    tokenizer = TOKENIZERS[kind]
    counts = Counter(c for text in texts for c in text if not c.isspace())
    if not counts:
        with pytest.raises(CorpusError, match="没有一个字"):
            found(tokenizer, *texts)
        return
    expected = {}
    for char, count in counts.items():
        pieces = tokenizer.tokenize(char)
        if len(pieces) > 1 or "[UNK]" in pieces:
            expected[char] = count
    rows = found(tokenizer, *texts)
    assert {text: count for text, count, _, _ in rows} == expected
    assert [row[1] for row in rows] == sorted(expected.values(), reverse=True)


def test_a_minimum_below_one_is_refused():
    """min_count 至少 1。"""
    with pytest.raises(CorpusError, match="min_count 是 0"):
        missing_vocabulary(docs("天"), TOKENIZERS["wordpiece"], min_count=0)
