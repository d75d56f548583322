"""给分词器添词元：在连贯的中文里切得出来，存盘重开还在，左右的文字照旧切。

两条路，看分词器的模型：

- Unigram（XLM-R、T5、mT5、Pegasus、mBART）：写进模型的词表，分数 0，是最高的对数概率。
  若走 `add_tokens`，词元把文字隔成两段，后一段开头会平白多出一个 “▁”。
- 其余（WordPiece、一字一元、字节 BPE）：`add_tokens`，在原文里直接找，不经正规化，
  BERT 的小写与加空格因此不碍事。

Unigram 的词表之外另有登记的词元时，编号已被占去，只好也走 `add_tokens`，并让 “▁” 只加在
全文开头。不论哪条路，添完都存盘重开，在文中试切一遍，不对就报错。
"""

import copy
import json
import tempfile
from collections.abc import Sequence
from typing import Any

from companion.checkpoints.quiet import quiet_transformers
from companion.corpus.tokenization import text_ids, unknown_id
from companion.errors import ModelError

_NEIGHBOUR = "之"  # 试切时放在词元后面的字
_HIGHEST = 0.0  # 概率 1 的对数


def add_tokens(tokenizer: Any, tokens: Sequence[str], config: Any) -> Any:
    """添了词元的一份新分词器；原来的不动。

    Args:
        tokenizer: transformers 的快速分词器。
        tokens: 要添的字与词。
        config: 模型的配置，重开时据此选分词器的类。

    Raises:
        ModelError: 词元不合格、没有快速后端，或在连贯的文字里切不出来。
    """
    _check_tokenizer(tokenizer)
    _check_tokens(tokenizer, tokens)
    from tokenizers import AddedToken

    extended = copy.deepcopy(tokenizer)
    if not _into_unigram(extended.backend_tokenizer, tokens):
        _mark_start_only(extended.backend_tokenizer)
        extended.add_tokens(
            [AddedToken(token, normalized=False, special=False) for token in tokens]
        )
    _check_found(extended, tokens)
    _check_found(_reopened(extended, config), tokens)
    return extended


def plain_pieces(tokenizer: Any, token: str) -> list[int]:
    """词元在旧词表里的切法，略去词首的 “▁” 与 [UNK]。"""
    skipped = {unknown_id(tokenizer), tokenizer.convert_tokens_to_ids("▁")}
    return [index for index in text_ids(token, tokenizer) if index not in skipped]


def _into_unigram(backend: Any, tokens: Sequence[str]) -> bool:
    """写进 Unigram 的词表；不是 Unigram，或编号接不上，就不写，返回 False。"""
    from tokenizers import models

    if not isinstance(backend.model, models.Unigram):
        return False
    state = json.loads(backend.model.__getstate__())
    pieces = [(piece, score) for piece, score in state["vocab"]]
    if backend.get_vocab_size(with_added_tokens=True) > len(pieces):
        return False
    pieces += [(token, _HIGHEST) for token in tokens]
    backend.model = models.Unigram(
        pieces, state["unk_id"], state.get("byte_fallback", False)
    )
    return True


def _mark_start_only(backend: Any) -> None:
    """“▁” 只加在全文开头，不加在每个添的词元之后。"""
    from tokenizers import pre_tokenizers

    step = backend.pre_tokenizer
    if isinstance(step, pre_tokenizers.Metaspace) and step.prepend_scheme == "always":
        step.prepend_scheme = "first"
        backend.pre_tokenizer = step


def _reopened(tokenizer: Any, config: Any) -> Any:
    """存盘再由 AutoTokenizer 打开。"""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder, quiet_transformers():
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def _check_found(tokenizer: Any, tokens: Sequence[str]) -> None:
    """词元在文中切得出来，后面的字不因它多出 “▁” 或空格。"""
    for token in tokens:
        index = tokenizer.convert_tokens_to_ids(token)
        ids = text_ids(f"{_NEIGHBOUR}{token}{_NEIGHBOUR}", tokenizer)
        after = ids[ids.index(index) + 1 :] if index in ids else []
        names = tokenizer.convert_ids_to_tokens(after)
        if not names or names[0].startswith(("▁", "Ġ")):
            cut = " ".join(tokenizer.convert_ids_to_tokens(ids))
            raise ModelError(
                found=f"添了“{token}”之后，“{_NEIGHBOUR}{token}{_NEIGHBOUR}”切成 {cut}",
                expected="词元在连贯的文字里切得出来，后面不多出空白的记号",
                remedy="核对它有没有异体的写法（正规化会改字），"
                "或换一个不给每段开头加空格的分词器",
            )


def _check_tokenizer(tokenizer: Any) -> None:
    if not tokenizer.is_fast:
        raise ModelError(
            found=f"{type(tokenizer).__name__} 是纯 Python 分词器，没有快速后端",
            expected="有 tokenizer.json 的快速分词器",
            remedy="换一个有快速分词器的检查点",
        )


def _check_tokens(tokenizer: Any, tokens: Sequence[str]) -> None:
    """逐个核对，第一个不合格的点名。"""
    if isinstance(tokens, str) or not tokens:
        raise ModelError(
            found=f"要添的词元是 {tokens!r}",
            expected="至少一个词元的列表，例如 ['鱻', '司马光']",
            remedy="放进列表；没有缺字缺词就不必扩充",
        )
    vocabulary = tokenizer.get_vocab()
    specials = {*tokenizer.all_special_tokens, *_special_entries(tokenizer)}
    seen: set[str] = set()
    for token in tokens:
        wrong = ""
        if not token or token != "".join(token.split()):
            wrong = "是空的或带有空白"
        elif token in specials:
            wrong = "是特殊词元"
        elif token in vocabulary or _already_whole(tokenizer, token):
            wrong = "已在词表里"
        elif token in seen:
            wrong = "重复了"
        if wrong:
            raise ModelError(
                found=f"要添的词元 {token!r} {wrong}",
                expected="不带空白、词表里没有、各不相同的字或词",
                remedy="从列表里去掉它；companion.corpus.missing_vocabulary "
                "找得出真正缺的",
            )
        seen.add(token)


def _special_entries(tokenizer: Any) -> list[str]:
    """登记为特殊、却没有名分的词元（T5 的哨兵）。"""
    added = tokenizer.added_tokens_decoder.values()
    return [entry.content for entry in added if entry.special]


def _already_whole(tokenizer: Any, token: str) -> bool:
    """词表里已有它，只是写法不同（字节 BPE 把字写成字节）。"""
    ids = plain_pieces(tokenizer, token)
    return len(ids) == 1 and tokenizer.decode(ids).strip() == token
