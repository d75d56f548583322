"""起步模型：真正训练过的极小模型，离线也能“继续”预训练。

随机权重的模型证明不了什么：随你怎么训练，损失都会降。随包附带的起步模型由
`experiments/pretrain_starters.py` 在别的史书与现代汉语上训练，没有读过《资治通鉴》。
每个都带一张卡片 `card.json`：数据、步数、种子、留出集每字比特数、许可说明，以及其余每个
文件的 sha256。
"""

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from companion.errors import ModelError

PREFIX = "starter:"
CARD = "card.json"
_REINSTALL = "重新安装本包（pip install --force-reinstall cpt-companion）"
_ROOT = Path(__file__).parent / "starters"


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
