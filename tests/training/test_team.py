"""几个进程一同训练：结果与一个进程相同，只有第 0 个动手，话只说一遍。"""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from companion.config import TrainingConfig
from companion.training import train
from companion.training.loop import StopCallback, read_log
from companion.training.output import list_checkpoints
from companion.training.team import ALONE, Team, join_team

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_gloo_available(), reason="这个 torch 没有 gloo"
)

SAMPLE = {
    "objective": "masked_lm",
    "model": "starter:bert",
    "corpus": "sample:classical",
    "max_steps": 3,
    "block_size": 64,
    "tokens_per_batch": 256,
    "eval_max_chars": 200,
    "logging_steps": 1,
    "save_steps": 2,
    "precision": "fp32",
    "eval_steps": 2,
    "load_best_model_at_end": True,
    "average_checkpoints": 2,
}


@pytest.fixture(scope="module")
def done(
    root, tmp_path_factory, checkpoints, corpus
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """`torchrun --nproc-per-node 2 two_processes.py …`；端口由它自己找。

    起一次的花费大半是装入 torch 与 transformers，所以要看的都放在这一次里。
    """
    folder = tmp_path_factory.mktemp("两个")
    words = [f"--set={name}={value}" for name, value in SAMPLE.items()]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone",
         "--nproc-per-node", "2", Path(__file__).with_name("two_processes.py"),
         checkpoints / "bert", corpus, folder,
         "train", *words, "--output", folder / "样本", "--json"],
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )  # fmt: skip
    assert (folder / "看见-0.json").exists(), done.stderr
    return folder, done


@pytest.fixture(scope="module")
def pair(done) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """两个进程在随包的样本上训练起步模型，带评估与报告。"""
    folder, process = done
    return folder / "样本", process


@pytest.fixture(scope="module")
def seen(done) -> tuple[Path, list[Any]]:
    """两个进程各自所见。"""
    folder, _ = done
    reports = [folder / f"看见-{rank}.json" for rank in (0, 1)]
    return folder, [json.loads(each.read_text(encoding="utf-8")) for each in reports]


def test_two_processes_equal_one_that_accumulates_twice_as_much(pair, tmp_path):
    """两个进程一步两批，等于一个进程累积两批：损失、梯度范数、途中评估与账本都相同。"""
    output, _ = pair
    alone = train(
        TrainingConfig(
            **SAMPLE, output=str(tmp_path / "一个"), gradient_accumulation_steps=2
        ),
        quiet=True,
    )
    timing = ("seconds", "tokens_per_second", "evaluation_seconds", "event")
    rows = read_log(output / "log.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3]
    assert [row["step"] for row in rows if "domain" in row] == [0, 2, 3]
    for found, expected in zip(rows, alone.log, strict=True):
        for name in found.keys() - set(timing):
            assert found[name] == pytest.approx(expected[name], rel=1e-4), name
    ledgers = [(each / "ledger.json").read_bytes() for each in (output, alone.output)]
    assert ledgers[0] == ledgers[1]
    metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    for chosen in ("best_step", "averaged_steps"):
        assert metrics[chosen] == alone.metrics[chosen]
    for when in ("before", "after"):
        assert metrics[when]["domain"]["bits_per_char"] == pytest.approx(
            alone.metrics[when]["domain"]["bits_per_char"], rel=1e-4
        )


def test_only_the_first_process_writes_and_speaks(pair):
    """一个干净的输出文件夹，每步一行日志；JSON 一份，账本与“训练前评估”各一遍。"""
    output, done = pair
    assert {path.name for path in output.iterdir()} == {
        "model", "config.yaml", "metrics.json", "ledger.json", "inputs.json",
        "log.jsonl", "report.html", "report.md", "curve.png", "checkpoint-2",
        "checkpoint-3",
    }  # fmt: skip
    assert done.stdout.count("\n") == 1
    assert json.loads(done.stdout)["steps"] == 3
    for said in ("词元账本", "训练前评估", "进程：2 个", "训练后评估"):
        assert done.stderr.count(said) == 1, said
    saved = TrainingConfig.from_sources(output / "config.yaml", {})
    assert saved.gradient_accumulation_steps == 1


def test_bad_input_is_said_once_and_ends_with_1(pair):
    """输出文件夹已有一次运行：两个进程都碰上，话只说一遍，退出码 1，旧结果不动。"""
    output, done = pair
    assert done.returncode == 1
    assert done.stderr.count("已有另一次运行") == 1
    assert "程序内部出错" not in done.stderr
    seen = (output.parent / "看见-0.json").stat().st_mtime_ns
    assert all(path.stat().st_mtime_ns < seen for path in output.rglob("*"))


def test_one_process_goes_on_where_two_stopped(seen, tmp_path, no_curve):
    """两个进程停在第 3 步，一个接着走：次序相同，账对得上，设置里记的仍是原来的。"""
    folder, (zero, _) = seen
    output = tmp_path / "二变一"
    shutil.copytree(folder / "输出", output)
    shutil.rmtree(output / "checkpoint-7")
    (output / "metrics.json").unlink()
    config = TrainingConfig.from_sources(output / "config.yaml", {})
    again = train(replace(config, output=str(output)), resume=True, quiet=True)
    assert [r["tokens"] for r in again.log] == [r["tokens"] for r in zero["log"]]
    assert again.ledger.targets == zero["targets"]
    assert again.config == replace(config, output=str(output))


def test_a_step_that_cannot_be_shared_out_is_refused_with_what_works(seen):
    """一步只有一个微批量，两个进程分不了：说出能用几个，给出走得通的命令。"""
    _, reports = seen
    for each in reports:
        name, said = each["unshared"]
        assert name == "TrainingError"
        assert "一步有 1 个微批量" in said
        assert "companion train --resume" in said


def test_everyone_gets_the_answer_of_the_first(seen):
    """求和人人有份；第 0 个的结果与错误人人有份；建缓存的事它先做。"""
    _, (zero, one) = seen
    for each in (zero, one):
        assert each["size"] == 2
        assert each["total"] == [3.0, 20.0]
        assert each["asked"] == 0
        assert each["refused"][0] == "TrainingError"
        assert "不行" in each["refused"][1]
    assert (zero["rank"], one["rank"]) == (0, 1)
    assert (zero["first"], one["first"]) == (True, False)


def test_bad_input_stops_everyone_before_anything_is_written(seen):
    """语料不在：两个进程抛出同一个错误，输出文件夹不曾出现。"""
    folder, (zero, one) = seen
    assert zero["bad_input"] == one["bad_input"]
    assert zero["bad_input"][0] == "CorpusError"
    assert not (folder / "不该有").exists()


def test_a_signal_to_one_stops_all_at_the_same_step_and_resumes(
    seen, tmp_path, configure, weights, no_curve
):
    """信号只到了 1 号：商量一步，第 3 步一起停，存盘；接上之后与不曾中断的相同。"""
    folder, (zero, one) = seen
    assert zero["interrupted"] == one["interrupted"]
    assert "第 3 步" in zero["interrupted"][1]
    output = folder / "输出"
    saved = [path.name for path in list_checkpoints(output)]
    assert saved == ["checkpoint-3", "checkpoint-7"]
    assert (zero["log"], zero["targets"]) == (one["log"], one["targets"])
    assert zero["log"] == read_log(output / "log.jsonl")
    alone = train(
        configure(
            tmp_path / "一个",
            max_steps=7,
            logging_steps=3,
            save_steps=100,
            gradient_accumulation_steps=2,
        ),
        quiet=True,
    )
    assert [row["tokens"] for row in zero["log"]] == [r["tokens"] for r in alone.log]
    assert zero["targets"] == alone.ledger.targets


def test_alone_everything_is_done_on_the_spot(monkeypatch):
    """一个进程：不建进程组，结果原样，错误原样。"""
    assert join_team() is ALONE
    values = torch.tensor([1.0])
    assert ALONE.total(values) is values
    assert ALONE.ask_main(lambda: 3) == ALONE.main_first(lambda: 3) == 3
    ALONE.wait()
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(("rank", "killed"), [(0, False), (1, True)])
def test_a_process_being_ended_leaves_the_speaking_to_the_first(
    rank, killed, monkeypatch
):
    """第 0 个出错退出，启动器来结束 1 号：1 号不再多话，照信号退出。"""
    sent = []

    def fail():
        with StopCallback(Team(rank, 2)).listening():
            os.kill(os.getpid(), signal.SIGTERM)
            monkeypatch.setattr(os, "kill", lambda *args: sent.append(args))
            raise RuntimeError("Connection closed by peer")

    with pytest.raises(RuntimeError, match="closed"):
        fail()
    assert sent == ([(os.getpid(), signal.SIGTERM)] if killed else [])
