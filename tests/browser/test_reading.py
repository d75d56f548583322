"""读者的几样日常：搜索、换明暗、复制代码、只用键盘、从文件夹打开。"""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason='没有装浏览器测试：pip install -e ".[test]"')

SOUGHT = {
    "预训练": "book/00_quickstart.html",
    "标签对齐": "book/glossary.html",
    "因果注意力": "book/glossary.html",
    "困惑度": "book/03_causal_lm.html",
    "−100": "book/03_causal_lm.html",
}

FIRST = {
    "RAG": "book/faq.html",
    "OOM": "book/10_fast_and_large.html",
    "多卡": "book/many_cards.html",
    "配比": "book/15_mixture.html",
    "量化": "book/14_from_base_to_use.html",
    "部署": "book/14_from_base_to_use.html",
    "整词": "book/04_masked_lm.html",
    "缺字": "book/09_adapting_with_less.html",
    "position_ids": "book/06_prefix_lm.html",
    "断点续训": "book/12_your_corpus.html",
    "混合语料": "book/15_mixture.html",
    "长文档 截断": "book/02_corpus.html",
    "什么时候停": "book/16_tuning.html",
    "对话能力": "book/faq.html",
    "句向量": "book/14_from_base_to_use.html",
    "怎么知道学会了没有": "book/faq.html",
    "benchmark 下降": "book/faq.html",
    "不会聊天了": "book/faq.html",
    "回放多少": "book/faq.html",
    "要多少数据": "book/faq.html",
    "什么时候停止训练": "book/faq.html",
    "几份语料混合": "book/faq.html",
    "预处理 内存不足": "book/faq.html",
    "打包 串文档": "book/faq.html",
    "生成停不下来": "book/faq.html",
    "LoRA 损失不降": "book/09_adapting_with_less.html",
    "embedding 句向量": "book/faq.html",
    "掩码还是因果": "book/faq.html",
    "ModernBERT": "book/faq.html",
    "T5 BART": "book/05_seq2seq.html",
    "显存装不下": "book/faq.html",
    "初始损失 太高": "book/faq.html",
    "怎么清洗": "book/faq.html",
    "一本书怎样切": "book/faq.html",
    "Muon": "book/10_fast_and_large.html",
    "GGUF 打不开": "book/faq.html",
    "第二轮 损失高": "book/faq.html",
}
"""读者的问法与讲它的页；页在结果的前三条里。"""


def hits(page: Any) -> list[str]:
    """搜索结果的各页，去掉高亮的参数与锚点。"""
    # 结果一条条地摆出来，摆完才写这一句
    summary = "document.querySelector('#search-results .search-summary')"
    page.wait_for_function(f"{summary}?.textContent.trim()")
    links = page.eval_on_selector_all(
        "#search-results ul.search li a", "links => links.map(each => each.pathname)"
    )
    return list(links)


def test_searching_finds_the_page(visit: Any) -> None:
    """在搜索页查各个词，结果里都有该有的一页。"""
    for words, wanted in SOUGHT.items():
        page = visit.open("search", f"?q={words}")
        assert any(path.endswith(wanted) for path in hits(page)), words


def test_what_readers_ask_is_among_the_first_three(visit: Any) -> None:
    """书里不这样叫的词也搜得到；名字里碰巧有这几个字母的对象不挡在前面。"""
    for words, wanted in FIRST.items():
        found = hits(visit.open("search", f"?q={words}"))
        first = list(dict.fromkeys(found))[:3]
        assert any(path.endswith(wanted) for path in first), (words, first)


def test_searching_starts_with_the_keyboard(visit: Any) -> None:
    """任何一页按 Ctrl+K，写词，回车，就到结果；结果里的词高亮。"""
    page = visit.open("book/intro")
    page.keyboard.press("Control+k")
    page.keyboard.type("困惑度")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=*")
    assert any(path.endswith(SOUGHT["困惑度"]) for path in hits(page))
    assert "困惑度" in page.locator("#search-results .highlighted").first.text_content()


def test_the_arrow_keys_turn_the_page_but_not_while_typing(visit: Any) -> None:
    """右方向键到下一章，左方向键回来；正在打字时不翻。"""
    page = visit.open("book/04_masked_lm")
    page.keyboard.press("ArrowLeft")
    page.wait_for_url("**/notebooks/03_causal_lm.html")
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**/book/04_masked_lm.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("掩码")
    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(300)
    assert page.url.endswith("04_masked_lm.html")


def test_the_theme_switches_and_stays(visit: Any) -> None:
    """按明暗钮换色，跟随系统、亮、暗轮着来；换一页还是选定的那个。"""
    page = visit.open("book/intro")
    seen = set()
    for _ in range(3):
        page.locator(".theme-switch-button:visible").first.click()
        seen.add(page.evaluate("document.documentElement.dataset.mode"))
    assert seen == {"auto", "light", "dark"}
    while page.evaluate("document.documentElement.dataset.mode") != "dark":
        page.locator(".theme-switch-button:visible").first.click()
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    visit.open("book/glossary")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    again = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert again == background
    assert again != "rgb(255, 255, 255)"


def test_the_copy_button_copies_the_code(visit: Any, context: Any) -> None:
    """代码右上角的钮把那一段原样放进剪贴板。"""
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = visit.open("book/03_causal_lm")
    block = page.locator("div.highlight:has(button.copybtn)").first
    block.hover()
    block.locator("button.copybtn").click()
    page.wait_for_selector("button.copybtn.success")
    copied = page.evaluate("navigator.clipboard.readText()")
    # 系统的剪贴板可能把换行写成 CRLF
    assert copied.replace("\r\n", "\n").strip() == (
        block.locator("pre").text_content().strip()
    )


def test_the_first_tab_stop_skips_to_the_text(visit: Any) -> None:
    """第一次按 Tab 到“跳转至主要内容”，回车就越过目录。"""
    page = visit.open("book/03_causal_lm")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('.skip-link') !== null")
    page.keyboard.press("Enter")
    page.wait_for_function("location.hash === '#main-content'")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('#main-content') !== null")


def test_every_tab_stop_is_visible(visit: Any) -> None:
    """一路按 Tab：停的每一处都看得见，也都有焦点的样子。"""
    page = visit.open("book/play")
    stops = []
    for _ in range(25):
        page.keyboard.press("Tab")
        stops.append(
            page.evaluate("""() => {
              const node = document.activeElement;
              const shown = [node, node.firstElementChild ?? node].some((each) => {
                const style = getComputedStyle(each);
                return style.outlineStyle !== "none" || style.boxShadow !== "none";
              });
              const box = node.getBoundingClientRect();
              return [node.outerHTML.slice(0, 80), shown && box.width > 0];
            }""")
        )
    assert not [html for html, shown in stops if not shown]


def test_the_book_reads_from_a_folder(visit: Any, html: Path) -> None:
    """从文件夹直接打开：搜得到，公式画得出。"""
    page = visit.page
    page.goto((html / "search.html").as_uri() + "?q=困惑度")
    assert any(path.endswith(SOUGHT["困惑度"]) for path in hits(page))
    page.goto((html / "book" / "03_causal_lm.html").as_uri())
    page.wait_for_selector("mjx-container")
