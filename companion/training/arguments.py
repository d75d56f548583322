"""设置 → `transformers.TrainingArguments`、由模型决定的缺省值，与学习率曲线。

曲线先预热再下降，名字与 `transformers.SchedulerType` 相同。
"""

import math
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch

from companion.config import TrainingConfig
from companion.errors import ConfigError
from companion.objectives import get_objective
from companion.preflight.device import overflows_in_fp16
from companion.training.optimizing import layer_factors

PEAK_SHARE = 0.15
"""预训练峰值的这一部分。

起步模型 bert 与 qwen3 上比过五个峰值（`results/replay_tradeoff.json`）：忘得不过百分之
二的里面，两个模型都是 0.0003 学得最多；从前的一半（0.001）忘得多出四五倍。
"""

FALLBACK_LEARNING_RATE = 5e-5
"""不知道预训练峰值时的学习率：BERT 一类模型微调与继续预训练的常用值。"""

LORA_FACTOR = 10.0
"""LoRA 的学习率约为全参数的十倍（Schulman 等，2025）。"""

LORA_CEILING = 3e-3
"""LoRA 的学习率至多这么高：起步模型的峰值本来就高，再乘十会学坏（书的第 09 章）。"""

RSLORA_RANK, RSLORA_ALPHA = 64, 16
"""从这个秩起换 rsLoRA；α 取它论文里的值，缩放 α/√r 在秩 64 恰与低秩的 α/r 同为 2。"""


def choose_learning_rate(config: TrainingConfig, model: Any) -> float:
    """学习率峰值：用户给的；否则取预训练峰值的 0.15 倍，或 5e-5；LoRA 乘十而有上限。

    取峰值的几分之几是继续预训练的通例（Gupta 等，2023：重新预热到原峰值学得多也忘得
    多）。起步模型把自己的峰值写在 `config.companion_peak_learning_rate` 里。
    """
    if config.learning_rate is not None:
        return config.learning_rate
    peak = getattr(model.config, "companion_peak_learning_rate", None)
    rate = peak * PEAK_SHARE if peak else FALLBACK_LEARNING_RATE
    return min(rate * LORA_FACTOR, LORA_CEILING) if config.lora_rank else rate


def training_arguments(
    config: TrainingConfig, *, num_steps: int, learning_rate: float, precision: str,
    device_kind: str,
) -> Any:  # fmt: skip
    """Trainer 要的参数；批次、学习率曲线与存盘由 `CompanionTrainer` 自管。"""
    from transformers import TrainingArguments

    arguments = TrainingArguments(
        output_dir=config.output,
        max_steps=num_steps,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        learning_rate=learning_rate,
        weight_decay=config.weight_decay,
        adam_beta2=config.adam_beta2,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=device_kind == "cpu",
        logging_steps=config.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=config.save_steps,
        save_total_limit=None,
        dataloader_num_workers=config.dataloader_num_workers,
        dataloader_pin_memory=device_kind == "cuda",
        remove_unused_columns=False,
        report_to=[config.report_to] if config.report_to else [],
        disable_tqdm=True,
        ddp_find_unused_parameters=False,
    )
    # 一个进程见了几块卡，Trainer 就悄悄套上 DataParallel：掩码与损失的账都对不上。
    # 要几块卡都用，各起一个进程（torchrun）
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def check_means(
    config: TrainingConfig, model: Any, device_kind: str, num_processes: int = 1
) -> None:
    """设置要用的包、设备与模型的本事都在不在；趁什么也没写，先问清楚。

    Raises:
        ConfigError: 缺了一样。
    """
    if config.lora_rank and find_spec("peft") is None:
        raise ConfigError(
            found=f"lora_rank = {config.lora_rank}，而没有安装 peft",
            expected="装有 peft",
            remedy='pip install "cpt-companion[lora]"，或去掉 lora_rank',
        )
    if config.lora_rank and get_objective(config.objective).discriminator:
        raise ConfigError(
            found=f"lora_rank = {config.lora_rank}，而 {config.objective} 训练一对模型",
            expected="一个模型才套得上 LoRA",
            remedy="去掉 lora_rank，全参数训练（小的 ELECTRA 不大）",
        )
    logger = config.report_to
    if logger is not None and find_spec(logger) is None:
        raise ConfigError(
            found=f"report_to = {logger}，而没有安装 {logger}",
            expected=f"装有 {logger}",
            remedy=f"pip install {logger}，或去掉 report_to；日志总在 log.jsonl 里",
        )
    extends = config.new_characters or config.new_words
    alone = extends and config.embedding_steps and not config.lora_rank
    if alone and num_processes > 1:
        raise ConfigError(  # DDP 建好之后，哪些参数训练就不能再变
            found=f"要扩充词表并先只训练新行，而有 {num_processes} 个进程",
            expected="一个进程；或一开始就训练全部参数",
            remedy="用 --set embedding_steps=0；或先以一个进程扩充、训练几步，"
            "再以它的 model/ 为 --model",
        )
    family = model.config.model_type
    if config.precision == "fp16" and overflows_in_fp16(family):
        raise ConfigError(
            found=f"precision = fp16，而 {family} 的激活会超过 fp16 的上限 65,504，"
            "损失变成 NaN",
            expected=f"{family} 用 bf16（与预训练时相同）或 fp32",
            remedy="用 --set precision=bf16；没有 bf16 单元的显卡（T4、V100）用 "
            "--set precision=fp32；或去掉它，由设备决定",
        )
    if config.precision == "fp16" and device_kind == "cpu":  # 否则悄悄用 fp32
        raise ConfigError(
            found="precision = fp16，而计算在 CPU 上",
            expected="CPU 上用 fp32 或 bf16",
            remedy="用 --set precision=auto，由实测决定",
        )
    if config.layer_learning_rate_decay is not None:
        layer_factors(model, config.layer_learning_rate_decay)
    if config.gradient_checkpointing and not model.supports_gradient_checkpointing:
        raise ConfigError(
            found=f"gradient_checkpointing = true，而 {model.config.model_type} 不支持",
            expected="能重算的架构",
            remedy="去掉 gradient_checkpointing，改小 tokens_per_batch",
        )


def recompute_activations(model: Any) -> None:
    """以重算换显存。transformers 5.23 改了方法名，旧名在第 6 版去掉。"""
    for each in getattr(model, "parts", {"": model}).values():
        enable = getattr(each, "activation_checkpointing_enable", None)
        (enable or each.gradient_checkpointing_enable)({"use_reentrant": False})


def add_lora(model: Any, config: TrainingConfig, new_ids: Sequence[int] = ()) -> Any:
    """套上 LoRA：全部线性层，秩高时用 rsLoRA 的缩放（Kalajdzievski，2023）。

    Args:
        model: 要训练的模型。
        config: 训练设置；用 `lora_rank`、`use_dora`、`use_rslora`。
        new_ids: 扩充出来的词元；词嵌入与输出头里只有它们的行训练（共用的只有一份），
            偏置停在起点。
    """
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    high = config.use_rslora
    if high is None:
        high = config.lora_rank >= RSLORA_RANK
    rows = {name: list(new_ids) for name in _word_layers(model)} if new_ids else None
    with warnings.catch_warnings():
        # peft 0.21 还在问 transformers 5.23 改了名的属性
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        wrapped = get_peft_model(
            model,
            LoraConfig(
                r=config.lora_rank,
                lora_alpha=RSLORA_ALPHA if high else 2 * config.lora_rank,
                target_modules="all-linear",
                # GPT-2 的线性层是转置着存的
                fan_in_fan_out=any(isinstance(m, Conv1D) for m in model.modules()),
                use_rslora=high,
                use_dora=config.use_dora,
                trainable_token_indices=rows,
            ),
        )
    if new_ids:
        _keep_bias(model.get_output_embeddings())
    return wrapped


def _keep_bias(head: Any) -> None:
    """补上输出头的偏置：peft 0.21 包住它时丢了（huggingface/peft#3649）。"""
    bias = getattr(getattr(head, "original_module", None), "bias", None)
    if bias is None:
        return
    with torch.no_grad():
        shown = head(bias.new_zeros(1, head.weight.shape[1]))[0]
    if not torch.equal(shown, bias):
        head.register_forward_hook(lambda _head, _given, out: out + bias.to(out.dtype))


def _word_layers(model: Any) -> list[str]:
    """词嵌入的名字；输出头另有一份权重的，连同它的。"""
    words, head = model.get_input_embeddings(), model.get_output_embeddings()
    wanted = [words]
    if head is not None and head.weight is not words.weight:
        wanted.append(head)
    return [n for n, m in model.named_modules() if any(m is each for each in wanted)]


MIN_RATIO = 0.1
"""余弦降到峰值的几成（Ibrahim 等，2024，§4）。"""

DECAY_RATIO = 0.2
"""WSD 末段线性衰减占总步数的比例（Hu 等，2024，§4）。"""


def warmup_of(warmup_steps: float, num_steps: int) -> int:
    """预热步数；小于 1 的是占总步数的比例。

    >>> warmup_of(0.03, 1000), warmup_of(50, 1000)
    (30, 50)
    """
    return round(warmup_steps * num_steps) if warmup_steps < 1 else int(warmup_steps)


def factor_at(
    step: int, kind: str, num_steps: int, num_warmup: int, start: float = 0.0
) -> float:
    """第 `step` 步（从 0 数）的学习率是峰值的几倍。

    预热从 `start` 之上的 1/(W+1) 升起，第一步就有更新。

    Args:
        step: 第几步，从 0 数。
        kind: cosine、warmup_stable_decay、linear、constant 之一。
        num_steps: 总步数。
        num_warmup: 预热步数 W。
        start: 从峰值的几成升起；接着前一次训练的，是它停下时的。

    >>> [round(factor_at(s, "linear", 4, 0), 2) for s in range(5)]
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if step < num_warmup:
        return start + (1 - start) * (step + 1) / (num_warmup + 1)
    rest = max(1, num_steps - num_warmup)
    progress = min(1.0, (step - num_warmup) / rest)
    if kind == "cosine":
        return MIN_RATIO + (1 - MIN_RATIO) * 0.5 * (1 + math.cos(math.pi * progress))
    if kind == "linear":
        return 1 - progress
    if kind == "warmup_stable_decay":
        decay = max(1, round(DECAY_RATIO * num_steps))
        return min(1.0, max(0.0, (num_steps - step) / decay))
    return 1.0


def make_scheduler(
    optimizer: Any, kind: str, num_steps: int, warmup_steps: float, start: float = 0.0
) -> Any:
    """PyTorch 的学习率调度器；参数同 `factor_at`。"""
    from torch.optim.lr_scheduler import LambdaLR

    num_warmup = warmup_of(warmup_steps, num_steps)
    return LambdaLR(
        optimizer, lambda step: factor_at(step, kind, num_steps, num_warmup, start)
    )
