"""附录：术语、符号、论文与状态，各与代码和数据相符。"""

import importlib.util
import json
import re
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
from built_book import ROOT

BOOK = ROOT / "book"
CHAPTERS = sorted(BOOK.glob("[0-9][0-9]_*.md"))


def extension(name: str) -> ModuleType:
    """书的一个扩展。"""
    pytest.importorskip("sphinx", reason='没有装书的工具：pip install -e ".[book]"')
    path = BOOK / "_ext" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def glossary() -> dict[str, str]:
    """词 → 释义。"""
    text = (BOOK / "glossary.md").read_text("utf-8")
    return dict(extension("glossary_places").ENTRY.findall(text))


def test_every_term_has_english_first_and_one_meaning() -> None:
    """每一条先英文，句号，再一句中文；词不重复。"""
    entries = glossary()
    assert len(entries) >= 45
    for term, meaning in entries.items():
        assert re.match(r"[A-Za-z][A-Za-z –-]+(，[^。]+)?。.+。$", meaning), term
    text = (BOOK / "glossary.md").read_text("utf-8")
    blocks = re.findall(r"```\{glossary\}\n(.*?)```", text, re.DOTALL)
    listed = sum(len(re.findall(r"^\S", block, re.MULTILINE)) for block in blocks)
    assert listed == len(entries), "有的词条写法不合，或有两条同名"


def test_every_term_linked_in_the_book_is_in_the_glossary() -> None:
    """正文里 {term} 引的每个词都有一条。"""
    entries = glossary()
    for path in BOOK.rglob("*.md"):
        for term in re.findall(r"\{term\}`([^`<]+)`", path.read_text("utf-8")):
            assert term in entries, f"{path.name}：{term}"


def test_the_first_chapter_of_a_term_is_where_it_stands() -> None:
    """“首见第几章”是正文里真有这个词的第一章，代码块里的不算。"""
    places = extension("glossary_places")
    assert places.first_chapter("继续预训练").name == "00_quickstart.md"
    assert places.first_chapter("子虚乌有的词") is None
    found = places.placed("继续预训练\n  continued pretraining。说明。\n")
    assert found.endswith("说明。首见[第 00 章](00_quickstart.md)。\n")


def test_every_shape_letter_of_the_package_is_explained() -> None:
    """源文件的“形状字母”里出现的大写字母，符号表里都有。"""
    text = (BOOK / "symbols.md").read_text("utf-8")
    explained = set(re.findall(r"^\| `([A-Z])`", text, re.MULTILINE)) | set("AB")
    for path in (ROOT / "companion").rglob("*.py"):
        legend = re.search(r"^形状字母：([^。；]*)", path.read_text("utf-8"), re.M)
        if legend:
            letters = set(re.findall(r"(?<![A-Za-z])([A-Z])(?![A-Za-z])", legend[1]))
            assert letters <= explained, f"{path.name}：{letters - explained}"


def test_every_paper_of_a_default_is_in_the_bibliography() -> None:
    """名册、缺省值、掩码选法与设置里引的每篇论文，文献库里都有。"""
    index = extension("paper_index")
    keys = index.bibliography_keys((BOOK / "references.bib").read_text("utf-8"))
    cited: set[tuple[str, str]] = set()
    for heads, rows in index.TABLES.values():
        for row in rows():
            assert len(row) == len(heads), row
            cited |= set(index.CITED.findall(" ".join(row)))
    assert len(cited) >= 15
    assert not cited - set(keys)


def test_the_bibliography_parses_and_no_key_stands_twice() -> None:
    """文献库合乎 BibTeX 的语法；少一个括号，整本书就构建不了。"""
    bibtex = pytest.importorskip(
        "pybtex.database", reason='没有装书的工具：pip install -e ".[book]"'
    )
    text = (BOOK / "references.bib").read_text("utf-8")
    entries = bibtex.parse_string(text, "bibtex").entries
    assert len(entries) == len(re.findall(r"^@", text, re.MULTILINE))


def test_every_objective_names_its_paper_and_section() -> None:
    """每个训练目标都写明出自哪一篇的哪一节。"""
    index = extension("paper_index")
    for key, _, paper in index.objective_rows():
        assert index.CITED.search(paper), key
        assert "§" in paper, key


def test_the_defaults_shown_are_the_defaults_used() -> None:
    """论文索引里的缺省值就是不写参数时的值。"""
    from companion.checkpoints.tiny import tiny_tokenizer
    from companion.objectives import get_objective

    rows = {(row[0], row[1]): row[2] for row in extension("paper_index").default_rows()}
    collator: Any = get_objective("span_corruption").make_collator(tiny_tokenizer("t5"))
    for name in ("noise_density", "mean_noise_span_length"):
        shown = rows["`span_corruption`", f"`{name}`"]
        assert float(shown.strip("`")) == getattr(collator, name)


def test_the_status_page_lists_every_notebook_and_every_result() -> None:
    """状态页的表里，笔记本与结果一个不少，结果都有日期与提交。"""
    status = extension("status_tables")
    notebooks = [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    assert [
        re.match(r"\[(.+?)\]", row[0])[1] for row in status.notebook_rows()
    ] == notebooks
    results = list(status.result_rows())
    assert len(results) == len(list((ROOT / "results").glob("*.json")))
    for name, claim, _, date, commit in results:
        assert claim, f"{name} 没有说明量的是什么"
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", date), name
        assert re.fullmatch(r"`[0-9a-f]{7}`", commit), name


def test_a_recorded_notebook_shows_its_cost(tmp_path: Any) -> None:
    """量过的笔记本显示秒数与内存，没有量过的说“未量”。"""
    status = extension("status_tables")
    (tmp_path / "results").mkdir()
    (tmp_path / "notebooks").mkdir()
    for stem in ("00_a", "01_b"):
        (tmp_path / "notebooks" / f"{stem}.ipynb").touch()
    run = {"cpu_seconds": 31.4, "peak_megabytes": 512.0, "date": "2026-01-02"}
    (tmp_path / "results" / "notebook_runs.json").write_text(
        json.dumps({"notebooks": {"00_a": run}})
    )
    first, second = status.notebook_rows(tmp_path)
    assert first[1:] == ("31 秒", "512 MB", "2026-01-02")
    assert second[1:] == ("未量", "未量", "未量")


def test_every_objective_of_the_registry_is_shown_once() -> None:
    """“训练目标一览”里，名册的每个目标恰有一节、一张真样本的表，名字相同。"""
    from companion.objectives import OBJECTIVES

    text = (BOOK / "objectives.md").read_text("utf-8")
    sections = re.findall(r"^### `(\w+)` (.+)$", text, re.MULTILINE)
    assert len(sections) == len(OBJECTIVES)
    assert dict(sections) == {key: goal.title for key, goal in OBJECTIVES.items()}
    tables = re.findall(
        r"^```\{label-table\} (\w+)\n:tokenizer: (.+)$", text, re.MULTILINE
    )
    assert [key for key, _ in tables] == [key for key, _ in sections]
    assert dict(tables) == {key: goal.starter for key, goal in OBJECTIVES.items()}


def test_the_feed_has_one_item_for_every_change() -> None:
    """更新日志一条改动一项，编号各不相同；是合乎语法的 RSS。"""
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    ways = extension("readers_ways")
    root = ElementTree.fromstring(ways.feed(changelog, "https://x.github.io/y/"))
    items = root.findall("channel/item")
    assert len(items) == len(re.findall(r"^- ", changelog, re.MULTILINE))
    assert len({item.findtext("guid") for item in items}) == len(items)
    first = items[0]
    assert first.findtext("title", "").startswith("Unreleased ")
    assert "`" not in first.findtext("description", "")


def test_every_page_says_where_to_report_and_when_it_was_checked() -> None:
    """页末的链接带着这一页的名字；没有 git 就不写日子。"""
    ways = extension("readers_ways")
    shown = ways.footer("book/03", "因果", "2026-01-02", "https://h/o/r")
    assert "https://h/o/r/issues/new?title=book/03" in shown
    assert "上次核对于 <time>2026-01-02</time>" in shown
    assert "核对" not in ways.footer("book/03", "因果", None, "https://h/o/r")
