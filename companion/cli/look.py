"""`show` 与 `objectives`：看一个样本，看名册。"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from companion.cli.console import emit, make_table
from companion.cli.options import (
    MODEL_HELP,
    AsJson,
    Seed,
    key_values,
    objective_names,
    refuse_existing,
)
from companion.errors import ConfigError, ObjectiveError

if TYPE_CHECKING:
    from rich.text import Text

    from companion.objectives import Objective
    from companion.plots import AttentionPanel, PairRows
    from companion.show import Example


def objectives(as_json: AsJson = False) -> None:
    """列出训练目标：名字、出处、用于哪些模型。"""
    from companion.objectives import OBJECTIVES
    from companion.objectives.presets import PRESETS

    table = make_table("名字", "说明", title="训练目标")
    for goal in OBJECTIVES.values():
        about = f"{goal.title}\n用于：{goal.family}\n出处：{goal.paper}"
        if own := [*_own_options(goal), *goal.training_options]:
            about += f"\n可设：{' '.join(own)}"
        if "preset" in goal.options:
            about += "".join(
                f"\npreset={each.key}：{each.title}" for each in PRESETS.values()
            )
        about += f"\n练成之后：companion {goal.usage}"
        table.add_row(goal.key, about, end_section=True)
    listed = [
        {
            "key": goal.key,
            "title": goal.title,
            "family": goal.family,
            "paper": goal.paper,
            "auto_class": goal.auto_class,
            "options": list(goal.options),
            "training_options": list(goal.training_options),
            "presets": list(PRESETS) if "preset" in goal.options else [],
            "usage": goal.usage,
            "starter": goal.starter,
        }
        for goal in OBJECTIVES.values()
    ]
    emit(
        {"objectives": listed},
        table,
        "可设的各项用 --set 名字=值；companion show 名字 一段文字，看它把文字变成什么",
        as_json=as_json,
    )


def _own_options(goal: "Objective") -> list[str]:
    """目标自己的设置；种子人人都有，不算。"""
    return [name for name in goal.options if name != "seed"]


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
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="名字=值",
            help="目标的一项设置，可以写多次，例如 --set noise_density=0.3"
            " （有哪些：companion objectives）",
        ),
    ] = None,
    granularity: Annotated[
        str | None,
        typer.Option(
            metavar="粒度", help="掩码的粒度：token、whole_word、ngram 或 span"
        ),
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
    from companion.checkpoints.loading import (
        load_model_options,
        load_objective,
        load_tokenizer,
    )
    from companion.objectives import get_objective
    from companion.plots import labels_table
    from companion.show import show_example
    from companion.show.reading import border_lines

    goal = get_objective(objective)
    given = {"granularity": granularity, "mlm_probability": mlm_probability}
    flags = {name: value for name, value in given.items() if value is not None}
    options = _options(goal, flags, settings or [])
    given_rows = _rows(goal, texts, packed=packed)
    if png is not None and len(given_rows) > 1:
        raise ConfigError(
            found=f"--png 配了 {len(texts)} 段文字",
            expected="一张图画一行",
            remedy="加 --packed 把几段打包成一行，或一次只给一行",
        )
    name = model or goal.starter
    tokenizer = load_tokenizer(name)
    goal = load_objective(name, goal)
    known = load_model_options(name, goal)
    if options.get("preset") == "macbert" and "similar_words" not in options:
        options["similar_words"] = _similar_words(name, goal, texts)
    examples = [
        show_example(
            goal,
            row,
            tokenizer,
            seed,
            epoch=epoch,
            model_options=known,
            **options,
        )
        for row in given_rows
    ]
    attention = packed or any(each.explicit for each in examples)
    pictures = _pictures(png, attention=attention)
    for path in pictures:
        _draw(examples[0], path, attention=path != png)
    shown: list[Any] = []
    for each in examples:
        shown += [labels_table(each.rows), *border_lines(each)]
        if attention:
            shown.append(attention_text(each))
    emit(
        {
            "objective": objective,
            "model": name,
            "seed": seed,
            "rows": [_as_dict(each, attention=attention) for each in examples],
            "files": [str(path) for path in pictures],
        },
        *shown,
        *(f"已画在 {path}" for path in pictures),
        as_json=as_json,
    )


def _options(
    goal: "Objective", flags: dict[str, Any], pairs: list[str]
) -> dict[str, Any]:
    """选项与 `--set` 合起来，按训练设置的规矩变成数、真假或名字。

    Raises:
        ConfigError: 一项给了两次，或值不对。
        ObjectiveError: 目标没有这一项。
    """
    from companion.config import TrainingConfig

    settings = key_values(pairs)
    for name in settings.keys() & (flags.keys() | {"seed"}):
        option = "--" + name.replace("_", "-")
        raise ConfigError(
            found=f"--set {name}=…",
            expected=f"{name} 由 {option} 给出，每项只给一次",
            remedy=f"只写 {option}",
        )
    settings |= flags
    own = _own_options(goal)
    for name in settings:
        if name not in own:
            raise ObjectiveError(
                found=f"{goal.key} 没有参数 {name}",
                expected="、".join(own) or "没有可调的参数",
                remedy=f"去掉 {name}，或照上面的名字改写",
            )
    places = dict.fromkeys(("model", "corpus", "output"), "不用")
    config = TrainingConfig.from_sources(
        None, {"objective": goal.key, **places, **settings}
    )
    return {
        name: value for name in settings if (value := getattr(config, name)) is not None
    }


def _similar_words(name: str, goal: "Objective", texts: list[str]) -> Any:
    """由模型的词嵌入找近义词：在这几段文字与随包的小史里找。"""
    from companion.checkpoints.loading import load_checkpoint
    from companion.corpus import read_corpus
    from companion.training.masking import find_similar_words

    checkpoint = load_checkpoint(name, goal)
    sample = [document.text for document in read_corpus("sample:classical")]
    return find_similar_words(checkpoint.tokenizer, checkpoint.model, [*sample, *texts])


def _rows(
    goal: "Objective", texts: list[str], *, packed: bool
) -> list[str] | list[list[str]]:
    """哪几段文字在一行：各自一行，全在一行，或两段一个句对。"""
    if not goal.pairs_required:
        return [texts] if packed else texts
    if len(texts) % 2 or packed:
        raise ConfigError(
            found="--packed" if packed else f"{len(texts)} 段文字",
            expected=f"{goal.key} 一行一个句对：源一段，目标一段，依次成对",
            remedy=f"例如 companion show {goal.key} 民大饥。 百姓大闹饥荒。",
        )
    return [texts[at : at + 2] for at in range(0, len(texts), 2)]


def _pictures(png: Path | None, *, attention: bool) -> list[Path]:
    """要画的文件：标签图；有可见矩阵要看时再加一张注意力图。"""
    if png is None:
        return []
    second = png.with_name(f"{png.stem}-attention{png.suffix}")
    return [refuse_existing(path) for path in ([png, second] if attention else [png])]


def _draw(example: "Example", path: Path, *, attention: bool) -> None:
    from companion.plots import (
        plot_attention,
        plot_attention_panels,
        plot_labels,
        save_figure,
    )

    if not attention:
        figure = plot_labels(example.rows)
    elif len(masks := example.masks()) > 1:
        figure = plot_attention_panels(masks)
    else:
        [only] = masks
        figure = plot_attention(
            only.visible,
            only.keys,
            title=only.title,
            documents=only.key_documents,
            parts=only.parts,
        )
    save_figure(figure, path)


def attention_text(example: "Example") -> "Text":
    """谁看得见谁，画成字符：■ 看得见，· 看不见；一行是一个查询。"""
    from rich.text import Text

    parts: list[str] = []
    for mask in example.masks():
        parts.append(f"{mask.title}（行看列，■ 看得见，· 看不见）")
        parts += _lines(mask)
    return Text("\n".join(parts), no_wrap=True, overflow="ellipsis")


def _lines(mask: "AttentionPanel") -> list[str]:
    import numpy as np

    seen, tokens = np.asarray(mask.visible), mask.queries or ()
    width = len(str(len(seen) - 1))
    return [
        f"{at:>{width}} {' '.join('■' if each else '·' for each in row)}  {token}"
        for at, (row, token) in enumerate(zip(seen, tokens, strict=True))
    ]


def _as_dict(example: "Example", *, attention: bool) -> dict[str, Any]:
    from companion.plots import PairRows
    from companion.show.reading import given_fields

    rows = example.rows
    shown: dict[str, Any] = {
        "title": rows.title,
        "tokens": rows.tokens,
        "inputs": rows.inputs,
        "labels": rows.labels,
        "special": rows.special,
        "document": rows.document,
        "input_ids": example.input_ids,
        "label_ids": example.labels,
    }
    if isinstance(rows, PairRows):
        shown |= _pair_as_dict(rows)
    else:
        shown["predicted_by"] = rows.predicted_by
    shown |= given_fields(example)
    if attention:
        masks = {
            "attention": example.visible,
            "decoder_attention": example.decoder_visible,
            "cross_attention": example.cross_visible,
        }
        shown |= {
            name: mask.astype(int).tolist()
            for name, mask in masks.items()
            if mask is not None
        }
    return shown


def _pair_as_dict(rows: "PairRows") -> dict[str, Any]:
    """两条行的各项；`spans` 是原文与编码器输入的对齐。"""
    return {
        "hidden": rows.hidden,
        "input_document": rows.input_document,
        "input_columns": rows.input_columns,
        "spans": [
            {"tokens": span.tokens, "inputs": span.inputs, "fate": fate}
            for span, fate in zip(rows.spans, rows.fates, strict=True)
        ],
        "decoder_inputs": rows.decoder_inputs,
        "decoder_visible": rows.decoder_visible,
        "decoder_document": rows.decoder_document,
        "decoder_columns": rows.decoder_columns,
        "origin": rows.origin,
        "scored": rows.scored,
        "targets": rows.targets,
    }
