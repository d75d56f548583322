"""`show` 与 `objectives`：看一个样本，看名册。"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from companion.cli.console import emit, make_table
from companion.cli.options import (
    MODEL_HELP,
    AsJson,
    Seed,
    objective_names,
    refuse_existing,
)
from companion.errors import ConfigError

if TYPE_CHECKING:
    from rich.text import Text

    from companion.show import Example


def objectives(as_json: AsJson = False) -> None:
    """列出训练目标：名字、出处、用于哪些模型。"""
    from companion.objectives import OBJECTIVES

    table = make_table("名字", "说明", title="训练目标")
    for goal in OBJECTIVES.values():
        about = f"{goal.title}\n用于：{goal.family}\n出处：{goal.paper}"
        table.add_row(goal.key, about, end_section=True)
    listed = [
        {
            "key": goal.key,
            "title": goal.title,
            "family": goal.family,
            "paper": goal.paper,
            "auto_class": goal.auto_class,
            "options": list(goal.options),
            "starter": goal.starter,
        }
        for goal in OBJECTIVES.values()
    ]
    emit({"objectives": listed}, table, as_json=as_json)


def show(
    objective: Annotated[
        str,
        typer.Argument(
            metavar="目标", help="训练目标的名字", autocompletion=objective_names
        ),
    ],
    texts: Annotated[
        list[str], typer.Argument(metavar="文字...", help="一段或几段文字")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="模型", help=f"用谁的分词器：{MODEL_HELP}；缺省用起步模型的"
        ),
    ] = None,
    granularity: Annotated[
        str | None,
        typer.Option(metavar="粒度", help="掩码的粒度：token 或 whole_word"),
    ] = None,
    mlm_probability: Annotated[
        float | None, typer.Option(metavar="比例", help="选中的比例，在 0 与 1 之间")
    ] = None,
    seed: Seed = 0,
    epoch: Annotated[
        int, typer.Option(metavar="整数", help="第几轮：同一个样本，每轮的噪声不同")
    ] = 0,
    packed: Annotated[
        bool, typer.Option("--packed", help="几段打包成一行，并画出谁看得见谁")
    ] = False,
    png: Annotated[
        Path | None, typer.Option(metavar="文件", help="另存成图（.png 或 .svg）")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """看一个样本：词元、模型的输入、标签、谁预测谁，以及注意力掩码。"""
    from companion.models.loading import load_tokenizer
    from companion.objectives import get_objective
    from companion.plots import labels_table
    from companion.show import show_example

    goal = get_objective(objective)
    pictures = _pictures(png, texts, packed)
    name = model or goal.starter
    given = {"granularity": granularity, "mlm_probability": mlm_probability}
    options: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    tokenizer = load_tokenizer(name)
    examples = [
        show_example(objective, row, tokenizer, seed, epoch=epoch, **options)
        for row in ([texts] if packed else texts)
    ]
    for path in pictures:
        _draw(examples[0], path, attention=path != png)
    shown: list[Any] = [labels_table(each.rows) for each in examples]
    if packed:
        shown.append(attention_text(examples[0]))
    emit(
        {
            "objective": objective,
            "model": name,
            "seed": seed,
            "rows": [_as_dict(each, attention=packed) for each in examples],
            "files": [str(path) for path in pictures],
        },
        *shown,
        *(f"已画在 {path}" for path in pictures),
        as_json=as_json,
    )


def _pictures(png: Path | None, texts: list[str], packed: bool) -> list[Path]:
    """要画的文件：标签图，打包时再加一张注意力图。"""
    if png is None:
        return []
    if len(texts) > 1 and not packed:
        raise ConfigError(
            found=f"--png 配了 {len(texts)} 段文字",
            expected="一张图画一行",
            remedy="加 --packed 把几段打包成一行，或一次只给一段",
        )
    attention = png.with_name(f"{png.stem}-attention{png.suffix}")
    return [refuse_existing(path) for path in ([png, attention] if packed else [png])]


def _draw(example: "Example", path: Path, *, attention: bool) -> None:
    from companion.plots import plot_attention, plot_labels, save_figure

    rows = example.rows
    if attention:
        figure = plot_attention(example.visible, rows.inputs, documents=rows.document)
    else:
        figure = plot_labels(rows)
    save_figure(figure, path)


def attention_text(example: "Example") -> "Text":
    """谁看得见谁，画成字符：■ 看得见，· 看不见；一行是一个查询。"""
    from rich.text import Text

    lines = ["谁看得见谁（行看列，■ 看得见，· 看不见）"]
    width = len(str(len(example.rows) - 1))
    for at, (seen, token) in enumerate(
        zip(example.visible, example.rows.inputs, strict=True)
    ):
        cells = " ".join("■" if each else "·" for each in seen)
        lines.append(f"{at:>{width}} {cells}  {token}")
    return Text("\n".join(lines), no_wrap=True, overflow="ellipsis")


def _as_dict(example: "Example", *, attention: bool) -> dict[str, Any]:
    rows = example.rows
    shown: dict[str, Any] = {
        "title": rows.title,
        "tokens": rows.tokens,
        "inputs": rows.inputs,
        "labels": rows.labels,
        "predicted_by": rows.predicted_by,
        "special": rows.special,
        "document": rows.document,
        "input_ids": example.input_ids,
        "label_ids": example.labels,
    }
    if attention:
        shown["attention"] = example.visible.astype(int).tolist()
    return shown
