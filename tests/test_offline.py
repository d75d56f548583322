"""离线版与 README 的图：装得成，打得开，数字是现在的。"""

import importlib.util
import os
import re
import shutil
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from built_book import ROOT
from PIL import Image

README = (ROOT / "README.md").read_text("utf-8")


def load(path: Path) -> ModuleType:
    """按路径载入一个脚本；它导入的邻居也找得到。"""
    sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_zip_unpacks_into_one_folder(tmp_path: Path) -> None:
    """网页都在一个文件夹里，解开不会撒得到处都是；一个文件不少。"""
    html = tmp_path / "html"
    (html / "book").mkdir(parents=True)
    (html / "index.html").write_text("序")
    (html / "book" / "play.html").write_text("互动")
    out = tmp_path / "out"
    out.mkdir()
    offline = load(ROOT / "book" / "make_offline.py")
    with zipfile.ZipFile(offline.make_zip(html, out)) as archive:
        files = {name for name in archive.namelist() if not name.endswith("/")}
    assert files == {
        f"{offline.NAME}/index.html",
        f"{offline.NAME}/book/play.html",
    }


def a_small_book(folder: Path) -> Path:
    """两页的书，目录与真的一样：正文里有编号、站内与站外的链接、图。"""
    html = folder / "html"
    (html / "book").mkdir(parents=True)
    for name, other in (("intro", "01_families"), ("01_families", "intro")):
        (html / "book" / f"{name}.html").write_text(
            f"<html><head><title>{name}</title></head><body>"
            '<article class="bd-article">'
            f'<h1 id="start">标题 {name}</h1><img src="../_static/a.png">'
            f'<a href="{other}.html#start">去</a><a href="#start">本页</a>'
            '<a href="https://example.org/x">外</a></article><footer>脚</footer></body></html>',
            encoding="utf-8",
        )
    return html


def test_the_printed_book_is_one_page_whose_links_stay_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """各页的编号加上页名，互不相撞；站内的链接指到同一页里，站外的照旧。"""
    offline = load(ROOT / "book" / "make_offline.py")
    pages = ["book/intro", "book/01_families"]
    monkeypatch.setattr(offline, "printed_pages", lambda: pages)
    whole = offline.one_page(a_small_book(tmp_path))
    ids = re.findall(r'id="([^"]+)"', whole)
    assert len(set(ids)) == len(ids) == 4
    targets = re.findall(r'href="([^"]+)"', whole)
    assert {each[1:] for each in targets if ":" not in each} <= set(ids)
    assert targets.count("https://example.org/x") == 2
    assert whole.count('src="_static/a.png"') == 2
    assert "脚" not in whole


def test_the_book_is_printed_by_chromium(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """两章两页，有书签；没有 Chromium 就不做。"""
    offline = load(ROOT / "book" / "make_offline.py")
    monkeypatch.setattr(
        offline, "printed_pages", lambda: ["book/intro", "book/01_families"]
    )
    html = a_small_book(tmp_path)
    if "CHROMIUM" in os.environ or any(map(shutil.which, offline.BROWSERS)):
        made = offline.make_pdf(html, tmp_path).read_bytes()
        assert made.startswith(b"%PDF-")
        assert len(re.findall(rb"/Type\s*/Page\b", made)) == 2
        assert b"/Outlines" in made
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", "")
    assert offline.make_pdf(html, tmp_path) is None
    assert not list(html.glob("*.html"))


def test_without_a_built_book_it_says_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """还没构建就去装，说明先运行什么。"""
    offline = load(ROOT / "book" / "make_offline.py")
    monkeypatch.setattr("sys.argv", ["make_offline.py", "--html", str(tmp_path)])
    with pytest.raises(SystemExit, match="make book"):
        offline.main()


def test_the_pictures_of_the_readme_exist_and_are_small() -> None:
    """README 的图都在仓库里，都有替代文字，加起来不到 300 kB。"""
    pictures = re.findall(r"!\[([^\]]*)\]\(([^)]+\.png)\)", README)
    assert len(pictures) == 2
    assert all(len(alt) > 10 for alt, _ in pictures)
    assert sum((ROOT / path).stat().st_size for _, path in pictures) < 300_000


def test_the_plot_of_the_readme_is_drawn_from_the_present_results() -> None:
    """图里存的文字与由 results/ 现算的相同；不同就重画。"""
    script = load(ROOT / "experiments" / "draw_readme.py")
    saved = Image.open(script.OUT / "gain.png").text["Title"]
    assert saved == script.draw().alt, "运行 python experiments/draw_readme.py 重画"


def test_the_chapter_table_lists_every_chapter_and_every_notebook() -> None:
    """章节表一章一行，有笔记本的带 Colab 按钮，指向 _config.yml 写的那个分支。"""
    repository = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["repository"]
    place = repository["url"].removeprefix("https://github.com/")
    colab = "https://colab.research.google.com/github"
    rows = re.findall(r"^\| \[.*?\]\(book/(\d\d_\w+)\.md\).*\|$", README, re.M)
    assert rows == sorted(path.stem for path in ROOT.glob("book/[0-9][0-9]_*.md"))
    links = re.findall(r"https://colab[^)]+", README)
    assert links == [
        f"{colab}/{place}/blob/{repository['branch']}/notebooks/{path.name}"
        for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
    ]


def test_the_table_of_the_readme_is_written_from_the_present_results() -> None:
    """README 的结果表与由 results/ 现写的逐字相同。"""
    script = load(ROOT / "experiments" / "draw_readme.py")
    found = script.TABLE.search(README)
    assert found is not None
    assert found[2] == script.table(), "运行 python experiments/draw_readme.py 重写"
