"""训练里的失败：学习率太高、不回放、标签移了两次、输出头是随机的。

每个函数做错与做对各跑一遍，读同样的批次、走同样的步数，只差那一处。
"""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from companion.batch import IGNORE_INDEX, Batch
from companion.checkpoints.loading import Checkpoint, load_checkpoint
from companion.checkpoints.quiet import quiet_transformers
from companion.notebook.failure import Failure
from companion.notebook.failure_loop import (
    RATE,
    Trace,
    draw,
    fit,
    frozen,
    mean_nats,
    rows_of,
    sample_documents,
    steps_axis,
)
from companion.notebook.tables import Table, fixed
from companion.objectives.causal_lm import CausalLMCollator
from companion.objectives.masked_lm import MaskedLMCollator
from companion.plots.curves import Line
from companion.preflight.checking import check_checkpoint
from companion.preflight.findings import Finding

NATS = "损失（奈特/目标）"
_HELD_OUT = 16
"""留出集考几行。"""


def high_learning_rate(seed: int, steps: int) -> Failure:
    """学习率高了三十倍：损失先冲上去，再退到比训练之前还高的一片平地。"""
    right, wrong = RATE, 30 * RATE
    rates = (right, 10 * right, wrong)
    traces: dict[float, Trace] = {}
    for rate in rates:
        checkpoint, rows = _bloom_and_rows()
        collator = CausalLMCollator(checkpoint.tokenizer)
        batches = draw(rows, collator, steps, seed)
        traces[rate] = fit(checkpoint.model, batches, causal=True, learning_rate=rate)
    first = traces[right].losses[0]
    ends = {rate: trace.tail() for rate, trace in traces.items()}
    shown = [("做错", wrong, False), ("做对", right, True)]
    return Failure(
        title="学习率太高",
        wrong=f"学习率 {wrong:g}",
        right=f"学习率 {right:g}",
        measure="最后四分之一各步的训练损失，奈特/目标",
        wrong_value=ends[wrong],
        right_value=ends[right],
        verdict=f"第一步的损失是 {first:.2f}；{steps} 步之后，{right:g} 降到 "
        f"{ends[right]:.2f}，{wrong:g} 反而是 {ends[wrong]:.2f}",
        lines=tuple(
            Line(name=f"{name}：{rate:g}", x=steps_axis(traces[rate]),
                 y=traces[rate].losses, right=good)
            for name, rate, good in shown
        ),
        xlabel="步",
        ylabel=NATS,
        table=Table(
            ["学习率", "第一步的损失", "末尾的损失"],
            [
                [f"{rate:g}", fixed(traces[rate].losses[0]), fixed(ends[rate])]
                for rate in rates
            ],
        ),
        facts={"first": first, "tenfold": ends[10 * right]},
    )  # fmt: skip


def no_replay(seed: int, steps: int) -> Failure:
    """只读领域文本：训练损失好看，通用留出集一路变差。"""
    general = sample_documents("general")
    traces: dict[bool, Trace] = {}
    domain: dict[bool, float] = {}
    for replayed in (False, True):
        checkpoint, rows = _bloom_and_rows("classical")
        tokenizer, model = checkpoint.tokenizer, checkpoint.model
        collator = CausalLMCollator(tokenizer)
        exam = frozen(
            rows_of(tokenizer, sample_documents("general", "valid")),
            collator,
            _HELD_OUT,
        )
        held = frozen(
            rows_of(tokenizer, sample_documents("classical", "valid"), end=True),
            collator,
            _HELD_OUT,
        )
        replay = rows_of(tokenizer, general, end=True) if replayed else ()
        traces[replayed] = fit(
            model,
            draw(rows, collator, steps, seed, replay=replay),
            causal=True,
            probe=lambda m=model, e=exam: mean_nats(m, e, causal=True),
        )
        domain[replayed] = mean_nats(model, held, causal=True)
    before = traces[True].probes[0]
    risen = {key: trace.probes[-1] - before for key, trace in traces.items()}
    return Failure(
        title="不回放：通用留出集的损失",
        wrong="只读领域文本",
        right="每步一半换成通用文本",
        measure="通用留出集的损失比训练前高多少，奈特/目标",
        wrong_value=risen[False],
        right_value=risen[True],
        verdict=f"{steps} 步之后，通用留出集的损失不回放时变了 {risen[False]:+.2f}，"
        f"回放时变了 {risen[True]:+.2f}；领域留出集分别是 "
        f"{domain[False]:.2f} 与 {domain[True]:.2f}",
        lines=tuple(
            Line(name="回放一半" if key else "不回放",
                 x=list(map(float, trace.probed_at)), y=trace.probes, right=key)
            for key, trace in traces.items()
        ),
        xlabel="步",
        ylabel=f"通用留出集的{NATS}",
        table=Table(
            ["", "训练损失", "领域留出集", "通用留出集"],
            [
                ["训练前", "", "", fixed(before)],
                *(
                    [name, fixed(traces[key].tail()), fixed(domain[key]),
                     fixed(traces[key].probes[-1])]
                    for name, key in (("不回放", False), ("回放一半", True))
                ),
            ],
        ),
        facts={"before": before, "domain_wrong": domain[False],
               "domain_right": domain[True]},
    )  # fmt: skip


def double_shift(seed: int, steps: int) -> Failure:
    """标签自己移了一位，模型又移一位：学的是下下个词元，损失照样往下走。"""
    traces: dict[bool, Trace] = {}
    before, after = 0.0, dict[bool, float]()
    for good in (False, True):
        checkpoint, rows = _bloom_and_rows()
        collator = CausalLMCollator(checkpoint.tokenizer)
        batches: Iterable[Batch] = draw(rows, collator, steps, seed)
        exam = _held_out(checkpoint, "modern")
        before = mean_nats(checkpoint.model, exam, causal=True)
        if not good:
            batches = _moved(batches)
        traces[good] = fit(checkpoint.model, batches, causal=True)
        after[good] = mean_nats(checkpoint.model, exam, causal=True)
    first = {good: trace.losses[0] for good, trace in traces.items()}
    return Failure(
        title="标签移了两次：训练损失",
        wrong="labels[:, :-1] = input_ids[:, 1:]，再交给因果模型",
        right="labels 照抄 input_ids，移位由模型的损失来做",
        measure="训练之后，留出集上真正的下一个词元的损失，奈特/目标",
        wrong_value=after[False],
        right_value=after[True],
        verdict=f"移了两次，第一步的损失就是 {first[False]:.2f}（应当 "
        f"{first[True]:.2f}），而后照样下降；留出集上猜下一个词元，训练前 "
        f"{before:.2f}，移了两次变成 {after[False]:.2f}，做对是 {after[True]:.2f}",
        lines=tuple(
            Line(name="照抄" if good else "移了两次", x=steps_axis(trace),
                 y=trace.losses, right=good)
            for good, trace in traces.items()
        ),
        xlabel="步",
        ylabel=NATS,
        table=Table(
            ["标签", "第一步的训练损失", "末尾的训练损失", "留出集，下一个词元"],
            [
                [name, fixed(first[good]), fixed(traces[good].tail()),
                 fixed(after[good])]
                for name, good in (("移了两次", False), ("照抄", True))
            ],
        ),
        facts={"first_wrong": first[False], "first_right": first[True],
               "tail_wrong": traces[False].tail(), "tail_right": traces[True].tail(),
               "before": before},
    )  # fmt: skip


def random_head(seed: int, steps: int) -> Failure:
    """检查点里没有输出头：transformers 随机补一个，第一步的损失近于瞎猜。"""
    traces: dict[bool, Trace] = {}
    before: dict[bool, float] = {}
    whole = load_checkpoint("starter:bert", "masked_lm")
    bare = headless(whole, seed)
    head = head_finding(bare)
    for good, checkpoint in ((False, bare), (True, whole)):
        tokenizer = checkpoint.tokenizer
        collator = MaskedLMCollator(tokenizer, seed=seed)
        rows = rows_of(tokenizer, sample_documents("classical"))
        exam = frozen(
            rows_of(tokenizer, sample_documents("classical", "valid")),
            MaskedLMCollator(tokenizer),
            _HELD_OUT,
        )
        before[good] = mean_nats(checkpoint.model, exam, causal=False)
        batches = draw(rows, collator, steps, seed)
        traces[good] = fit(checkpoint.model, batches, causal=False)
    missing = bare.missing_keys
    ends = {good: trace.tail() for good, trace in traces.items()}
    return Failure(
        title="输出头是随机的：训练损失",
        wrong="检查点只存了编码器，输出头由 transformers 随机补上",
        right="用带着输出头的检查点",
        measure="训练之前，留出集上遮住的字的损失，奈特/目标",
        wrong_value=before[False],
        right_value=before[True],
        verdict=f"训练之前，输出头随机的损失是 {before[False]:.2f}，带着输出头的是 "
        f"{before[True]:.2f}；{steps} 步之后是 {ends[False]:.2f} 与 {ends[True]:.2f}："
        "降得快的那一个只是在补课",
        lines=tuple(
            Line(name="带着输出头" if good else "输出头随机", x=steps_axis(trace),
                 y=trace.losses, right=good)
            for good, trace in traces.items()
        ),
        xlabel="步",
        ylabel=NATS,
        table=Table(
            ["谁", "说了什么"],
            [
                ["transformers 的 from_pretrained", "一段英文日志，照常往下走"],
                ["Checkpoint.missing_keys", f"{missing[0]} 等 {len(missing)} 个"],
                [f"companion check（{head.severity}）", head.message],
            ],
        ),
        facts={"tail_wrong": ends[False], "tail_right": ends[True]},
    )  # fmt: skip


def head_finding(checkpoint: Checkpoint) -> Finding:
    """体检里关于输出头的一条；`companion check` 打印的就是它。"""
    findings = check_checkpoint(checkpoint, "masked_lm")
    return next(each for each in findings if each.code == "head")


def headless(checkpoint: Checkpoint, seed: int) -> Checkpoint:
    """只存编码器，再当作带输出头的打开：真的走一遍存盘与读取。"""
    import torch

    with tempfile.TemporaryDirectory() as name, quiet_transformers():
        folder = Path(name) / "encoder"
        checkpoint.model.base_model.save_pretrained(folder)
        checkpoint.tokenizer.save_pretrained(folder)
        torch.manual_seed(seed)  # 补上的那几个张量由它定
        return load_checkpoint(str(folder), "masked_lm")


def _moved(batches: Iterable[Batch]) -> Iterator[Batch]:
    """各批的标签左移一格，末格不计：网上常见的写法。"""
    for batch in batches:
        labels = batch["labels"].roll(-1, dims=1)  # (B, L)
        labels[:, -1] = IGNORE_INDEX
        yield {**batch, "labels": labels}


def _bloom_and_rows(side: str = "modern") -> tuple[Checkpoint, list[Any]]:
    """新打开的因果起步模型，与训练的行。"""
    checkpoint = load_checkpoint("starter:bloom", "causal_lm")
    return checkpoint, rows_of(checkpoint.tokenizer, sample_documents(side), end=True)


def _held_out(checkpoint: Checkpoint, side: str) -> list[Batch]:
    rows = rows_of(checkpoint.tokenizer, sample_documents(side, "valid"), end=True)
    return frozen(rows, CausalLMCollator(checkpoint.tokenizer), _HELD_OUT)
