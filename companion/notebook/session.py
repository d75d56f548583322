"""笔记本的第一格：安静、认得中文、说清楚自己在哪里运行。"""

import os
import platform
import sys
import urllib.error
import urllib.request
import warnings
from collections.abc import Sequence
from importlib import metadata

from companion.errors import ConfigError

QUIET = {
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_MODE": "disabled",
}
"""进度条、遥测与别的库的英文提示都关掉；笔记本的输出因此每次相同。"""


HUBS = ("https://huggingface.co", "https://hf-mirror.com")
"""模型仓库与它在中国内地的镜像，依次试。"""

_TIMEOUT_SECONDS = 3.0


def setup(hub: str = "auto") -> None:
    """关掉进度条与警告，选好模型仓库，装好中文字体，用一行说出版本、设备与内存。

    须在导入 torch 与 transformers 之前调用：那些库在导入时就读环境变量。

    Args:
        hub: 模型仓库的地址；`auto` 先试官方的，连不上就用镜像。设过环境变量
            HF_ENDPOINT 或 HF_HUB_OFFLINE 的，照那里写的，不试。

    Raises:
        ConfigError: huggingface_hub 已经以别的地址导入，改不动了。
    """
    os.environ.update(QUIET)
    warnings.filterwarnings("ignore")
    choose_hub(HUBS if hub == "auto" else (hub,))

    from companion.plots.font import use_chinese_font

    use_chinese_font()
    print(describe())


def choose_hub(hubs: Sequence[str]) -> None:
    """把第一个连得上的地址写进 HF_ENDPOINT；全连不上就不写，以后要下载时再报错。

    Raises:
        ConfigError: huggingface_hub 已经以别的地址导入，改不动了。
    """
    if os.environ.get("HF_ENDPOINT") or os.environ.get("HF_HUB_OFFLINE"):
        return
    found = next(filter(_reachable, hubs), None)
    if found is None:
        return
    imported = sys.modules.get("huggingface_hub.constants")
    used = getattr(imported, "ENDPOINT", found)  # 导入时读定，此后改环境变量无用
    if used != found:
        raise ConfigError(
            found=f"huggingface_hub 已经导入，用的是 {used}，而连得上的是 {found}",
            expected="setup() 在导入 transformers 之前运行",
            remedy="重启内核，从第一格开始运行",
        )
    if found != HUBS[0]:
        os.environ["HF_ENDPOINT"] = found


def _reachable(url: str) -> bool:
    """几秒之内有没有回音；什么状态码都算有。"""
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def describe() -> str:
    """一行话：各个版本、设备、内存或显存；模型仓库不是官方的，也说出来。"""
    import companion
    from companion.preflight.device import best_device

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
        facts.append(f"模型仓库 {mirror}")
    return " · ".join(facts)
