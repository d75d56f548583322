"""复现失败用的训练循环：三十行看得完，故意不拦着人犯错。

`companion train` 会拒绝这里的大半错误，所以犯错用不得它。模型都是起步模型，语料是随包的
小史书；一次二三十步，单线程几秒。

形状字母：B 行数，L 行长。
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from companion.batch import Batch, Feature
from companion.checkpoints.running import special_edges
from companion.corpus.document import Document
from companion.corpus.packing import plan_packing
from companion.corpus.sources import read_corpus
from companion.losses.target_head import target_losses
from companion.preflight.probing import adapt_batch, evaluation_mode

ROW = 64
"""一行至多多少词元。"""
ROWS = 4
"""一步几行。"""
RATE = 1e-3
"""起步模型合用的学习率峰值。"""
_CLIP = 1.0
_SCORED_TOGETHER = 16


@dataclass
class Trace:
    """一次训练留下的：每步的损失，与隔几步量一次的别的数。"""

    losses: list[float] = field(default_factory=list[float])
    """每步，每个目标多少奈特。"""
    probed_at: list[int] = field(default_factory=list[int])
    probes: list[float] = field(default_factory=list[float])

    def tail(self) -> float:
        """最后四分之一各步的平均损失。"""
        last = self.losses[-max(1, len(self.losses) // 4) :]
        return sum(last) / len(last)


def fit(
    model: Any,
    batches: Iterable[Batch],
    *,
    causal: bool,
    learning_rate: float = RATE,
    probe: Callable[[], float] | None = None,
    every: int = 4,
) -> Trace:
    """AdamW，梯度裁剪，学习率不变；就地改动模型。

    Args:
        model: 带输出头的模型。
        batches: 每步一批。
        causal: 损失要不要自己移一位。
        learning_rate: 学习率。
        probe: 第 0 步之前、此后每隔 `every` 步、以及走完之后各量一次的数。
        every: 隔几步量一次。
    """
    trace = Trace()
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate)

    def measure(step: int) -> None:
        if probe is not None:
            trace.probed_at.append(step)
            trace.probes.append(probe())

    model.train()
    step = 0
    for batch in batches:
        if step % every == 0:
            measure(step)
        losses = target_losses(model, adapt_batch(model, batch), causal=causal)
        loss = losses.total_nats / len(losses.nats)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
        optimizer.step()
        optimizer.zero_grad()
        trace.losses.append(float(loss.detach()))
        step += 1
    measure(step)
    model.eval()
    return trace


def mean_nats(model: Any, batches: Sequence[Batch], *, causal: bool) -> float:
    """几批的平均损失，每个目标多少奈特；不训练。"""
    total, count = 0.0, 0
    with evaluation_mode(model):
        for batch in batches:
            losses = target_losses(model, adapt_batch(model, batch), causal=causal)
            total += float(losses.total_nats)
            count += len(losses.nats)
    return total / count


def sample_documents(side: str, split: str = "train") -> list[Document]:
    """随包小史书的一侧；`general` 是通用文本。"""
    if side != "general":
        return list(read_corpus(f"sample:{side}", split))
    from importlib import resources

    folder = resources.files("companion.corpus") / "samples"
    return list(read_corpus(str(folder / f"general.{split}.txt")))


def rows_of(
    tokenizer: Any, documents: Iterable[Document], *, end: bool = False
) -> list[Feature]:
    """文档切成一行一行，不打包。

    Args:
        tokenizer: 分词器；两侧的特殊词元照它的习惯加。
        documents: 文档。
        end: 每篇的最后一行末尾另加文档结尾（因果模型）。
    """
    prefix, suffix = (list(side) for side in special_edges(tokenizer))
    ends = [tokenizer.eos_token_id] if end else []
    texts = [document.text for document in documents]
    ids = [
        [*each, *ends] for each in tokenizer(texts, add_special_tokens=False).input_ids
    ]
    plan = plan_packing(
        [len(each) for each in ids],
        ROW,
        pack=False,
        overhead_per_piece=len(prefix) + len(suffix),
    )
    return [
        {"input_ids": [*prefix, *ids[p.document][p.start : p.stop], *suffix]}
        for [p] in plan
    ]


def draw(
    rows: Sequence[Feature],
    collator: Callable[[list[Feature]], Batch],
    steps: int,
    seed: int,
    *,
    replay: Sequence[Feature] = (),
) -> Iterator[Batch]:
    """每步抽几行，各步不同；种子相同，抽到的就相同。

    Args:
        rows: 训练的行。
        collator: 整理器。
        steps: 几步。
        seed: 随机种子。
        replay: 给了时，每步有一半换成它的行。
    """
    order = random.Random(seed)
    numbered = [{**row, "example_id": at} for at, row in enumerate(rows)]
    mixed = [{**row, "example_id": len(rows) + at} for at, row in enumerate(replay)]
    for step in range(steps):
        chosen = order.sample(numbered, ROWS)
        if mixed:
            chosen[: ROWS // 2] = order.sample(mixed, ROWS // 2)
        yield collator([{**row, "epoch": seed * steps + step} for row in chosen])


def frozen(
    rows: Sequence[Feature], collator: Callable[[list[Feature]], Batch], limit: int
) -> list[Batch]:
    """前 `limit` 行排成几批，噪声固定：训练前后考的是同一份。"""
    numbered = [
        {**row, "example_id": at, "epoch": 0} for at, row in enumerate(rows[:limit])
    ]
    return [
        collator(numbered[at : at + _SCORED_TOGETHER])
        for at in range(0, len(numbered), _SCORED_TOGETHER)
    ]


def steps_axis(trace: Trace) -> list[float]:
    """每步损失的横轴，从 1 数起。"""
    return [float(step) for step in range(1, len(trace.losses) + 1)]
