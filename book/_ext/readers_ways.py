"""读者的几条路：页脚的“上次核对于”与“报告本页问题”，更新日志的订阅。

“上次核对于”是这一页最近一次提交的日子：每次提交，页里的数字、代码与链接都由测试重核。
没有 git 的地方（解开的离线包里重建）不写日子。
"""

import hashlib
import html
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
FEED = "feed.xml"
TITLE = "预训练模型继续训练：更新日志"


@cache
def dates(root: Path = ROOT) -> dict[str, str]:
    """每个文件最近一次提交的日子：从根走的路径 → 2026-11-30。"""
    try:
        done = subprocess.run(
            ["git", "log", "--format=:%cs", "--name-only", "--", "book", "notebooks"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return {}
    found: dict[str, str] = {}
    day = ""
    for line in done.stdout.splitlines():
        if line.startswith(":"):
            day = line[1:]
        elif line:
            found.setdefault(line, day)
    return found


def footer(page: str, title: str, day: str | None, repository: str) -> str:
    """一页末尾的一行。

    >>> "2026-01-02" in footer("book/intro", "序", "2026-01-02", "https://x/y")
    True
    """
    subject = quote(f"{page}：{title}")
    body = quote("哪一句、哪条命令或哪个数：\n\n应当是：\n")
    link = f"{repository}/issues/new?title={subject}&body={body}"
    checked = f"上次核对于 <time>{day}</time> · " if day else ""
    report = f'<a href="{html.escape(link)}">报告本页问题</a>'
    return f'<p class="page-ways">{checked}{report}</p>'


def feed(changelog: str, site: str) -> bytes:
    """更新日志写成 RSS 2.0：一条改动一项，编号由文字算出，改了字才算新的。"""
    rss = ElementTree.Element("rss", version="2.0")
    channel = ElementTree.SubElement(rss, "channel")
    for name, text in (("title", TITLE), ("link", site), ("description", TITLE)):
        ElementTree.SubElement(channel, name).text = text
    version = kind = ""
    for line in changelog.splitlines():
        if line.startswith("## "):
            version = line[3:]
        elif line.startswith("### "):
            kind = line[4:]
        elif line.startswith("- "):
            text = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", line[2:])
            item = ElementTree.SubElement(channel, "item")
            short = re.split(r"[，。：；（]", text, maxsplit=1)[0]
            ElementTree.SubElement(item, "title").text = f"{version} {kind}：{short}"
            ElementTree.SubElement(item, "description").text = text
            ElementTree.SubElement(item, "link").text = f"{site}book/changelog.html"
            guid = ElementTree.SubElement(item, "guid", isPermaLink="false")
            guid.text = hashlib.sha256(line.encode()).hexdigest()[:16]
    return ElementTree.tostring(rss, encoding="utf-8", xml_declaration=True)


def _add(
    app: Sphinx, page: str, _template: str, context: dict[str, Any], doctree: Any
) -> None:
    if app.builder.name != "html" or "body" not in context or not doctree:
        return
    repository = app.config.html_theme_options.get("repository_url")
    if not repository:
        return
    day = next((dates().get(f"{page}.{end}") for end in ("md", "ipynb")
                if f"{page}.{end}" in dates()), None)  # fmt: skip
    title = re.sub(r"<[^>]+>", "", context.get("title", ""))
    context["body"] += footer(page, title, day, repository)
    up = "../" * page.count("/")
    context["metatags"] = context.get("metatags", "") + (
        f'<link rel="alternate" type="application/rss+xml" title="{TITLE}" '
        f'href="{up}{FEED}">'
    )


def _write_feed(app: Sphinx, error: Exception | None) -> None:
    if error is not None or app.builder.name != "html":
        return
    owner, name = app.config.html_theme_options.get(
        "repository_url", "https://github.com/a/b"
    ).rsplit("/", 2)[1:]
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    site = f"https://{owner}.github.io/{name}/"
    Path(app.outdir, FEED).write_bytes(feed(text, site))


def setup(app: Sphinx) -> dict[str, Any]:
    """登记。"""
    app.connect("html-page-context", _add)
    app.connect("build-finished", _write_feed)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
