"""书：构建没有警告，页数对得上目录，不引用外站，中文搜得到，代码与源码一致。

整本书在一次测试里只构建一遍，放进临时文件夹。
"""

import importlib.util
import json
import re
import shutil
import subprocess
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
import yaml
from built_book import ROOT
from hypothesis import given
from hypothesis import strategies as st
from toc import toc_files

pytest.importorskip("jupyter_book", reason='没有装书的工具：pip install -e ".[book]"')

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="没有 node，改由 Python 一侧核对")

# 读者会搜的词；左边的词条，右边至少要出现的页
TERMS = {
    "预训练": "book/intro",
    "继续预训练": "book/00_quickstart",
    "标签": "book/03_causal_lm",
    "标签对齐": "book/glossary",
    "掩码": "book/04_masked_lm",
    "全词掩码": "book/04_masked_lm",
    "困惑度": "book/03_causal_lm",
    "因果注意力": "book/glossary",
    "交叉注意力": "book/01_families",
    "模型家谱": "book/01_families",
    "四维掩码": "book/06_prefix_lm",
    "自回归填空": "book/06_prefix_lm",
    "乱码": "book/02_corpus",
    "最佳适配": "book/02_corpus",
    "决策树": "book/12_your_corpus",
    "检查清单": "book/12_your_corpus",
    "灾难性遗忘": "book/00_quickstart",
    "得失图": "book/08_gain_and_forgetting",
    "镜像": "book/checkpoints",
    "缺句生成": "book/objectives",
    "低秩": "book/09_adapting_with_less",
    "分桶": "book/10_fast_and_large",
    "学习率": "book/glossary",
    "每字比特数": "book/03_causal_lm",
    "资治通鉴": "book/intro",
    "字": "book/03_causal_lm",
    "causal_labels": "book/03_causal_lm",
    "input_ids 标签": "book/03_causal_lm",
    "MaskedLMCollator": "book/api/objectives",
    # 书里不这样叫的词，与数字
    "多卡": "book/10_fast_and_large",
    "OOM": "book/10_fast_and_large",
    "量化": "book/14_from_base_to_use",
    "部署": "book/14_from_base_to_use",
    "RAG": "book/14_from_base_to_use",
    "整词": "book/07_masked_family",
    "缺字": "book/09_adapting_with_less",
    "配比": "book/15_mixture",
    "早停": "book/16_tuning",
    "调参": "book/16_tuning",
    "背诵": "book/17_beyond_bits",
    "隐私": "book/17_beyond_bits",
    "lm-eval": "book/17_beyond_bits",
    "断点续训": "book/faq",
    "损失从 12 起": "book/faq",
    "-100": "book/03_causal_lm",
    "position_ids": "book/06_prefix_lm",
}


class Page(HTMLParser):
    """一页里的标签与属性。"""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """记下标签。"""
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def values(self, tag: str, attribute: str) -> list[str]:
        """某种标签的某个属性的全部值。"""
        return [a[attribute] for t, a in self.tags if t == tag and attribute in a]


@cache
def page_at(path: Path) -> Page:
    """一个 HTML 文件的内容，几处测试共用。"""
    return Page(path.read_text("utf-8"))


@pytest.fixture(scope="session")
def pages(html: Path) -> dict[str, Page]:
    """目录里的每一页：名字 → 内容。"""
    return {name: page_at(html / f"{name}.html") for name in toc_files()}


@pytest.fixture(scope="session")
def index(html: Path) -> dict[str, Any]:
    """搜索索引，去掉外面的函数调用。"""
    text = (html / "searchindex.js").read_text("utf-8")
    return json.loads(text.removeprefix("Search.setIndex(").rstrip().rstrip(")"))


@pytest.fixture(scope="session")
def zh_search() -> ModuleType:
    """书的搜索扩展，Python 一侧。"""
    path = ROOT / "book" / "_ext" / "zh_search.py"
    spec = importlib.util.spec_from_file_location("zh_search", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_node(script: str, *files: Path) -> Any:
    """在 node 里依次载入几个浏览器脚本，再运行一段，取回它打印的 JSON。"""
    # 浏览器的最小替身：搜索只用到这几样
    stub = """
      globalThis._ready = () => {};
      globalThis._ = (text) => text;
      globalThis.SPHINX_HIGHLIGHT_ENABLED = false;
      globalThis.document = { getElementById: () => null };
    """
    whole = stub + "\n".join(path.read_text("utf-8") for path in files) + f"\n;{script}"
    assert NODE is not None
    done = subprocess.run(
        [NODE, "-"],
        input=whole.replace('"use strict";', ""),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_every_page_of_the_table_of_contents_is_built(html: Path) -> None:
    """目录里几页，书里就几页：静默地少一页也是失败。"""
    listed = toc_files()
    assert len(set(listed)) == len(listed), "目录里有重复的页"
    built = {
        path.relative_to(html).with_suffix("").as_posix()
        for path in html.rglob("*.html")
        if path.relative_to(html).parts[0] != "_static"
    }
    assert built - {"index", "genindex", "search", "py-modindex"} == set(listed)


def test_the_book_says_it_is_chinese(pages: dict[str, Page]) -> None:
    """每页的语言都标为 zh-CN，读屏软件与浏览器据此选字体与读音。"""
    for name, page in pages.items():
        assert page.values("html", "lang") == ["zh-CN"], name


def test_the_frame_of_a_page_speaks_chinese(pages: dict[str, Page]) -> None:
    """按钮与导航给读屏软件的名字也是中文；键名与产品名除外。"""
    names = {"Colab logo"}
    for page_name, page in pages.items():
        for tag, attributes in page.tags:
            if tag not in ("button", "nav", "input", "form"):
                continue
            for key in ("aria-label", "title", "placeholder"):
                value = attributes.get(key, "")
                assert value in names or not re.fullmatch(
                    r"[A-Za-z][A-Za-z .]+", value
                ), f"{page_name}: <{tag} {key}={value!r}>"


def test_no_script_style_font_or_image_comes_from_another_site(html: Path) -> None:
    """没有一个外站的脚本、样式、字体与图：断网或身在墙内，书都照样好用。"""
    outside: list[str] = []
    for path in html.rglob("*.html"):
        page = page_at(path)
        loaded = [
            *(page.values("script", "src") + page.values("img", "src")),
            *(a["href"] for t, a in page.tags if t == "link" and "href" in a
              if a.get("rel") in ("stylesheet", "preload", "icon", "preconnect")),
        ]  # fmt: skip
        outside += [f"{path.name}: {u}" for u in loaded if re.match(r"(https?:)?//", u)]
    for path in html.rglob("*.css"):
        text = path.read_text("utf-8", errors="replace")
        outside += [
            f"{path.name}: {url}"
            for url in re.findall(
                r"(?:url\(|@import )['\"]?((?:https?:)?//[^'\")]+)", text
            )
        ]
    assert not outside, outside[:5]


def test_math_is_drawn_by_the_local_copy(html: Path, pages: dict[str, Page]) -> None:
    """有公式的页用本地的 MathJax，它要的字体也在，而且总共不到 3 MB。"""
    scripts = pages["book/03_causal_lm"].values("script", "src")
    assert any("mathjax/tex-chtml.js" in src for src in scripts)
    folder = html / "_static" / "mathjax"
    fonts = list((folder / "output/chtml/fonts/woff-v2").glob("*.woff"))
    assert len(fonts) > 20
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) < 3 * 2**20


def test_every_local_link_leads_somewhere(html: Path, pages: dict[str, Page]) -> None:
    """每个站内链接都有那一页，每个锚点都有那一处。"""

    @cache
    def ids_in(path: Path) -> set[str]:
        return {a["id"] for _, a in page_at(path).tags if "id" in a}

    broken: list[str] = []
    for name, page in pages.items():
        here = html / f"{name}.html"
        for href in page.values("a", "href"):
            parts = urlparse(href)
            if parts.scheme or parts.netloc:
                continue
            target = (here.parent / unquote(parts.path)) if parts.path else here
            anchor = unquote(parts.fragment) if target.suffix == ".html" else ""
            if not target.exists() or (anchor and anchor not in ids_in(target)):
                broken.append(f"{name}: {href}")
    assert not broken, broken[:10]


def test_every_image_has_alternative_text(pages: dict[str, Page]) -> None:
    """每张图都有替代文字。"""
    for name, page in pages.items():
        for tag, attributes in page.tags:
            if tag == "img" and "logo" not in attributes.get("class", ""):
                assert attributes.get("alt", "").strip(), f"{name}: {attributes}"


def test_every_colab_button_opens_a_notebook_that_is_here(
    pages: dict[str, Page],
) -> None:
    """Colab 按钮指向仓库里真有的 .ipynb；没有内核的页没有按钮。"""
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    repository, branch = config["repository"]["url"], config["repository"]["branch"]
    prefix = repository.removeprefix("https://") + f"/blob/{branch}/"
    for name, page in pages.items():
        colab = [
            href for href in page.values("a", "href") if "colab.research.google" in href
        ]
        if not name.startswith("notebooks/"):
            assert not colab, f"{name} 不是笔记本，却有 Colab 按钮"
            continue
        assert colab, f"{name} 没有 Colab 按钮"
        for href in colab:
            path = href.split(prefix.replace("github.com", "github", 1), 1)[-1]
            assert path.endswith(".ipynb"), href
            assert (ROOT / path).is_file(), href


@pytest.mark.parametrize("words", TERMS)
def test_the_index_finds_what_readers_search_for(
    words: str, index: dict[str, Any], zh_search: ModuleType
) -> None:
    """查询切成的每一段都在同一页的索引里（Sphinx 的检索规则）。"""
    assert TERMS[words] in search_in_python(words, index, zh_search)


def search_in_python(
    words: str, index: dict[str, Any], zh_search: ModuleType
) -> set[str]:
    """照 searchtools.js 的规则：每一段都要命中。"""
    found: set[str] | None = None
    for term in zh_search.split_query(words):
        hits: set[int] = set()
        for table in (index["terms"], index["titleterms"]):
            value = table.get(term.lower(), [])
            hits |= {value} if isinstance(value, int) else set(value)
        names = {index["docnames"][hit] for hit in hits}
        found = names if found is None else found & names
    return found or set()


@needs_node
def test_the_search_of_the_browser_finds_them_too(html: Path) -> None:
    """同样的词，在 node 里运行书自带的 searchtools.js，也都搜得到。"""
    script = """
      console.log(JSON.stringify(Object.fromEntries(
        WORDS.map((words) => {
          const query = Search._parseQuery(words);
          return [words, Search._performSearch(...query).map((hit) => hit[0])];
        })
      )));
    """
    static = html / "_static"
    found = run_node(
        script.replace("WORDS", json.dumps(list(TERMS))),
        static / "language_data.js",
        static / "searchtools.js",
        html / "searchindex.js",
    )
    missing = {words: page for words, page in TERMS.items() if page not in found[words]}
    assert not missing, missing


@needs_node
def test_nonsense_is_not_found(html: Path) -> None:
    """书里没有连着出现的字搜不到：不是什么都算命中。"""
    static = html / "_static"
    found = run_node(
        'console.log(JSON.stringify(Search._performSearch(...Search._parseQuery("码掩鉴"))))',
        static / "language_data.js",
        static / "searchtools.js",
        html / "searchindex.js",
    )
    assert found == []


@needs_node
def test_both_sides_split_a_query_alike(html: Path, zh_search: ModuleType) -> None:
    """浏览器与建索引两侧切得一样，生僻字（扩展区）、西文、标点混排也一样。"""
    queries = [
        *TERMS,
        "曰",
        "𠮷野家的𠮷",
        "〇一二",
        "BERT-wwm，α=0.15，β₂",
        "狡兔死，走狗烹；飞鸟尽",
        "  ",
        "a",
        "input_ids[0]是[CLS]",
        "café与naïve",
    ]
    said = run_node(
        f"console.log(JSON.stringify({json.dumps(queries)}.map(splitQuery)))",
        html / "_static" / "language_data.js",
    )
    assert said == [zh_search.split_query(query) for query in queries]


@given(st.text(alphabet="预训练掩码因果，。 abz_09𠮷〇", max_size=20))
def test_whatever_stands_in_the_text_can_be_found(
    zh_search: ModuleType, text: str
) -> None:
    """正文里任何一段连续的文字，切成的每一段都在正文的索引项里。"""
    terms = set(zh_search.split_text(text))
    han = re.findall(r"[预训练掩码因果𠮷〇]+", text)
    for run in han:
        for start in range(len(run)):
            for stop in range(start + 1, len(run) + 1):
                assert set(zh_search.split_query(run[start:stop])) <= terms


def test_every_source_link_opens_at_the_definition(html: Path) -> None:
    """参考手册的“源代码”指到本仓库、写定的那个分支，头一行就是定义或它的装饰器。"""
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["repository"]
    prefix = re.escape(f"{config['url']}/blob/{config['branch']}/")
    places = [
        place
        for page in (html / "book" / "api").glob("*.html")
        for place in re.findall(
            rf'href="{prefix}([\w/.]+)#L(\d+)-L\d+"', page.read_text("utf-8")
        )
    ]
    assert len(places) > 100
    for path, line in places:
        first = (ROOT / path).read_text("utf-8").splitlines()[int(line) - 1].lstrip()
        assert re.match(r"@|def |class |async def ", first), (path, line, first)


def test_every_public_name_is_in_the_reference(html: Path) -> None:
    """`companion` 公开的每个名字，参考手册里都有一条。"""
    import companion

    anchors: set[str] = set()
    for path in (html / "book" / "api").glob("*.html"):
        page = page_at(path)
        anchors |= {a["id"].rsplit(".", 1)[-1] for _, a in page.tags if "id" in a}
    missing = set(companion.__all__) - anchors
    assert not missing, sorted(missing)


CHAPTERS = sorted((ROOT / "book").glob("[0-9][0-9]_*.md"))


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_every_chapter_follows_the_template(path: Path) -> None:
    """开头有目标、先修、时间与费用；小结与目标条数相同；练习都有折叠的解答。"""
    text = path.read_text("utf-8")
    opening = text.split("\n## ", 1)[0]
    for word in ("**你将学会**", "**先修**", "**时间**", "**硬件与费用**"):
        assert word in opening, word
    goals = len(re.findall(r"^> \d\. ", opening, re.MULTILINE))
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    for heading in ("问题", "小结", "练习", "延伸阅读"):
        assert heading in headings, f"缺少 {heading}"
    summary = text.split("\n## 小结\n", 1)[1].split("\n## ", 1)[0]
    assert len(re.findall(r"^\d\. ", summary, re.MULTILINE)) == goals
    exercises = re.findall(r"^:label: (\S+)$", text, re.MULTILINE)
    solutions = re.findall(r"^```\{solution\} (\S+)\n:class: dropdown$", text, re.M)
    assert exercises == solutions
    assert len(exercises) >= 4
    [hands_on] = re.findall(r"^```\{exercise\} 动手(.*?)^```$", text, re.M | re.S)[-1:]
    points = [int(n) for n in re.findall(r"（(\d+) 分）", hands_on)]
    assert sum(points) == 10, "动手的一题要有评分，合计十分"


def model_solutions(path: Path) -> list[str]:
    """一章的解答里的代码。"""
    text = path.read_text("utf-8")
    solutions = re.findall(r"^```\{solution\}(.*?)^```$", text, re.M | re.S)
    return re.findall(r"^~~~python\n(.*?)^~~~$", "\n".join(solutions), re.M | re.S)


# 00 要先有演示的输出，08 要笔记本里训练好的几次
STANDALONE = [p for p in CHAPTERS if p.name[:2] not in ("00", "08")]


@pytest.mark.parametrize(
    "path", [p for p in STANDALONE if model_solutions(p)], ids=lambda p: p.stem
)
def test_the_model_solutions_run(path: Path, capsys: Any) -> None:
    """动手的一题，解答里的代码照抄就能运行，而且印得出东西。"""
    for code in model_solutions(path):
        exec(compile(code, path.name, "exec"), {})
        assert capsys.readouterr().out.strip()


def test_the_family_tree_names_objectives_that_exist() -> None:
    """模型家谱里写的每个训练目标都在名册里。"""
    from companion.objectives import OBJECTIVES

    text = (ROOT / "book" / "01_families.md").read_text("utf-8")
    tree = text.split("\n## 模型家谱\n", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in tree.splitlines() if "{cite:p}`" in line]
    assert len(rows) >= 19
    for row in rows:
        [key] = re.findall(r"`(\w+)`", row.rsplit("|", 2)[1])
        assert key in OBJECTIVES, row


# 同一个概念的别的叫法；术语表里解释“亦称”的那一条除外
FORBIDDEN = {
    "持续预训练": "继续预训练",
    "增量预训练": "继续预训练",
    "遮蔽": "掩码或遮住",
    "掩蔽": "掩码或遮住",
    "令牌": "词元",
    "整词掩码": "全词掩码",
    "打补丁": "填充",
    "您": "你",
}


PROSE = [
    *sorted((ROOT / "book").rglob("*.md")),
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
]


def read_prose(path: Path) -> str:
    """给人看的文字：笔记本取文字格，代码块去掉。"""
    text = path.read_text("utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join(
            "".join(c["source"]) for c in cells if c["cell_type"] == "markdown"
        )
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("path", PROSE, ids=lambda p: p.name)
def test_the_prose_keeps_to_the_house_style(path: Path) -> None:
    """一个概念一个词；中西文之间空一格，全角标点旁不空；强调里不夹标点。"""
    text = read_prose(path)
    text = text.replace("亦称增量预训练、二次预训练", "")
    for word, instead in FORBIDDEN.items():
        assert word not in text, f"“{word}”写作“{instead}”"
    strong = re.findall(r"\*\*(.+?)\*\*", text)
    assert not [s for s in strong if s[-1] in "，。；：！？"], "标点放到强调外面"
    # 角色、公式、行内代码与链接各换成一个同类的字，只看它们与正文之间的空格
    for pattern, stand_in in (
        (r"\{cite:p\}`[^`]*`", ""),
        (r"\{(?:term|numref)\}`[^`]*`", "词"),
        (r"(?:\{(?:cite:t|measured|eq)\})?`[^`]*`|\$[^$]+\$", "x"),
        (r"\]\([^)]*\)|[\[*]", ""),
    ):
        text = re.sub(pattern, stand_in, text)
    tight = re.findall(r"[一-鿿][A-Za-z0-9]|[A-Za-z0-9][一-鿿]", text)
    assert not tight, f"中西文之间缺空格：{tight[:5]}"
    loose = re.findall(r"[，。；：！？、] (?=[^\s|])| [，。；：！？、]", text)
    assert not loose, f"全角标点旁多了空格：{loose[:5]}"
    assert not re.search(r"[一-鿿][,;!?](?:\s|[一-鿿])", text), "半角标点"
