"""继续预训练真的让起步模型变好：不是跑通，是学到。"""

import dataclasses

import pytest

from companion.corpus.sources import read_cloze
from companion.training import run as demo
from companion.training.run import demo_config, run_demo


@pytest.mark.parametrize(
    ("objective", "least_gain"), [("masked_lm", 0.08), ("causal_lm", 0.03)]
)
def test_a_short_demo_learns_the_chronicle(
    objective, least_gain, tmp_path, monkeypatch
):
    """四十步之后，小史的留出集每字比特数明显下降，通用文字没有坏到两成。"""

    def short(key, output):
        return dataclasses.replace(
            demo_config(key, output), max_steps=40, eval_max_chars=1500
        )

    asked = read_cloze("modern" if objective == "causal_lm" else "classical")[:2]
    monkeypatch.setattr(demo, "demo_config", short)
    monkeypatch.setattr(demo, "read_cloze", lambda _side: asked)
    metrics = run_demo(objective, tmp_path / "out", quiet=True).metrics
    before, after = metrics["before"], metrics["after"]
    domain = after["domain"]["bits_per_char"] / before["domain"]["bits_per_char"] - 1
    general = after["general"]["bits_per_char"] / before["general"]["bits_per_char"] - 1
    assert domain < -least_gain
    assert general < 0.2
