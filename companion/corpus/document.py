"""文档：语料的单位，一篇、一卷、一则，而不是一行；以及怎样把文档写成文件。

连续的行合成一个文档，上下文才长，填充才少，打包才诚实。文档正文里没有换行符：
换行只是排版，多数分词器会丢掉它，字节级分词器（BLOOM、GPT-2）却会当作一个词元
学进去。因此读入时就把行接好，同一篇文章不论存成哪种格式，读出来都一样。

写文件时先写在旁边的临时文件里，写完才换上去，中断不留半份。
"""

import gzip
import hashlib
import io
import json
import os
import re
import tempfile
import unicodedata
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from rich.cells import cell_len

from companion.errors import CorpusError

_WIDE = re.compile(
    "[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\ufe10-\ufe1f\ufe30-\ufe6f\uff00-\uffef"
    "\u2014\u2018-\u201f\u2026\u00b7\U00020000-\U0003ffff]"
)
"""不用空格分词的文字与全角标点：汉字、假名、谚文（接行时一并看待）、全角形式。"""


@dataclass(frozen=True, slots=True)
class Document:
    """一个文档，或一个句对。

    Args:
        text: 正文；句对的源侧（文言）。
        id: 稳定的编号，`{文件名去后缀}#{序号}`，序号从 1 起，与内容无关。
        source: 出处：文件名，有篇目时是 `文件名：篇名`。
        target: 句对的目标侧（白话）；单语文档为 None。
    """

    text: str
    id: str
    source: str
    target: str | None = None

    @property
    def num_chars(self) -> int:
        """两侧合计的字数（Unicode 码点）。"""
        return len(self.text) + len(self.target or "")


def is_wide(char: str) -> bool:
    """这个字符两边是否不需要空格（汉字、假名、全角标点）。"""
    return _WIDE.match(char) is not None


def join_lines(lines: Iterable[str]) -> str:
    """把一个文档的各行接成不含换行的正文。

    两行相接处有一边是汉字或全角标点，就直接相连；两边都是西文，才补一个空格。
    行首行尾的空白（含段首的全角空格）去掉，空行不计。

    >>> join_lines(["　　初命晋大夫", "为诸侯。"])
    '初命晋大夫为诸侯。'
    >>> join_lines(["continued", "pretraining"])
    'continued pretraining'

    Args:
        lines: 各行，不含换行符。

    Returns:
        正文。
    """
    pieces: list[str] = []
    last = ""
    for line in lines:
        stripped = line.strip()
        if not stripped:
            continue
        if last and not is_wide(last) and not is_wide(stripped[0]):
            pieces.append(" ")
        pieces.append(stripped)
        last = stripped[-1]
    return "".join(pieces)


def content_letters(text: str) -> str:
    """只留汉字、字母与数字，统一全半角与大小写；只用来比较，不改原文。

    >>> content_letters("（臣光曰）：ＡＢ c！")
    '臣光曰abc'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(filter(str.isalnum, folded))


def content_key(doc: Document) -> bytes:
    """文档内容的 16 字节指纹：标点、空白不同而文字相同的两篇，指纹相同。"""
    letters = content_letters(doc.text) or doc.text.strip()
    if doc.target is not None:
        letters += "\0" + (content_letters(doc.target) or doc.target.strip())
    return hashlib.blake2b(letters.encode("utf-8"), digest_size=16).digest()


FORMATS = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".tsv", ".tsv.gz", ".parquet")


def format_of(path: Path) -> str:
    """文件的格式，如 `.jsonl.gz`。

    Args:
        path: 文件路径，只看名字。

    Returns:
        `FORMATS` 中的一个。

    Raises:
        CorpusError: 后缀不认识。
    """
    name = path.name.lower()
    for suffix in sorted(FORMATS, key=len, reverse=True):
        if name.endswith(suffix):
            return suffix
    raise CorpusError(
        found=f"{path} 的后缀不认识",
        expected="、".join(FORMATS) + "，或装有这些文件的文件夹",
        remedy="改成相符的后缀；.json 数组先转成一行一条的 .jsonl",
    )


def file_stem(path: Path) -> str:
    """去掉格式后缀的文件名：`train.classical.txt.gz` → `train.classical`。"""
    return path.name[: -len(format_of(path))]


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """排成表格：首列左对齐，其余右对齐；整数每三位加逗号。

    Args:
        header: 列名。
        rows: 各行，与列名一样长。

    Returns:
        多行文本，末尾没有换行符。
    """
    cells = [list(header)] + [
        [f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row]
        for row in rows
    ]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    lines: list[str] = []
    for row in cells:
        padded = [
            cell + " " * (width - cell_len(cell))
            if index == 0
            else " " * (width - cell_len(cell)) + cell
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(lines)


def write_documents(
    docs: Iterable[Document], path: str | Path, *, overwrite: bool = False
) -> int:
    """把文档写成一份语料，格式由后缀决定，编码总是 UTF-8。

    `.txt` 以空行分开文档，放不下句对；`.tsv` 只放句对；`.jsonl` 与 `.parquet` 都行。

    Args:
        docs: 文档；生成它们时出的错会原样抛出，不留下文件。
        path: 目标文件。
        overwrite: 目标已存在时是否替换。

    Returns:
        写下的篇数。

    Raises:
        CorpusError: 目标已存在、是文件夹、写不进去，没有文档，或格式放不下。
    """
    target = Path(path)
    kind = format_of(target)
    if target.is_dir():
        raise CorpusError(
            found=f"{target} 是文件夹", expected="文件名", remedy="在后面加上文件名"
        )
    if target.exists() and not overwrite:
        raise CorpusError(
            found=f"{target} 已经存在",
            expected="一个新文件名",
            remedy="换个名字；确要替换，加 --overwrite",
        )
    writers: dict[str, Callable[[Iterable[Document], Path], int]] = {
        ".txt": _write_text,
        ".jsonl": _write_jsonl,
        ".tsv": _write_tsv,
        ".parquet": _write_parquet,
    }
    with atomic_path(target) as temporary:
        count = writers[kind.removesuffix(".gz")](docs, temporary)
        if not count:
            raise CorpusError(
                found=f"没有文档可写进 {target}",
                expected="至少一篇",
                remedy="看看清洗或去重的账目，是不是全丢了",
            )
    return count


@contextmanager
def atomic_path(target: Path) -> Generator[Path]:
    """给出同一文件夹里的临时路径；顺利结束才换成目标，出错则删去。

    Args:
        target: 最终的文件。

    Yields:
        临时文件的路径，后缀与目标相同。

    Raises:
        CorpusError: 文件夹不存在或不可写、磁盘已满。
    """
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(
            prefix=".未完成-", suffix=f"-{target.name}", dir=target.parent
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o644)  # mkstemp 只给自己读写；语料不是秘密
        temporary.replace(target)
    except OSError as error:
        raise CorpusError(
            found=f"写不了 {target}：{error.strerror or error}",
            expected="存在、可写、有余量的文件夹",
            remedy="检查权限与磁盘，或换个输出位置",
        ) from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def _text_stream(path: Path) -> Generator[TextIO]:
    if path.name.endswith(".gz"):
        # mtime=0、不写文件名：同样的语料得到逐字节相同的文件
        with path.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
            buffered = io.BufferedWriter(cast("io.RawIOBase", packed))
            with io.TextIOWrapper(
                cast(BinaryIO, buffered), encoding="utf-8", newline="\n"
            ) as out:
                yield out
        return
    with path.open("w", encoding="utf-8", newline="\n") as out:
        yield out


def _write_text(docs: Iterable[Document], path: Path) -> int:
    count = 0
    with _text_stream(path) as out:
        for doc in docs:
            if doc.target is not None:
                raise CorpusError(
                    found=f"{doc.id} 是句对，.txt 放不下目标侧",
                    expected="单语文档",
                    remedy="改用 .jsonl 或 .tsv 后缀",
                )
            out.write(("\n" if count else "") + join_lines(_lines(doc.text)) + "\n")
            count += 1
    return count


def _write_jsonl(docs: Iterable[Document], path: Path) -> int:
    count = 0
    with _text_stream(path) as out:
        for doc in docs:
            out.write(json.dumps(_record(doc), ensure_ascii=False) + "\n")
            count += 1
    return count


def _write_tsv(docs: Iterable[Document], path: Path) -> int:
    count = 0
    with _text_stream(path) as out:
        for doc in docs:
            if doc.target is None or "\t" in doc.text + doc.target:
                state = "没有目标侧" if doc.target is None else "正文里有制表符"
                raise CorpusError(
                    found=f"{doc.id} {state}，.tsv 放不下",
                    expected="两侧都没有制表符的句对",
                    remedy="改用 .jsonl 后缀",
                )
            sides = (join_lines(_lines(side)) for side in (doc.text, doc.target))
            out.write("\t".join(sides) + "\n")
            count += 1
    return count


def _write_parquet(docs: Iterable[Document], path: Path) -> int:
    pa = import_module("pyarrow")  # 载入要 0.2 秒，只在写 Parquet 时付
    pq = import_module("pyarrow.parquet")

    count = 0
    writer: Any = None
    batch: list[dict[str, str]] = []
    try:
        for doc in docs:
            batch.append(_record(doc))
            count += 1
            if writer is None:
                schema = pa.schema([(name, pa.string()) for name in batch[0]])
                writer = pq.ParquetWriter(path, schema)
            if batch[-1].keys() != batch[0].keys():
                raise CorpusError(
                    found=f"{doc.id} 与前面的文档不同类：句对与单语混在一起",
                    expected="全是句对，或全是单语",
                    remedy="分成两份，或改用 .jsonl 后缀",
                )
            if len(batch) == 1024:
                writer.write_table(pa.Table.from_pylist(batch, schema=writer.schema))
                batch = batch[:0]
        if writer is not None and batch:
            writer.write_table(pa.Table.from_pylist(batch, schema=writer.schema))
    finally:
        if writer is not None:
            writer.close()
    return count


def _record(doc: Document) -> dict[str, str]:
    if doc.target is None:
        return {"text": doc.text}
    return {"source": doc.text, "target": doc.target}


def _lines(text: str) -> list[str]:
    return text.replace("\r", "\n").split("\n")
