"""内置样本：《四境纪》的数量、对齐、划分与填空题；通用现代汉语的段数与用字。"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

SAMPLES = Path(__file__).resolve().parents[1] / "companion" / "corpus" / "samples"
SPLITS = ("train", "valid")
SIDES = ("classical", "modern")
MASK = "[MASK]"


def read_lines(split: str, side: str) -> list[str]:
    """读一侧的全部行；文件必须以换行结尾，换行只用 LF。"""
    raw = (SAMPLES / f"{split}.{side}.txt").read_bytes()
    assert b"\r" not in raw
    text = raw.decode("utf-8")
    assert text.endswith("\n")
    return text[:-1].split("\n")


def read_table(name: str) -> list[dict[str, str]]:
    """读带表头的制表符分隔表。"""
    with (SAMPLES / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


LINES = {(split, side): read_lines(split, side) for split in SPLITS for side in SIDES}
CHAPTERS = read_table("chapters.tsv")
CLOZE = read_table("cloze.tsv")


def test_counts():
    """全书不少于 820 对、24 卷；验证集 4 卷、不少于 120 对。"""
    pairs = {split: len(LINES[split, "classical"]) for split in SPLITS}
    assert sum(pairs.values()) >= 820
    assert pairs["valid"] >= 120
    assert len(CHAPTERS) >= 24
    assert sum(row["split"] == "valid" for row in CHAPTERS) == 4


@pytest.mark.parametrize("split", SPLITS)
def test_aligned(split):
    """两侧行数相同，没有空行，首尾没有空白，译文长度与原文相称。"""
    classical, modern = LINES[split, "classical"], LINES[split, "modern"]
    assert len(classical) == len(modern)
    for source, target in zip(classical, modern, strict=False):
        assert source
        assert source == source.strip()
        assert target
        assert target == target.strip()
        assert 6 <= len(source) <= 48
        assert 1.0 <= len(target) / len(source) <= 2.4, source
    ratio = sum(map(len, modern)) / sum(map(len, classical))
    assert 1.2 <= ratio <= 1.8


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("side", SIDES)
def test_characters(split, side):
    """只用 GB 2312 汉字与全角标点；文言一侧没有引号，白话一侧引号成对。"""
    punctuation = set("，。；：？！、") | (set("“”‘’") if side == "modern" else set())
    for line in LINES[split, side]:
        for char in line:
            if char not in punctuation:
                code = char.encode("gb2312")
                assert len(code) == 2, (char, line)
                assert 0xB0 <= code[0] <= 0xF7, (char, line)
        assert line[-1] in "。？！”"
        assert line.count("“") == line.count("”")
        assert line.count("‘") == line.count("’")


@pytest.mark.parametrize("side", SIDES)
def test_no_duplicate_line(side):
    """没有重复的行，训练集与验证集之间也没有。"""
    lines = LINES["train", side] + LINES["valid", side]
    assert len(set(lines)) == len(lines)


@pytest.mark.parametrize("split", SPLITS)
def test_chapters_tile_the_split(split):
    """各卷首尾相接，行数之和等于文件行数；每卷以“野史氏曰”收尾。"""
    following = 1
    for row in CHAPTERS:
        if row["split"] != split:
            continue
        assert int(row["first_line"]) == following
        assert int(row["n_lines"]) > 0
        following += int(row["n_lines"])
        assert LINES[split, "classical"][following - 2].startswith("野史氏曰：")
        assert LINES[split, "modern"][following - 2].startswith("野史氏说：")
    assert following - 1 == len(LINES[split, "classical"])


def test_chapters_not_shared():
    """同一卷不会既在训练集又在验证集。"""
    names = [row["chapter"] for row in CHAPTERS]
    assert len(set(names)) == len(names)
    assert {row["split"] for row in CHAPTERS} == set(SPLITS)


def test_cloze_table():
    """填空题不少于 24 道，两侧都有，四类都有，题面不重复。"""
    assert len(CLOZE) >= 24
    assert {item["side"] for item in CLOZE} == set(SIDES)
    assert {item["kind"] for item in CLOZE} == {"person", "place", "office", "phrase"}
    assert len({item["text"] for item in CLOZE}) == len(CLOZE)


@pytest.mark.parametrize("item", CLOZE, ids=lambda item: item["text"])
def test_cloze_form(item):
    """文言题每个答案汉字恰有一个相连的 [MASK]；白话题没有 [MASK]，也不含答案。"""
    text, answer = item["text"], item["answer"]
    assert re.fullmatch(r"[\u4e00-\u9fff]+", answer)
    if item["side"] == "classical":
        assert len(answer) in (1, 2)
        assert text.count(MASK) == len(answer)
        assert MASK * len(answer) in text
    else:
        assert "[" not in text
        assert text[-1] not in "。？！"
        assert answer not in text


@pytest.mark.parametrize("item", CLOZE, ids=lambda item: item["text"])
def test_cloze_answer_is_learnable(item):
    """答案在同侧训练集里至少出现六次，而题面补全后不是训练集的原句。"""
    text, answer = item["text"], item["answer"]
    train = "\n".join(LINES["train", item["side"]])
    assert train.count(answer) >= 6
    if item["side"] == "classical":
        filled = text.replace(MASK * len(answer), answer)
        if len(answer) == 1:  # 单字太泛，要连同紧邻的一个字一起数
            at = filled.index(answer) if filled.count(answer) == 1 else text.index(MASK)
            around = [filled[at - 1 : at + 1] if at else "", filled[at : at + 2]]
            assert max(train.count(pair) for pair in around if pair) >= 6
    else:
        filled = text + answer
    assert filled.rstrip("。") not in train


def read_paragraphs(split: str) -> list[str]:
    """读通用现代汉语的全部段落：一段一行，段间恰隔一个空行，文件以单个换行结尾。"""
    raw = (SAMPLES / f"general.{split}.txt").read_bytes()
    assert b"\r" not in raw
    assert not raw.startswith(b"\xef\xbb\xbf")
    text = raw.decode("utf-8")
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    return text[:-1].split("\n\n")


GENERAL = {split: read_paragraphs(split) for split in SPLITS}


def test_general_counts():
    """训练 110 段，验证 64 段，没有重复的段落，两边之间也没有。"""
    assert {split: len(GENERAL[split]) for split in SPLITS} == {
        "train": 110,
        "valid": 64,
    }
    paragraphs = GENERAL["train"] + GENERAL["valid"]
    assert len(set(paragraphs)) == len(paragraphs)


def test_general_sentences_not_shared():
    """训练集与验证集没有相同的句子，也没有连续十二字以上的相同片段。"""
    sentences, spans = {}, {}
    for split in SPLITS:
        sentences[split] = {
            s for p in GENERAL[split] for s in re.split("[。？！]", p) if s
        }
        spans[split] = {
            p[i : i + 12] for p in GENERAL[split] for i in range(len(p) - 11)
        }
    assert not sentences["train"] & sentences["valid"]
    assert not spans["train"] & spans["valid"]


@pytest.mark.parametrize("split", SPLITS)
def test_general_form(split):
    """每段 80 至 160 字，段内不换行，首尾没有空白，以句末标点收尾，引号成对。"""
    for paragraph in GENERAL[split]:
        assert 80 <= len(paragraph) <= 160, paragraph
        assert "\n" not in paragraph
        assert paragraph == paragraph.strip()
        assert paragraph[-1] in "。？！”"
        assert paragraph.count("“") == paragraph.count("”")


@pytest.mark.parametrize("split", SPLITS)
def test_general_characters(split):
    """只用 GB 2312 汉字、全角标点、拉丁字母与数字；半角标点只有小数点和百分号。"""
    for paragraph in GENERAL[split]:
        rest = re.sub(
            r"[A-Za-z]|\d(?:\.\d+)?%?|[，。；：？！、“”《》（）]",
            "",
            paragraph,
            flags=re.ASCII,
        )
        for char in rest:
            code = char.encode("gb2312")
            assert 0xB0 <= code[0] <= 0xF7, (char, paragraph)
    letters = sum(
        char.isascii() and char.isalpha() for p in GENERAL[split] for char in p
    )
    assert letters / sum(map(len, GENERAL[split])) < 0.01
