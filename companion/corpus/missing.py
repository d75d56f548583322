"""词表缺哪些字、哪些词：数遍语料，请分词器逐个切。

缺字缺词，是分词器认不得或要拆开来写的：

    鱻  WordPiece 与一字一元：[UNK]              凡缺的字都成同一个，无从分辨
    鱻  字节 BPE：⟨鱻₁⟩⟨鱻₂⟩⟨鱻₃⟩                写得出，一个字占三个词元
    司马光  一字一元：司 | 马 | 光                  常见的词合成一个，行就短了

走一遍语料，只数不同的字与词各有多少；数完才请分词器逐个切。切法是单独看的：字节 BPE 在
连贯的文字里偶尔跨字合并，这里不计。分词器整个丢掉的字（控制符）写不进词元，也不列。
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from companion.corpus.document import Document, format_table
from companion.corpus.tokenization import TextBatch, encode_texts, unknown_id
from companion.corpus.words import Segmenter
from companion.errors import CorpusError

_BATCH = 4096  # 一次请分词器切多少个字词
_SHOWN = 20


@dataclass(frozen=True)
class MissingPiece:
    """一个缺的字或词。

    Args:
        text: 原文。
        count: 在语料里出现的次数。
        pieces: 分词器现在的切法，词首的 “▁” 已略去。
        unknown: 切出的词元里有 [UNK]，原文因此还原不回。
    """

    text: str
    count: int
    pieces: tuple[str, ...]
    unknown: bool


@dataclass(frozen=True)
class MissingVocabulary:
    """缺的字与词，各按次数从多到少；次数相同按码位。

    Args:
        characters: 缺的字。
        words: 缺的词，两个字以上；没有切词器时为空。
        num_characters: 语料的字数，不计空白。
        num_unknown: 其中成为 [UNK] 的字数，没有列出的稀见字也在内。
    """

    characters: tuple[MissingPiece, ...]
    words: tuple[MissingPiece, ...]
    num_characters: int
    num_unknown: int

    @property
    def unknown_rate(self) -> float:
        """成为 [UNK] 的字占的比例，[0, 1]。"""
        return self.num_unknown / self.num_characters

    def tokens(self, num_characters: int, num_words: int = 0) -> list[str]:
        """最常见的若干个缺字与缺词，字在前。

        Args:
            num_characters: 至多几个字。
            num_words: 至多几个词。
        """
        chosen = (*self.characters[:num_characters], *self.words[:num_words])
        return [piece.text for piece in chosen]

    def as_dict(self) -> dict[str, object]:
        """供 `--json` 输出的字典。"""
        return {**asdict(self), "unknown_rate": self.unknown_rate}

    def __str__(self) -> str:
        """中文表格：字与词各列最常见的二十个。"""
        rows = [
            (piece.text, kind, piece.count, " ".join(piece.pieces))
            for kind, pieces in (("字", self.characters), ("词", self.words))
            for piece in pieces[:_SHOWN]
        ]
        summary = (
            f"{self.num_characters:,} 字，认不得的占 {self.unknown_rate:.2%}；"
            f"缺 {len(self.characters):,} 个字、{len(self.words):,} 个词"
        )
        if not rows:
            return summary
        return f"{summary}\n{format_table(('原文', '类', '次数', '现在的切法'), rows)}"


def missing_vocabulary(
    documents: Iterable[Document],
    tokenizer: Any,
    *,
    segmenter: Segmenter | None = None,
    min_count: int = 2,
) -> MissingVocabulary:
    """找出语料里分词器认不得或要拆开的字与词。

    文档逐篇读过，内存只随不同的字与词增长。

    Args:
        documents: 文档，可以是只读一遍的流；句对两侧都算。
        tokenizer: transformers 的分词器，快慢都行。
        segmenter: 切词器；不给就只看字。
        min_count: 出现不到这么多次的不列。

    Returns:
        按次数排好的缺字与缺词。

    Raises:
        CorpusError: 语料里没有字，或 `min_count` 不是正数。

    例（词表里没有“鱻”）：

        >>> from companion.checkpoints import tiny_tokenizer
        >>> document = Document("天子曰鱻，臣曰鱻。", "a#1", "a")
        >>> found = missing_vocabulary([document], tiny_tokenizer("bert"))
        >>> [(piece.text, piece.count, piece.pieces) for piece in found.characters]
        [('鱻', 2, ('[UNK]',))]
    """
    if min_count < 1:
        raise CorpusError(
            found=f"min_count 是 {min_count}",
            expected="至少 1",
            remedy="写 1 列出全部，写大些只看常见的",
        )
    characters: Counter[str] = Counter()
    words: Counter[str] = Counter()
    for document in documents:
        for text in (document.text, document.target or ""):
            characters.update(text)
            if segmenter is not None:
                words.update(filter(_worth_a_token, segmenter(text)))
    for char in [char for char in characters if char.isspace()]:
        del characters[char]
    if not characters:
        raise CorpusError(
            found="语料里没有一个字",
            expected="至少一篇有文字的文档",
            remedy="检查路径；一次性的流是不是已经读过一遍",
        )
    missing = list(_missing(characters, tokenizer, 1))
    return MissingVocabulary(
        tuple(piece for piece in missing if piece.count >= min_count),
        tuple(_missing(words, tokenizer, min_count)),
        characters.total(),
        sum(piece.count for piece in missing if piece.unknown),
    )


def _worth_a_token(word: str) -> bool:
    """两个字以上，且全是文字与数字：标点连成的串不值得占一个词元。"""
    return len(word) > 1 and word.isalnum()


def _missing(
    counts: Counter[str], tokenizer: Any, min_count: int
) -> Iterator[MissingPiece]:
    """按次数排好，逐批请分词器切，留下认不得或拆成几个词元的。"""
    frequent = [text for text, count in counts.items() if count >= min_count]
    frequent.sort(key=lambda text: (-counts[text], text))
    unknown = unknown_id(tokenizer)
    vocabulary: dict[str, int] = tokenizer.get_vocab() if frequent else {}
    for at in range(0, len(frequent), _BATCH):
        texts = frequent[at : at + _BATCH]
        encoded = encode_texts(TextBatch(texts, [True] * len(texts)), tokenizer)
        ids, stop = encoded.ids.tolist(), 0
        for text, length in zip(texts, encoded.lengths.tolist(), strict=True):
            start, stop = stop, stop + length
            names = tokenizer.convert_ids_to_tokens(ids[start:stop])
            pieces = _without_marker(names, text)
            lost = unknown in ids[start:stop] or any(
                piece not in vocabulary for piece in pieces
            )
            if pieces and (lost or len(pieces) > 1):
                yield MissingPiece(text, counts[text], tuple(pieces), lost)


def _without_marker(pieces: list[str], text: str) -> list[str]:
    """略去 SentencePiece 加在词首的 “▁”：字在文中间时没有它。"""
    if not pieces or not pieces[0].startswith("▁") or text.startswith("▁"):
        return pieces
    first = pieces[0].removeprefix("▁")
    return [first, *pieces[1:]] if first else pieces[1:]
