"""训练完写下的结果：账本、曲线、报告卡，最后是指标。"""

from pathlib import Path
from typing import Any

from companion.config import TrainingConfig
from companion.corpus.ledger import TokenLedger
from companion.evaluation.comparison import Sitting, assemble
from companion.evaluation.report import HTML_FILE, write_report
from companion.training.data import Corpora, TrainingData
from companion.training.output import write_json, writing


def summarise(
    config: TrainingConfig,
    data: TrainingData,
    rows: list[dict[str, Any]],
    before: Sitting | None,
    after: Sitting | None,
) -> dict[str, Any]:
    """`metrics.json` 的内容。"""
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
    if before and after:
        metrics |= {"before": before.as_dict(), "after": after.as_dict()}
    return metrics


def write_results(
    config: TrainingConfig,
    corpora: Corpora,
    data: TrainingData,
    ledger: TokenLedger,
    rows: list[dict[str, Any]],
    metrics: dict[str, Any],
    other_targets: dict[str, int],
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

    output = Path(config.output)
    extra = {
        "replayed": data.plan.replayed,
        "duplicate_documents": corpora.duplicates,
    }
    for name, count in other_targets.items():
        extra[f"{name}_targets"] = count
    if "order" in other_targets:
        num_rows = sum(len(batch) for batch in data.plan.batches)
        extra["order_skipped_rows"] = num_rows - other_targets["order"]
    write_json(output / "ledger.json", {**ledger.as_dict(), **extra})
    if rows:
        before, after = metrics.get("before"), metrics.get("after")
        figure = plot_curve(rows, before=before, after=after, title="训练曲线")
        with writing(output / "curve.png"):
            save_figure(figure, output / "curve.png")


def write_card(
    config: TrainingConfig,
    ledger: TokenLedger,
    rows: list[dict[str, Any]],
    metrics: dict[str, Any],
    before: Sitting,
    after: Sitting,
    device_name: str,
) -> None:
    """报告卡。

    Raises:
        TrainingError: 写不下。
    """
    output = Path(config.output)
    curve = output / "curve.png"
    card = assemble(
        before,
        after,
        curve=curve.read_bytes() if curve.exists() else None,
        ledger=ledger.rows(),
        config=config.as_dict(),
        facts=[
            ("步数", f"{metrics['steps']:,}"),
            ("训练词元", f"{metrics['tokens_trained']:,}"),
            ("用时", f"{metrics['seconds']:,.0f} 秒"),
            ("速度", f"每秒 {metrics['tokens_per_second']:,.0f} 个词元"),
            ("设备", device_name),
        ],
    )
    with writing(output / HTML_FILE):
        write_report(card, output)
