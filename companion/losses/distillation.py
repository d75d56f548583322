"""蒸馏：学生一边猜被遮的词元，一边学教师怎样猜（DistilBERT）。

    损失 = 2 · 掩码语言建模
         + 5 · T² · KL(教师 ‖ 学生)，两边的 logits 都除以温度 T = 2
         + 1 · (1 − cos(学生的隐藏状态, 教师的隐藏状态))      （Sanh 等，2019，§2–3）

式子出自论文，三个权重与温度出自发布的训练命令（`distillation/` 的 README）。教师读同一
份破坏过的文字，权重冻结，没有随机失活，不留梯度。

后两项在哪些位置上算：发布的代码（`distiller.py`）以 `restrict_ce_to_mask` 决定只算被遮
的，还是所有真有词元的位置；训练命令没有给它，就是后一种，余弦一项总是后一种，这里同样，
[CLS]、[SEP] 也在内。填充不算。

所有位置都要过输出头，比单做掩码语言建模慢；不过两边的 logits 都一块一块地算，(M, V) 从
不整个存在（`LinearLoss`）。

形状字母：B 行数，L 行长，M 真有词元的位置数，D 隐藏层宽，V 词表，C 一块的行数。
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from companion.batch import IGNORE_INDEX, Batch
from companion.checkpoints.loading import load_checkpoint
from companion.checkpoints.running import (
    LABEL_KEYS,
    inner_model,
    submodel_inputs,
    text_config,
)
from companion.errors import ModelError
from companion.losses.target_head import (
    LastLayer,
    LinearLoss,
    TargetLosses,
    last_hidden,
    score_logits,
    scoring_head,
)

ATTENDED = "attended"
"""真有词元的位置在批量里叫什么，(B, L) bool（`MaskedLMCollator.mark_attended`）。"""
TEMPERATURE = 2.0
WORDS_WEIGHT, TEACHER_WEIGHT, HIDDEN_WEIGHT = 2.0, 5.0, 1.0
"""掩码语言建模、教师的分布、隐藏状态三个损失项的权重，照发布的训练命令。"""

Scores = Callable[[slice], Tensor]
"""第几行到第几行 → 它们的 logits，(C, V) float32。"""


@dataclass(frozen=True)
class Reading:
    """教师读一批的所得；M 个位置的次序是逐行逐位置。"""

    scores: Scores
    hidden: Tensor | None
    """最后一层的隐藏状态，(M, D)；不比隐藏状态时为 None。"""


@dataclass(frozen=True)
class DistillationLosses:
    """一批的三个损失项。"""

    words: TargetLosses
    """被遮的词元。"""
    teacher: TargetLosses
    """每个位置的 T²·KL；与教师的首选相同算对。"""
    hidden: TargetLosses | None
    """每个位置的 1 − cos，没有对错；隐藏层宽不同时为 None。"""


@dataclass(frozen=True)
class Teacher:
    """冻结的教师。"""

    model: Any
    """评估模式，没有一个参数要梯度。"""
    name: str
    compares_hidden: bool
    """学生的隐藏层与它一样宽，比得了隐藏状态。"""
    notices: tuple[str, ...] = ()
    """打开它时用户应当知道的事。"""

    def read(self, batch: Batch) -> Reading:
        """读一批，不留梯度。

        Args:
            batch: `MaskedLMCollator(mark_attended=True)` 的输出，还没有为学生改过样子。
        """
        head = scoring_head(self.model, batch[ATTENDED], _by_layer, _by_logits)
        with torch.no_grad(), last_hidden(self.model) as seen, head as read:
            scores = read(self.model(**submodel_inputs(self.model, batch)))
        hidden = seen[-1][batch[ATTENDED]] if self.compares_hidden else None
        return Reading(scores, hidden)


def _by_layer(last: LastLayer) -> tuple[Scores, Tensor]:
    return last.logits, last.input.new_zeros(())


def _by_logits(logits: Tensor) -> Scores:
    return lambda part: logits[part].float()


def load_teacher(name: str, model: Any, tokenizer: Any) -> Teacher:
    """打开教师，冻结，并核对它教不教得了这个学生。

    Args:
        name: 检查点的名字，写法同 `load_checkpoint`。
        model: 学生。
        tokenizer: 学生的分词器。

    Raises:
        ModelError: 打不开、不是掩码语言模型，或词表与学生的不同。
    """
    checkpoint = load_checkpoint(name, "masked_lm")
    mine, theirs = tokenizer.get_vocab(), checkpoint.tokenizer.get_vocab()
    rows = [
        len(inner_model(each).get_output_embeddings().weight)
        for each in (model, checkpoint.model)
    ]
    if mine != theirs or rows[0] != rows[1]:
        differ = sum(theirs.get(token) != number for token, number in mine.items())
        raise ModelError(
            found=f"教师 {name} 的词表（{len(theirs):,} 个词元，输出头 {rows[1]:,} 行）"
            f"与学生的（{len(mine):,} 个，{rows[0]:,} 行）不同，"
            f"学生的词元有 {differ:,} 个对不上",
            expected="同一个词表：两边的分布要逐个词元相比",
            remedy="换一个同系列的教师（例如学生是由它缩小来的）；"
            "扩充过词表的学生，教师也要同样扩充",
        )
    teacher = checkpoint.model.requires_grad_(False).eval()
    widths = [text_config(each).hidden_size for each in (model, teacher)]
    return Teacher(teacher, name, widths[0] == widths[1], tuple(checkpoint.notices))


def distillation_losses(
    model: nn.Module, batch: Batch, reading: Reading
) -> DistillationLosses:
    """学生前向一次，求三个损失项。

    Args:
        model: 学生，可以包着 DDP 或 peft。
        batch: `MaskedLMCollator(mark_attended=True)` 的输出。
        reading: 教师读同一批的所得。

    Raises:
        ModelError: 不认识这个架构的输出头。
    """
    labels, attended = batch["labels"], batch[ATTENDED]
    masked = (labels != IGNORE_INDEX)[attended]  # (M,)
    targets = labels[labels != IGNORE_INDEX]  # (N,)
    inner = inner_model(model)

    def score(last: LastLayer) -> tuple[tuple[TargetLosses, TargetLosses], Tensor]:
        chosen = LastLayer(last.input[masked], last.weight, last.bias)
        words = chosen.cross_entropy(targets)
        return (words, _divergence(last, reading.scores)), words.total_nats

    def score_whole(logits: Tensor) -> tuple[TargetLosses, TargetLosses]:
        wanted = reading.scores(slice(None))
        nats = divergence(softened(logits.float()), softened(wanted))
        same = logits.argmax(-1) == wanted.argmax(-1)
        return (
            score_logits(logits[masked], targets),
            TargetLosses(nats.sum(), nats.detach(), same),
        )

    inputs = {name: batch[name] for name in batch if name not in LABEL_KEYS}
    head = scoring_head(inner, attended, score, score_whole)
    with last_hidden(inner) as seen, head as read:
        words, teacher = read(model(**inputs))
    if reading.hidden is None:
        return DistillationLosses(words, teacher, None)
    cosine = F.cosine_similarity(seen[-1][attended].float(), reading.hidden.float())
    apart = 1 - cosine  # (M,)
    hidden = TargetLosses(
        apart.sum(), apart.detach(), torch.zeros_like(apart, dtype=torch.bool)
    )
    return DistillationLosses(words, teacher, hidden)


def softened(logits: Tensor) -> Tensor:
    """除以温度之后的对数概率，形状不变。"""
    return (logits / TEMPERATURE).log_softmax(-1)


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """T²·KL(教师 ‖ 学生)，(C,)。

    Args:
        student: 学生的对数概率，(C, V) float32。
        teacher: 教师的对数概率，同上。

    >>> half = torch.tensor([[0.5, 0.5]]).log()
    >>> divergence(half, half), divergence(half, torch.tensor([[1.0, 1e-9]]).log())
    (tensor([0.]), tensor([2.7726]))
    """
    return (teacher.exp() * (teacher - student)).sum(-1) * TEMPERATURE**2


def _divergence(last: LastLayer, scores: Scores) -> TargetLosses:
    total, nats, same = LinearDivergence.apply(
        last.input, last.weight, last.bias, scores, torch.is_grad_enabled()
    )  # type: ignore[misc]
    return TargetLosses(total, nats, same)


class LinearDivergence(LinearLoss):
    """线性层与 T²·KL 之和；对 logits 的梯度是 T（学生的概率 − 教师的概率）。"""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scores: Scores,
        training: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(M, D)、(V, D)、(V,) → 损失之和、各位置的损失 (M,)、首选相不相同 (M,)。"""

        def judge(logits: Tensor, part: slice, wanted: bool) -> tuple[Tensor, Tensor]:
            theirs = scores(part)
            same = logits.argmax(-1) == theirs.argmax(-1)
            student, teacher = softened(logits), softened(theirs)
            if wanted:
                torch.sub(student.exp(), teacher.exp(), out=logits).mul_(TEMPERATURE)
            return divergence(student, teacher), same

        return LinearLoss.run(ctx, hidden, weight, bias, training, judge)
