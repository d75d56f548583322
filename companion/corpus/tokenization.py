"""从文字到词元：切成小段，成批地分，每个字都有账。

    文档 --cut_texts--> 一批小段 --encode_texts--> Encoded（编号、字数、词的关系）

快速分词器（`is_fast`）给出字符偏移，字数与词界都由偏移算出。纯 Python 的分词器（XLM、
FlauBERT、ByT5）没有偏移，只好拿词元的文字在原文里依次对回去，对不上的那一段记在这一段的
首个词元上；词界便不可靠，所以拒绝全词掩码。

几个词元才写出一个字的（ByT5 的字节、Llama 的 `<0xE9>`），字记在首个词元上：

    清        ⟨E6⟩ ⟨B8⟩ ⟨85⟩          1 0 0
    鬱鬱      <0xE9> <0xAC> <0xB1> …   1 0 0 1 0 0

语料里照字面出现的 “[MASK]”“<|endoftext|>”“<extra_id_0>” 是文字，不是特殊词元，拆开：它
们由训练加进行里，正文里来的会冒充。登记过的别的特殊词元（用户添的 “[注]”，对话模型的
“<|im_start|>”）是正文的一部分，整个编码，同 transformers 一样。

形状字母：T 词元，K 小段。
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, pairwise
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from companion.corpus.encoding import good_stop
from companion.corpus.words import Segmenter, word_ids
from companion.errors import CorpusError

CONTINUES, STARTS, OUTSIDE = 0, 1, 2
"""词元与词的关系：承接前词、另起一词、不属于任何词（空白）。"""

CHUNK_CHARACTERS = 16_384
BATCH_CHARACTERS = 131_072

_MAX_NUM_CHARS = 255  # num_chars 存作 uint8


_INSERTED = re.compile(
    r"<extra_id_\d+>|extra\d+|<unused\d+>|"  # T5、UER、Gemma
    r"\[[gs]?MASK\]|<\|?(start|end)ofpiece\|?>|[\[<][se]op[\]>]|"  # GLM
    r"<\|?fim[_-](prefix|suffix|middle)\|?>|▁<(PRE|SUF|MID|EOT)>|"
    r"<｜fim▁(begin|hole|end)｜>"  # 中间填补
)
"""名字如此的特殊词元由训练目标加进行里。"""


class TextBatch(NamedTuple):
    """一批小段；长文档切成几段，`ends[k]` 说第 k 段是不是文档的最后一段。"""

    texts: list[str]
    ends: list[bool]


class Encoded(NamedTuple):
    """一批小段的词元，首尾相接。

    Attributes:
        ids: 编号 (T,) int64，不含特殊词元。
        num_chars: 每个词元所占的字数 (T,) uint8。
        words: 与词的关系 (T,) uint8，没有切词器时为 None。
        lengths: 各小段的词元数 (K,) int64。
        ends: 各小段是不是文档的最后一段。
        characters: 这批文字的字数。
    """

    ids: NDArray[np.int64]
    num_chars: NDArray[np.uint8]
    words: NDArray[np.uint8] | None
    lengths: NDArray[np.int64]
    ends: list[bool]
    characters: int


def cut_texts(texts: Iterable[str]) -> Iterator[TextBatch]:
    """把文档流切成小段、凑成批；每批约 `BATCH_CHARACTERS` 字，至少一段。"""
    batch, size = TextBatch([], []), 0
    for text in texts:
        for chunk, end in _chunks(text):
            batch.texts.append(chunk)
            batch.ends.append(end)
            size += len(chunk) + 64  # 空文档也占一点，免得一批里有无数篇
            if size >= BATCH_CHARACTERS:
                yield batch
                batch, size = TextBatch([], []), 0
    if batch.texts:
        yield batch


def _chunks(text: str) -> Iterator[tuple[str, bool]]:
    at = 0
    while len(text) - at > CHUNK_CHARACTERS:
        stop = good_stop(text, at + CHUNK_CHARACTERS // 2, at + CHUNK_CHARACTERS)
        yield text[at:stop], False
        at = stop
    yield text[at:], True


def encode_texts(
    batch: TextBatch, tokenizer: Any, segmenter: Segmenter | None = None
) -> Encoded:
    """给一批小段分词。

    Args:
        batch: 小段。
        tokenizer: transformers 的分词器。
        segmenter: 切词器；给了才有 `words`。

    Returns:
        首尾相接的词元。

    Raises:
        CorpusError: 分词器没有字符偏移却要词界，或切词器改动了文字。
    """
    require_offsets(tokenizer, segmenter)
    encoded = list(token_spans(batch.texts, tokenizer))
    owners = space_owner(tokenizer)
    counts: list[NDArray[np.uint8]] = []
    words: list[NDArray[np.uint8]] = []
    for text, (ids, offsets) in zip(batch.texts, encoded, strict=True):
        counts.append(count_characters(ids, offsets, text, *owners))
        if segmenter is not None:
            words.append(word_codes(word_ids(offsets, segmenter(text), text)))
    return Encoded(
        ids=np.concatenate([ids for ids, _ in encoded]),
        num_chars=np.concatenate(counts),
        words=np.concatenate(words) if segmenter is not None else None,
        lengths=np.array([len(ids) for ids, _ in encoded], np.int64),
        ends=batch.ends,
        characters=sum(map(len, batch.texts)),
    )


def require_offsets(tokenizer: Any, segmenter: Segmenter | None) -> None:
    """要词界，就要有字符偏移。

    Raises:
        CorpusError: 给了切词器，而分词器是纯 Python 的。
    """
    if segmenter is not None and not tokenizer.is_fast:
        raise CorpusError(
            found=f"{type(tokenizer).__name__} 是纯 Python 分词器，没有字符偏移",
            expected="词界要经字符偏移才能落到词元上",
            remedy="改用 granularity=token，或换一个有快速分词器的检查点",
        )


def joined(encoded: Sequence[Encoded]) -> Encoded:
    """几批接成一批，`lengths` 与 `ends` 由小段合成文档；末尾须是文档的末尾。"""
    ends = np.array([end for batch in encoded for end in batch.ends])
    stops = np.cumsum(np.concatenate([batch.lengths for batch in encoded]))[ends]
    words = [batch.words for batch in encoded if batch.words is not None]
    return Encoded(
        ids=np.concatenate([batch.ids for batch in encoded]),
        num_chars=np.concatenate([batch.num_chars for batch in encoded]),
        words=np.concatenate(words) if words else None,
        lengths=np.diff(stops, prepend=0),
        ends=[True] * len(stops),
        characters=sum(batch.characters for batch in encoded),
    )


_Pair = tuple[NDArray[np.int64], NDArray[np.int64]]  # 编号 (T,) 与偏移 (T, 2)


def text_ids(text: str, tokenizer: Any) -> list[int]:
    """一段文字的编号，不带首尾的特殊词元；训练时怎样切，这里就怎样切。

    >>> from companion.checkpoints.tiny import tiny_tokenizer
    >>> bert = tiny_tokenizer("bert")
    >>> bert.convert_ids_to_tokens(text_ids("良[SEP]", bert))
    ['良', '[UNK]', 's', '##e', '##p', '[UNK]']
    """
    return [
        number
        for batch in cut_texts([text])
        for ids, _ in token_spans(batch.texts, tokenizer)
        for number in ids.tolist()
    ]


def keeps_line_breaks(tokenizer: Any) -> bool:
    r"""分词器写得出换行吗：与空格、与没有都编得不同，也不是 [UNK]。

    字节级的都行；BERT 略去它，T5 当作空格，便不行。

    >>> from companion.checkpoints import tiny_tokenizer
    >>> [keeps_line_breaks(tiny_tokenizer(family)) for family in ("gpt2", "t5")]
    [True, False]
    """
    broken, spaced, joined = (
        ids.tolist() for ids, _ in token_spans(["a\nb", "a b", "ab"], tokenizer)
    )
    unknown = unknown_id(tokenizer)
    return broken not in (spaced, joined) and (
        broken.count(unknown) <= joined.count(unknown)
    )


def token_spans(texts: list[str], tokenizer: Any) -> Iterator[_Pair]:
    """各段文字的编号 (T,) int64 与它们在段内的字符区间 (T, 2) int64。

    哪些特殊词元拆开、哪些整个编码，见 `registered_tokens`；纯 Python 的分词器没有偏移，
    区间由词元的文字对回去。
    """
    return (_encode_fast if tokenizer.is_fast else _encode_slow)(texts, tokenizer)


def registered_tokens(tokenizer: Any) -> list[str]:
    """登记过、在正文里整个编码的特殊词元：没有角色，也不由训练目标加进行里。

    >>> from companion.checkpoints.tiny import tiny_tokenizer
    >>> bert = tiny_tokenizer("bert")
    >>> _ = bert.add_special_tokens({"additional_special_tokens": ["[注]"]})
    >>> registered_tokens(bert)
    ['[注]']
    """
    roles = {str(getattr(tokenizer, f"{role}_token", None)) for role in _ROLES}
    return [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special
        and token.content not in roles
        and not _INSERTED.fullmatch(token.content)
    ]


_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_BACKENDS: WeakKeyDictionary[Any, tuple[list[str], Any]] = WeakKeyDictionary()
"""分词器 → 登记过的特殊词元，与把它们当普通添加词元的后端。"""


def decoded(ids: Iterable[int], tokenizer: Any) -> str:
    """编号 → 文字；略去的只有角色与训练目标加的词元，登记过的照样写出。"""
    kept = set(tokenizer.convert_tokens_to_ids(registered_tokens(tokenizer)))
    special = set(tokenizer.all_special_ids) - kept
    return tokenizer.decode(
        [number for number in ids if number not in special], skip_special_tokens=False
    )


def _backend(tokenizer: Any) -> Any:
    """切正文用的后端。

    登记过的特殊词元改作普通添加词元；Unigram 的词表里也列着 “</s>” 之类，正文里的就会
    切成它，所以把它们改成正文里写不出的名字。两样都没有时就是分词器自己的后端。
    """
    own, kept = tokenizer.backend_tokenizer, registered_tokens(tokenizer)
    if not kept and type(own.model).__name__ != "Unigram":
        return own
    before, backend = _BACKENDS.get(tokenizer, ([], None))
    if backend is None or before != kept:
        settings = json.loads(own.to_str())
        unigram = settings["model"]["type"] == "Unigram"
        hidden: dict[str, str] = {}
        for entry in settings["added_tokens"]:
            if entry["content"] in kept:
                entry["special"] = False
            elif entry["special"] and unigram:
                name = entry["content"]
                hidden[name] = entry["content"] = "\0" + name
        for piece in settings["model"]["vocab"] if unigram else ():
            piece[0] = hidden.get(piece[0], piece[0])
        backend = type(own).from_str(json.dumps(settings))
        _BACKENDS[tokenizer] = (kept, backend)
    return backend


def _encode_fast(texts: list[str], tokenizer: Any) -> Iterator[_Pair]:
    # 直接问后端：外层的 __call__ 要把每个词元另造成几个列表，慢一倍
    backend = _backend(tokenizer)
    before = backend.encode_special_tokens
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True  # 余下的特殊词元拆开
    try:
        found = backend.encode_batch(texts, add_special_tokens=False)
    finally:
        backend.encode_special_tokens = before
    for each in found:
        offsets = np.fromiter(chain.from_iterable(each.offsets), np.int64)
        offsets = offsets.reshape(-1, 2)
        _divide_bytes(offsets, each)
        yield np.array(each.ids, np.int64), offsets


def _divide_bytes(offsets: NDArray[np.int64], encoding: Any) -> None:
    """几个生字的字节共有一个区间时（Unigram 的 byte_fallback），就地分给各字。

    Args:
        offsets: 字符区间 (T, 2)。
        encoding: `tokenizers.Encoding`；字节写作 `<0xE9>`。
    """
    begin, end = offsets.T
    alike = (begin[1:] == begin[:-1]) & (end[1:] == end[:-1])
    if not (alike & (end - begin > 1)[1:]).any():
        return
    edges = np.flatnonzero(~np.concatenate(([False], alike, [False])))
    tokens: list[str] = encoding.tokens
    for start, stop in pairwise(edges.tolist()):  # 区间相同的一串词元
        values = [_BYTE.fullmatch(token) for token in tokens[start:stop]]
        first, last = offsets[start].tolist()
        if last - first < 2 or not all(values):
            continue
        heads = np.cumsum(
            [(int(each[1], 16) & 0xC0) != 0x80 for each in values if each]
        )
        count = last - first
        # 正规化改过字数时，平摊
        offsets[start:stop, 0] = first + (heads - 1).clip(0) * count // heads[-1]
        offsets[start:stop, 1] = first + heads.clip(1) * count // heads[-1]


_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def _encode_slow(texts: list[str], tokenizer: Any) -> Iterator[_Pair]:
    kept = sorted(registered_tokens(tokenizer), key=len, reverse=True)
    border = f"({'|'.join(map(re.escape, kept))})" if kept else "(?!)"
    for text in texts:
        tokens: list[str] = []
        for piece in re.split(border, text):
            whole = piece in kept
            tokens += (
                [piece]
                if whole
                else tokenizer.tokenize(piece, split_special_tokens=True)
            )
        ids = np.array(tokenizer.convert_tokens_to_ids(tokens), np.int64)
        pieces = _written(tokens, tokenizer)
        if "".join(pieces) == text:  # 一个字也没有改写，空白也在
            stops = np.cumsum([0, *map(len, pieces)])
            yield ids, np.stack([stops[:-1], stops[1:]], axis=1)
            continue
        # 词元写在纸上的样子：去掉 ## ▁ </w> 之类的记号
        yield ids, align_pieces([p.strip().removeprefix("##") for p in pieces], text)


def _written(tokens: list[str], tokenizer: Any) -> list[str]:
    """各词元写出的文字；几个词元才写出一个字的，字归首个，其余是空的。"""
    write: Callable[[list[str]], str] = tokenizer.convert_tokens_to_string
    alone = {token: write([token]) for token in set(tokens)}
    pieces = [alone[token] for token in tokens]
    partial = [not piece or _NO_CHARACTER in piece for piece in pieces]
    at = 0
    while at < len(tokens):
        size = 2 if partial[at] else _MAX_BYTES + 1
        while size <= _MAX_BYTES and all(partial[at : at + size]):
            whole = write(tokens[at : at + size])
            if whole and _NO_CHARACTER not in whole:
                pieces[at : at + size] = [whole, *[""] * (size - 1)]
                at += size - 1
                break
            size += 1
        at += 1
    return pieces


_NO_CHARACTER = "\ufffd"  # 不成字的字节解码出来的
_MAX_BYTES = 4  # UTF-8 的一个字至多几个字节


def align_pieces(pieces: list[str], text: str) -> NDArray[np.int64]:
    """没有偏移时，在原文里依次寻找各词元的文字，(T, 2) int64。

    找不到的（[UNK]、改写过的标点）不动；两个找到的词元之间剩下的文字，归这一段首个找不到
    的词元，其余的得到空区间。
    """
    lowered = text.lower()
    if len(lowered) != len(text):  # 少数字母小写之后变长（İ），位置便不可信
        lowered = text
    spans = np.zeros((len(pieces), 2), np.int64)
    at, waiting = 0, -1  # waiting：本段首个没找到的词元
    for number, piece in enumerate(pieces):
        # 只在附近找：认错了远处的同一个字，中间的就全乱了
        needle = piece.lower()
        start = lowered.find(needle, at, at + len(needle) + 32) if needle else -1
        if start < 0:
            waiting = number if waiting < 0 else waiting
            spans[number] = at
            continue
        if waiting >= 0:
            spans[waiting] = at, at + len(text[at:start].rstrip())
            spans[waiting + 1 : number] = start
        at = start + len(needle)
        spans[number] = start, at
        waiting = -1
    if waiting >= 0:
        spans[waiting] = at, at + len(text[at:].rstrip())
        spans[waiting + 1 :] = spans[waiting, 1]
    return spans


def unknown_id(tokenizer: Any) -> int:
    """[UNK] 的编号，文字变不出它的为 −1；外层没写时问后端的模型。

    GPT-2 的“未知”就是文档结尾：字节级的词表什么字都认得，文字里不会出现它。
    """
    found = tokenizer.unk_token_id
    if found is None and tokenizer.is_fast:
        backend = tokenizer.backend_tokenizer
        model = json.loads(backend.model.__getstate__())
        token = model.get("unk_token")  # Unigram 写的是编号 unk_id
        found = model.get("unk_id") if token is None else backend.token_to_id(token)
    return -1 if found is None or found == tokenizer.eos_token_id else int(found)


def space_owner(tokenizer: Any) -> tuple[bool, int]:
    """分词器怎样对待空白：(偏移是否略去词元自带的空白, 单个 “▁” 的编号或 −1)。

    GPT-2 的后处理（trim_offsets）让 “Ġhello” 的偏移不含空格，可空格确实由它预测。
    """
    if not tokenizer.is_fast:
        return False, -1
    backend = tokenizer.backend_tokenizer
    step = backend.post_processor
    trims = step is not None and _trims(json.loads(step.__getstate__()))
    marker = backend.token_to_id("▁")
    return trims, -1 if marker is None else marker


def _trims(step: dict[str, Any]) -> bool:
    inner: list[dict[str, Any]] = step.get("processors", [])  # Sequence 里套着几步
    return bool(step.get("trim_offsets")) or any(map(_trims, inner))


def count_characters(
    ids: NDArray[np.int64],
    offsets: NDArray[np.int64],
    text: str,
    trims: bool = False,
    marker: int = -1,
) -> NDArray[np.uint8]:
    """每个词元所占的字数：每个字至多记一次，记在首个写到它的词元上。

    Args:
        ids: 编号 (T,)。
        offsets: 字符区间 (T, 2)。
        text: 原文。
        trims: 偏移略去了词元自带的空白；为真时缝隙里的字归后一个词元。
        marker: 单个 “▁” 的编号；它若不代表原文的空白，就一个字也不占。

    Returns:
        (T,) uint8；一个词元若超过 255 个字（极长的 [UNK]），记 255。
    """
    begin, end = offsets[:, 0], offsets[:, 1].copy()
    for index in np.flatnonzero(ids == marker):  # 编号不为负，marker 为 −1 时没有
        covered = text[begin[index] : end[index]]
        if covered != "▁" and not covered.isspace():
            end[index] = begin[index]
    if trims and len(end):  # 末尾的空白也有词元
        end[-1] = len(text)
    reach = np.maximum.accumulate(end)  # (T,) 到此为止写到了第几个字
    before = np.concatenate(([0], reach))[:-1]
    counts = end - (before if trims else np.maximum(begin, before))
    return np.clip(counts, 0, _MAX_NUM_CHARS).astype(np.uint8)


def word_codes(ids: NDArray[np.int64]) -> NDArray[np.uint8]:
    """词号 (T,) 变为与词的关系 (T,) uint8：`CONTINUES`、`STARTS` 或 `OUTSIDE`。"""
    highest = np.concatenate(([-1], np.maximum.accumulate(ids)))[:-1]
    codes = np.where(ids > highest, STARTS, CONTINUES)
    return np.where(ids < 0, OUTSIDE, codes).astype(np.uint8)
