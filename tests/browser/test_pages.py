"""每一页：没有错误，不出站，手机上不横滑，读屏软件读得懂，明暗两色都看得清。"""

from collections.abc import Iterator
from importlib import resources
from typing import Any

import pytest
import yaml
from built_book import ROOT
from toc import toc_files

pytest.importorskip("playwright", reason='没有装浏览器测试：pip install -e ".[test]"')
pytest.importorskip(
    "axe_playwright_python", reason='没有装 axe：pip install -e ".[test]"'
)

PAGES = [*toc_files(), "search", "genindex"]
# 明暗对比要逐段文字地算，每种页面各取一页
KINDS = [
    "book/intro",
    "book/03_causal_lm",
    "notebooks/04_masked_lm",
    "book/glossary",
    "book/play",
    "book/api/index",
    "search",
]
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
AXE = (resources.files("axe_playwright_python") / "axe.min.js").read_text("utf-8")

WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]

_OVERFLOWING = """() => {
  const wide = (node) => node.getBoundingClientRect().right > innerWidth + 1;
  const clipped = (node) => {
    for (let each = node.parentElement; each; each = each.parentElement) {
      if (each.matches(".bd-sidebar-secondary, .bd-sidebar-primary")) return true;
      if (each.matches("article")) return false;
      if (getComputedStyle(each).overflowX !== "visible") return true;
    }
    return true;
  };
  return [...document.querySelectorAll("article *")]
    .filter((node) => node.getClientRects().length && wide(node) && !clipped(node))
    .slice(0, 5)
    .map((node) => node.outerHTML.slice(0, 120));
}"""


def serious(page: Any, **options: Any) -> list[str]:
    """Axe 查出的严重与致命的问题。"""
    if not page.evaluate("typeof axe !== 'undefined'"):
        page.evaluate(AXE)
    found = page.evaluate(
        "options => axe.run(document, options)",
        {"resultTypes": ["violations"], "preload": False, "runOnly": WCAG, **options},
    )
    return [
        f"{each['id']}: {node['html'][:120]}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"][:3]
    ]


@pytest.fixture
def visit(tab: Any) -> Iterator[Any]:
    """同一个标签页走遍全书；回到桌面的宽度，走的时候查这一页有没有出错。"""
    tab.page.set_viewport_size(DESK)
    yield tab
    tab.assert_quiet()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_sound_on_a_desk_and_on_a_phone(visit: Any, name: str) -> None:
    """控制台安静，不出站；axe 没有严重的发现；360 像素宽时没有东西伸出正文。

    每种页面各取一页，明暗两色下，正文、代码与按钮的对比都够 WCAG AA。
    """
    page = visit.open(name)
    assert serious(page, rules={"color-contrast": {"enabled": False}}) == []
    for theme in ("light", "dark") if name in KINDS else ():
        page.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
        page.wait_for_function(
            "theme => getComputedStyle(document.documentElement).colorScheme === theme",
            arg=theme,
        )
        assert serious(page, runOnly=["color-contrast"]) == [], theme
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= PHONE["width"]
    assert page.evaluate(_OVERFLOWING) == []


def test_the_kinds_are_pages_of_the_book() -> None:
    """各取一页的那几页都在书里，改名之后不会悄悄漏掉。"""
    assert set(KINDS) <= set(PAGES)
    assert yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))["root"] in KINDS
