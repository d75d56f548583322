"""体检的结果与受检者：各项检查共用的两个数据类。"""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from companion.errors import CompanionError, ModelError, ObjectiveError
from companion.preflight.device import Device

if TYPE_CHECKING:
    from companion.checkpoints.loading import Checkpoint
    from companion.objectives import Objective
    from companion.preflight.trial import Trial

Severity = Literal["ok", "notice", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """一条检查结果。"""

    severity: Severity
    """ok 合格 · notice 知道即可 · warning 多半会坏事 · error 训练不了。"""
    code: str
    """检查项的英文名，供程序辨认。"""
    message: str
    """发现了什么，带数字。"""
    cause: str = ""
    """为什么会这样；合格时为空。"""
    remedy: str = ""
    """可以怎么办；合格时为空。"""

    @classmethod
    def of(cls, code: str, error: CompanionError) -> "Finding":
        """一个错误写成一条结果。"""
        return cls("error", code, error.found, f"应当：{error.expected}", error.remedy)

    def as_dict(self) -> dict[str, str]:
        """可以写成 JSON 的形式。"""
        return asdict(self)


@dataclass(frozen=True)
class Subject:
    """受检的检查点与它将要做的事。"""

    checkpoint: "Checkpoint"
    goal: "Objective"
    texts: tuple[str, ...]
    """用来试分词与损失的句子。"""
    block_size: int | None
    device: Device
    packing: bool = True
    """打算把几个文档装进一行。"""

    @property
    def model(self) -> Any:
        """受检的模型。"""
        return self.checkpoint.model

    @property
    def tokenizer(self) -> Any:
        """受检的分词器。"""
        return self.checkpoint.tokenizer

    @cached_property
    def refusal(self) -> ModelError | None:
        """模型用不得这个目标的掩码时的缘由。"""
        from companion.checkpoints.running import DEFAULT_BLOCK_SIZE
        from companion.preflight.mask_support import require_mask

        size = self.block_size or DEFAULT_BLOCK_SIZE
        try:
            require_mask(self.model, *self.goal.masks, block_size=size)
        except ModelError as error:
            return error
        return None

    @cached_property
    def trial(self) -> "Trial | ModelError | ObjectiveError":
        """试读的题；出不了时是缘由。"""
        from companion.preflight.trial import make_trial

        try:
            return make_trial(
                self.model, self.tokenizer, self.goal, self.texts, self.block_size
            )
        except (ModelError, ObjectiveError) as error:
            return error
