"""体检之模型：权重齐不齐，输出头学过没有，填充与打包会不会渗，放不放得下。"""

import math
from typing import Any

import torch

from companion.checkpoints.electra_pair import ElectraPair
from companion.checkpoints.running import (
    DEFAULT_BLOCK_SIZE,
    default_block_size,
    evaluation_mode,
    over_limit,
    plain_batch,
    position_limit,
    position_table,
    takes,
    vocabulary_size,
    word_table,
)
from companion.errors import CompanionError, ModelError, raised
from companion.losses.parts import LossPart
from companion.losses.target_head import head_plan
from companion.preflight.device import (
    memory_text,
    overflows_in_fp16,
    training_memory,
)
from companion.preflight.findings import Finding, Subject, trial_batch
from companion.preflight.visibility import (
    LEAK_TOLERANCE,
    can_pack,
    document_leak,
    neighbours,
    read_outputs,
    require_left_to_right,
)

_SHOWN = 3
_SMALLEST_MATRIX = 2
"""两边都多于这么多的才算矩阵：RoBERTa 唯一一行的段嵌入本来就全是 0。"""
_NO_BETTER_THAN_GUESSING = 0.9
"""损失达到 ln V 的这一比例，就算没有学过。"""
_PADDING_TOLERANCE = 1e-4
"""相对于输出幅度；float32 的舍入在 1e-6 左右。"""
_COIN = 0.5
"""总答“原文”也有八成以上；连一半都不到，不是没学过，就是说反了。"""
_TOKENS_PER_BATCH = 4096
"""估计激活时设想的批量，词元数。"""
_MEMORY_SHARE = 0.9


def check_weights(subject: Subject) -> Finding:
    """张量齐不齐：缺的、没用上的、不是数的、整块都一样的。"""
    broken = _not_finite(subject)
    if broken:
        return Finding(
            "error",
            "weights",
            f"{_named(broken)} 里有 NaN 或无穷大",
            "转成 fp16 时溢出了，或训练中途坏掉之后才存的",
            "换一份完好的检查点；自己转的，从 fp32 重新转，或转成 bf16",
        )
    checkpoint = subject.checkpoint
    if checkpoint.weight_notices:
        return Finding(
            "warning",
            "weights",
            "；".join(checkpoint.weight_notices),
            "检查点只存了一部分，或 config.json 与权重不是一套",
            "换一份带全部权重的检查点；确要用它，多训练一程再看指标",
        )
    flat = _constant(subject)
    if flat:
        return Finding(
            "warning",
            "weights",
            f"{_named(flat)} 整块是同一个数",
            "转换或拼合检查点时漏了这几个张量",
            "与原来的检查点逐个张量核对，重新转换",
        )
    count = sum(1 for _ in subject.model.parameters())
    return Finding("ok", "weights", f"{count} 个张量齐全，都是有限的数")


def check_tied_weights(subject: Subject) -> Finding:
    """配置说共享的输入输出词嵌入，是不是真的共享。"""
    source = word_table(subject.model)
    output = subject.model.get_output_embeddings()
    if subject.checkpoint.conflicting_tie:
        return Finding(
            "warning",
            "tied_weights",
            "配置写着共享词嵌入，文件里的两份却不相等",
            "改过其中一份（扩词表、合并、剪枝）而没有改另一份",
            "弄清哪一份是对的；两份都要，就在 config.json 写 "
            "tie_word_embeddings: false",
        )
    if not getattr(subject.model.config, "tie_word_embeddings", False) or (
        output is None
    ):
        return Finding("ok", "tied_weights", "输入与输出词嵌入本来就各是各的")
    if output.weight.data_ptr() == source.data_ptr():
        return Finding("ok", "tied_weights", "输入与输出词嵌入共享同一份权重")
    return Finding(
        "warning",
        "tied_weights",
        "配置写着共享词嵌入，实际是两份",
        "改过词嵌入而没有重新绑定；保存后其中一份会丢",
        "调用 model.tie_weights()，或把 tie_word_embeddings 改为 false",
    )


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
    guessing = math.log(vocabulary_size(subject.model))
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
    together = neighbours(subject.model)
    if together == "any":
        return Finding(
            "warning",
            "padding",
            f"填充渗进输出，相对差 {change:.0e}",
            "试读的普通文字没有渗，这个目标的批量却渗：模型没有理会其中的掩码",
            "换一个目标，或换一个检查点",
        )
    how = "一批只放一行" if together == "none" else "一批只放等长的行"
    return Finding(
        "notice",
        "padding",
        f"填充渗进输出，相对差 {change:.0e}；训练与评估{how}",
        "架构没有按掩码忽略填充，各份检查点都如此（Funnel 的池化、ConvBERT 的卷积）",
        "不必改：分数不随同批的别的行而变，只慢一些",
    )


def check_scoring(subject: Subject) -> Finding:
    """输出头怎样算：试一小批，与整行的 logits 相比。"""
    if isinstance(subject.model, ElectraPair):
        return Finding("ok", "scoring", "一对模型，各用自己的头")
    try:
        plan = head_plan(subject.model)
        _require_training(subject.model)
        if subject.goal.left_to_right or subject.model.config.is_encoder_decoder:
            require_left_to_right(subject.model)
    except ModelError as error:
        return Finding.of("scoring", error)
    if plan.fused:
        return Finding("ok", "scoring", f"{plan}，损失与整行的 logits 相等")
    return Finding(
        "notice",
        "scoring",
        f"输出头退一步算：{plan}",
        "线性层之后还要改 logits，或输出头不经线性层；合在一起算，损失就不等",
        "不必改：损失与模型自己的相等，只多占些内存",
    )


def _require_training(model: Any) -> None:
    """训练模式下也前向得了：Reformer 训练时的行长要恰好是一个数。"""
    training = model.training
    model.train()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model(**plain_batch(model))
    except Exception as error:  # 各架构各抛各的
        raise ModelError(
            found=f"{type(model).__name__} 评估得了，训练模式下却前向不了："
            f"{raised(error)}",
            expected="训练时行长不论的模型",
            remedy="照上面的英文改 config.json，或换一个检查点",
        ) from error
    finally:
        model.train(training)


def check_mask(subject: Subject) -> Finding:
    """目标自己给出的四维掩码，模型是否接受、是否生效。"""
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
    size, limit = subject.block_size, position_limit(subject.model)
    if size is None or over_limit(subject.model, size) is None:
        shown = "没有上限" if limit is None else f"至多 {limit} 个词元"
        return Finding("ok", "block_size", f"一行{shown}")
    if position_table(subject.model) is None:
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
    teacher = subject.teacher and subject.teacher.model
    need = training_memory(
        subject.model, subject.device, _TOKENS_PER_BATCH, size, teacher
    )
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


def check_teacher(subject: Subject) -> Finding:
    """教师读不读得了一行；词表在打开它时核对过。没有教师的不查。"""
    assert subject.teacher is not None
    model, name = subject.teacher.model, subject.teacher.name
    size = subject.block_size or default_block_size(subject.model)
    limit = over_limit(model, size)
    if limit is not None:
        return Finding(
            "error",
            "teacher",
            f"一行 {size} 个词元，教师 {name} 至多读 {limit} 个",
            "师生读同样的行",
            f"用 --set block_size={limit}，或换一个能读更长的教师",
        )
    millions = sum(weight.numel() for weight in model.parameters()) / 1e6
    compared = "" if subject.teacher.compares_hidden else "，隐藏层宽不同，余弦不计"
    message = f"教师 {name}：{millions:.1f} 百万参数，词表与学生的相同{compared}"
    return Finding("ok", "teacher", message)


def _not_finite(subject: Subject) -> list[str]:
    # 求和便知：有一个不是有限的数，和就不是；不另占一份内存
    return [
        name
        for name, weight in subject.model.named_parameters()
        if not weight.detach().sum().isfinite() and not weight.detach().isfinite().all()
    ]


def _constant(subject: Subject) -> list[str]:
    return [
        name
        for name, weight in subject.model.named_parameters()
        if weight.dim() > 1
        and min(weight.shape) > _SMALLEST_MATRIX
        and weight.detach().min() == weight.detach().max()
    ]


def _named(names: list[str]) -> str:
    more = f" 等 {len(names)} 个张量" if len(names) > _SHOWN else ""
    return "、".join(names[:_SHOWN]) + more


def _trial_parts(subject: Subject) -> tuple[LossPart, ...] | None:
    """试读时的各个损失项；造不出样本或没有目标时为 None。"""
    model, trial = subject.model, subject.trial
    if subject.refusal or isinstance(trial, CompanionError) or not trial.examples:
        return None
    batch: dict[str, Any] = {**trial_batch(model, trial, trial.examples)}
    if takes(model, "use_cache"):
        batch["use_cache"] = False
    with evaluation_mode(model):
        parts = subject.goal.make_loss()(model, batch)
    kept = tuple(part for part in parts if len(part.losses.nats))
    return kept if kept and kept[0].name == "words" else None


def _packed_leak(subject: Subject) -> float | None:
    """两篇装进一行，换掉一篇，另一篇的输出的最大相对差；造不出样本时为 None。"""
    trial = subject.trial
    if subject.refusal or isinstance(trial, CompanionError) or trial.packed is None:
        return None
    example = trial.packed
    owners = {"input_ids": example.documents}
    if example.decoder_documents is not None:
        places = example.decoder_documents
        if example.decoder_visible is not None:  # 没有内容处的输出无意义
            places = places.masked_fill(~example.decoder_visible, -1)
        owners["decoder_input_ids"] = places
    batch = trial_batch(subject.model, trial, [example])
    return document_leak(subject.model, batch, owners)


def _padding_change(subject: Subject) -> float | None:
    """右侧补上填充后，真词元的输出的最大相对差；造不出样本时为 None。"""
    model, trial = subject.model, subject.trial
    if subject.refusal or isinstance(trial, CompanionError) or trial.longer is None:
        return None
    first = trial.examples[0]
    alone = read_outputs(model, trial_batch(model, trial, [first]))
    both = read_outputs(model, trial_batch(model, trial, [first, trial.longer]))
    change = (both[:1, : alone.shape[1]] - alone).abs().max()
    return (change / alone.abs().max().clamp(min=1e-12)).item()
