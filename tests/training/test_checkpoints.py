"""检查点：写完才改名，写不下时旧的完好。"""

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from companion.errors import TrainingError
from companion.training import output as checkpoints
from companion.training import train
from companion.training.output import (
    STAGING,
    latest_checkpoint,
    list_checkpoints,
    staged,
)

FULL = {
    "操作系统": OSError(errno.ENOSPC, "No space left on device"),
    "配额": OSError(errno.EDQUOT, "Disk quota exceeded"),
    "坏盘": OSError(errno.EIO, "Input/output error"),
    "文件夹没了": FileNotFoundError(errno.ENOENT, "No such file or directory"),
    "safetensors": SafetensorError(
        "Error while serializing: I/O error: No space left on device (os error 28)"
    ),
    "torch": RuntimeError(
        "[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"
    ),
}
"""磁盘满时各库真正抛出的异常（torch 2.13、safetensors 0.8 在满了的 tmpfs 上所见）。"""


def write(folder: Path, step: int, text: str = "新") -> None:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text(text, encoding="utf-8")


def names(output: Path) -> list[str]:
    return [path.name for path in list_checkpoints(output)]


def test_checkpoints_are_listed_by_step(tmp_path):
    """按步数排，不按字母；写了一半的与别的文件夹不算。"""
    for step in (10, 9, 100):
        write(tmp_path, step)
    (tmp_path / "checkpoint-200").mkdir()
    write(tmp_path / STAGING, 300)
    (tmp_path / "checkpoint-best").mkdir()
    assert names(tmp_path) == ["checkpoint-9", "checkpoint-10", "checkpoint-100"]
    assert latest_checkpoint(tmp_path).name == "checkpoint-100"


def test_no_checkpoint_is_an_error_with_a_way_out(tmp_path):
    """没有可续的：说清楚，并给出走得通的办法。"""
    with pytest.raises(TrainingError, match="没有检查点") as caught:
        latest_checkpoint(tmp_path)
    assert "换一个 --output" in caught.value.remedy


def test_a_finished_checkpoint_appears_and_old_ones_go(tmp_path):
    """写完才出现；只留最新的几个；临时文件夹不见了。"""
    for step in (2, 4, 6):
        with staged(tmp_path, limit=2) as folder:
            write(folder, step)
            assert f"checkpoint-{step}" not in names(tmp_path)
    assert names(tmp_path) == ["checkpoint-4", "checkpoint-6"]
    assert not (tmp_path / STAGING).exists()


def test_the_same_step_is_replaced(tmp_path):
    """续训又走到同一步：换成新的。"""
    write(tmp_path, 2, "旧")
    with staged(tmp_path, limit=2) as folder:
        write(folder, 2, "新")
    state = tmp_path / "checkpoint-2" / "trainer_state.json"
    assert state.read_text(encoding="utf-8") == "新"


def test_remains_of_a_killed_save_are_cleared(tmp_path):
    """上次被 kill -9 留下的半份：不会混进这一次。"""
    write(tmp_path / STAGING, 3, "半份")
    with staged(tmp_path, limit=2) as folder:
        write(folder, 4)
    assert names(tmp_path) == ["checkpoint-4"]


def test_the_new_one_is_on_disk_before_the_old_one_goes(tmp_path, monkeypatch):
    """删旧的之前，新检查点的每个文件、每层文件夹都已落盘，改名也落了盘。"""
    write(tmp_path, 2, "旧")
    (tmp_path / "checkpoint-2" / "留个记号").touch()
    happened = []
    real = checkpoints.shutil.rmtree

    def remove(path, *args, **kwargs):
        happened.append(f"删 {Path(path).name}")
        real(path, *args, **kwargs)

    monkeypatch.setattr(checkpoints.shutil, "rmtree", remove)
    monkeypatch.setattr(
        checkpoints, "flush", lambda path: happened.append(f"落盘 {path.name}")
    )
    with staged(tmp_path, limit=1) as folder:
        write(folder, 4)
        (folder / "checkpoint-4" / "里层").mkdir()
        (folder / "checkpoint-4" / "里层" / "权重").touch()
        happened.clear()
    removed = happened.index("删 checkpoint-2")
    names = ("trainer_state.json", "里层", "权重", "checkpoint-4", tmp_path.name)
    for name in names:
        assert happened.index(f"落盘 {name}") < removed, name
    assert happened.index(f"落盘 {tmp_path.name}") > happened.index("落盘 checkpoint-4")


def test_flushing_really_reaches_the_disk(tmp_path, monkeypatch):
    """落盘就是 fsync，文件与文件夹都算。"""
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number)))
    with staged(tmp_path, limit=1) as folder:
        write(folder, 4)
    inodes = {status.st_ino for status in synced}
    target = tmp_path / "checkpoint-4"
    for path in (target, target / "trainer_state.json", tmp_path):
        assert path.stat().st_ino in inodes


@pytest.mark.parametrize("where", FULL)
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, where):
    """磁盘满，不论哪个库报的：一句话说清，旧检查点一字不变，不留半份。"""
    write(tmp_path, 2, "旧")

    def save():
        with staged(tmp_path, limit=1) as folder:
            write(folder, 4, "半份")
            raise FULL[where]

    with pytest.raises(TrainingError, match="checkpoint-2 完好") as caught:
        save()
    assert "--resume" in caught.value.remedy
    assert names(tmp_path) == ["checkpoint-2"]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="没有 /dev/full")
def test_the_error_torch_really_raises_is_recognised(tmp_path):
    """往 /dev/full 写：torch 的异常不提磁盘，照样认得。"""

    def save():
        with staged(tmp_path, limit=1):
            torch.save({"a": torch.zeros(100_000)}, "/dev/full")

    with pytest.raises(TrainingError, match="检查点写不进"):
        save()


def test_our_own_faults_are_not_called_a_full_disk(tmp_path):
    """与写盘无关的异常原样抛出；半份仍清掉。"""

    def save():
        with staged(tmp_path, limit=1) as folder:
            write(folder, 4)
            raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        save()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("function", "error"),
    [
        ("torch.save", FULL["操作系统"]),
        ("transformers.modeling_utils.safe_save_file", FULL["safetensors"]),
    ],
)
def test_a_disk_that_fills_up_in_mid_run_loses_nothing(
    function, error, tmp_path, configure, weights, monkeypatch, no_curve
):
    """第二个检查点写不下：停下，第一个完好；腾出空间后接得上，与不曾中断逐位相等。"""
    whole = train(configure(tmp_path / "一气"), quiet=True)
    output = tmp_path / "断过"
    with monkeypatch.context() as patch:
        module, _, name = function.rpartition(".")
        real = getattr(__import__(module, fromlist=[name]), name)

        def full(*args, **kwargs):
            if (output / "checkpoint-2").exists():
                raise error
            return real(*args, **kwargs)

        patch.setattr(function, full)
        with pytest.raises(TrainingError, match="checkpoint-2 完好"):
            train(configure(output), quiet=True)
    assert names(output) == ["checkpoint-2"]
    assert not (output / STAGING).exists()
    resumed = train(configure(output), resume=True, quiet=True)
    assert weights(output / "model") == weights(whole.output / "model")
    assert resumed.ledger == whole.ledger
