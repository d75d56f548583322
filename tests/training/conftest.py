"""训练测试共用的：极小的检查点、一篇小语料、现成的设置、比较权重的办法。"""

import sys
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from companion.checkpoints.saving import save_checkpoint
from companion.checkpoints.tiny import TINY_TEXT, tiny_model, tiny_tokenizer
from companion.config import TrainingConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # model_folders


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """缓存不落在用户的家里，也不受别处的大语料与多进程环境影响。"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        for name in ("COMPANION_DATA", "RANK", "WORLD_SIZE"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture
def no_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """不画训练曲线：画一张要一秒，而多数测试不看它。"""
    monkeypatch.setattr("companion.plots.curves.plot_curve", lambda *_a, **_k: None)
    monkeypatch.setattr("companion.plots.style.save_figure", lambda *_args: None)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """一个文件夹，里面有随机权重的检查点 bert、gpt2、bloom；随机失活都是 0.1。"""
    folder = tmp_path_factory.mktemp("checkpoints")
    for kind in ("bert", "gpt2", "bloom"):
        tokenizer = tiny_tokenizer(kind)
        extra = {"hidden_dropout": 0.1} if kind == "bloom" else {}
        save_checkpoint(tiny_model(kind, tokenizer, **extra), tokenizer, folder / kind)
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """33 篇互不相同、长短不一的短文。"""
    texts = [*TINY_TEXT, *("".join(pair) for pair in permutations(TINY_TEXT[:5], 2))]
    path = tmp_path_factory.mktemp("corpus") / "语料.txt"
    path.write_text("\n\n".join(texts), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def configure(checkpoints: Path, corpus: Path) -> Callable[..., TrainingConfig]:
    """几步就完的设置；不评估。`kind` 是检查点，目标随之而定。"""

    def build(output: Path, kind: str = "bert", **changes: Any) -> TrainingConfig:
        defaults: dict[str, Any] = {
            "objective": "masked_lm" if kind == "bert" else "causal_lm",
            "model": str(checkpoints / kind),
            "corpus": str(corpus),
            "output": str(output),
            "eval": False,
            "max_steps": 6,
            "block_size": 32,
            "tokens_per_batch": 128,
            "learning_rate": 1e-3,
            "logging_steps": 2,
            "save_steps": 2,
            "precision": "fp32",
        }
        return TrainingConfig(**(defaults | changes))

    return build


@pytest.fixture(scope="session")
def weights() -> Callable[[Path], dict[str, bytes]]:
    """检查点里的张量，名字 → 字节：比的是每一位，连 NaN 与 −0 也不含糊。"""

    def read(folder: Path) -> dict[str, bytes]:
        return {
            name: tensor.numpy().tobytes()
            for name, tensor in load_file(folder / "model.safetensors").items()
        }

    return read
