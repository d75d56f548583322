"""词元序列里的句子：各种分词器断在同样的地方，引号归前一句。"""

import re
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import tokenizer_of
from transformers import PreTrainedTokenizerFast

from companion.objectives.sentences import CLOSERS, ENDS, sentence_marks


def characters(text: str) -> PreTrainedTokenizerFast:
    """一字一元的分词器，词表是 `text` 里的字。"""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocab = {token: i for i, token in enumerate(dict.fromkeys("#" + text))}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="#"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="#")


def byte_pairs(*merged: str) -> PreTrainedTokenizerFast:
    """字节级 BPE；`merged` 里的字串各并成一个词元，别的字都是零散的字节。"""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    vocab = {c: i for i, c in enumerate(sorted(level.alphabet()))}
    merges = []
    for text in merged:
        letters = "".join(piece for piece, _ in level.pre_tokenize_str(text))
        for size in range(2, len(letters) + 1):
            pair = letters[: size - 1], letters[size - 1]
            if pair not in merges:
                merges.append(pair)
            vocab.setdefault(letters[:size], len(vocab))
    backend = Tokenizer(models.BPE(vocab, merges))
    backend.pre_tokenizer, backend.decoder = level, decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def sentences_of(tokenizer, text: str) -> list[str]:
    """一篇文字断成的句子，写成文字。"""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    lengths = sentence_marks(tokenizer).split(ids)
    assert sum(lengths) == len(ids)
    rows = [ids[stop - size : stop] for size, stop in
            zip(lengths, accumulate(lengths), strict=True)]  # fmt: skip
    return [tokenizer.decode(row).replace(" ", "") for row in rows]


def expected(text: str) -> list[str]:
    """同一规则写在文字上。"""
    return re.findall(f"[^{ENDS}]*[{ENDS}][{ENDS}{CLOSERS}]*|[^{ENDS}]+$", text)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("飞鸟尽，良弓藏。狡兔死，走狗烹。", 2),
        ("“何也？”曰：“礼也。”王悦。", 3),
        ("「善！」』）》帝曰：诺", 2),
        ("然则……奈何？！退。", 3),
        ("周纪一\n起著雍摄提格。\n\n尽玄黓困敦。", 3),
        ("天下大势；分久必合", 2),
        ("。。。", 1),
        ("臣光曰", 1),
        ("”臣光曰。", 1),
        ("OK! Go? v1.5 和 U.S. 不断", 3),
    ],
)
def test_sentences_end_where_a_reader_would_stop(text, count):
    """句末与其后的引号、括号归前一句；连着的句末只断一次；西文句点不断。"""
    found = sentences_of(characters(text), text)
    assert found == [each.replace(" ", "") for each in expected(text)]
    assert len(found) == count


@given(st.text(st.sampled_from("臣光曰，“「。！？；…\n”’」』）》"), min_size=1))
def test_every_text_is_cut_as_the_rule_on_characters_says(text):
    """在一字一元的词表上，断法与文字上的正则式处处相同。"""
    tokenizer = characters("臣光曰，“「" + ENDS + CLOSERS)
    assert sentences_of(tokenizer, text) == expected(text)


@pytest.mark.parametrize("kind", ["bert", "t5", "xlm-roberta", "roberta", "bart"])
def test_every_kind_of_vocabulary_finds_the_same_sentences(kind):
    """WordPiece、SentencePiece、字节级 BPE 断在同样的地方。"""
    text = "飞鸟尽，良弓藏。学而时习之，不亦说乎？天下大势，分久必合。"
    found = sentences_of(tokenizer_of(kind), text)
    assert found == [
        "飞鸟尽，良弓藏。",
        "学而时习之，不亦说乎？",
        "天下大势，分久必合。",
    ]


def test_a_merged_token_is_judged_by_its_text():
    """并成一个词元的“。”与“。」”“！”加换行都算句末，“」”算后引号。"""
    tokenizer = byte_pairs("。」", "」", "！\n", "藏。")
    text = "良弓藏。」曰！\n善。」」也"
    assert sentences_of(tokenizer, text) == ["良弓藏。」", "曰！\n", "善。」」", "也"]


def test_a_mark_spread_over_several_tokens_is_not_found():
    """一个标点拆成几个字节词元时断不出来，整篇算一句：这是写明的局限。"""
    assert len(sentences_of(byte_pairs("。"), "善。然；否。")) == 2
    assert len(sentences_of(byte_pairs(), "善。然；否。")) == 1


def test_special_tokens_are_never_ends():
    """特殊词元哪怕写得像句末，也不算。"""
    tokenizer = characters("臣。！")
    tokenizer.add_special_tokens({"sep_token": "。"})
    marks = sentence_marks(tokenizer)
    assert tokenizer.convert_ids_to_tokens(list(marks.ends)) == ["！"]
    assert not marks.closers
