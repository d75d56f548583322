"""一行一条的格式：`.jsonl`、`.tsv`、`.parquet`。

每条是一个文档（`text`）或一个句对（`source` 与 `target`）；错在哪一行，就报哪一行。
"""

import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from companion.corpus.document import join_lines
from companion.corpus.mojibake import find_garble
from companion.errors import CorpusError

Body = tuple[str, str, str | None]
"""篇名（可空）、正文、目标侧（单语为 None）。"""

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
                    found=f"{path} 的列是 {'、'.join(names) or '（无）'}",
                    expected=_FIELDS.replace("字段", "列"),
                    remedy="把正文所在的列改名为 text",
                )
            for batch in table.iter_batches(batch_size=1024, columns=list(wanted)):
                for record in batch.to_pylist():
                    number += 1
                    place = f"{path} 第 {number} 行"
                    body = _body(record, place)
                    if refuse_garble:
                        _refuse_garble(body, place)
                    yield body
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CorpusError(
            found=f"{path} 不是完整的 Parquet 文件：{str(error).splitlines()[0]}",
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
        values.append(join_lines(re.split("[\r\n]", value)))
    if len(values) == 1:
        return "", values[0], None
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
