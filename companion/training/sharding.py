"""把模型切开，几个进程各存一片（FSDP2，`torch.distributed.fsdp.fully_shard`）。

DDP 的每个进程各有整个模型、梯度与动量，一个参数 16 字节；切成 W 片，每个进程只存 W 分之
一，用到一层时才把它收齐，用完就放（ZeRO 第三级，Rajbhandari 等，2020）。梯度取平均之后
也只留自己的一片，所以算的与 DDP、与一个进程都相同，只差浮点加法的次序。收齐的是
float32，半精度只在计算时用（autocast），这一点也与不切开时相同；代价是传的字节多一倍。

    一层一层   各层自成一组：收齐、计算、放掉
    其余       词嵌入、输出头、末尾的归一化同在最外一组，共用的权重因此只有一份

怎样切由 accelerate 的设置文件说（`examples/distributed/`），动手切的是 PyTorch 自己的
FSDP2；accelerate 那一层不用：它在 CPU 上悄悄退回 DDP，也管不好几处共用的词表（T5）。

存下的与一个进程的一样：第 0 个进程一个张量一个张量地收齐，写成标准的检查点与优化器状
态，所以换几个进程续训、另起一次训练、拿去推理，都不必转换。
"""

import copy
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from companion.checkpoints.running import inner_model, layer_stacks
from companion.config import TrainingConfig
from companion.errors import ConfigError, TrainingError
from companion.losses.target_head import head_plan
from companion.objectives import get_objective
from companion.training.team import Team


def check_shardable(config: TrainingConfig, precision: str) -> None:
    """切开之后做不了的设置，趁什么也没写，按名拒绝。

    Args:
        config: 训练设置。
        precision: 选定的精度。

    Raises:
        ConfigError: 有一项做不了。
    """
    found = reason = instead = ""
    if get_objective(config.objective).discriminator:
        found, instead = f"objective = {config.objective}", "objective=masked_lm"
        reason = "判别器要撇开生成器单独前向，切开的两个不能"
    if config.optimizer == "adafactor":
        found, instead = "optimizer = adafactor", "optimizer=adamw 或 muon"
        reason = "它的行列统计要看整个矩阵"
    if precision == "fp16":
        found, instead = "precision = fp16", "precision=bf16 或 fp32"
        reason = "损失缩放没有在切开的梯度上核对过"
    if found:
        raise ConfigError(
            found=f"{found}，而模型要切开到几个进程（FSDP2）：{reason}",
            expected="切开之后做得到的设置",
            remedy=f"用 --set {instead}；或不切开（torchrun，DDP）",
        )


class Shards:
    """切开的模型，与一副没有权重的空壳：存盘、读盘时由它装下整个模型。

    Args:
        model: 要训练的模型，可以套着 LoRA；就地切开。
        team: 一同训练的进程。

    Raises:
        TrainingError: 认不出一层一层，或切完一看并没有切开。
    """

    def __init__(self, model: Any, team: Team) -> None:
        self.model = model
        self.team = team
        head_plan(inner_model(model))  # 要跑几次模型：趁人人都有整个的，各自试好
        model.to("cpu")  # 一层一层地搬到设备上，一块卡从不装下整个模型
        self._hollow = hollow(model)
        layers = [layer for _, stack in layer_stacks(model) for layer in stack]
        if not layers:
            raise TrainingError(
                found=f"{type(inner_model(model)).__name__} 里找不到一层一层",
                expected="各层依次排在一个 ModuleList 里，才能一层一层地切",
                remedy=f"不切开：用 {Team(size=team.size).command} …",
            )
        self.num_whole = sum(weight.numel() for weight in model.parameters())
        """整个模型的参数个数。"""
        for layer in layers:
            fully_shard(layer, reshard_after_forward=team.releases_layers)
        fully_shard(model)
        self.num_mine = sum(local(weight).numel() for weight in model.parameters())
        """这个进程存着的参数个数。"""
        self._require_sharded(self.num_whole, self.num_mine)

    def __str__(self) -> str:
        return (
            f"切开：整个模型 {self.num_whole:,} 个参数，"
            f"这个进程存 {self.num_mine:,} 个（共 {self.team.size} 个进程）"
        )

    def _require_sharded(self, whole: int, mine: int) -> None:
        """参数真成了各存一片，不是悄悄各存一份。"""
        kept = [name for name, w in self.model.named_parameters() if not is_shard(w)]
        if kept or (self.team.size > 1 and mine > 0.9 * whole):
            raise TrainingError(
                found=f"启动器要把模型切开（FSDP），而这个进程仍有 {mine:,} 个参数，"
                f"整个模型是 {whole:,} 个"
                + (f"（{kept[0]} 没有切开）" if kept else ""),
                expected=f"每个进程约 {whole // self.team.size:,} 个",
                remedy=f"不切开：用 {Team(size=self.team.size).command} …",
            )

    def release(self) -> None:
        """放掉只为前向而收齐的一层层；评估之后、读写参数之前用。"""
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    @contextmanager
    def whole(self) -> Generator[Any]:
        """期间第 0 个进程有整个模型，在内存里；别的进程只帮着收齐，得到 None。"""
        try:
            yield self.taken()
        finally:
            self.empty()

    def taken(self) -> Any:
        """训练完：第 0 个进程拿走整个的模型，别的进程为 None。"""
        self.release()
        full = gathered(dict(self.model.named_parameters()), self.team.is_main)
        return self.filled(full.pop) if self.team.is_main else None

    def filled(self, weight_of: Callable[[str], Tensor]) -> Any:
        """空壳装上权重：参数的名字 → 它的权重。"""
        _swap(self._hollow, lambda name, _old: weight_of(name))
        return self._hollow

    def empty(self) -> None:
        """空壳里的权重放掉。"""
        _swap(self._hollow, lambda _name, old: old.detach().to("meta"))

    @contextmanager
    def loading(self) -> Generator[Any]:
        """期间给出一个等着读进权重的整个模型；离开时各进程取走自己的一片。

        只取要训练的参数：冻结的（LoRA 的底座）检查点里没有，原样不动。
        """
        self.release()
        shapes = {name: w.shape for name, w in self.model.named_parameters()}
        dtypes = {name: w.dtype for name, w in self.model.named_parameters()}
        whole = self.filled(lambda name: torch.empty(shapes[name], dtype=dtypes[name]))
        yield whole
        read = dict(whole.named_parameters())
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                if weight.requires_grad:
                    weight.copy_(cut(read[name].detach(), weight))
        self.empty()


def hollow(model: Any) -> Any:
    """一模一样的模型，只是参数没有内容（在 meta 上）；共用的照样共用。"""
    empty = {
        id(weight): nn.Parameter(weight.detach().to("meta"), weight.requires_grad)
        for weight in model.parameters()
    }
    return copy.deepcopy(model, empty)


def _swap(model: Any, make: Callable[[str, nn.Parameter], Tensor]) -> None:
    """参数逐个换成 `make(名字, 原来的)`；几处共用的换成同一个。"""
    fresh = {
        id(old): nn.Parameter(make(name, old), old.requires_grad)
        for name, old in model.named_parameters()
    }
    for module in model.modules():
        for name, old in module._parameters.items():
            if old is not None:
                module._parameters[name] = fresh[id(old)]


def is_shard(value: Any) -> bool:
    """是不是切开的张量，手上只有一片。"""
    return isinstance(value, DTensor)


def local(weight: Tensor) -> Tensor:
    """手上的一片；没有切开的就是它自己。"""
    return weight.to_local() if isinstance(weight, DTensor) else weight


def cut(whole: Tensor, like: Tensor) -> Tensor:
    """整个张量里归我的一片，切法同 `like`；不通信，人人手上都要有整个的。"""
    assert isinstance(like, DTensor)
    mesh = like.device_mesh
    return distribute_tensor(
        whole.to(mesh.device_type), mesh, like.placements, src_data_rank=None
    )


def gathered(value: Any, keep: bool) -> Any:
    """字典与列表里切开的张量逐个收齐，放在内存里；人人都要来，`keep` 的才留下。"""
    if isinstance(value, DTensor):
        full = value.full_tensor()
        return full.detach().cpu() if keep else None
    if isinstance(value, dict):
        return {name: gathered(each, keep) for name, each in value.items()}
    if isinstance(value, list):
        return [gathered(each, keep) for each in value]
    return value.detach().cpu() if isinstance(value, Tensor) else value


def read_state(file: Path) -> dict[str, Any]:
    """读一份 `torch.save` 写下的状态；不占内存，用到哪里读到哪里。"""
    return torch.load(file, map_location="cpu", weights_only=True, mmap=True)


def cut_state(optimizer: Any, state: dict[str, Any]) -> dict[str, Any]:
    """整份的优化器状态里归我的一片，编号与分组不变。

    Args:
        optimizer: 管着切开的参数的优化器，可以是几个合成的（`optimizing.Together`）。
        state: 一个进程存下的、或 `gathered` 收齐的 `state_dict()`。
    """
    if hasattr(optimizer, "parts"):
        return {
            str(number): cut_state(part, state[str(number)])
            for number, part in enumerate(optimizer.parts)
        }
    weights = [w for group in optimizer.param_groups for w in group["params"]]
    numbers = [n for group in state["param_groups"] for n in group["params"]]

    def mine(value: Any, weight: Tensor) -> Any:
        same = isinstance(value, Tensor) and value.shape == weight.shape
        return cut(value, weight) if same and is_shard(weight) else value

    entries = {
        number: {name: mine(v, weight) for name, v in state["state"][number].items()}
        for number, weight in zip(numbers, weights, strict=True)
        if number in state["state"]
    }
    return {**state, "state": entries}
