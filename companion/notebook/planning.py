"""开训之前的估算：读多少词元，占多少内存，要多久。只看 config.json，权重不下载。

    内存  参数、梯度、两个动量各 4 字节；冻结的只有参数；激活照 `training_memory`
    时间  每个参数每个词元：前向 2 次、反向 4 次浮点运算；冻结的反向 2 次，重算另 2 次

算出的时间是下限除以 `USED`，不含评估与下载；真的用了多久，看 `metrics.json`。
"""

import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from companion.checkpoints.reading import quiet_transformers
from companion.config import TrainingConfig
from companion.notebook.tables import Table
from companion.preflight.device import Device, best_device

USED = 0.3
"""峰值算力用得上的比例：调得好的 GPU 上常见三到五成，这里取低的一头。"""

PEAKS: dict[str, tuple[float, float]] = {
    "T4": (65, 8.1),
    "V100": (125, 15.7),
    "L4": (121, 30.3),
    "A100": (312, 19.5),
    "H100": (989, 67),
}
"""显卡型号里的字 → 半精度与 float32 的峰值，每秒万亿次，照厂家的说明书。"""

_SAMPLED = 50
"""拿多少篇文档去量每字几个词元。"""


@dataclass(frozen=True)
class Estimate:
    """一次训练要花多少。"""

    parameters: int
    memory_bytes: int
    tokens: int
    """要读的词元，含回放。"""
    operations: float
    """浮点运算的次数。"""

    def hours(self, teraflops: float) -> float:
        """在每秒 `teraflops` 万亿次的设备上要几小时。"""
        return self.operations / (USED * teraflops * 1e12) / 3600


def estimate(
    config: TrainingConfig, hulls: list[Any], device: Device, tokens: int
) -> Estimate:
    """照公式估一次训练。

    Args:
        config: 设置；只用批量、行长、重算与 LoRA 几项。
        hulls: 要训练的模型，没有权重的空壳也行；替换词元检测是两个。
        device: 打算用的设备，决定激活的精度。
        tokens: 要读多少词元。
    """
    parameters = sum(map(num_parameters, hulls))
    activations = sum(_activations(config, each, device) for each in hulls)
    states = 4 if config.lora_rank else 16
    per_token = 2 + (2 if config.lora_rank else 4)
    per_token += 2 if config.gradient_checkpointing else 0
    return Estimate(
        parameters=parameters,
        memory_bytes=states * parameters + activations,
        tokens=tokens,
        operations=float(per_token) * parameters * tokens,
    )


def num_parameters(hull: Any) -> int:
    """参数个数；设置说输出头另是一份，而空壳里是共享的，就补算。"""
    count = sum(weight.numel() for weight in hull.parameters())
    head, words = hull.get_output_embeddings(), hull.get_input_embeddings()
    tied = getattr(hull.config, "tie_word_embeddings", True)
    if not tied and head is not None and head.weight is words.weight:
        count += head.weight.numel()
    return count


def _activations(config: TrainingConfig, hull: Any, device: Device) -> int:
    """激活的字节数；重算时每层只留输入，另有一层正在算。"""
    from companion.preflight.device import training_memory

    size = config.block_size or config.tokens_per_batch
    whole = training_memory(hull, device, config.tokens_per_batch, size)
    whole -= 16 * sum(weight.numel() for weight in hull.parameters())
    if not config.gradient_checkpointing:
        return whole
    shape = hull.config
    layers = shape.num_hidden_layers * (2 if shape.is_encoder_decoder else 1)
    kept = 4 * shape.hidden_size * layers * config.tokens_per_batch
    return kept + whole // layers


def plan_training(config: TrainingConfig, device: Device | None = None) -> Table:
    """一份设置要花多少，写成表；语料要已在本机（`get_corpus`）。

    Args:
        config: 训练的设置，来自 `profile_config`。
        device: 打算用的设备；缺省是本机最好的。

    Raises:
        CompanionError: 检查点的设置或语料读不到。
    """
    from companion.preflight.device import memory_text

    hulls = _hulls(config)
    if device is None:
        device = best_device(hulls[0].config.model_type)
    device = device.at(config.precision)
    tokens = _num_tokens(config)
    needed = estimate(config, hulls, device, tokens)
    memory = memory_text(needed.memory_bytes)
    peak = peak_teraflops(device)
    time = f"约 {needed.hours(peak):.1f} 小时" if peak else "试跑二十步再估"
    rows = [
        ["检查点", config.model],
        ["参数", f"{needed.parameters / 1e6:,.1f} 百万"],
        ["要读的词元", f"{tokens:,}"],
        ["训练的内存", f"约 {memory}（{device.precision}）"],
        ["训练的时间", time],
    ]
    return Table(["估算", "数"], rows)


def _hulls(config: TrainingConfig) -> list[Any]:
    """没有权重的空壳，照 config.json 搭在 meta 设备上。"""
    import torch
    import transformers

    from companion.checkpoints.locating import DISCRIMINATOR, GENERATOR, locate
    from companion.checkpoints.reading import read_config
    from companion.objectives import get_objective

    goal = get_objective(config.objective)
    folders = [locate(config.model, weights=False).folder]
    classes = [goal.auto_class]
    if goal.discriminator:
        pair: list[Path] = [folders[0] / DISCRIMINATOR, folders[0] / GENERATOR]
        if config.generator:
            pair = [folders[0], locate(config.generator, weights=False).folder]
        folders, classes = pair, ["AutoModelForPreTraining", "AutoModelForMaskedLM"]
    hulls: list[Any] = []
    for folder, name in zip(folders, classes, strict=True):
        shape = read_config(folder, config.model)
        with quiet_transformers(), torch.device("meta"):
            hull = getattr(transformers, name).from_config(shape)
        # T5 一族的设置类总说共享，不管 config.json 怎么写
        written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tied = hull.config.tie_word_embeddings
        hull.config.tie_word_embeddings = written.get("tie_word_embeddings", tied)
        hulls.append(hull)
    return hulls


def _num_tokens(config: TrainingConfig) -> int:
    """要读的词元；给了步数就由步数算，否则由语料的字数与遍数算。"""
    if config.max_steps > 0:
        each = config.tokens_per_batch * config.gradient_accumulation_steps
        return config.max_steps * each
    from companion.checkpoints.loading import load_tokenizer
    from companion.training.data import read_corpora

    documents = read_corpora(config).train
    texts = [each.text for each in islice(documents, _SAMPLED)]
    tokenizer = load_tokenizer(config.model)
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    per_char = sum(map(len, ids)) / sum(map(len, texts))
    read = sum(len(each.text) for each in documents) * config.num_train_epochs
    replayed = config.replay_ratio if config.replay else 0.0
    return round(read * per_char / (1 - replayed))


def peak_teraflops(device: Device) -> float | None:
    """这块显卡在它的精度下的峰值，每秒万亿次；不认得的为 None。"""
    words = device.name.replace("-", " ").split()
    known = next((PEAKS[name] for name in PEAKS if name in words), None)
    if known is None:
        return None
    half, single = known
    return single if device.precision == "fp32" else half
