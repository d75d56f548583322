"""三种分词器，同样大小的词表，由同一份语料练出来：只为比较切法，不是谁家的成品。

不要网络，几秒就练成；`t4` 与 `full` 另打开公开检查点的分词器，并排比较。
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from companion.checkpoints.loading import load_tokenizer
from companion.corpus.document import Document
from companion.corpus.tokenization import TextBatch, cut_texts, encode_texts, unknown_id
from companion.errors import CorpusError
from companion.notebook.naive import MAX_PIECE
from companion.notebook.profiles import require_profile

WORD_PIECE, SENTENCE_PIECE, BYTE_BPE = "WordPiece", "SentencePiece", "字节 BPE"
_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_UNIGRAM_SPECIALS = ["<pad>", "</s>", "<unk>"]
_PUBLIC = {
    "WordPiece，文言": "SIKU-BERT/sikubert",
    "WordPiece，白话": "hfl/chinese-roberta-wwm-ext",
    "SentencePiece，mT5": "google/mt5-small",
    "字节 BPE，BLOOM": "bigscience/bloom-560m",
    "字节 BPE，Qwen": "Qwen/Qwen3-0.6B-Base",
}
PUBLIC: dict[str, dict[str, str]] = {"tiny": {}, "t4": _PUBLIC, "full": _PUBLIC}
"""档 → 名字 → 公开的检查点；`tiny` 没有网络，只比当场练的三个。"""
_RESTORED = 500
"""至多拿多少句去试还原。"""


def public_tokenizers(profile: str) -> dict[str, Any]:
    """公开检查点的分词器，不下载权重；`tiny` 一档没有。

    Args:
        profile: `tiny`、`t4` 或 `full`。

    Raises:
        ConfigError: 没有这一档。
        ModelError: 打不开。
    """
    require_profile(profile, PUBLIC)
    return {name: load_tokenizer(each) for name, each in PUBLIC[profile].items()}


def train_tokenizers(
    documents: Iterable[Document], vocab_size: int = 2000
) -> dict[str, Any]:
    """由一份语料练出三种分词器，词表一样大。

    Args:
        documents: 语料；句对的两侧都用。
        vocab_size: 词表大小，含特殊词元与字节。

    Returns:
        `WordPiece`、`SentencePiece`、`字节 BPE` 到 transformers 的快速分词器。

    Raises:
        CorpusError: 词表小得装不下语料里的每个字。
    """
    texts = [
        text
        for document in documents
        for text in sentences(document.text) + sentences(document.target or "")
    ]
    return {
        WORD_PIECE: _word_piece(texts, vocab_size),
        SENTENCE_PIECE: _unigram(texts, vocab_size),
        BYTE_BPE: _byte_bpe(texts, vocab_size),
    }


def sentences(text: str) -> list[str]:
    """在句号、问号、叹号之后断开，标点留在句末。

    >>> sentences("公从之。二月，以梁圭为太衡")
    ['公从之。', '二月，以梁圭为太衡']
    """
    cut = text
    for mark in "。？！":
        cut = cut.replace(mark, mark + "\n")
    return [line for line in cut.split("\n") if line]


def _word_piece(texts: Sequence[str], vocab_size: int) -> Any:
    """BERT 的切法：汉字逐字分开；最常见的字进词表，其余是 [UNK]。"""
    from transformers import BertTokenizer

    counts = Counter(char for text in texts for char in text if not char.isspace())
    ranked = sorted(counts, key=lambda char: (-counts[char], char))
    words = [*_SPECIALS, *ranked][:vocab_size]
    return BertTokenizer(vocab={word: number for number, word in enumerate(words)})


def _unigram(texts: Sequence[str], vocab_size: int) -> Any:
    """T5、mT5、XLM-R 的切法；照它们的样子先做 NFKC，全角逗号因此成了半角。"""
    needed = len(set("".join(texts))) + len(_UNIGRAM_SPECIALS) + 1  # 另有 ▁
    if vocab_size < needed:
        raise CorpusError(
            found=f"词表大小 {vocab_size:,}，而语料里不同的字就要 {needed:,} 个",
            expected="至少装得下每一个字",
            remedy=f"把 vocab_size 调到 {needed:,} 以上，或少给些文档",
        )
    from tokenizers import (
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        trainers,
    )

    unigram = Tokenizer(models.Unigram())
    unigram.normalizer = normalizers.NFKC()
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size,
        special_tokens=_UNIGRAM_SPECIALS,
        unk_token="<unk>",
        max_piece_length=MAX_PIECE,
        show_progress=False,
    )
    unigram.train_from_iterator(texts, trainer)
    return _fast(unigram, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def _byte_bpe(texts: Sequence[str], vocab_size: int) -> Any:
    """GPT-2、BLOOM、Qwen 的切法：256 个字节打底，任何文字都写得出。"""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return _fast(bpe, pad_token="<pad>", eos_token="</s>")


def _fast(backend: Any, **names: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def measure(tokenizer: Any, documents: Iterable[Document]) -> dict[str, float]:
    """一个分词器在一份文字上的表现。

    Args:
        tokenizer: transformers 的分词器。
        documents: 文字。

    Returns:
        `tokens_per_char` 每字几个词元；`unk_rate` 词元里 [UNK] 的比例；
        `restored_rate` 切开再拼回、与原文一字不差的句子的比例（至多五百句，不看空格）。
    """
    texts = [document.text for document in documents]
    tokens = unknown = characters = 0
    for batch in cut_texts(texts):
        encoded = encode_texts(batch, tokenizer)
        tokens += len(encoded.ids)
        unknown += int((encoded.ids == unknown_id(tokenizer)).sum())
        characters += encoded.characters
    lines = list(
        islice((each for text in texts for each in sentences(text)), _RESTORED)
    )
    return {
        "tokens_per_char": tokens / characters,
        "unk_rate": unknown / tokens,
        "restored_rate": sum(_restored(tokenizer, line) for line in lines) / len(lines),
    }


def _restored(tokenizer: Any, line: str) -> bool:
    ids = encode_texts(TextBatch([line], [True]), tokenizer).ids.tolist()
    written = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return "".join(written.split()) == "".join(line.split())
