"""`merge`：把训练得来的检查点用到别处。"""

from pathlib import Path
from typing import Annotated

import typer

from companion.cli.console import emit
from companion.cli.options import MODEL_HELP, AsJson


def merge(
    base: Annotated[
        str, typer.Option(metavar="模型", help=f"底座，两边都由它而来：{MODEL_HELP}")
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
