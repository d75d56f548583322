"""评估的测试共用的极小检查点与文档。"""

from collections.abc import Callable

import pytest

from companion.checkpoints.loading import Checkpoint
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.corpus.document import Document

TEXTS = (
    "臣光曰：臣闻天子之职莫大于礼，礼莫大于分，分莫大于名。",
    "王使人告于诸侯，诸侯皆来会，大夫以兵从之。三年春，大旱，民饥，令郡国开仓以振之。",
    "天下大势，分久必合，合久必分。",
    "学而时习之，不亦说乎？",
)


@pytest.fixture(scope="session")
def checkpoint() -> Callable[..., Checkpoint]:
    """按架构与种子造一个极小的检查点。"""

    def build(kind: str, seed: int = 0, name: str = "") -> Checkpoint:
        tokenizer = tiny_tokenizer(kind)
        model = tiny_model(kind, tokenizer, seed=seed)
        return Checkpoint(model, tokenizer, name or f"tiny-{kind}-{seed}")

    return build


@pytest.fixture(scope="session")
def documents() -> list[Document]:
    """四个长短不一的文档。"""
    return [Document(text, f"d#{n}", "d") for n, text in enumerate(TEXTS, 1)]
