"""训练前的体检：检查点与训练目标、语料、设备合不合。

每一项是一个小函数，收下 `Subject`，交回一条 `Finding`；`CHECKS` 按次序列出它们，分住在
`tokenizer_checks` 与 `model_checks`。查的都是 transformers 不报、却会
让几小时的训练白费的事：输出头是随机的、词表认不得语料里的字、填充渗进结果、行比位置表
长……添一项检查，就是添一个函数、在 `CHEAP` 或 `THOROUGH` 里添一行。

`CHEAP` 里的不跑模型，`companion train` 每次都做，另加 `check_scoring`，它只读十二个词元
（`require_trainable`）；`THOROUGH` 里的要试读几句。
"""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING

from companion.checkpoints.reading import quiet_transformers
from companion.checkpoints.running import fitted_objective
from companion.checkpoints.tiny import TINY_TEXT
from companion.errors import ModelError
from companion.preflight.device import Device, best_device
from companion.preflight.findings import Finding, Subject
from companion.preflight.model_checks import (
    check_block_size,
    check_head,
    check_mask,
    check_memory,
    check_packing,
    check_padding,
    check_precision,
    check_scoring,
    check_teacher,
    check_tied_weights,
    check_weights,
)
from companion.preflight.tokenizer_checks import (
    check_decoder_start,
    check_end_token,
    check_mask_token,
    check_modes,
    check_needed_tokens,
    check_pad_token,
    check_padding_side,
    check_sentinels,
    check_tokens_per_char,
    check_unknown,
    check_vocabulary,
)

if TYPE_CHECKING:
    from companion.checkpoints.loading import Checkpoint
    from companion.losses.distillation import Teacher
    from companion.objectives import Objective

_MAX_TEXTS, _MAX_CHARS = 200, 500

Check = Callable[[Subject], Finding]

CHEAP: tuple[Check, ...] = (
    check_pad_token,
    check_padding_side,
    check_end_token,
    check_decoder_start,
    check_mask_token,
    check_vocabulary,
    check_unknown,
    check_tokens_per_char,
    check_weights,
    check_tied_weights,
    check_block_size,
    check_precision,
    check_memory,
)
"""不跑模型的检查。"""

THOROUGH: tuple[Check, ...] = (
    check_scoring,
    check_needed_tokens,
    check_modes,
    check_sentinels,
    check_mask,
    check_head,
    check_padding,
    check_packing,
)
"""要照训练的样子造批量、试读几句的检查。"""

CHECKS = CHEAP + THOROUGH
"""全部检查，按此次序。"""


def check_checkpoint(
    checkpoint: "Checkpoint",
    objective: "str | Objective",
    *,
    corpus_texts: Iterable[str] | None = None,
    block_size: int | None = None,
    device: Device | None = None,
    packing: bool = True,
    teacher: "Teacher | None" = None,
    checks: tuple[Check, ...] = CHECKS,
) -> list[Finding]:
    """给检查点做体检；模型与全局随机状态原样不动。

    Args:
        checkpoint: 已打开的检查点。
        objective: 训练目标或它的键。
        corpus_texts: 语料里的文字，取前 200 段的前 500 字；缺省用内置的几句中文。
        block_size: 打算用的行长，词元数。
        device: 打算用的设备；缺省用本机最好的。
        packing: 打算把几个文档装进一行。
        teacher: 蒸馏的教师（`load_teacher` 的结果）；有它就多一条结果。
        checks: 做哪几项；缺省是全部。

    Returns:
        每项检查一条结果，按 `checks` 的次序；打开时的别的提醒在最后。
    """
    texts = islice(filter(str.strip, corpus_texts or TINY_TEXT), _MAX_TEXTS)
    subject = Subject(
        checkpoint=checkpoint,
        goal=fitted_objective(checkpoint.model, objective),
        texts=tuple(text[:_MAX_CHARS] for text in texts) or TINY_TEXT,
        block_size=block_size,
        device=device or best_device(checkpoint.model.config.model_type),
        packing=packing,
        teacher=teacher,
    )
    if teacher is not None:
        checks = (*checks, check_teacher)
    with quiet_transformers():
        findings = [check(subject) for check in checks]
    return findings + [
        Finding("notice", "loading", notice)
        for notice in checkpoint.notices
        if notice not in checkpoint.weight_notices  # 已在 check_weights 里
    ]


def require_trainable(
    checkpoint: "Checkpoint",
    objective: "str | Objective",
    *,
    corpus_texts: Iterable[str],
    block_size: int | None,
    device: Device,
    teacher: "Teacher | None" = None,
) -> list[Finding]:
    """开训之前的体检：不跑模型的几项（`CHEAP`），与输出头怎样算。

    Args:
        checkpoint: 已打开的检查点。
        objective: 训练目标或它的键。
        corpus_texts: 训练语料里的文字。
        block_size: 行长，词元数。
        device: 训练用的设备与精度。
        teacher: 蒸馏的教师。

    Returns:
        要说给用户听的：提醒（warning），打开时的话，输出头退一步算的话。

    Raises:
        ModelError: 有一项是错误，训练不了。
    """
    findings = check_checkpoint(
        checkpoint,
        objective,
        corpus_texts=corpus_texts,
        block_size=block_size,
        device=device,
        teacher=teacher,
        checks=(*CHEAP, check_scoring),
    )
    for each in findings:
        if each.severity == "error":
            raise ModelError(
                found=f"体检不合格（{each.code}）：{each.message}",
                expected=f"能训练的检查点；缘由：{each.cause}",
                remedy=each.remedy,
            )
    return [
        each
        for each in findings
        if each.severity == "warning"
        or (each.severity == "notice" and each.code in ("loading", "scoring"))
    ]
