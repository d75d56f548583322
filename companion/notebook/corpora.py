"""笔记本 02 的表：编码与乱码、切分漏不漏、三种装法。"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate

from companion.corpus import (
    Document,
    deduplicate,
    overlap,
    plan_packing,
    split_documents,
)
from companion.corpus.document import letters_key
from companion.corpus.encoding import detect_encoding, find_garble
from companion.notebook.tables import Table

ENCODINGS = ("utf-8", "gb18030", "utf-16")
MISREADINGS = {
    "UTF-8 当作 Latin-1": (("utf-8", "cp1252"),),
    "GB18030 当作 Latin-1": (("gb18030", "cp1252"),),
    "UTF-8 当作 GBK": (("utf-8", "gbk"),),
    "GB18030 当作 UTF-8": (("gb18030", "utf-8"),),
    "上一行再写成 UTF-8、当作 GBK": (("gb18030", "utf-8"), ("utf-8", "gbk")),
}
"""错法 → 一步步：按左边的编码写下，按右边的读出。"""
_SHOWN = 18


def encodings_table(text: str) -> Table:
    """同一段文字存成几种编码：多少字节，包里把它认成什么。

    Args:
        text: 一段简体中文，长些才认得准。
    """
    rows: list[list[str]] = []
    for name in ENCODINGS:
        data = text.encode(name)
        found = detect_encoding(data, "例", whole=True)
        per_char = f"{len(data) / len(text):.2f}"
        rows.append([name.upper(), f"{len(data):,}", per_char, found.label])
    return Table(["存成", "字节", "字节／字", "认作"], rows)


def mojibake_table(text: str) -> Table:
    """同一句话读错编码的样子，以及包里说它原来多半是什么。

    Args:
        text: 一句话。
    """
    rows: list[list[str]] = []
    for mistake, steps in MISREADINGS.items():
        seen = text
        for written, read in steps:
            seen = _misread(seen.encode(written), read)
        garble = find_garble(seen)
        said = "没有认出" if garble is None else garble.cause
        shown = "".join(char if char.isprintable() else "·" for char in seen[:_SHOWN])
        rows.append([mistake, shown, said])
    return Table(["错法", "看到的", "包里说"], rows)


def _misread(data: bytes, encoding: str) -> str:
    """读错编码的软件看到的：cp1252 没有定义的字节照 Latin-1，别的成为 �。"""
    if encoding == "cp1252":
        return "".join(_latin(byte) for byte in data)
    return data.decode(encoding, "replace")


def _latin(byte: int) -> str:
    raw = bytes([byte])
    try:
        return raw.decode("cp1252")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def with_reprints(documents: Sequence[Document], seed: int) -> list[Document]:
    """随机取一半的文档，各添一篇转载：文字相同，标点换了；次序打乱。"""
    rng = random.Random(seed)
    chosen = rng.sample(list(documents), len(documents) // 2)
    reprints = [
        replace(each, text=each.text.replace("，", " "), id=f"{each.id}:转载")
        for each in chosen
    ]
    mixed = [*documents, *reprints]
    rng.shuffle(mixed)
    return mixed


def splits_table(
    documents: Sequence[Document], seed: int, valid_ratio: float = 0.2
) -> Table:
    """三种切分，留出集各有多少混进了训练集。

    Args:
        documents: 含有转载的语料。
        seed: 种子。
        valid_ratio: 留出的比例。
    """
    count = round(valid_ratio * len(documents))
    held = set(random.Random(seed).sample(range(len(documents)), count))
    ways: dict[str, Callable[[], tuple[list[Document], list[Document]]]] = {
        "随机抽篇": lambda: (
            [each for at, each in enumerate(documents) if at not in held],
            [each for at, each in enumerate(documents) if at in held],
        ),
        "按内容的哈希": lambda: _by_content(documents, valid_ratio, seed),
        "先去重，再按哈希": lambda: _by_content(
            list(deduplicate(documents)[0]), valid_ratio, seed
        ),
    }
    rows: list[list[str]] = []
    for name, way in ways.items():
        train, valid = way()
        found = overlap(train, valid)
        repeated = len(train) - len({letters_key(each) for each in train})
        sizes = [str(len(train)), str(len(valid))]
        rows.append([name, *sizes, str(found.contaminated), str(repeated)])
    return Table(["切法", "训练集", "留出集", "混进训练集的", "训练集里重复的"], rows)


def _by_content(
    documents: Sequence[Document], valid_ratio: float, seed: int
) -> tuple[list[Document], list[Document]]:
    split = split_documents(documents, valid_ratio, seed)
    return split.train, split.valid


def packing_table(lengths: Sequence[int], capacity: int) -> Table:
    """三种装法各要几行、填充占几成、丢多少词元、切断多少装得下的文档。

    Args:
        lengths: 各篇的词元数。
        capacity: 一行至多多少词元。
    """
    heads = ["装法", "行", "格子", "填充", "丢掉的词元", "无故切断的篇"]
    rows: list[list[str]] = []
    for name, found in packings(lengths, capacity).items():
        rows.append(
            [
                name,
                f"{found['rows']:,}",
                f"{found['grid']:,}",
                f"{found['padded'] / found['grid']:.1%}",
                f"{found['dropped']:,}",
                f"{found['cut']:,}",
            ]
        )
    return Table(heads, rows)


def packings(lengths: Sequence[int], capacity: int) -> dict[str, dict[str, int]]:
    """三种装法的账；每一种都有：词元总数 = 格子 − 填充 + 丢弃。

    Returns:
        装法 → 行 `rows`、格子 `grid`、填充 `padded`、丢弃 `dropped`，与一行装得下
        却切断了的文档 `cut`。
    """
    total = sum(lengths)
    kept = sum(min(each, capacity) for each in lengths)
    one_each = len(lengths) * capacity
    joined = -(-total // capacity)
    stops = list(accumulate(lengths))
    cut = sum(
        length <= capacity and (stop - length) // capacity != (stop - 1) // capacity
        for stop, length in zip(stops, lengths, strict=True)
    )
    fitted = len(plan_packing(lengths, capacity))
    return {
        "一篇一行，过长的截断": {
            "rows": len(lengths),
            "grid": one_each,
            "padded": one_each - kept,
            "dropped": total - kept,
            "cut": 0,
        },
        "首尾相接，等长切开": {
            "rows": joined,
            "grid": joined * capacity,
            "padded": joined * capacity - total,
            "dropped": 0,
            "cut": cut,
        },
        "最佳适配": {
            "rows": fitted,
            "grid": fitted * capacity,
            "padded": fitted * capacity - total,
            "dropped": 0,
            "cut": 0,
        },
    }
