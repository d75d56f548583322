"""书末的支持表没有过时：便宜的几列，照名单重试一遍。"""

import json
from functools import cache

import pytest
from model_support import NAMED_MODELS, measure_support

from companion.checkpoints.reading import quiet_transformers

CHEAP = ("packing", "four_d_mask", "bf16", "gradient_checkpointing")


@pytest.fixture(scope="module")
def table(root) -> list[dict]:
    """`results/model_support.json` 的各行。"""
    path = root / "results" / "model_support.json"
    return json.loads(path.read_text(encoding="utf-8"))["rows"]


@cache
def measured(kind: str, objective: str):
    """重试一遍，不编译。"""
    with quiet_transformers():
        return measure_support(kind, objective)


def test_the_table_has_the_rows_of_the_list(table):
    """名单与表一行不差；改了名单要重跑 experiments/model_support.py。"""
    rows = [(row["name"], row["kind"], row["objective"]) for row in table]
    assert rows == [(each.name, each.kind, each.objective) for each in NAMED_MODELS]


@pytest.mark.parametrize("number", range(len(NAMED_MODELS)))
def test_the_cheap_columns_are_fresh(number, table):
    """打钩的仍用得，打叉的仍用不得，打叉的都有缘由。"""
    named = NAMED_MODELS[number]
    again = measured(named.kind, named.objective)
    for column in CHEAP:
        assert bool(table[number][column]) == bool(getattr(again, column)), column
