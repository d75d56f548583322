"""切词，与词界：把「这些字是一个词」经字符偏移换算成「这些词元是一个词」。

中文没有空格，全词掩码要先分词（Cui et al. 2021, arXiv 1906.08101 §III）。切词与切词元
是两套边界，只能在字符上会合：

    原文      司马光曰            词    司马光 | 曰
    WordPiece 司 马 光 曰         ->    0 0 0 1
    字节 BPE  司马 ⟨光₁⟩ ⟨光₂曰⟩  ->    0 0 0      一个词元跨两个词，两个词就并成一个

因此一个词要么整个是一组词元，要么与邻词并成一组，绝不会只占半个词元。空白不是词，
只含空白的词元与特殊词元一样记 −1。

以词选的训练目标有的不切、有的切一种，ERNIE 的三个阶段切三种（Sun 等，2019，§3.2）：

    原文    平原君门下食客数千人
    基本    平 | 原 | 君 | 门 | 下 | 食 | 客 | 数 | 千 | 人
    短语    平原 | 君 | 门下 | 食客 | 数千人
    专名    平原君 | 门下 | 食客 | 数千人

三种都由同一段文字切出，词元不变，变的只是词界。“平原君”“中书令”一类专名，通用的切词器
常常切碎，所以先把专名圈出来，再切剩下的。

形状字母：T 词元，W 词，C 字符。
"""

import hashlib
import importlib
import logging
import pickle
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from companion.errors import CorpusError

Segmenter = Callable[[str], list[str]]
"""文本进，词的列表出；各词相接即原文，其间的空白可以略去。"""

_DICT_LINE = re.compile(r"(.+?)(?:[\s,，;；|]+(\d+))?(?:[\s,，;；|]+([a-zA-Z]+))?")
"""词，词频，词性；隔开它们的可以是空格、制表符、逗号、分号、竖线。"""
_SEVERAL = re.compile(r"[\t、，,;；|]")
"""一行写了几个词的样子。"""
# jieba 只在这些字符之内拼词，词典中含别的字符（𠮷、·）的词它认不出来
_JIEBA_WORD = re.compile(r"[\u4E00-\u9FD5a-zA-Z0-9+#&._%\-]+")
_LATIN = re.compile(r"[A-Za-z0-9]+")


def jieba_segmenter(
    user_dict: str | Path | Iterable[str] | None = None,
) -> "JiebaSegmenter":
    """用 jieba 切词，词典与别处的 jieba 互不影响。

    Args:
        user_dict: 词典文件（UTF-8，一行一词，词后可有词频、词性，以空格、制表符或逗号
            隔开），或词的列表。

    Raises:
        CorpusError: 词典文件不存在、不是 UTF-8，或一行有几个词。
    """
    if user_dict is None:
        return _shared_segmenter(())
    if isinstance(user_dict, str | Path):
        origin, lines = str(user_dict), read_word_list(user_dict)
    else:
        origin, lines = "user_dict", list(user_dict)
    entries = tuple(line.strip() for line in lines if line.strip())
    for entry in entries:
        _split_entry(entry, origin)
    return JiebaSegmenter(entries)


def read_word_list(path: str | Path) -> list[str]:
    """读一行一词的文件；略去空行与首尾的空白。

    Raises:
        CorpusError: 读不了，或不是 UTF-8。
    """
    try:
        lines = Path(path).read_text("utf-8-sig").splitlines()
        return [line.strip() for line in lines if line.strip()]
    except OSError as error:
        raise CorpusError(
            found=f"读不了词典 {path}（{error.strerror}）",
            expected="一个 UTF-8 文本文件，一行一词",
            remedy="核对路径与读取权限",
        ) from error
    except UnicodeDecodeError as error:
        raise CorpusError(
            found=f"词典 {path} 第 {error.start} 字节起不是 UTF-8",
            expected="UTF-8 编码",
            remedy="用编辑器另存为 UTF-8",
        ) from error


def _split_entry(entry: str, origin: str) -> tuple[str, str | None, str | None]:
    """词典的一行：词、词频、词性。

    Raises:
        CorpusError: 一行写了几个词，照一个词读就永远匹配不上。
    """
    match = _DICT_LINE.fullmatch(entry)
    word, frequency, tag = match.groups() if match else (entry, None, None)
    if _SEVERAL.search(word):
        raise CorpusError(
            found=f"{origin} 里有一行是“{entry[:40]}”",
            expected="一行一个词，后面至多有词频与词性，例如 云计算 3 n",
            remedy="拆成几行；词里真有这样的标点，就把它从词典里去掉",
        )
    return word, frequency, tag


@cache
def _shared_segmenter(entries: tuple[str, ...]) -> "JiebaSegmenter":
    """同样的词典只载入一次：jieba 读词库要一秒多。"""
    return JiebaSegmenter(entries)


class JiebaSegmenter:
    """jieba 分词器；首次使用才载入词库，可以送进别的进程。

    Args:
        entries: 用户词典的各行。
    """

    def __init__(self, entries: tuple[str, ...]) -> None:
        self.entries = entries
        self._tokenizer: Any = None
        self._hard: re.Pattern[str] | None = None

    @property
    def fingerprint(self) -> str:
        """由 jieba 的版本与用户词典决定的名字，缓存据此判断能否沿用。"""
        return f"jieba-{_import_jieba().__version__}-{_digest(*self.entries)}"

    def __call__(self, text: str) -> list[str]:
        """切词；只有空白的片段已略去。"""
        tokenizer = self._tokenizer or self._load()
        parts = self._hard.split(text) if self._hard else [text]
        words: list[str] = []
        for number, part in enumerate(parts):
            # 括号里的模式让奇数位是用户词典中 jieba 拼不出的词，整个保留
            words.extend([part] if number % 2 else tokenizer.lcut(part))
        return [word for word in words if not word.isspace()]

    def _load(self) -> Any:
        tokenizer = _import_jieba().Tokenizer()
        tokenizer.initialize()
        hard: list[str] = []
        for entry in self.entries:
            word, frequency, tag = _split_entry(entry, "词典")
            if _JIEBA_WORD.fullmatch(word):
                count = int(frequency) if frequency else None
                tokenizer.add_word(word, count, tag)
            else:
                hard.append(re.escape(word))
        if hard:
            hard.sort(key=len, reverse=True)
            self._hard = re.compile(f"({'|'.join(hard)})")
        self._tokenizer = tokenizer
        return tokenizer

    def __reduce__(self) -> tuple[Any, ...]:
        return JiebaSegmenter, (self.entries,)


def _import_jieba() -> Any:
    with warnings.catch_warnings():
        # jieba 0.42.1 的转义写法与 pkg_resources 在新 Python 上会告警，与用户无关
        warnings.simplefilter("ignore")
        try:
            jieba: Any = importlib.import_module("jieba")
        except ImportError as error:
            raise CorpusError(
                found="没有安装 jieba",
                expected="以词选的掩码需要一个中文切词工具",
                remedy="运行 pip install jieba，或改用 granularity=token",
            ) from error
    jieba.setLogLevel(logging.WARNING)
    return jieba


def dictionary_segmenter(words: Iterable[str]) -> "DictionarySegmenter":
    """按词表从左到右取最长的词；词表之外，一串西文是一个词，一个汉字是一个词。

    >>> dictionary_segmenter(["司马光", "司马"])("司马光曰 OK")
    ['司马光', '曰', 'OK']
    """
    return DictionarySegmenter(frozenset(word for word in words if word.strip()))


class DictionarySegmenter:
    """最长匹配的切词器。

    Args:
        words: 词表。
    """

    def __init__(self, words: frozenset[str]) -> None:
        self.words = words
        self._lengths = sorted({len(word) for word in words}, reverse=True)

    @property
    def fingerprint(self) -> str:
        """由词表决定的名字。"""
        return f"dictionary-{_digest(*sorted(self.words))}"

    def __call__(self, text: str) -> list[str]:
        """切词；空白已略去。"""
        found: list[str] = []
        at = 0
        while at < len(text):
            stop = self._match(text, at)
            if not text[at].isspace() or stop > at + 1:
                found.append(text[at:stop])
            at = stop
        return found

    def _match(self, text: str, at: int) -> int:
        for length in self._lengths:
            if text[at : at + length] in self.words:
                return min(at + length, len(text))
        latin = _LATIN.match(text, at)
        return latin.end() if latin else at + 1


def segmenter_fingerprint(segmenter: Segmenter | None) -> str:
    """切词器的指纹：同一指纹应当切出同样的词，缓存据此判断能否沿用。

    有 `fingerprint` 属性就用它；别的照 datasets 的办法，连代码、闭包与全局变量一起看。
    """
    if segmenter is None:
        return "none"
    own = getattr(segmenter, "fingerprint", None)
    if own is not None:
        return str(own)
    from datasets.fingerprint import Hasher

    try:
        return Hasher.hash(segmenter)
    except (pickle.PicklingError, TypeError):
        # 含内存地址：换一个进程就重算，宁可多算不可错用
        return _digest(repr(segmenter))


def _digest(*parts: str) -> str:
    joined = "\n".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.sha256(joined).hexdigest()[:16]


def word_spans(words: Sequence[str], text: str) -> NDArray[np.int64]:
    """各词在原文中的字符区间 (W, 2) int64；切词器略去的空白不属于任何词。

    Raises:
        CorpusError: 各词相接不是原文。
    """
    spans: list[tuple[int, int]] = []
    at = 0
    for word in words:
        core = word.strip()
        if not core:
            continue
        at = _skip_spaces(text, at)
        if not text.startswith(core, at):
            raise _divergence(text, at, core)
        spans.append((at, at + len(core)))
        at += len(core)
    if _skip_spaces(text, at) < len(text):
        raise _divergence(text, _skip_spaces(text, at), "（到此为止）")
    return np.array(spans, np.int64).reshape(-1, 2)


def _skip_spaces(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _divergence(text: str, at: int, word: str) -> CorpusError:
    return CorpusError(
        found=f"切词结果与原文在第 {at} 个字符处分道：原文是“{text[at : at + 12]}”，"
        f"切出的词是“{word[:12]}”",
        expected="各词依次相接就是原文，只许略去空白",
        remedy="让切词器原样返回文字，不改字、不删标点、不转换繁简",
    )


def word_ids(offsets: ArrayLike, words: Sequence[str], text: str) -> NDArray[np.int64]:
    """每个词元属于第几个词。

    Args:
        offsets: 每个词元在原文中的字符区间 [起, 止)，(T, 2)；特殊词元为 (0, 0)。
        words: 切词器给出的词。
        text: 原文。

    Returns:
        (T,) int64，从 0 起连续编号；特殊词元与只含空白的词元为 −1。跨几个词的词元使
        这些词并成一个。

    Raises:
        CorpusError: 各词相接不是原文。

    例：

        >>> word_ids([(0, 0), (0, 1), (1, 2), (2, 3), (0, 0)], ["天子", "曰"], "天子曰")
        array([-1,  0,  0,  1, -1])
        >>> word_ids([(0, 1), (1, 3), (3, 4)], ["天子", "曰", "善"], "天子曰善")
        array([0, 0, 1])
    """
    begin, end = np.asarray(offsets, np.int64).reshape(-1, 2).T  # (T,)
    spans = word_spans(words, text)  # (W, 2)
    if not len(spans):
        return np.full(len(begin), -1, np.int64)
    # 词按起止排好，且互不重叠：与 [begin, end) 相交的词就是 low..high
    low = np.searchsorted(spans[:, 1], begin, side="right")  # (T,) 首个止于 begin 后
    high = np.searchsorted(spans[:, 0], end, side="left") - 1  # (T,) 末个起于 end 前
    inside = (low <= high) & (begin < end)
    # 词元使 low..high 相连：差分数组数出哪些词与前一个词相连
    joins = np.zeros(len(spans) + 1, np.int64)
    np.add.at(joins, low[inside] + 1, 1)
    np.add.at(joins, high[inside] + 1, -1)
    group = np.cumsum(np.cumsum(joins[:-1]) == 0)  # (W,) 并词之后的编号
    ids = np.full(len(begin), -1, np.int64)
    # 再压成连续编号：有的词可能没有词元（被分词器丢掉的控制符）
    ids[inside] = np.unique(group[low[inside]], return_inverse=True)[1]
    return ids


BUILT_IN = "tongjian"
"""随包的专名表：《资治通鉴》里常见的人名、地名、官名七百个，本项目编。"""


def read_names(spec: str | Path) -> list[str]:
    """专名表：`tongjian` 是随包的一份，别的当作文件，一行一个，词频与词性略去。

    Raises:
        CorpusError: 文件读不了，不是 UTF-8，或一行有几个词。

    >>> names = read_names("tongjian")
    >>> len(names), "平原君" in names
    (707, True)
    """
    if str(spec) != BUILT_IN:
        return [_split_entry(line, str(spec))[0] for line in read_word_list(spec)]
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


def segmenters_for(
    source: str,
    *,
    user_dictionary: str | Path | None = None,
    names: str | Path | None = None,
) -> tuple[Segmenter | None, ...]:
    """一个阶段一个切词器；不必切词的是 `(None,)`。

    Args:
        source: `none` 不切，`words` 用 jieba 切，`stages` 照 ERNIE 的三个阶段。
        user_dictionary: jieba 的用户词典，一行一词。
        names: 专名表，一行一个，或随包的 `tongjian`；只有 `stages` 用，而且必须有。

    Raises:
        CorpusError: 词典或专名表读不了、是空的，或该有专名表而没有、不该有而有。
    """
    if names is not None and source != "stages":
        raise CorpusError(
            found=f"给了专名表 {names}，而这种选法用不上它",
            expected="只有 preset=ernie 用专名表",
            remedy="去掉 names，或加 preset=ernie；"
            "只想让专名不被切开，把它们写进 user_dictionary",
        )
    if source == "none":
        return (None,)
    words = jieba_segmenter(user_dictionary)
    if source == "words":
        return (words,)
    if names is None:
        raise CorpusError(
            found="preset=ernie 没有专名表",
            expected="names 指向一个文本文件，一行一个人名、地名或官名，或写 tongjian",
            remedy="加 --set names=专名.txt（或 tongjian，随包的那一份）；"
            "没有专名可用时改用 preset=bert-wwm",
        )
    return dictionary_segmenter(()), words, names_first(read_names(names), words)


def read_similar_words(path: str | Path) -> Mapping[str, list[str]]:
    """读近义词表：一行先是词，然后是它的近义词，以空白、顿号、逗号或分号隔开。

        天子 皇帝 官家
        诸侯 列国

    Raises:
        CorpusError: 读不了，或有一行只有词、没有近义词。
    """
    table: dict[str, list[str]] = {}
    for number, line in enumerate(read_word_list(path), 1):
        word, *similar = filter(None, re.split(r"[\s、，,;；|]+", line))
        if not similar:
            raise CorpusError(
                found=f"近义词表 {path} 第 {number} 个词“{word}”后面没有近义词",
                expected="一行一个词，空白之后是它的近义词，例如 天子 皇帝 官家",
                remedy="补上近义词，或删去这一行",
            )
        table.setdefault(word, []).extend(similar)
    if not table:
        raise CorpusError(
            found=f"近义词表 {path} 是空的",
            expected="至少一行，例如 天子 皇帝 官家",
            remedy="换一张表，或去掉 similar_words，由词嵌入去找",
        )
    return table
