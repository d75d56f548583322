"""精度里的失败：T5 的前馈层在 fp16 下溢出。

起步模型的激活不大，公开的 T5 却有六万多（huggingface/transformers#5651 记下 66,246，
fp16 的上限是 65,504）。要在小模型上原样重现，用一个不改变函数的变形：ReLU 是正齐次的，

    wo · ReLU(wi · x) = (wo / s) · ReLU(s · wi · x)        s > 0

于是 wi 乘 s、wo 除以 s，输出一点不变，中间的激活大了 s 倍。s 取 2 的幂，float32 下
连舍入都不变。
"""

import math
from typing import Any

import torch

from companion.checkpoints.loading import load_checkpoint
from companion.config import TrainingConfig
from companion.errors import ConfigError
from companion.losses.target_head import target_losses
from companion.notebook.failure import Failure
from companion.notebook.failure_loop import frozen, sample_documents
from companion.notebook.tables import Table
from companion.plots.curves import Line
from companion.preflight.probing import evaluation_mode
from companion.training.arguments import check_means

_EXPONENTS = (0, 4, 8, 10, 12, 14, 16)
_ROWS = 4
_CHARS = 48


def fp16_overflow(seed: int, steps: int) -> Failure:
    """同一个函数，float32 与 bf16 算得好好的，fp16 的中间结果超过 65,504 就成了非数。

    Args:
        seed: 遮哪些片段。
        steps: 用不着；一次前向就看得出来。
    """
    del steps
    from companion.objectives.span_corruption import SpanCorruptionCollator

    checkpoint = load_checkpoint("starter:t5", "span_corruption")
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    start = model.config.decoder_start_token_id
    collator = SpanCorruptionCollator(
        tokenizer, decoder_start_token_id=start, seed=seed
    )
    texts = [each.text[:_CHARS] for each in sample_documents("classical")[:_ROWS]]
    rows = [{"input_ids": tokenizer(text).input_ids} for text in texts]
    [batch] = frozen(rows, collator, _ROWS)
    dtypes = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    losses: dict[str, list[float]] = {name: [] for name in dtypes}
    peaks: list[float] = []
    scaled = 0
    for exponent in _EXPONENTS:
        scale_feed_forward(model.float(), 2.0 ** (exponent - scaled))
        scaled = exponent
        peaks.append(largest_activation(model, batch))
        kept = {name: each.clone() for name, each in model.state_dict().items()}
        for name, dtype in dtypes.items():
            losses[name].append(_loss(model.to(dtype), batch))
            model.float().load_state_dict(kept)  # 低精度的舍入不带到下一种
    first = next(
        (at for at, loss in enumerate(losses["fp16"]) if not math.isfinite(loss)), -1
    )
    return Failure(
        title="T5 在 fp16 下溢出：激活放大之后，一次前向的损失",
        wrong="T5 一类用 fp16",
        right="用 bf16（与预训练时相同），没有 bf16 单元就用 float32",
        measure="激活放大 2 的 16 次方时，不是有限数的损失占几成",
        wrong_value=float(not math.isfinite(losses["fp16"][-1])),
        right_value=float(not math.isfinite(losses["bf16"][-1])),
        verdict=f"同一个函数，float32 的损失始终是 {losses['float32'][0]:.2f}；"
        f"激活的最大值到了 {peaks[first]:,.0f}（fp16 的上限是 65,504），"
        f"fp16 的损失就不是有限的数了，bf16 仍是 {losses['bf16'][first]:.2f}",
        lines=tuple(
            Line(name=name, x=list(map(float, _EXPONENTS)), y=losses[name],
                 right=name != "fp16")
            for name in ("bf16", "fp16")
        ),
        xlabel="激活放大 2 的几次方",
        ylabel="损失（奈特/目标）",
        table=Table(
            ["激活的最大值", *dtypes],
            [
                [f"{peak:,.0f}", *(_shown(losses[name][at]) for name in dtypes)]
                for at, peak in enumerate(peaks)
            ],
        ),
        facts={"loss": losses["float32"][0], "bf16": losses["bf16"][-1],
               "peak_before": peaks[0], "peak_broken": peaks[first]},
    )  # fmt: skip


def scale_feed_forward(model: Any, scale: float) -> None:
    """每个前馈层的 wi 乘 `scale`，wo 除以它；ReLU 的 T5 因此一点不变。"""
    for name, weight in model.named_parameters():
        if name.endswith("DenseReluDense.wi.weight"):
            weight.data *= scale
        elif name.endswith("DenseReluDense.wo.weight"):
            weight.data /= scale


def largest_activation(model: Any, batch: Any) -> float:
    """各个前馈层的中间激活里，绝对值最大的一个。"""
    peaks: list[float] = []

    def note(_module: Any, _given: Any, output: Any) -> None:
        peaks.append(float(output.abs().max()))

    hooks = [
        module.register_forward_hook(note)
        for name, module in model.named_modules()
        if name.endswith("DenseReluDense.wi")
    ]
    try:
        _loss(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return max(peaks)


def refusal(model: Any) -> str:
    """要本包以 fp16 训练这个模型，得到的话；没有拒绝时为空。"""
    config = TrainingConfig(
        objective="span_corruption", model="starter:t5", corpus="sample:classical",
        output="out", precision="fp16",
    )  # fmt: skip
    try:
        check_means(config, model, "cuda")
    except ConfigError as error:
        return str(error)
    return ""


def _loss(model: Any, batch: Any) -> float:
    with evaluation_mode(model):
        losses = target_losses(model, batch, causal=False)
    return float(losses.total_nats) / len(losses.nats)


def _shown(loss: float) -> str:
    return f"{loss:.3f}" if math.isfinite(loss) else str(loss)
