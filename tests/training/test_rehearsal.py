"""预演：安排与真训练的相同，内存看得见，权重与文件夹都不动。"""

import json
import subprocess
import sys
from io import StringIO

import pytest
from rich.console import Console

from companion.errors import ConfigError
from companion.training import rehearse_training, train
from companion.training import run as run_module
from companion.training.inputs import weights_fingerprint
from companion.training.rehearsal import rehearse

pytestmark = pytest.mark.usefixtures("no_curve")


def test_it_says_what_the_training_then_does(tmp_path, configure, corpus):
    """步数、词元、遍数与随后真训练的相同；屏幕上有账本与途中评估；文件夹不出现。"""
    config = configure(
        tmp_path / "输出", replay=str(corpus), eval=True, eval_steps=2, max_steps=4
    )
    said = StringIO()
    found = rehearse_training(config, console=Console(file=said, width=200))
    assert not (tmp_path / "输出").exists()
    for words in ("词元账本", "途中评估：每 2 步一次", "设备："):
        assert words in said.getvalue()
    result = train(config, quiet=True)
    assert found.steps == result.metrics["steps"] == 4
    assert found.tokens == result.metrics["tokens_trained"]
    assert found.epochs == result.ledger.epochs
    ledger = json.loads((result.output / "ledger.json").read_text(encoding="utf-8"))
    assert found.sources == ledger["sources"]
    assert found.training_seconds > 0
    assert found.evaluation_seconds > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "fp32"},
        {"precision": "bf16"},
        {"optimizer": "muon", "embedding_learning_rate": 1e-2},
        {"optimizer": "adafactor", "layer_learning_rate_decay": 0.5},
    ],
)
def test_no_weight_moves(tmp_path, configure, monkeypatch, changes):
    """跑过几步，权重一位不变；半精度、别的优化器也一样。"""
    seen = []

    def watched(run, *rest):
        before = weights_fingerprint(run.checkpoint.model)
        found = rehearse(run, *rest)
        seen.append((before, weights_fingerprint(run.checkpoint.model)))
        return found

    monkeypatch.setattr(run_module, "rehearse", watched)
    rehearse_training(configure(tmp_path / "输出", **changes), quiet=True)
    [(before, after)] = seen
    assert before == after


def test_the_memory_is_that_of_the_run(tmp_path, configure):
    """两个进程各跑一遍：预演说的内存与真训练的峰值相差不到四分之一。"""
    script = (
        "import json,resource,sys\n"
        "from companion.config import TrainingConfig\n"
        "from companion.training import rehearse_training, train\n"
        "config = TrainingConfig(**json.loads(sys.argv[2]))\n"
        "if sys.argv[1] == 'dry':\n"
        "    print(rehearse_training(config, quiet=True).memory_bytes)\n"
        "else:\n"
        "    train(config, quiet=True)\n"
        "    unit = 1 if sys.platform == 'darwin' else 1024\n"
        "    print(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    config = configure(tmp_path / "输出", model="starter:bert", max_steps=3)
    given = json.dumps(config.as_dict(), ensure_ascii=False)
    said, peak = (
        int(
            subprocess.run(
                [sys.executable, "-W", "ignore", "-c", script, what, given],
                capture_output=True, text=True, check=True, timeout=300,
            ).stdout
        )
        for what in ("dry", "real")
    )  # fmt: skip
    assert said == pytest.approx(peak, rel=0.25)


def test_bad_settings_are_refused_as_in_a_training(tmp_path, configure):
    """预演与训练拒绝同样的设置。"""
    with pytest.raises(ConfigError, match="eval_steps"):
        rehearse_training(configure(tmp_path, eval=True, eval_steps=99), quiet=True)


def test_the_time_of_the_teacher_is_told(tmp_path, configure, checkpoints):
    """有教师的，说出它的前向占多少；评估的时间里没有它。"""
    given = {"teacher": str(checkpoints / "bert"), "eval": True}
    found = rehearse_training(configure(tmp_path / "输出", **given), quiet=True)
    assert 0 < found.teacher_seconds < found.training_seconds
    assert "其中教师的前向约" in str(found)
    alone = rehearse_training(configure(tmp_path / "输出"), quiet=True)
    assert alone.teacher_seconds == 0
    assert "教师" not in str(alone)
