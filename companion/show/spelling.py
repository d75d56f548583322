"""一个词元给人看的样子。"""

import json
from functools import cache
from typing import Any


def token_text(tokenizer: Any, token_id: int) -> str:
    """一个词元给人看的样子。

    字节级 BPE 的词元存成一串怪字符（“å¸Ŀ”），这里还原成文字；只占半个汉字的词元还原
    不了，写成字节“⟨E5B8⟩”。其余分词器的词元照原样（“##光”“▁是”）。
    """
    token: str = tokenizer.convert_ids_to_tokens(token_id)
    if token_id in tokenizer.all_special_ids or not _is_byte_level(tokenizer):
        return token
    table = _byte_of_character()
    if any(character not in table for character in token):  # 后来添加的词元
        return token
    data = bytes(table[character] for character in token)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return f"⟨{data.hex().upper()}⟩"


def _is_byte_level(tokenizer: Any) -> bool:
    if not tokenizer.is_fast:
        return False
    decoder = tokenizer.backend_tokenizer.decoder
    return decoder is not None and "ByteLevel" in json.dumps(
        json.loads(decoder.__getstate__())
    )


@cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2 的字节表：可见的字节写成自己，其余依次写成 U+0100 起的字符。"""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {
        chr(256 + number): byte for number, byte in enumerate(hidden)
    }
