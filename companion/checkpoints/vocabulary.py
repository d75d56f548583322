"""扩充词表：把领域里的缺字、缺词添进检查点，旧的一行不动。

新词元的行由它在旧词表里的切法取平均（输入、输出头、偏置都这样）：

    司马光 = 司 | 马 | 光   ->   新行 = (行司 + 行马 + 行光) / 3
    鱻     = [UNK]          ->   新行 = 全部普通行的平均 + 一点随词元而定的差别

为什么取平均：指数函数是凸的，exp(平均的 logit) 不大于 exp(logit) 的平均。所以一个新词元
分去的概率，不会超过它那几个旧词元概率的平均；全部普通行的平均则不超过 1/V。随机的行没有
这个保证，一行碰巧太大就压倒全部旧词元（Hewitt，2021，“Initializing New Word Embeddings
for Pretrained Language Models”）。按旧切法取平均也见于 Gee 等（2022，“Fast Vocabulary
Transfer for Language Model Compression”）。

为什么要差别：transformers 的 `mean_resizing` 从方差极小（乘以 1e-9）的正态分布里抽，
新行几乎全同，几个缺字在模型眼里是一个字，正如当初都是 [UNK]。这里只在平均值无从区分时
加一点差别：只切成 [UNK] 或一种旧词元，或与前面的新词元由同样的词元组成。差别由词元的文
字与种子决定。

因此，训练之前：不含新词元的文字，编号不变，旧词元的 logits 不变；损失只多出新词元分去的
那一点。评估按字计比特，因果模型扩充前后可比（按词元计的困惑度不可比）；其余目标只在不含
新词元的文字上可比，否则评估的字不同，`companion compare` 会拒绝。[UNK] 从不计分，缺字认
得了才开始计分，所以要连同 `unk_rate` 一起看。

词元怎样添进分词器，看它的模型：

- Unigram（XLM-R、T5、mT5、Pegasus、mBART）：写进模型的词表，分数 0，是最高的对数概率。
  若走 `add_tokens`，词元把文字隔成两段，后一段开头会平白多出一个 “▁”。
- 其余（WordPiece、一字一元、字节 BPE）：`add_tokens`，在原文里直接找，不经正规化，
  BERT 的小写与加空格因此不碍事。

Unigram 的词表之外另有登记的词元时，编号已被占去，只好也走 `add_tokens`，并让 “▁” 只加在
全文开头。不论哪条路，添完都存盘重开，在文中试切一遍，不对就报错。

形状字母：V 词表，D 宽度，P 切成的词元数。
"""

import copy
import hashlib
import json
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from companion.checkpoints.reading import placeless, quiet_transformers
from companion.corpus.tokenization import text_ids, unknown_id
from companion.errors import ModelError
from companion.objectives import Objective

if TYPE_CHECKING:
    from companion.checkpoints.loading import Checkpoint

DIFFERENCE = 0.1
"""加给无从区分的新行的差别：各维标准差的这一比例。"""
_NEIGHBOUR = "之"  # 试切时放在词元后面的字
_HIGHEST = 0.0  # 概率 1 的对数


@dataclass(frozen=True)
class Extension:
    """扩充的结果。"""

    checkpoint: "Checkpoint"
    """新的检查点，可以交给 `save_checkpoint`、评估与推理。"""
    tokens: tuple[str, ...]
    """添的词元。"""
    ids: tuple[int, ...]
    """它们的编号，依次对应。"""
    pieces: tuple[tuple[str, ...], ...]
    """它们在旧词表里的切法；空的是全为 [UNK]、以总平均起头的。"""


def extend_vocabulary(
    checkpoint: "Checkpoint", tokens: Sequence[str], *, seed: int = 0
) -> Extension:
    """添词元，扩词嵌入与输出头，新行由旧行的平均起头。

    模型就地扩大（大模型再抄一份放不下），原来的分词器不动；词元有错时两者都不动。旧词元
    的行逐位不变，`config.vocab_size` 随之改写。词嵌入本就比词表长的（BLOOM、T5），先用
    那些空着的行。

    Args:
        checkpoint: `load_checkpoint` 的结果。
        tokens: 要添的字与词，例如 `MissingVocabulary.tokens(…)`。
        seed: 只影响那一点差别。

    Raises:
        ModelError: 词元为空、带空白、重复、已在词表里，或是特殊词元；分词器没有快速后
            端，或添的词元在连贯的文字里切不出来。
    """
    model, old = checkpoint.model, checkpoint.tokenizer
    tokenizer = add_tokens(old, tokens, model.config)
    pieces = [plain_pieces(old, token) for token in tokens]
    ids = _grow(model, old, tokenizer, tokens, pieces, seed)
    shown = "、".join(tokens[:5])
    notice = f"词表添了 {len(tokens)} 个词元（{shown}{'……' if tokens[5:] else ''}）"
    extended = replace(
        checkpoint, tokenizer=tokenizer, notices=[*checkpoint.notices, notice]
    )
    names = tuple(tuple(old.convert_ids_to_tokens(each)) for each in pieces)
    return Extension(extended, tuple(tokens), tuple(ids), names)


def extend_for_objective(checkpoint: "Checkpoint", goal: Objective) -> "Checkpoint":
    """添上目标要而分词器没有的特殊词元（`Objective.special_tokens`）；不缺的原样返回。

    名字没有意思，所以不照旧切法，都由全部普通行的平均加一点差别起头。模型就地扩大。

    Args:
        checkpoint: 打开了的检查点。
        goal: 训练目标。
    """
    old = checkpoint.tokenizer
    tokenizer = goal.with_special_tokens(old)
    added = tokenizer.get_vocab().keys() - old.get_vocab().keys()
    tokens = sorted(added, key=tokenizer.convert_tokens_to_ids)
    if not tokens:
        return replace(checkpoint, tokenizer=tokenizer)
    _grow(checkpoint.model, old, tokenizer, tokens, [()] * len(tokens), 0)
    notice = (
        f"分词器没有 {goal.key} 要的 {' '.join(tokens)}，已添进词表；"
        "这几行还没有学过，训练之后才有意思"
    )
    notices = [*checkpoint.notices, notice]
    return replace(checkpoint, tokenizer=tokenizer, notices=notices)


def _grow(
    model: Any,
    old: Any,
    tokenizer: Any,
    tokens: Sequence[str],
    pieces: Sequence[Sequence[int]],
    seed: int,
) -> list[int]:
    """扩词嵌入与输出头，写好新词元的行；`old` 是没有它们的分词器。返回编号。"""
    ids: list[int] = tokenizer.convert_tokens_to_ids(list(tokens))
    rows = max(ids) + 1
    if rows > model.get_input_embeddings().weight.shape[0]:
        with quiet_transformers():
            model.resize_token_embeddings(rows, mean_resizing=False)
    ordinary = sorted(set(old.get_vocab().values()) - set(old.all_special_ids))
    with torch.no_grad():
        for rows_of in _row_tensors(model):
            _fill(rows_of, tokens, ids, pieces, ordinary, seed)
    return ids


@contextmanager
def embeddings_only(model: Any, ids: Sequence[int] | None = None) -> Generator[None]:
    """期间只训练词嵌入与输出头；出来时各参数能否训练恢复原样。

    先让新行在旧模型里找到位置，再放开全部参数，模型不必去迁就还没有学过的行。优化器要在
    里面建，它只收得到能训练的参数。

    Args:
        model: 带词嵌入的 transformers 模型。
        ids: 只让这些行有梯度（`Extension.ids`）；不给则各行都训。旧行要逐位不变，还须
            `weight_decay=0`：权重衰减不看梯度。

    Raises:
        ModelError: `ids` 超出词嵌入。
    """
    chosen = [
        rows for rows in _row_tensors(model) if isinstance(rows, torch.nn.Parameter)
    ]
    size = len(chosen[0])
    outside = [index for index in ids or () if not 0 <= index < size]
    if outside:
        raise ModelError(
            found=f"编号 {outside[0]} 不在词嵌入的 {size} 行之内",
            expected=f"0 到 {size - 1}",
            remedy="用 extend_vocabulary 返回的 ids",
        )
    before = [(weight, weight.requires_grad) for weight in model.parameters()]
    hooks: list[Any] = []
    try:
        for weight, _ in before:
            weight.requires_grad_(False)
        for rows in chosen:
            rows.requires_grad_(True)
            if ids is not None:
                hooks.append(rows.register_hook(_only(list(ids))))
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for weight, trained in before:
            weight.requires_grad_(trained)


def _only(ids: list[int]) -> Any:
    """梯度钩子：`ids` 之外的行清零。"""

    def keep(gradient: Tensor) -> Tensor:
        kept = torch.zeros_like(gradient)
        kept[ids] = gradient[ids]
        return kept

    return keep


def _row_tensors(model: Any) -> list[Tensor]:
    """一个词元一行的张量，(V, D) 或 (V,)，共享的只列一次。

    词嵌入，输出头与它的偏置；BART 一族另有加在输出上的 `final_logits_bias`。
    """
    head = model.get_output_embeddings()
    found: list[Tensor | None] = [model.get_input_embeddings().weight]
    if head is not None:
        found += [head.weight, getattr(head, "bias", None)]
    after = getattr(model, "final_logits_bias", None)  # (1, V)
    found.append(None if after is None else after[0])
    return list({id(each): each for each in found if each is not None}.values())


def _fill(
    rows: Tensor,
    tokens: Sequence[str],
    ids: Sequence[int],
    pieces: Sequence[Sequence[int]],
    ordinary: Sequence[int],
    seed: int,
) -> None:
    """写新词元的行；`rows` (V, D) 或 (V,)，就地改。"""
    known = rows[list(ordinary)].float()
    mean, deviation = known.mean(0), known.std(0)
    taken: set[tuple[int, ...]] = set()
    for token, index, parts in zip(tokens, ids, pieces, strict=True):
        start = rows[list(parts)].float().mean(0) if parts else mean
        key = tuple(sorted(parts))
        alike = len(set(parts)) < 2 or key in taken
        if alike and rows.dim() == 2:  # 偏置只有一个数，不必分辨
            start = start + DIFFERENCE * deviation * _noise(token, seed, len(start))
        taken.add(key)
        rows[index] = start.to(rows)


def _noise(token: str, seed: int, size: int) -> Tensor:
    """由词元的文字与种子决定的标准正态数，(D,) float32，在 CPU 上。"""
    digest = hashlib.sha256(f"{seed}\n{token}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.randn(size, generator=generator)


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
        opened = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return placeless(opened)


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
    """逐个核对，第一个不合格的报错。"""
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
