"""专名优先的切词：专名整个是一个词，其余照旧，词相接即原文。"""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.corpus.words import (
    dictionary_segmenter,
    names_first,
    read_names,
    word_spans,
)
from companion.errors import CorpusError

PHRASES = dictionary_segmenter(["门下", "食客", "臣光"])
NAMES = ["平原君", "平原", "司马光", "光曰"]
SEGMENT = names_first(NAMES, PHRASES)


def test_names_are_whole_and_the_longest_wins():
    """“平原君”不切成“平原”加“君”；不是专名处照短语切。"""
    assert SEGMENT("平原君门下食客，平原人也") == [
        *("平原君", "门下", "食客", "，", "平原", "人", "也")
    ]


def test_a_name_beats_a_phrase_that_begins_before_it():
    """短语“臣光”在左，专名“光曰”仍是整个。"""
    assert SEGMENT("臣光曰") == ["臣", "光曰"]
    assert PHRASES("臣光曰") == ["臣光", "曰"]


@given(st.text(alphabet="平原君司马光曰门下食客臣 ，a", max_size=30))
def test_the_words_join_to_the_text(text):
    """各词相接就是原文，只略去空白；专名表里的词总是整个。"""
    words = SEGMENT(text)
    assert "".join(words) == "".join(text.split())
    word_spans(words, text)


def test_the_fingerprint_tells_the_names_and_the_other_segmenter():
    """专名或另一个切词器换了，指纹就换；次序、重复无关。"""
    same = names_first([*reversed(NAMES), "平原"], PHRASES)
    assert same.fingerprint == SEGMENT.fingerprint
    others = [
        names_first(["平原"], PHRASES),
        names_first(NAMES, dictionary_segmenter([])),
    ]
    assert SEGMENT.fingerprint not in {each.fingerprint for each in others}


def test_the_segmenter_can_be_sent_to_another_process():
    """分词可以在别的进程里做。"""
    assert pickle.loads(pickle.dumps(SEGMENT))("赵平原君") == ["赵", "平原君"]


def test_an_empty_list_of_names_is_refused():
    """一个专名也没有：说清怎么办。"""
    with pytest.raises(CorpusError, match="专名表是空的"):
        names_first([" ", ""], PHRASES)


def test_the_built_in_names_are_distinct_and_findable():
    """随包的专名都是两字以上的汉字，不重复；文件照路径读，一行一个。"""
    names = read_names("tongjian")
    assert len(set(names)) == len(names) >= 700
    assert all(len(name) > 1 and name.isalpha() for name in names)
    assert {"平原君", "节度使", "长平"} <= set(names)


def test_a_list_of_ones_own_is_read_from_its_file(tmp_path):
    """不叫 tongjian 的都当作路径。"""
    path = tmp_path / "专名.txt"
    path.write_text("澄王\n\n泠水\n", encoding="utf-8")
    assert read_names(path) == ["澄王", "泠水"]
