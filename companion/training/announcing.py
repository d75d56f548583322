"""训练时对人说的话：走到哪一步，第一步之前的安排。"""

from collections.abc import Callable

from rich.console import Console

from companion.config import TrainingConfig
from companion.preflight.device import Device
from companion.preflight.leaks import PackingVerdict
from companion.training.data import Corpora, TrainingData
from companion.training.extra_losses import ExtraLosses
from companion.training.team import Team


def speaker(console: Console | None) -> Callable[[str], None]:
    """往控制台说一句话的函数；没有控制台就不说。"""
    if console is None:
        return lambda _text: None
    return lambda text: console.print(
        text, highlight=False, markup=False, soft_wrap=True
    )


def announce(
    say: Callable[[str], None],
    config: TrainingConfig,
    corpora: Corpora,
    data: TrainingData,
    verdict: PackingVerdict,
    device: Device,
    team: Team,
    extra: ExtraLosses,
) -> None:
    """第一步之前，把账和安排说清楚。"""
    say(f"设备：{device}")
    if team.size > 1:
        batches = team.size * config.gradient_accumulation_steps
        say(f"进程：{team.size} 个，合起来一步 {batches} 个微批量")
    say(
        f"精度：{config.precision}；学习率峰值 {config.learning_rate:g}，"
        f"共 {data.plan.num_steps:,} 步，一行至多 {data.block_size} 个词元"
    )
    way = "打包，文档互不可见" if verdict.ok else "不打包，按长度分桶"
    say(f"批次：{way}（{verdict.reason}）")
    for remark in extra.remarks:
        say(remark)
    if corpora.duplicates:
        say(f"去重：删去 {corpora.duplicates:,} 篇完全相同的文档")
    say("词元账本")
    say(str(data.ledger))
    if config.preset == "macbert" and config.eval:
        say(
            "注意：macbert 练的时候没有 [MASK]，而评估以 [MASK] 出题："
            "前后的分数只说明它还认不认得 [MASK]"
        )
    if data.plan.replayed:
        share = data.plan.replayed / data.plan.tokens
        say(f"  其中回放 {data.plan.replayed:,} 个词元，占 {share:.1%}")
