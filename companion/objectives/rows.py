"""读一个样本：一行词元、行内的各篇文档、每篇文档的随机数，以及各目标都用的几个小函数。

样本（键见 `companion.batch`）既可以是我们的 `BlockDataset` 的一行，也可以是
`tokenizer(...)` 的原始输出，所以整理器可以直接放进 `transformers.Trainer`。

形状字母：T 一行的词元数，R 行内文档数。
"""

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from companion.batch import Feature
from companion.errors import ObjectiveError

_PER_TOKEN = ("input_ids", "attention_mask", "special_tokens_mask", "word_ids")
"""逐词元的各项，一律等长。"""

Runs = list[tuple[int, int]]
"""几段相连的词元，各从哪里起、到哪里止，从左到右。"""


@dataclass(frozen=True)
class Document:
    """行内的一篇文档：从 `start` 到 `stop`，正文从 `left` 到 `right`。

    正文是首尾两个普通词元之间的一段；它外面的（[CLS]、[SEP] 等）是首部与尾部。没有普通
    词元的文档，正文为空：`left == right == stop`。
    """

    number: int
    """行内第几篇，从 0 数起。"""
    start: int
    left: int
    right: int
    stop: int

    @property
    def length(self) -> int:
        """正文的词元数。"""
        return self.right - self.left


@dataclass(frozen=True, kw_only=True)
class Row:
    """一个样本。"""

    input_ids: NDArray[np.int64]
    """(T,)。"""
    document_starts: list[int]
    """各文档的起点，R 项，首项为 0。"""
    special: NDArray[np.bool_]
    """特殊词元处为真，(T,)。"""
    plain: NDArray[np.bool_]
    """算得正文的词元处为真，(T,)：不在 `edge_ids_of` 里的。"""
    word_ids: NDArray[np.int64] | None
    """每个词元所属的词，(T,)；特殊词元为 −1。"""
    prefix_lengths: list[int] | None
    """样本给定的各篇前缀长度，含首部的特殊词元，R 项；没有给的为 None。"""
    example_id: int | None
    """样本编号；没有编号的样本由 torch 的全局随机数决定，不可复现。"""
    epoch: int
    name: str
    """错误消息里怎样称呼它。"""

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def document_index(self) -> NDArray[np.int64]:
        """每个词元属于行内第几篇，(T,)。"""
        sizes = np.diff([*self.document_starts, len(self)])
        return np.repeat(np.arange(len(sizes)), sizes)

    @cached_property
    def documents(self) -> list[Document]:
        """行内的各篇。"""
        plain = np.flatnonzero(self.plain)
        found: list[Document] = []
        for number, (start, stop) in enumerate(
            zip(
                self.document_starts,
                [*self.document_starts[1:], len(self)],
                strict=True,
            )
        ):
            inside = plain[(plain >= start) & (plain < stop)]
            left, right = (inside[0], inside[-1] + 1) if len(inside) else (stop, stop)
            found.append(Document(number, start, int(left), int(right), stop))
        return found

    def body(self, document: Document) -> NDArray[np.int64]:
        """一篇的正文，不带首尾的特殊词元。"""
        return self.input_ids[document.left : document.right]

    def rng(self, seed: int, stream: int = 0) -> np.random.Generator:
        """这个样本的随机数：只由（种子, 轮次, 样本编号, `stream`）决定。

        与批量大小、进程数、断点续训都无关（做法见 fairseq `denoising_dataset.py`）。

        Args:
            seed: 整理器的种子。
            stream: 行内第几篇文档；一行只抽一次的目标总是 0。
        """
        number = self.example_id
        if number is None:
            number = int(torch.randint(2**62, ()))
        # 负的编号也收：当作无符号数
        parts = (each % 2**64 for each in (seed, self.epoch, number, stream))
        return np.random.default_rng(tuple(parts))

    def split(self, document: Document, rng: np.random.Generator) -> int:
        """一篇文档的前缀到哪里止：样本给定的，或在正文的词元之间均匀抽取。

        切不开的没有前缀，返回 `document.start`。

        Returns:
            行内的位置。

        Raises:
            ObjectiveError: 给定的前缀与文字一样长。
        """
        if self.prefix_lengths is None:
            cut = draw_split(document.length, rng)
            return document.left + cut if cut else document.start
        given = self.prefix_lengths[document.number]
        if given >= document.right - document.start or document.length == 0:
            raise ObjectiveError(
                found=f"{self.name} 的 prefix_length 是 {given}，而文字到第 "
                f"{document.right - document.start if document.length else 0} "
                "个词元就完了",
                expected="前缀之后至少还有一个词元要预测",
                remedy="缩短前缀，或在截断时给目标留出位置（先截短源端）",
            )
        return document.start + given


def read_row(
    feature: Feature, special_ids: NDArray[np.int64], edge_ids: NDArray[np.int64]
) -> Row:
    """读一个样本，不改动它；已补齐的只留真实词元。

    Args:
        feature: 见 `companion.batch`；只有 `input_ids` 必需。
        special_ids: 分词器的特殊词元，(S,) int64。它们总算特殊词元，样本的
            `special_tokens_mask` 只能再添：文中的 [UNK] 不在那里面，却也不该去猜。
        edge_ids: 在文档首尾时不算正文的词元，(E,) int64，见 `edge_ids_of`。

    Raises:
        ObjectiveError: 没有词元，不是一维，各项长度不一，文档起点不合，或前缀长度的个数
            与文档数不符。
    """
    number = feature.get("example_id")
    name = f"样本 {'（无编号）' if number is None else number}"
    items = {
        key: np.asarray(feature[key], np.int64)
        for key in _PER_TOKEN
        if feature.get(key) is not None
    }
    _check_items(items, name)
    attended = items.get("attention_mask", np.ones_like(items["input_ids"])) != 0
    items = {key: item[attended] for key, item in items.items()}
    input_ids = items["input_ids"]
    if len(input_ids) == 0:
        raise ObjectiveError(
            found=f"{name} 没有词元",
            expected="每个样本至少有一个词元",
            remedy="先删去空文档（companion corpus clean）",
        )
    special = _among(input_ids, special_ids)
    if "special_tokens_mask" in items:
        special |= items["special_tokens_mask"] != 0
    starts = _read_starts(feature.get("document_starts"), attended, name)
    return Row(
        input_ids=input_ids,
        document_starts=starts,
        special=special,
        plain=~_among(input_ids, edge_ids),
        word_ids=items.get("word_ids"),
        prefix_lengths=_read_prefixes(feature.get("prefix_length"), len(starts), name),
        example_id=None if number is None else int(number),
        epoch=int(feature.get("epoch", 0)),
        name=name,
    )


def special_ids_of(tokenizer: Any) -> NDArray[np.int64]:
    """分词器全部特殊词元的编号，(S,) int64，升序。"""
    return np.array(sorted(tokenizer.all_special_ids), np.int64)


def edge_ids_of(tokenizer: Any) -> NDArray[np.int64]:
    """在文档首尾时不算正文的词元（[CLS]、[SEP]、填充等），(E,) int64，升序。

    [UNK] 与 [MASK] 站在文字中间，不算；GPT-2 的“未知”同时是文档结尾，算。
    """
    names = ("bos", "eos", "cls", "sep", "pad")
    edges = {getattr(tokenizer, f"{name}_token_id") for name in names}
    inside = {tokenizer.unk_token_id, tokenizer.mask_token_id} - edges
    return np.array(sorted(set(tokenizer.all_special_ids) - inside), np.int64)


def ordinary_ids_of(tokenizer: Any) -> NDArray[np.int64]:
    """词表里可作随机替换的词元：特殊词元以外的全部，(C,) int64，升序。"""
    return np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids)


def _among(ids: NDArray[np.int64], some: NDArray[np.int64]) -> NDArray[np.bool_]:
    """`np.isin`，在几个数里找一短行时快十倍。"""
    return (ids[:, None] == some).any(axis=1)


def _check_items(items: dict[str, NDArray[np.int64]], name: str) -> None:
    if "input_ids" not in items:
        raise ObjectiveError(
            found=f"{name} 没有 input_ids",
            expected="每个样本是分词后的结果",
            remedy="先用分词器处理文本，把它的输出交给整理器",
        )
    input_ids = items["input_ids"]
    if input_ids.ndim != 1:
        raise ObjectiveError(
            found=f"{name} 的 input_ids 是 {input_ids.ndim} 维",
            expected="一个样本是一维的一行词元",
            remedy="分词时不要加 return_tensors，一批拆成一行一个样本",
        )
    for key, item in items.items():
        if item.shape != input_ids.shape:
            raise ObjectiveError(
                found=f"{name} 的 {key} 长 {len(item)}，input_ids 长 {len(input_ids)}",
                expected="两者等长",
                remedy=f"让分词与 {key} 出自同一次调用",
            )


def _read_starts(values: Any, attended: NDArray[np.bool_], name: str) -> list[int]:
    """各文档在真实词元中的起点。"""
    if values is None:
        return [0]
    given: list[int] = np.asarray(values, np.int64).tolist()
    real = int(attended.sum())
    if given and min(given) >= 0 and max(given) < len(attended):
        before = np.cumsum(attended) - attended  # (T,) 左边有几个真实词元
        starts: list[int] = before[given].tolist()
        rising = all(a < b for a, b in itertools.pairwise(starts))
        if starts[0] == 0 and starts[-1] < real and rising:
            return starts
    raise ObjectiveError(
        found=f"{name} 的 document_starts 是 {given}，共 {real} 个词元",
        expected="首项为 0、逐项增大、都在这一行之内",
        remedy="不打包时去掉 document_starts，打包时照各文档的词元数累加",
    )


def _read_prefixes(value: Any, count: int, name: str) -> list[int] | None:
    """样本给定的各篇前缀长度。"""
    if value is None:
        return None
    sizes: list[int] = np.atleast_1d(np.asarray(value, np.int64)).tolist()
    if len(sizes) == count and min(sizes) >= 1:
        return sizes
    raise ObjectiveError(
        found=f"{name} 有 {count} 篇文档，prefix_length 是 {sizes}",
        expected="每篇文档一个前缀长度，都是正整数",
        remedy="一行只放一篇文档，或给 prefix_length 一个等长的列表",
    )


def shuffled(count: int, rng: np.random.Generator) -> list[int]:
    """0 到 count − 1，次序随机；取前 k 个就是不放回地抽 k 个。"""
    return rng.random(count).argsort(kind="stable").tolist()


def draw_below(count: int, rng: np.random.Generator) -> int:
    """0 到 count − 1 之间均匀的一个整数。"""
    return int(rng.random() * count)


def draw_from(
    values: NDArray[np.int64], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """放回地均匀抽 `count` 个，(count,)。"""
    return values[(rng.random(count) * len(values)).astype(np.int64)]


def draw_split(length: int, rng: np.random.Generator) -> int:
    """一篇在第几个词元之前切开：n − 1 个缝里均匀（Raffel 等，2020，§3.2.3）。

    Returns:
        1 到 n − 1；不足两个词元的切不开，是 0，也不抽随机数。
    """
    return 1 + draw_below(length - 1, rng) if length > 1 else 0


def runs_of(flags: NDArray[np.bool_], owners: NDArray[np.int64] | None = None) -> Runs:
    """相连的真值成一段。

    Args:
        flags: (T,) bool。
        owners: 每个位置的归属，(T,) int64；给了它，归属不同的相邻两个不算相连。

    >>> flags = np.array([0, 1, 1, 0, 1, 1], bool)
    >>> runs_of(flags), runs_of(flags, np.array([0, 0, 0, 0, 0, 1]))
    ([(1, 3), (4, 6)], [(1, 3), (4, 5), (5, 6)])
    """
    runs: Runs = []
    for at in np.flatnonzero(flags).tolist():
        joined = runs and runs[-1][1] == at
        if joined and (owners is None or owners[at] == owners[at - 1]):
            runs[-1] = (runs[-1][0], at + 1)
        else:
            runs.append((at, at + 1))
    return runs


def require_probability(name: str, value: float) -> None:
    """`value` 不在 [0, 1] 之内时报错。"""
    if not 0.0 <= value <= 1.0:
        raise ObjectiveError(
            found=f"{name} = {value}",
            expected=f"{name} 是概率，在 0 与 1 之间",
            remedy=f"改用例如 {name}=0.15",
        )
