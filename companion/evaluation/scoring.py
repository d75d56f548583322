"""打分：每字比特数，以及同一份评估目标上的损失与准确率。

    每字比特数 = Σ 奈特 / (ln 2 · Σ 被考的字数)        越低越好

词元级的困惑度随分词器而变：一个词元写几个字，各家不同。按字平摊之后，同样的文字就能
相比；字的困惑度是 2 的每字比特数次方。均匀乱猜的模型，一字一词元时恰好是 log₂ V。

考什么见 `companion.evaluation.targets`：目标冻结，前后同一份；[UNK] 与文档结尾不考。
`loss_nats_per_token` 与 `accuracy` 在同样的目标上算，但按词元平均，只可在同一个分词器
之内比较。

评估一律用模型自己的精度、不用自动混合精度；模型在哪个设备上，就在哪个设备上算。

形状字母：B 行数，L 行长，T 一行的词元数，N 目标数，R 全部行数。
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from companion.batch import IGNORE_INDEX, Batch
from companion.checkpoints.running import (
    default_block_size,
    evaluation_mode,
    fitted_objective,
    inner_model,
    model_options,
    over_limit,
    takes,
)
from companion.corpus.document import Document
from companion.errors import EvaluationError
from companion.evaluation.bootstrap import bootstrap_ratio
from companion.evaluation.ruler import measure
from companion.evaluation.targets import (
    Documents,
    FrozenTargets,
    TargetRow,
    build_targets,
    sample_documents,
)
from companion.losses.parts import Loss
from companion.objectives import Objective, get_objective
from companion.objectives.collate import Example, pad_rows
from companion.preflight.visibility import (
    neighbours,
    require_left_to_right,
    require_mask,
)

BATCH_TOKENS = 4096
"""一批至多这么多词元，含填充。"""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Scores:
    """一份评估目标上的成绩。"""

    bits_per_char: float
    loss_nats_per_token: float
    accuracy: float
    """概率最大的词元就是目标的比例，按词元计，在 0 与 1 之间。"""
    unk_rate: float
    """全部文字里 [UNK] 所占字数的比例。[UNK] 不是目标：所有生字都变成它，猜中很容易，
    却什么也没猜中，算进去会让丢字多的模型显得好。"""
    num_chars: int
    num_targets: int
    interval: tuple[float, float] | None = None
    """每字比特数的 95% 自助区间（按行重抽）；不足两行时为 None。"""
    order_accuracy: float | None = None
    """sentence_order：句序判对的比例，瞎猜是一半；没有两句以上的行时为 None。"""
    replaced_rate: float | None = None
    """replaced_token：换掉的比例；总答“原文”的准确率是 1 减它。"""
    sources: Mapping[str, float] | None = None
    """语料有几份时，各份自己的每字比特数。"""
    standard_error: float | None = None
    """masked_diffusion：每字比特数的标准误，由同一片几次遮法之间的离散算出：同样的文字另抽
    一套遮法，会差多少。各次的个数摊得比独立抽的匀，所以只会高估。"""
    left_only: float | None = None
    """fill_in_the_middle：同样的字照原来的次序、只看左边的每字比特数。"""
    ruler: Mapping[str, float] | None = None
    """只会数字频的办法在同一份目标上的每字比特数（`companion.evaluation.ruler`）。"""

    def as_dict(self) -> dict[str, Any]:
        """可写成 JSON 的字典，键名与命令行的输出一致；没有的几项不写。"""
        extra = {
            "order_accuracy": self.order_accuracy,
            "replaced_rate": self.replaced_rate,
            "standard_error": self.standard_error,
            "left_only": self.left_only,
            "sources": self.sources and dict(self.sources),
            "ruler": self.ruler and dict(self.ruler),
        }
        return {
            "bits_per_char": self.bits_per_char,
            "loss_nats_per_token": self.loss_nats_per_token,
            "accuracy": self.accuracy,
            "unk_rate": self.unk_rate,
            "num_chars": self.num_chars,
            "num_targets": self.num_targets,
            "interval": None if self.interval is None else list(self.interval),
            **{name: value for name, value in extra.items() if value is not None},
        }


@dataclass(frozen=True)
class Evaluation:
    """成绩，连同逐行的数字与评估目标的指纹：两次评估由此可以配对相减。"""

    scores: Scores
    nats: NDArray[np.float64]
    """每行的损失之和，奈特，(R,)。"""
    chars: NDArray[np.int64]
    """每行被考的字数，(R,)。"""
    objective: str
    fingerprint: str
    """评估目标的指纹（`FrozenTargets.fingerprint`）；相同才可以逐行相减。"""
    coverage: str
    """被考的字的指纹；分词器不同而考的字相同时，它相同。"""
    text_fingerprint: str

    @property
    def bits(self) -> NDArray[np.float64]:
        """每行的损失之和，比特，(R,)。"""
        return self.nats / math.log(2)


def evaluate(
    checkpoint: Any,
    objective: str | Objective,
    documents: Documents,
    *,
    seed: int = 0,
    block_size: int | None = None,
    max_chars: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    cache_dir: str | Path | None = None,
    on_progress: Progress | None = None,
    ruler: Documents | None = None,
) -> Evaluation:
    """给检查点打分。

    Args:
        checkpoint: 打开了的检查点；模型的模式（训练或评估）用后复原。
        objective: 训练目标或它的键。
        documents: 留出集，文档的列表或产出它的函数。
        seed: 遮哪些词元由它定；比较两个检查点时要相同。
        block_size: 一行至多多少词元；缺省 512，不超过模型的位置上限。比较两个检查点时要
            相同。
        max_chars: 至多用这么多字的文字，见 `build_targets`。
        batch_tokens: 一批至多多少词元，含填充；只影响速度，不影响分数。
        cache_dir: 分词的缓存。
        on_progress: 每批之后得到 (已考的行数, 总行数)。
        ruler: 拟合尺子的文字；给了，成绩里就有 `ruler` 一项，留出集是句对的另有照抄源侧
            的 chrF。

    Raises:
        EvaluationError: `block_size` 超过模型的位置上限，或没有可考的词元；尺子用不得。
        ModelError: 模型读不了文字，用不得这个目标的掩码，或目标从左到右而模型看得见
            右边。
    """
    goal = fitted_objective(checkpoint.model, objective)
    size = exam_block_size(checkpoint.model, block_size)
    require_mask(checkpoint.model, *goal.masks, block_size=size)
    if goal.left_to_right:
        require_left_to_right(inner_model(checkpoint.model))
    if isinstance(documents, Iterator):
        documents = list(documents)
    targets = build_targets(
        checkpoint.tokenizer,
        goal,
        documents,
        seed=seed,
        block_size=size,
        max_chars=max_chars,
        cache_dir=cache_dir,
        model_options=model_options(checkpoint.model, goal),
    )
    found = score_targets(
        checkpoint.model, targets, batch_tokens=batch_tokens, on_progress=on_progress
    )
    if ruler is None:
        return found
    pairs: Sequence[Document] = ()
    if goal.pairs is not None:
        whole = documents() if callable(documents) else documents
        chosen = whole if max_chars is None else sample_documents(whole, max_chars)
        pairs = [each for each in chosen if each.target]
    scale = measure(
        targets, checkpoint.tokenizer, ruler, pairs=pairs, cache_dir=cache_dir
    )
    return replace(found, scores=replace(found.scores, ruler=scale))


def exam_block_size(model: Any, block_size: int | None) -> int:
    """缺省的行长，或核对过的行长。

    Raises:
        EvaluationError: 超过模型的位置上限。
    """
    if block_size is None:
        return default_block_size(model)
    if (limit := over_limit(model, block_size)) is not None:
        raise EvaluationError(
            found=f"block_size = {block_size}",
            expected=f"不超过模型的位置上限 {limit}",
            remedy=f"改成 block_size={limit} 或更小",
        )
    return block_size


def score_targets(
    model: Any,
    targets: FrozenTargets,
    *,
    batch_tokens: int = BATCH_TOKENS,
    on_progress: Progress | None = None,
) -> Evaluation:
    """在定好的评估目标上打分；训练前后各评一次时，目标只须定一次。"""
    loss = fitted_objective(model, targets.objective).make_exam_loss()
    orders: list[bool] = []
    nats, correct = row_losses(
        model,
        targets.rows,
        targets.collate,
        loss,
        batch_tokens=batch_tokens,
        on_progress=on_progress,
        orders=orders,
    )
    nats = nats * np.array([row.weight for row in targets.rows])
    sizes = np.array([row.size for row in targets.rows], np.int64)  # (R, 2)
    error = _standard_error(nats / math.log(2), targets)
    if targets.draws > 1:  # 同一片的几次取平均，一片算一行
        nats = nats.reshape(-1, targets.draws).mean(1)
        sizes = sizes[:: targets.draws]
    chars, num_tokens = sizes[:, 0], int(sizes[:, 1].sum())
    total = float(nats.sum())
    interval = bootstrap_ratio(nats / math.log(2), chars)
    scores = Scores(
        bits_per_char=total / math.log(2) / max(1, targets.num_chars),
        loss_nats_per_token=total / num_tokens,
        accuracy=float(correct.sum()) / targets.num_targets,
        unk_rate=targets.unk_rate,
        num_chars=targets.num_chars,
        num_targets=targets.num_targets,
        interval=interval,
        order_accuracy=sum(orders) / len(orders) if orders else None,
        replaced_rate=_replaced_rate(targets),
        standard_error=error,
        left_only=_left_only(model, targets, loss, batch_tokens),
        sources=_by_source(
            targets.sources[:: targets.draws], nats / math.log(2), chars
        ),
    )
    return Evaluation(
        scores,
        nats,
        chars,
        targets.objective,
        targets.fingerprint,
        targets.coverage,
        targets.text_fingerprint,
    )


def _standard_error(bits: NDArray[np.float64], targets: FrozenTargets) -> float | None:
    """一片几次平均之后的标准误，每字比特；一片只有一次的为 None。

    Args:
        bits: 每行的损失之和，(R,)，同一片的几次相连。
        targets: 评估目标。
    """
    if targets.draws < 2:
        return None
    apart = bits.reshape(-1, targets.draws).var(axis=1, ddof=1) / targets.draws
    return math.sqrt(float(apart.sum())) / max(1, targets.num_chars)


def _left_only(
    model: Any, targets: FrozenTargets, loss: Loss, batch_tokens: int
) -> float | None:
    """同样的字照原来的次序读一遍，每字比特数；没有挪过次序的为 None。"""
    rows = [
        row._replace(example=row.unmoved, labels=row.unmoved.labels)
        for row in targets.rows
        if row.unmoved is not None
    ]
    if not rows:
        return None
    nats, _ = row_losses(model, rows, targets.collate, loss, batch_tokens=batch_tokens)
    return float(nats.sum()) / math.log(2) / max(1, targets.num_chars)


def _by_source(
    sources: Sequence[str], bits: NDArray[np.float64], chars: NDArray[np.int64]
) -> dict[str, float] | None:
    names = np.array(sources)
    return {
        name: float(bits[names == name].sum() / chars[names == name].sum())
        for name in dict.fromkeys(sources)
    } or None


def row_losses(
    model: Any,
    rows: Sequence[TargetRow],
    collate: Callable[[list[Example]], Batch],
    loss: Loss,
    *,
    batch_tokens: int = BATCH_TOKENS,
    on_progress: Progress | None = None,
    orders: list[bool] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """每行的损失之和与猜中的个数。

    长短相近的行放进一批，批与批之间没有瓜葛，所以批量大小不影响结果。

    Args:
        model: 带输出头的 transformers 模型。
        rows: 评估目标的各行。
        collate: 整理器的补齐。
        loss: 目标的损失；第一项是分数，其余的对错进 `orders`。
        batch_tokens: 一批至多多少词元，含填充。
        on_progress: 每批之后得到 (已考的行数, 总行数)。
        orders: 句序判断的对错添在这里，每个两句以上的行一项。

    Returns:
        奈特 (R,) float64 与猜中的个数 (R,) int64。
    """
    nats = np.zeros(len(rows), np.float64)
    correct = np.zeros(len(rows), np.int64)
    inner = inner_model(model)
    device = next(model.parameters()).device
    together = neighbours(inner)
    if together == "none":
        batch_tokens = 1
    done = 0
    sizes = [(len(row.input_ids), len(row.labels)) for row in rows]
    lengths = [max(size) for size in sizes]
    alike = sizes if together == "same_length" else None
    with evaluation_mode(model):
        for chosen in batches(lengths, batch_tokens, alike):
            batch = collate([rows[i].example for i in chosen])
            width = batch["labels"].shape[1]
            batch["labels"] = pad_rows(
                [rows[i].labels for i in chosen], IGNORE_INDEX, width
            )
            counts = [int((rows[i].labels != IGNORE_INDEX).sum()) for i in chosen]
            batch = {key: value.to(device) for key, value in batch.items()}
            if takes(inner, "use_cache"):  # 不续写，键值缓存只会白占显存
                batch["use_cache"] = False  # type: ignore[assignment]
            first, *others = loss(model, batch)
            losses = first.losses
            if orders is not None:
                for part in others:
                    orders += part.losses.correct.tolist()
            for i, lost, hit in zip(
                chosen,
                losses.nats.cpu().double().split(counts),
                losses.correct.cpu().split(counts),
                strict=True,
            ):
                nats[i], correct[i] = float(lost.sum()), int(hit.sum())
            done += len(chosen)
            if on_progress is not None:
                on_progress(done, len(rows))
    return nats, correct


def _replaced_rate(targets: FrozenTargets) -> float | None:
    if not get_objective(targets.objective).discriminator:
        return None
    replaced = sum(int((row.labels == 1).sum()) for row in targets.rows)
    return replaced / targets.num_targets


def batches(
    lengths: Sequence[int],
    batch_tokens: int,
    alike: Sequence[tuple[int, int]] | None = None,
) -> Iterator[list[int]]:
    """把行号分成批：由长到短，每批补齐后不超过 `batch_tokens`，至少一行。

    Args:
        lengths: 各行的长度。
        batch_tokens: 一批至多多少词元，含填充。
        alike: 各行两侧的长度；给了，只把全同的放进一批，于是没有填充。

    >>> list(batches([3, 9, 3, 8], 18))
    [[1, 3], [0, 2]]
    >>> list(batches([3, 9, 3, 8], 18, [(3, 3), (9, 9), (3, 3), (8, 8)]))
    [[1], [3], [0, 2]]
    """
    order = sorted(
        range(len(lengths)), key=lambda i: (-lengths[i], alike[i] if alike else (), i)
    )
    batch: list[int] = []
    for i in order:
        longest = lengths[batch[0]] if batch else lengths[i]
        full = (len(batch) + 1) * longest > batch_tokens
        apart = alike is not None and bool(batch) and alike[i] != alike[batch[0]]
        if batch and (full or apart):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
