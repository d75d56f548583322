"""输出文件夹：从不覆盖，续训必须一模一样，不留半份。"""

import json
import os
from dataclasses import replace

import pytest

from companion.errors import ConfigError, TrainingError
from companion.training.output import (
    CONFIG_FILE,
    check_output,
    resumed_config,
    write_json,
)


@pytest.mark.parametrize("name", ["新的", "新的/更深的/一层"])
def test_a_new_or_empty_folder_is_accepted_and_nothing_is_written(tmp_path, name):
    """新的、深的、空的都行；核对时什么也不建。"""
    check_output(tmp_path / name, resume=False)
    assert list(tmp_path.iterdir()) == []
    check_output(tmp_path, resume=False)


@pytest.mark.parametrize(
    ("present", "said", "resumable"),
    [(CONFIG_FILE, "另一次运行", True), ("笔记.txt", "别的文件", False)],
)
def test_a_folder_in_use_is_refused(tmp_path, present, said, resumable):
    """里面有东西就拒绝；是一次运行才提到 --resume。"""
    (tmp_path / present).write_text("", encoding="utf-8")
    with pytest.raises(TrainingError, match=said) as caught:
        check_output(tmp_path, resume=False)
    assert ("--resume" in caught.value.remedy) is resumable


def test_a_file_in_the_way_is_refused(tmp_path):
    """路径本身或上层是一个文件。"""
    (tmp_path / "文件").write_text("", encoding="utf-8")
    for output in (tmp_path / "文件", tmp_path / "文件" / "下面"):
        with pytest.raises(TrainingError):
            check_output(output, resume=False)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    """上层不可写：说出是哪一个文件夹。"""
    monkeypatch.setattr(os, "access", lambda *_args: False)
    with pytest.raises(TrainingError, match="不可写"):
        check_output(tmp_path / "新的", resume=False)


def test_there_must_be_something_to_resume(tmp_path):
    """空文件夹与没有检查点的运行都不能续，各说各的缘由。"""
    with pytest.raises(TrainingError, match=CONFIG_FILE):
        check_output(tmp_path, resume=True)
    (tmp_path / CONFIG_FILE).write_text("", encoding="utf-8")
    with pytest.raises(TrainingError, match="没有检查点") as caught:
        check_output(tmp_path, resume=True)
    assert "换一个 --output" in caught.value.remedy  # 原处已有 config.yaml，重训会被拒


@pytest.fixture
def saved(tmp_path, configure):
    config = configure(tmp_path, precision="fp32")
    config.save(tmp_path / CONFIG_FILE)
    return config


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 7),
        ("learning_rate", 5e-4),
        ("block_size", 16),
        ("max_steps", 9),
        ("precision", "bf16"),
        ("lora_rank", 4),
    ],
)
def test_changed_settings_are_refused_by_name(saved, name, value):
    """改了影响权重的设置：说出名字与前后两个值。"""
    with pytest.raises(ConfigError, match=name) as caught:
        resumed_config(replace(saved, **{name: value}))
    assert str(getattr(saved, name)) in caught.value.found
    assert str(value) in caught.value.found


def test_intervals_may_change(saved):
    """日志与存盘的间隔、留几个检查点可以改。"""
    changes = {"save_steps": 9, "logging_steps": 3, "save_total_limit": 1}
    assert resumed_config(replace(saved, **changes)) == replace(saved, **changes)


def test_what_was_left_to_us_stays_as_chosen(saved):
    """没有给的学习率、行长与精度，沿用上一次选定的。"""
    unsaid = replace(saved, learning_rate=None, block_size=None, precision="auto")
    assert resumed_config(unsaid) == saved


def test_a_moved_run_resumes_where_it_now_is(saved, tmp_path):
    """文件夹搬了家也能续：输出以现在的为准。"""
    moved = tmp_path.with_name(tmp_path.name + "-搬家")
    tmp_path.rename(moved)
    here = replace(saved, output=str(moved))
    assert resumed_config(here).output == str(moved)


def test_a_failed_write_leaves_the_old_json(tmp_path):
    """写 JSON 失败：旧的一字不变。"""
    path = tmp_path / "metrics.json"
    write_json(path, {"数": 1})
    with pytest.raises(TypeError):
        write_json(path, {"数": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"数": 1}
