"""主题里还没有译成中文、或译得不对的词，在这里补上。"""

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.locale import translators

_TRANSLATIONS = {
    "Breadcrumb": "当前位置",
    "Color mode": "明暗模式",
    "Color mode set to": "明暗模式：",
    "Contents": "本页目录",
    "Dark": "暗色",
    "Download source file": "下载本页源文件",
    "Download notebook file": "下载笔记本",
    "Launch": "运行",
    "Light": "亮色",
    "On this page": "本页目录",
    "Open an issue": "报告本页问题",
    "Print to PDF": "打印成 PDF",
    "Search": "搜索",
    "Search the docs ...": "搜索全书……",
    "Search...": "搜索……",
    "System Settings": "跟随系统",
    "Toggle navigation": "显示或隐藏目录",
    "Toggle primary sidebar": "显示或隐藏全书目录",
    "Toggle secondary sidebar": "显示或隐藏本页目录",
    "Link to this heading": "此标题的链接",
    "Link to this definition": "此定义的链接",
    "Link to this image": "此图的链接",
    "Link to this table": "此表的链接",
    "Link to this code": "此段代码的链接",
    "Link to this equation": "此公式的链接",
    "Link to this term": "此术语的链接",
    "next": "下一章",
    "next page": "下一页",
    "previous": "上一章",
    "previous page": "上一页",
    "Source repository": "源码仓库",
}


# 主题模板里写死的英文，不经翻译函数：在写好的页面里逐字替换
_FIXED = {
    f'{attribute}="{english}"': f'{attribute}="{chinese}"'
    for attribute, english, chinese in (
        ("aria-label", "Search this book...", "搜索全书"),
        ("placeholder", "Search this book...", "搜索全书……"),
        ("aria-label", "Main", "全书目录"),
        ("aria-label", "Page", "本页目录"),
        ("aria-label", "Launch interactive content", "运行本页"),
        ("aria-label", "Source repositories", "源码仓库"),
        ("title", "Launch on Colab", "在 Colab 运行"),
        ("title", "Source repositories", "源码仓库"),
        ("title", "Toggle primary sidebar", "显示或隐藏全书目录"),
        ("title", "Toggle secondary sidebar", "显示或隐藏本页目录"),
    )
} | {
    f">{english}<": f">{chinese}<"
    for english, chinese in (
        ("Repository", "源码仓库"),
        ("Open issue", "报告本页问题"),
        ("Table of contents", "目录"),
    )
}
# 标签与文字之间的空白各处不同，先去掉再比
_TEXT = re.compile(r">\s*(Repository|Open issue|Table of contents)\s*<")


def _replace(app: Sphinx, error: Exception | None) -> None:
    if error is not None or app.builder.format != "html":
        return
    for page in Path(app.outdir).rglob("*.html"):
        before = page.read_text("utf-8")
        after = _TEXT.sub(r">\1<", before)
        for english, chinese in _FIXED.items():
            after = after.replace(english, chinese)
        if after != before:
            page.write_text(after, "utf-8")


def _translate(app: Sphinx) -> None:
    # 目录名是上游的：sphinx 与 pydata 主题共用 sphinx，book 主题另有 booktheme
    for (_, catalogue), translator in translators.items():
        if catalogue in ("sphinx", "booktheme"):
            known: dict[str, str] = translator.__dict__.setdefault("_catalog", {})
            known.update(_TRANSLATIONS)


def setup(app: Sphinx) -> dict[str, Any]:
    """等主题装好自己的译文之后再补；写死的等页面写完。"""
    app.connect("builder-inited", _translate)
    app.connect("build-finished", _replace)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
