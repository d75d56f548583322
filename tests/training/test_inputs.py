"""读进去的东西：续训时内容变了就拒绝，检查点坏了说出是哪个文件，留出集见过的不算学到。"""

import json
import os
import shutil
from pathlib import Path

import pytest

from companion.checkpoints.loading import load_checkpoint
from companion.corpus.reading import read_documents
from companion.errors import CompanionError, TrainingError
from companion.training import train
from companion.training.inputs import weights_fingerprint
from companion.training.output import CHECKSUMS_FILE, INPUTS_FILE


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, configure, corpus):
    """停在第 4 步的一次；语料、通用留出集、底座都在同一个文件夹里。"""
    folder = tmp_path_factory.mktemp("停下")
    texts = corpus.read_text(encoding="utf-8").split("\n\n")
    (folder / "语料.txt").write_text("\n\n".join(texts[8:]), encoding="utf-8")
    (folder / "通用.txt").write_text("\n\n".join(texts[:8]), encoding="utf-8")
    config = configure(folder / "输出", save_total_limit=3)
    shutil.copytree(config.model, folder / "底座")
    changes = {"model": str(folder / "底座"), "corpus": str(folder / "语料.txt")}
    train(with_(config, general=str(folder / "通用.txt"), **changes), quiet=True)
    shutil.rmtree(folder / "输出" / "checkpoint-6")
    (folder / "输出" / "metrics.json").unlink()
    return folder


def with_(config, **changes):
    """改几项设置。"""
    from dataclasses import replace

    return replace(config, **changes)


@pytest.fixture
def copied(stopped, tmp_path):
    """同一份，可以弄坏：用过之后换回原样。"""
    kept = tmp_path / "原样"
    shutil.copytree(stopped, kept)
    yield stopped
    shutil.rmtree(stopped)
    kept.rename(stopped)


def resume(folder: Path):
    """接着训练。"""
    from companion.config import TrainingConfig

    output = folder / "输出"
    saved = TrainingConfig.from_sources(output / "config.yaml", {"output": str(output)})
    return train(saved, resume=True, quiet=True)


def test_unchanged_inputs_resume(copied):
    """什么也没变，就接得上；inputs.json 里四份都有指纹。"""
    assert resume(copied).metrics["steps"] == 6
    noted = json.loads((copied / "输出" / INPUTS_FILE).read_text())["fingerprints"]
    assert set(noted) == {"corpus", "valid", "general", "model", "tokenizer"}


def add_a_document(folder: Path) -> None:
    path = folder / "语料.txt"
    path.write_text("新添的一篇。\n\n" + path.read_text(encoding="utf-8"), "utf-8")


def change_a_character(folder: Path) -> None:
    path = folder / "通用.txt"
    text = path.read_text(encoding="utf-8")
    path.write_text(("甲" if text[0] != "甲" else "乙") + text[1:], encoding="utf-8")


def change_a_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "底座" / "model.safetensors"
    weights = load_file(path)
    first = sorted(weights)[0]
    weights[first].view(-1)[0] += 1
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (add_a_document, "训练语料"),
        (change_a_character, "通用留出集"),
        (change_a_weight, "起点的权重"),
    ],
)
def test_a_changed_input_is_refused_by_name(copied, change, named):
    """同一个路径，内容变了：说出是哪一份，什么也不写。"""
    change(copied)
    before = sorted(path.name for path in (copied / "输出").iterdir())
    with pytest.raises(TrainingError) as caught:
        resume(copied)
    assert named in caught.value.found
    assert sorted(path.name for path in (copied / "输出").iterdir()) == before


def test_touching_a_file_changes_nothing(copied):
    """比的是内容：改动时间不同、别的都同，照样接着训练。"""
    os.utime(copied / "语料.txt", (1, 1))
    assert resume(copied).metrics["steps"] == 6


@pytest.mark.parametrize("name", ["optimizer.pt", "model.safetensors"])
def test_a_truncated_file_of_the_newest_checkpoint_is_named(copied, name):
    """截短了的文件与更早的完好检查点都说出来；删去坏的，就接得上。"""
    broken = copied / "输出" / "checkpoint-4"
    with (broken / name).open("r+b") as file:
        file.truncate(900)
    with pytest.raises(TrainingError) as caught:
        resume(copied)
    assert f"{name}（900 字节）与写下时不同" in caught.value.found
    assert "checkpoint-2" in caught.value.remedy
    shutil.rmtree(broken)
    assert resume(copied).metrics["steps"] == 6


def test_a_missing_optimizer_state_is_named(copied):
    """没有优化器状态而照样续训，得到的是另一个结果：所以拒绝。"""
    for number in (2, 4):
        (copied / "输出" / f"checkpoint-{number}" / "optimizer.pt").unlink()
    with pytest.raises(TrainingError, match=r"没有 optimizer\.pt") as caught:
        resume(copied)
    assert "没有更早的完好检查点" in caught.value.remedy


def test_checkpoints_without_checksums_are_still_resumed(copied):
    """旧版本写的检查点没有 checksums.json：文件齐全就接着训练，缺了照样说出来。"""
    for number in (2, 4):
        (copied / "输出" / f"checkpoint-{number}" / CHECKSUMS_FILE).unlink()
    (copied / "输出" / "checkpoint-2" / "scheduler.pt").unlink()
    shutil.rmtree(copied / "输出" / "checkpoint-4")
    with pytest.raises(TrainingError, match=r"没有 scheduler\.pt"):
        resume(copied)


def test_a_run_that_never_began_leaves_its_folder_free(tmp_path, configure):
    """训练前的评估没有走完：文件夹里只有 config.yaml 与 inputs.json，可以再用。"""
    config = configure(tmp_path / "输出", max_steps=1)
    (tmp_path / "输出").mkdir()
    for name in ("config.yaml", INPUTS_FILE):
        (tmp_path / "输出" / name).write_text("{}")
    assert train(config, quiet=True).metrics["steps"] == 1
    with pytest.raises(CompanionError, match="已有另一次运行"):
        train(config, quiet=True)


def test_a_held_out_set_that_was_trained_on_is_never_praised(
    tmp_path, configure, corpus
):
    """留出集就是训练语料：metrics.json 量出重合，报告的第一句不说学到。"""
    general = tmp_path / "通用.txt"
    general.write_text("与训练文字毫不相干的一句，长到足以有几个目标可考。", "utf-8")
    config = configure(
        tmp_path / "输出", eval=True, valid=str(corpus), general=str(general)
    )
    result = train(with_(config, max_steps=2), quiet=True)
    shared = result.metrics["overlap"]
    assert shared["domain"]["exact"] == len(list(read_documents(corpus)))
    assert shared["general"]["shared_ratio"] == 0
    report = (result.output / "report.md").read_text(encoding="utf-8")
    conclusion = report.split("## 结论")[1].split("## 分数")[0]
    assert "不能算学到" in conclusion
    assert "学到了" not in conclusion.replace("不能算学到", "")


def test_the_fingerprint_is_of_the_bits(checkpoints):
    """改一个数的末一位，指纹就变。"""
    model = load_checkpoint(str(checkpoints / "bert"), "masked_lm").model
    before = weights_fingerprint(model)
    assert weights_fingerprint(model) == before
    model.get_input_embeddings().weight.data[9, 0] *= 1 + 2**-22
    assert weights_fingerprint(model) != before
