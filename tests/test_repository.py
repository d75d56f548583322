"""仓库的门面说的是真话：README 的命令存在，版本处处一致，发行文件齐全。"""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
README = (ROOT / "README.md").read_text("utf-8")
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
REPOSITORY: str = CONFIG["repository"]["url"]
MAX_WHEEL_BYTES = 60 * 2**20

# 我们自己写的文字文件：不含构建的产物、虚拟环境与缓存
_SKIPPED = {".git", ".venv", ".ci", "_build", "build", "dist", "shared", "results"}
_SUFFIXES = {".py", ".md", ".toml", ".yml", ".yaml", ".cff", ".txt", ".cfg", ".ipynb"}


def own_files() -> list[Path]:
    """仓库里我们自己写的文字文件。"""
    found: list[Path] = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [
            name
            for name in folders
            if name not in _SKIPPED and not name.startswith((".", "__"))
        ]
        found += [Path(folder, n) for n in names if Path(n).suffix in _SUFFIXES]
    return sorted(found)


def blocks(text: str, language: str) -> list[str]:
    """某种语言的代码块，按出现的次序。"""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands(block: str) -> list[list[str]]:
    """一个代码块里的各条命令，已按 shell 的规则切开。"""
    lines = [line.removeprefix("$ ") for line in block.splitlines() if line.strip()]
    return [shlex.split(line) for line in lines]


def known_options(words: list[str]) -> set[str]:
    """`companion …` 的一个命令认得的选项。"""
    import typer.main

    from companion.cli import app

    command: Any = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]
    return {option for each in command.params for option in each.opts}


def test_the_first_two_bash_blocks_of_the_readme_are_valid_shell() -> None:
    """由 bash 自己认得这两块：没有打错的引号与续行。"""
    for block in blocks(README, "bash")[:2]:
        done = subprocess.run(
            ["bash", "-n"], input=block, text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_the_readme_first_installs_and_shows_then_installs_and_tests() -> None:
    """第一块以演示收尾，第二块以 pytest 收尾；都在新的虚拟环境里，都用锁定的版本。"""
    first, second = (commands(block) for block in blocks(README, "bash")[:2])
    assert first[-1][:2] == ["companion", "demo"]
    assert second[-1][:3] == ["python", "-m", "pytest"]
    for block in (first, second):
        assert block[0] == ["python", "-m", "venv", ".venv"]
        assert block[1] == [".", ".venv/bin/activate"]
        assert block[2][:4] == ["pip", "install", "-c", "constraints.txt"]


def test_the_readme_installs_only_extras_that_exist() -> None:
    """方括号里的附加依赖都在 pyproject.toml 里。"""
    extras = set(PYPROJECT["project"]["optional-dependencies"])
    named = re.search(r'-e "\.\[(.*?)\]"', README)
    assert named is not None
    assert set(named[1].split(",")) <= extras


@pytest.mark.parametrize(
    "path",
    ["README.md", "book/intro.md", "book/00_quickstart.md", "book/03_causal_lm.md",
     "book/04_masked_lm.md"],
)  # fmt: skip
def test_every_companion_command_in_the_text_exists(path: str) -> None:
    """文中每条 companion 命令与它的每个选项，命令行都认得。"""
    text = (ROOT / path).read_text("utf-8")
    seen = 0
    for block in [*blocks(text, "bash"), *blocks(text, "console")]:
        for words in commands(block):
            if words[0] != "companion":
                continue
            seen += 1
            depth = 2 if words[1] == "corpus" else 1
            known = known_options(words[1 : 1 + depth])
            used = {w.partition("=")[0] for w in words if w.startswith("--")}
            assert used <= known, f"{' '.join(words)} 里没有 {used - known}"
    assert seen, f"{path} 一条命令也没有"


def test_the_readme_warns_where_one_would_type_the_wrong_name() -> None:
    """读者会去打 pip install companion 的地方，说明那是别人的包。"""
    assert "pip install companion`" in README
    assert "cpt-companion" in README


def test_the_changelog_opens_with_unreleased() -> None:
    """更新日志最上面是还没发布的改动。"""
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE)[0] == "Unreleased"


def test_one_version_everywhere() -> None:
    """包、发行文件、书与引用条目是同一个版本。"""
    import companion

    version = PYPROJECT["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert companion.__version__ == version
    assert citation["version"] == version
    assert CONFIG["sphinx"]["config"]["release"] == version
    assert version.startswith(str(CONFIG["sphinx"]["config"]["version"]))


def test_one_repository_address_everywhere() -> None:
    """仓库的地址以 _config.yml 为准，别处写到的都与它相同。"""
    owner, name = REPOSITORY.removeprefix("https://github.com/").split("/")
    for path in ("README.md", "pyproject.toml", "CITATION.cff", "CONTRIBUTING.md"):
        text = (ROOT / path).read_text("utf-8")
        for found in re.findall(r"github\.com/([\w.-]+/[\w.-]+)", text):
            assert found == f"{owner}/{name}", f"{path} 写的是 {found}"
        for found in re.findall(r"([\w-]+)\.github\.io/([\w-]+)", text):
            assert found == (owner, name), f"{path} 写的是 {found}"

    for path in (ROOT / "notebooks").glob("*.ipynb"):
        for found in re.findall(
            r"git\+https://github\.com/([\w-]+/[\w-]+)", path.read_text("utf-8")
        ):
            assert found == f"{owner}/{name}", f"{path.name} 写的是 {found}"


def test_every_dependency_is_pinned_within_its_range() -> None:
    """constraints.txt 给每个直接依赖一个确切版本，而且落在声明的范围里。"""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"].values()
    for line in [*project["dependencies"], *(x for extra in extras for x in extra)]:
        requirement = Requirement(line)
        pinned = pins.get(canonicalize_name(requirement.name))
        assert pinned is not None, f"constraints.txt 里没有 {requirement.name}"
        assert requirement.specifier.contains(Version(pinned)), line
    assert pins["torch"] == "2.13.0", "不带 +cpu 一类的本地标记"


def test_every_library_the_package_imports_is_declared() -> None:
    """包里导入的每个第三方库，都写在依赖里（peft 与 gguf 在附加的里）。"""
    names = {"yaml": "pyyaml", "opencc": "opencc-python-reimplemented"}
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["lora"], *extras["gguf"]]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    # click 随 typer、markupsafe 随 jinja2 而来，是它们接口的一部分
    declared |= {"click", "markupsafe", "companion"}
    undeclared: set[str] = set()
    for path in (ROOT / "companion").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            else:
                continue
            for module in modules:
                top = module.split(".")[0]
                wanted = canonicalize_name(names.get(top, top))
                if top not in sys.stdlib_module_names and wanted not in declared:
                    undeclared.add(f"{path.name}: {top}")
    assert not undeclared, sorted(undeclared)


def test_no_text_names_a_package_registry_or_a_machine() -> None:
    """文字里没有包索引的主机名，没有某台机器上的路径。"""
    hosts = (
        "pypi" + ".org",
        "pythonhosted" + ".org",
        "npmjs" + ".org",
        "pypi-" + "mirror",
    )
    local = re.compile(r"(?<![\w.])/(?:home|Users|root|work|opt)/\w+")
    wrong: list[str] = []
    for path in own_files():
        text = path.read_text("utf-8", errors="replace")
        if path.name == "test_notebooks.py":
            continue  # 那里列出的正是要拦下的路径
        wrong += [f"{path.relative_to(ROOT)}: {host}" for host in hosts if host in text]
        wrong += [f"{path.relative_to(ROOT)}: {m[0]}" for m in local.finditer(text)]
    assert not wrong, wrong


def test_one_concept_has_one_name_outside_the_book_too() -> None:
    """代码、命令行与笔记本里的说法与书相同；书自己由 test_book.py 核对。"""
    other_names = ("持续预训练", "增量预训练", "遮蔽", "掩蔽", "整词掩码", "打补丁")
    found = [
        f"{path.relative_to(ROOT)}：{name}"
        for path in own_files()
        if path.relative_to(ROOT).parts[0] not in ("tests", "book")
        for name in other_names
        if name in path.read_text("utf-8")
    ]
    assert not found, found


def test_every_link_into_the_repository_names_one_branch() -> None:
    """Colab 的按钮、笔记本的第一格、文中的链接，都是 _config.yml 写的那个分支。"""
    branch = CONFIG["repository"]["branch"]
    assert branch == "main", "标签推上之后才能写标签：之前的链接全打不开"
    release = CONFIG["sphinx"]["config"]["release"]
    assert release == PYPROJECT["project"]["version"]
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        text = path.read_text("utf-8")
        assert text.count(f'git+{REPOSITORY}@{branch}\\"') == 1, path.name
    for path in own_files():
        text = path.read_text("utf-8", errors="replace")
        name = re.escape(REPOSITORY.removeprefix("https://github.com/"))
        for found in re.findall(rf"{name}/blob/([^/\s]+)/|{name}@([\w.]+)", text):
            assert "".join(found) == branch, f"{path.name} 写的是 {found}"


def test_the_workflows_and_the_hooks_are_valid_yaml() -> None:
    """工作流都解析得开，测试矩阵覆盖声明支持的每个 Python。"""
    folder = ROOT / ".github" / "workflows"
    parsed = {
        p.stem: yaml.safe_load(p.read_text("utf-8")) for p in folder.glob("*.yml")
    }
    assert {"test", "book", "colab", "links"} <= set(parsed)
    for name in ("colab", "links"):  # YAML 1.1 把 on 读成 True
        [when] = parsed[name][True]["schedule"]
        assert when["cron"].endswith((" 1", " 3")), "每周一次"
    matrix = parsed["test"]["jobs"]["matrix"]["strategy"]["matrix"]["python"]
    prefix = "Programming Language :: Python :: "
    supported = [
        line.removeprefix(prefix)
        for line in PYPROJECT["project"]["classifiers"]
        if line.startswith(prefix)
    ]
    assert matrix == supported
    assert yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))[
        "repos"
    ]


def test_the_ci_script_runs_the_second_block_of_the_readme() -> None:
    """.ci/run 取出的正是 README 第二块，只把虚拟环境换了地方。"""
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    extraction = re.search(r"^block=\$\((.*)\)$", script, re.MULTILINE)
    assert extraction is not None
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    done = subprocess.run(
        ["bash", "-c", extraction[1]],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=True,
    )
    expected = blocks(README, "bash")[1].replace(".venv", ".ci/venv")
    assert done.stdout == expected


def test_the_wheel_holds_everything_the_package_opens(tmp_path: Path) -> None:
    """轮子里有样本、模板与起步模型，没有测试，不超过 60 MB。"""
    subprocess.run(
        [
            *(sys.executable, "-m", "build", "--wheel", "--no-isolation"),
            *("--outdir", str(tmp_path), str(ROOT)),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size <= MAX_WHEEL_BYTES
    inside = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "companion"
    wanted = {
        f"companion/{path.relative_to(package).as_posix()}"
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted <= inside, sorted(wanted - inside)
    others = {name for name in inside - wanted if ".dist-info/" not in name}
    assert not others, f"轮子里多出了 {sorted(others)[:5]}"


def test_the_command_answers_without_loading_torch() -> None:
    """`companion --help` 是中文的，而且不载入 torch。"""
    code = (
        "import sys, json; sys.argv = ['companion', '--help']\n"
        "from companion.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(json.dumps(['torch' in sys.modules, 'transformers' in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [False, False]
    assert "继续预训练" in done.stdout
