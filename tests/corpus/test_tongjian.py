"""《资治通鉴》的整理规则：每条一个例子，已整理好的语料是它们的不动点。"""

import gzip
from collections import Counter
from pathlib import Path

import pytest

from companion.corpus.tongjian import (
    all_juan,
    chinese_number,
    clean_pair,
    find_leaks,
    find_repeats,
)

MODERN = "赵王召见廉颇、乐乘，问他们：可以救吗？"


@pytest.mark.parametrize(
    ("classical", "modern", "expected"),
    [
        (
            "平原君怒，将杀之。赵奢曰： 君于赵为贵公子！ ",
            "平原君发怒,要杀赵奢; 赵奢说: 您在赵国是贵公子!",
            (
                "平原君怒，将杀之。赵奢曰：君于赵为贵公子！",
                "平原君发怒，要杀赵奢；赵奢说：您在赵国是贵公子！",
            ),
        ),
        (
            "，王使郑硃媾于秦。",
            "赵王派郑硃到秦国求和。",
            ("王使郑朱媾于秦。", "赵王派郑朱到秦国求和。"),
        ),
        (
            "元年（甲子，公元前403年）春，王崩。",
            "元年春季，国王去世。",
            ("元年春，王崩。", "元年春季，国王去世。"),
        ),
        ("王登崐仑。", "崐国王登上崐仑山。", ("王登崐仑。", "国王登上崐仑山。")),
        ("赵王召廉颇?问之。", MODERN, "bad_characters"),
        ("赵王召廉颇\ue123。", MODERN, "bad_characters"),
        ("赵王召廉颇□问之。", MODERN, "bad_characters"),
        ("赵王召廉颇。", "赵王 call 廉颇。", "bad_characters"),
        ("赵王召亻堇问之。", MODERN, "split_characters"),
        ("起屠维赤奋若，尽旃蒙大荒落，凡十七年。", "起，止，共十七年", "preamble"),
        ("赧王下四十三年", "周赧王四十三年", "title"),
        ("善。", "好。", "too_short"),
        ("魏人范雎从中大夫须贾使于齐。", "魏人范雎出使。", "length_ratio"),
        (
            "初，魏公子无忌仁而下士，致食客。",
            "从前有一座山，山上住着许多老和尚。",
            "misaligned",
        ),
        ("秦军围邯郸，赵王恐。", "秦军围邯郸，赵王恐。", "untranslated"),
    ],
)
def test_each_rule_has_its_example(
    classical: str, modern: str, expected: tuple[str, str] | str
) -> None:
    """逐条规则：改成什么样，或以什么名目丢弃。"""
    assert clean_pair(classical, modern) == expected


def test_juan_are_numbered_as_in_the_book() -> None:
    """292 卷：缺卷 113 与卷 200，切分互不相交。"""
    listed = all_juan()
    assert len(listed) == 292
    assert {113, 200}.isdisjoint(juan.number for juan in listed)
    assert listed[0].path("classical") == "双语数据/资治通鉴/周纪/周纪一/source.txt"
    assert listed[-1].chapter == "后周纪五"
    assert Counter(juan.split for juan in listed) == {
        "train": 262,
        "valid": 15,
        "test": 15,
    }
    numerals = [chinese_number(n) for n in (1, 10, 11, 20, 21, 81)]
    assert numerals == ["一", "十", "十一", "二十", "二十一", "八十一"]


def test_repeats_keep_the_first_and_spare_short_lines() -> None:
    """长的重复对只留先来的；“帝从之”一类短句不算。"""
    long = ("秦军大破赵军于长平城下。", "秦军在长平城下大败赵军。")
    short = ("帝从之。", "皇帝同意了。")
    assert find_repeats([long, short, long, short]) == {2}


def test_leaks_are_found_in_either_direction() -> None:
    """含有留出的整句、整个在留出行之内、二十字连续相同，都是雷同；标点不算。"""
    held = [
        ("秦军大破赵军于长平，王闻之。善。", "甲" * 30),
        ("乙" * 10 + "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往。", "丙" * 30),
    ]
    train = [
        ("是岁，秦军大破赵军，于长平王闻之，大喜。", "无关"),  # 含整句
        ("军大破赵军于长平。", "无关"),  # 在留出行之内
        ("丁天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往", "无关"),  # 二十字相同
        ("善。", "无关"),  # 太短
        ("天地玄黄宇宙洪荒日月。戊己庚辛", "无关"),  # 只有十字相同
        ("无关", "甲" * 25),  # 白话侧雷同
    ]
    assert find_leaks(train, held) == {0, 1, 2, 5}


def test_the_prepared_corpus_is_a_fixed_point(shared_data: Path) -> None:
    """已整理好的留出集再过一遍规则：一字不改，一对不丢，篇目与卷号相符。"""
    folder = shared_data / "tongjian"
    sides = [
        (folder / f"valid.{side}.txt").read_text("utf-8").split("\n")[:-1]
        for side in ("classical", "modern")
    ]
    pairs = list(zip(*sides, strict=True))
    assert len(pairs) == 5703
    assert [clean_pair(*pair) for pair in pairs] == pairs
    juan = {str(item.number): item for item in all_juan()}
    rows = (folder / "chapters.tsv").read_text("utf-8").split("\n")[1:-1]
    for row in rows:
        split, number, ji, chapter, *_ = row.split("\t")
        found = juan[number]
        assert (found.split, found.ji, found.chapter) == (split, ji, chapter)


def test_hardly_any_prepared_training_line_leaks(shared_data: Path) -> None:
    """已整理好的训练集头两万对里，按我们的规则与留出集雷同的不到万分之五。"""
    folder = shared_data / "tongjian"
    held = [
        (folder / f"valid.{side}.txt").read_text("utf-8").split("\n")[:-1]
        for side in ("classical", "modern")
    ]
    train: list[list[str]] = []
    for side in ("classical", "modern"):
        with gzip.open(
            folder / f"train.{side}.txt.gz", "rt", encoding="utf-8"
        ) as lines:
            train.append([line.rstrip("\n") for _, line in zip(range(20_000), lines)])  # noqa: B905
    leaks = find_leaks(list(zip(*train, strict=True)), list(zip(*held, strict=True)))
    assert len(leaks) < 10
