"""`masked_lm` 的设置 → 整理器的参数、切词器、近义词表；训练与 `companion show` 都来取。

    设置   preset=macbert
    参数   granularity=ngram，一至四个词的词组，80% 换成近义词     objectives.presets
    切词   jieba                                               corpus.words
    近义词 给的表；没有给，就在语料常见的词里按词嵌入去找      objectives.similar_words

读的是明说了的几项，没有说的取各论文的缺省值。
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from companion.checkpoints.running import word_table
from companion.corpus.words import (
    Segmenter,
    jieba_segmenter,
    read_similar_words,
    segmenters_for,
)
from companion.errors import ObjectiveError
from companion.objectives.presets import get_preset, masking_options, word_source

SETTINGS = ("preset", "user_dictionary", "names", "similar_words")
"""`MaskedLMCollator` 不认得、要先在这里化成参数的几项。"""

NUM_CANDIDATES = 20_000
"""由词嵌入找近义词时，至多在这么多个最常见的词里找。"""


@dataclass(frozen=True)
class Masking:
    """一种掩码选法要的全部。"""

    options: dict[str, Any]
    """`MaskedLMCollator` 的参数，近义词表除外。"""
    segmenters: tuple[Segmenter | None, ...] = (None,)
    """一个阶段一个切词器；逐词元选的是 `(None,)`。"""
    replaces: bool = False
    """是不是以近义词代替 [MASK]。"""
    similar_words: Any = None
    """给了的近义词：词 → 近义词的表，或造好的 `SimilarWords`。"""

    def collator_options(
        self, tokenizer: Any, model: Any, texts: Iterable[str]
    ) -> dict[str, Any]:
        """整理器的全部参数。

        Args:
            tokenizer: 模型的分词器。
            model: 带词嵌入的模型；不换近义词、或近义词已给时不用，可以是 None。
            texts: 语料的文字，近义词在其中常见的词里找；同上。

        Raises:
            ObjectiveError: 没有一个词找得到词元数相同的近义词。
        """
        if not self.replaces:
            return self.options
        from companion.objectives.similar_words import similar_from_lists

        similar = self.similar_words
        if similar is None:
            similar = find_similar_words(tokenizer, model, texts, self.segmenters[0])
        elif isinstance(similar, Mapping):
            similar = similar_from_lists(tokenizer, similar)
        return {**self.options, "similar_words": similar}


def read_masking(settings: Mapping[str, Any]) -> Masking:
    """读好设置与它指定的词典；坏的趁什么也没做，先报错。

    Args:
        settings: 明说了的几项：`SETTINGS` 与整理器的参数；`similar_words` 可以是近义词
            表的路径，也可以是造好的 `SimilarWords`。

    Raises:
        ObjectiveError: 没有这种选法；明说的一项与选法相左；近义词用不上。
        CorpusError: 词典、专名表或近义词表读不了，缺了，或用不上。
    """
    key: str | None = settings.get("preset")
    given = {name: value for name, value in settings.items() if name not in SETTINGS}
    options = masking_options(key, given)
    segmenters = segmenters_for(
        word_source(key, options.get("granularity", "token")),
        user_dictionary=settings.get("user_dictionary"),
        names=settings.get("names"),
    )
    similar = settings.get("similar_words")
    replaces = key is not None and get_preset(key).similar_words
    if similar is not None and not replaces:
        raise ObjectiveError(
            found=f"给了 similar_words，选法却是 {key or '缺省的'}",
            expected="只有 preset=macbert 以近义词代替 [MASK]",
            remedy="加 preset=macbert，或去掉 similar_words",
        )
    if isinstance(similar, str):
        similar = read_similar_words(similar)
    return Masking(options, segmenters, replaces, similar)


def find_similar_words(
    tokenizer: Any,
    model: Any,
    texts: Iterable[str],
    segmenter: Segmenter | None = None,
) -> Any:
    """在文字里最常见的词中，按模型的词嵌入找近义词。

    Args:
        tokenizer: 模型的分词器。
        model: 带词嵌入的模型。
        texts: 语料的文字。
        segmenter: 切词器，缺省用 jieba。

    Returns:
        `companion.objectives.similar_words.SimilarWords`。

    Raises:
        ObjectiveError: 没有两个词的词元数相同。
    """
    from companion.objectives.similar_words import similar_from_embeddings

    cut = segmenter or jieba_segmenter()
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(word for word in cut(text) if word.isalnum())
    common = sorted(counts, key=lambda word: (-counts[word], word))[:NUM_CANDIDATES]
    return similar_from_embeddings(tokenizer, word_table(model), common)
