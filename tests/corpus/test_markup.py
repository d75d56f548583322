"""去掉 HTML 标记：标签去掉，小于号留下。"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.corpus.cleaning import strip_markup


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("<p>one</p><p class=x>two</p>", " one  two "),
        ("<a href='x'>链</a>接<a name=top>", "链接"),
        ("<font color=red>红</font><hr noshade>天", "红 天"),
        ("<img src='x' alt='a>b'/>图", "图"),
        ("天<b>子\n之</b>职<p\nclass='a'>礼", "天子\n之职 礼"),
        ("前<script>x = 1 < 2; y = '<p>'</script>后", "前后"),
        ("<ruby>汉<rp>(</rp><rt>hàn</rt><rp>)</rp></ruby>字", "汉字"),
        ("天<!-- <b>注</b> -->子", "天子"),
        ("&lt;天&gt;&nbsp;&#22825;", "<天>\xa0天"),
    ],
)
def test_markup_goes_and_text_stays(before: str, after: str) -> None:
    """标签、注释、脚本、注音去掉，实体还原，文字一个不少。"""
    assert strip_markup(before) == after


@pytest.mark.parametrize(
    "text",
    [
        "若 a<b>c",
        "x<a b c>y",
        "当x<s 时下降，y>2 时上升",
        "a < b，c > d",
        "<未知>与</未知>",
        "a</ 中文>b",
        "末尾是 <a",
        "<script>没有写完",
    ],
)
def test_what_is_not_a_tag_is_text(text: str) -> None:
    """名字、属性或配对不像标签的，一个字也不动。"""
    assert strip_markup(text) == text


def test_a_tag_inside_a_false_tag_is_still_found() -> None:
    """小于号之后的真标签照样认得出。"""
    assert strip_markup("当x<s 时下降。<p>正文</p>y>2") == "当x<s 时下降。 正文 y>2"


@given(st.text(st.sampled_from("天地<>/!-bp ='a&;\n"), max_size=40))
def test_chinese_outside_of_tags_is_never_lost(text: str) -> None:
    """没有脚本、注音与注释时，汉字一个也不会少。"""
    if "<!--" not in text:
        found = [c for c in strip_markup(text) if c in "天地"]
        values = text.count("=") + text.count("'")
        lost = sum(c in "天地" for c in text) - len(found)
        assert lost == 0 or values
