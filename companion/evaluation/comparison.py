"""对照：备一份评估集，之前之后各评一次，合成报告卡。

    评估集 = prepare_exam(...)        冻结的目标、样张的题面、填空题
    结果 = sit_exam(检查点, 评估集)   前后各一份
    报告卡 = assemble(之前的结果, 之后的结果)

训练把两次考试放在训练的两头；`compare` 一口气做完，供已有的两个检查点使用。
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from companion.checkpoints.running import fitted_objective, model_options
from companion.corpus.tokenization import text_ids
from companion.errors import ObjectiveError
from companion.evaluation.answers import (
    NUM_MASKS,
    Answer,
    ClozeLike,
    Sample,
    answer_clozes,
    build_samples,
    pair_clozes,
    pair_samples,
)
from companion.evaluation.report import ReportCard
from companion.evaluation.ruler import measure
from companion.evaluation.scoring import (
    BATCH_TOKENS,
    Evaluation,
    exam_block_size,
    score_targets,
)
from companion.evaluation.targets import (
    Documents,
    FrozenTargets,
    build_targets,
    merged_targets,
)
from companion.evaluation.verdict import compare_scores
from companion.inference.filling import mask_randomly
from companion.inference.reading import MASK, split_at_masks
from companion.objectives import Objective
from companion.preflight.visibility import require_mask

NUM_SAMPLES = 3
PROMPT_CHARS = 16
"""续写的样张从文档开头的这么多字写起。"""
SENTENCE_CHARS = (8, 40)
"""掩码模型的样张取这么长的句子。"""
GAP_CHARS = 4
"""填补的样张从句中挖去这么多字。"""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Exam:
    """一份评估集；只要分词器不变，前后两次用同一份。"""

    objective: Objective
    domain: FrozenTargets
    general: FrozenTargets | None
    texts: tuple[str, ...]
    """样张的题面或开头。"""
    clozes: tuple[ClozeLike, ...]
    seed: int


@dataclass(frozen=True)
class Sitting:
    """一个检查点的评估结果。"""

    name: str
    objective: Objective
    domain: Evaluation
    general: Evaluation | None
    samples: list[Sample]
    answers: list[Answer | None]

    def as_dict(self) -> dict[str, Any]:
        """两份留出集的成绩；没有通用留出集时没有 `general`。"""
        scores = {"domain": self.domain.scores.as_dict()}
        if self.general is not None:
            scores["general"] = self.general.scores.as_dict()
        return scores


def prepare_exam(
    checkpoint: Any,
    objective: str | Objective,
    domain: Documents | Mapping[str, Documents],
    general: Documents | None = None,
    *,
    seed: int = 0,
    block_size: int | None = None,
    max_chars: int | None = None,
    texts: Sequence[str] | None = None,
    clozes: Sequence[ClozeLike] = (),
    cache_dir: str | Path | None = None,
) -> Exam:
    """备好评估集。

    Args:
        checkpoint: 打开了的检查点；只用它的分词器与位置上限。
        objective: 训练目标或它的键。
        domain: 领域留出集；语料有几份时，是名字 → 各份的留出集，成绩另按份分开。
        general: 通用留出集；没有就不知道忘了什么。
        seed: 遮哪些词元、抽取哪些词元都由它定。
        block_size: 一行至多多少词元；缺省 512，不超过模型的位置上限。
        max_chars: 每份留出集至多用这么多字。
        texts: 样张的题面；缺省从领域留出集里取几句。
        clozes: 填空题（`companion.corpus.read_cloze`）。
        cache_dir: 分词的缓存。
    """
    goal = fitted_objective(checkpoint.model, objective)
    size = exam_block_size(checkpoint.model, block_size)
    require_mask(checkpoint.model, *goal.masks, block_size=size)

    def targets(documents: Documents) -> FrozenTargets:
        return build_targets(
            checkpoint.tokenizer,
            goal,
            documents,
            seed=seed,
            block_size=size,
            max_chars=max_chars,
            cache_dir=cache_dir,
            model_options=model_options(checkpoint.model, goal),
        )

    by_source: Mapping[str, Documents] = (
        cast("Mapping[str, Documents]", domain)
        if isinstance(domain, Mapping)
        else {"": domain}
    )
    held = {name: _kept(each) for name, each in by_source.items()}
    if texts is None:
        first = next(iter(held.values()))
        texts = pick_texts(first, causal=goal.usage == "complete")
    if goal.usage == "infill":
        one_each = goal.infilling == "unmask"
        texts = [_with_gap(text, checkpoint.tokenizer, one_each) for text in texts]
    elif goal.usage == "fill":
        texts = _masked(texts, checkpoint.tokenizer, seed)
    return Exam(
        goal,
        targets(held[""])
        if "" in held
        else merged_targets({name: targets(each) for name, each in held.items()}),
        None if general is None else targets(_kept(general)),
        tuple(texts),
        tuple(clozes),
        seed,
    )


def sit_exam(
    checkpoint: Any,
    exam: Exam,
    *,
    batch_tokens: int = BATCH_TOKENS,
    say: Say | None = None,
) -> Sitting:
    """评估一个检查点。

    Args:
        checkpoint: 打开了的检查点；模型的模式与随机状态用后复原。
        exam: 评估集，用这个检查点的分词器出的。
        batch_tokens: 一批至多多少词元；只影响速度。
        say: 每做一步说一声。
    """
    tell = say or (lambda _: None)
    tell(f"领域留出集：{exam.domain.num_targets:,} 个目标")
    domain = score_targets(checkpoint.model, exam.domain, batch_tokens=batch_tokens)
    general = None
    if exam.general is not None:
        tell(f"通用留出集：{exam.general.num_targets:,} 个目标")
        general = score_targets(
            checkpoint.model, exam.general, batch_tokens=batch_tokens
        )
    tell(f"样张 {len(exam.texts)} 则，填空 {len(exam.clozes)} 题")
    return Sitting(
        checkpoint.name,
        exam.objective,
        domain,
        general,
        build_samples(checkpoint, exam.objective, exam.texts, exam.seed),
        answer_clozes(checkpoint, exam.objective, exam.clozes),
    )


def assemble(before: Sitting, after: Sitting, **details: Any) -> ReportCard:
    """前后两次的结果合成报告卡。

    Args:
        before: 之前的结果。
        after: 之后的结果。
        **details: `ReportCard` 的其余各项：`curve`、`ledger`、`config` 等。

    Raises:
        EvaluationError: 两次的结果不可比。
    """
    general = None
    if before.general is not None and after.general is not None:
        general = compare_scores(before.general, after.general)
    names: Mapping[str, Any] = {"before": before.name, "after": after.name}
    return ReportCard(
        objective=before.objective.key,
        domain=compare_scores(before.domain, after.domain),
        general=general,
        samples=pair_samples(before.samples, after.samples),
        clozes=pair_clozes(before.answers, after.answers),
        **{**names, **details},
    )


def compare(
    before: Any,
    after: Any,
    objective: str | Objective,
    domain: Documents,
    general: Documents | None = None,
    *,
    say: Say | None = None,
    batch_tokens: int = BATCH_TOKENS,
    details: Mapping[str, Any] | None = None,
    ruler: Documents | None = None,
    **options: Any,
) -> ReportCard:
    """已有的两个检查点，前后对照。

    Args:
        before: 继续预训练之前的检查点。
        after: 之后的检查点。
        objective: 训练目标或它的键。
        domain: 领域留出集。
        general: 通用留出集。
        say: 每做一步说一声。
        batch_tokens: 一批至多多少词元。
        details: `ReportCard` 的其余各项。
        ruler: 拟合尺子的文字；给了，报告里就画出领域留出集上的刻度。
        **options: `prepare_exam` 的其余参数。

    Raises:
        EvaluationError: 两个检查点不可比（掩码模型换了分词器等）。
    """
    domain, general = _kept(domain), None if general is None else _kept(general)
    if options.get("block_size") is None:  # 两边位置上限不同，取小的
        sizes = [exam_block_size(each.model, None) for each in (before, after)]
        options["block_size"] = min(sizes)
    exam = prepare_exam(before, objective, domain, general, **options)
    counted = dict[str, Any]()
    if ruler is not None:
        counted["ruler"] = measure(exam.domain, before.tokenizer, ruler)
        counted["ruler_text"] = "给定的文字"
    sittings = [sit_exam(before, exam, batch_tokens=batch_tokens, say=say)]
    # 分词器可能换了，评估目标要重定；样张的题面沿用，人才好对照
    options["texts"] = exam.texts
    exam = prepare_exam(after, objective, domain, general, **options)
    sittings.append(sit_exam(after, exam, batch_tokens=batch_tokens, say=say))
    return assemble(*sittings, **counted, **(details or {}))


def pick_texts(
    documents: Documents, *, causal: bool, count: int = NUM_SAMPLES
) -> list[str]:
    """从留出集里取几则样张的题面：散在各处的几个文档，各取开头的一句。

    Args:
        documents: 留出集。
        causal: 真则取文档开头的若干字作开头，假则取一整句。
        count: 取几则；文档不够时少几则。
    """
    listed = list(documents() if callable(documents) else documents)
    step = max(1, len(listed) // count)
    found: list[str] = []
    for document in itertools.islice(listed, 0, None, step):
        text = _opening(document.text) if causal else _sentence(document.text)
        if text:
            found.append(text)
        if len(found) == count:
            break
    return found


def _opening(text: str) -> str:
    """开头的若干字，能断在标点之后就断在那里。"""
    head = text[:PROMPT_CHARS]
    stop = max(head.rfind(mark) for mark in "，。；：！？,.;:!?")
    return head[: stop + 1] if stop >= PROMPT_CHARS // 2 else head


def _sentence(text: str) -> str:
    """第一个长短合适的句子；没有就是空的。"""
    shortest, longest = SENTENCE_CHARS
    for match in re.finditer("[^。！？!?]+[。！？!?]?", text):
        if shortest <= len(match[0]) <= longest:
            return match[0]
    return text if shortest <= len(text) <= longest else ""


def _masked(texts: Sequence[str], tokenizer: Any, seed: int) -> list[str]:
    """没有掩码的题面随机遮两个字；一个字也遮不了的（全是生字）不用。"""
    found: list[str] = []
    for text in texts:
        if len(split_at_masks(text, tokenizer)) > 1:
            found.append(text)
            continue
        try:
            found.append(mask_randomly(text, tokenizer, NUM_MASKS, seed).text)
        except ObjectiveError:
            continue
    return found


def _with_gap(text: str, tokenizer: Any, one_each: bool) -> str:
    """正中挖去几个字，一处一个掩码，或（`one_each`）一个词元一个；已有缺处的不动。"""
    if len(split_at_masks(text, tokenizer)) > 1:
        return text
    start = max(0, (len(text) - GAP_CHARS) // 2)
    stop = start + GAP_CHARS
    count = len(text_ids(text[start:stop], tokenizer)) if one_each else 1
    return text[:start] + MASK * count + text[stop:]


def _kept(documents: Documents) -> Documents:
    """要读几遍的语料：只能读一遍的迭代器先收齐。"""
    return list(documents) if isinstance(documents, Iterator) else documents
