"""磁盘写满：不论写到哪一份，都是一句说得清的话；旧检查点还在，腾出空间就接得上。"""

import errno
from pathlib import Path

import pytest

from companion.errors import TrainingError
from companion.training import train
from companion.training.output import list_checkpoints, write_text

REPORT = {"eval": True, "eval_max_chars": 100}


@pytest.fixture
def fill_up(monkeypatch):
    """让名字里有这一段的文件写不下，别的照常；返回的函数腾出空间。"""
    real = Path.open

    def fill(name: str, number: int = errno.ENOSPC):
        def refuse(self, mode="r", *args, **kwargs):
            if name in self.name and mode[0] in "wax":
                real(self, mode).close()  # 盘满时文件常已建好，只是写不下
                raise OSError(number, "No space left on device")
            return real(self, mode, *args, **kwargs)

        monkeypatch.setattr(Path, "open", refuse)
        return lambda: monkeypatch.setattr(Path, "open", real)

    return fill


@pytest.mark.parametrize(
    ("name", "changes", "kept"),
    [
        ("config.yaml", {}, None),
        ("log.jsonl", {}, None),
        ("ledger.json", {}, "checkpoint-2"),
        ("curve.png", {}, "checkpoint-2"),
        ("report.html", REPORT, "checkpoint-2"),
        ("report.md", REPORT, "checkpoint-2"),
        ("metrics.json", {}, "checkpoint-2"),
    ],
)
def test_a_full_disk_is_one_message_that_says_what_survives(
    name, changes, kept, tmp_path, configure, fill_up, monkeypatch, request
):
    """说出是哪一份、为什么、还剩哪个检查点；没有半份留下；腾出空间后续训补齐结果。"""
    if name != "curve.png":
        request.getfixturevalue("no_curve")
    output = tmp_path / "输出"
    config = configure(output, max_steps=2, **changes)
    free_up = fill_up(name)
    with pytest.raises(TrainingError) as caught:
        train(config, quiet=True)
    error = caught.value
    assert "写不进" in error.found
    assert "No space left on device" in error.found
    assert name.partition(".")[0] in error.found
    assert "腾出空间" in error.remedy
    assert "磁盘" in error.expected
    assert [p.name for p in list_checkpoints(output)] == ([kept] if kept else [])
    assert not [p.name for p in output.iterdir() if p.name.endswith((".new", ".tmp"))]
    if kept is None:
        assert "--resume" not in error.remedy
        assert "从头训练" in error.remedy
        return
    assert f"{kept} 完好" in error.remedy
    assert not (output / "metrics.json").exists()  # 它最后才写：有它就是走完了
    free_up()
    train(config, resume=True, quiet=True)
    assert (output / "metrics.json").is_file()
    assert (output / name).is_file() or "curve" in name


def test_a_log_that_stops_in_mid_run_keeps_the_checkpoint(
    tmp_path, configure, fill_up, weights, no_curve, monkeypatch
):
    """训练到一半日志写不下：停下；接上之后日志不缺行，权重与不曾中断的逐位相等。"""
    whole = train(configure(tmp_path / "一气", max_steps=4), quiet=True)
    output = tmp_path / "断过"
    config = configure(output, max_steps=4)
    real, rows = Path.open, []

    def fill_later(self, mode="r", *args, **kwargs):
        if self.name == "log.jsonl" and mode == "a":
            rows.append(mode)
            if len(rows) == 3:
                raise OSError(errno.EIO, "Input/output error")
        return real(self, mode, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fill_later)
        with pytest.raises(TrainingError, match="Input/output error") as caught:
            train(config, quiet=True)
    assert "checkpoint-2 完好" in caught.value.remedy
    resumed = train(config, resume=True, quiet=True)
    assert [row["loss"] for row in resumed.log] == [row["loss"] for row in whole.log]
    assert weights(output / "model") == weights(whole.output / "model")


def test_a_log_is_rewritten_aside(tmp_path, fill_up):
    """续训时重写日志写不下：原来的一字不变。"""
    path = tmp_path / "log.jsonl"
    write_text(path, "旧\n")
    fill_up("log.jsonl")
    with pytest.raises(TrainingError, match=r"log\.jsonl 写不进"):
        write_text(path, "新\n")
    assert [p.name for p in tmp_path.iterdir()] == ["log.jsonl"]
    assert path.read_bytes().decode() == "旧\n"
