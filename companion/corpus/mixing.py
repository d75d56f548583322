"""几份语料掺在一起：谁占多少。

    --corpus 史=shiji/:3 --corpus 诗=poetry.txt:1    训练词元的四分之三读史，其余读诗
    --corpus shiji/ --corpus poetry.txt              没有写权重：各占自己的大小
    … --set mixture_temperature=2                    占 大小^(1/2)：小的多读几遍

权重说的是占训练词元的比例，与各份的大小无关：读完了的从头再读，账本里写着各读了几遍。温度
是多语言模型的做法（Conneau 等，2020，§3.1 的 α = 1/T）：T = 1 是照大小，T 越大越平均。

形状字母：S 份数。
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from companion.corpus.document import Document
from companion.errors import ConfigError

_FORM = re.compile(
    r"(?:(?P<name>[^=:/\\]+)=)?(?P<spec>.+?)(?::(?P<weight>[-+]?[0-9.]+(?:e-?\d+)?))?"
)


@dataclass(frozen=True)
class Source:
    """一份语料。"""

    name: str
    spec: str
    """名字或路径（`companion.corpus.sources.resolve`）。"""
    weight: float | None = None
    """占训练词元的份量；None 的照大小。"""


def parse_source(text: str) -> Source:
    """`[名字=]语料[:权重]` → 一份语料；整个是一个路径的，就是那个路径。

    >>> parse_source("史=books/shiji.txt:3")
    Source(name='史', spec='books/shiji.txt', weight=3.0)
    >>> parse_source("tongjian:classical")
    Source(name='tongjian:classical', spec='tongjian:classical', weight=None)

    Raises:
        ConfigError: 权重不是正数。
    """
    found = _FORM.fullmatch(text)
    if found is None or Path(text).expanduser().exists():
        return Source(text, text)
    name, spec, weight = found["name"], found["spec"], found["weight"]
    try:
        number = None if weight is None else float(weight)
    except ValueError:
        number = -1.0
    if number is not None and not 0 < number < float("inf"):
        raise ConfigError(
            found=f"语料 {text} 的权重是 {weight}",
            expected="正数：占训练词元的份量，几份之间只看比例",
            remedy="改成正数；不要这一份就不写它",
        )
    return Source(name or spec, spec, number)


def parse_sources(texts: Sequence[str]) -> tuple[Source, ...]:
    """一份或几份语料。

    Raises:
        ConfigError: 同名，或有的写了权重、有的没有。
    """
    sources = tuple(map(parse_source, texts))
    names = [each.name for each in sources]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(
            found=f"有两份语料都叫 {twice}",
            expected="各有各的名字，账本与评估按名字分开",
            remedy="写成 名字=路径，例如 甲=a.txt 与 乙=b.txt",
        )
    weighted = [each.weight is not None for each in sources]
    if len(sources) > 1 and any(weighted) and not all(weighted):
        bare = sources[weighted.index(False)].name
        raise ConfigError(
            found=f"有的语料写了权重，{bare} 没有",
            expected="都写权重，或都不写（照大小）",
            remedy=f"给 {bare} 也写上，例如 {bare}:1",
        )
    return sources


def shares_of(
    sources: Sequence[Source], sizes: Sequence[int], temperature: float
) -> list[float]:
    """各占训练词元的几分之几，合计为 1。

    Args:
        sources: S 份语料。
        sizes: 各份的词元数，都是正数。
        temperature: 没有写权重时，份量是 大小^(1/温度)。

    >>> shares_of([Source("甲", "a"), Source("乙", "b")], [900, 100], 2)
    [0.75, 0.25]
    """
    amounts = [
        size ** (1 / temperature) if each.weight is None else each.weight
        for each, size in zip(sources, sizes, strict=True)
    ]
    return [amount / sum(amounts) for amount in amounts]


def mixed(
    texts: Sequence[Sequence[Document]],
    shares: Sequence[float],
    characters: int,
    seed: int = 0,
) -> list[Document]:
    """照比例抽出约这么多字，打乱；一份读完了从头再读。

    Args:
        texts: S 份文字，各至少一篇。
        shares: 各占几分之几。
        characters: 一共多少字。
        seed: 抽取与打乱的种子。
    """
    rng = np.random.default_rng(seed)
    chosen: list[Document] = []
    for documents, share in zip(texts, shares, strict=True):
        left = characters * share
        while left > 0:
            for at in rng.permutation(len(documents)).tolist():
                chosen.append(documents[at])
                left -= max(1, documents[at].num_chars)
                if left <= 0:
                    break
    return [chosen[at] for at in rng.permutation(len(chosen)).tolist()]
