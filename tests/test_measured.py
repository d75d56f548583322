"""书里的数：路径走得到，写法对，走不到就报错。"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from companion.errors import EvaluationError
from companion.notebook.tradeoff import tradeoff_points, tradeoff_table

ROOT = Path(__file__).resolve().parents[1]
RUNS = {
    ("高", "不回放"): {
        "before": {
            "domain": {"bits_per_char": 8.0},
            "general": {"bits_per_char": 7.0},
        },
        "after": {"domain": {"bits_per_char": 7.5}, "general": {"bits_per_char": 7.7}},
    },
    ("低", "不回放"): {
        "before": {
            "domain": {"bits_per_char": 8.0},
            "general": {"bits_per_char": 7.0},
        },
        "after": {"domain": {"bits_per_char": 7.9}, "general": {"bits_per_char": 8.0}},
    },
}


@pytest.fixture(scope="module")
def measured() -> ModuleType:
    """书的扩展，不经 Sphinx。"""
    pytest.importorskip("sphinx", reason='没有装书的工具：pip install -e ".[book]"')
    path = ROOT / "book" / "_ext" / "measured.py"
    spec = importlib.util.spec_from_file_location("measured", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault("measured", module)
    spec.loader.exec_module(module)
    return module


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


def test_the_tradeoff_is_in_bits() -> None:
    """学到的是领域降了几比特，忘掉的是通用升了几比特；前沿由此定。"""
    high, low = tradeoff_points(RUNS)
    assert high["learned"] == pytest.approx([0.5])
    assert low["forgotten"] == pytest.approx([1.0])
    [first, second] = tradeoff_table(RUNS).rows
    assert list(first) == ["高", "不回放", "0.500", "0.700", "−6.2%", "+10.0%", "是"]
    assert second[-1] == ""
    with pytest.raises(EvaluationError, match="general"):
        tradeoff_points({("高", "无"): {"before": {}, "after": {}}})
