"""名字或路径 → 语料的文件。

`catalog` 里的名字后面可以加侧：`tongjian:classical`（文言）、`tongjian:modern`
（白话）、`tongjian:pairs`（句对）；不加则两侧的单语文本都读。名字优先于路径，
与名字同名的本地文件写作 `./sample`。

找数据的次序：环境变量 `COMPANION_DATA` 指的文件夹，然后是缓存
（`$XDG_CACHE_HOME/companion`，缺省 `~/.cache/companion`）。
"""

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from companion.corpus.catalog import NAMED, NamedSource, cache_folder, data_folder
from companion.corpus.document import Document
from companion.corpus.lock import check_lock
from companion.corpus.reading import read_documents, read_pairs
from companion.errors import CorpusError

__all__ = [
    "NAMED",
    "SIDES",
    "SPLITS",
    "NamedSource",
    "Resolved",
    "SourceStatus",
    "cache_folder",
    "data_folder",
    "find_side",
    "list_sources",
    "read_corpus",
    "resolve",
]

SIDES = {"classical": "文言", "modern": "白话", "pairs": "句对"}
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Resolved:
    """一个名字或路径所指的文件。

    Args:
        spec: 用户写的名字或路径。
        files: 切分 → 文件；一项有两个路径时是按行对齐的句对。路径只有 `train`。
        source: 有名字的语料；是路径则为 None。
    """

    spec: str
    files: dict[str, tuple[tuple[Path, ...], ...]]
    source: NamedSource | None = None

    @property
    def has_valid(self) -> bool:
        """是否自带留出集。"""
        return "valid" in self.files

    def read(self, split: str = "train") -> Iterator[Document]:
        """读出一个切分的文档。

        Args:
            split: `train`、`valid` 或 `test`。

        Returns:
            文档的迭代器。

        Raises:
            CorpusError: 没有这个切分，或读不了。
        """
        if split not in self.files:
            raise CorpusError(
                found=f"{self.spec} 没有 {split} 切分",
                expected="、".join(self.files),
                remedy="另行指定留出集，或先用 `companion corpus split` 切分",
            )
        return self._documents(split)

    def _documents(self, split: str) -> Iterator[Document]:
        for paths in self.files[split]:
            if len(paths) == 2:
                yield from read_pairs(*paths)
            else:
                yield from read_documents(paths[0])


@dataclass(frozen=True)
class SourceStatus:
    """`companion corpus list` 的一行。

    Args:
        name: 可以写给 `--corpus` 的名字，含侧。
        title: 介绍。
        licence: 权利状况。
        folder: 本机上的位置；还没有取得则为 None。
    """

    name: str
    title: str
    licence: str
    folder: Path | None

    def as_dict(self) -> dict[str, object]:
        """供 `--json` 输出的字典。"""
        return {
            "name": self.name,
            "title": self.title,
            "licence": self.licence,
            "available": self.folder is not None,
            "folder": str(self.folder) if self.folder else None,
        }


def list_sources() -> list[SourceStatus]:
    """全部可用的名字（含侧）及其状态。"""
    listed: list[SourceStatus] = []
    for source in NAMED.values():
        folder = source.folder()
        listed.append(SourceStatus(source.name, source.title, source.licence, folder))
        listed += [
            SourceStatus(
                f"{source.name}:{side}", f"同上，{label}", source.licence, folder
            )
            for side, label in SIDES.items()
        ]
    return listed


def resolve(name_or_path: str | Path) -> Resolved:
    """名字或路径 → 文件。

    Args:
        name_or_path: `corpus list` 列出的名字，或文件、文件夹的路径。

    Returns:
        各切分的文件。

    Raises:
        CorpusError: 名字拼错、数据还没取得，或路径不存在。
    """
    spec = str(name_or_path)
    name, _, side = spec.partition(":")
    if isinstance(name_or_path, str) and name in NAMED and side in ("", *SIDES):
        return _resolve_named(spec, NAMED[name], side)
    path = Path(name_or_path).expanduser()
    if not path.exists():
        names = [status.name for status in list_sources()]
        near = get_close_matches(spec, names, n=1, cutoff=0.75)
        if near or name in NAMED:
            raise CorpusError(
                found=f"没有名叫“{spec}”的语料，也没有这个路径",
                expected="、".join(names),
                remedy=f"是不是 {near[0]}" if near else "从上面的名字里选",
            )
        read_documents(path)  # 由它指出路径错在哪里
    return Resolved(spec, {"train": ((path,),)})


def read_corpus(spec: str | Path, split: str = "train") -> Iterator[Document]:
    """读出一份语料：名字或路径。

    Args:
        spec: 同 `resolve`。
        split: 有名字的语料读哪个切分；路径只有 `train`。

    Returns:
        文档的迭代器。

    Raises:
        CorpusError: 同 `resolve`，或内容读不了。
    """
    resolved = resolve(spec)
    if resolved.source is None and split == "train":
        return read_documents(resolved.files["train"][0][0])
    return resolved.read(split)


def find_side(folder: Path, split: str, side: str) -> Path | None:
    """文件夹里某切分某侧的文本，压缩与否都认；没有则为 None。"""
    for suffix in (".txt", ".txt.gz"):
        path = folder / f"{split}.{side}{suffix}"
        if path.is_file():
            return path
    return None


def _resolve_named(spec: str, source: NamedSource, side: str) -> Resolved:
    folder = source.folder()
    if folder is None:
        raise CorpusError(
            found=f"本机还没有语料 {source.name}",
            expected=f"缓存 {cache_folder() / 'corpora' / source.name}，"
            f"或 COMPANION_DATA 之下的 {source.name} 文件夹",
            remedy=f"运行 `companion corpus fetch {source.name}`；"
            "没有网络时，用随包附带的 sample",
        )
    check_lock(folder)
    files: dict[str, tuple[tuple[Path, ...], ...]] = {}
    for split in SPLITS:
        classical = find_side(folder, split, "classical")
        modern = find_side(folder, split, "modern")
        wanted = {
            "classical": ((classical,),),
            "modern": ((modern,),),
            "pairs": ((classical, modern),),
            "": ((classical,), (modern,)),
        }[side]
        present = tuple(
            tuple(path for path in paths if path is not None) for paths in wanted
        )
        if all(
            len(have) == len(want) for have, want in zip(present, wanted, strict=True)
        ):
            files[split] = present
    if "train" not in files:
        raise CorpusError(
            found=f"{folder} 里没有 {spec} 的训练文本",
            expected="train.classical.txt 与 train.modern.txt（可以是 .gz）",
            remedy=f"删去这个文件夹后重新运行 `companion corpus fetch {source.name}`",
        )
    return Resolved(spec, files, source)
