"""离线演示跑得通：文件齐全、指标的键都在。它学到东西与否，看笔记本的成绩。"""

import dataclasses
import json

import pytest

from companion.corpus.sources import read_cloze
from companion.training import run as demo
from companion.training.run import demo_config, run_demo


@pytest.mark.parametrize(
    ("objective", "model", "side"),
    [
        ("masked_lm", "starter:bert", "classical"),
        ("causal_lm", "starter:bloom", "modern"),
    ],
)
def test_the_demo_is_offline(objective, model, side, tmp_path):
    """起步模型、随包的语料与回放，都在本机；另有通用留出集量遗忘。"""
    config = demo_config(objective, tmp_path / "out")
    assert (config.model, config.corpus) == (model, f"sample:{side}")
    assert config.general
    assert config.replay
    assert read_cloze(side)


def test_the_demo_writes_a_whole_report(tmp_path, monkeypatch):
    """三步的演示：模型、报告、前后两份留出集的成绩与填空题都在。"""

    def short(objective, output):
        return dataclasses.replace(
            demo_config(objective, output), max_steps=3, eval_max_chars=200,
            tokens_per_batch=256, logging_steps=1,
        )  # fmt: skip

    asked = read_cloze("classical")[:4]
    monkeypatch.setattr(demo, "demo_config", short)
    monkeypatch.setattr(demo, "read_cloze", lambda _side: asked)
    output = tmp_path / "演示"
    result = run_demo("masked_lm", output, quiet=True)
    metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    assert metrics == result.metrics
    assert {"objective", "model", "steps", "tokens_trained", "before", "after"} <= set(
        metrics
    )
    for when in ("before", "after"):
        assert set(metrics[when]) == {"domain", "general"}
        assert metrics[when]["domain"]["num_targets"] > 0
    names = {path.name for path in output.iterdir()}
    assert {"model", "report.html", "report.md", "curve.png", "ledger.json"} <= names
    page = (output / "report.html").read_text(encoding="utf-8")
    assert all(cloze.answer in page for cloze in asked)
