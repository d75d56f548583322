"""分词测试共用的：现搭的几种分词器，几篇短文。"""

import json
from pathlib import Path
from typing import Any, ClassVar

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    ByT5Tokenizer,
    CanineTokenizer,
    PerceiverTokenizer,
    PreTrainedTokenizer,
    PreTrainedTokenizerFast,
)

from companion.corpus.document import Document
from companion.corpus.tokens import Piece, TokenStore

CHARACTERS = "臣光曰：天子之职莫大于礼，分名。𠮷abc"
TEXTS = ["臣光曰：天子之职，莫大于礼。", "", "礼莫大于分\n分莫大于名", "abc 𠮷鬱é"]


def documents(texts: list[str]) -> list[Document]:
    """一段文字一篇。"""
    return [Document(text, str(n), "") for n, text in enumerate(texts)]


def build(kind: str) -> Any:
    """各类分词器，都不必训练。

    字的 WordPiece、字的 Unigram、逐字节的 BPE；词表外写成字节的 Unigram 与
    BPE（Llama）；没有偏移的：逐字节的 ByT5 与 Perceiver，逐字的 CANINE。
    """
    if kind == "wordpiece":
        vocab = {"[UNK]": 0, "[MASK]": 1}
        for char in CHARACTERS:
            vocab |= {char: len(vocab), f"##{char}": len(vocab) + 1}
        backend = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer()
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.add_special_tokens(["[MASK]"])
        return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    if kind == "sentencepiece":
        pieces = [("<unk>", 0.0), ("▁", -2.0), ("▁天", -1.0), ("大于", -1.5)]
        pieces += [(char, -3.0) for char in CHARACTERS]
        backend = Tokenizer(models.Unigram(pieces, unk_id=0))
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    if kind == "fallback":
        pieces = [("<unk>", 0.0), ("▁", -2.0), ("天", -2.0), ("大于", -1.5)]
        pieces += [(f"<0x{byte:02X}>", -9.0) for byte in range(256)]
        backend = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    if kind == "llama":
        vocab = {f"<0x{byte:02X}>": byte for byte in range(256)}
        vocab |= {"<unk>": 256, "▁": 257, "天": 258, "▁天": 259}
        backend = Tokenizer(
            models.BPE(vocab, [("▁", "天")], unk_token="<unk>", byte_fallback=True)
        )
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    if kind == "byt5":
        return ByT5Tokenizer()
    if kind == "perceiver":
        return PerceiverTokenizer()
    if kind == "canine":
        return CanineTokenizer()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.ByteLevel(trim_offsets=kind == "trimmed")
    return PreTrainedTokenizerFast(tokenizer_object=backend)


KINDS = ["wordpiece", "sentencepiece", "bytelevel", "trimmed"]
BYTES = ["fallback", "llama", "byt5", "perceiver", "canine"]
"""词元写不出整个字，或没有偏移的。"""
TOKENIZERS = {kind: build(kind) for kind in [*KINDS, *BYTES]}


class Slow(PreTrainedTokenizer):
    """纯 Python 的分词器，像 XLM 那样小写、改写标点，且没有偏移。"""

    vocab_files_names: ClassVar = {"vocab_file": "vocab.json"}

    def __init__(self, **kwargs: Any) -> None:
        self._vocab = {"<unk>": 0} | {f"{c}</w>": i for i, c in enumerate("天子a,", 1)}
        super().__init__(unk_token="<unk>", **kwargs)

    @property
    def vocab_size(self) -> int:
        return len(self._vocab)

    def get_vocab(self) -> dict[str, int]:
        return dict(self._vocab)

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        changed = text.lower().replace("，", ",")
        return [f"{char}</w>" for char in changed if not char.isspace()]

    def _convert_token_to_id(self, token: str) -> int:
        return self._vocab.get(token, 0)

    def _convert_id_to_token(self, index: int) -> str:
        return list(self._vocab)[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens).replace("</w>", " ")

    def save_vocabulary(
        self, save_directory: str, filename_prefix: str | None = None
    ) -> tuple[str]:
        path = Path(save_directory) / "vocab.json"
        path.write_text(json.dumps(self._vocab), "utf-8")
        return (str(path),)


def whole(store: TokenStore, document: int) -> Piece:
    """整篇文档。"""
    return Piece(document, 0, int(store.lengths[document]))
