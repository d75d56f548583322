"""断点续训：kill -9、SIGTERM、Ctrl-C 之后，与不曾中断逐位相等。"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from companion.errors import ConfigError, TrainingError
from companion.training import TrainingInterrupted, train
from companion.training.loop import LogCallback, read_log
from companion.training.output import STAGING, list_checkpoints

SLOW_SAVE = """
import sys, time
from pathlib import Path
from companion.config import TrainingConfig
from companion.training import train
from companion.training.trainer import CompanionTrainer

config = TrainingConfig.from_sources(Path(sys.argv[1]), {})
save = CompanionTrainer._save_optimizer_and_scheduler

def wait_at_step_4(self, folder):
    if self.state.global_step == 4:  # 权重已写，优化器未写
        time.sleep(3600)
    save(self, folder)

CompanionTrainer._save_optimizer_and_scheduler = wait_at_step_4
train(config, quiet=True)
"""

CHANGES = {"max_steps": 7, "logging_steps": 3}
"""存盘（每 2 步）与日志（每 3 步）错开：一段日志会跨过检查点。"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory, configure):
    """不曾中断的一次。"""
    return train(
        configure(tmp_path_factory.mktemp("一气") / "out", **CHANGES), quiet=True
    )


def untimed(output: Path) -> list[dict[str, float]]:
    """日志里与快慢无关的部分。"""
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "tokens_per_second")}
        for row in read_log(output / "log.jsonl")
    ]


def assert_same(output: Path, whole, weights) -> None:
    """权重逐位相等，日志的损失与账本相同，没有残留。"""
    assert weights(output / "model") == weights(whole.output / "model")
    assert untimed(output) == untimed(whole.output)
    assert (output / "ledger.json").read_bytes() == (
        whole.output / "ledger.json"
    ).read_bytes()
    assert not (output / STAGING).exists()


def test_kill_9_while_saving_then_resume_changes_nothing(
    root, tmp_path, configure, whole, weights, no_curve
):
    """存第二个检查点存到一半时 kill -9：从第一个接着训练，结果逐位相等。"""
    output = tmp_path / "断过"
    config = configure(output, **CHANGES)
    config.save(tmp_path / "config.yaml")
    child = subprocess.Popen(
        [sys.executable, "-c", SLOW_SAVE, str(tmp_path / "config.yaml")],
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    try:
        half = output / STAGING / "checkpoint-4" / "model.safetensors"
        deadline = time.monotonic() + 300
        while not half.exists():
            assert child.poll() is None, "子进程自己退出了"
            assert time.monotonic() < deadline, "等不到检查点"
            time.sleep(0.05)
        time.sleep(0.2)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert child.returncode == -signal.SIGKILL
    assert [path.name for path in list_checkpoints(output)] == ["checkpoint-2"]
    assert half.exists()
    train(config, resume=True, quiet=True)
    assert_same(output, whole, weights)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_how_to_resume(
    number, tmp_path, configure, whole, weights, monkeypatch, no_curve
):
    """第 5 步来了信号：走完这一步，存盘，告诉用户怎样接着训练；接上之后逐位相等。"""
    output = tmp_path / "断过"
    config = configure(output, **CHANGES)

    def send(self, args, state, control, **_):
        if state.global_step == 5:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(LogCallback, "on_step_end", send)
        with pytest.raises(TrainingInterrupted) as caught:
            train(config, quiet=True)
    assert signal.getsignal(number) is before
    assert "第 5 步" in caught.value.found
    assert f"--resume --output {output}" in caught.value.remedy
    assert list_checkpoints(output)[-1].name == "checkpoint-5"
    assert not (output / "model").exists()
    train(config, resume=True, quiet=True)
    assert_same(output, whole, weights)


def test_a_causal_model_with_accumulation_resumes_exactly(
    tmp_path, configure, weights, monkeypatch, no_curve
):
    """GPT-2、两个微批量一步：从半途接上也逐位相等。"""
    options = {"gradient_accumulation_steps": 2, "max_steps": 5, "logging_steps": 2}
    straight = train(configure(tmp_path / "一气", "gpt2", **options), quiet=True)
    config = configure(tmp_path / "断过", "gpt2", **options)

    def send(self, args, state, control, **_):
        if state.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(LogCallback, "on_step_end", send)
        with pytest.raises(TrainingInterrupted):
            train(config, quiet=True)
    train(config, resume=True, quiet=True)
    assert_same(tmp_path / "断过", straight, weights)


def test_a_run_killed_before_its_report_only_finishes_it(
    tmp_path, configure, whole, weights, no_curve
):
    """训练走完、报告还没写就断了：续训补写结果，权重不变。"""
    output = tmp_path / "断过"
    shutil.copytree(whole.output, output)
    (output / "metrics.json").unlink()
    shutil.rmtree(output / "model")
    result = train(configure(output, **CHANGES), resume=True, quiet=True)
    assert_same(output, whole, weights)
    assert result.metrics == json.loads((output / "metrics.json").read_text("utf-8"))


def test_a_finished_run_is_not_resumed(configure, whole):
    """走完了的训练：说已经走完，给出再往下训练的办法，什么也不改。"""
    before = {p: p.stat().st_mtime_ns for p in whole.output.rglob("*")}
    with pytest.raises(TrainingError, match="已经走完") as caught:
        train(configure(whole.output, **CHANGES), resume=True, quiet=True)
    assert str(whole.output / "model") in caught.value.remedy
    assert before == {p: p.stat().st_mtime_ns for p in whole.output.rglob("*")}


@pytest.mark.parametrize(
    ("name", "value"), [("seed", 1), ("tokens_per_batch", 64), ("packing", False)]
)
def test_changed_settings_cannot_resume(configure, whole, name, value):
    """换了影响权重的设置：按名拒绝。"""
    with pytest.raises(ConfigError, match=name):
        train(
            configure(whole.output, **CHANGES, **{name: value}), resume=True, quiet=True
        )


def test_nothing_to_resume_is_said_and_nothing_is_made(tmp_path, configure):
    """没有上一次：说清楚，文件夹也不建。"""
    with pytest.raises(TrainingError, match=r"config\.yaml"):
        train(configure(tmp_path / "没有"), resume=True, quiet=True)
    assert not (tmp_path / "没有").exists()
