"""transformers 的文字架构：每一类毛病试一个，与表上写的相同；表没有漏掉一种。

整张表由 experiments/architectures.py 写成，约一刻钟；这里只试 `SAMPLE`。
"""

import json
from pathlib import Path

import pytest
from architectures import SAMPLE, every, measure

from companion.checkpoints.reading import quiet_transformers


@pytest.fixture(scope="module")
def table(root: Path) -> dict[tuple[str, str], dict]:
    """（目标，架构）→ `results/architectures.json` 的一行。"""
    path = root / "results" / "architectures.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {(row["objective"], row["model_type"]): row for row in rows}


def test_the_table_has_every_text_architecture_of_transformers(table):
    """名单与 transformers 的三张映射表一行不差；库升级之后要重跑。"""
    assert list(table) == list(every())


def test_every_architecture_trains_or_is_refused_by_name(table):
    """没有一种走到半路才出别的错；不走的都写着缘由。"""
    assert [key for key, row in table.items() if row["outcome"] == "broken"] == []
    for row in table.values():
        assert row["reason"] or row["outcome"] == "trains"


def test_the_loss_is_the_one_of_the_model_itself(table):
    """走得通的，损失与模型自己的相差不到万分之一；模型自己另有算法的，写着缘由。"""
    for row in table.values():
        if row["own_loss"] is None or row["own_loss"] > 1e-4:
            assert row["own_reason"] or row["outcome"] != "trains"


@pytest.mark.parametrize(("objective", "model_type"), SAMPLE)
def test_the_row_is_fresh(objective, model_type, table, tmp_path):
    """打开、体检、比损失、评估、写样张、训练两步，再走一遍，与表上的相同。"""
    with quiet_transformers():
        again = measure(model_type, objective, tmp_path)
    row = table[objective, model_type]
    for name in ("outcome", "head", "rows"):
        assert getattr(again, name) == row[name], again
    assert (again.own_loss or 0) <= 1e-4
