"""由包自己的公开名字生成参考手册，手册因此不会与代码走样。

    ```{public-api} companion.corpus companion.batch
    ```

一个模块有 `__all__` 就取其中的名字，没有就取它自己定义的、不以下划线起头的函数与类。
名字按所在的文件归在一起，每组以那个文件说明的第一句开头。
"""

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import companion.errors

ROOT = Path(__file__).parents[2]
_log = logging.getLogger(__name__)
_ERRORS = "|".join(name for name in vars(companion.errors) if name.endswith("Error"))
# 代码在说明里写作 `x`；reStructuredText 要写两个反引号
_CODE = re.compile(r"(?<![`:\w])`([^`\n]+)`(?![`_])")
# 源码里中文段落为了 88 列而换行；照排会在汉字之间多出一个空格
_BREAK = re.compile(
    r"(?<=[\u3001-\u9fff\uff01-\uff65])\n[ ]*(?=[\u3001-\u9fff\uff01-\uff65])"
)
_NDARRAY = re.compile(
    r"~?numpy\.ndarray\[[^\[\]]*(?:\[[^\]]*\])?, ~?numpy\.dtype\[([^\]]*)\]\]"
)
_RAISES = re.compile(rf"^(\s+)({_ERRORS}):", re.MULTILINE)


def _data(module: ModuleType) -> dict[str, str | None]:
    """一个模块里的公开常量 → 没写说明的，其类型标注；写了的，None。"""
    analyzer = ModuleAnalyzer.for_module(module.__name__)
    documented = [name for scope, name in analyzer.find_attr_docs() if not scope]
    found: dict[str, str | None] = {
        name: annotation
        for (scope, name), annotation in analyzer.annotations.items()
        if not scope and name.isupper()
    }
    found |= dict.fromkeys(documented)
    return {name: kind for name, kind in found.items() if not name.startswith("_")}


def _submodules(module: ModuleType) -> list[ModuleType]:
    found = [module]
    for each in iter_modules(getattr(module, "__path__", [])):
        name = f"{module.__name__}.{each.name}"
        try:
            found.append(import_module(name))
        except ImportError as error:
            _log.warning("%s 导入不了：%s", name, error)
    return found


def _public(module: ModuleType) -> Iterator[tuple[str, str, list[str]]]:
    """公开的（名字, 所在模块, 交给 autodoc 的几行）。"""
    listed = getattr(module, "__all__", None)
    if listed is None:
        for name, thing in vars(module).items():
            own = getattr(thing, "__module__", None) == module.__name__
            if own and callable(thing) and not name.startswith("_"):
                yield name, module.__name__, _entry(f"{module.__name__}.{name}", thing)
        for name, kind in _data(module).items():
            yield name, module.__name__, _data_entry(f"{module.__name__}.{name}", kind)
        return
    homes = {
        name: (m, kind) for m in _submodules(module) for name, kind in _data(m).items()
    }
    for name in listed:
        try:
            thing = getattr(module, name)
        except ImportError as error:
            _log.warning("%s.%s 导入不了：%s", module.__name__, name, error)
            continue
        if name in homes:
            home, kind = homes[name]
            yield name, home.__name__, _data_entry(f"{home.__name__}.{name}", kind)
        else:
            yield name, thing.__module__, _entry(f"{module.__name__}.{name}", thing)


def _entry(path: str, thing: Any) -> list[str]:
    if inspect.isclass(thing):
        return [f".. autoclass:: {path}", "   :members:", ""]
    return [f".. autofunction:: {path}", ""]


def _data_entry(path: str, kind: str | None) -> list[str]:
    if kind is None:
        return [f".. autodata:: {path}", "   :no-value:", ""]
    return [f".. py:data:: {path}", "", f"   类型：``{kind}``", ""]


class PublicApi(SphinxDirective):
    """列出几个模块的公开名字。"""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """生成各项，交给 autodoc。"""
        lines: list[str] = []
        for name in self.arguments[0].split():
            module = import_module(name)
            groups: dict[str, list[str]] = {}
            for _, home, entry in _public(module):
                groups.setdefault(home, []).extend(entry)
            for home, entries in groups.items():
                about = (inspect.getdoc(import_module(home)) or "").split("\n")[0]
                lines += [":::{rubric} " + about.rstrip("。"), ":::", ""]
                lines += ["```{eval-rst}", *entries, "```", ""]
        box = nodes.container(classes=["public-api"])
        self.state.nested_parse(lines, self.content_offset, box)
        return box.children


def _literal(match: re.Match[str]) -> str:
    """行内代码，与紧挨着的字之间垫一个看不见的间隔：中文的标点前后没有空格。"""
    before = match.string[match.start() - 1 : match.start()]
    after = match.string[match.end() : match.end() + 1]
    left = "" if not before or before.isspace() else "\\ "
    right = "" if not after or after.isspace() else "\\ "
    return f"{left}``{match[1]}``{right}"


def _rewrite(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """把说明里的行内代码与异常名改成 reStructuredText 认得的样子。"""
    text = "\n".join(lines)
    text = _RAISES.sub(r"\1~companion.errors.\2:", text)
    text = _BREAK.sub("", text)
    lines[:] = _CODE.sub(_literal, text).split("\n")


def _shorten(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, args: Any, result: Any
) -> None:
    """展开的 numpy 类型别名有三行长，写回别名。"""
    known: dict[str, str] = app.env.temp_data.get("annotations", {}).get(name, {})
    for parameter, annotation in known.items():
        if "_SupportsArray" in annotation:
            annotation = "~numpy.typing.ArrayLike"
        known[parameter] = _NDARRAY.sub(r"~numpy.typing.NDArray[\1]", annotation)


def _skip(
    app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: Any
) -> bool | None:
    """具名元组的字段若没有自己的说明，就只有一句英文“第几个字段的别名”，不列。"""
    own = inspect.getdoc(thing) or ""
    return True if own.startswith("Alias for field number") else None


def source_place(module: str, name: str) -> str | None:
    """源码在仓库里的哪几行，如 `companion/batch.py#L10-L20`；找不到的 None。"""
    thing: Any = import_module(module)
    try:
        for part in name.split("."):
            thing = getattr(thing, part)
        path = Path(inspect.getsourcefile(inspect.unwrap(thing)) or "")
        lines, first = inspect.getsourcelines(inspect.unwrap(thing))
    except (AttributeError, TypeError, OSError):  # 字段、常量没有自己的源码
        return None
    if not path.is_relative_to(ROOT):
        return None
    where = path.relative_to(ROOT).as_posix()
    return f"{where}#L{first}-L{first + len(lines) - 1}"


def _link_sources(app: Sphinx, config: Config) -> None:
    """[源代码] 指到仓库里的那几行：另做八十几页源码，占构建的六分之一。"""
    # 主题的设置在 EPUB 里没有，地址就从定它的那一处读
    repository = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["repository"]
    url = f"{repository['url']}/blob/{repository['branch']}"

    def resolve(domain: str, info: dict[str, str]) -> str | None:
        module, name = info["module"], info["fullname"]
        place = source_place(module, name) if module else None
        return place and f"{url}/{place}"

    config["linkcode_resolve"] = resolve


def setup(app: Sphinx) -> dict[str, Any]:
    """登记指令；改写说明要赶在 napoleon 之前。"""
    app.setup_extension("sphinx.ext.linkcode")
    app.connect("config-inited", _link_sources)
    app.add_directive("public-api", PublicApi)
    app.connect("autodoc-process-docstring", _rewrite, priority=100)
    app.connect("autodoc-process-signature", _shorten, priority=900)
    app.connect("autodoc-skip-member", _skip)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
