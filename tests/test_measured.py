"""书里的数：路径走得到，写法对，走不到就报错。"""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def measured() -> ModuleType:
    """书的扩展，不经 Sphinx。"""
    pytest.importorskip("sphinx", reason='没有装书的工具：pip install -e ".[book]"')
    sys.path.append(str(ROOT / "book" / "_ext"))
    return import_module("measured")


def test_a_path_leads_to_exactly_one_number(measured: ModuleType) -> None:
    """括号里的条件要恰好挑出一项；数不分整数与小数。"""
    found = {"rows": [{"k": 0.0, "m": "x", "v": 1}, {"k": 0.25, "m": "x", "v": 2}]}
    assert measured.look_up(found, "rows[k=0,m=x].v") == 1
    assert measured.look_up(found, "rows[k=0.25].v") == 2
    for path, said in (
        ("rows[m=x].v", "2 项"),
        ("rows[k=9].v", "0 项"),
        ("rows[k=0].w", "走到 w"),
    ):
        with pytest.raises(measured.ResultError, match=said):
            measured.look_up(found, path)
    with pytest.raises(measured.ResultError, match="先跑它的实验"):
        measured.read_result("no_such_result")


def test_numbers_are_written_the_house_way(measured: ModuleType) -> None:
    """百分数带正负号，负号是 U+2212；散布写在均值之后，只有一个种子就不写。"""
    assert measured.written(-0.0523, "%") == "−5.2%"
    assert measured.written(0.0523, "%") == "+5.2%"
    spread = {"mean": -0.05, "std": 0.004}
    assert (
        measured.cell(spread, "%", {})
        == "−5.0%\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.4%"
    )
    assert measured.cell({**spread, "std": 0.0}, "%", {}) == "−5.0%"
    assert measured.cell("full", "", {"full": "全参数"}) == "全参数"
