"""体检的结果，受检者，与试读的样本：各项检查共用。

试读是拿几句话照训练时的样子破坏、装批，看整理器造不造得出，模型读不读得通。几项检查（特殊
词元、输出头、填充、打包）都从这里取批量，所以不管哪个目标、哪种模型，查的就是训练时要走的
那条路。试读的样本是固定的，不碰全局的随机状态。
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

from companion.batch import Batch, Feature
from companion.checkpoints.loading import Checkpoint
from companion.checkpoints.running import (
    DEFAULT_BLOCK_SIZE,
    model_options,
    position_limit,
    special_edges,
)
from companion.corpus.tokenization import text_ids
from companion.errors import CompanionError, ModelError, ObjectiveError
from companion.losses.distillation import Teacher
from companion.objectives import Objective
from companion.objectives.collate import Example
from companion.preflight.device import Device
from companion.preflight.visibility import require_mask

Severity = Literal["ok", "notice", "warning", "error"]

_MAX_SENTENCES, _MAX_TOKENS = 16, 60
"""试读的句数与每句的词元数。"""


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
class Trial:
    """试读的样本。"""

    collator: Any
    """配好的整理器，参数同评估时。"""
    examples: list[Example]
    """每句一个样本。"""
    longer: Example | None
    """第一句连写两遍：与它同批，第一句就要填充。没有句子时为 None。"""
    packed: Example | None
    """两句各作一篇，装在一行。放不下，或句子不够时为 None。"""


@dataclass(frozen=True)
class Subject:
    """受检的检查点与它将要做的事。"""

    checkpoint: Checkpoint
    goal: Objective
    texts: tuple[str, ...]
    """用来试分词与损失的句子。"""
    block_size: int | None
    device: Device
    packing: bool = True
    """打算把几个文档装进一行。"""
    teacher: Teacher | None = None
    """蒸馏的教师，已与学生核对过词表。"""

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
        size = self.block_size or DEFAULT_BLOCK_SIZE
        try:
            require_mask(self.model, *self.goal.masks, block_size=size)
        except ModelError as error:
            return error
        return None

    @cached_property
    def trial(self) -> Trial | ModelError | ObjectiveError:
        """试读的样本；造不出时是缘由。"""
        try:
            return make_trial(
                self.model, self.tokenizer, self.goal, self.texts, self.block_size
            )
        except (ModelError, ObjectiveError) as error:
            return error


def make_trial(
    model: Any,
    tokenizer: Any,
    goal: Objective,
    texts: Sequence[str],
    block_size: int | None = None,
) -> Trial:
    """造试读的样本。

    Args:
        model: 受检的模型。
        tokenizer: 它的分词器。
        goal: 训练目标。
        texts: 语料里的文字。
        block_size: 打算用的行长；缺省取 512 与模型上限之小者。

    Raises:
        ObjectiveError: 分词器或文字与目标不合：没有掩码或哨兵，哨兵不够一行用，原文里已
            有它们。
        ModelError: 模型的设置里缺了目标要的一项。
    """
    collator = goal.make_collator(
        tokenizer, **{**goal.frozen_options, **model_options(model, goal)}
    )
    prefix, suffix = special_edges(tokenizer)
    limit = position_limit(model)
    row = block_size or min(DEFAULT_BLOCK_SIZE, limit or DEFAULT_BLOCK_SIZE)
    goal.row_capacity(collator, row, len(prefix) + len(suffix))
    # 连写两遍也要放得下
    room = max(0, min(_MAX_TOKENS, ((limit or row) - len(prefix) - len(suffix)) // 2))
    bodies = [text_ids(text, tokenizer)[:room] for text in texts[:_MAX_SENTENCES]]
    bodies = [body for body in bodies if body]

    def feature(number: int, body: list[int]) -> Feature:
        whole = [*prefix, *body, *suffix]
        if goal.pairs_required:  # 自己作自己的译文
            starts = [0, len(whole)]
            return {
                "input_ids": whole * 2,
                "document_starts": starts,
                "example_id": number,
            }
        return {"input_ids": whole, "example_id": number}

    features = [feature(number, body) for number, body in enumerate(bodies)]
    longer: list[Example] = []
    if bodies:
        longer = collator.examples([feature(len(bodies), bodies[0] * 2)])
    packed: list[Example] = []
    short = [body[: room - len(prefix) - len(suffix)] for body in bodies[:2]]
    if goal.packable and len(short) == 2 and all(short):
        rows = [[*prefix, *body, *suffix] for body in short]
        pair: Feature = {
            "input_ids": rows[0] + rows[1],
            "document_starts": [0, len(rows[0])],
            "example_id": len(bodies) + 1,
        }
        packed = collator.examples([pair])
    return Trial(
        collator,
        collator.examples(features) if features else [],
        longer[0] if longer else None,
        packed[0] if packed else None,
    )


def trial_batch(model: Any, trial: Trial, examples: Sequence[Example]) -> Batch:
    """整理器的批量，在模型的设备上。"""
    batch = trial.collator.collate(examples)
    return {name: value.to(model.device) for name, value in batch.items()}
