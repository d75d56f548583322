"""读语料：任何一种格式的文件 → 一串 `Document`，逐篇给出，内存与文件大小无关。

| 后缀 | 一个文档是 |
|---|---|
| `.txt` `.txt.gz` | 空行之间的连续行；旁边有 `chapters.tsv` 时是一篇 |
| `.jsonl` `.jsonl.gz` | 一行：字段 `text`，或句对的 `source` 与 `target` |
| `.tsv` `.tsv.gz` | 一行两列：源侧、目标侧 |
| `.parquet` | 一行：列名与 `.jsonl` 的字段相同 |
| 文件夹 | 其中（含子文件夹）全部上述文件，按路径排序 |

没有空行的长文（整本小说、网页拼成的大文件）每满一百万字在行末断成一个文档：
远长于任何模型的上下文，而 10 GB 的文件也只占一篇的内存。
"""

import gzip
import io
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import BinaryIO, cast

from companion.corpus import records
from companion.corpus.chapters import CHAPTERS, SOURCES, find_chapters, group_by_chapter
from companion.corpus.document import Document, join_lines
from companion.corpus.encoding import decode_lines, open_error
from companion.errors import CorpusError

__all__ = [
    "Document",
    "file_stem",
    "format_of",
    "join_lines",
    "read_documents",
    "read_lines",
    "read_pairs",
]

FORMATS = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".tsv", ".tsv.gz", ".parquet")
MAX_DOCUMENT_CHARS = 1_000_000
"""没有空行可分时，一个文档最多的字数。"""


def read_documents(
    path: str | Path, *, refuse_garble: bool = True
) -> Iterator[Document]:
    """逐篇读出一份语料。

    路径、格式、空文件夹等错误在调用时就报；内容的错误在读到时报。

    Args:
        path: 文件或文件夹，格式见模块说明；编码自动认出。
        refuse_garble: 遇到乱码就拒绝；为假则放行，由清洗来收拾。

    Returns:
        文档的迭代器，只能走一遍。

    Raises:
        CorpusError: 路径、格式、编码或内容不对，或没有任何正文。
    """
    root = Path(path)
    if root.is_dir():
        return _read_folder(root, _corpus_files(root), refuse_garble)
    _require_file(root)
    format_of(root)
    return _read_file(root, file_stem(root), refuse_garble)


def read_pairs(source: str | Path, target: str | Path) -> Iterator[Document]:
    """把按行对齐的两份文本读成句对。

    Args:
        source: 源侧（文言），一行一句。
        target: 目标侧（白话），行数相同。

    Yields:
        句对；两侧都空的行跳过。

    Raises:
        CorpusError: 行数不同，或某行只有一侧有字。
    """
    left_path, right_path = Path(source), Path(target)
    left, right = read_lines(left_path), read_lines(right_path)
    name = file_stem(left_path).removesuffix(".classical") + ".pairs"
    number = count = 0
    while True:
        pair = next(left, None), next(right, None)
        if pair == (None, None):
            break
        number += 1
        if pair[0] is None or pair[1] is None:
            shorter = left_path if pair[0] is None else right_path
            raise CorpusError(
                found=f"{shorter} 到第 {number - 1} 行就完了，另一侧还有",
                expected="两侧行数相同，逐行对应",
                remedy="重新对齐两份文本，或改用 source、target 两个字段的 .jsonl",
            )
        text, translation = join_lines([pair[0]]), join_lines([pair[1]])
        if not text and not translation:
            continue
        if not text or not translation:
            blank = left_path if not text else right_path
            raise CorpusError(
                found=f"{blank} 第 {number} 行是空的，另一侧却有字",
                expected="句对两侧都有字",
                remedy="补上这一行，或把两侧的这一行一同删去",
            )
        count += 1
        origin = f"{left_path.name}+{right_path.name}"
        yield Document(text, f"{name}#{count}", origin, translation)
    if not count:
        raise _blank(left_path)


def read_lines(path: str | Path, *, refuse_garble: bool = True) -> Iterator[str]:
    """逐行读出文本文件，认出编码，需要时解压；换行符不在其中。

    Args:
        path: 文本文件，后缀为 `.gz` 时先解压。
        refuse_garble: 遇到乱码就拒绝。

    Yields:
        一行。

    Raises:
        CorpusError: 见 `companion.corpus.encoding.decode_lines`。
    """
    target = Path(path)
    _require_file(target)
    with _opened(target) as stream:
        yield from decode_lines(stream, str(target), refuse_garble=refuse_garble)


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


def _read_folder(
    root: Path, files: list[Path], refuse_garble: bool
) -> Iterator[Document]:
    for path in files:
        stem = path.relative_to(root).with_name(file_stem(path)).as_posix()
        yield from _read_file(path, stem, refuse_garble)


def _read_file(path: Path, stem: str, refuse_garble: bool) -> Iterator[Document]:
    kind = format_of(path)
    if kind.startswith(".txt"):
        bodies = _read_text(path, refuse_garble)
    elif kind == ".parquet":
        bodies = records.read_parquet(path, refuse_garble)
    else:
        parse = records.parse_jsonl if kind.startswith(".jsonl") else records.parse_tsv
        bodies = parse(read_lines(path, refuse_garble=refuse_garble), str(path))
    count = 0
    for title, text, target in bodies:
        if not text:
            continue
        count += 1
        source = f"{path.name}：{title}" if title else path.name
        yield Document(text, f"{stem}#{count}", source, target)
    if not count:
        raise _blank(path)


def _read_text(path: Path, refuse_garble: bool) -> Iterator[records.Body]:
    lines = read_lines(path, refuse_garble=refuse_garble)
    chapters = find_chapters(path)
    if chapters:
        for title, text in group_by_chapter(lines, chapters, str(path)):
            yield title, text, None
        return
    for text in _group_by_blank(lines):
        yield "", text, None


def _group_by_blank(lines: Iterator[str]) -> Iterator[str]:
    held: list[str] = []
    size = 0
    for line in lines:
        if line.strip():
            held.append(line)
            size += len(line)
        if held and (not line.strip() or size >= MAX_DOCUMENT_CHARS):
            yield join_lines(held)
            held, size = [], 0
    if held:
        yield join_lines(held)


def _corpus_files(root: Path) -> list[Path]:
    found = sorted(path for path in root.rglob("*") if path.is_file())
    visible = [
        path
        for path in found
        if not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    files = [
        path
        for path in visible
        if path.name.lower().endswith(FORMATS) and path.name not in (CHAPTERS, SOURCES)
    ]
    if not files:
        others = "、".join(path.name for path in visible[:5])
        raise CorpusError(
            found=f"文件夹 {root} 里没有语料" + (f"，只有 {others}" if others else ""),
            expected="至少一份 " + "、".join(FORMATS),
            remedy="检查路径，或把语料放进去",
        )
    splits = {path.name.split(".")[0] for path in files}
    if {"train", "valid"} <= splits:
        raise CorpusError(
            found=f"文件夹 {root} 里既有 train 又有 valid",
            expected="训练语料里不混留出集",
            remedy="指明一份文件，例如 "
            + next(str(path) for path in files if path.name.startswith("train.")),
        )
    return files


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise CorpusError(
            found=f"{path} 是文件夹",
            expected="一份文件",
            remedy="指明文件夹里的一份文件",
        )
    if not path.exists():
        siblings = path.parent.iterdir() if path.parent.is_dir() else ()
        near = get_close_matches(path.name, [item.name for item in siblings], n=1)
        hint = f"是不是 {path.parent / near[0]}？" if near else ""
        raise CorpusError(
            found=f"没有 {path}",
            expected="存在的文件、文件夹，或 `companion corpus list` 列出的名字",
            remedy=(hint + "检查路径").replace("？检查", "？否则检查"),
        )
    if not path.is_file():
        raise CorpusError(
            found=f"{path} 不是普通文件",
            expected="磁盘上的文件",
            remedy="先把管道或设备的内容存成文件",
        )


@contextmanager
def _opened(path: Path) -> Generator[BinaryIO]:
    """打开（需要时解压）文件，把系统与压缩的错误换成 `CorpusError`。"""
    try:
        if path.stat().st_size == 0:
            raise _blank(path)
        if not path.name.lower().endswith(".gz"):
            with path.open("rb") as plain:
                yield plain
            return
        with path.open("rb") as packed:
            if packed.read(2) != b"\x1f\x8b":
                raise CorpusError(
                    found=f"{path} 的后缀是 .gz，内容却不是 gzip",
                    expected="gzip 压缩的文本",
                    remedy="若本是纯文本，去掉 .gz 后缀；否则重新取得这份文件",
                )
        with gzip.open(path, "rb") as unpacked:
            yield cast(BinaryIO, io.BufferedReader(unpacked))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise CorpusError(
            found=f"{path} 解压到一半坏了：{error}",
            expected="完整的 gzip 文件",
            remedy="多半是下载中断，重新取得这份文件；`gzip -t` 可以验证",
        ) from None
    except OSError as error:
        raise open_error(path, error) from None


def _blank(path: Path) -> CorpusError:
    return CorpusError(
        found=f"{path} 里没有正文，是空的或只有空白",
        expected="至少一个文档",
        remedy="检查这份文件是否写完；文件夹里多余的空文件请删去",
    )
