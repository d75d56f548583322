"""谁可以导入谁：箭头只往一个方向走，重的库只在用到时才进来。"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from companion.objectives import OBJECTIVES

PACKAGE = Path(__file__).resolve().parents[1] / "companion"

# 每一层可以导入的层；自己总可以导入自己
_BASE = {"batch", "errors"}
_DATA = _BASE | {"corpus", "objectives"}
_MIDDLE = {"corpus", "objectives", "checkpoints", "losses", "preflight"}
_UPPER = {"training", "inference", "evaluation", "plots"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "batch": set(),
    "scalars": {"errors"},
    "config": {"errors", "objectives", "scalars"},
    "corpus": _BASE,
    "objectives": _BASE,
    "checkpoints": _DATA,
    "losses": _DATA | {"checkpoints"},
    "preflight": _DATA | {"checkpoints", "losses"},
    "plots": _BASE,
    "inference": _BASE | _MIDDLE,
    "evaluation": _BASE | _MIDDLE | {"inference", "plots"},
    "training": _BASE | _MIDDLE | _UPPER | {"config"},
    "show": _BASE | _MIDDLE | _UPPER | {"config"},
    "cli": _BASE | _MIDDLE | _UPPER | {"config", "show"},
    "notebook": _BASE | _MIDDLE | _UPPER | {"config", "show"},
    "__main__": {"cli"},
}

HEAVY = [
    "torch",
    "transformers",
    "datasets",
    "matplotlib",
    "jieba",
    "opencc",
    "datasketch",
    "pyarrow",
    "peft",
    "accelerate",
    "safetensors",
    "tokenizers",
    "pandas",
]

FILES = sorted(PACKAGE.rglob("*.py"))


def layer_of(path: Path) -> str:
    """文件属于哪一层：包内第一段路径。"""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports_of(path: Path, *, typing: bool = True) -> Iterator[tuple[int, str, bool]]:
    """一个文件的导入：（行号，完整模块名，是否在运行时的模块层）；可以不要只为类型的。"""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    lazy = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if not typing and id(node) in for_types:
            continue
        eager = id(node) not in lazy | for_types
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, eager
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} 用了相对导入"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}", eager


def own_layers(path: Path) -> Iterator[tuple[int, str]]:
    """导入了本包的哪些层：（行号，层）。"""
    for line, name, _ in imports_of(path):
        parts = name.split(".")
        if parts[0] == "companion" and len(parts) > 1:
            yield line, parts[1]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_arrows_between_layers_never_point_back(path: Path) -> None:
    """每个文件只导入自己这一层和允许的下层，函数里的导入也算。"""
    layer = layer_of(path)
    if path.name == "__init__.py" and path.parent == PACKAGE:
        return  # 公开的名字全在这里，它什么都指得到
    assert layer in MAY_IMPORT, f"新的一层 {layer}：先在这里定下它能导入谁"
    allowed = MAY_IMPORT[layer] | {layer}
    back = [
        f"{path.relative_to(PACKAGE)}:{line} 导入了 {target}"
        for line, target in own_layers(path)
        if (PACKAGE / target).exists() or (PACKAGE / f"{target}.py").exists()
        if target not in allowed
    ]
    assert not back, "\n".join(back)


def test_no_files_import_each_other_in_a_circle() -> None:
    """文件之间没有导入的环，函数里的导入也算；只为类型的（TYPE_CHECKING）不算。"""
    modules = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(
            ".__init__"
        ): path
        for path in FILES
    }
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        names = {name for _, name, _ in imports_of(path, typing=False)}
        # `from companion.corpus import fetch` 指的是文件 fetch，没有才是包里的名字
        homes = {name if name in modules else name.rpartition(".")[0] for name in names}
        graph[module] = (homes & modules.keys()) - {module}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_the_corpus_layer_never_touches_torch_or_the_trainer() -> None:
    """语料一层不导入 torch、transformers、accelerate，函数里也不。"""
    found = [
        f"{path.name}:{line} {name}"
        for path in (PACKAGE / "corpus").rglob("*.py")
        for line, name, _ in imports_of(path)
        if name.split(".")[0] in ("torch", "transformers", "accelerate")
    ]
    assert not found, found


def test_objectives_know_torch_but_not_transformers() -> None:
    """训练目标可以单独拿走读；它不导入 transformers。"""
    found = [
        f"{path.name}:{line} {name}"
        for path in (PACKAGE / "objectives").rglob("*.py")
        for line, name, _ in imports_of(path)
        if name.split(".")[0] in ("transformers", "accelerate", "datasets")
    ]
    assert not found, found


@pytest.mark.parametrize("key", OBJECTIVES)
def test_an_objective_is_read_in_a_few_files(key: str) -> None:
    """读懂一个目标，至多打开它自己、基类与共用的几个文件；代码不到一千行。"""
    module = OBJECTIVES[key].collator.partition(":")[0]
    files = {PACKAGE / "objectives" / f"{module.rpartition('.')[2]}.py"}
    while True:
        more = {
            PACKAGE / "objectives" / f"{name.split('.')[2]}.py"
            for path in files
            for _, name, _ in imports_of(path)
            if name.startswith("companion.objectives.")
        }
        if more <= files:
            break
        files |= more
    files.discard(PACKAGE / "objectives" / "choices.py")  # 只是一列名字
    assert len(files) <= 8, sorted(path.name for path in files)
    assert sum(map(lines_of_code, files)) < 1000


def lines_of_code(path: Path) -> int:
    """不数空行、注释与说明文字。"""
    source = path.read_text(encoding="utf-8")
    texts: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            texts |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(source.splitlines(), 1)
    return sum(
        number not in texts and line.strip() != "" and line.strip()[0] != "#"
        for number, line in lines
    )


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_file_is_a_drawer_for_odds_and_ends(path: Path) -> None:
    """没有 utils、helpers、common：这样的文件是还没想好名字；也不超过六百行。"""
    assert path.stem not in ("utils", "util", "helpers", "common", "misc")
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 600


@pytest.mark.parametrize(
    "module",
    [
        "companion",
        "companion.cli",
        "companion.config",
        "companion.corpus",
        "companion.errors",
        "companion.evaluation",
        "companion.inference",
        "companion.checkpoints",
        "companion.preflight",
        "companion.losses",
        "companion.notebook",
        "companion.objectives",
        "companion.plots",
        "companion.training",
    ],
)
def test_importing_a_package_loads_no_heavy_library(module: str) -> None:
    """导入包本身不带进任何大库，`companion --help` 因此立刻就有回答。"""
    code = f"import sys, {module}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [], f"{module} 导入时带进了 {done.stdout}"


def test_every_public_name_resolves() -> None:
    """`companion.__all__` 里的每个名字都取得到，而且有说明。"""
    import companion

    for name in companion.__all__:
        thing = getattr(companion, name)
        if callable(thing):
            assert (thing.__doc__ or "").strip(), f"{name} 没有说明"
