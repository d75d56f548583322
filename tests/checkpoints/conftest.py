"""让本文件夹的测试能导入 tests/ 里的共用帮手；点了名的模型只训练一趟。"""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


@pytest.fixture(scope="session")
def continued(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """名单里的一行 → 它继续预训练的那一趟。"""
    from continued import continue_all

    return continue_all(tmp_path_factory.mktemp("点名"))
