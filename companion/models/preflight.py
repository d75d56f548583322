"""训练前的体检：检查点与训练目标、语料、设备合不合。

每一项是一个小函数，收下 `Subject`，交回一条 `Finding`；`CHECKS` 按次序列出它们，分住在
`tokenizer_checks` 与 `model_checks`。查的都是 transformers 不报、却会让几小时的训练白费
的事：输出头是随机的、词表认不得语料里的字、填充渗进结果、行比位置表长……添一项检查，就是
添一个函数、在 `CHECKS` 里添一行。
"""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING

from companion.models.device import Device, best_device
from companion.models.findings import Finding, Subject
from companion.models.model_checks import (
    check_block_size,
    check_head,
    check_mask,
    check_memory,
    check_packing,
    check_padding,
    check_precision,
    check_tied_weights,
)
from companion.models.running import fitted_objective
from companion.models.tiny_tokenizers import TINY_TEXT
from companion.models.tokenizer_checks import (
    check_end_token,
    check_needed_tokens,
    check_pad_token,
    check_tokens_per_char,
    check_unknown,
    check_vocabulary,
)

if TYPE_CHECKING:
    from companion.models.loading import Checkpoint
    from companion.objectives import Objective

_MAX_TEXTS, _MAX_CHARS = 200, 500

CHECKS: tuple[Callable[[Subject], Finding], ...] = (
    check_needed_tokens,
    check_pad_token,
    check_end_token,
    check_vocabulary,
    check_unknown,
    check_tokens_per_char,
    check_mask,
    check_head,
    check_tied_weights,
    check_padding,
    check_packing,
    check_block_size,
    check_precision,
    check_memory,
)
"""全部检查，按此次序。"""


def check_checkpoint(
    checkpoint: "Checkpoint",
    objective: "str | Objective",
    *,
    corpus_texts: Iterable[str] | None = None,
    block_size: int | None = None,
    device: Device | None = None,
) -> list[Finding]:
    """给检查点做体检；模型与全局随机状态原样不动。

    Args:
        checkpoint: 已打开的检查点。
        objective: 训练目标或它的键。
        corpus_texts: 语料里的文字，取前 200 段的前 500 字；缺省用内置的几句中文。
        block_size: 打算用的行长，词元数。
        device: 打算用的设备；缺省用本机最好的。

    Returns:
        每项检查一条结果，按 `CHECKS` 的次序；打开时的提醒在最后。
    """
    from companion.models.loading import quiet_transformers

    texts = islice(filter(str.strip, corpus_texts or TINY_TEXT), _MAX_TEXTS)
    subject = Subject(
        checkpoint=checkpoint,
        goal=fitted_objective(checkpoint.model, objective),
        texts=tuple(text[:_MAX_CHARS] for text in texts) or TINY_TEXT,
        block_size=block_size,
        device=device or best_device(checkpoint.model.config.model_type),
    )
    with quiet_transformers():
        findings = [check(subject) for check in CHECKS]
    notices = [Finding("notice", "loading", text) for text in checkpoint.notices]
    return findings + notices
