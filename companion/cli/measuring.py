"""`check`、`evaluate` 与 `compare`：训练之前体检，前后打分、对照。"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from companion.cli.console import emit, make_table, note
from companion.cli.options import (
    CORPUS_HELP,
    AsJson,
    CorpusName,
    ModelName,
    ObjectiveName,
    Seed,
    objective_names,
)
from companion.config import Precision
from companion.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from rich.table import Table

    from companion.corpus.document import Document

RulerText = Annotated[
    str | None,
    typer.Option(
        metavar="语料",
        help="作尺子：数它的一、二、三元，答同样的目标",
    ),
]
MaxChars = Annotated[int, typer.Option(metavar="整数", help="每个留出集至多用多少字")]


def check(
    model: ModelName,
    objective: ObjectiveName,
    corpus: Annotated[
        str | None,
        typer.Option(metavar="语料", help=f"拿它量 UNK 率与每字词元数：{CORPUS_HELP}"),
    ] = None,
    block_size: Annotated[
        int | None, typer.Option(metavar="整数", help="打算用的行长，词元数")
    ] = None,
    precision: Annotated[
        Precision, typer.Option(metavar="精度", help="打算用的精度：auto 等四种")
    ] = "auto",
    teacher: Annotated[
        str | None,
        typer.Option(metavar="模型", help="masked_lm 的教师：词表、行长与内存都算上它"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """体检：这个检查点能不能用这个目标训练，不能就说为什么、怎么办。"""
    from rich.text import Text

    from companion.checkpoints import load_checkpoint
    from companion.objectives import get_objective
    from companion.preflight import Finding, best_device, check_checkpoint

    goal = get_objective(objective)
    documents = None if corpus is None else held_out(corpus, "train")
    try:
        checkpoint = load_checkpoint(checkpoint_folder(model), goal)
    except ModelError as error:
        if not as_json:
            raise
        findings = [Finding.of("loading", error)]
    else:
        wise = None if teacher is None else _teacher(teacher, goal, checkpoint)
        findings = check_checkpoint(
            checkpoint,
            goal,
            corpus_texts=None if documents is None else (d.text for d in documents()),
            block_size=block_size,
            device=best_device(checkpoint.model.config.model_type).at(precision),
            teacher=wise,
        )
    failed = any(each.severity == "error" for each in findings)
    words = {"ok": "好", "notice": "知悉", "warning": "提醒", "error": "错误"}
    table = make_table("", "发现", "缘由", "可以", title=f"{model} 用于 {objective}")
    for each in findings:
        table.add_row(
            words[each.severity],
            Text(each.message),
            Text(each.cause),
            Text(each.remedy),
        )
    listed = [each.as_dict() for each in findings]
    emit(
        {"model": model, "objective": objective, "ok": not failed, "findings": listed},
        *([table] if findings else []),
        "不能训练：先改正上面的错误" if failed else "可以训练",
        as_json=as_json,
    )
    if failed:
        raise typer.Exit(1)


def _teacher(name: str, goal: Any, checkpoint: Any) -> Any:
    """打开教师，核对它教不教得了这个学生。

    Raises:
        ConfigError: 这个目标没有教师。
        ModelError: 打不开，或词表与学生的不同。
    """
    from companion.losses.distillation import load_teacher

    if "teacher" not in goal.training_options:
        raise ConfigError(
            found=f"给了 --teacher，而目标是 {goal.key}",
            expected="masked_lm：只有它向教师学",
            remedy="去掉 --teacher，或改用 --objective masked_lm",
        )
    return load_teacher(name, checkpoint.model, checkpoint.tokenizer)


def evaluate(
    model: ModelName,
    objective: ObjectiveName,
    corpus: CorpusName,
    split: Annotated[
        str | None,
        typer.Option(metavar="切分", help="有名字的语料读哪个切分，缺省 valid"),
    ] = None,
    max_chars: MaxChars = 50_000,
    block_size: Annotated[
        int | None,
        typer.Option(metavar="整数", help="一行至多多少词元；缺省 512 或模型上限"),
    ] = None,
    seed: Seed = 0,
    ruler: RulerText = None,
    as_json: AsJson = False,
) -> None:
    """在一份留出集上打分：每字比特数、准确率、UNK 率。"""
    from companion.checkpoints import load_checkpoint
    from companion.objectives import get_objective

    goal = get_objective(objective)
    documents = held_out(corpus, split)
    counted = None if ruler is None else held_out(ruler, "train")
    checkpoint = load_checkpoint(checkpoint_folder(model), goal)
    note(*checkpoint.notices)
    from companion.evaluation import evaluate as run

    scores = run(
        checkpoint,
        goal,
        documents,
        max_chars=max_chars,
        block_size=block_size,
        seed=seed,
        ruler=counted,
    ).scores
    emit(
        {"model": model, "objective": objective, "corpus": corpus, **scores.as_dict()},
        scores_table(scores),
        as_json=as_json,
    )


def compare(
    before: Annotated[
        str, typer.Argument(metavar="之前", help="继续预训练之前的检查点")
    ],
    after: Annotated[
        str, typer.Argument(metavar="之后", help="之后的检查点，或 train 的输出文件夹")
    ],
    corpus: CorpusName,
    general: Annotated[
        str | None, typer.Option(metavar="语料", help=f"通用留出集：{CORPUS_HELP}")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            metavar="名字",
            help="训练目标；缺省是“之后”训练时的，或由架构猜",
            autocompletion=objective_names,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="文件夹", help="把报告卡写到这里（report.html、report.md）"
        ),
    ] = None,
    max_chars: MaxChars = 50_000,
    seed: Seed = 0,
    ruler: RulerText = None,
    as_json: AsJson = False,
) -> None:
    """报告卡：领域上学到了多少，通用上忘了多少，附前后的样例与结论。"""
    from companion.checkpoints import load_checkpoint
    from companion.objectives import get_objective

    if output is not None and (output / "report.html").exists():
        raise ConfigError(
            found=f"{output} 里已有 report.html",
            expected="没有报告的文件夹，本程序从不覆盖别的结果",
            remedy="换一个 --output",
        )
    names = checkpoint_folder(before), checkpoint_folder(after)
    goal = get_objective(objective or guess_objective(names[1]))
    domain = held_out(corpus)
    others = None if general is None else held_out(general)
    counted = None if ruler is None else held_out(ruler, "train")
    first, second = (load_checkpoint(name, goal) for name in names)
    note(*first.notices, *second.notices)
    from companion.evaluation import compare as run
    from companion.evaluation import write_report

    card = run(
        first,
        second,
        goal,
        domain,
        others,
        max_chars=max_chars,
        seed=seed,
        ruler=counted,
    )
    written = [] if output is None else write_report(card, output)
    emit(
        {**card.as_dict(), "files": [str(path) for path in written]},
        str(card),
        *(f"报告在 {path}" for path in written),
        as_json=as_json,
    )


def scores_table(scores: Any) -> "Table":
    """一份成绩，一行一项。"""
    table = make_table("项目", "数值", title="成绩")
    interval = scores.interval
    spread = f"（95% 区间 {interval[0]:.3f}–{interval[1]:.3f}）" if interval else ""
    for name, value in (
        ("每字比特数（越低越好）", f"{scores.bits_per_char:.4f}{spread}"),
        ("每词元损失（奈特）", f"{scores.loss_nats_per_token:.4f}"),
        ("准确率", f"{scores.accuracy:.2%}"),
        ("UNK 率", f"{scores.unk_rate:.2%}"),
        ("被考的字数", f"{scores.num_chars:,}"),
        ("目标数", f"{scores.num_targets:,}"),
    ):
        table.add_row(name, value)
    if scores.standard_error is not None:
        table.add_row("每字比特数的标准误", f"{scores.standard_error:.4f}")
    if scores.left_only is not None:
        table.add_row("同样的字，只看左边的每字比特数", f"{scores.left_only:.4f}")
    if scores.order_accuracy is not None:
        table.add_row("句序准确率（瞎猜 50%）", f"{scores.order_accuracy:.2%}")
    if scores.replaced_rate is not None:
        lazy = 1 - scores.replaced_rate
        table.add_row("总答“原文”的准确率", f"{lazy:.2%}")
    from companion.evaluation.ruler import NAMES

    for name, value in (scores.ruler or {}).items():
        unit = "" if name == "copy_chrf" else "，每字比特数"
        table.add_row(f"尺子：{NAMES[name]}{unit}", f"{value:.4f}")
    return table


def held_out(
    corpus: str, split: str | None = None
) -> "Callable[[], Iterator[Document]]":
    """留出集：有名字的语料缺省读 valid，路径就是它本身。

    Raises:
        CorpusError: 没有这份语料或这个切分，或内容读不了。
    """
    from companion.corpus import resolve

    found = resolve(corpus)
    note(*found.notices)
    wanted = found.held_out if split is None else split
    next(found.read(wanted))  # 读不了的语料，在打开模型之前就说
    return lambda: found.read(wanted)


def checkpoint_folder(name: str) -> str:
    """`train` 的输出文件夹 → 其中的 `model/`；别的照旧。"""
    inside = Path(name) / "model"
    is_run = not (Path(name) / "config.json").exists() and inside.is_dir()
    return str(inside) if is_run else name


def recorded_objective(folder: Path) -> str | None:
    """`train` 写在 `model/` 旁边的设置里的训练目标；不是它的输出时为 None。"""
    from companion.config import read_yaml
    from companion.objectives import OBJECTIVES
    from companion.training.output import CONFIG_FILE

    record = folder.parent / CONFIG_FILE
    if folder.name != "model" or not record.is_file():
        return None
    written = read_yaml(record).get("objective")
    return written if written in OBJECTIVES else None


def guess_objective(name: str) -> str:
    """检查点是用哪个目标训练的：`train` 的输出记着；别处来的由架构猜。

    Raises:
        ConfigError: 架构没有写，或不止一种可能。
    """
    from companion.checkpoints.locating import DISCRIMINATOR, locate
    from companion.objectives import OBJECTIVES, pretrained_by

    folder = locate(name, weights=False).folder
    if (folder / DISCRIMINATOR).is_dir():
        return next(key for key, goal in OBJECTIVES.items() if goal.discriminator)
    if (recorded := recorded_objective(folder)) is not None:
        return recorded
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        listed, family = config.get("architectures"), config.get("model_type")
    except (OSError, ValueError, AttributeError):
        listed = family = None
    architecture = str((listed or ["（没有写）"])[0])
    if (goal := pretrained_by(str(family), architecture)) is not None:
        return goal.key
    raise ConfigError(
        found=f"{name} 的架构是 {architecture}，看不出训练目标",
        expected="写明用哪个目标来考",
        remedy="加 --objective 名字（companion objectives 列出全部）",
    )
