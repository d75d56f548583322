"""保存检查点：要么完整，要么旧的原样。"""

import errno
from pathlib import Path

import pytest
import torch
from model_folders import write_checkpoint
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from companion.checkpoints.saving import MARKER, save_checkpoint
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.errors import ModelError


def contents(folder: Path) -> dict[str, bytes]:
    """文件名 → 内容，含隐藏文件。"""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def saved(tmp_path) -> Path:
    """已有一份旧检查点（种子 0）的文件夹。"""
    tokenizer = tiny_tokenizer("bert")
    return save_checkpoint(tiny_model("bert", tokenizer), tokenizer, tmp_path / "model")


@pytest.mark.parametrize(
    ("kind", "auto_class"),
    [("bert", AutoModelForMaskedLM), ("bloom", AutoModelForCausalLM)],
)
def test_stock_auto_classes_open_what_we_saved(kind, auto_class, tmp_path):
    """存成的是标准检查点：AutoModel 与 AutoTokenizer 直接打开，权重相等。"""
    tokenizer = tiny_tokenizer(kind)
    model = tiny_model(kind, tokenizer)
    folder = save_checkpoint(model, tokenizer, tmp_path / "深" / "处" / "model")
    reloaded = auto_class.from_pretrained(folder)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, reloaded.state_dict()[name]), name
    again = AutoTokenizer.from_pretrained(folder)
    assert again("良弓藏")["input_ids"] == tokenizer("良弓藏")["input_ids"]


def test_saving_replaces_our_own_checkpoint_and_leaves_no_litter(saved):
    """再存一次顶替旧的，旁边不留临时文件夹。"""
    before = contents(saved)
    tokenizer = tiny_tokenizer("bert")
    save_checkpoint(tiny_model("bert", tokenizer, seed=1), tokenizer, saved)
    assert contents(saved).keys() == before.keys()
    assert contents(saved)["model.safetensors"] != before["model.safetensors"]
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_an_empty_folder_is_filled(tmp_path):
    """目标是空文件夹：存进去。"""
    (tmp_path / "model").mkdir()
    tokenizer = tiny_tokenizer("bert")
    save_checkpoint(tiny_model("bert", tokenizer), tokenizer, tmp_path / "model")
    assert (tmp_path / "model" / MARKER).is_file()


def test_a_downloaded_model_is_never_overwritten(tmp_path):
    """别人的检查点没有我们的标记：拒绝，一个字节也不动。"""
    folder = write_checkpoint(tmp_path / "theirs", "bert")
    before = contents(tmp_path)
    with pytest.raises(ModelError, match="不是本程序保存的内容"):
        save_checkpoint(tiny_model("bert", seed=1), tiny_tokenizer("bert"), folder)
    assert contents(tmp_path) == before


def test_a_file_that_somebody_added_is_not_deleted(saved):
    """我们的检查点里添了笔记：拒绝，报出文件名。"""
    (saved / "笔记.txt").write_text("别删")
    with pytest.raises(ModelError, match=r"笔记\.txt"):
        save_checkpoint(tiny_model("bert"), tiny_tokenizer("bert"), saved)
    assert (saved / "笔记.txt").read_text() == "别删"


def test_a_file_in_the_way_is_an_error(tmp_path):
    """目标是文件：报错。"""
    (tmp_path / "model").write_text("x")
    with pytest.raises(ModelError, match="是一个文件"):
        save_checkpoint(tiny_model("bert"), tiny_tokenizer("bert"), tmp_path / "model")


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    SafetensorError(
        "Error while serializing: I/O error: No space left on device (os error 28)"
    ),
]


@pytest.mark.parametrize("failure", FULL, ids=["OSError", "SafetensorError"])
def test_a_full_disk_leaves_the_old_checkpoint_whole(failure, saved, monkeypatch):
    """写到一半磁盘满：旧检查点逐字节不变，半成品清走，消息说明白。"""
    before = contents(saved.parent)
    tokenizer = tiny_tokenizer("bert")
    model = tiny_model("bert", tokenizer, seed=1)
    write = type(model).save_pretrained

    def half(self, folder, **kwargs):
        write(self, folder, **kwargs)
        raise failure

    monkeypatch.setattr(type(model), "save_pretrained", half)
    with pytest.raises(ModelError, match=r"磁盘已满.*旧检查点完好"):
        save_checkpoint(model, tokenizer, saved)
    assert contents(saved.parent) == before


def test_an_interrupt_leaves_the_old_checkpoint_whole(saved, monkeypatch):
    """写分词器时按了 Ctrl-C：旧检查点逐字节不变。"""
    before = contents(saved.parent)
    tokenizer = tiny_tokenizer("bert")

    def interrupt(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(tokenizer, "save_pretrained", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tiny_model("bert", tokenizer, seed=1), tokenizer, saved)
    assert contents(saved.parent) == before


def test_the_old_checkpoint_returns_if_the_last_rename_fails(saved, monkeypatch):
    """旧的已让位、新的改名失败：旧的搬回原处。"""
    before = contents(saved.parent)
    rename = Path.rename

    def refuse(self, target):
        if ".new-" in self.name:
            raise OSError(errno.EACCES, "denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    tokenizer = tiny_tokenizer("bert")
    with pytest.raises(ModelError, match="写不进"):
        save_checkpoint(tiny_model("bert", tokenizer, seed=1), tokenizer, saved)
    assert contents(saved.parent) == before


def test_an_unwritable_place_is_an_error(tmp_path):
    """上层是文件，建不了文件夹：一条中文消息。"""
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match="写不进"):
        save_checkpoint(
            tiny_model("bert"), tiny_tokenizer("bert"), tmp_path / "file" / "model"
        )
