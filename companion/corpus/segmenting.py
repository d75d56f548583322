"""以词选的训练目标要怎样切词：不切、切一种，或照 ERNIE 的三个阶段切三种。

    原文    平原君门下食客数千人
    基本    平 | 原 | 君 | 门 | 下 | 食 | 客 | 数 | 千 | 人
    短语    平原 | 君 | 门下 | 食客 | 数千人
    专名    平原君 | 门下 | 食客 | 数千人

三种都由同一段文字切出，词元不变，变的只是词界（Sun 等，2019，§3.2）。
"""

from collections.abc import Mapping
from pathlib import Path

from companion.corpus.names import names_first, read_names
from companion.corpus.words import (
    Segmenter,
    dictionary_segmenter,
    jieba_segmenter,
    read_word_list,
)
from companion.errors import CorpusError


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
    """读近义词表：一行先是词，空白之后是它的近义词，几个之间也以空白隔开。

        天子 皇帝 官家
        诸侯 列国

    Raises:
        CorpusError: 读不了，或有一行只有词、没有近义词。
    """
    table: dict[str, list[str]] = {}
    for number, line in enumerate(read_word_list(path), 1):
        word, *similar = line.split()
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
