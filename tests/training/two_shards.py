"""由 test_sharded.py 起两个进程来跑，模型切开：各自记下所见，由它核对。

用法：accelerate launch --config_file … two_shards.py 文件夹

文件夹里有 `要跑的.json`：名字 → 设置与要不要续训，依次训练；末了再训练一次，1 号进程在
第 3 步被系统结束。
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import companion.training.loop as loop_module
import companion.training.run as run_module
from companion.cli import main as companion
from companion.config import TrainingConfig
from companion.errors import CompanionError
from companion.training import train
from companion.training.loop import LogCallback
from companion.training.sharding import Shards, is_shard
from companion.training.team import join_team


def observe(folder: Path) -> None:
    """各自所见，写进 看见-N.json。"""
    team = join_team()
    seen: dict[str, Any] = {}
    jobs = json.loads((folder / "要跑的.json").read_text(encoding="utf-8"))
    for name, (settings, resume) in jobs.items():
        note: dict[str, Any] = {}

        def cut(model: Any, *args: Any, note: dict[str, Any] = note) -> Shards:
            shards = Shards(model, *args)
            note["whole"], note["mine"] = shards.num_whole, shards.num_mine
            note["all_cut"] = all(map(is_shard, model.parameters()))
            return shards

        loop_module.Shards = cut
        try:
            result = train(TrainingConfig(**settings), resume=resume, quiet=True)
            note |= {"log": result.log, "targets": result.ledger.targets}
        except CompanionError as error:
            note["refused"] = [type(error).__name__, str(error)]
        seen[name] = note
    loop_module.Shards = Shards
    text = json.dumps(seen, ensure_ascii=False)
    (folder / f"看见-{team.rank}.json").write_text(text, encoding="utf-8")


def lose_one(folder: Path, words: list[str]) -> None:
    """`companion train …`，1 号进程走到第 3 步就没了。"""

    def die(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 3 and not join_team().is_main:
            os.kill(os.getpid(), signal.SIGKILL)

    LogCallback.on_step_end = die
    sys.argv = ["companion", *words]
    companion()


if __name__ == "__main__":
    for name in ("write_results", "write_card"):  # 画一张图要一秒，这里不看
        setattr(run_module, name, lambda *_args: None)
    place = Path(sys.argv[1])
    observe(place)
    lose_one(place, sys.argv[2:])
