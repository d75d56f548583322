"""清洗：每条规则做它说的事，洗两遍等于洗一遍，丢弃都有名目。"""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.corpus.cleaning import (
    CLEANING_RULES,
    CleaningReport,
    clean_documents,
    clean_text,
)
from companion.corpus.document import Document
from companion.errors import CorpusError

messy = st.text(
    st.sampled_from(
        "天地，。ab &;#<>/br012ampltgt\x00\u200b\u3000\n\ue000\ufffd=e\u0301！"
    )
    | st.characters(exclude_categories=["Cs"]),
    max_size=60,
)


def run(
    texts: list[str], rules: list[str] | None = None
) -> tuple[list[str], CleaningReport]:
    """洗几段文本，返回留下的正文与账目。"""
    docs, report = clean_documents(
        [Document(text, f"x#{index}", "x") for index, text in enumerate(texts)], rules
    )
    return [doc.text for doc in docs], report


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("天\x07子\x7f", "天子"),
        ("天\u200b子\ufeff", "天子"),
        ("e\u0301tude", "\u00e9tude"),
        ("<p>天子</p><br/>之&nbsp;职", "天子之职"),
        ("<p>one</p><p>two</p>", "one two"),
        ("天子<script>x = 1 < 2</script>之职", "天子之职"),
        ("天子&amp;lt;br&amp;gt;之职", "天子之职"),
        ("天 子　之　职", "天子之职"),
        ("天 子\n\tx  =  1 \n <p>之</p>\n", "天子\n\tx = 1\n之"),
        ("用 GPT  训练", "用 GPT 训练"),
        (
            "慕容\ue123降于秦，秦王以为宾徒侯，奔燕。",
            "慕容□降于秦，秦王以为宾徒侯，奔燕。",
        ),
        ("上卷==========下卷", "上卷===下卷"),
        ("帝从之。本章未完，请点击下一页继续。臣光曰", "帝从之。臣光曰"),
        ("帝从之。请记住本站网址：www.a.com 臣光曰", "帝从之。臣光曰"),
        ("<ruby>礼<rp>(</rp><rt>lǐ</rt><rp>)</rp></ruby>莫大焉", "礼莫大焉"),
        ("<!DOCTYPE html><!-- 注 --><body class='x'>天子</body>", "天子"),
    ],
)
def test_each_rule_does_what_it_says(before: str, after: str) -> None:
    """每条默认规则的一个例子。"""
    assert clean_text(before) == after


@pytest.mark.parametrize(
    "text",
    [
        "“初，魏公子无忌仁而下士，”曰：‘善！’；《史记》（卷七十七）……——①",
        "ａｂｃ１２３％，full-width stays",
        "if a < b and c > d: x &= y",
        "AT&T 与 R&D",
        "当x<s 时下降，中间是许多正文，当y>2时上升。",
        "若a<b且b>c，则a<b>c",
        "该书的版权所有者授权转载，他关注公众号的运营。",
        "版权所有者说，转载请注明的规定早已废止。",
        "می\u200cخواهم",
    ],
)
def test_honest_text_is_left_alone(text: str) -> None:
    """全角标点、圈码、大于小于号、连写文字的零宽符号都不动。"""
    assert clean_text(text) == text


@given(text=messy)
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    """洗净的文本再洗不变，也不会再丢。"""
    once = clean_text(text)
    assert once is None or clean_text(once) == once


@given(text=st.text(st.sampled_from("天地，。！？；：、“”‘’（）《》…—"), min_size=2))
def test_full_width_punctuation_is_never_changed(text: str) -> None:
    """“，”不会变成 ","：标点一个不少，一个不变（只有连写八次以上的会缩短）。"""
    cleaned = clean_text(text, [name for name in CLEANING_RULES if name != "runs"])
    assert cleaned is None or cleaned == text


@given(texts=st.lists(messy, max_size=8))
def test_every_document_is_kept_or_counted(texts: list[str]) -> None:
    """读入 = 留下 + 各条规则丢弃之和；改动不超过留下的篇数。"""
    kept, report = run(texts)
    assert report.documents_in == len(texts)
    assert report.documents_out == len(kept)
    dropped = sum(count.dropped for count in report.rules.values())
    assert report.documents_in == report.documents_out + dropped
    assert all(count.changed <= len(kept) for count in report.rules.values())
    assert report.characters_in == sum(map(len, texts))
    assert report.characters_out == sum(map(len, kept))


def test_drops_are_counted_under_their_rule() -> None:
    """丢弃记在使它被丢的那条规则名下。"""
    kept, report = run(["。", "\ufffd\ufffd天", "天子之职", "天 子"])
    assert kept == ["天子之职", "天子"]
    assert report.rules["too_short"].dropped == 1
    assert report.rules["garbled"].dropped == 1
    assert report.rules["spaces"].changed == 1


def test_a_rule_that_would_eat_the_text_is_refused_and_named() -> None:
    """要删去一成以上文字的规则，这一篇不用它，账目里点名；别的规则照常。"""
    scripted = "礼莫大于分，分莫大于名。" * 20
    eaten = f"天 子之职莫大于礼<script>{scripted}</script>"
    [kept], report = run([eaten])
    assert kept == eaten.replace(" ", "")
    assert report.rules["html"].refused == 1
    assert report.rules["html"].changed == 0
    assert "html 要删去一成以上的文字，没有用在 1 篇上：x#0" in str(report)


def test_a_line_that_is_only_boilerplate_still_goes() -> None:
    """整篇就是一句套话时，删光也对。"""
    assert clean_text("版权所有，侵权必究。") is None


def test_removed_characters_are_counted_by_rule() -> None:
    """每条规则删去几个字符，都有账。"""
    _, report = run(["天<b>子</b>之职", "天\u200b子"])
    assert report.rules["html"].removed == 7
    assert report.rules["zero_width"].removed == 1


def test_a_pair_is_dropped_as_a_whole() -> None:
    """句对有一侧不合格就整对丢弃，只计一次。"""
    pair = Document("帝从之。", "x#1", "x", "。")
    docs, report = clean_documents([pair, Document("善 哉", "x#2", "x", "好 啊")])
    assert [(doc.text, doc.target) for doc in docs] == [("善哉", "好啊")]
    assert report.rules["too_short"].dropped == 1
    assert report.rules["spaces"].changed == 1


def test_the_report_is_a_table_and_a_dict() -> None:
    """账目能印成中文表格，也能变成 JSON。"""
    _, report = run(["天 子", "。"])
    table = str(report)
    assert "空白（spaces）" in table
    assert "读入 2 篇 4 字，留下 1 篇 2 字" in table
    data = json.loads(json.dumps(report.as_dict()))
    assert data["rules"]["spaces"] == {
        "changed": 1,
        "dropped": 0,
        "removed": 1,
        "refused": 0,
    }


def test_script_conversion_is_opt_in() -> None:
    """简繁转换不默认，指明才做。"""
    assert clean_text("魏國發兵") == "魏國發兵"
    assert clean_text("魏國發兵，擊趙", ["simplified"]) == "魏国发兵，击赵"
    assert clean_text("魏国发兵", ["traditional"]) == "魏國發兵"


def test_other_languages_survive_by_default() -> None:
    """汉字太少不是默认的丢弃理由。"""
    english = "Continued pretraining adapts a language model."
    assert clean_text(english) == english
    assert clean_text(english, ["few_chinese"]) is None


def test_an_unknown_rule_suggests_the_nearest() -> None:
    """拼错的规则名给出最像的一个，而且当场就报。"""
    with pytest.raises(CorpusError, match="是不是 spaces"):
        clean_documents([], ["space"])


def test_every_rule_explains_itself() -> None:
    """每条规则都有中文短名与理由。"""
    for name, rule in CLEANING_RULES.items():
        assert rule.title, name
        assert rule.reason, name
