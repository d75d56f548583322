"""检查点的名字 → 本地的一个文件夹。

名字有四种写法，依次试：

    starter:bert                  随包附带的起步模型
    runs/siku/model               本地文件夹
    model-q4.gguf                 llama.cpp 的权重文件，解成标准的检查点（`gguf`）
    SIKU-BERT/sikubert@main       模型仓库的编号，@ 后面是分支、标签或提交

起步模型是真正训练过的极小模型，离线也能“继续”预训练：随机权重的模型证明不了什么，随你
怎么训练，损失都会降。它们由 `pretrain_small.py` 与 `pretrain_starters.py`（在
`experiments/`）在别的史书与现代汉语上训练，没有读过《资治通鉴》；每个都带一张卡片
`card.json`：数据、步数、种子、留出集每字比特数、许可说明，以及其余每个文件的 sha256。

仓库里的文件先下到本地缓存，以后一律按本地文件夹打开。这样检查只写一遍；旧式 .bin 的仓库
也不会惊动 transformers 的后台转换（它会请第三方机器人改写那个仓库）。镜像与离线由
huggingface_hub 的环境变量 HF_ENDPOINT、HF_HUB_OFFLINE、HF_HOME 决定。
"""

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from companion.errors import ModelError

PREFIX = "starter:"
CARD = "card.json"
_REINSTALL = "重新安装本包（pip install --force-reinstall cpt-companion）"
_ROOT = Path(__file__).parent / "starters"
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_WELL_KNOWN = (
    "SIKU-BERT/sikubert",
    "SIKU-BERT/sikuroberta",
    "bigscience/bloom-560m",
    "google-bert/bert-base-chinese",
    "hfl/chinese-roberta-wwm-ext",
    "hfl/chinese-macbert-base",
    "uer/gpt2-chinese-cluecorpussmall",
    "Qwen/Qwen3-0.6B-Base",
)
"""常用的仓库编号，只用来猜用户想写哪一个。"""

_SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "adapter_config.json",
)
DISCRIMINATOR, GENERATOR = "discriminator", "generator"
"""一对模型存在一个文件夹里时，各自的文件夹名。"""
BOUNDARY_FILE = "span_boundary.safetensors"
"""片段边界目标的头（`companion.losses.span_boundary`）；多数检查点没有。"""

GGUF = ".gguf"
_SAFE_WEIGHTS = (
    BOUNDARY_FILE,
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "adapter_model.safetensors",
)
_OLD_WEIGHTS = (
    "pytorch_model.bin",
    "pytorch_model-*.bin",
    "pytorch_model.bin.index.json",
    "adapter_model.bin",
)


@dataclass(frozen=True)
class Location:
    """一个检查点在本地的位置。"""

    folder: Path
    notices: tuple[str, ...] = ()
    """用户应当知道的事，例如取自仓库的哪个提交。"""


def locate(name: str, revision: str | None = None, *, weights: bool = True) -> Location:
    """找到（必要时下载）一个检查点。

    Args:
        name: 四种写法之一，见本模块开头。
        revision: 分支、标签或提交；缺省取名字里 @ 后面的，再缺省为主分支。
        weights: 假则只取配置与分词器，不下权重。

    Raises:
        ModelError: 找不到、连不上，或不是文件夹；消息会猜最接近的名字。
    """
    if name.startswith(PREFIX):
        return Location(starter_path(name))
    path = Path(name).expanduser()
    if path.is_dir():
        return Location(path)
    if path.is_file() and path.suffix == GGUF:
        from companion.checkpoints.gguf import unpack_gguf, unpacked_notice

        folder = unpack_gguf(path)
        return Location(folder, (unpacked_notice(folder),))
    if path.exists():
        raise ModelError(
            found=f"{name} 是一个文件",
            expected="检查点是一个文件夹，内有 config.json、权重与分词器",
            remedy=f"改给它所在的文件夹 {path.parent}",
        )
    repository, _, after = name.partition("@")
    if not _HUB_ID.fullmatch(repository):
        _no_such_folder(name, path)
    return _download(repository, revision or after or None, weights)


@dataclass(frozen=True, kw_only=True)
class StarterCard:
    """起步模型的卡片，与 `card.json` 一一对应。"""

    name: str
    """`starter:` 后面的名字。"""
    data: str
    """训练数据及其来历。"""
    tokens_seen: int
    """读过的词元数，含重复。"""
    steps: int
    """优化步数。"""
    seed: int
    bits_per_char: float
    """留出集每字比特数（冻结的目标）。"""
    licence_note: str
    sha256: Mapping[str, str]
    """文件名 → 十六进制摘要；除卡片本身外，文件夹里的每个文件都在内。"""
    details: Mapping[str, Any]
    """卡片里的其余各项：训练设置、准确率、耗时……"""


def list_starters() -> dict[str, StarterCard]:
    """随包附带的起步模型，按名字排序；一个也没有时为空。"""
    if not _ROOT.is_dir():
        return {}
    cards = (_read_card(path.parent) for path in sorted(_ROOT.glob(f"*/{CARD}")))
    return {card.name: card for card in cards}


def starter_path(name: str) -> Path:
    """起步模型的文件夹，先核对每个文件的 sha256。

    Args:
        name: "starter:bert" 或 "bert"。

    Raises:
        ModelError: 没有这个起步模型，或文件与卡片不符。
    """
    key = name.removeprefix(PREFIX)
    known = list_starters()
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
        listed = "、".join(PREFIX + each for each in known)
        otherwise = "换用上列名字" if listed else _REINSTALL
        raise ModelError(
            found=f"没有起步模型 {name!r}",
            expected=f"{listed} 之一"
            if listed
            else "本安装附带起步模型，实际一个也没有",
            remedy=f"是不是想写 {PREFIX}{near[0]}" if near else otherwise,
        )
    folder = _ROOT / key
    damaged = verify(folder)
    if damaged:
        raise ModelError(
            found=f"起步模型 {name} 的文件与卡片不符：{'、'.join(damaged)}",
            expected=f"每个文件的 sha256 与 {CARD} 所记相同",
            remedy=_REINSTALL,
        )
    return folder


def verify(folder: Path) -> list[str]:
    """与卡片不符、缺少或未登记的文件名；都相符则为空。"""
    recorded = dict(_read_card(folder).sha256)
    actual = _digests(folder)
    names = sorted(recorded.keys() | actual.keys())
    return [name for name in names if recorded.get(name) != actual.get(name)]


def seal(folder: Path, card: StarterCard) -> None:
    """写下卡片，并登记文件夹里其余每个文件的 sha256；由训练脚本在最后调用。"""
    entries = asdict(card)
    details = entries.pop("details")
    content = {**entries, **details, "sha256": _digests(folder)}
    text = json.dumps(content, ensure_ascii=False, indent=2)
    (folder / CARD).write_text(text + "\n", encoding="utf-8")


def _read_card(folder: Path) -> StarterCard:
    path = folder / CARD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        named = {f.name for f in fields(StarterCard)} - {"details", "name"}
        values = {name: content[name] for name in named}
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            found=f"起步模型的卡片 {path} 读不了：{error}",
            expected="带齐 data、steps、sha256 等各项的 JSON",
            remedy=_REINSTALL,
        ) from error
    details = {k: v for k, v in content.items() if k not in named and k != "name"}
    return StarterCard(name=folder.name, details=details, **values)


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in names.items()
        if name != CARD
    }


def _download(repository: str, revision: str | None, weights: bool) -> Location:
    from huggingface_hub import snapshot_download

    def fetch(*patterns: str) -> Path:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=list(patterns),
                ignore_patterns=["*/*"],  # 子文件夹里是别的框架的权重
            )
        )

    try:
        folder = fetch(*_SMALL_FILES, *(_SAFE_WEIGHTS if weights else ()))
        if weights and not any(folder.glob("*.safetensors")):
            folder = fetch(*_SMALL_FILES, *_OLD_WEIGHTS)
    except Exception as error:  # 网络库的异常没有共同的父类，逐个说清在 _explain
        _explain(repository, revision, error)
    return Location(folder, (f"取自模型仓库 {repository}，提交 {folder.name[:12]}",))


def _explain(repository: str, revision: str | None, error: Exception) -> NoReturn:
    """把下载失败说成用户能做的事。"""
    from huggingface_hub import errors

    offline = (
        "若在离线环境，先在有网的机器上下载，再给出文件夹路径（或拷来 HF_HOME 缓存）；"
        "若只是连不上，把环境变量 HF_ENDPOINT 设为镜像地址；"
        "只想先试一试，用随包的 starter:bert 或 starter:bloom"
    )
    if isinstance(error, errors.GatedRepoError):
        raise ModelError(
            found=f"模型仓库 {repository} 要先申请授权",
            expected="不用登录就能下载的仓库，或已授权的账号",
            remedy="在网页上同意它的许可，再设环境变量 HF_TOKEN；或换一个公开模型",
        ) from error
    if isinstance(error, errors.RepositoryNotFoundError):
        raise ModelError(
            found=f"模型仓库里没有 {repository}，本地也没有这个文件夹",
            expected="仓库编号（形如 组织/模型）、本地文件夹或 starter:名字",
            remedy=_guess_any(repository) or "核对拼写；私有仓库要设环境变量 HF_TOKEN",
        ) from error
    if isinstance(error, errors.RevisionNotFoundError):
        raise ModelError(
            found=f"模型仓库 {repository} 没有版本 {revision!r}",
            expected="已有的分支、标签或完整的提交编号",
            remedy="去掉 @ 与版本以取主分支，或在仓库网页上查提交编号",
        ) from error
    if isinstance(error, errors.LocalEntryNotFoundError | ConnectionError):
        guess = _guess_any(repository)
        wanted = repository if revision is None else f"{repository}@{revision}"
        raise ModelError(
            found=f"本地没有 {wanted}，也连不上模型仓库（或设了 HF_HUB_OFFLINE）",
            expected="本地文件夹，或能从模型仓库下载的编号",
            remedy=f"{guess}；{offline}" if guess else offline,
        ) from error
    raise ModelError(
        found=f"下载 {repository} 失败：{str(error).splitlines()[0]}",
        expected="模型仓库可以访问，缓存所在的盘有空间",
        remedy=f"稍后重试；{offline}",
    ) from error


def _no_such_folder(name: str, path: Path) -> NoReturn:
    raise ModelError(
        found=f"没有文件夹 {name}",
        expected="本地文件夹、仓库编号（形如 组织/模型）或 starter:名字",
        remedy=_guess_any(name) or "核对路径；相对路径从当前目录算起",
    )


def _guess_any(name: str) -> str:
    """猜用户想写哪一个：先看同一文件夹里的邻居，再看常用的名字。"""
    path = Path(name).expanduser()
    near = _nearest(path.name, _siblings(path))
    if near:
        return f"是不是想写 {path.parent / near}"
    known = [*_WELL_KNOWN, *(PREFIX + starter for starter in list_starters())]
    near = _nearest(name, known)
    return f"是不是想写 {near}" if near not in (None, name) else ""


def _siblings(path: Path) -> list[str]:
    """与 `path` 同在一处的文件夹名。"""
    parent = path.parent
    if not parent.is_dir():
        return []
    return sorted(child.name for child in parent.iterdir() if child.is_dir())


def _nearest(name: str, names: list[str]) -> str | None:
    """不分大小写，最接近的一个。"""
    spelled = {known.lower(): known for known in names}
    near = difflib.get_close_matches(name.lower(), spelled, n=1, cutoff=0.6)
    return spelled[near[0]] if near else None
