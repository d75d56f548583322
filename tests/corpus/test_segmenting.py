"""以词选的切词：不切、切一种、照 ERNIE 切三种；词典与近义词表坏了都点名。"""

from pathlib import Path

import pytest

from companion.corpus.words import read_similar_words, segmenters_for
from companion.errors import CorpusError

TEXT = "赵平原君门下食客 OK"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_tokens_need_no_segmenter() -> None:
    """逐词元选的不切词，也不读用户词典。"""
    assert segmenters_for("none", user_dictionary="没有这个.txt") == (None,)


def test_the_three_stages_cut_characters_phrases_and_names(tmp_path: Path) -> None:
    """三个阶段：一字一词（西文一串一词），短语，专名优先而其余照短语。"""
    phrases = write(tmp_path / "短语.txt", "门下食客\n")
    names = write(tmp_path / "专名.txt", "赵平原\n")
    basic, phrase, entity = segmenters_for(
        "stages", user_dictionary=phrases, names=names
    )
    assert basic is not None
    assert phrase is not None
    assert entity is not None
    assert basic(TEXT) == [*"赵平原君门下食客", "OK"]
    assert "门下食客" in phrase(TEXT)
    assert "赵平原" not in phrase(TEXT)
    assert entity(TEXT) == ["赵平原", "君", "门下食客", "OK"]


def test_words_come_from_one_segmenter(tmp_path: Path) -> None:
    """以词选的只要一个切词器，用户词典的词整个保留。"""
    (words,) = segmenters_for(
        "words", user_dictionary=write(tmp_path / "词.txt", "平原君门下")
    )
    assert words is not None
    assert "平原君门下" in words(TEXT)


@pytest.mark.parametrize(
    ("source", "text", "said"),
    [
        ("stages", None, "没有专名表"),
        ("stages", "\n\n", "专名表是空的"),
        ("words", "赵", "用不上"),
        ("none", "赵", "用不上"),
    ],
)
def test_a_wrong_list_of_names_is_refused(
    source: str, text: str | None, said: str, tmp_path: Path
) -> None:
    """该有专名表而没有、是空的，或用不上，都说得出来。"""
    names = None if text is None else write(tmp_path / "专名.txt", text)
    with pytest.raises(CorpusError, match=said):
        segmenters_for(source, names=names)


def test_similar_words_are_read_line_by_line(tmp_path: Path) -> None:
    """一行是词与它的近义词；同一个词写两行就合起来，空行略去。"""
    path = write(tmp_path / "近义词.txt", "天子 皇帝\t官家\n\n 诸侯 列国\n天子 君上")
    assert read_similar_words(path) == {
        "天子": ["皇帝", "官家", "君上"],
        "诸侯": ["列国"],
    }


@pytest.mark.parametrize(
    ("text", "said"), [("天子 皇帝\n诸侯\n", "第 2 个词“诸侯”"), ("\n", "是空的")]
)
def test_a_broken_table_of_similar_words_is_refused(
    text: str, said: str, tmp_path: Path
) -> None:
    """一行没有近义词，或整张是空的：说得出是哪一行。"""
    with pytest.raises(CorpusError, match=said):
        read_similar_words(write(tmp_path / "近义词.txt", text))
