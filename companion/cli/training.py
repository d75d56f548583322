"""`demo` 与 `train`：设置收齐，交给训练，再把前后两次评估排成表。"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from companion.cli.console import emit, make_console, make_table
from companion.cli.options import (
    CORPUS_HELP,
    MODEL_HELP,
    AsJson,
    key_values,
    objective_names,
)
from companion.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from companion.config import TrainingConfig


def demo(
    objective: Annotated[
        str,
        typer.Option(
            metavar="名字",
            help="训练目标，见 companion objectives",
            autocompletion=objective_names,
        ),
    ] = "masked_lm",
    output: Annotated[
        Path, typer.Option(metavar="文件夹", help="输出文件夹，须是新的或空的")
    ] = Path("companion-demo"),
    as_json: AsJson = False,
) -> None:
    """三分钟看到全过程：起步模型读完随包的小史，前后比一比。不联网。"""
    from companion.objectives import get_objective
    from companion.training.output import check_output

    get_objective(objective)
    check_output(output, resume=False)
    from companion.training.run import run_demo

    result = run_demo(objective, output)
    emit(result.metrics, *_summary(result), as_json=as_json)


def _show_settings(wanted: bool) -> None:
    """一组一张表：名字、缺省值、说明。"""
    if not wanted:
        return
    from companion.config import settings_by_group

    groups, tables = settings_by_group(), list[Any]()
    for title, rows in groups.items():
        tables.append(make_table("名字", "缺省", "说明", title=title))
        for row in rows:
            tables[-1].add_row(*row)
    emit(groups, *tables, as_json=False)
    raise typer.Exit


Objective = Annotated[
    str | None,
    typer.Option(
        metavar="名字",
        help="训练目标，见 companion objectives",
        autocompletion=objective_names,
    ),
]
Model = Annotated[str | None, typer.Option(metavar="模型", help=MODEL_HELP)]
Corpus = Annotated[
    list[str] | None,
    typer.Option(
        metavar="语料",
        help=f"领域语料：{CORPUS_HELP}；可以写几次，各是 [名字=]语料[:权重]",
    ),
]
Valid = Annotated[
    str | None,
    typer.Option(metavar="语料", help="领域留出集；缺省从语料里按文档划出 5%"),
]
General = Annotated[
    str | None, typer.Option(metavar="语料", help="通用留出集，用来量遗忘")
]
Replay = Annotated[
    str | None, typer.Option(metavar="语料", help="训练时掺入的通用语料，减轻遗忘")
]
ReplayRatio = Annotated[
    float | None, typer.Option(metavar="比例", help="回放占训练词元多少，缺省 0.05")
]
Output = Annotated[
    Path | None, typer.Option(metavar="文件夹", help="输出文件夹，须是新的或空的")
]
ContinueFrom = Annotated[
    Path | None,
    typer.Option(
        metavar="运行",
        help="另起一次，从前一次的文件夹（或其中的 checkpoint-N）带着动量出发",
    ),
]
ConfigFile = Annotated[
    Path | None, typer.Option(metavar="YAML", help="设置文件；命令行的选项优先")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="名字=值",
        help="任何一项设置，可以写多次，例如 --set learning_rate=1e-4",
    ),
]
MaxSteps = Annotated[
    int | None, typer.Option(metavar="整数", help="训练多少步；缺省按轮数")
]
RunSeed = Annotated[int | None, typer.Option(metavar="整数", help="随机种子")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="不显示账本与进度")]
Budget = Annotated[
    float,
    typer.Option(metavar="比例", help="试训合计占正式训练多少，评估在内"),
]


def train(
    objective: Objective = None,
    model: Model = None,
    corpus: Corpus = None,
    valid: Valid = None,
    general: General = None,
    replay: Replay = None,
    replay_ratio: ReplayRatio = None,
    output: Output = None,
    continue_from: ContinueFrom = None,
    config: ConfigFile = None,
    settings: Settings = None,
    max_steps: MaxSteps = None,
    seed: RunSeed = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="同一次训练停在半路：从它最新的检查点走完"),
    ] = False,
    auto: Annotated[
        bool,
        typer.Option("--auto", help="先试训几次，定下学习率、回放与 LoRA（见 tune）"),
    ] = False,
    quiet: Quiet = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="只预演：安排、账本、内存与时间，什么也不写"),
    ] = False,
    help_settings: Annotated[
        bool,
        typer.Option(
            "--help-settings",
            help="列出 --set 与设置文件里的每一项",
            is_eager=True,
            callback=_show_settings,
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """在自己的语料上继续预训练一个检查点，并写出前后对比的报告。"""
    from companion.training.output import check_output

    given = _given(
        objective, model, corpus, valid, general, replay, replay_ratio, output,
        continue_from, max_steps, seed,
    )  # fmt: skip
    chosen = build_config(given, settings or [], config, resume=resume)
    check_output(Path(chosen.output), resume=resume)
    if dry_run:
        from companion.training import rehearse_training

        found = rehearse_training(chosen, console=make_console(), quiet=quiet)
        emit(found.as_dict(), str(found), as_json=as_json)
        return
    from companion.training import train as run

    if auto and not resume:
        chosen = _tuned(chosen, quiet=quiet)
    result = run(chosen, resume=resume, console=make_console(), quiet=quiet)
    emit(result.metrics, *_summary(result), as_json=as_json)


def tune(
    objective: Objective = None,
    model: Model = None,
    corpus: Corpus = None,
    valid: Valid = None,
    general: General = None,
    replay: Replay = None,
    replay_ratio: ReplayRatio = None,
    output: Output = None,
    continue_from: ContinueFrom = None,
    config: ConfigFile = None,
    settings: Settings = None,
    max_steps: MaxSteps = None,
    seed: RunSeed = None,
    budget: Budget = 0.1,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """试训几次，定下学习率、回放的比例与要不要 LoRA；中途停下，再给一次就接着试。"""
    from companion.training import tune as run
    from companion.training.tuning import cells

    given = _given(
        objective, model, corpus, valid, general, replay, replay_ratio, output,
        continue_from, max_steps, seed,
    )  # fmt: skip
    chosen = build_config(given, settings or [], config, resume=False)
    found = run(chosen, budget=budget, console=make_console(), quiet=quiet)
    table = make_table("学习率", "回放", "领域", "通用", "", title="试训")
    for probe in found.probes:
        table.add_row(*cells(probe), "选定" if probe == found.chosen else "")
    emit(
        found.as_dict(),
        table,
        *found.reasons,
        f"正式训练：companion train --config {found.output / 'config.yaml'} --output …",
        as_json=as_json,
    )


def _given(
    objective: str | None,
    model: str | None,
    corpus: list[str] | None,
    valid: str | None,
    general: str | None,
    replay: str | None,
    replay_ratio: float | None,
    output: Path | None,
    continue_from: Path | None,
    max_steps: int | None,
    seed: int | None,
) -> dict[str, Any]:
    """命令行上单列的几项设置；没有给的是 None。"""
    return {
        "objective": objective,
        "model": model,
        "corpus": (corpus[0] if len(corpus) == 1 else corpus) if corpus else None,
        "valid": valid,
        "general": general,
        "replay": replay,
        "replay_ratio": replay_ratio,
        "output": None if output is None else str(output),
        "continue_from": None if continue_from is None else str(continue_from),
        "max_steps": max_steps,
        "seed": seed,
    }


def _tuned(config: "TrainingConfig", *, quiet: bool) -> "TrainingConfig":
    """先在旁边的文件夹里试训，回来的是选定的设置。"""
    from companion.training import tune as run

    beside = replace(config, output=f"{config.output.rstrip('/')}.tuning")
    found = run(beside, console=make_console(), quiet=quiet)
    return replace(found.config, output=config.output)


def build_config(
    given: dict[str, Any], pairs: list[str], file: Path | None, *, resume: bool
) -> "TrainingConfig":
    """选项、`--set` 与设置文件合成一份设置。

    接着训练时不必重抄设置：没给 `--config` 就用输出文件夹里那一份。

    Raises:
        ConfigError: 同一项在选项与 `--set` 里都有，或设置不对。
        TrainingError: 没有可续的训练。
    """
    from companion.config import TrainingConfig
    from companion.objectives import get_objective
    from companion.training.output import CONFIG_FILE, check_output

    flags = {name: value for name, value in given.items() if value is not None}
    settings = key_values(pairs)
    for name in settings.keys() & flags.keys():
        option = "--" + name.replace("_", "-")
        raise ConfigError(
            found=f"{option} 与 --set {name}=… 都给了",
            expected="每项设置只给一次",
            remedy="删去其中一个",
        )
    output = flags.get("output", settings.get("output"))
    if resume and file is None and output is not None:
        check_output(Path(output), resume=True)
        file = Path(output) / CONFIG_FILE
    config = TrainingConfig.from_sources(file, {**flags, **settings})
    get_objective(config.objective)
    _refuse_idle(config, {**flags, **settings})
    return config


_COMPANIONS = {
    "replay_ratio": ("replay",),
    "student_layers": ("teacher",),
    "embedding_steps": ("new_characters", "new_words"),
    "user_dictionary": ("granularity", "preset", "new_words"),
    "eval_max_chars": ("eval",),
}
"""一项设置要有后面的哪一项（之一）才有作用。"""


def _refuse_idle(config: "TrainingConfig", given: dict[str, Any]) -> None:
    """在命令行明说了、却毫无作用的设置。

    Raises:
        ConfigError: 有这样的一项。
    """
    for name, others in _COMPANIONS.items():
        if name in given and not any(getattr(config, other) for other in others):
            raise ConfigError(
                found=f"{name} = {getattr(config, name)}，而没有 {'、'.join(others)}",
                expected=f"{name} 要与 {'或 '.join(others)} 一起用，单独没有作用",
                remedy=f"加上 {others[0]}，或去掉 {name}",
            )


def _summary(result: Any) -> list[Any]:
    """前后两次评估的表，加上报告在哪里。"""
    from companion.evaluation.report import ruler_sentence
    from companion.evaluation.verdict import SEEN_MUCH, void_headline

    metrics: dict[str, Any] = result.metrics
    shown: list[Any] = []
    if "before" in metrics and "after" in metrics:
        shown.append(before_after_table(metrics["before"], metrics["after"]))
        share = metrics["overlap"]["domain"]["shared_ratio"]
        if share >= SEEN_MUCH:
            shown.append(f"注意：{void_headline(share)}")
    if "ruler" in metrics:
        after = metrics["after"]["domain"]["bits_per_char"]
        shown.append(f"尺子（数训练语料）：{ruler_sentence(metrics['ruler'], after)}")
    seconds = metrics.get("seconds")
    if seconds:
        shown.append(
            f"训练 {metrics['steps']:,} 步、{metrics['tokens_trained']:,} 个词元，"
            f"用时 {seconds:,.0f} 秒（每秒 {metrics['tokens_per_second']:,.0f} 个词元）"
        )
    output = Path(result.output)
    shown.append(f"模型在 {output / 'model'}")
    if (output / "report.html").is_file():
        shown.append(f"报告在 {output / 'report.html'}，用浏览器打开")
    return shown


def before_after_table(before: dict[str, Any], after: dict[str, Any]) -> "Table":
    """领域与通用两个留出集，训练前后各一行。"""
    from rich.table import Table

    from companion.evaluation.verdict import SETS, signed_percent

    table = Table(title="训练前后（每字比特数越低越好）")
    for name in ("留出集", "每字比特数：前", "后", "变化", "准确率：前", "后"):
        table.add_column(name, justify="left" if name == "留出集" else "right")
    for key, title in SETS.items():
        if key not in before or key not in after:
            continue
        first, second = before[key], after[key]
        change = second["bits_per_char"] / first["bits_per_char"] - 1
        table.add_row(
            title,
            f"{first['bits_per_char']:.3f}",
            f"{second['bits_per_char']:.3f}",
            signed_percent(change),
            f"{first['accuracy']:.1%}",
            f"{second['accuracy']:.1%}",
        )
        for name, bits in second.get("sources", {}).items():
            old = first["sources"][name]
            moved = signed_percent(bits / old - 1)
            table.add_row(f"　{name}", f"{old:.3f}", f"{bits:.3f}", moved, "", "")
    return table
