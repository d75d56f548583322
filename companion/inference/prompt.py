"""续写的两头：开头怎样编号，写下的词元怎样变回文字；各种续写共用。"""

from dataclasses import dataclass
from typing import Any

from companion.checkpoints.running import position_limit, special_edges
from companion.errors import ModelError, ObjectiveError
from companion.inference.filling import without_added_spaces

_BROKEN = "\ufffd"


@dataclass(frozen=True)
class Completion:
    """一段续写。"""

    text: str
    """开头加续写。"""
    new_text: str
    """只有续写；末尾写了一半的字（字节级分词器会这样）已删去。"""
    finished: bool
    """模型自己写了文档结尾（EOS），而不是写够了数目停下。"""


def encode_prompt(checkpoint: Any, text: str) -> list[int]:
    """开头的编号；分词器若自动加文档结尾，这里不要。

    Raises:
        ObjectiveError: 开头没有词元。
        ModelError: 开头已占满位置上限。
    """
    tokenizer = checkpoint.tokenizer
    bare = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    if not bare:
        raise ObjectiveError(
            found="开头是空的",
            expected="至少一个字，模型好接着写",
            remedy="给一个开头，例如 狡兔死，走狗烹；飞鸟尽，良弓",
        )
    ids = [*special_edges(tokenizer).prefix, *bare]
    limit = position_limit(checkpoint.model)
    if limit is not None and len(ids) >= limit:
        raise ModelError(
            found=f"开头有 {len(ids)} 个词元",
            expected=f"少于 {checkpoint.name} 的位置上限 {limit}，才有地方续写",
            remedy="截短开头，只留最后几句",
        )
    return ids


def stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """文档结尾的编号：生成设置里的（可能有几个）与分词器的。"""
    found: list[int] = []
    for source in (getattr(model, "generation_config", None), tokenizer):
        value = getattr(source, "eos_token_id", None)
        found += [] if value is None else [value] if isinstance(value, int) else value
    return sorted(set(found))


def as_completion(
    tokenizer: Any, text: str, prompt: list[int], kept: list[int], *, finished: bool
) -> Completion:
    """写下的词元 `kept`（不含结尾）→ 文字。"""
    # 连着开头一起解码再减去开头：SentencePiece 单独解码会丢掉词首的空格
    whole = tokenizer.decode([*prompt, *kept], skip_special_tokens=True)
    head = tokenizer.decode(prompt, skip_special_tokens=True)
    if whole.startswith(head):
        new_text = whole[len(head) :]
    else:
        new_text = tokenizer.decode(kept, skip_special_tokens=True)
    new_text = without_added_spaces(tokenizer, new_text)
    if not finished:
        new_text = new_text.rstrip(_BROKEN)
    return Completion(text + new_text, new_text, finished)
