"""几个进程一起训练（torchrun、accelerate launch）：谁动手，谁等。

每个进程各算一部分批次的梯度，由 DDP 合起来。此外的一切只由第 0 个进程做：建文件夹、说
话、写日志与结果、存模型、评估。别的进程等待，免得抢写同一个文件，或者先走一步。

只有一个进程时，这里的每个方法都只是把活干了，不碰 torch.distributed。
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from companion.errors import CompanionError, TrainingError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

PATIENCE = timedelta(hours=12)
"""第 0 个进程分词、评估时，别的进程最多等这么久；torch 的缺省值太短（10 到 30 分钟）。

有进程出错退出时不必等满：启动器（torchrun 等）会立刻结束其余的。
"""


@dataclass(frozen=True)
class Team:
    """一同训练的几个进程，和我在其中的位置。"""

    rank: int = 0
    """我是第几个，从 0 数。"""
    size: int = 1
    """共几个。"""
    device: str = "cpu"
    """进程之间传数用的设备：NCCL 只认 GPU 上的张量。"""

    @property
    def is_main(self) -> bool:
        """是不是第 0 个进程。"""
        return self.rank == 0

    def wait(self) -> None:
        """等到人人都走到这里。"""
        if self.size > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    def main_only(self, work: Callable[[], T]) -> T | None:
        """由第 0 个进程做，别的等着，得到 None；它遇到用户能改正的错误，人人都抛出。"""
        if self.size == 1:
            return work()
        result: T | None = None
        failure: CompanionError | None = None
        if self.is_main:
            try:
                result = work()
            except CompanionError as error:
                failure = error
        failure = self._from_main(failure)
        if failure is not None:
            raise failure
        return result

    def ask_main(self, work: Callable[[], T]) -> T:
        """由第 0 个进程做，结果人人有一份；错误同 `main_only`。

        Args:
            work: 要做的事；结果要能 pickle。
        """
        answer: Any = self.main_only(work)
        return self._from_main(answer)

    def main_first(self, work: Callable[[], T]) -> T:
        """第 0 个进程先做完，别的再各做一遍：要建缓存的事，缓存只建一次。"""
        answer: Any = self.main_only(work)
        return answer if self.is_main else work()

    def _from_main(self, value: T) -> T:
        """第 0 个进程的值，人人一份。"""
        if self.size == 1:
            return value
        from torch.distributed import broadcast_object_list

        box: list[Any] = [value]
        broadcast_object_list(box, src=0)
        return box[0]

    def total(self, values: "Tensor") -> "Tensor":
        """各进程的张量逐个元素求和，人人得到同样的和。"""
        if self.size == 1:
            return values
        from torch.distributed import all_reduce

        summed = values.to(self.device, copy=True)
        all_reduce(summed)
        return summed


ALONE = Team()


def train_command(num_processes: int) -> str:
    """用这么多个进程训练的命令。"""
    if num_processes == 1:
        return "companion train"
    return f"torchrun --nproc-per-node {num_processes} -m companion train"


def join_team() -> Team:
    """加入启动器拉起的一队进程；不是由启动器拉起的，就是独自一个。

    Raises:
        TrainingError: 启动器要的是切分模型的训练（FSDP、DeepSpeed），这里还不会。
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE
    for name in ("FSDP", "DEEPSPEED"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
            raise TrainingError(
                found=f"accelerate 要用 {name} 把模型切分到各进程",
                expected="每个进程有一份完整的模型（DDP）",
                remedy=f"用 {train_command(size)} …，或 accelerate launch --multi_gpu",
            )
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    return Team(state.process_index, state.num_processes, str(state.device))
