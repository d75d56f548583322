"""合并检查点：把一次训练学到的差，加到另一个检查点上。

    合并 = 承接 + 比例 × (续训 − 底座)

承接是由同一个底座做过指令微调的对话模型时，这就是“对话向量”（Huang 等，2024；任务算术，
Ilharco 等，2023）：语料学到的与对话学到的都是底座之外的一段位移，加在一起。不给承接，就
在底座与续训之间插值（WiSE-FT，Wortsman 等，2022）：比例 0 是底座，1 是续训。

逐个张量读、算、写：三份检查点从不一同在内存里，一次只有一片。差以 float32 计算，存成
承接的精度；承接比底座多出的词元（对话的标记）原样留着。
"""

import json
import math
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from companion.checkpoints.locating import locate
from companion.checkpoints.reading import read_tokenizer, weight_files
from companion.checkpoints.saving import failures_explained
from companion.errors import ConfigError, ModelError

RECORD = "merge.json"
"""合并的来历。"""
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 4 * 2**30
"""一个分片至多这么大，也就是合并时内存里最多有这么多。"""
_WEIGHTS = ("*.safetensors", "*.bin", "*.index.json", "companion_checkpoint.json")


@dataclass(frozen=True)
class Merge:
    """合并的结果。"""

    output: Path
    tensors: int
    """一共多少个张量。"""
    changed: int
    """其中变了的；其余逐位是承接的。"""
    kept_rows: int
    """词嵌入里承接独有的词元，原样留着的行数。"""
    distance: float
    """加上的差的长度与承接的长度之比（各是全部参数的 2-范数）。"""

    def as_dict(self) -> dict[str, Any]:
        """可写成 JSON 的字典。"""
        return {**vars(self), "output": str(self.output)}


class _Weights:
    """一份检查点的张量，按名字取，用到时才读。"""

    def __init__(self, name: str, stack: ExitStack) -> None:
        from safetensors import safe_open

        self.name = name
        self.folder = locate(name).folder
        files = weight_files(self.folder)
        if files[0].suffix != ".safetensors":
            raise ModelError(
                found=f"{name} 的权重是旧式的 .bin",
                expected="safetensors：可以逐个张量读",
                remedy="用 transformers 打开，再 save_pretrained 存一次",
            )
        self._where: dict[str, Any] = {}
        for file in files:
            handle = stack.enter_context(safe_open(file, framework="pt"))
            self._where |= dict.fromkeys(handle.keys(), handle)

    @property
    def names(self) -> list[str]:
        """全部张量的名字，按文件里的次序。"""
        return list(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        """形状；不读内容。"""
        return tuple(self._where[name].get_slice(name).get_shape())

    def get(self, name: str) -> Any:
        """读出一个张量。"""
        return self._where[name].get_tensor(name)


def merge_checkpoints(
    base: str,
    tuned: str,
    output: str | Path,
    *,
    onto: str | None = None,
    ratio: float = 1.0,
) -> Merge:
    """把续训与底座的差乘以比例，加到承接上，存成一个标准的检查点。

    分词器、设置、对话模板都是承接的；来历写在 `merge.json`。

    Args:
        base: 底座：续训与承接都由它而来。写法同 `load_checkpoint`。
        tuned: 在领域语料上继续预训练过的。
        output: 一个新的或空的文件夹。
        onto: 承接：加到谁身上；None 是底座，即在底座与续训之间插值。
        ratio: 比例；插值时在 0 与 1 之间。

    Returns:
        改了多少，留了多少。

    Raises:
        ConfigError: 比例不是有限的数，或插值时出了 [0, 1]；输出文件夹里有东西。
        ModelError: 三份检查点的张量、形状或词表对不上，或打不开；磁盘已满，写不进。
    """
    target = Path(output)
    _check_settings(target, onto, ratio)
    with ExitStack() as stack:
        origin, learnt = _Weights(base, stack), _Weights(tuned, stack)
        host = origin if onto is None else _Weights(onto, stack)
        _check_tensors(origin, learnt, host)
        _check_vocabularies(origin, learnt, host)
        stack.enter_context(failures_explained(target))
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.new-"))
        stack.callback(shutil.rmtree, fresh, ignore_errors=True)
        ignored = shutil.ignore_patterns(*_WEIGHTS)
        shutil.copytree(host.folder, fresh, ignore=ignored, dirs_exist_ok=True)
        counts = _write(origin, learnt, host, ratio, fresh)
        merge = Merge(target, len(host.names), *counts)
        record = {"base": base, "tuned": tuned, "onto": onto, "ratio": ratio}
        text = json.dumps(record | merge.as_dict(), ensure_ascii=False, indent=2)
        (fresh / RECORD).write_text(text + "\n", encoding="utf-8")
        fresh.chmod(0o755)
        if target.exists():
            target.rmdir()
        fresh.rename(target)
    return merge


def _check_settings(target: Path, onto: str | None, ratio: float) -> None:
    if not math.isfinite(ratio):
        raise ConfigError(
            found=f"ratio = {ratio}",
            expected="一个有限的数",
            remedy="例如 --ratio 0.7；1 是把差整个加上",
        )
    if onto is None and not 0 <= ratio <= 1:
        raise ConfigError(
            found=f"ratio = {ratio}，而没有给 --onto",
            expected="在 0（底座）与 1（续训）之间插值",
            remedy="改成 0 与 1 之间的数；要把差加到别的检查点上，给出 --onto",
        )
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise ConfigError(
            found=f"{target} 里已有东西",
            expected="一个新的或空的文件夹，因为旧结果从不覆盖",
            remedy="换一个 --output",
        )


def _check_tensors(origin: _Weights, learnt: _Weights, host: _Weights) -> None:
    """三份的张量一个不少；形状相同，只许承接的第一维更长（多出的词元）。"""
    for other in (learnt, host):
        lost = set(origin.names) ^ set(other.names)
        if lost:
            raise ModelError(
                found=f"{origin.name} 与 {other.name} 的张量不同，{len(lost)} 个只在一"
                f"处有，例如 {min(lost)}",
                expected="同一个架构、同一个类存下的检查点",
                remedy="核对三份是否出自同一个底座；只差输出头的，用同一个 Auto 类打开"
                "再存一次",
            )
    for name in origin.names:
        mine, theirs, onto = (each.shape(name) for each in (origin, learnt, host))
        longer = mine[1:] == onto[1:] and mine[:1] <= onto[:1]
        if mine != theirs or not (mine == onto or (longer and len(mine) > 0)):
            raise ModelError(
                found=f"{name} 的形状：底座 {mine}，续训 {theirs}，承接 {onto}",
                expected="底座与续训相同；承接只能在词表上多出几行",
                remedy="续训时扩充过词表的，差里有新的行，加不到旧词表的模型上；"
                "不扩充词表再训练一次，或在合并之后的模型上扩充、训练",
            )


def _check_vocabularies(origin: _Weights, learnt: _Weights, host: _Weights) -> None:
    """同一个编号在三份里是同一个词元。"""
    tables = [
        read_tokenizer(each.folder, each.name)[0].get_vocab()
        for each in (origin, learnt, host)
    ]
    for each, table in zip((learnt, host), tables[1:], strict=True):
        wrong = [word for word, at in tables[0].items() if table.get(word) != at]
        if wrong:
            raise ModelError(
                found=f"{origin.name} 与 {each.name} 的词表不同：{len(wrong)} 个词元的"
                f"编号对不上，例如 {wrong[0]}",
                expected="同一个编号是同一个词元，词嵌入的差才加得上",
                remedy="三份要用同一个分词器；承接可以在末尾多出几个词元",
            )


def _write(
    origin: _Weights, learnt: _Weights, host: _Weights, ratio: float, folder: Path
) -> tuple[int, int, float]:
    """一个分片一个分片写；回来的是变了几个张量、留了几行、差与承接的长度之比。"""
    from safetensors.torch import save_file

    changed, kept, moved, length = 0, 0, 0.0, 0.0
    placed: list[list[str]] = []
    total = 0
    for number, names in enumerate(_shards(host)):
        tensors: dict[str, Any] = {}
        for name in names:
            mine, rows = host.get(name), origin.shape(name)[:1]
            length += float(mine.double().square().sum())
            if mine.is_floating_point():
                delta = ratio * (learnt.get(name).float() - origin.get(name).float())
                merged = mine.float()
                part = merged[: rows[0]] if rows else merged
                part += delta
                moved += float(delta.double().square().sum())
                changed += bool(delta.any())
                kept = max(kept, len(mine) - rows[0] if rows else 0)
                mine = merged.to(mine.dtype)
            tensors[name] = mine.contiguous()
            total += mine.numel() * mine.element_size()
        save_file(tensors, folder / f"{number}.part", metadata={"format": "pt"})
        placed.append(names)
    _name_shards(folder, placed, total)
    return changed, kept, round((moved / max(length, 1e-30)) ** 0.5, 6)


def _shards(host: _Weights) -> Iterator[list[str]]:
    """承接的张量依次分成几片，每片不超过 `SHARD_BYTES`。"""
    names: list[str] = []
    size = 0
    for name in host.names:
        count = math.prod(host.shape(name))
        if names and size + 4 * count > SHARD_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += 4 * count
    if names:
        yield names


def _name_shards(folder: Path, placed: list[list[str]], total: int) -> None:
    """写完了才知道共几片：改成标准的名字，多于一片的另写索引。"""
    if len(placed) == 1:
        (folder / "0.part").rename(folder / "model.safetensors")
        return
    where: dict[str, str] = {}
    for number, names in enumerate(placed):
        file = f"model-{number + 1:05}-of-{len(placed):05}.safetensors"
        (folder / f"{number}.part").rename(folder / file)
        where |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
