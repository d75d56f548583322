"""测试用的检查点文件夹：完整的、残缺的、只有词表的。"""

import json
import struct
from pathlib import Path
from typing import Any

from companion.checkpoints.reading import quiet_transformers
from companion.checkpoints.tiny import decoder_tokenizer, tiny_model, tiny_tokenizer


def write_checkpoint(folder: Path, kind: str, **overrides: Any) -> Path:
    """某种架构的极小检查点，safetensors。"""
    tokenizer = tiny_tokenizer(kind)
    with quiet_transformers():
        tiny_model(kind, tokenizer, **overrides).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def write_glm(folder: Path) -> Path:
    """公开的 GLM（glm-4-9b-hf、glm-edge）：写空的词元齐全，开头自动加 [gMASK]<sop>。"""
    from tokenizers import processors

    end, blanks = "<|endoftext|>", ["[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"]
    tokenizer = decoder_tokenizer(None, end, end, *blanks)()
    tokenizer.add_special_tokens({"extra_special_tokens": blanks})
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"
    heads = [(each, tokenizer.convert_tokens_to_ids(each)) for each in blanks]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[gMASK] <sop> $A", pair="[gMASK] <sop> $A $B", special_tokens=heads
    )
    with quiet_transformers():
        tiny_model("glm", tokenizer).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def write_old_checkpoint(folder: Path, kind: str = "bert") -> Path:
    """旧式检查点，如真的 SikuBERT：只有 .bin、vocab.txt 与 config.json。

    T5、mT5 的词表文件是 spiece.model；别的架构一律配 BERT 的词表。
    """
    import torch

    folder.mkdir(parents=True)
    write = write_sentencepiece if kind in ("t5", "mt5") else write_vocabulary
    tokenizer = tiny_tokenizer(kind if write is write_sentencepiece else "bert")
    model = tiny_model(kind, tokenizer)
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    write(folder, tokenizer)
    return folder


def write_sentencepiece(folder: Path, tokenizer: Any) -> None:
    """T5 式的 spiece.model：SentencePiece 的 protobuf，没有 tokenizer.json。

    T5 的哨兵不在里面，由 `extra_ids` 补在末尾；mT5 的在词表里头，照写。
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    added = {t["content"] for t in state["added_tokens"]} - {"<pad>", "</s>", "<unk>"}
    pieces = [p for p in state["model"]["vocab"] if p[0] not in added]
    kinds = {"<pad>": 3, "</s>": 3, "<unk>": 2}  # 控制、未知；其余 1 是寻常的
    spm = b"".join(
        _message(
            1,
            _message(1, piece.encode())
            + b"\x15"
            + struct.pack("<f", score)
            + _number(3, kinds.get(piece, 1)),
        )
        for piece, score in pieces
    )
    spm += _message(2, _number(3, 1) + _number(40, 2))  # Unigram，<unk> 是第 2 个
    spm += _message(3, _message(1, b"identity") + _number(3, 1))
    (folder / "spiece.model").write_bytes(spm)
    settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": len(added)}
    names = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | names))


def _varint(value: int) -> bytes:
    """Protobuf 的变长整数。"""
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _number(place: int, value: int) -> bytes:
    return _varint(place << 3) + _varint(value)


def _message(place: int, content: bytes) -> bytes:
    return _varint(place << 3 | 2) + _varint(len(content)) + content


def write_vocabulary(folder: Path, tokenizer: Any) -> None:
    """BERT 式的 vocab.txt：一行一个词元，行号就是编号。"""
    vocabulary = tokenizer.get_vocab()
    lines = sorted(vocabulary, key=vocabulary.__getitem__)
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def edit_weights(folder: Path, change: Any) -> None:
    """改写 model.safetensors：`change` 收下并返回 名字 → 张量 的字典。"""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
