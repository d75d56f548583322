"""由当前环境写出 constraints.txt：本项目与全部附加依赖的闭包，一行一个确切版本。"""

import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
HEADER = """\
# 测过的确切版本：pip install -c constraints.txt .
# 由 make constraints 生成（tests/write_constraints.py），改依赖之后重新生成
"""


def direct() -> list[Requirement]:
    """pyproject.toml 里写明的依赖，含各组附加依赖。"""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    listed = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        listed += extra
    return [Requirement(line) for line in listed]


def closure() -> dict[str, str]:
    """全部要装的包：规范名 → 版本（不带 +cpu 一类的本地标记）。"""
    found: dict[str, str] = {}
    waiting = [(r, frozenset(r.extras)) for r in direct()]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement, extras = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # 别的系统才需要的包
        found[name] = package.version.partition("+")[0]
        for line in package.requires or []:
            inner = Requirement(line)
            chosen = [{"extra": extra} for extra in extras] or [{"extra": ""}]
            if inner.marker is None or any(map(inner.marker.evaluate, chosen)):
                waiting.append((inner, frozenset(inner.extras)))
    return found


if __name__ == "__main__":
    lines = [f"{name}=={version}" for name, version in sorted(closure().items())]
    Path(sys.argv[1]).write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} 个包")
