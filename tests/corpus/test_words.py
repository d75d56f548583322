"""词界：词元属于哪个词，由字符偏移说了算，与分词器怎样切字无关。"""

import logging
import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from companion.corpus.words import (
    dictionary_segmenter,
    jieba_segmenter,
    read_names,
    segmenter_fingerprint,
    word_ids,
    word_spans,
)
from companion.errors import CorpusError

SENTENCES = [
    "臣光曰：天子之职莫大于礼，礼莫大于分，分莫大于名。",
    "司马光曰：𠮷野家 hello world 12 天子 司马 光",
    "天子 𠮷𠮷 司马光 Hello，world",
] * 3
ALPHABET = "天子司马光曰，𠮷鬱é ab\u3000礼"


def _train(kind: str) -> Tokenizer:
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(
            vocab_size=90, special_tokens=["[UNK]"], show_progress=False
        )
    elif kind == "sentencepiece":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=80,
            unk_token="<unk>",
            special_tokens=["<unk>"],
            show_progress=False,
        )
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=330,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


TOKENIZERS = {k: _train(k) for k in ("wordpiece", "sentencepiece", "bytelevel")}


@st.composite
def segmented(draw: st.DrawFn) -> tuple[str, list[str]]:
    """一段文字与它的一种任意切法；切词器可以略去空白，也可以保留。"""
    text = draw(st.text(ALPHABET, max_size=24))
    cuts = sorted(draw(st.sets(st.integers(0, len(text)))) | {0, len(text)})
    words = [text[a:b] for a, b in pairwise(cuts)]
    if draw(st.booleans()):
        words = [word.strip() for word in words if word.strip()]
    return text, words


def _components(offsets: list[tuple[int, int]], words: list[str], text: str):
    """逐字、逐词的笨办法：与同一词元相交的词反复合并，直到不再变。"""
    groups = [set(range(a, b)) for a, b in word_spans(words, text).tolist()]
    for begin, end in offsets:
        touched = [g for g in groups if g & set(range(begin, end))]
        if len(touched) > 1:
            groups = [g for g in groups if g not in touched] + [set.union(*touched)]
    names: dict[int, int] = {}
    found = []
    for begin, end in offsets:
        hit = [i for i, g in enumerate(groups) if g & set(range(begin, end))]
        found.append(names.setdefault(hit[0], len(names)) if hit else -1)
    return found


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(segmented())
def test_word_ids_are_the_connected_components_of_words_and_tokens(
    kind: str, case: tuple[str, list[str]]
) -> None:
    """词号等于「词与词元相交」这张图的连通分量，三类分词器都如此。"""
    text, words = case
    offsets = TOKENIZERS[kind].encode(text).offsets
    found = word_ids(offsets, words, text)
    assert found.dtype == np.int64
    assert found.tolist() == _components(offsets, words, text)


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(segmented())
def test_a_word_is_never_split(kind: str, case: tuple[str, list[str]]) -> None:
    """写到同一个词的词元，词号都相同。"""
    text, words = case
    offsets = np.array(TOKENIZERS[kind].encode(text).offsets).reshape(-1, 2)
    found = word_ids(offsets, words, text)
    for begin, end in word_spans(words, text):
        touching = (offsets[:, 0] < end) & (offsets[:, 1] > begin)
        touching &= offsets[:, 0] < offsets[:, 1]
        assert len(set(found[touching].tolist())) <= 1


def test_special_tokens_and_spaces_belong_to_no_word() -> None:
    """偏移为 (0, 0) 的特殊词元与只含空白的词元记 −1，编号不因此中断。"""
    offsets = [(0, 0), (0, 2), (2, 3), (3, 4), (4, 5), (0, 0)]
    found = word_ids(offsets, ["天子", "曰善"], "天子 曰善")
    assert found.tolist() == [-1, 0, -1, 1, 1, -1]


def test_a_piece_with_its_leading_space_belongs_to_the_word_after_the_space() -> None:
    """▁hello 的偏移含前面的空格，词仍是 hello；单独的 ▁ 与它所在的字同词。"""
    assert word_ids([(0, 1), (1, 7)], ["天", "hello"], "天 hello").tolist() == [0, 1]
    assert word_ids([(0, 1), (0, 1), (1, 2)], ["天子"], "天子").tolist() == [0, 0, 0]


def test_a_token_across_two_words_joins_them() -> None:
    """“光曰”合为一个词元时，“司马光”与“曰”并成一个词，不会只遮半个。"""
    offsets = [(0, 1), (1, 2), (2, 4), (4, 5)]
    found = word_ids(offsets, ["司马光", "曰", "善"], "司马光曰善")
    assert found.tolist() == [0, 0, 0, 1]


def test_byte_tokens_of_one_character_share_its_word() -> None:
    """𠮷 在字节 BPE 里是几个词元，它们同属一个词。"""
    encoding = TOKENIZERS["bytelevel"].encode("𠮷曰")
    found = word_ids(encoding.offsets, ["𠮷", "曰"], "𠮷曰")
    assert len(found) > 2
    begin = np.array(encoding.offsets)[:, 0]
    assert found.tolist() == begin.tolist()


def test_words_may_contain_spaces() -> None:
    """词典里的 “New York” 是一个词，中间的空格也在词内。"""
    found = word_ids([(0, 3), (3, 4), (4, 8)], ["New York"], "New York")
    assert found.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["天下", "曰"], "第 0 个"),
        (["天子"], "第 2 个"),
        (["天子", "曰", "善"], "第 3 个"),
    ],
)
def test_a_segmenter_that_changes_the_text_is_refused(
    words: list[str], place: str
) -> None:
    """改字、漏字、添字都报错，并指出从哪里分道。"""
    with pytest.raises(CorpusError, match=place):
        word_ids([(0, 1)], words, "天子曰")


@given(st.text(ALPHABET), st.sets(st.text(ALPHABET, max_size=4)))
def test_dictionary_words_cover_the_text(text: str, words: set[str]) -> None:
    """任何词表切出的词都能对回原文，空白之外一字不少。"""
    found = dictionary_segmenter(words)(text)
    covered = sum(b - a for a, b in word_spans(found, text))
    assert covered >= len("".join(text.split()))


def test_dictionary_takes_the_longest_word() -> None:
    """同处有长短两词时取长的；词表之外的西文一串是一词，汉字一字是一词。"""
    segment = dictionary_segmenter(["司马", "司马光", "𠮷野家"])
    assert segment("司马光 曰OK12𠮷野家") == ["司马光", "曰", "OK12", "𠮷野家"]


def test_jieba_keeps_the_words_of_the_user() -> None:
    """用户词典的词整个保留，连 jieba 自己拼不出的扩展区汉字也在内。"""
    segment = jieba_segmenter(["司马光曰", "𠮷野家", "乌孙·昆弥"])
    text = "司马光曰：𠮷野家 与乌孙·昆弥"
    words = segment(text)
    assert {"司马光曰", "𠮷野家", "乌孙·昆弥"} <= set(words)
    assert "".join(words) == text.replace(" ", "")


def test_jieba_dictionaries_do_not_leak(capfd: pytest.CaptureFixture[str]) -> None:
    """两个切词器各有词典，互不影响，也不往终端写字。"""
    text = "甲乙丙丁戊"
    assert jieba_segmenter([text])(text) == [text]
    assert jieba_segmenter()(text) != [text]
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("jieba").level == logging.WARNING


def test_jieba_reads_a_dictionary_file(tmp_path: Path) -> None:
    """词典文件一行一词，可带词频与词性，可有 BOM 与空行。"""
    path = tmp_path / "words.txt"
    path.write_text("\ufeff甲乙丙丁戊 100 nr\n\n莫大于\n", "utf-8")
    words = jieba_segmenter(path)("礼莫大于甲乙丙丁戊")
    assert words == ["礼", "莫大于", "甲乙丙丁戊"]


def test_an_unreadable_dictionary_is_named(tmp_path: Path) -> None:
    """词典不存在，或不是 UTF-8，错误都说出它的路径。"""
    with pytest.raises(CorpusError, match=r"nothing\.txt"):
        jieba_segmenter(tmp_path / "nothing.txt")
    path = tmp_path / "gbk.txt"
    path.write_bytes("司马光".encode("gb18030"))
    with pytest.raises(CorpusError, match=r"gbk\.txt 第 2 字节"):
        jieba_segmenter(path)


def test_segmenters_travel_between_processes() -> None:
    """送进别的进程之后切法不变；已经载入的 jieba 也能送。"""
    segment = jieba_segmenter(["莫大于"])
    before = segment("礼莫大于分")
    assert pickle.loads(pickle.dumps(segment))("礼莫大于分") == before
    other = dictionary_segmenter(["莫大于"])
    assert pickle.loads(pickle.dumps(other))("礼莫大于分") == ["礼", "莫大于", "分"]


def test_the_fingerprint_follows_the_dictionary() -> None:
    """词典变了指纹就变，词典相同指纹就相同。"""
    for build in (jieba_segmenter, dictionary_segmenter):
        one, same, other = build(["天子"]), build(["天子"]), build(["天下"])
        assert segmenter_fingerprint(one) == segmenter_fingerprint(same)
        assert segmenter_fingerprint(one) != segmenter_fingerprint(other)
    assert segmenter_fingerprint(None) != segmenter_fingerprint(jieba_segmenter())


def test_the_fingerprint_of_a_function_sees_its_code_and_closure() -> None:
    """普通函数改了代码或闭包里的值，指纹也变。"""

    def build(size: int):
        return lambda text: [text[i : i + size] for i in range(0, len(text), size)]

    assert segmenter_fingerprint(build(2)) == segmenter_fingerprint(build(2))
    assert segmenter_fingerprint(build(2)) != segmenter_fingerprint(build(3))
    assert segmenter_fingerprint(list) != segmenter_fingerprint(str.split)


def test_any_usual_separator_divides_a_dictionary_line(tmp_path: Path) -> None:
    """词频与词性前是空格、制表符、逗号还是全角空格，词都认得出。"""
    gaps = [" ", "\t", ",", "，", "　", "; ", "|"]
    rests = [(), ("3",), ("3", "n")]
    lines = [gap.join(("炉盖", *rest)) for gap in gaps for rest in rests]
    words = [
        f"红{number}泥炉盖" for number in "甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳午未申酉戌"
    ]
    path = tmp_path / "词典.txt"
    path.write_text(
        "\n".join(w[:-2] + line for w, line in zip(words, lines, strict=True)),
        encoding="utf-8",
    )
    assert jieba_segmenter(path)("和".join(words))[::2] == words


def test_several_words_on_a_line_are_refused(tmp_path: Path) -> None:
    """一行几个词，照一个词读永远匹配不上，所以拒绝；专名表也是。"""
    path = tmp_path / "词典.txt"
    path.write_text("云计算、水缸盖\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="云计算、水缸盖"):
        jieba_segmenter(path)
    with pytest.raises(CorpusError, match="云计算、水缸盖"):
        read_names(path)
    path.write_text("平原君\t3\tnr\n", encoding="utf-8")
    assert read_names(path) == ["平原君"]
