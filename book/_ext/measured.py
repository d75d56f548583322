"""书里的数字、表与图，构建时由 `results/*.json` 与包里的代码算出，不手写。

一个数（全书的数都这样写，换了结果，书跟着换）：

    {measured}`replay_tradeoff summary[replay_ratio=0.25,…].general.mean %`

第一个词是结果文件，第二个是路径，第三个是写法：`%` 是带正负号的百分数，`.3f` 一类照
Python 的格式，不写就是原样。路径里的 `[键=值,…]` 在列表里挑出恰好一项。

一张表，一组一行；几个种子的写成“均值 ± 标准差”：

    ```{measured-table} full_or_lora summary
    :caption: 各种做法
    :columns: 做法 method | 领域 domain % | 处理器秒 cpu_seconds .0f
    :names: full=全参数 | embeddings=只训练词嵌入
    ```

文件名以 `@` 开头的不读文件，由 `book_figures.py` 里同名的函数当场算出。

一张图，由 `book_figures.py` 里同名的函数画：

    ```{measured-figure} replay_tradeoff
    :caption: 学到的与忘掉的
    :name: tradeoff-figure
    ```

同一张图的小样，放在首页的卡片里；另存一个小文件，滚到跟前才载入：

    ```{measured-picture} replay_tradeoff
    :alt: 得失图
    ```
"""

import base64
import html
import io
import re
from functools import cache
from pathlib import Path
from typing import Any

from book_figures import FIGURES, TABLES
from docutils import nodes
from docutils.parsers.rst import directives
from recorded import ResultError, recorded
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole

_STEP = re.compile(r"([^.\[\]]+)(?:\[([^\]]+)\])?")


def read_result(name: str) -> Any:
    """`results/NAME.json` 的内容，或 `@NAME` 当场算出的。"""
    return {"summary": TABLES[name[1:]]()} if name[0] == "@" else recorded(name)


def look_up(found: Any, path: str) -> Any:
    """顺着路径走到一个值。

    >>> look_up({"a": [{"k": 1, "v": 5}, {"k": 2, "v": 6}]}, "a[k=2].v")
    6
    """
    for key, conditions in _STEP.findall(path):
        if not isinstance(found, dict) or key not in found:
            raise ResultError(f"路径 {path} 走到 {key} 就没有了")
        found = found[key]
        if conditions:
            wanted = dict(each.split("=", 1) for each in conditions.split(","))
            fitting = [
                item
                for item in found
                if all(_same(item.get(name), value) for name, value in wanted.items())
            ]
            if len(fitting) != 1:
                raise ResultError(f"路径 {path} 里有 {len(fitting)} 项合 {conditions}")
            [found] = fitting
    return found


def _same(value: Any, written: str) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) == float(written)
    return str(value) == written


def written(value: Any, form: str) -> str:
    """一个数写成文字；负号用 U+2212。

    >>> written(-0.0523, "%"), written(7.126, ".2f"), written(0.25, ".0%")
    ('−5.2%', '7.13', '25%')
    """
    if not form:
        return str(value)
    text = format(value, "+.1%") if form == "%" else format(value, form)
    return text.replace("-", "−")


def cell(value: Any, form: str, names: dict[str, str]) -> str:
    """表里的一格；散布写成“均值 ± 标准差”。"""
    if isinstance(value, dict) and "mean" in value:
        mean, std = value["mean"], value["std"]
        if not std:
            return written(mean, form)
        spread = written(std, ".1%" if form == "%" else form)
        return f"{written(mean, form)}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{spread}"
    text = written(value, form)
    return names.get(text, text)


class Measured(SphinxRole):
    """一个数。"""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """查出来，写成文字。"""
        name, path, *form = self.text.split()
        try:
            text = written(look_up(read_result(name), path), "".join(form))
        except (ResultError, ValueError) as error:
            problem = self.inliner.reporter.error(str(error), line=self.lineno)  # type: ignore[attr-defined]
            return [nodes.problematic(self.text, self.text)], [problem]
        return [nodes.Text(text)], []


class MeasuredTable(SphinxDirective):
    """一张表。"""

    required_arguments = 2
    option_spec = {  # noqa: RUF012 - 上游如此声明
        "caption": directives.unchanged_required,
        "name": directives.unchanged,
        "columns": directives.unchanged_required,
        "names": directives.unchanged,
    }

    def run(self) -> list[nodes.Node]:
        """逐行查出，写成 Markdown 的表。"""
        name, path = self.arguments
        columns = [each.split() for each in self.options["columns"].split("|")]
        names = dict(
            pair.strip().split("=", 1)
            for pair in self.options.get("names", "").split("|")
            if pair.strip()
        )
        try:
            rows = [
                [
                    cell(look_up(row, key), "".join(form), names)
                    for _, key, *form in columns
                ]
                for row in look_up(read_result(name), path)
            ]
        except ResultError as error:
            raise self.error(str(error)) from error
        lines = [
            f"```{{table}} {self.options['caption']}",
            *([f":name: {self.options['name']}"] if "name" in self.options else []),
            "",
            _line([title for title, *_ in columns]),
            _line(["---", *["---:"] * (len(columns) - 1)]),
            *map(_line, rows),
            "```",
        ]
        box = nodes.container()
        self.state.nested_parse(lines, self.content_offset, box)
        return box.children


def _line(cells: list[str]) -> str:
    return "|".join(["", *cells, ""])


@cache
def drawn(name: str) -> Any:
    """一张图；章里一次，首页的卡片上一次，只画一遍。"""
    return FIGURES[name]()


class MeasuredFigure(SphinxDirective):
    """一张图：SVG 直接写在页里，不另存文件。"""

    required_arguments = 1
    option_spec = {  # noqa: RUF012 - 上游如此声明
        "caption": directives.unchanged_required,
        "name": directives.unchanged,
    }

    def run(self) -> list[nodes.Node]:
        """画出来，连同替代文字放进图里。"""
        from companion.plots.style import drawing

        try:
            card = drawn(self.arguments[0])
        except (KeyError, ResultError) as error:
            raise self.error(f"画不出 {self.arguments[0]}：{error}") from error
        buffer = io.BytesIO()
        with drawing():
            card.savefig(buffer, format="svg", metadata={"Date": None})
        data = base64.b64encode(buffer.getvalue()).decode()
        image = nodes.image(uri=f"data:image/svg+xml;base64,{data}", alt=card.alt)
        caption = nodes.caption()
        inline, _ = self.state.inline_text(self.options["caption"], self.lineno)
        caption += inline
        figure = nodes.figure("", image, caption)
        self.set_source_info(figure)
        if "name" in self.options:
            self.add_name(figure)
        return [figure]


class MeasuredPicture(SphinxDirective):
    """卡片上的小样：四百来点宽的 PNG。"""

    required_arguments = 1
    option_spec = {"alt": directives.unchanged_required}  # noqa: RUF012 - 上游如此声明

    def run(self) -> list[nodes.Node]:
        """画出来，缩小，存进 `_images/`；只有网页要。"""
        from PIL import Image

        from companion.plots.style import drawing

        builder = self.env.app.builder
        if builder.format != "html" or builder.name == "epub":
            return []
        [name] = self.arguments
        try:
            card = drawn(name)
        except (KeyError, ResultError) as error:
            raise self.error(f"画不出 {name}：{error}") from error
        buffer = io.BytesIO()
        with drawing():
            card.savefig(buffer, format="png", dpi=96)
        folder = Path(builder.outdir, "_images")
        folder.mkdir(exist_ok=True)
        picture = Image.open(buffer).convert("RGB")
        picture.quantize(32).save(folder / f"card-{name}.png", optimize=True)
        back = "../" * self.env.docname.count("/")
        size = f'width="{picture.width}" height="{picture.height}"'
        text = (
            f'<img class="card-picture white" loading="lazy" {size} '
            f'src="{back}_images/card-{name}.png" '
            f'alt="{html.escape(self.options["alt"])}">'
        )
        return [nodes.raw("", text, format="html")]


def setup(app: Sphinx) -> dict[str, Any]:
    """登记。"""
    app.add_role("measured", Measured())
    app.add_directive("measured-table", MeasuredTable)
    app.add_directive("measured-figure", MeasuredFigure)
    app.add_directive("measured-picture", MeasuredPicture)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
