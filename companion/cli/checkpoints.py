"""`merge`、`export`：把训练得来的检查点用到别处。"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from companion.cli.console import emit
from companion.cli.options import AsJson, ModelName


def merge(
    base: Annotated[
        str, typer.Option(metavar="模型", help="底座：续训与承接都由它而来")
    ],
    tuned: Annotated[
        str, typer.Option(metavar="模型", help="在领域语料上继续预训练过的")
    ],
    output: Annotated[
        Path, typer.Option(metavar="文件夹", help="合并的检查点；须是新的或空的")
    ],
    onto: Annotated[
        str | None,
        typer.Option(
            metavar="模型",
            help="加到谁身上，例如同一底座的对话模型；不给就在前两者之间插值",
        ),
    ] = None,
    ratio: Annotated[
        float, typer.Option(metavar="比例", help="差乘以多少再加上")
    ] = 1.0,
    as_json: AsJson = False,
) -> None:
    """合并检查点：--onto + 比例 ×（--tuned − --base），例如保住对话能力。"""
    from companion.checkpoints import merge_checkpoints

    found = merge_checkpoints(base, tuned, output, onto=onto, ratio=ratio)
    said = [
        f"{found.tensors:,} 个张量，变了 {found.changed:,} 个；"
        f"加上的差是承接的 {found.distance:.2%}"
    ]
    if found.kept_rows:
        said.append(f"词嵌入里承接独有的 {found.kept_rows:,} 个词元原样留着")
    said.append(f"合并的检查点在 {found.output}，来历在 merge.json")
    emit(found.as_dict(), *said, as_json=as_json)


def export(
    model: ModelName,
    output: Annotated[
        Path, typer.Option(metavar="路径", help="写到哪里：.gguf 文件，或一个文件夹")
    ],
    to: Annotated[
        Literal["gguf", "merged"],
        typer.Option(
            metavar="格式",
            help="gguf：llama.cpp、Ollama 用的；merged：LoRA 并进底座的标准检查点",
        ),
    ],
    precision: Annotated[
        Literal["f32", "f16", "bf16", "q8_0"],
        typer.Option(metavar="精度", help="gguf 的二维张量：f32、f16、bf16 或 q8_0"),
    ] = "f16",
    as_json: AsJson = False,
) -> None:
    """把检查点写成别的工具用的格式。"""
    from companion.checkpoints import load_checkpoint, save_checkpoint, write_gguf
    from companion.cli.measuring import guess_objective

    if to == "gguf":
        opened = load_checkpoint(model, "causal_lm")
        written = write_gguf(opened.model, opened.tokenizer, output, precision)
    else:
        opened = load_checkpoint(model, guess_objective(model))
        written = save_checkpoint(opened.model, opened.tokenizer, output)
    emit({"output": str(written), "format": to}, f"写在 {written}", as_json=as_json)
