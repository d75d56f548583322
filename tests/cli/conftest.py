"""命令行测试共用的：极小的检查点、一篇小语料、在本进程或子进程里运行命令。"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from companion.cli import app

TEXT = (
    "狡兔死，走狗烹；飞鸟尽，良弓藏。\n"
    "勿以恶小而为之，勿以善小而不为。\n\n"
    "初命晋大夫魏斯、赵籍、韩虔为诸侯。\n"
    "臣闻天子之职莫大于礼，礼莫大于分，分莫大于名。\n\n"
    "撒盐空中差可拟，未若柳絮因风起。\n\n"
    "臣光曰：智伯之亡也，才胜德也。夫才与德异，而世俗莫之能辨。\n"
)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """一个文件夹，里面有随机权重的检查点 bert（编码器）与 bloom（解码器）。"""
    from companion.checkpoints.saving import save_checkpoint
    from companion.checkpoints.tiny import tiny_model, tiny_tokenizer

    folder = tmp_path_factory.mktemp("checkpoints")
    for kind in ("bert", "bloom"):
        tokenizer = tiny_tokenizer(kind)
        save_checkpoint(tiny_model(kind, tokenizer), tokenizer, folder / kind)
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """四篇短文的语料。"""
    path = tmp_path / "语料.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _own_cache(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """缓存不落在用户的家里，也不受别处的大语料影响。"""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("COMPANION_DATA", raising=False)
    monkeypatch.delenv("RANK", raising=False)


@pytest.fixture
def run() -> Callable[..., Any]:
    """在本进程里运行一条命令；结果有 exit_code、stdout、stderr。"""

    def invoke(*words: object) -> Any:
        return CliRunner().invoke(app, [str(word) for word in words])

    return invoke


@pytest.fixture
def start(root: Path, tmp_path: Path) -> Callable[..., Any]:
    """在子进程里运行 `python -m companion …`，当前目录是 tmp_path。"""

    def execute(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "companion", *map(str, words)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return execute
