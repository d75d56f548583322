"""由 test_team.py 起两个进程来跑：各自记下所见，由它核对。

用法：torchrun --nproc-per-node 2 two_processes.py 检查点 语料 文件夹 train …

先照最后的几个词运行一次 `companion`，末了再照样来一次：那时输出文件夹已经在了。
"""

import json
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import companion.training.results as results_module
from companion.cli import main as companion
from companion.config import TrainingConfig
from companion.errors import CompanionError, TrainingError
from companion.training import TrainingInterrupted, train
from companion.training.loop import LogCallback
from companion.training.team import Team, join_team


def caught(work: Any) -> list[str]:
    """抛出了什么：类名与消息；没有抛出就是空的。"""
    try:
        work()
    except CompanionError as error:
        return [type(error).__name__, str(error)]
    return []


def refuse() -> None:
    raise TrainingError(found="不行", expected="行", remedy="换一个")


def interrupt(team: Team, config: TrainingConfig) -> list[str]:
    """只有 1 号进程在第 2 步收到信号。"""
    real = LogCallback.on_step_end

    def send(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 2 and not team.is_main:
            os.kill(os.getpid(), signal.SIGTERM)

    LogCallback.on_step_end = send
    try:
        return caught(lambda: train(config, quiet=True))
    finally:
        LogCallback.on_step_end = real


def pretend_alone(output: Path, target: Path) -> None:
    """同一次训练，像是由一个进程起头的。"""
    shutil.copytree(output, target)
    inputs = json.loads((target / "inputs.json").read_text())
    (target / "inputs.json").write_text(json.dumps({**inputs, "processes": 1}))


def command(words: list[str]) -> None:
    """`companion …`；不成就以它的退出码结束，成了就接着往下。"""
    sys.argv = ["companion", *words]
    try:
        companion()
    except SystemExit as end:
        if end.code:
            # 训练过的进程收尾要几秒，这时 1 号等不到启动器来结束它
            os._exit(int(end.code))


def observe(model: str, corpus: str, folder: Path) -> None:
    """各自所见，写进 看见-N.json。"""
    results_module.write_results = lambda *_args: None  # 画一张图要一秒，这里不看
    team = join_team()
    order = folder / "次序.txt"

    def build() -> bool:
        first = not order.exists()
        order.write_text("建好了")
        return first

    config = TrainingConfig(
        objective="masked_lm", model=model, corpus=corpus, output=str(folder / "输出"),
        eval=False, max_steps=7, block_size=32, tokens_per_batch=128, precision="fp32",
        learning_rate=1e-3, logging_steps=3, save_steps=100,
    )  # fmt: skip
    seen: dict[str, Any] = {
        "rank": team.rank,
        "size": team.size,
        "total": team.total(torch.tensor([1.0 + team.rank, 10.0])).tolist(),
        "asked": team.ask_main(lambda: team.rank),
        "refused": caught(lambda: team.ask_main(refuse)),
        "first": team.main_first(build),
        "bad_input": caught(lambda: train(TrainingConfig(
            objective="masked_lm", model=model, corpus=str(folder / "没有.txt"),
            output=str(folder / "不该有"),
        ))),
        "interrupted": interrupt(team, config),
    }  # fmt: skip
    assert seen["interrupted"][0] == TrainingInterrupted.__name__
    single = Path(config.output).with_name("一个")
    team.main_only(lambda: pretend_alone(Path(config.output), single))
    seen["unshared"] = caught(
        lambda: train(replace(config, output=str(single)), resume=True, quiet=True)
    )
    result = train(config, resume=True, quiet=True)
    seen["log"], seen["targets"] = result.log, result.ledger.targets
    (folder / f"看见-{team.rank}.json").write_text(json.dumps(seen), encoding="utf-8")


if __name__ == "__main__":
    model, corpus, folder, *words = sys.argv[1:]
    command(words)
    observe(model, corpus, Path(folder))
    command(words)
