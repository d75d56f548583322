"""几个进程一起训练（torchrun、accelerate launch）：谁动手，谁等。

每个进程各算一部分批次的梯度，由 DDP 合起来；启动器要 FSDP 的，模型切开，各存一片（见
`sharding`）。此外的一切只由第 0 个进程做：建文件夹、说话、写日志与结果、存模型、评估。
别的进程等待，免得抢写同一个文件，或者先走一步。只有一样不等：模型切开了，前向就要人人
都在，途中的评估因此一起做。

只有一个进程时，这里的每个方法都只是把活干了，不碰 torch.distributed。
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
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
    sharded: bool = False
    """模型切开，各进程存一片（FSDP2）；否则各有整个的（DDP）。"""
    releases_layers: bool = True
    """切开的一层，前向之后就放掉，反向时再收齐（`fsdp_reshard_after_forward`）。"""

    @property
    def is_main(self) -> bool:
        """是不是第 0 个进程。"""
        return self.rank == 0

    @property
    def command(self) -> str:
        """这样一队进程怎样训练：命令的前一截。"""
        if self.size == 1:
            return "companion train"
        if self.sharded:
            return "accelerate launch --config_file … -m companion train"
        return f"torchrun --nproc-per-node {self.size} -m companion train"

    def resized(self, size: int) -> "Team":
        """同样的一队，换了人数；一个进程不必切开。"""
        return replace(self, size=size, sharded=self.sharded and size > 1)

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

    def with_model(self, work: Callable[[], T]) -> T | None:
        """要跑训练中的模型的事：切开了就人人都做，否则同 `main_only`。"""
        return work() if self.sharded else self.main_only(work)

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


def join_team() -> Team:
    """加入启动器拉起的一队进程；不是由启动器拉起的，就是独自一个。

    Raises:
        TrainingError: 启动器要的切法这里不会，或要切开却只有一个进程。
    """
    if "ACCELERATE_MIXED_PRECISION" in os.environ:
        # 精度由 precision 定；不然 precision=fp32 也会悄悄照启动器的设置文件用 bf16
        os.environ["ACCELERATE_MIXED_PRECISION"] = "no"
    size = int(os.environ.get("WORLD_SIZE", "1"))
    sharded = _asked("ACCELERATE_USE_FSDP") or _asked(_SHARDED)
    _refuse_other_ways(size, sharded)
    if size == 1:
        return ALONE
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    if sharded:
        # 由 `sharding` 去切。accelerate 与 transformers 自己的一套不用，否则会切两遍
        os.environ |= {"ACCELERATE_USE_FSDP": "false", _SHARDED: "true"}
    return Team(
        state.process_index, state.num_processes, str(state.device), sharded,
        releases_layers=_asked("FSDP_RESHARD_AFTER_FORWARD", "true"),
    )  # fmt: skip


_SHARDED = "COMPANION_SHARDED"
"""记下启动器要切开模型：同一个进程里再训练一次时还认得。"""


def _asked(name: str, default: str = "false") -> bool:
    """启动器由环境变量传来的一个开关。"""
    return os.environ.get(name, default).lower() in ("true", "1")


def _refuse_other_ways(size: int, sharded: bool) -> None:
    """启动器要的切法里，这里不会的，按名拒绝。"""
    found = expected = remedy = ""
    if _asked("ACCELERATE_USE_DEEPSPEED"):
        found = "accelerate 要用 DEEPSPEED（ZeRO）把模型切开"
        expected = "FSDP2：同样把参数、梯度、动量切到各进程"
        remedy = "用 examples/distributed/ 里的设置文件（distributed_type: FSDP）"
    elif sharded and os.environ.get("FSDP_VERSION", "1") != "2":
        found = f"启动器要用 FSDP 的第 {os.environ.get('FSDP_VERSION', '1')} 版"
        expected, remedy = "第 2 版", "在 fsdp_config 里写 fsdp_version: 2"
    elif sharded and _asked("FSDP_OFFLOAD_PARAMS"):
        found = "fsdp_offload_params: true，要把参数放在内存里"
        expected = "切开的参数都在显卡上"
        remedy = "改成 false，多用几块卡，或加 --set gradient_checkpointing=true"
    elif sharded and _asked("FSDP_ACTIVATION_CHECKPOINTING"):
        found = "fsdp_activation_checkpointing: true"
        expected = "重算由 companion 的设置管，不论几个进程"
        remedy = "改成 false，用 --set gradient_checkpointing=true"
    elif sharded and size == 1:
        found = "启动器要把模型切开（FSDP），而只拉起了一个进程"
        expected = "两个以上的进程；CPU 上不给 accelerate launch 加 --cpu"
        remedy = "改 num_processes，或直接用 companion train"
    if found:
        raise TrainingError(found=found, expected=expected, remedy=remedy)
