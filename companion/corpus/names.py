"""专名优先的切词：人名、地名、官名整个是一个词，其余交给别的切词器。

ERNIE 的第三阶段以专名为单位来遮（Sun 等，2019，§3.2）。《资治通鉴》里的“平原君”“中书
令”，通用的切词器常常切碎；所以先把专名圈出来，再切剩下的。
"""

import hashlib
import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from companion.corpus.words import Segmenter, read_word_list, segmenter_fingerprint
from companion.errors import CorpusError

BUILT_IN = "tongjian"
"""随包的专名表：《资治通鉴》里常见的人名、地名、官名七百个，本项目编。"""


def read_names(spec: str | Path) -> list[str]:
    """专名表：`tongjian` 是随包的一份，别的当作文件，一行一个。

    Raises:
        CorpusError: 文件读不了，或不是 UTF-8。

    >>> names = read_names("tongjian")
    >>> len(names), "平原君" in names
    (707, True)
    """
    if str(spec) != BUILT_IN:
        return read_word_list(spec)
    file = resources.files("companion.corpus") / "names_tongjian.txt"
    return file.read_text("utf-8").split()


def names_first(names: Iterable[str], segmenter: Segmenter) -> "NamesFirst":
    """专名各成一词，其余由 `segmenter` 切。

    Args:
        names: 专名；重叠时靠左的优先，同一处长的优先。
        segmenter: 切其余文字的，例如 `jieba_segmenter()`。

    Raises:
        CorpusError: 一个专名也没有。

    >>> from companion.corpus.words import dictionary_segmenter
    >>> segment = names_first(["平原君", "赵"], dictionary_segmenter(["门下"]))
    >>> segment("赵平原君门下食客")
    ['赵', '平原君', '门下', '食', '客']
    """
    kept = tuple(sorted({name.strip() for name in names} - {""}))
    if not kept:
        raise CorpusError(
            found="专名表是空的",
            expected="至少一个人名、地名或官名",
            remedy="一行一个专名；没有专名可用时改用短语一级",
        )
    return NamesFirst(kept, segmenter)


class NamesFirst:
    """专名优先的切词器，可以送进别的进程。

    Args:
        names: 专名，不空。
        segmenter: 切其余文字的。
    """

    def __init__(self, names: tuple[str, ...], segmenter: Segmenter) -> None:
        self.names = names
        self.segmenter = segmenter
        longest_first = sorted(names, key=len, reverse=True)
        self._pattern = re.compile(f"({'|'.join(map(re.escape, longest_first))})")

    @property
    def fingerprint(self) -> str:
        """由专名表与另一个切词器决定的名字，缓存据此判断能否沿用。"""
        digest = hashlib.sha256("\n".join(self.names).encode("utf-8")).hexdigest()[:16]
        return f"names-{digest}-{segmenter_fingerprint(self.segmenter)}"

    def __call__(self, text: str) -> list[str]:
        """切词；空白已略去。"""
        words: list[str] = []
        # 括号里的模式让奇数位是专名
        for number, part in enumerate(self._pattern.split(text)):
            words.extend([part] if number % 2 else self.segmenter(part))
        return words
