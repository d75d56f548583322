"""名字或路径 → 语料的文件；并记着有名字的语料的来历、权利状况与锁。

- `sample`：随包附带的编年体小史，我们自己写的，CC0；没有网络也能用。
- `tongjian`：《资治通鉴》文言—白话句对，用 `companion corpus fetch tongjian` 取得。
- `hf:组织/名字`：模型仓库里的数据集（`tables`）。

名字后面可以加侧：`tongjian:classical`（文言）、`tongjian:modern`（白话）、
`tongjian:pairs`（句对）；不加则两侧的单语文本都读。名字优先于路径，与名字同名的本地文件
写作 `./sample`。

找数据的次序：环境变量 `COMPANION_DATA` 指的文件夹，然后是缓存
（`$XDG_CACHE_HOME/companion`，缺省 `~/.cache/companion`）。取得的语料有锁：头一次取得
并核对无误时，记下每个文件的 sha256，以后每次使用都再核对；内容若有一个字节不同，就不再
悄悄使用。
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from companion.corpus.document import FORMATS, LOCK, Document, read_lines, readable
from companion.corpus.encoding import Errors
from companion.corpus.reading import corpus_files, read_documents, read_pairs
from companion.corpus.tables import HUB, HubCorpus, table_documents
from companion.errors import CorpusError

if TYPE_CHECKING:
    import datasets

SIDES = {"classical": "文言", "modern": "白话", "pairs": "句对"}
SPLITS = ("train", "valid", "test")


def data_folder() -> Path | None:
    """`COMPANION_DATA` 指的文件夹；没有设置则为 None。"""
    value = os.environ.get("COMPANION_DATA")
    return Path(value).expanduser() if value else None


def cache_folder() -> Path:
    """缓存文件夹：`$XDG_CACHE_HOME/companion`，缺省 `~/.cache/companion`。"""
    value = os.environ.get("XDG_CACHE_HOME")
    return (Path(value) if value else Path.home() / ".cache") / "companion"


@dataclass(frozen=True)
class NamedSource:
    """一份有名字的语料。

    Args:
        name: 名字，即 `--corpus` 的值。
        title: 一句话介绍。
        licence: 权利状况，取用时原样告诉用户。
        embedded: 是否随包附带；不附带的要先取得。
    """

    name: str
    title: str
    licence: str
    embedded: bool = False

    def folder(self) -> Path | None:
        """数据所在的文件夹；本机没有则为 None。"""
        if self.embedded:
            return Path(str(resources.files("companion.corpus") / "samples"))
        for root in (data_folder(), cache_folder() / "corpora"):
            if root is not None and (root / self.name).is_dir():
                return root / self.name
        return None


NAMED: dict[str, NamedSource] = {
    "sample": NamedSource(
        name="sample",
        title="随包附带的编年体小史，文言与白话逐句对照，人物史事皆为虚构",
        licence="本项目自撰，CC0：可以任意使用，不必署名。",
        embedded=True,
    ),
    "tongjian": NamedSource(
        name="tongjian",
        title="《资治通鉴》292 卷，文言与白话逐句对照，按卷切分",
        licence=(
            "文言原文（司马光等）属公有领域。句对由 NiuTrans 整理，仓库以 MIT 许可"
            "发布，但只涵盖整理与对齐；现代译文采自网页，没有译者或出版社的授权，"
            "应视为权利未澄清：适合教学与研究，公开再分发或商用之前须自行判断。"
            "只用文言一侧没有这个问题。上游声明：“本语料数据均来自互联网。"
            "所有数据均注明了出处，可详见各书目下文件 数据来源.txt。"
            "原始数据的最终解释权归相关数据来源方所有。”"
        ),
    ),
}
"""全部有名字的语料。"""


@dataclass(frozen=True)
class Resolved:
    """一个名字或路径所指的文件。

    Args:
        spec: 用户写的名字或路径。
        files: 切分 → 文件；一项有两个路径时是按行对齐的句对。路径只有 `train`。
        source: 有名字的语料；是路径则为 None。
        tables: 切分 → 表，来自模型仓库（见 `companion.corpus.tables`）；那时没有文件。
    """

    spec: str
    files: dict[str, tuple[tuple[Path, ...], ...]]
    source: NamedSource | None = None
    tables: Mapping[str, "datasets.Dataset"] = field(default_factory=dict[str, Any])

    @property
    def splits(self) -> list[str]:
        """有哪几个切分。"""
        return [*self.files, *self.tables]

    @property
    def has_valid(self) -> bool:
        """是否自带留出集。"""
        return "valid" in self.splits

    @property
    def skipped(self) -> list[Path]:
        """文件夹里不认识、因而没有读的文件。"""
        if self.source is not None or self.tables:
            return []
        root = self.files["train"][0][0]
        return corpus_files(root)[1] if root.is_dir() else []

    @property
    def notices(self) -> list[str]:
        """读这份语料要让用户知道的话；没有则为空。"""
        if not (skipped := self.skipped):
            return []
        shown = "、".join(readable(path.name) for path in skipped[:5])
        return [
            f"{readable(self.spec)} 里跳过 {len(skipped)} 个文件：{shown}"
            + (" 等" if len(skipped) > 5 else "")
            + f"；只读 {'、'.join(FORMATS)}"
        ]

    @property
    def held_out(self) -> str:
        """当作留出集时读哪个切分：自带的 valid；文件与文件夹整个都是。"""
        return "valid" if self.has_valid else "train"

    def read(
        self,
        split: str = "train",
        *,
        refuse_garble: bool = True,
        errors: Errors = "strict",
    ) -> Iterator[Document]:
        """读出一个切分的文档。

        Args:
            split: `train`、`valid` 或 `test`。
            refuse_garble: 见 `read_documents`；句对遇到乱码总是拒绝。
            errors: 同上；句对遇到坏字节总是拒绝。

        Returns:
            文档的迭代器。

        Raises:
            CorpusError: 没有这个切分，或读不了。
        """
        if split not in self.splits:
            raise CorpusError(
                found=f"{self.spec} 没有 {split} 切分",
                expected="、".join(self.splits),
                remedy="另行指定留出集，或先用 `companion corpus split` 切分",
            )
        if split in self.tables:
            return table_documents(self.tables[split], f"{self.spec} {split}")
        return chain.from_iterable(
            [
                read_pairs(*paths)
                if len(paths) == 2
                else read_documents(
                    paths[0], refuse_garble=refuse_garble, errors=errors
                )
                for paths in self.files[split]
            ]
        )


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
        name_or_path: `corpus list` 列出的名字，文件、文件夹的路径，或 `hf:` 起头的
            数据集（`companion.corpus.tables`）。

    Returns:
        各切分的文件。

    Raises:
        CorpusError: 名字拼错、数据还没取得，或路径不存在。
    """
    spec = str(name_or_path)
    if not spec.strip():  # 空的路径会读成当前文件夹
        raise CorpusError(
            found="语料的名字是空的",
            expected="文件、文件夹，或 `companion corpus list` 列出的名字",
            remedy="写出名字；多半是脚本里的变量没有赋值。当前文件夹写作 .",
        )
    if isinstance(name_or_path, str) and spec.startswith(HUB):
        return Resolved(spec, {}, tables=HubCorpus.of(spec).splits())
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
    return resolve(spec).read(split)


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


def sha256_of(path: Path) -> str:
    """文件的 sha256，十六进制。"""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_lock(folder: Path, names: Iterable[str], facts: dict[str, Any]) -> None:
    """记下文件夹里各文件的 sha256 与字节数。

    Args:
        folder: 文件夹。
        names: 要记的文件，相对路径。
        facts: 另要记下的事实，如提交号。
    """
    files = {
        name: {
            "sha256": sha256_of(folder / name),
            "bytes": (folder / name).stat().st_size,
        }
        for name in sorted(names)
    }
    text = json.dumps({**facts, "files": files}, ensure_ascii=False, indent=1)
    (folder / LOCK).write_text(text + "\n", encoding="utf-8")


def read_lock(folder: Path) -> dict[str, Any]:
    """文件夹的锁：`files` 由文件名到 `sha256` 与 `bytes`，没有锁则为空。

    Raises:
        CorpusError: 锁不是合法的 JSON。
    """
    path = folder / LOCK
    if not path.is_file():
        return {"files": {}}
    try:
        lock = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        lock = None
    if not isinstance(lock, dict) or "files" not in lock:
        raise CorpusError(
            found=f"{path} 损坏了",
            expected="取得语料时写下的 JSON",
            remedy=f"删去 {folder} 后重新取得",
        )
    return cast("dict[str, Any]", lock)


def check_lock(folder: Path) -> None:
    """核对文件夹里锁住的文件；没有锁则不查。

    Raises:
        CorpusError: 有文件缺失，或与记录的 sha256 不符。
    """
    for name, fact in read_lock(folder)["files"].items():
        path = folder / name
        found = sha256_of(path) if path.is_file() else "（文件不在了）"
        if found != fact["sha256"]:
            raise CorpusError(
                found=f"{path} 的 sha256 是 {found}",
                expected=f"{fact['sha256']}，取得时记在 {LOCK} 里",
                remedy=f"文件改动过；要用改动后的，另存到别处再以路径指明；"
                f"要恢复，删去 {folder} 后重新取得",
            )


@dataclass(frozen=True)
class Cloze:
    """一道填空：只有读过样例才答得出的知识。

    Args:
        side: `classical` 或 `modern`。
        text: 题面：文言侧含 `[MASK]`，一个一字（填空）；白话侧是半句话（续写）。
        answer: 答案；文言侧与 `[MASK]` 一样多的字，白话侧是续写应有的开头。
        kind: 题型，如 `place`（地名）、`person`（人名）。
    """

    side: str
    text: str
    answer: str
    kind: str


def read_cloze(side: str) -> list[Cloze]:
    """样例的填空题：问的是虚构的人名、地名、官名，没有一个模型事先会知道。

    继续预训练前后各答一遍，答对的增多，就是从语料里学来的。

    Args:
        side: `classical` 或 `modern`。

    Returns:
        这一侧的题目，按文件中的次序。

    Raises:
        CorpusError: 侧名不对，或题目文件损坏。
    """
    if side not in ("classical", "modern"):
        raise CorpusError(
            found=f"没有“{side}”这一侧的填空题",
            expected="classical 或 modern",
            remedy="文言用 classical，白话用 modern",
        )
    folder = NAMED["sample"].folder()
    path = Path(str(folder)) / "cloze.tsv"
    rows = [line.split("\t") for line in read_lines(path) if line]
    header = ["side", "text", "answer", "kind"]
    if rows[0] != header or any(len(row) != len(header) for row in rows):
        raise CorpusError(
            found=f"{path} 的列不是 {'、'.join(header)}",
            expected="四列的制表符分隔表",
            remedy="重新安装 cpt-companion",
        )
    return [Cloze(*row) for row in rows[1:] if row[0] == side]
