"""一次继续预训练，从设置到报告。

次序是刻意的：能查的先查，能算的先算（打包会不会泄漏、词元账平不平），输出文件夹最后才建；
因此坏输入不会留下半成品。
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from companion.config import TrainingConfig
from companion.corpus.catalog import cache_folder
from companion.corpus.ledger import TokenLedger
from companion.errors import TrainingError
from companion.evaluation.comparison import (
    Exam,
    Sitting,
    prepare_exam,
    sit_exam,
)
from companion.models.device import Device, best_device
from companion.models.leaks import PackingVerdict, can_pack
from companion.models.loading import Checkpoint, load_checkpoint, quiet_transformers
from companion.models.saving import save_checkpoint
from companion.models.target_head import inner_model
from companion.objectives import Objective, get_objective
from companion.training.arguments import (
    add_lora,
    check_means,
    choose_learning_rate,
    recompute_activations,
    training_arguments,
)
from companion.training.callbacks import LOG_FILE, LogCallback, StopCallback
from companion.training.checkpoints import latest_checkpoint, step_of
from companion.training.data import (
    Corpora,
    TrainingData,
    choose_block_size,
    prepare_data,
    read_corpora,
)
from companion.training.output import (
    CONFIG_FILE,
    METRICS_FILE,
    check_output,
    resumed_config,
)
from companion.training.results import summarise, write_card, write_results


class TrainingInterrupted(TrainingError):  # noqa: N818 - 它不是过错
    """收到 Ctrl-C 或 SIGTERM 而停下；检查点已存好。"""


@dataclass(frozen=True)
class TrainingResult:
    """一次训练的结果，也就是输出文件夹里的东西。"""

    output: Path
    metrics: dict[str, Any]
    """`metrics.json` 的内容。"""
    ledger: TokenLedger
    log: list[dict[str, Any]]
    """`log.jsonl` 的各行。"""
    config: TrainingConfig
    """补全了缺省值的设置，`config.yaml` 的内容。"""


def train(
    config: TrainingConfig,
    *,
    resume: bool = False,
    console: Console | None = None,
    quiet: bool = False,
    clozes: Sequence[Any] = (),
) -> TrainingResult:
    """在领域语料上继续预训练一个检查点，前后各评估一次，写出报告。

    输出文件夹里有：`model/`（原样的 Hugging Face 检查点）、`config.yaml`、
    `metrics.json`、`ledger.json`、`log.jsonl`、`report.html`、`report.md`、`curve.png`、`checkpoint-N`。

    Args:
        config: 训练设置。
        resume: 从输出文件夹里最近的检查点接着训练；在 CPU 上与不曾中断逐位相等。
        console: 账本与进度显示在这里；缺省是标准错误。
        quiet: 什么也不显示。
        clozes: 报告里的填空题（`corpus.sources.read_cloze` 的结果）。

    Returns:
        结果。

    Raises:
        CompanionError: 语料、检查点、设置或输出文件夹有问题；除信号与写盘失败外，都发生
            在写下任何东西之前。
        TrainingInterrupted: 收到信号，存盘后停下。
    """
    say = _speaker(None if quiet else console or Console(stderr=True))
    objective = get_objective(config.objective)
    output = Path(config.output)
    check_output(output, resume=resume)
    if resume:
        config = resumed_config(config)
    checkpoint = load_checkpoint(config.model, objective)
    for notice in checkpoint.notices:
        say(f"注意：{notice}")
    device = best_device(checkpoint.model.config.model_type)
    check_means(config, checkpoint.model, device.kind)
    corpora = read_corpora(config)
    config = replace(  # 写进 config.yaml 的是选定的值，续训与重跑才不会另选
        config,
        learning_rate=choose_learning_rate(config, checkpoint.model),
        block_size=choose_block_size(config, checkpoint.model),
        precision=device.precision if config.precision == "auto" else config.precision,
    )
    verdict = _packing(config, checkpoint.model)
    data = prepare_data(
        config,
        corpora,
        objective,
        checkpoint.model,
        checkpoint.tokenizer,
        packed=verdict.ok,
        cache_dir=cache_folder() / "tokens",
        world_size=_world_size(),
    )
    if resume:
        _refuse_finished(output, data.plan.num_steps)
    exam = _prepare_exam(config, objective, checkpoint, corpora, clozes)
    _announce(say, config, corpora, data, verdict, device)

    output.mkdir(parents=True, exist_ok=True)
    config.save(output / CONFIG_FILE)
    screen = None if quiet else console or Console(stderr=True)
    before = _sit(checkpoint, exam, device, "训练前", say)
    ran = _run_trainer(config, objective, checkpoint, data, device, resume, screen)
    model = _merged(checkpoint, ran.model, output, say)
    trained = replace(checkpoint, model=model, name=str(output / "model"))
    save_checkpoint(model, checkpoint.tokenizer, output / "model")
    after = _sit(trained, exam, device, "训练后", say)
    ledger = replace(data.ledger, targets=ran.targets)
    ledger.check()
    metrics = summarise(config, data, ran.rows, before, after)
    write_results(config, corpora, data, ledger, ran.rows, metrics)
    if before and after:
        write_card(config, ledger, ran.rows, metrics, before, after, device.name)
    return TrainingResult(output, metrics, ledger, ran.rows, config)


def _prepare_exam(
    config: TrainingConfig,
    objective: Objective,
    checkpoint: Checkpoint,
    corpora: Corpora,
    clozes: Sequence[Any],
) -> Exam | None:
    """出卷子；设置里关了评估时没有。卷子的种子固定，各次运行因此可比。"""
    if not config.eval:
        return None
    return prepare_exam(
        checkpoint,
        objective,
        corpora.valid,
        corpora.general or None,
        block_size=config.block_size,
        max_chars=config.eval_max_chars,
        clozes=clozes,
    )


def _sit(
    checkpoint: Checkpoint,
    exam: Exam | None,
    device: Device,
    when: str,
    say: Callable[[str], None],
) -> Sitting | None:
    """考一次。"""
    if exam is None:
        return None
    say(f"{when}评估")
    checkpoint.model.to(device.kind)
    return sit_exam(checkpoint, exam)


@dataclass(frozen=True)
class _TrainerRun:
    """Trainer 跑完之后要留下的。"""

    model: Any
    rows: list[dict[str, Any]]
    targets: int


def _run_trainer(
    config: TrainingConfig,
    objective: Objective,
    checkpoint: Checkpoint,
    data: TrainingData,
    device: Device,
    resume: bool,
    console: Console | None,
) -> _TrainerRun:
    """真正训练的一段；信号来了就存盘并抛出 `TrainingInterrupted`。"""
    from transformers import set_seed
    from transformers.trainer_callback import PrinterCallback

    from companion.training.trainer import CompanionTrainer

    output = Path(config.output)
    set_seed(config.seed)  # LoRA 的随机初始化也由种子决定
    model = add_lora(checkpoint.model, config) if config.lora_rank else checkpoint.model
    if config.gradient_checkpointing:
        recompute_activations(model)
    keep_cache = getattr(checkpoint.model.config, "use_cache", None)
    logging, stopping = LogCallback(output / LOG_FILE, console), StopCallback()
    trainer = CompanionTrainer(
        model,
        config=config,
        data=data,
        collator=objective.make_collator(
            checkpoint.tokenizer,
            **{name: getattr(config, name) for name in objective.options},
        ),
        causal=objective.causal,
        arguments=training_arguments(
            config,
            num_steps=data.plan.num_steps,
            learning_rate=config.learning_rate or 0.0,
            precision=config.precision,
            device_kind=device.kind,
        ),
        callbacks=[logging, stopping],
    )
    trainer.remove_callback(PrinterCallback)
    logging.trainer = trainer
    resume_from = None
    if resume:
        resume_from = latest_checkpoint(output)
        trainer.tally.load(resume_from)
    try:
        with stopping.listening(), quiet_transformers():
            trainer.train(
                resume_from_checkpoint=str(resume_from) if resume_from else None
            )
    finally:
        logging.close()
        if keep_cache is not None:  # Trainer 关了它；存盘的检查点应与原来一样
            checkpoint.model.config.use_cache = keep_cache
    if (
        stopping.received is not None
        and trainer.state.global_step < data.plan.num_steps
    ):
        raise TrainingInterrupted(
            found=f"收到信号，停在第 {trainer.state.global_step} 步"
            f"（共 {data.plan.num_steps} 步）",
            expected="训练走完",
            remedy=f"检查点已存好，companion train --resume --output {output} 接着训练",
        )
    return _TrainerRun(model, logging.rows, trainer.tally.total_targets)


def _packing(config: TrainingConfig, model: Any) -> PackingVerdict:
    """能不能打包：用户不要，或模型隔离不了文档，就一片一行。"""
    if not config.packing:
        return PackingVerdict(False, "设置里关了打包")
    return can_pack(model, config.block_size)


def _merged(
    base: Checkpoint, trained: Any, output: Path, say: Callable[[str], None]
) -> Any:
    """LoRA 并回底座，另存一份适配器；全参数训练时原样返回。"""
    if trained is base.model:
        return inner_model(trained)
    save_checkpoint(trained, base.tokenizer, output / "adapter")
    say(f"LoRA 适配器在 {output / 'adapter'}，并好的模型在 {output / 'model'}")
    return trained.merge_and_unload()


def _refuse_finished(output: Path, num_steps: int) -> None:
    done = step_of(latest_checkpoint(output))
    if done >= num_steps and (output / METRICS_FILE).is_file():
        raise TrainingError(
            found=f"{output} 的训练已经走完（{done} 步），报告也写好了",
            expected="一次没有走完的训练",
            remedy="换一个 --output 另训一次；或以 "
            f"{output / 'model'} 为 --model 再往下训练",
        )


def _world_size() -> int:
    """进程数，由 torchrun 与 accelerate 写在环境里。"""
    import os

    return int(os.environ.get("WORLD_SIZE", "1"))


def _speaker(console: Console | None) -> Callable[[str], None]:
    """往控制台说一句话的函数；没有控制台就不说。"""
    if console is None:
        return lambda _text: None
    return lambda text: console.print(
        text, highlight=False, markup=False, soft_wrap=True
    )


def _announce(
    say: Callable[[str], None],
    config: TrainingConfig,
    corpora: Corpora,
    data: TrainingData,
    verdict: PackingVerdict,
    device: Device,
) -> None:
    """第一步之前，把账和安排说清楚。"""
    say(f"设备：{device}")
    say(
        f"精度：{config.precision}；学习率峰值 {config.learning_rate:g}，"
        f"共 {data.plan.num_steps:,} 步，一行至多 {data.block_size} 个词元"
    )
    way = "打包，文档互不可见" if verdict.ok else "不打包，按长度分桶"
    say(f"批次：{way}（{verdict.reason}）")
    if corpora.duplicates:
        say(f"去重：删去 {corpora.duplicates:,} 篇完全相同的文档")
    say("词元账本")
    say(str(data.ledger))
    if data.plan.replayed:
        share = data.plan.replayed / data.plan.tokens
        say(f"  其中回放 {data.plan.replayed:,} 个词元，占 {share:.1%}")
