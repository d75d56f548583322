"""报告：自成一体、不联网、转义干净，手机与深色模式都照顾到。"""

import re
from html.parser import HTMLParser

import pytest

from companion.errors import EvaluationError
from companion.evaluation.answers import Answer, ClozePair, Sample, SamplePair
from companion.evaluation.bootstrap import Difference
from companion.evaluation.report import (
    ReportCard,
    blanks,
    chart,
    highlight,
    markdown_cell,
    write_report,
)
from companion.evaluation.scoring import Scores
from companion.evaluation.verdict import Comparison

VOID = {"meta", "img", "br", "line", "circle", "rect"}
RULER = {"uniform": 12.97, "unigram": 9.2, "bigram": 7.6, "trigram": 6.96}
EVIL = '<script>alert("坏")</script>|[MASK]'


def comparison(before: float, after: float, low: float, high: float) -> Comparison:
    scores = [
        Scores(bits, bits, 0.2, 0.01, 1000, 900, (1, 2)) for bits in (before, after)
    ]
    return Comparison(*scores, Difference(before - after, (low, high), True))


def make_card(**changes: object) -> ReportCard:
    answers = [
        Answer("都于[MASK]州", "榆", guess, 0.1, 0.05, rank)
        for guess, rank in (("之", 812), ("榆", 1))
    ]
    samples = [Sample(EVIL, (("填好", '<script>alert("坏")</script>|榆'),))] * 2
    fields: dict = {
        "objective": "masked_lm",
        "before": "starter:bert",
        "after": "out/<b>model</b>",
        "domain": comparison(6.52, 6.11, 0.37, 0.45),
        "general": comparison(5.90, 5.97, -0.09, -0.05),
        "samples": [SamplePair(EVIL, *samples)],
        "clozes": [ClozePair(*answers)] * 12,
        "curve": b"\x89PNG",
        "ledger": [("填充", "1.8%")],
        "config": {"corpus": EVIL},
        "facts": [("步数", "300")],
    }
    return ReportCard(**(fields | changes))


class Outline(HTMLParser):
    """收集标签与属性，并核对开闭相配。"""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def page(tmp_path) -> str:
    """写出的网页。"""
    write_report(make_card(), tmp_path)
    return (tmp_path / "report.html").read_text("utf-8")


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    assert parser.open == []
    return parser


def test_the_page_needs_no_network_and_runs_no_script(page):
    """没有外链、没有脚本，图是 data URI，内容安全策略一律禁止。"""
    assert not re.search(r"https?:|//[a-z]|@import|url\(", page)
    tags = outline(page).tags
    assert "default-src 'none'" in str(tags)
    for tag, attributes in tags:
        assert tag not in {"script", "link", "iframe", "object"}
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("src", "data:").startswith("data:")
        assert "href" not in attributes


def test_everything_from_outside_is_escaped(page):
    """模型名、样张、设置里的尖括号都已转义。"""
    assert "<script>" not in page
    assert "<b>model" not in page
    assert "out/&lt;b&gt;model&lt;/b&gt;" in page


def test_the_page_is_chinese_and_fits_a_phone(page):
    """声明语言与视口；深色、打印都有样式；表有标题，图有替代文字。"""
    tags = outline(page).tags
    assert ("html", {"lang": "zh-CN"}) in tags
    assert any("width=device-width" in a.get("content", "") for _, a in tags)
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    names = [tag for tag, _ in tags]
    assert names.count("table") == names.count("caption") >= 5
    assert all(a.get("alt") for tag, a in tags if tag == "img")
    assert all(a.get("aria-label") for tag, a in tags if tag == "svg")
    assert names.count("h1") == 1


def test_the_page_tells_the_verdict_and_the_numbers(page):
    """结论、前后的数字、区间、填空的总账都在。"""
    for text in (
        "领域上学到了一些，通用上忘了一点。",
        "6.520",
        "6.110",
        "−6.3%",
        "95% 区间 −6.9% 到 −5.7%",
        "12 题里，答对的由 0 题变为 12 题",
        "其余 2 题",
    ):
        assert text in page


def test_the_markdown_says_the_same(tmp_path):
    """report.md：同样的结论与数字，曲线指向旁边的文件，表格里的竖线已转义。"""
    names = [path.name for path in write_report(make_card(), tmp_path / "新")]
    assert names == ["report.html", "report.md", "curve.png"]
    text = (tmp_path / "新" / "report.md").read_text("utf-8")
    assert "**领域上学到了一些，通用上忘了一点。**" in text
    assert "![训练曲线：损失随步数的变化](curve.png)" in text
    assert r"</script>\|榆" in text
    for line in text.splitlines():
        if line.startswith("| 都于"):
            assert line.count("|") == 7


def test_an_existing_curve_is_kept(tmp_path):
    """训练已经写了 curve.png，报告不改动它。"""
    (tmp_path / "curve.png").write_bytes(b"mine")
    names = [path.name for path in write_report(make_card(), tmp_path)]
    assert names == ["report.html", "report.md"]
    assert (tmp_path / "curve.png").read_bytes() == b"mine"


def test_a_card_with_numbers_only_is_still_a_page(tmp_path):
    """没有通用留出集、样张、填空、曲线、设置，也能写出来。"""
    bare = make_card(
        general=None, samples=(), clozes=(), curve=None, ledger=(), config={},
        facts=(), environment={}, objective="causal_lm",
    )  # fmt: skip
    write_report(bare, tmp_path)
    page = (tmp_path / "report.html").read_text("utf-8")
    outline(page)
    assert "不知道忘了什么" in page
    assert "填空题" not in page
    assert "<img" not in page
    assert "因果语言建模" in page


@pytest.mark.parametrize(
    ("low", "high", "seal"), [(0.1, 0.3, "进"), (-0.1, 0.3, "平"), (-0.3, -0.1, "退")]
)
def test_the_seal_follows_the_direction(low, high, seal, tmp_path):
    """变好盖“进”，看不出盖“平”，变坏盖“退”。"""
    write_report(make_card(domain=comparison(6, 6 - low, low, high)), tmp_path)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert f'aria-hidden="true">{seal}</span>' in page


def test_a_folder_that_cannot_be_written_is_reported(tmp_path):
    """路径上有个文件挡着：说清楚，不留半份。"""
    (tmp_path / "file").write_text("x")
    with pytest.raises(EvaluationError, match="写不进"):
        write_report(make_card(), tmp_path / "file")


def test_the_chart_keeps_points_and_whiskers_inside_the_axes():
    """点在须之间，须在轴之内；没有变化时中线居中。"""
    view = chart(
        [("领域", comparison(6, 4, 1.5, 2.6)), ("通用", comparison(6, 6, 0, 0))]
    )
    for row in view["rows"]:
        assert view["left"] <= row["low"] <= row["x"] <= row["high"] <= view["right"]
    assert view["rows"][1]["x"] == view["middle"]


def test_filled_blanks_are_marked_and_the_rest_is_escaped():
    """填进去的加记号；对不上题面的原样转义；题面里的掩码变成空格子。"""
    assert highlight("天<下>大势", "天<下>[MASK]势") == "天&lt;下&gt;<mark>大</mark>势"
    assert highlight("<另>一句", "天[MASK]") == "&lt;另&gt;一句"
    assert highlight("没有空<", "没有空<") == "没有空&lt;"
    assert blanks("<[MASK]>").startswith("&lt;<span")


def test_a_markdown_cell_has_no_bare_bar():
    """竖线与换行在表格里有别的意思。"""
    assert markdown_cell("a|b\nc") == r"a\|b c"


def test_the_ruler_is_drawn_to_scale_beside_both_scores(tmp_path):
    """四个刻度与前后两个成绩各一条，长短与比特数成正比；Markdown 里是同样的数。"""
    write_report(make_card(ruler=RULER), tmp_path)
    page = (tmp_path / "report.html").read_text("utf-8")
    bars = [attrs for tag, attrs in outline(page).tags if tag == "rect"]
    assert len(bars) == 6
    lengths = [float(each["width"]) for each in bars]
    bits = [*RULER.values(), 6.52, 6.11]
    assert lengths == pytest.approx([lengths[0] * b / bits[0] for b in bits], abs=0.1)
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "| 三元 | 6.960 |" in text
    assert "之后比数出来的三元（6.960）每字省 0.850 比特。" in page
    assert "之后比数出来的三元（6.960）每字省 0.850 比特。" in text


def test_a_model_below_the_ruler_is_told_so():
    """比不过字频表的，报告卡明说。"""
    card = make_card(ruler={**RULER, "trigram": 6.0})
    assert "还不如数出来的三元（6.000）" in str(card)
    assert card.as_dict()["ruler"]["trigram"] == 6.0


def test_without_a_ruler_the_report_shows_none(page):
    """没有给文字，就没有这张图。"""
    assert "尺子" not in page
    assert "ruler" not in make_card().as_dict()
