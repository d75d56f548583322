"""模型切开到两个进程（FSDP2）：真切开了，结果与一个进程相同，存下的人人读得。"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from companion.checkpoints.saving import save_checkpoint
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.config import TrainingConfig
from companion.errors import TrainingError
from companion.training import train
from companion.training.output import list_checkpoints, verify_checkpoint
from companion.training.team import join_team

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_gloo_available(), reason="这个 torch 没有 gloo"
)

STEADY = {
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
}
"""没有随机失活，几个进程与一个进程才比得了。"""

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "全参数": (
        "gpt2",
        {"eval": True, "eval_max_chars": 60, "eval_steps": 2, "average_checkpoints": 2,
         "load_best_model_at_end": True, "gradient_checkpointing": True},
    ),
    "适配器": ("bert", {"lora_rank": 4}),
    "优化器": (
        "bert", {"optimizer": "muon", "layer_learning_rate_decay": 0.8,
                 "span_boundary": True, "preset": "spanbert",
                 "gradient_accumulation_steps": 2},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Any:
    """造设置的函数：哪种检查点、输出文件夹 → 设置。"""
    folder = tmp_path_factory.mktemp("检查点")
    for kind, still in STEADY.items():
        tokenizer = tiny_tokenizer(kind)
        save_checkpoint(tiny_model(kind, tokenizer, **still), tokenizer, folder / kind)

    def build(kind: str, output: Path, **changes: Any) -> dict[str, Any]:
        return {
            "objective": "masked_lm" if kind == "bert" else "causal_lm",
            "model": str(folder / kind), "corpus": str(corpus), "output": str(output),
            "eval": False, "max_steps": 4, "block_size": 32, "tokens_per_batch": 128,
            "learning_rate": 1e-3, "logging_steps": 1, "save_steps": 2,
            "precision": "fp32", **changes,
        }  # fmt: skip

    return build


@pytest.fixture(scope="module")
def alone(steady: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """同样的几次，一个进程，累积的批数加倍。"""
    folder = tmp_path_factory.mktemp("一个")

    def run(name: str, kind: str, changes: dict[str, Any]) -> Any:
        batches = 2 * changes.get("gradient_accumulation_steps", 1)
        more = {**changes, "gradient_accumulation_steps": batches}
        config = TrainingConfig(**steady(kind, folder / name, **more))
        return train(config, quiet=True)

    with pytest.MonkeyPatch.context() as patch:  # 画一张图要一秒，这里不看
        for name in ("write_results", "write_card"):
            patch.setattr(f"companion.training.run.{name}", lambda *_args: None)
        return {name: run(name, *case) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def pair(
    root: Path, steady: Any, alone: dict[str, Any], tmp_path_factory: Any
) -> tuple[Path, list[Any], subprocess.CompletedProcess[str]]:
    """两个进程跑一趟；起一次的花费大半是装入库，所以要看的都放在这一趟里。"""
    folder = tmp_path_factory.mktemp("两个")
    jobs = {
        name: (steady(kind, folder / name, **changes), False)
        for name, (kind, changes) in CASES.items()
    }
    for name in ("全参数", "适配器"):  # 一个进程停在第 2 步的，由两个接着练
        again = stopped(alone[name].output, folder / f"续{name}")
        kind, changes = CASES[name]
        settings = steady(kind, again, gradient_accumulation_steps=2, **changes)
        jobs[f"续{name}"] = (settings, True)
    jobs["不可"] = (steady("bert", folder / "不可", optimizer="adafactor"), False)
    content = json.dumps(jobs, ensure_ascii=False)
    (folder / "要跑的.json").write_text(content, encoding="utf-8")
    last = steady("bert", folder / "断了", max_steps=6)
    words = [f"--set={name}={value}" for name, value in last.items()]
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file",
         root / "examples" / "distributed" / "two_cpu_processes.yaml",
         Path(__file__).with_name("two_shards.py"), folder, "train", *words],
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=560,
        check=False,
    )  # fmt: skip
    assert (folder / "看见-1.json").exists(), done.stderr
    reports = [folder / f"看见-{rank}.json" for rank in (0, 1)]
    return folder, [json.loads(each.read_text("utf-8")) for each in reports], done


def stopped(output: Path, target: Path) -> Path:
    """同一次训练停在第 2 步的样子。"""
    shutil.copytree(output, target)
    (target / "metrics.json").unlink()
    shutil.rmtree(target / "checkpoint-4")
    return target


def assert_alike(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """两份日志，除了快慢，都相同。"""
    timing = ("seconds", "tokens_per_second", "evaluation_seconds", "event")
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine.keys() - set(timing):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-4), name


def assert_close(found: Path, expected: Path) -> None:
    """两个文件夹里的权重，名字与数都相同。"""
    mine, theirs = (load_file(each) for each in (found, expected))
    assert mine.keys() == theirs.keys()
    for name in mine:  # 注意力键的偏置没有梯度，只随舍入走
        if not name.endswith(("key.bias", "c_attn.bias")):
            torch.testing.assert_close(mine[name], theirs[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_each_process_holds_half_and_the_numbers_are_those_of_one(pair, alone, name):
    """参数全成了 DTensor，各存一半；损失、梯度范数、评估、账本与一个进程的相同。"""
    folder, reports, _ = pair
    for seen in reports:
        assert seen[name]["all_cut"]
        assert seen[name]["mine"] == pytest.approx(seen[name]["whole"] / 2, rel=0.1)
        assert seen[name]["targets"] == alone[name].ledger.targets
    assert_alike(reports[0][name]["log"], alone[name].log)
    metrics = json.loads((folder / name / "metrics.json").read_text(encoding="utf-8"))
    for chosen in {"best_step", "averaged_steps"} & alone[name].metrics.keys():
        assert metrics[chosen] == alone[name].metrics[chosen]
    for when in {"before", "after"} & alone[name].metrics.keys():
        assert metrics[when]["domain"]["bits_per_char"] == pytest.approx(
            alone[name].metrics[when]["domain"]["bits_per_char"], rel=1e-4
        )


@pytest.mark.parametrize("name", CASES)
def test_what_is_saved_is_a_stock_checkpoint(pair, alone, name):
    """`model/`、适配器、检查点与优化器的文件，与一个进程存的一样。"""
    folder, _, _ = pair
    mine, theirs = folder / name, alone[name].output
    for place in ("model", "adapter", "checkpoint-4"):
        found = {path.name for path in (mine / place).glob("*")}
        other = {path.name for path in (theirs / place).glob("*")}
        states = {"rng_state.pth", "rng_state_0.pth", "rng_state_1.pth"}
        assert found - states == other - states
    assert_close(mine / "model/model.safetensors", theirs / "model/model.safetensors")
    config = [(each / "model/config.json").read_text() for each in (mine, theirs)]
    assert config[0] == config[1]
    states = [
        torch.load(each / "checkpoint-4/optimizer.pt", weights_only=True)
        for each in (mine, theirs)
    ]
    assert shapes(states[0]) == shapes(states[1])


def shapes(value: Any) -> Any:
    """优化器状态的骨架：键、类型与形状。"""
    if isinstance(value, dict):
        return {name: shapes(each) for name, each in value.items()}
    if isinstance(value, list):
        return [shapes(each) for each in value]
    return (type(value), getattr(value, "shape", None))


@pytest.mark.parametrize("name", ["全参数", "适配器"])
def test_one_process_goes_on_where_two_stopped_and_two_where_one(
    pair, alone, steady, tmp_path, monkeypatch, name
):
    """二变一、一变二：次序、损失、账本都接得上；`config.yaml` 记的仍是原来的。"""
    folder, (seen, _), _ = pair
    whole = alone[name]
    again = seen[f"续{name}"]
    assert_alike(again["log"], whole.log)
    assert again["targets"] == whole.ledger.targets
    kept = [
        TrainingConfig.from_sources(each / "config.yaml", {"output": "同"})
        for each in (folder / f"续{name}", whole.output)
    ]
    assert kept[0] == kept[1]
    for each in ("write_results", "write_card"):
        monkeypatch.setattr(f"companion.training.run.{each}", lambda *_args: None)
    output = stopped(folder / name, tmp_path / "二变一")
    for each in ("write_results", "write_card"):
        monkeypatch.setattr(f"companion.training.run.{each}", lambda *_args: None)
    kind, changes = CASES[name]
    result = train(
        TrainingConfig(**steady(kind, output, **changes)), resume=True, quiet=True
    )
    assert_alike(result.log, whole.log)
    assert result.ledger == whole.ledger
    assert result.config.gradient_accumulation_steps == 1
    assert_close(
        output / "model/model.safetensors", whole.output / "model/model.safetensors"
    )


def test_what_cannot_be_done_in_shards_is_refused_by_name(pair):
    """Adafactor：人人得到同一句话，什么也没有写。"""
    folder, (zero, one), _ = pair
    assert zero["不可"] == one["不可"]
    assert "optimizer = adafactor" in zero["不可"]["refused"][1]
    assert not (folder / "不可").exists()


def test_a_lost_process_ends_the_run_with_one_message_and_a_good_checkpoint(pair):
    """1 号在第 3 步被系统结束：说一遍，给出接着走的命令，第 2 步的检查点完好。"""
    folder, _, done = pair
    assert done.returncode != 0
    assert done.stderr.count("有一个进程没了") == 1
    assert "程序内部出错" not in done.stderr
    assert "--resume" in done.stderr
    [kept] = list_checkpoints(folder / "断了")
    assert kept.name == "checkpoint-2"
    verify_checkpoint(kept)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DEEPSPEED"),
        ({"ACCELERATE_USE_FSDP": "true"}, "第 1 版"),
        ({"FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, "offload_params"),
        ({"FSDP_VERSION": "2", "FSDP_ACTIVATION_CHECKPOINTING": "true"}, "重算"),
        ({"FSDP_VERSION": "2", "WORLD_SIZE": "1"}, "只拉起了一个进程"),
    ],
)
def test_other_ways_of_sharding_are_refused_by_name(asked, said, monkeypatch):
    """DeepSpeed、第一版的 FSDP 等：一句话说清，不是干等，也不悄悄改成 DDP。"""
    wanted = {"WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true", **asked}
    for name, value in wanted.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError, match=said):
        join_team()
