"""用哪个设备、以什么精度计算，装不装得下：问设备，不靠猜。

| 设备 | 精度 | 缘由 |
|---|---|---|
| NVIDIA，计算能力 ≥ 8.0（A100、RTX 30 以后） | bf16 | 有原生单元 |
| NVIDIA，更早（T4、V100） | fp16 | 有原生单元；会溢出的架构用 fp32 |
| Apple（MPS） | fp32 | 半精度的算子还不全 |
| CPU | bf16 或 fp32 | 赛跑决定：有 AMX 的快数倍，AVX2 靠模拟，慢数倍 |

CPU 的快慢每个进程只量一次。量的是时间，临界的机器上两次可能不同：要逐位重现的运行，把
选定的精度写进设置（`precision`），不要每次重选。
"""

import functools
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from companion.checkpoints.running import read_setting, text_config, word_table

_RACE_SECONDS = 0.05
_RACE_SIZE = 256
_CLEARLY_FASTER = 1.2
"""bf16 至少快这么多倍才用它：损失一点精度要换得值。"""
_OVERFLOWS_IN_FP16 = (
    *("t5", "mt5", "umt5", "longt5", "switch_transformers"),
    *("gemma", "gemma2", "gemma3_text", "t5gemma"),
)
"""以 bf16 预训练的架构：激活会超过 fp16 的上限 65,504，变成 inf，再变成 NaN。"""
_FIRST_WITH_BF16 = (8, 0)
_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(frozen=True)
class Device:
    """选定的设备。"""

    kind: str
    """ "cuda"、"mps" 或 "cpu"，即 `torch.device` 的类型。"""
    name: str
    """给人看的型号。"""
    dtype: Any
    """计算用的 `torch.dtype`；权重与优化器状态总是 float32。"""
    memory_bytes: int
    """显存总量；CPU 为本进程可用的内存上限。"""
    reason: str
    """为什么选它，中文。"""

    @property
    def precision(self) -> str:
        """设置里的写法：fp32、bf16 或 fp16。"""
        return {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[
            str(self.dtype).removeprefix("torch.")
        ]

    def at(self, precision: str) -> "Device":
        """同一个设备，换一种精度；"auto" 照旧。"""
        import torch

        kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        return self if precision == "auto" else replace(self, dtype=kinds[precision])

    def __str__(self) -> str:
        size = self.memory_bytes / 2**30
        return f"{self.name}，{size:.0f} GB，{self.precision}：{self.reason}"


def best_device(model_type: str | None = None) -> Device:
    """本机最好的设备与精度。

    Args:
        model_type: `model.config.model_type`；少数架构在 fp16 下会溢出。
    """
    import torch

    if torch.cuda.is_available():
        return _cuda(model_type)
    if torch.backends.mps.is_available():
        memory = int(torch.mps.recommended_max_memory())
        reason = "MPS 的半精度算子还不全，用 fp32"
        return Device("mps", "Apple GPU", torch.float32, memory, reason)
    ratio = bf16_speedup()
    threads = torch.get_num_threads()
    if ratio >= _CLEARLY_FASTER:
        dtype, verdict = torch.bfloat16, f"实测 bf16 的矩阵乘快 {ratio:.1f} 倍"
    else:
        dtype, verdict = torch.float32, f"实测 bf16 的速度只有 fp32 的 {ratio:.2f} 倍"
    name = f"CPU（{threads} 个线程）"
    return Device("cpu", name, dtype, memory_limit(), verdict)


def overflows_in_fp16(model_type: str | None) -> bool:
    """这种架构的激活在 fp16 下会不会溢出。"""
    return model_type in _OVERFLOWS_IN_FP16


def _cuda(model_type: str | None) -> Device:
    import torch

    properties = torch.cuda.get_device_properties(0)
    major, minor = torch.cuda.get_device_capability(0)
    # 不问 is_bf16_supported：它把模拟也算作支持
    if (major, minor) >= _FIRST_WITH_BF16:
        dtype, reason = torch.bfloat16, f"计算能力 {major}.{minor}，原生支持 bf16"
    elif overflows_in_fp16(model_type):
        dtype = torch.float32
        reason = f"计算能力 {major}.{minor} 没有 bf16，{model_type} 在 fp16 下会溢出"
    else:
        dtype = torch.float16
        reason = f"计算能力 {major}.{minor} 没有 bf16，用 fp16 与损失缩放"
    return Device("cuda", properties.name, dtype, properties.total_memory, reason)


@functools.cache
def bf16_speedup() -> float:
    """CPU 上 bf16 矩阵乘是 fp32 的几倍快；轮流跑，各取最快的一次。

    跑满 50 毫秒的处理器时间：机器忙时，墙上的 50 毫秒里可能只轮到一两回，分不出快慢。
    """
    import torch

    left = torch.ones(_RACE_SIZE, _RACE_SIZE)
    pairs = {dtype: left.to(dtype) for dtype in (torch.float32, torch.bfloat16)}
    best = dict.fromkeys(pairs, float("inf"))
    for matrix in pairs.values():  # 第一次要选内核，不计
        torch.mm(matrix, matrix)
    deadline = time.process_time() + _RACE_SECONDS
    while time.process_time() < deadline or float("inf") in best.values():
        for dtype, matrix in pairs.items():
            start = time.perf_counter()
            torch.mm(matrix, matrix)
            best[dtype] = min(best[dtype], time.perf_counter() - start)
    return best[torch.float32] / best[torch.bfloat16]


def memory_limit() -> int:
    """本进程能用的内存，字节：物理内存与容器（cgroup）上限之小者。"""
    import psutil

    limits = [int(psutil.virtual_memory().total)]
    for path in _CGROUP_LIMITS:
        if path.is_file():
            written = path.read_text(encoding="ascii").strip()
            if written.isdigit():  # 不限时写的是 max
                limits.append(int(written))
    return min(limits)


def memory_text(num_bytes: int) -> str:
    """给人看的大小，例如 512 MB、3.2 GB。"""
    if num_bytes < 2**30:
        return f"{num_bytes / 2**20:.0f} MB"
    return f"{num_bytes / 2**30:.1f} GB"


def training_memory(
    model: Any,
    device: Device,
    tokens_per_batch: int,
    block_size: int,
    teacher: Any = None,
) -> int:
    """全参数 Adam 训练要占的内存，字节。

    参数、梯度与两个动量都是 float32，每个参数 16 字节。激活在半精度下每层每词元约占
    34 × 宽度字节（Korthikanti 等，2023，§4.1），float32 加倍；注意力矩阵只有 eager
    实现才存。解码器还要看编码器，每层多一次注意力与一次归一化，占 13 × 宽度；它的行按与
    编码器一样长估计，是 BART 的实情、T5 的上限。输出头按块计算，不计。教师不训练，每个
    参数 4 字节；它不留激活，只有正在算的一层在。

    Args:
        model: 已打开的模型。
        device: 打算用的设备，决定激活的精度。
        tokens_per_batch: 一个微批量的词元数。
        block_size: 行长，词元数。
        teacher: 蒸馏的教师模型；没有则为 None。
    """
    scale = 2 if device.precision == "fp32" else 1
    per_token = _activations(model, block_size, *_layers(model))
    weights = 16 * sum(p.numel() for p in model.parameters())
    if teacher is not None:
        per_token += _activations(teacher, block_size, 1, 0)
        weights += 4 * sum(p.numel() for p in teacher.parameters())
    return weights + tokens_per_batch * per_token * scale


def _activations(model: Any, block_size: int, single: int, double: int) -> int:
    """半精度下每词元的激活，字节：一次注意力的、两次注意力的各多少层。"""
    config = text_config(model)
    per_token = (34 * single + 47 * double) * _width(model)
    if config._attn_implementation == "eager":
        heads = read_setting(config, "num_attention_heads", 0)  # Mamba、RWKV 没有
        per_token += 5 * block_size * (single + 2 * double) * heads
    return per_token


def _width(model: Any) -> int:
    """隐藏层宽；设置里叫别的名字的，看词嵌入。"""
    found = read_setting(text_config(model), "hidden_size")
    return found or word_table(model).shape[-1]


def _layers(model: Any) -> tuple[int, int]:
    """一次注意力的层数，与两次注意力的（看编码器的解码器）层数。"""
    config = text_config(model)
    single = read_setting(config, "num_hidden_layers") or _depth(model)
    if not model.config.is_encoder_decoder:
        return single, 0
    # T5 与 BART 的叫法；套在里面的（T5Gemma）直接数
    double = read_setting(config, "num_decoder_layers") or read_setting(
        config, "decoder_layers"
    )
    return single, double or _depth(model.get_decoder())


def _depth(module: Any) -> int:
    """层数：最外面的 `ModuleList` 里最长的一个。"""
    from torch import nn

    if isinstance(module, nn.ModuleList):
        return len(module)
    return max(map(_depth, module.children()), default=0)
