"""训练对人说的话与写下的结果：第一步之前的安排；训练完的账本、曲线、报告卡、指标。"""

from collections.abc import Callable
from typing import Any

from rich.console import Console

from companion.corpus.document import readable
from companion.corpus.packing import TokenLedger
from companion.evaluation.comparison import Exam, Sitting, assemble
from companion.evaluation.report import HTML_FILE, write_report
from companion.evaluation.ruler import measure
from companion.evaluation.verdict import SEEN_A_LITTLE, SETS
from companion.training.loop import LoopResult
from companion.training.output import write_json, writing
from companion.training.preparing import Run
from companion.training.watching import evaluations

RULER_CHARS = 2_000_000
"""尺子至多数多少字：在字表上数到这么多，三元已经见过常用的组合，只要几秒。"""


def speaker(console: Console | None) -> Callable[[str], None]:
    """往控制台说一句话的函数；没有控制台就不说。"""
    if console is None:
        return lambda _text: None
    return lambda text: console.print(
        text, highlight=False, markup=False, soft_wrap=True
    )


def announce(run: Run, say: Callable[[str], None]) -> None:
    """第一步之前，把账和安排说清楚。"""
    config, data, team, verdict = run.config, run.data, run.team, run.packing
    say(f"设备：{run.device}")
    if run.start is not None:
        say(str(run.start))
    if team.size > 1:
        batches = team.size * config.gradient_accumulation_steps
        say(f"进程：{team.size} 个，合起来一步 {batches} 个微批量")
    say(
        f"精度：{config.precision}；学习率峰值 {config.learning_rate:g}，"
        f"共 {data.plan.num_steps:,} 步，一行至多 {data.block_size} 个词元"
    )
    way = "打包，文档互不可见" if verdict.ok else "不打包，按长度分桶"
    say(f"批次：{way}（{verdict.reason}）")
    for remark in run.extra.remarks:
        say(remark)
    if run.corpora.duplicates:
        say(f"去重：删去 {run.corpora.duplicates:,} 篇完全相同的文档")
    if data.registered:
        counts = "、".join(f"{name} {n:,} 次" for name, n in data.registered.items())
        say(f"登记过的特殊词元，正文里出现的整个编码：{counts}")
    for name, found in run.inputs.overlap.items():
        if found.shared_ratio >= SEEN_A_LITTLE:
            say(f"注意：{SETS[name]}留出集与训练文字重合。{found}")
    say("词元账本")
    say(str(data.ledger))
    if config.preset == "macbert" and config.eval:
        say(
            "注意：macbert 练的时候没有 [MASK]，而评估以 [MASK] 出题："
            "前后的分数只说明它还认不认得 [MASK]"
        )
    for name, amounts in amounts_by_source(run).items():
        say(
            f"  其中 {name} {amounts['tokens']:,} 个词元，占 {amounts['share']:.1%}，"
            f"读 {amounts['epochs']:.2f} 遍"
        )


REPLAY = "回放"


def amounts_by_source(run: Run) -> dict[str, dict[str, float]]:
    """各份语料（有回放的连同回放）读了多少；只有一份的为空。"""
    plan, names = run.data.plan, [each.source.name for each in run.corpora.parts]
    names += [REPLAY] if run.corpora.replay else []
    if len(names) < 2:
        return {}
    return {
        name: {
            "tokens": tokens,
            "share": round(tokens / plan.tokens, 6),
            "epochs": round(epochs, 4),
        }
        for name, tokens, epochs in zip(
            names, plan.tokens_of, plan.epochs_of, strict=True
        )
    }


def summarise(
    run: Run,
    ran: LoopResult,
    exam: Exam | None,
    before: Sitting | None,
    after: Sitting | None,
) -> dict[str, Any]:
    """`metrics.json` 的内容。"""
    config, data, rows = run.config, run.data, ran.rows
    seconds = rows[-1]["seconds"] if rows else 0.0
    metrics: dict[str, Any] = {
        "objective": config.objective,
        "model": config.model,
        "output": config.output,
        "seed": config.seed,
        "steps": data.plan.num_steps,
        "tokens_trained": data.plan.tokens,
        "seconds": seconds,
        "tokens_per_second": round(data.plan.tokens / max(seconds, 1e-9), 1),
    }
    looked = evaluations(rows)
    if looked:
        spent = sum(row["evaluation_seconds"] for row in looked)
        metrics["evaluations"] = {"times": len(looked), "seconds": round(spent, 3)}
    if ran.best_step is not None:
        metrics["best_step"] = ran.best_step
    if ran.averaged:
        metrics["averaged_steps"] = list(ran.averaged)
    if before and after:
        metrics |= {"before": before.as_dict(), "after": after.as_dict()}
        metrics["overlap"] = {
            name: found.as_dict() for name, found in run.inputs.overlap.items()
        }
    if exam and not run.objective.discriminator:  # 判真假的没有词元可数
        metrics["ruler"] = _ruler(run, exam)
    return metrics


def _ruler(run: Run, exam: Exam) -> dict[str, float]:
    """数训练语料得来的尺子（`companion.evaluation.ruler`）；语料太长就匀着取几篇。"""
    step = 1 + run.data.ledger.characters // RULER_CHARS
    return measure(exam.domain, run.checkpoint.tokenizer, run.corpora.train[::step])


def write_results(
    run: Run, ran: LoopResult, ledger: TokenLedger, metrics: dict[str, Any]
) -> None:
    """账本与曲线。

    损失有几份的，账本里另有各份的目标数：`order_targets` 是判断了句序的行（各轮合计），
    `order_skipped_rows` 是只有一句、没有次序可判的行；`detection_targets` 是判断了真
    假的词元；`boundary_targets` 是由边界去猜的词元；`teacher_targets` 是学教师
    的位置，`hidden_targets` 是比了隐藏状态的位置。

    Raises:
        TrainingError: 写不下。
    """
    from companion.plots.curves import plot_curve
    from companion.plots.style import save_figure

    output, plan, other_targets = run.output, run.data.plan, ran.other_targets
    extra: dict[str, Any] = {
        "replayed": plan.replayed,
        "duplicate_documents": run.corpora.duplicates,
        "sources": amounts_by_source(run),
    }
    for name, count in other_targets.items():
        extra[f"{name}_targets"] = count
    if "order" in other_targets:
        num_rows = sum(len(batch) for batch in plan.batches)
        extra["order_skipped_rows"] = num_rows - other_targets["order"]
    write_json(output / "ledger.json", {**ledger.as_dict(), **extra})
    if ran.rows:
        before, after = metrics.get("before"), metrics.get("after")
        figure = plot_curve(ran.rows, before=before, after=after, title="训练曲线")
        with writing(output / "curve.png"):
            save_figure(figure, output / "curve.png")


def write_card(
    run: Run,
    ledger: TokenLedger,
    metrics: dict[str, Any],
    before: Sitting,
    after: Sitting,
) -> None:
    """报告卡。

    Raises:
        TrainingError: 写不下。
    """
    output = run.output
    curve = output / "curve.png"
    card = assemble(
        before,
        after,
        curve=curve.read_bytes() if curve.exists() else None,
        ledger=ledger.rows(),
        ruler=metrics.get("ruler", {}),
        ruler_text="训练语料",
        seen=run.inputs.shared(),
        # 文件名可以不是 UTF-8，报告里写成认得出的字
        config={
            name: readable(value) if isinstance(value, str) else value
            for name, value in run.config.as_dict().items()
        },
        facts=[
            ("步数", f"{metrics['steps']:,}"),
            ("训练词元", f"{metrics['tokens_trained']:,}"),
            ("用时", f"{metrics['seconds']:,.0f} 秒"),
            ("速度", f"每秒 {metrics['tokens_per_second']:,.0f} 个词元"),
            ("设备", run.device.name),
        ],
    )
    with writing(output / HTML_FILE):
        write_report(card, output)
