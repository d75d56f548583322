"""书的目录，由 `_toc.yml` 读出；离线版与测试共用。"""

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]


def toc_files() -> list[str]:
    """目录里的全部页，不带后缀，按次序。"""

    def walk(node: Any) -> list[str]:
        if isinstance(node, list):
            return [name for each in node for name in walk(each)]
        if not isinstance(node, dict):
            return []
        own = [node[key] for key in ("root", "file") if key in node]
        return own + [
            name
            for key in ("parts", "chapters", "sections")
            for name in walk(node.get(key))
        ]

    return walk(yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8")))
