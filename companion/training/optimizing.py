"""优化器：AdamW、Muon、Adafactor；词嵌入可以另有学习率，学习率可以逐层递减。

Muon（Jordan 等，2024）把动量的矩阵正交化再走，只用于隐藏层的矩阵；嵌入表、输出头、偏置
与归一化仍用 AdamW。更新照 Liu 等（2025，§2.2）乘 0.2·√max(行, 列)，均方根与 AdamW 的
相近，因此学习率与权重衰减可以照用。用的是 `torch.optim.Muon`，只是 CPU 上改以 float32
正交化：在没有 bf16 单元的 CPU 上，起步模型的一步由 3.6 秒减到 0.15 秒。

逐层递减（Clark 等，2020，附录 B；微调 ELECTRA 与 BERT 取 0.8 至 0.9）：输出头是峰值，
往下一层乘一次，词嵌入再乘一次，底下的层因此动得少。层由最外面的 `ModuleList` 认出，编
码器与解码器各从自己的顶上数；共用一层的（ALBERT）分不出，按名拒绝。

    输出头 1、第 L 层 d、……、第 1 层 d^L、词嵌入 d^(L+1)

LoRA+（Hayou 等，2024）：B 从零起，要比 A 走得快，学习率是它的几倍；哪些算 B，照 peft 的
`create_loraplus_optimizer`，DoRA 的长度也在内。

各家的组：衰减的、不衰减的（偏置与归一化），各再按学习率分。
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import Embedding
from torch.optim import AdamW, Muon, Optimizer
from torch.overrides import TorchFunctionMode

from companion.checkpoints.running import (
    inner_model,
    layer_stacks,
    read_setting,
    text_config,
)
from companion.config import TrainingConfig
from companion.errors import ConfigError

Group = dict[str, Any]


def has_own_groups(config: TrainingConfig) -> bool:
    """要不要 `make_optimizer`：否则就是 Trainer 的 AdamW，两组。"""
    return (
        config.optimizer != "adamw"
        or config.embedding_learning_rate is not None
        or config.layer_learning_rate_decay is not None
        or config.loraplus_lr_ratio is not None
    )


def make_optimizer(
    model: Any, config: TrainingConfig, learning_rate: float, decayed: set[str]
) -> Optimizer:
    """照设置造优化器。

    Args:
        model: 要训练的模型，可以套着 LoRA，可以是一对。
        config: 训练设置。
        learning_rate: 峰值；词嵌入的另由 `embedding_learning_rate` 给。
        decayed: 衰减的参数的名字。

    Raises:
        ConfigError: 要逐层递减，而分不出层。
    """
    decay = config.layer_learning_rate_decay
    factors = {} if decay is None else layer_factors(model, decay)
    words = _embeddings(model)
    tables = {
        id(module.weight) for module in model.modules() if isinstance(module, Embedding)
    }
    own = config.embedding_learning_rate
    hidden: list[Group] = []
    others: list[Group] = []
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        is_word = id(weight) in words
        rate = learning_rate * factors.get(id(weight), 1.0)
        if "lora_B" in name or (config.lora_rank and weight.ndim == 1):
            rate *= config.loraplus_lr_ratio or 1.0
        matrix = weight.ndim == 2 and not is_word and id(weight) not in tables
        mine = hidden if matrix and config.optimizer == "muon" else others
        mine.append(
            {
                "params": [weight],
                "lr": own if is_word and own else rate,
                "weight_decay": config.weight_decay if name in decayed else 0.0,
            }
        )
    if config.optimizer == "adafactor":
        from transformers import Adafactor

        fixed = {"scale_parameter": False, "relative_step": False}
        return Adafactor(_merged(others), lr=learning_rate, **fixed)
    adamw = AdamW(_merged(others), betas=(0.9, config.adam_beta2)) if others else None
    if not hidden:
        assert adamw is not None
        return adamw
    muon = PortableMuon(
        _merged(hidden), lr=learning_rate, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    return Together(muon, *([adamw] if adamw else []))


def layer_factors(model: Any, decay: float) -> dict[int, float]:
    """各参数的学习率是峰值的几倍，认的是对象；没有列出的是 1。

    Args:
        model: 要训练的模型，可以套着 LoRA，可以是一对（各数各的，共用的取小的）。
        decay: 往下一层乘的数，在 0 与 1 之间。

    Raises:
        ConfigError: 分不出层：没有一串层，或几层共用一份权重（ALBERT）。
    """
    factors: dict[int, float] = {}
    for each in getattr(model, "parts", {"": model}).values():
        inner = inner_model(each)
        stacks = [stack for _, stack in layer_stacks(inner)]
        depth = max(map(len, stacks), default=0)
        wanted = read_setting(text_config(inner), "num_hidden_layers", 1)
        if depth < wanted:
            raise ConfigError(
                found=f"layer_learning_rate_decay = {decay}，而 "
                f"{inner.config.model_type} 的 {wanted} 层分不出来"
                f"（找到一串 {depth} 层）",
                expected="各层有自己的权重，依次排在一个 ModuleList 里",
                remedy="去掉 layer_learning_rate_decay；只想少动词嵌入的，用 "
                "embedding_learning_rate",
            )
        placed = {
            id(weight): decay ** (len(stack) - number)
            for stack in stacks
            for number, layer in enumerate(stack)
            for weight in layer.parameters()
        }
        bottom = decay ** (depth + 1)
        for weight in _input_side(inner):
            placed.setdefault(id(weight), bottom)
        for key, factor in placed.items():
            factors[key] = min(factor, factors.get(key, factor))
    return factors


def _input_side(model: Any) -> Iterator[torch.Tensor]:
    """层之外、在输入一侧的参数：各嵌入表，与它们的投影和归一化（名字里有 emb）。"""
    head = model.get_output_embeddings()
    words = model.get_input_embeddings()
    apart = [] if head is None else list(map(id, head.parameters()))
    shared = set(map(id, words.parameters()))
    for name, module in model.named_modules():
        for part, weight in module.named_parameters(recurse=False):
            if id(weight) in apart and id(weight) not in shared:
                continue
            if isinstance(module, Embedding) or "emb" in f"{name}.{part}".lower():
                yield weight


def _embeddings(model: Any) -> set[int]:
    """词嵌入与输出头的参数，认的是对象。"""
    found: set[int] = set()
    for each in getattr(model, "parts", {"": model}).values():
        inner = inner_model(each)
        for layer in (inner.get_input_embeddings(), inner.get_output_embeddings()):
            if layer is not None:
                found |= {id(weight) for weight in layer.parameters()}
    return found


def _merged(groups: list[Group]) -> list[Group]:
    """学习率与衰减都相同的合为一组。"""
    merged: dict[tuple[float, float], Group] = {}
    for group in groups:
        key = (group["lr"], group["weight_decay"])
        merged.setdefault(key, {**group, "params": []})["params"] += group["params"]
    return list(merged.values())


class PortableMuon(Muon):
    """`torch.optim.Muon`；参数在 CPU 上时，正交化用 float32。"""

    def step(self, closure: Any = None) -> Any:
        """走一步。"""
        if self.param_groups[0]["params"][0].device.type != "cpu":
            return super().step(closure)
        with _Float32():
            return super().step(closure)


class _Float32(TorchFunctionMode):
    """其间 `Tensor.bfloat16()` 给出的是 float32 的一份拷贝。"""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.Tensor.bfloat16:
            return args[0].to(torch.float32, copy=True)
        return func(*args, **(kwargs or {}))


class Together(Optimizer):
    """几个优化器当一个用：各管各的参数，一同走、一同存。

    Args:
        *parts: 参数互不相交的优化器。
    """

    def __init__(self, *parts: Optimizer) -> None:  # 不调用父类的：组与状态都在各部分里
        self.parts = parts
        self.defaults: dict[str, Any] = {}

    @property
    def param_groups(self) -> list[Group]:  # type: ignore[override]
        """各部分的组，依次相接；学习率由调度器就地改。"""
        return [group for part in self.parts for group in part.param_groups]

    @property
    def state(self) -> dict[torch.Tensor, Any]:  # type: ignore[override]
        """参数 → 它的状态。"""
        return dict(self._states())

    def _states(self) -> Iterator[tuple[torch.Tensor, Any]]:
        for part in self.parts:
            yield from part.state.items()

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """各走一步；不收 closure。"""
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """清掉梯度。"""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """各部分的，依次编号。"""
        return {
            str(number): part.state_dict() for number, part in enumerate(self.parts)
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """读回 `state_dict` 的结果。"""
        for number, part in enumerate(self.parts):
            part.load_state_dict(state_dict[str(number)])
