"""笔记本的第一格：安静，选好模型仓库，一行说清在哪里运行。"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import HubServer

from companion.errors import ConfigError
from companion.notebook import session


def test_setup_is_one_quiet_line() -> None:
    """一行说出版本、设备、内存；环境变量在导入 torch 之前就设好。"""
    code = (
        "import sys; from companion.notebook import setup; "
        "assert 'torch' not in sys.modules; setup(); "
        "import os; assert os.environ['TQDM_DISABLE'] == '1'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9"},
        cwd=Path(__file__).resolve().parents[1],
        check=True,
    )
    assert done.stderr == ""
    [line] = done.stdout.splitlines()
    for word in ("companion ", "Python ", "torch ", "transformers ", " GB", "模型仓库"):
        assert word in line


@pytest.fixture
def endpoints(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """两个地址：第一个没有人，第二个是本机上的模型仓库；没有设过地址。"""
    for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "")  # 测完恢复原样
    monkeypatch.delitem(sys.modules, "huggingface_hub.constants", raising=False)
    with HubServer({}) as hub:
        yield ["http://127.0.0.1:9", hub.url]


def test_the_first_hub_that_answers_is_used(endpoints: list[str]) -> None:
    """官方的连不上，就用镜像；404 也算有回音。都连不上时什么也不写。"""
    session.choose_hub(endpoints[:1])
    assert not os.environ["HF_ENDPOINT"]
    session.choose_hub(endpoints)
    assert os.environ["HF_ENDPOINT"] == endpoints[1]


@pytest.mark.parametrize("name", ["HF_ENDPOINT", "HF_HUB_OFFLINE"])
def test_what_the_reader_set_is_left_alone(
    name: str, endpoints: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """设过地址或离线的，不去试，也不改。"""
    monkeypatch.setenv(name, "1")
    monkeypatch.setattr(session, "_reachable", lambda url: pytest.fail("不该去试"))
    session.choose_hub(endpoints)
    assert os.environ.get("HF_ENDPOINT") != endpoints[1]


def test_a_hub_chosen_too_late_is_refused(
    endpoints: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """huggingface_hub 已经以别的地址导入：说出来，而不是悄悄不生效。"""
    constants = SimpleNamespace(ENDPOINT=session.HUBS[0])
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", constants)
    with pytest.raises(ConfigError, match="重启内核"):
        session.choose_hub(endpoints)
