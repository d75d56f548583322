"""Datasets 的表作语料：手里的一张，或模型仓库里的 `hf:组织/名字[:配置][@版本][#列]`。

    hf:wikimedia/wikipedia:20231101.zh          维基百科的中文部分
    hf:ORG/NAME@5c0c2f1#content                 钉住一个提交，正文在 content 一列

由 datasets 下载，转成磁盘上的 Arrow 表（`~/.cache/huggingface`），内存与大小无关；第二
次不再下载，断网（HF_HUB_OFFLINE=1）也打得开。要运行代码才读得出的数据集，它已不再支持。
列名写在各份语料自己身上：几份一同训练时，各有各的列。
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from companion.corpus.document import Document, tidy_lines
from companion.errors import CorpusError

if TYPE_CHECKING:
    import datasets

HUB = "hf:"
VALIDATION = ("validation", "valid", "dev")
"""留出集的切分常用的几种名字，依次找。"""

_SPEC = re.compile(
    r"hf:(?P<id>[\w.-]+/[\w.-]+)(:(?P<config>[^@#:]+))?(@(?P<revision>[^@#]+))?"
    r"(#(?P<column>.+))?"
)


@dataclass(frozen=True)
class HubCorpus:
    """`hf:` 之后的几项。

    >>> found = HubCorpus.of("hf:a/b:zh@main#content")
    >>> found.id, found.config, found.revision, found.column
    ('a/b', 'zh', 'main', 'content')
    """

    spec: str
    id: str
    config: str | None
    revision: str | None
    column: str | None

    @classmethod
    def of(cls, spec: str) -> "HubCorpus":
        """拆开一个写法。

        Raises:
            CorpusError: 写法不对。
        """
        found = _SPEC.fullmatch(spec)
        if found is None:
            raise CorpusError(
                found=f"语料写作 {spec}",
                expected="hf:组织/名字[:配置][@版本][#列]，"
                "例如 hf:wikimedia/wikipedia:20231101.zh",
                remedy="照这个写法改；本地的文件夹不用 hf:",
            )
        return cls(spec, *found.group("id", "config", "revision", "column"))

    def splits(self) -> "dict[str, datasets.Dataset]":
        """我们的切分名（train、valid、test）→ 表；正文那一列改名为 `text`。

        Raises:
            CorpusError: 下载不了，没有训练切分，或没有那一列。
        """
        tables = _load(self.id, self.config, self.revision)
        valid = next((each for each in VALIDATION if each in tables), "valid")
        names = {"train": "train", "valid": valid, "test": "test"}
        chosen = {ours: tables[each] for ours, each in names.items() if each in tables}
        if "train" not in chosen:
            raise CorpusError(
                found=f"{self.spec} 的切分是 {'、'.join(tables)}",
                expected="有一个 train",
                remedy="先用 datasets 取出要的切分，存成 .parquet，再以路径指明",
            )
        return {ours: self._with_text(table) for ours, table in chosen.items()}

    def _with_text(self, table: "datasets.Dataset") -> "datasets.Dataset":
        if self.column is None or self.column == "text":
            return table
        if self.column not in table.column_names:
            raise CorpusError(
                found=f"{self.spec} 没有 {self.column} 一列",
                expected="、".join(table.column_names),
                remedy="把 # 后面改成其中一列",
            )
        return table.select_columns([self.column]).rename_column(self.column, "text")


def table_documents(table: "datasets.Dataset", origin: str) -> Iterator[Document]:
    """一张表的文档：一行一篇，空的跳过。

    Args:
        table: 有 `text` 一列，或 `source` 与 `target` 两列。
        origin: 来处，写进各篇的编号。

    Raises:
        CorpusError: 列名不对，某行不是文字，或一篇也没有。
    """
    names = set(table.column_names)
    pairs = {"source", "target"} <= names
    if not pairs and "text" not in names:
        raise CorpusError(
            found=f"datasets 的表有这些列：{'、'.join(table.column_names) or '没有'}",
            expected="text 一列，或 source 与 target 两列",
            remedy="用 rename_column 把正文那一列改名为 text；hf: 的语料在末尾写 #列名",
        )
    wanted = ["source", "target"] if pairs else ["text"]
    rows: Any = table.select_columns(wanted)
    empty = True
    for number, row in enumerate(rows, 1):
        for name in wanted:
            if not isinstance(row[name], str):
                raise CorpusError(
                    found=f"{origin} 第 {number} 行的 {name} 是 {row[name]!r}",
                    expected="一段文字",
                    remedy="用 filter 去掉这样的行",
                )
        if row[wanted[0]]:
            empty = False
            text = row[wanted[0]] if pairs else tidy_lines(row[wanted[0]])
            yield Document(text, f"{origin}#{number}", origin, row.get("target"))
    if empty:
        raise CorpusError(
            found="语料里一篇文档也没有",
            expected="至少一篇",
            remedy="打开语料看看是否为空",
        )


@cache
def _load(name: str, config: str | None, revision: str | None) -> Any:
    """各切分的表；同一次运行里只问一次仓库。"""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return load_dataset(name, config, revision=revision)
    except (
        DatasetsError,
        FileNotFoundError,
        ConnectionError,
        HfHubHTTPError,
        RuntimeError,
        ValueError,
    ) as error:
        what = f"{name}{f' 的配置 {config}' if config else ''}"
        raise CorpusError(
            found=f"取不到数据集 {what}：{str(error).strip().splitlines()[0]}",
            expected="模型仓库里有的、不必运行代码就读得出的数据集",
            remedy="核对编号、配置与版本；要登录的先 hf auth login，国内可设镜像 "
            "HF_ENDPOINT；没有网络时用下载过的一份（HF_HUB_OFFLINE=1）或本地文件",
        ) from error
