"""一次继续预训练，从设置到报告。

次序是刻意的：能查的先查，能算的先算（打包会不会泄漏、词元账平不平），输出文件夹最后才建；
因此坏输入不会留下半成品。
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from companion.checkpoints.layers import keep_layers
from companion.checkpoints.loading import Checkpoint, load_checkpoint
from companion.checkpoints.running import fitted_objective, inner_model
from companion.checkpoints.saving import save_checkpoint
from companion.config import TrainingConfig
from companion.corpus.packing import TokenLedger
from companion.corpus.sources import cache_folder, read_cloze
from companion.corpus.tokenization import keeps_line_breaks
from companion.errors import ConfigError, TrainingError
from companion.evaluation.comparison import (
    Exam,
    Sitting,
    prepare_exam,
    sit_exam,
)
from companion.objectives import Objective, get_objective
from companion.preflight.checking import require_trainable
from companion.preflight.device import Device, best_device
from companion.preflight.findings import Finding
from companion.preflight.visibility import Verdict, can_pack, require_mask
from companion.training.arguments import check_means, choose_learning_rate
from companion.training.averaging import check_enough_checkpoints
from companion.training.continuing import Start, find_start
from companion.training.data import (
    Corpora,
    choose_block_size,
    choose_masking,
    prepare_data,
    read_corpora,
)
from companion.training.inputs import Inputs, check_unchanged, take_inputs
from companion.training.loop import LoopResult, run_loop
from companion.training.output import (
    CONFIG_FILE,
    INPUTS_FILE,
    METRICS_FILE,
    check_output,
    latest_checkpoint,
    processes_of,
    resumed_config,
    step_of,
    verify_checkpoint,
    write_json,
    writing,
)
from companion.training.preparing import (
    ExtraLosses,
    Run,
    choose_languages,
    extend_for_corpus,
    prepare_extra_losses,
)
from companion.training.rehearsal import Rehearsal, rehearse
from companion.training.results import (
    announce,
    speaker,
    summarise,
    write_card,
    write_results,
)
from companion.training.sharding import check_shardable
from companion.training.team import ALONE, Team, join_team
from companion.training.watching import Watch, plan_watch

if TYPE_CHECKING:
    import datasets

_SAMPLED_DOCUMENTS = 200
"""体检拿多少篇语料去试。"""


@dataclass(frozen=True)
class _Examined:
    """评估集、训练前的结果与途中的评估；只有第 0 个进程有。"""

    exam: Exam | None
    before: Sitting | None
    watch: Watch | None


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
    corpus: "datasets.Dataset | None" = None,
    resume: bool = False,
    console: Console | None = None,
    quiet: bool = False,
    clozes: Sequence[Any] = (),
) -> TrainingResult:
    """在领域语料上继续预训练一个检查点，前后各评估一次，写出报告。

    输出文件夹里有：`model/`（原样的 Hugging Face 检查点）、`config.yaml`、
    `inputs.json`、`metrics.json`、`ledger.json`、`log.jsonl`、`report.html`、`report.md`、`curve.png`、`checkpoint-N`；
    用 LoRA 的另有 `adapter/`，扩充了词表又用 LoRA 的另有它的底座 `base/`。

    由 torchrun 或 accelerate 拉起的几个进程一同训练时，人人都调用它，得到同样的结果；读
    写、说话与评估只由第 0 个进程做（见 `team`）。

    Args:
        config: 训练设置。
        corpus: 代替 `config.corpus` 的一张 datasets 表，有 `text` 一列，或 `source` 与
            `target` 两列；`config.yaml` 里记下它的指纹，续训时要交来同一张。
        resume: 从输出文件夹里最近的检查点接着训练；在 CPU 上与不曾中断逐位相等。
        console: 账本与进度显示在这里；缺省是标准错误。
        quiet: 什么也不显示。
        clozes: 报告里的填空题（`corpus.sources.read_cloze` 的结果）。

    Returns:
        结果。

    Raises:
        CompanionError: 语料、检查点、设置或输出文件夹有问题；除信号、写盘失败与训练中途
            损失或梯度坏掉外，都发生在写下任何东西之前。
        TrainingInterrupted: 收到信号，存盘后停下。
    """
    team = join_team()
    screen = None if quiet or not team.is_main else console or Console(stderr=True)
    say = speaker(screen)
    run = _prepare(config, team, say, corpus=corpus, resume=resume)
    team.wait()  # 人人都准备妥了，才建输出文件夹
    examined = team.main_only(lambda: _begin(run, clozes, say))
    watch = _everyones(team, examined and examined.watch)
    ran = run_loop(run, watch, resume=resume, console=screen)
    run = run.until(ran.steps)
    ledger = replace(run.data.ledger, targets=ran.targets)
    ledger.check()
    metrics, rows = team.ask_main(lambda: _finish(run, ran, ledger, examined, say))
    return TrainingResult(run.output, metrics, ledger, rows, run.lasting_config)


def rehearse_training(
    config: TrainingConfig,
    *,
    corpus: "datasets.Dataset | None" = None,
    console: Console | None = None,
    quiet: bool = False,
) -> Rehearsal:
    """预演一次训练：安排、账本、内存与时间，什么也不写。

    Args:
        config: 训练设置。
        corpus: 同 `train`。
        console: 安排与账本显示在这里；缺省是标准错误。
        quiet: 什么也不显示。

    Raises:
        CompanionError: 与 `train` 动手之前一样。
    """
    say = speaker(None if quiet else console or Console(stderr=True))
    run = _prepare(config, ALONE, say, corpus=corpus, resume=False)
    exam, watch = _plan_exams(run, (), say)
    return rehearse(run, exam, watch)


def _prepare(
    config: TrainingConfig,
    team: Team,
    say: Callable[[str], None],
    *,
    corpus: "datasets.Dataset | None",
    resume: bool,
) -> Run:
    """查过、算好、备齐；什么也不写进输出文件夹。"""
    if corpus is not None:
        config = replace(config, corpus=f"datasets:{corpus._fingerprint}")
    objective = get_objective(config.objective)
    config = team.ask_main(lambda: _claim(config, team, resume=resume))
    choose_masking(config, objective)
    start = team.ask_main(lambda: find_start(config, objective))
    checkpoint = load_checkpoint(
        start.origin if start else config.model,
        objective,
        generator=None if start else config.generator,
    )
    if config.student_layers:
        checkpoint = keep_layers(checkpoint, config.student_numbers)
    objective = fitted_objective(checkpoint.model, objective)
    device = best_device(checkpoint.model.config.model_type)
    check_means(config, checkpoint.model, device.kind, team.size)
    if team.sharded:
        check_shardable(config, device.at(config.precision).precision)
    if "languages" in objective.training_options and (
        said := choose_languages(config, checkpoint.model)
    ):
        say(said)
    corpora = read_corpora(config, corpus)
    for notice in (
        *corpora.notices,
        *_line_breaks(config, corpora, checkpoint.tokenizer),
    ):
        say(f"注意：{notice}")
    extension = extend_for_corpus(checkpoint, config, corpora.train)
    checkpoint = extension.checkpoint if extension else checkpoint
    extra = prepare_extra_losses(config, checkpoint)
    processes = processes_of(Path(config.output)) if resume else team.size
    inputs = team.ask_main(
        lambda: _take_inputs(config, checkpoint, corpora, extra, start, processes)
    )
    if resume:
        team.main_only(lambda: check_unchanged(Path(config.output), inputs))
    config, packing = team.ask_main(
        lambda: _choose(config, objective, checkpoint.model, device, extra, start)
    )
    for finding in team.ask_main(
        lambda: _preflight(config, objective, checkpoint, corpora, device, extra)
    ):
        say(f"注意：{_advice(finding)}")
    data = team.main_first(
        lambda: prepare_data(
            config,
            corpora,
            objective,
            checkpoint.model,
            checkpoint.tokenizer,
            packed=packing.ok,
            cache_dir=cache_folder() / "tokens",
            world_size=team.size,
        )
    )
    check_enough_checkpoints(config, data.plan.num_steps)
    if resume:
        _refuse_finished(Path(config.output))
    new_ids = extension.ids if extension else start.new_ids if start else ()
    return Run(
        config, objective, checkpoint, corpora, inputs, data, packing, device, team,
        extra, new_ids, start,
    )  # fmt: skip


def _begin(run: Run, clozes: Sequence[Any], say: Callable[[str], None]) -> _Examined:
    """建输出文件夹，写下设置，训练前评估一次。"""
    exam, watch = _plan_exams(run, clozes, say)
    with writing(run.output / CONFIG_FILE):
        run.output.mkdir(parents=True, exist_ok=True)
        run.lasting_config.save(run.output / CONFIG_FILE)
    write_json(run.output / INPUTS_FILE, run.inputs.as_dict())
    before = _sit(_beginning(run), exam, run.device, "训练前", say)
    if run.base is not None:
        save_checkpoint(run.checkpoint.model, run.checkpoint.tokenizer, run.base)
    return _Examined(exam, before, watch)


def _beginning(run: Run) -> Checkpoint:
    """第一步之前的模型：接着练适配器的，是并好适配器的底座。"""
    if run.start is None or not run.start.keeps_adapter:
        return run.checkpoint
    merged = load_checkpoint(str(run.start.folder), run.objective)
    return replace(run.checkpoint, model=merged.model)


def _plan_exams(
    run: Run, clozes: Sequence[Any], say: Callable[[str], None]
) -> tuple[Exam | None, Watch | None]:
    """备好评估集，定下途中怎样评，把全部安排说一遍；什么也不写。"""
    exam = _prepare_exam(run, clozes)
    watch = plan_watch(run.config, exam, run.data.plan) if exam else None
    announce(run, say)
    if watch:
        say(str(watch))
    return exam, watch


def _everyones(team: Team, watch: Watch | None) -> Watch | None:
    """途中的评估，人人有一份：模型没有切开，别的进程就只知道什么时候评。"""
    sent = team.ask_main(
        lambda: watch and (watch if team.sharded else replace(watch, sets={}))
    )
    return watch or sent


def _finish(
    run: Run,
    ran: LoopResult,
    ledger: TokenLedger,
    examined: _Examined | None,
    say: Callable[[str], None],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """存模型，训练后再评估一次，写下结果：`metrics.json` 的内容与日志的各行。"""
    exam, before = (examined.exam, examined.before) if examined else (None, None)
    if ran.best_step is not None:
        say(f"取第 {ran.best_step} 步的模型：途中评估里领域上最好的一步")
    if ran.averaged:
        steps = "、".join(f"{step:,}" for step in ran.averaged)
        say(f"取第 {steps} 步的检查点的平均")
    model = _merged(run.checkpoint, ran.model, run.output, say)
    trained = replace(run.checkpoint, model=model, name=str(run.output / "model"))
    save_checkpoint(model, run.checkpoint.tokenizer, run.output / "model")
    run.extra.farewell(run.output, say)
    after = _sit(trained, exam, run.device, "训练后", say)
    metrics = summarise(run, ran, exam, before, after)
    write_results(run, ran, ledger, metrics)
    if before and after:
        write_card(run, ledger, metrics, before, after)
    write_json(run.output / METRICS_FILE, metrics)  # 最后才写：有它就是走完了
    return metrics, ran.rows


def _claim(config: TrainingConfig, team: Team, *, resume: bool) -> TrainingConfig:
    """输出文件夹能不能用；续训时取上一次的设置。什么也不写。"""
    output = Path(config.output)
    check_output(output, resume=resume)
    if not resume:
        return config
    verify_checkpoint(latest_checkpoint(output))
    return _shared_out(resumed_config(config), team)


def _shared_out(config: TrainingConfig, team: Team) -> TrainingConfig:
    """续训的进程数可以换：一步还是那么多个微批量，各进程多累积或少累积几个。

    Raises:
        TrainingError: 一步的微批量分不匀。
    """
    output = Path(config.output)
    processes = processes_of(output)
    batches = config.gradient_accumulation_steps * processes
    if batches % team.size:
        able = [n for n in range(1, batches + 1) if batches % n == 0]
        nearest = max((n for n in able if n < team.size), default=1)
        raise TrainingError(
            found=f"一步有 {batches} 个微批量（上一次 {processes} 个进程，各累积 "
            f"{config.gradient_accumulation_steps} 个），{team.size} 个进程分不匀",
            expected=f"{'、'.join(map(str, able))} 个进程，一步的词元才与上一次相同",
            remedy=f"用 {team.resized(nearest).command} --resume --output {output}",
        )
    return replace(config, gradient_accumulation_steps=batches // team.size)


def _take_inputs(
    config: TrainingConfig,
    checkpoint: Checkpoint,
    corpora: Corpora,
    extra: ExtraLosses,
    start: Start | None,
    processes: int,
) -> Inputs:
    """读进去的东西的指纹与重合，几个进程；接着前一次训练的，记下从哪里出发。"""
    inputs = take_inputs(
        checkpoint,
        corpora,
        extra.teacher and extra.teacher.model,
        config.eval_max_chars if config.eval else None,
    )
    began = start.as_dict() if start else {}
    return replace(inputs, start=began, processes=processes)


def _choose(
    config: TrainingConfig,
    objective: Objective,
    model: Any,
    device: Device,
    extra: ExtraLosses,
    start: Start | None,
) -> tuple[TrainingConfig, Verdict]:
    """没有给的几项选定下来，写进 config.yaml，续训与重跑才不会另选。

    Raises:
        ConfigError: 某项与模型不合。
        ModelError: 模型用不得这个目标的掩码。
    """
    precision = device.precision if config.precision == "auto" else config.precision
    if start and bool(start.config.lora_rank) == bool(config.lora_rank):
        peak = config.learning_rate or start.config.learning_rate  # 缺省同前一次
        config = replace(config, learning_rate=peak)
    config = replace(
        config,
        learning_rate=choose_learning_rate(config, model),
        block_size=choose_block_size(config, model),
        precision=precision,
    )
    require_mask(model, *objective.masks, block_size=config.block_size)
    return config, _packing(config, objective, model, extra)


def _preflight(
    config: TrainingConfig,
    objective: Objective,
    checkpoint: Checkpoint,
    corpora: Corpora,
    device: Device,
    extra: ExtraLosses,
) -> list[Finding]:
    """体检里不跑模型的几项，拿训练语料的一部分去试；匀着取，不只看开头。

    Raises:
        ModelError: 有一项是错误。
    """
    step = max(1, len(corpora.train) // _SAMPLED_DOCUMENTS)
    return require_trainable(
        checkpoint,
        objective,
        corpus_texts=[document.text for document in corpora.train[::step]],
        block_size=config.block_size,
        device=device.at(config.precision),
        teacher=extra.teacher,
    )


def _advice(finding: Finding) -> str:
    """一条提醒：发现了什么，为什么，怎么办。"""
    parts = (finding.message, finding.cause, finding.remedy)
    return "。".join(part for part in parts if part)


def _line_breaks(config: TrainingConfig, corpora: Corpora, tokenizer: Any) -> list[str]:
    """语料里的换行怎样处理了；没有换行则不说。

    Raises:
        ConfigError: 一定要留，而分词器写不出。
    """
    count = getattr(corpora.train, "line_breaks", 0)
    if not count:
        return []
    if keeps_line_breaks(tokenizer):
        return [f"语料里有 {count:,} 处换行，照原样学（line_breaks=join 则接成一行）"]
    if config.line_breaks == "keep":
        raise ConfigError(
            found=f"line_breaks = keep，语料里有 {count:,} 处换行，而这个分词器写不出",
            expected="字节级等写得出换行的分词器（GPT-2、BLOOM、Qwen、RoBERTa）",
            remedy="换一个检查点，或用 line_breaks=join 接成一行",
        )
    return [f"语料里有 {count:,} 处换行，这个分词器写不出，各接成一行"]


def _prepare_exam(run: Run, clozes: Sequence[Any]) -> Exam | None:
    """备好评估集；设置里关了评估时没有。评估的种子固定，各次运行因此可比。"""
    if not run.config.eval:
        return None
    return prepare_exam(
        run.checkpoint,
        run.objective,
        run.corpora.held_out,
        run.corpora.general or None,
        block_size=run.config.block_size,
        max_chars=run.config.eval_max_chars,
        clozes=clozes,
    )


def _sit(
    checkpoint: Checkpoint,
    exam: Exam | None,
    device: Device,
    when: str,
    say: Callable[[str], None],
) -> Sitting | None:
    """评估一次。"""
    if exam is None:
        return None
    say(f"{when}评估")
    checkpoint.model.to(device.kind)
    return sit_exam(checkpoint, exam)


def _packing(
    config: TrainingConfig, objective: Objective, model: Any, extra: ExtraLosses
) -> Verdict:
    """能不能打包：目标或用户不要，或模型（与教师）隔离不了文档，就一片一行。"""
    if not objective.packable:
        return Verdict(False, f"{objective.key} 一行一个样本")
    if not config.packing:
        return Verdict(False, "设置里关了打包")
    verdict = can_pack(model, config.block_size)
    if not verdict or extra.teacher is None:
        return verdict
    theirs = can_pack(extra.teacher.model, config.block_size)
    return verdict if theirs else replace(theirs, reason=f"教师：{theirs.reason}")


def _merged(
    base: Checkpoint, trained: Any, output: Path, say: Callable[[str], None]
) -> Any:
    """LoRA 并回底座，另存一份适配器；全参数训练时原样返回。"""
    if not hasattr(trained, "merge_and_unload"):
        return inner_model(trained)
    save_checkpoint(trained, base.tokenizer, output / "adapter")
    say(f"LoRA 适配器在 {output / 'adapter'}，并好的模型在 {output / 'model'}")
    return trained.merge_and_unload()


def _refuse_finished(output: Path) -> None:
    done = step_of(latest_checkpoint(output))
    if (output / METRICS_FILE).is_file():  # 最后才写的一份
        raise TrainingError(
            found=f"{output} 的训练已经走完（{done} 步），报告也写好了",
            expected="一次没有走完的训练",
            remedy="换一个 --output 另训一次；再往下训练，用 "
            f"--continue-from {output}（带着动量），或以 {output / 'model'} 为 --model",
        )


def demo_config(objective: str, output: str | Path) -> TrainingConfig:
    """演示用的设置：起步模型、随包语料、一点回放。"""
    goal = get_objective(objective)
    samples = resources.files("companion.corpus") / "samples"
    corpus = "sample:modern" if goal.causal else "sample:classical"
    alone = not goal.pairs_required  # 通用的一份没有译文
    corpus = corpus if alone else "sample:pairs"
    return TrainingConfig(
        objective=goal.key,
        model=goal.starter,
        corpus=corpus,
        general=str(samples / "general.valid.txt") if alone else None,
        replay=str(samples / "general.train.txt") if alone else None,
        replay_ratio=0.2,
        output=str(output),
        block_size=128,
        tokens_per_batch=1024,
        # 因果模型每个词元都是目标，学得快，一步也慢一倍
        num_train_epochs=5.0 if goal.causal else 8.0,
        # 几千字、离起步模型远：缺省的 0.0003 学不完（experiments/front_table.py）
        learning_rate=1e-3,
        warmup_steps=0.1,
        logging_steps=5,
        save_steps=100,
        save_total_limit=1,
    )


def run_demo(objective: str, output: Path, **options: Any) -> TrainingResult:
    """跑一次演示。

    Args:
        objective: 训练目标的键。
        output: 新的或空的文件夹。
        **options: 同 `train`。
    """
    goal = get_objective(objective)
    clozes = read_cloze("modern" if goal.causal else "classical")
    return train(demo_config(objective, output), clozes=clozes, **options)
