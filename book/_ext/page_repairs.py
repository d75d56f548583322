"""主题与扩展写进页面、我们改不了源头的几处毛病，在写好的页面里修。

- sphinx-thebe 不用也照样载入，还把同一个常量声明两次，浏览器为此报错；
- 目录的折叠钮、文献的列表没有给读屏软件的名字与正确的角色；
- 文献的引用里写着 et al. 与 and。
"""

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

_REPAIRS = [
    (re.compile(pattern, re.DOTALL), instead)
    for pattern, instead in (
        (r"\s*<script>const THEBE_JS_URL.*?</script>", ""),
        (r'\s*<script[^>]*src="[^"]*sphinx-thebe\.js[^"]*"></script>', ""),
        (r'\s*<link[^>]*href="[^"]*sphinx-thebe\.css[^"]*" />', ""),
        (r'\s*<script type="text/x-thebe-config">.*?</script>', ""),
        (r"\s*<script>kernelName = .*?</script>", ""),
        # 内层的角色是 presentation，名字要给在 summary 上
        (
            r'<summary><span class="toctree-toggle"',
            '<summary aria-label="展开或收起这一章"><span class="toctree-toggle"',
        ),
        # 列表里直接放了链接；角色去掉，仍是一段段的文献
        (r'<div role="list" class="citation-list">', '<div class="citation-list">'),
        (r' role="doc-biblioentry"', ""),
        (r" <em>et al\.</em>", " 等"),
        (r'(<span class="bibtex-citation"[^>]*>[^<\[]*) and ', r"\1 与 "),
        (r'(bibliography\.html#\w+" title="[^"]*">[^<]*) and ', r"\1 与 "),
    )
]


def repair(page: str) -> str:
    """修好的一页。

    >>> repair('<cite>Radford <em>et al.</em> [2018]</cite>')
    '<cite>Radford 等 [2018]</cite>'
    """
    for pattern, instead in _REPAIRS:
        page = pattern.sub(instead, page)
    return page


def _repair_all(app: Sphinx, error: Exception | None) -> None:
    if error is not None or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        before = path.read_text("utf-8")
        after = repair(before)
        if after != before:
            path.write_text(after, "utf-8")
    for path in Path(app.outdir, "_static").glob("sphinx-thebe.*"):
        path.unlink()


def setup(app: Sphinx) -> dict[str, Any]:
    """等页面写完。"""
    app.connect("build-finished", _repair_all)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
