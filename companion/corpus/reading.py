"""读写语料：任何一种格式的文件 ↔ 一串 `Document`，逐篇给出，内存与文件大小无关。

| 后缀 | 一个文档是 |
|---|---|
| `.txt` `.txt.gz` | 空行之间的连续行；旁边有 `chapters.tsv` 时是一篇 |
| `.jsonl` `.jsonl.gz` | 一行：字段 `text`（换行留着），或句对的 `source` 与 `target` |
| `.tsv` `.tsv.gz` | 一行两列：源侧、目标侧 |
| `.parquet` | 一行：列名与 `.jsonl` 的字段相同 |
| 文件夹 | 其中（含子文件夹与连到别处的）全部上述文件，按路径排序 |

没有空行的长文（整本小说、网页拼成的大文件）每满一百万字在行末或句末断成一个文档：
远长于任何模型的上下文，而 10 GB 的文件，哪怕只有一行，也只占一篇的内存。一行一条的格式
里错在哪一行，就报哪一行。文件夹里不认识的文件跳过，`Resolved.skipped` 列出它们。

写文件时先写在旁边的临时文件里，写完才换上去，中断不留半份。
"""

import gzip
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from companion.corpus.document import (
    CHAPTERS,
    FORMATS,
    LOCK,
    SOURCES,
    Document,
    file_stem,
    find_chapters,
    format_of,
    group_by_chapter,
    join_lines,
    no_text_error,
    read_lines,
    readable,
    require_file,
    tidy_lines,
)
from companion.corpus.encoding import Errors, find_garble, good_stop
from companion.errors import CorpusError

Body = tuple[str, str, str | None]
"""篇名（可空）、正文、目标侧（单语为 None）。"""
MAX_DOCUMENT_CHARS = 1_000_000
"""没有空行可分时，一个文档最多的字数。"""


def read_documents(
    path: str | Path, *, refuse_garble: bool = True, errors: Errors = "strict"
) -> Iterator[Document]:
    """逐篇读出一份语料。

    路径、格式、空文件夹等错误在调用时就报；内容的错误在读到时报。

    Args:
        path: 文件或文件夹，格式见模块说明；编码自动认出。
        refuse_garble: 遇到乱码就拒绝；为假则放行，由清洗来收拾。
        errors: 遇到解不开的字节时拒绝（`strict`），或换成 �（`replace`）。

    Returns:
        文档的迭代器，只能走一遍。

    Raises:
        CorpusError: 路径、格式、编码或内容不对，或没有任何正文。
    """
    root = Path(path)
    lines = partial(read_lines, refuse_garble=refuse_garble, errors=errors)
    if root.is_dir():
        files = corpus_files(root)[0]
        stems = [path.relative_to(root).with_name(file_stem(path)) for path in files]
        return chain.from_iterable(
            _read_file(path, readable(stem.as_posix()), lines)
            for path, stem in zip(files, stems, strict=True)
        )
    require_file(root)
    format_of(root)
    return _read_file(root, readable(file_stem(root)), lines)


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
    name = readable(file_stem(left_path)).removesuffix(".classical") + ".pairs"
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
        origin = readable(f"{left_path.name}+{right_path.name}")
        yield Document(text, f"{name}#{count}", origin, translation)
    if not count:
        raise no_text_error(left_path)


def _read_file(
    path: Path, stem: str, lines: partial[Iterator[str]]
) -> Iterator[Document]:
    kind, name, shown = format_of(path), readable(path.name), readable(path)
    if kind.startswith(".txt"):
        bodies = _read_text(path, lines)
    elif kind == ".parquet":
        bodies = read_parquet(path, lines.keywords["refuse_garble"])
    else:
        parse = parse_jsonl if kind.startswith(".jsonl") else parse_tsv
        bodies = parse(lines(path), shown)
    count = 0
    for title, text, target in bodies:
        for part in [text] if target is not None else _parts(text):
            count += 1
            source = f"{name}：{title}" if title else name
            yield Document(part, f"{stem}#{count}", source, target)
    if not count:
        raise no_text_error(path)


def _parts(text: str) -> Iterator[str]:
    """一篇分成至多一百万字的几篇，在句末断开；没有字就一篇也没有。"""
    while len(text) > MAX_DOCUMENT_CHARS:
        stop = good_stop(text, MAX_DOCUMENT_CHARS // 2, MAX_DOCUMENT_CHARS)
        yield text[:stop].rstrip("\n")
        text = text[stop:].lstrip("\n")
    if text:
        yield text


def _read_text(path: Path, lines: partial[Iterator[str]]) -> Iterator[Body]:
    chapters = find_chapters(path)
    if chapters:
        for title, text in group_by_chapter(lines(path), chapters, readable(path)):
            yield title, text, None
        return
    for text in _group_by_blank(lines(path, longest=MAX_DOCUMENT_CHARS)):
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


def corpus_files(root: Path) -> tuple[list[Path], list[Path]]:
    """文件夹里的语料，与跳过的文件；连到别处的文件夹也进去，藏起来的（.git）不看。

    Raises:
        CorpusError: 没有一份语料，或既有 train 又有 valid。
    """
    visible: list[Path] = []
    entered: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in entered:  # 连回自己，或两处连到同一个文件夹
            subfolders.clear()
            continue
        entered.add(real)
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        visible += [Path(folder, name) for name in names if not name.startswith(".")]
    beside = (CHAPTERS, SOURCES, LOCK)
    visible = sorted(path for path in visible if path.name not in beside)
    files = [path for path in visible if path.name.lower().endswith(FORMATS)]
    skipped = [path for path in visible if not path.name.lower().endswith(FORMATS)]
    if not files:
        others = "、".join(readable(path.name) for path in skipped[:5])
        raise CorpusError(
            found=f"文件夹 {readable(root)} 里没有语料"
            + (f"，只有 {others}" if others else ""),
            expected="至少一份 " + "、".join(FORMATS),
            remedy="检查路径，或把语料放进去",
        )
    splits = {path.name.split(".")[0] for path in files}
    if {"train", "valid"} <= splits:
        raise CorpusError(
            found=f"文件夹 {readable(root)} 里既有 train 又有 valid",
            expected="训练语料里不混留出集",
            remedy="指明一份文件，例如 "
            + next(readable(path) for path in files if path.name.startswith("train.")),
        )
    return files, skipped


_SURROGATE = re.compile("[\ud800-\udfff]")
_FIELDS = "字段 text，或句对的 source 与 target"


def parse_jsonl(lines: Iterator[str], origin: str) -> Iterator[Body]:
    """解析一行一个 JSON 对象的语料；空行跳过。

    Args:
        lines: 各行。
        origin: 出错时用来称呼这份语料。

    Yields:
        篇名（空）、正文、目标侧。

    Raises:
        CorpusError: JSON 坏了、缺字段或字段不是字符串，附行号。
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{origin} 第 {number} 行"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise CorpusError(
                found=f"{place}不是合法的 JSON：第 {error.colno} 字符处 {error.msg}",
                expected="一行一个完整的 JSON 对象",
                remedy="补全或删去这一行；字符串里的换行要写成 \\n",
            ) from None
        except (RecursionError, ValueError) as error:
            raise CorpusError(
                found=f"{place}的 JSON 无法解析：{type(error).__name__}",
                expected=f"一个扁平的 JSON 对象，{_FIELDS}",
                remedy="删去这一行",
            ) from None
        if not isinstance(record, dict):
            raise CorpusError(
                found=f"{place}是 {type(record).__name__}，不是对象",
                expected=f"{{…}} 形式的 JSON 对象，{_FIELDS}",
                remedy='改成 {"text": "…"}',
            )
        yield _body(cast("dict[str, Any]", record), place)


def parse_tsv(lines: Iterator[str], origin: str) -> Iterator[Body]:
    """解析两列的句对；空行跳过，表头 `source`、`target` 可有可无。

    引号没有特殊含义：古籍与译文里的引号就是引号。

    Args:
        lines: 各行。
        origin: 出错时用来称呼这份语料。

    Yields:
        篇名（空）、源侧、目标侧。

    Raises:
        CorpusError: 某行不是两列，或有一列是空的，附行号。
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip() or (
            number == 1 and line.split("\t") == ["source", "target"]
        ):
            continue
        cells = [join_lines([cell]) for cell in line.split("\t")]
        if len(cells) != 2 or not all(cells):
            state = f"有 {len(cells)} 列" if len(cells) != 2 else "有一列是空的"
            raise CorpusError(
                found=f"{origin} 第 {number} 行{state}",
                expected="每行两列，以一个制表符隔开：源侧、目标侧",
                remedy="改正这一行；单语语料请存成 .txt 或 .jsonl",
            )
        yield "", cells[0], cells[1]


def read_parquet(path: Path, refuse_garble: bool) -> Iterator[Body]:
    """按批读 Parquet，列名与 `.jsonl` 的字段相同。

    Args:
        path: Parquet 文件。
        refuse_garble: 遇到乱码就拒绝。

    Yields:
        篇名（空）、正文、目标侧。

    Raises:
        CorpusError: 文件损坏、缺列、有空值或不是字符串。
    """
    pa = import_module("pyarrow")  # 载入要 0.2 秒，只在读 Parquet 时付
    pq = import_module("pyarrow.parquet")

    number = 0
    try:
        with pq.ParquetFile(path) as table:
            names: list[str] = list(table.schema_arrow.names)
            wanted = _columns(names)
            if wanted is None:
                raise CorpusError(
                    found=f"{readable(path)} 的列是 {'、'.join(names) or '（无）'}",
                    expected=_FIELDS.replace("字段", "列"),
                    remedy="把正文所在的列改名为 text",
                )
            for batch in table.iter_batches(batch_size=1024, columns=list(wanted)):
                for record in batch.to_pylist():
                    number += 1
                    place = f"{readable(path)} 第 {number} 行"
                    body = _body(record, place)
                    if refuse_garble:
                        _refuse_garble(body, place)
                    yield body
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CorpusError(
            found=f"{readable(path)} 不是完整的 Parquet 文件："
            f"{str(error).splitlines()[0]}",
            expected="能读出的 Parquet 文件",
            remedy="重新生成或重新下载这份文件",
        ) from None


def _columns(names: list[str]) -> tuple[str, ...] | None:
    if "text" in names:
        return ("text",)
    if {"source", "target"} <= set(names):
        return ("source", "target")
    return None


def _body(record: dict[str, Any], place: str) -> Body:
    names = _columns(list(record))
    if names is None:
        keys = "、".join(map(str, record)) or "（无）"
        raise CorpusError(
            found=f"{place}的字段是 {keys}",
            expected=_FIELDS,
            remedy="把正文所在的字段改名为 text",
        )
    values: list[str] = []
    for name in names:
        value = record[name]
        if not isinstance(value, str):
            raise CorpusError(
                found=f"{place}的 {name} 是 {type(value).__name__}，不是字符串",
                expected=f"字符串，{_FIELDS}",
                remedy="改正这一行；没有正文就删去它",
            )
        if _SURROGATE.search(value):
            raise CorpusError(
                found=f"{place}的 {name} 里有落单的代理码位（\\ud800–\\udfff）",
                expected="合法的 Unicode 文本",
                remedy="多半是表情符号被截成两半，删去这个残字",
            )
        values.append(value)
    if len(values) == 1:
        return "", tidy_lines(values[0]), None
    values = [join_lines(re.split("[\r\n]", value)) for value in values]
    if bool(values[0]) != bool(values[1]):
        raise CorpusError(
            found=f"{place}的 {names[0] if not values[0] else names[1]} 是空的",
            expected="句对两侧都有字",
            remedy="补上译文，或删去这一行",
        )
    return "", values[0], values[1]


def _refuse_garble(body: Body, place: str) -> None:
    for text in body[1:]:
        garble = find_garble(text) if text else None
        if garble is not None:
            raise CorpusError(
                found=f"{place}第 {garble.start} 字处有乱码“{garble.text}”："
                f"{garble.cause}",
                expected="没有转坏的文本",
                remedy=garble.remedy,
            )


# ── 写 ──────────────────────────────────────────────────────────────────


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
            found=f"{readable(target)} 是文件夹",
            expected="文件名",
            remedy="在后面加上文件名",
        )
    if target.exists() and not overwrite:
        raise CorpusError(
            found=f"{readable(target)} 已经存在",
            expected="一个新文件名",
            remedy="换个名字；确要替换，加 --overwrite",
        )
    writers: dict[str, Callable[[Iterable[Document], Path], int]] = {
        ".txt": partial(_write_lines, line_of=_text_line, between="\n"),
        ".jsonl": partial(_write_lines, line_of=_json_line),
        ".tsv": partial(_write_lines, line_of=_tsv_line),
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


def _write_lines(
    docs: Iterable[Document],
    path: Path,
    line_of: Callable[[Document], str],
    between: str = "",
) -> int:
    count = 0
    with _text_stream(path) as out:
        for doc in docs:
            out.write((between if count else "") + line_of(doc) + "\n")
            count += 1
    return count


def _text_line(doc: Document) -> str:
    if doc.target is not None:
        raise CorpusError(
            found=f"{doc.id} 是句对，.txt 放不下目标侧",
            expected="单语文档",
            remedy="改用 .jsonl 或 .tsv 后缀",
        )
    return join_lines(_lines(doc.text))


def _json_line(doc: Document) -> str:
    return json.dumps(_record(doc), ensure_ascii=False)


def _tsv_line(doc: Document) -> str:
    if doc.target is None or "\t" in doc.text + doc.target:
        state = "没有目标侧" if doc.target is None else "正文里有制表符"
        raise CorpusError(
            found=f"{doc.id} {state}，.tsv 放不下",
            expected="两侧都没有制表符的句对",
            remedy="改用 .jsonl 后缀",
        )
    return "\t".join(join_lines(_lines(side)) for side in (doc.text, doc.target))


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
