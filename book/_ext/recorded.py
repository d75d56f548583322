"""`results/` 里的一份结果：书里的数、表与图都由它读。"""

import json
from functools import cache
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[2] / "results"


class ResultError(ValueError):
    """结果里没有要的那个数。"""


@cache
def recorded(name: str) -> Any:
    """`results/NAME.json` 的内容。

    Raises:
        ResultError: 没有这份结果。
    """
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        raise ResultError(f"没有 results/{name}.json：先跑它的实验")
    return json.loads(path.read_text("utf-8"))
