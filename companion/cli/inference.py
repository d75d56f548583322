"""`fill`、`complete` 与 `infill`：让检查点填空、续写、填补。"""

from typing import Annotated

import typer

from companion.cli.console import emit, make_table, note
from companion.cli.options import AsJson, ModelName, Seed, objective_names
from companion.errors import ConfigError

TrainedWith = Annotated[
    str | None,
    typer.Option(
        "--objective",
        metavar="名字",
        help="它是用哪个目标训练的；缺省是 train 记下的，不知道就看它是怎样的模型",
        autocompletion=objective_names,
    ),
]
Sample = Annotated[
    bool, typer.Option("--sample", help="按概率抽样；缺省每步取最可能的词元")
]
Temperature = Annotated[
    float, typer.Option(metavar="数", help="抽样的温度，越高越放得开")
]
TopP = Annotated[
    float, typer.Option(metavar="比例", help="只从累计概率达到它的词元里抽")
]
Beams = Annotated[
    int, typer.Option(metavar="整数", help="束搜索每步留几串；1 就是贪心")
]


def fill(
    text: Annotated[
        str, typer.Argument(metavar="文字", help="含一个或几个 [MASK] 的文字")
    ],
    model: ModelName = "starter:bert",
    top_k: Annotated[int, typer.Option(metavar="整数", help="每个空给出几个候选")] = 5,
    as_json: AsJson = False,
) -> None:
    """给掩码填字，按概率从高到低。"""
    from rich.text import Text

    from companion.checkpoints import load_checkpoint
    from companion.inference import fill as run

    checkpoint = load_checkpoint(model, "masked_lm")
    note(*checkpoint.notices)
    masks = run(checkpoint, text, top_k=top_k)
    table = make_table("空", "候选", "概率", "填好的文字", title=text)
    for number, candidates in enumerate(masks, 1):
        for rank, each in enumerate(candidates):
            table.add_row(
                "" if rank else str(number),
                Text(each.token),
                f"{each.score:.4f}",
                Text(each.text),
                end_section=rank == len(candidates) - 1,
            )
    listed = [
        [{"token": c.token, "score": c.score, "text": c.text} for c in candidates]
        for candidates in masks
    ]
    emit({"model": model, "text": text, "masks": listed}, table, as_json=as_json)


def complete(
    text: Annotated[str, typer.Argument(metavar="文字", help="开头，模型接着往下写")],
    model: ModelName = "starter:bloom",
    objective: TrainedWith = None,
    max_new_tokens: Annotated[
        int, typer.Option(metavar="整数", help="至多续写多少词元")
    ] = 40,
    sample: Sample = False,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    num_beams: Beams = 1,
    seed: Seed = 0,
    num_return: Annotated[
        int,
        typer.Option(
            metavar="整数", help="续写几份；多于一份要加 --sample 或 --num-beams"
        ),
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """接着开头往下写；开头双向地读还是从左到右地读，看它是怎样训练的。"""
    from companion.checkpoints import load_checkpoint
    from companion.inference import complete as run

    goal = objective or _trained_with(model, "complete")
    checkpoint = load_checkpoint(model, goal)
    note(*checkpoint.notices)
    written = run(
        checkpoint,
        text,
        max_new_tokens=max_new_tokens,
        objective=goal,
        do_sample=sample,
        temperature=temperature,
        top_p=top_p,
        num_beams=num_beams,
        seed=seed,
        num_return_sequences=num_return,
    )
    completions = [
        {"text": each.text, "new_text": each.new_text, "finished": each.finished}
        for each in written
    ]
    emit(
        {"model": model, "objective": goal, "text": text, "completions": completions},
        *(each.text for each in written),
        as_json=as_json,
    )


def infill(
    text: Annotated[
        str,
        typer.Argument(
            metavar="文字",
            help="缺处写成 [MASK] 的文字，一处缺几个字都行；GLM 另有 \\[sMASK] 缺一句、"
            "\\[gMASK] 缺一大段；掩码扩散一个 [MASK] 恰好一个词元",
        ),
    ],
    model: ModelName = "starter:bart",
    objective: TrainedWith = None,
    max_new_tokens: Annotated[
        int, typer.Option(metavar="整数", help="每处至多写多少词元")
    ] = 40,
    sample: Sample = False,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    num_beams: Beams = 1,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """写出每处缺去的文字；编码器–解码器、GLM 与练过中间填补的自己决定写多长。"""
    from companion.checkpoints import load_checkpoint
    from companion.inference import infill as run

    goal = objective or _trained_with(model, "infill")
    checkpoint = load_checkpoint(model, goal)
    note(*checkpoint.notices)
    written = run(
        checkpoint,
        text,
        max_new_tokens=max_new_tokens,
        objective=goal,
        do_sample=sample,
        temperature=temperature,
        top_p=top_p,
        num_beams=num_beams,
        seed=seed,
    )
    note(
        *(
            f"第 {number} 处写到 {max_new_tokens} 个词元或位置上限还没有写完，已截断"
            for number, done in enumerate(written.finished, 1)
            if not done
        )
    )
    payload = {
        "model": model,
        "objective": goal,
        "text": text,
        "filled": written.text,
        "fills": written.fills,
        "finished": written.finished,
    }
    emit(payload, written.text, as_json=as_json)


def _trained_with(model: str, usage: str) -> str:
    """检查点是用哪个目标训练的；看不出来或不会这样用时，取会的里面的第一个。"""
    from companion.cli.measuring import guess_objective
    from companion.objectives import OBJECTIVES

    able = [key for key, goal in OBJECTIVES.items() if usage in goal.usages]
    try:
        found = guess_objective(model)
    except ConfigError:  # 架构看不出来：打开检查点时自会说明
        return able[0]
    return found if found in able else able[0]
