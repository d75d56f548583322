"""预训练小模型的脚本：省时间的几处没有改变要算的东西，打断了接着来一位不差。"""

import gzip
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from companion.corpus import read_corpus

pytestmark = pytest.mark.usefixtures("experiments")


@pytest.fixture(scope="module")
def fast() -> ModuleType:
    """省时间的几样。"""
    from starters import fast

    return fast


@pytest.mark.parametrize("shape", [(24, 16), (16, 24), (16, 16)])
def test_the_step_keeps_its_directions_and_loses_its_sizes(
    fast: ModuleType, shape: tuple[int, int]
) -> None:
    """正交化之后，奇异向量照旧，奇异值都在 1 附近；几个矩阵一起算也一样。"""
    torch.manual_seed(0)
    x = torch.randn(3, *shape)
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    turned = u.mT @ fast.orthogonalize(x) @ v.mT  # 在原来的奇异向量之下
    sizes = turned.diagonal(dim1=1, dim2=2)
    assert ((sizes > 0.6) & (sizes < 1.3)).all()
    assert (turned - torch.diag_embed(sizes)).abs().max() < 1e-3


def test_candidates_cost_what_the_whole_head_costs(fast: ModuleType) -> None:
    """只算候选的损失，多抽几次的均值与算全部的相差不到百分之一。"""
    from starters.models import build_model

    torch.manual_seed(0)
    model = build_model("qwen3", vocab_size=8000, seed=0)
    model.lm_head.weight.data.mul_(5)  # 让分布不均匀
    frequency = 1 / (torch.arange(8000) + 10.0)
    frequency /= frequency.sum()
    ids = torch.multinomial(frequency, 512, replacement=True).view(8, 64)
    batch = {"input_ids": ids, "labels": ids}
    with torch.no_grad():
        whole = fast.batch_loss(model, batch, True, True, frequency, None)
        sampled = [
            fast.batch_loss(
                model, batch, True, False, frequency, np.random.default_rng(seed)
            ).item()
            for seed in range(8)
        ]
    assert np.mean(sampled) == pytest.approx(whole.item(), rel=0.01)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """几万字的语料文件夹，样子与真的一样。"""
    for split, folder in (("train", "base"), ("valid", "tongjian")):
        (tmp_path / folder).mkdir()
        for side in ("classical", "modern"):
            lines = [each.text for each in read_corpus(f"sample:{side}", split)]
            content = "\n\n".join(lines).encode()
            name = tmp_path / folder / f"{split}.{side}.txt"
            if split == "train":
                name = name.with_suffix(".txt.gz")
                content = gzip.compress(content)
            name.write_bytes(content)
    (tmp_path / "general").mkdir()
    (tmp_path / "general/train.txt").write_text("今天的天气很好。\n" * 99, "utf-8")
    return tmp_path


@pytest.mark.parametrize("kind", ["qwen3", "bert"])
def test_an_interrupted_training_goes_on_bit_by_bit(
    kind: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """四步一口气，与两步之后重来两步，参数、平均与读到哪里都相等。"""
    import pretrain_small

    recipe = replace(pretrain_small.RECIPES[kind], tokens_per_step=256, tokens=4096)
    monkeypatch.setitem(pretrain_small.RECIPES, kind, recipe)
    found = []
    for name, stops in (("whole", (4,)), ("twice", (2, 4))):
        work = tmp_path / name
        work.mkdir()
        for stop in stops:
            pretrain_small.train(kind, data, work, None, stop)
        found.append(torch.load(work / f"{kind}.pt", weights_only=True))
    whole, twice = found
    assert whole["place"][:4] == twice["place"][:4]
    for part in ("model", "average"):
        for key, value in whole[part].items():
            assert torch.equal(value, twice[part][key]), key
