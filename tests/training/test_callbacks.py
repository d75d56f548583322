"""途中看得见的事：日志的每一行、进度、信号。"""

import json
import math
import os
import signal
import threading
from io import StringIO
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from companion.training import train
from companion.training.arguments import factor_at
from companion.training.batching import BatchPlan
from companion.training.loop import LogCallback, StopCallback, read_log
from companion.training.team import ALONE

FIELDS = [
    "step", "tokens", "loss", "bits_per_target", "accuracy", "learning_rate",
    "grad_norm", "tokens_per_second", "seconds",
]  # fmt: skip


@pytest.fixture
def run(tmp_path, configure, no_curve):
    config = configure(
        tmp_path / "输出", max_steps=7, logging_steps=3, gradient_accumulation_steps=2
    )
    return train(config, quiet=True)


def test_the_log_has_one_row_per_interval(run):
    """log.jsonl：第 1 步、每 3 步；一行一个 JSON 对象，字段固定，都是数。"""
    lines = (run.output / "log.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert rows == run.log
    assert [row["step"] for row in rows] == [1, 3, 6]
    for row in rows:
        assert list(row) == FIELDS
        assert all(math.isfinite(value) for value in row.values())
        assert row["bits_per_target"] == pytest.approx(
            row["loss"] / math.log(2), abs=1e-5
        )
        peak_share = factor_at(row["step"] - 1, "cosine", 7, 0)
        assert row["learning_rate"] == pytest.approx(1e-3 * peak_share)
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)


def logger(tmp_path, console=None):
    """一个计划 4 步、每步两批、每批 5 与 7 个词元的日志。"""
    plan = BatchPlan([[(0, 0)], [(0, 1)]] * 4, 4, 1.0, 48, 48, 0)
    data = SimpleNamespace(plan=plan, rows=SimpleNamespace(lengths=np.array([5, 7])))
    taken = {"nats_per_target": math.log(2), "accuracy": 0.5}
    callback = LogCallback(tmp_path / "log.jsonl", console)
    callback.trainer = SimpleNamespace(
        data=data,
        team=ALONE,
        tally=SimpleNamespace(take=lambda _team: taken),
        check_gradients=lambda: None,
        check_finite=lambda *_args: None,
    )
    return callback


def log(callback, *steps, start=0):
    callback.on_train_begin(None, SimpleNamespace(global_step=start), None)
    for step in steps:
        state = SimpleNamespace(global_step=step)
        callback.on_step_end(None, state, None)
        logs = {"loss": 1.0, "learning_rate": 0.1, "grad_norm": 2.0}
        callback.on_log(None, state, None, logs=logs)
    callback.on_log(None, state, None, logs={"train_runtime": 1.0})
    callback.on_train_end(None, None, None)


def test_tokens_count_every_micro_batch(tmp_path):
    """每步两个微批量，12 个词元；Trainer 收尾的一行不记。"""
    callback = logger(tmp_path)
    log(callback, 1, 3)
    assert [row["tokens"] for row in callback.rows] == [12, 36]
    assert [row["bits_per_target"] for row in callback.rows] == [1.0, 1.0]


def test_a_resumed_log_drops_what_came_after_the_checkpoint(tmp_path):
    """续训：检查点之后的行与最后半行都删去，时间接着数。"""
    first = logger(tmp_path)
    log(first, 1, 2, 3)
    path = tmp_path / "log.jsonl"
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 4, "lo')
    second = logger(tmp_path)
    log(second, 3, 4, start=2)
    rows = read_log(path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[:2] == first.rows[:2]
    assert rows[2]["seconds"] >= rows[1]["seconds"]


def test_only_numbers_that_json_can_write_are_logged(tmp_path):
    """fp16 跳过的一步，梯度范数是无穷大：日志里写 null，每行仍是合法的 JSON。"""
    callback = logger(tmp_path)
    callback.on_train_begin(None, SimpleNamespace(global_step=0), None)
    for step, norm in ((1, math.inf), (2, math.nan), (3, 2.0)):
        logs = {"loss": 1.0, "learning_rate": 0.1, "grad_norm": norm}
        callback.on_log(None, SimpleNamespace(global_step=step), None, logs=logs)
    lines = (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [row["grad_norm"] for row in rows] == [None, None, 2.0]


def test_another_process_counts_but_does_not_write(tmp_path):
    """没有给日志文件的进程：行照样数，盘上什么也没有。"""
    callback = logger(tmp_path)
    callback.path = None
    log(callback, 1, 2)
    assert [row["step"] for row in callback.rows] == [1, 2]
    assert list(tmp_path.iterdir()) == []


def test_there_may_be_no_log_yet(tmp_path):
    """没有日志就是没有行。"""
    assert read_log(tmp_path / "log.jsonl") == []


def test_without_a_terminal_progress_is_a_line_per_tenth(tmp_path):
    """输出到文件时：一行一句，没有控制字符。"""
    text = StringIO()
    log(logger(tmp_path, Console(file=text, width=200)), 1, 2, 4)
    lines = text.getvalue().splitlines()
    assert [line[:7] for line in lines] == ["第 1/4 步", "第 2/4 步", "第 4/4 步"]
    assert "1.000 比特" in lines[0]
    assert "\x1b" not in text.getvalue()


def test_a_terminal_gets_a_bar_that_goes_away(tmp_path):
    """终端里是进度条，出错时也收得起来。"""
    text = StringIO()
    callback = logger(tmp_path, Console(file=text, width=120, force_terminal=True))
    log(callback, 1, 2)
    assert "训练" in text.getvalue()
    assert callback._progress is None
    callback.close()


def test_signals_are_heard_only_while_listening():
    """期间接住信号，之后还给原来的处理；走完这一步就要求存盘、停下。"""
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    stop = StopCallback()
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    with stop.listening():
        stop.on_step_end(None, SimpleNamespace(global_step=1, max_steps=5), control)
        assert not control.should_training_stop
        os.kill(os.getpid(), signal.SIGTERM)
        stop.on_step_end(None, SimpleNamespace(global_step=2, max_steps=5), control)
    assert (control.should_save, control.should_training_stop) == (True, True)
    assert before == {s: signal.getsignal(s) for s in before}


def test_a_signal_in_the_last_step_changes_nothing():
    """最后一步才来的信号：训练已经走完，照常收尾。"""
    stop = StopCallback()
    stop.received = signal.SIGINT
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    stop.on_step_end(None, SimpleNamespace(global_step=5, max_steps=5), control)
    assert not control.should_training_stop


def test_a_second_ctrl_c_leaves_at_once():
    """再按一次 Ctrl-C：立刻退出，处理也还回去。"""
    before = signal.getsignal(signal.SIGINT)

    def press_twice():
        with StopCallback().listening():
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        press_twice()
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_cannot_listen_and_does_not_fail():
    """在别的线程里训练：不接信号，也不出错。"""
    reached = []

    def work():
        with StopCallback().listening():
            reached.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert reached == [True]
