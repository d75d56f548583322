"""论文索引：由名册、掩码选法、整理器与训练设置的说明生成，不手写。

    ```{paper-index} objectives
    ```

参数是 objectives（训练目标）、defaults（整理器的缺省值）、presets（掩码选法）、
settings（训练设置）之一。说明里的“Devlin 等，2019”变成文献的链接。
"""

import dataclasses
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

CITED = re.compile(r"([A-Z][\w’-]+)(?: 与 [A-Z][\w-]+| 等)?，((?:19|20)\d\d)")
"""行文里的引用：第一作者与年份。"""
_ENTRY = re.compile(r"^@\w+\{(\S+),\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_BIBLIOGRAPHY = Path(__file__).parents[1] / "references.bib"


def bibliography_keys(text: str) -> dict[tuple[str, str], str]:
    """（第一作者的姓, 年份）→ 文献的键。

    >>> entry = ["@article{du2022glm,", "  author = {Du, Z. and Qian, Y.},"]
    >>> bibliography_keys(chr(10).join([*entry, "  year = {2022},", "}"]))
    {('Du', '2022'): 'du2022glm'}
    """
    found: dict[tuple[str, str], str] = {}
    for key, body in _ENTRY.findall(text):
        author = re.search(r"author = \{([^,}]+),", body)
        year = re.search(r"year = \{(\d{4})\}", body)
        if author and year:
            found[author[1], year[1]] = key
    return found


def linked(text: str, keys: dict[tuple[str, str], str]) -> str:
    """引用换成文献的链接。

    >>> linked("Du 等，2022，§2.1", {("Du", "2022"): "du2022glm"})
    '{cite:t}`du2022glm`，§2.1'
    """

    def replace(match: re.Match[str]) -> str:
        key = keys.get((match[1], match[2]))
        return f"{{cite:t}}`{key}`" if key else match[0]

    return CITED.sub(replace, text)


def objective_rows() -> Iterator[tuple[str, ...]]:
    """每个训练目标：键、名字、出处。"""
    from companion.objectives import OBJECTIVES

    for goal in OBJECTIVES.values():
        yield f"`{goal.key}`", goal.title, goal.paper


def preset_rows() -> Iterator[tuple[str, ...]]:
    """每套掩码选法：名字、做法、出处。"""
    from companion.objectives.presets import PRESETS

    for preset in PRESETS.values():
        yield f"`{preset.key}`", preset.title, preset.paper


def setting_rows() -> Iterator[tuple[str, ...]]:
    """说明里写明出处的训练设置：名字、缺省值、说明。"""
    from companion.config import TrainingConfig

    for spec in dataclasses.fields(TrainingConfig):
        doc = spec.metadata["doc"]
        if CITED.search(doc):
            yield f"`{spec.name}`", _shown(spec, unset="不设"), doc


def default_rows() -> Iterator[tuple[str, ...]]:
    """说明里写明出处的整理器缺省值：目标、参数、缺省值、说明。"""
    from companion.objectives import OBJECTIVES

    for goal in OBJECTIVES.values():
        module, _, name = goal.collator.partition(":")
        collator = getattr(import_module(module), name)
        docs = _field_docs(collator)
        latest = ""
        for spec in dataclasses.fields(collator):
            doc = docs.get(spec.name, "").replace("同上", latest)
            if found := CITED.search(doc):
                latest = found[0]
                yield f"`{goal.key}`", f"`{spec.name}`", _shown(spec), doc


def _field_docs(collator: type) -> dict[str, str]:
    """数据类各字段的说明，含从父类来的。"""
    docs: dict[str, str] = {}
    for each in reversed(collator.__mro__):
        if each.__module__.startswith("companion."):
            found = ModuleAnalyzer.for_module(each.__module__).find_attr_docs()
            for (scope, name), lines in found.items():
                if scope == each.__name__:
                    docs[name] = "".join(lines).strip()
    return docs


def _shown(spec: "dataclasses.Field[Any]", unset: str = "因目标而异") -> str:
    if isinstance(spec.default, tuple):
        return "、".join(f"{each:.2g}" for each in spec.default)
    return unset if spec.default is None else f"`{spec.default}`"


TABLES = {
    "objectives": (("目标", "名字", "出处"), objective_rows),
    "defaults": (("目标", "参数", "缺省", "说明与出处"), default_rows),
    "presets": (("名字", "做法", "出处"), preset_rows),
    "settings": (("设置", "缺省", "说明与出处"), setting_rows),
}


class PaperIndex(SphinxDirective):
    """一张出处的表。"""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """写成 Markdown 的表。"""
        keys = bibliography_keys(_BIBLIOGRAPHY.read_text("utf-8"))
        self.env.note_dependency(str(_BIBLIOGRAPHY))
        heads, rows = TABLES[self.arguments[0]]
        lines = [f"|{'|'.join(heads)}|", f"|{'---|' * len(heads)}"]
        lines += [f"|{'|'.join(linked(cell, keys) for cell in row)}|" for row in rows()]
        box = nodes.container()
        self.state.nested_parse(lines, self.content_offset, box)
        return box.children


def setup(app: Sphinx) -> dict[str, Any]:
    """登记指令。"""
    app.add_directive("paper-index", PaperIndex)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
