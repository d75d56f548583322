"""写语料：先写在旁边的临时文件里，写完才换上去，中断不留半份。"""

import gzip
import io
import json
import os
import tempfile
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from companion.corpus.document import Document, join_lines
from companion.corpus.reading import format_of
from companion.errors import CorpusError


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
