"""笔记本的第一格：安静、认得中文、说清楚自己在哪里运行。"""

import os
import platform
import warnings
from importlib import metadata

QUIET = {
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_MODE": "disabled",
}
"""进度条、遥测与别的库的英文提示都关掉；笔记本的输出因此每次相同。"""


def setup() -> None:
    """关掉进度条与警告，装好中文字体，用一行说出版本、设备与内存。

    须在导入 torch 与 transformers 之前调用：那些库在导入时就读环境变量。
    """
    os.environ.update(QUIET)
    warnings.filterwarnings("ignore")

    from companion.plots.font import use_chinese_font

    use_chinese_font()
    print(describe())


def describe() -> str:
    """一行话：各个版本、设备、内存或显存；设了镜像时也说出来。"""
    import companion
    from companion.models.device import best_device

    device = best_device()
    memory = "显存" if device.kind == "cuda" else "内存"
    facts = [
        f"companion {companion.__version__}",
        f"Python {platform.python_version()}",
        *(f"{name} {metadata.version(name)}" for name in ("torch", "transformers")),
        device.name,
        f"{memory} {device.memory_bytes / 2**30:.0f} GB",
    ]
    if mirror := os.environ.get("HF_ENDPOINT"):
        facts.append(f"镜像 {mirror}")
    return " · ".join(facts)
