"""体检之模型：输出头学过没有，填充与打包会不会渗，放不放得下。"""

import math
from typing import TYPE_CHECKING, Any

from companion.checkpoints.running import DEFAULT_BLOCK_SIZE
from companion.errors import CompanionError
from companion.preflight.device import Device, overflows_in_fp16
from companion.preflight.findings import Finding, Subject
from companion.preflight.leaks import LEAK_TOLERANCE, can_pack
from companion.preflight.probing import adapt_batch, evaluation_mode, position_table

if TYPE_CHECKING:
    from companion.losses.parts import LossPart

_NO_BETTER_THAN_GUESSING = 0.9
"""损失达到 ln V 的这一比例，就算没有学过。"""
_PADDING_TOLERANCE = 1e-4
"""相对于输出幅度；float32 的舍入在 1e-6 左右。"""
_SEES_PADDING = {
    "funnel": (
        "Funnel 的池化把填充算了进去，各份检查点都如此",
        "在 config.json 写 separate_cls: false，可减轻",
    ),
    "convbert": ("ConvBERT 的卷积看得见填充，各份检查点都如此", ""),
}
"""看得见填充的架构：缘由，与架构独有的办法。"""
_COIN = 0.5
"""总答“原文”也有八成以上；连一半都不到，不是没学过，就是说反了。"""
_TOKENS_PER_BATCH = 4096
"""估计激活时设想的批量，词元数。"""
_MEMORY_SHARE = 0.9


def check_head(subject: Subject) -> Finding:
    """输出头学过没有：看它比瞎猜（ln V）强多少；有第二个头的也看。"""
    parts = _trial_parts(subject)
    if parts is None:
        return Finding(
            "notice",
            "head",
            "没有试读，不知道输出头学过没有",
            "造不出试读的题，模型用不得掩码，或句子太短，没有可考的词元",
            "先改正上面的错误，或换长些的文字",
        )
    guessing = math.log(subject.model.config.vocab_size)
    loss = float(parts[0].losses.nats.mean())
    message = f"试读损失 {loss:.2f} 奈特，瞎猜是 {guessing:.2f}"
    for part in parts[1:]:
        if part.name == "order":  # 试读的句子太短，看不出什么
            continue
        right = float(part.losses.correct.float().mean())
        message += f"；真假判对了 {right:.0%}"
        if right < _COIN:
            return Finding(
                "warning",
                "head",
                message + "：判别器没有学过，或把真假说反了",
                "ELECTRA、ConvBERT 的 1 是换过，Funnel 的 1 是原文；判别头缺了也会这样",
                "换一个判别器；Funnel 用发布的检查点（funnel-transformer/…）",
            )
    lost = subject.checkpoint.missing_keys
    if loss < _NO_BETTER_THAN_GUESSING * guessing:
        return Finding("ok", "head", message)
    return Finding(
        "warning",
        "head",
        message + "：和没学过一样",
        f"检查点里缺 {lost[0]} 等 {len(lost)} 个张量，随机补上了"
        if lost
        else "权重是随机的，或分词器与权重不配套，或语料不是它的语言",
        "换一个带语言建模头的检查点；确要用它，先多训练一程再看指标",
    )


def check_padding(subject: Subject) -> Finding:
    """补上填充，真词元的输出应当不变。"""
    change = _padding_change(subject)
    if change is None:
        return Finding(
            "notice",
            "padding",
            "没有试读，不知道填充渗不渗",
            "造不出试读的题，或模型用不得掩码",
            "先改正上面的错误",
        )
    if change <= _PADDING_TOLERANCE:
        return Finding("ok", "padding", f"填充不影响输出（相对差 {change:.0e}）")
    kind = subject.model.config.model_type
    message = f"填充渗进输出，相对差 {change:.0e}"
    usual = "按长度分桶以少填充；评估时固定批量，分数才可比"
    if kind in _SEES_PADDING:  # 架构如此，不是这份检查点坏了
        cause, remedy = _SEES_PADDING[kind]
        return Finding("notice", "padding", message, cause, remedy or usual)
    return Finding("warning", "padding", message, "模型没有按注意力掩码忽略填充", usual)


def check_mask(subject: Subject) -> Finding:
    """目标自己给出的四维掩码，模型收不收、照不照办。"""
    masks, refusal = subject.goal.masks, subject.refusal
    if refusal is not None:
        return Finding.of("mask", refusal)
    if masks:
        return Finding("ok", "mask", f"试过：照办 {'、'.join(masks)} 掩码")
    return Finding("ok", "mask", "谁看得见谁由模型自己定")


def check_packing(subject: Subject) -> Finding:
    """选定的装批会不会让文档互相看见：先试模型，再试整理器造出的真批量。"""
    if not subject.goal.packable:
        return Finding("ok", "packing", f"{subject.goal.key} 本来就一行一个样本")
    if not subject.packing:
        return Finding("ok", "packing", "设置里关了打包，一行一篇，无从泄漏")
    verdict = can_pack(subject.model, subject.block_size)
    if not verdict:
        return Finding(
            "notice",
            "packing",
            "不能打包，一行只放一个文档",
            verdict.reason,
            "不必改：改用长度分桶的批量，词元预算相同，只多些填充",
        )
    leak = _packed_leak(subject)
    if leak is None:
        return Finding("ok", "packing", verdict.reason)
    if leak <= LEAK_TOLERANCE:
        message = f"{verdict.reason}；{subject.goal.key} 的批量亦然，{leak:.1e}"
        return Finding("ok", "packing", message)
    return Finding(
        "error",
        "packing",
        f"{subject.goal.key} 的打包批量泄漏：换掉前一篇，后一篇的输出变了 {leak:.1e}",
        "整理器给出的掩码没有隔开同一行里的文档，或模型没有照办",
        "用 --set packing=false，一行只放一个文档",
    )


def check_block_size(subject: Subject) -> Finding:
    """一行放不放得下：位置表的行数，或预训练时的长度。"""
    size = subject.block_size
    table = position_table(subject.model)
    trained = getattr(subject.model.config, "max_position_embeddings", None)
    limit = table if table is not None else trained
    if size is None or limit is None or size <= limit:
        shown = "没有上限" if limit is None else f"至多 {limit} 个词元"
        return Finding("ok", "block_size", f"一行{shown}")
    if table is None:
        return Finding(
            "warning",
            "block_size",
            f"行长 {size} 超过预训练时的 {limit}",
            "旋转位置与相对位置没有嵌入表，能算，但没见过这么远的距离",
            f"用 --set block_size={limit} 或更小",
        )
    return Finding(
        "error",
        "block_size",
        f"行长 {size} 超过位置表的 {limit}",
        "位置嵌入只有这么多行（RoBERTa 一族还要减去开头的 pad_token_id + 1 行）",
        f"用 --set block_size={limit} 或更小",
    )


def check_precision(subject: Subject) -> Finding:
    """这种架构在设备的精度下会不会溢出。"""
    family, precision = subject.model.config.model_type, subject.device.precision
    if precision != "fp16" or not overflows_in_fp16(family):
        return Finding("ok", "precision", f"以 {precision} 计算")
    return Finding(
        "error",
        "precision",
        f"{family} 在 fp16 下会溢出",
        "激活超过 fp16 的上限 65,504，损失变成 NaN；它是用 bf16 预训练的",
        "用 --set precision=bf16；没有 bf16 单元的显卡用 --set precision=fp32",
    )


def check_memory(subject: Subject) -> Finding:
    """权重、梯度、Adam 状态与激活，设备装不装得下。"""
    size = subject.block_size or DEFAULT_BLOCK_SIZE
    need = training_memory(subject.model, subject.device, _TOKENS_PER_BATCH, size)
    have = subject.device.memory_bytes
    message = (
        f"训练约需 {memory_text(need)}，{subject.device.name} 有 {memory_text(have)}"
    )
    if need < _MEMORY_SHARE * have:
        return Finding("ok", "memory", message)
    return Finding(
        "warning",
        "memory",
        message,
        f"全参数 Adam 每个参数占 16 字节；激活按每批 {_TOKENS_PER_BATCH} 个词元估计",
        "依次试：--set tokens_per_batch=1024、--set gradient_checkpointing=true、"
        "--set lora_rank=16",
    )


def memory_text(num_bytes: int) -> str:
    """给人看的大小，例如 512 MB、3.2 GB。"""
    if num_bytes < 2**30:
        return f"{num_bytes / 2**20:.0f} MB"
    return f"{num_bytes / 2**30:.1f} GB"


def training_memory(
    model: Any, device: Device, tokens_per_batch: int, block_size: int
) -> int:
    """全参数 Adam 训练要占的内存，字节。

    参数、梯度与两个动量都是 float32，每个参数 16 字节。激活在半精度下每层每词元约占
    34 × 宽度字节（Korthikanti 等，2023，§4.1），float32 加倍；注意力矩阵只有 eager
    实现才存。解码器还要看编码器，每层多一次注意力与一次归一化，占 13 × 宽度；它的行按与
    编码器一样长估计，是 BART 的实情、T5 的上限。输出头按块计算，不计。

    Args:
        model: 已打开的模型。
        device: 打算用的设备，决定激活的精度。
        tokens_per_batch: 一个微批量的词元数。
        block_size: 行长，词元数。
    """
    config = model.config
    scale = 2 if device.precision == "fp32" else 1
    single, double = _layers(config)
    per_token = (34 * single + 47 * double) * config.hidden_size
    if config._attn_implementation == "eager":
        per_token += 5 * block_size * (single + 2 * double) * config.num_attention_heads
    return (
        16 * sum(p.numel() for p in model.parameters())
        + tokens_per_batch * per_token * scale
    )


def _layers(config: Any) -> tuple[int, int]:
    """一次注意力的层数，与两次注意力的（看编码器的解码器）层数。"""
    if not config.is_encoder_decoder:
        return config.num_hidden_layers, 0
    decoder = getattr(config, "num_decoder_layers", None)  # T5
    if decoder is None:
        decoder = config.decoder_layers  # BART 一族
    return config.num_hidden_layers, decoder


def _trial_parts(subject: Subject) -> "tuple[LossPart, ...] | None":
    """试读时的各份损失；出不了题或没有目标时为 None。"""
    from companion.preflight.trial import trial_batch

    trial = subject.trial
    if subject.refusal or isinstance(trial, CompanionError) or not trial.examples:
        return None
    batch = trial_batch(subject.model, trial, trial.examples)
    with evaluation_mode(subject.model):
        parts = subject.goal.make_loss()(subject.model, batch)
    kept = tuple(part for part in parts if len(part.losses.nats))
    return kept if kept and kept[0].name == "words" else None


def _packed_leak(subject: Subject) -> float | None:
    """两篇装进一行，换掉一篇，另一篇的输出的最大相对差；出不了题时为 None。"""
    from companion.preflight.trial import packed_leak

    trial = subject.trial
    if subject.refusal or isinstance(trial, CompanionError) or trial.packed is None:
        return None
    return packed_leak(subject.model, trial, trial.packed)


def _padding_change(subject: Subject) -> float | None:
    """右侧补上填充后，真词元的输出的最大相对差；出不了题时为 None。"""
    from companion.losses.parts import word_logits
    from companion.preflight.trial import trial_batch

    trial = subject.trial
    if subject.refusal or isinstance(trial, CompanionError) or trial.longer is None:
        return None
    first = trial.examples[0]
    with evaluation_mode(subject.model):
        alone, beside = (
            word_logits(
                subject.model,
                adapt_batch(subject.model, trial_batch(subject.model, trial, examples)),
            )
            for examples in ([first], [first, trial.longer])
        )
    change = (beside[:1, : alone.shape[1]] - alone).abs().max()
    return (change / alone.abs().max().clamp(min=1e-12)).item()
