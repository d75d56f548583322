"""全部测试共用的环境：离线、无进度条、结果可复现。"""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

# 须在任何测试导入 torch、transformers 之前：不联网，不抢核，不刷屏
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    TQDM_DISABLE="1",
    MPLBACKEND="Agg",
    WANDB_MODE="disabled",
)
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # 测试共用的几个模块
sys.path.append(str(ROOT / "experiments"))  # 手算的损失与支持表，测试也用
sys.path.append(str(ROOT / "book"))  # 书的目录

# torch 的第一次调用很慢，不设时限；derandomize 使失败在每台机器上都重现
settings.register_profile(
    "companion",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("companion")


LONGEST = ("test_notebooks.py", "test_experiments.py", "test_pages.py")
"""最长的几个文件，由长到短；第三个构建书，排在一个进程上，另一个就不必等它。"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """最长的几个文件排在最前：两个进程才一同收工。"""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


def pytest_collection_finish() -> None:
    """库都已装好，此后的垃圾回收不必再扫它们：Trainer 每次训练都要收一次。"""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def root() -> Path:
    """仓库的根目录。"""
    return ROOT


@pytest.fixture(scope="module")
def experiments() -> Iterator[Path]:
    """`experiments/`，里面的模块导入得了。"""
    folder = ROOT / "experiments"
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """大语料所在：环境变量 COMPANION_DATA，或仓库旁的 shared/data；没有就跳过。"""
    folder = Path(os.environ.get("COMPANION_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "tongjian").is_dir():
        pytest.skip("没有大语料：把 COMPANION_DATA 指向含 tongjian/ 的文件夹才跑这一项")
    return folder


@pytest.fixture(scope="session")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """构建好的书，几个进程共用一份；刚构建过的，用环境变量 BOOK_HTML 指给它。"""
    if "BOOK_HTML" in os.environ:
        return Path(os.environ["BOOK_HTML"]).resolve()
    pytest.importorskip("jupyter_book", reason='没有装书：pip install -e ".[book]"')
    from built_book import build_once

    base = tmp_path_factory.getbasetemp()
    # xdist 的每个进程各有一个子文件夹，它们的上一级是共用的
    return build_once(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base)


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    """每个测试之后关掉画过的图，免得攒到 matplotlib 告警。"""
    yield
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close("all")
