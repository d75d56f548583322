"""怎样选下一个词元：贪心、抽取、束搜索，各种模型共用这一份。

模型怎样读、怎样记，由 `Writer` 各自实现（前缀、[MASK] 追加、填空……）；这里只管选：

- 贪心：每步取概率最大的。
- 抽取：除以温度，只在概率之和刚够 `top_p` 的词元里抽（Holtzman 等，2020，§3.1）。
- 束搜索：每步留总对数概率最大的 `num_beams` 串；写完的按平均每个词元的对数概率（连同结
  尾）排名，凑够 `num_beams` 串写完的就停。

形状字母：R 并排写的几串，V 词表。
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from companion.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """怎样选词元。

    Raises:
        ConfigError: 参数越界或互相矛盾。
    """

    max_new_tokens: int = 40
    """至多写多少词元。"""
    do_sample: bool = False
    temperature: float = 1.0
    """小于 1 更稳，大于 1 更散。"""
    top_p: float = 1.0
    num_beams: int = 1
    """大于 1 就是束搜索。"""
    num_return_sequences: int = 1
    """写几串；贪心每次都一样，只能写一串，束搜索至多 `num_beams` 串。"""
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ("max_new_tokens", "num_beams", "num_return_sequences")
        rules = {name: (getattr(self, name) >= 1, "正整数") for name in counts}
        rules["temperature"] = (self.temperature > 0, "正数；要确定的结果就用贪心")
        rules["top_p"] = (0 < self.top_p <= 1, "大于 0、不超过 1 的数")
        for name, (good, expected) in rules.items():
            if not good:
                raise ConfigError(
                    found=f"{name} = {getattr(self, name)}",
                    expected=f"{name} 是{expected}",
                    remedy=f"改正 {name}，或去掉它用缺省值",
                )
        if self.do_sample and self.num_beams > 1:
            raise ConfigError(
                found=f"do_sample=True 与 num_beams={self.num_beams} 一起给了",
                expected="按概率抽取，或束搜索，二者取一",
                remedy="去掉其中一个",
            )
        if not self.do_sample and self.num_return_sequences > self.num_beams:
            way = "贪心" if self.num_beams == 1 else f"{self.num_beams} 束的搜索"
            raise ConfigError(
                found=f"{way}续写却要 {self.num_return_sequences} 段",
                expected="贪心每次都写出同一段，束搜索至多给出 num_beams 段",
                remedy="加上 do_sample=True，加大 num_beams，"
                "或改成 num_return_sequences=1",
            )

    def at_most(self, room: int) -> "Decoding":
        """至多写 `room` 个，例如只剩这么多位置。"""
        return replace(self, max_new_tokens=min(self.max_new_tokens, room))


class Writer(Protocol):
    """一个会逐词元往下写的模型，起初只有一串。"""

    def start(self) -> Tensor:
        """第一个词元的 logits，(1, V)。"""
        ...

    def advance(self, tokens: Tensor) -> Tensor:
        """各串写下 `tokens` (R,) int64；返回下一个词元的 logits，(R, V)。"""
        ...

    def select(self, rows: Tensor) -> None:
        """只留这几串，可重复，(R′,) int64。"""
        ...


@dataclass(frozen=True)
class Written:
    """写下的一串。"""

    ids: list[int]
    """不含结尾的词元。"""
    finished: bool
    """自己写了结尾（真），还是写够了数目（假）。"""


@dataclass(frozen=True)
class Limits:
    """哪些词元写不得，写到哪个为止。"""

    stops: frozenset[int]
    """结尾；写到其中之一就停，它自己不算在内。"""
    banned: Tensor
    """从不写的词元，(V,) bool；结尾不受此限。"""
    least: int = 0
    """至少写几个才许停。"""

    def apply(self, logits: Tensor, length: int) -> Tensor:
        """写不得的改为 −inf；`length` 是已经写下的个数。(R, V) → (R, V) float32。"""
        forbidden = self.banned.to(logits.device).clone()
        forbidden[list(self.stops)] = length < self.least
        return logits.float().masked_fill(forbidden, -torch.inf)


@torch.no_grad()
def decode(writer: Writer, how: Decoding, limits: Limits) -> list[Written]:
    """写 `num_return_sequences` 串；束搜索的由好到坏。

    Args:
        writer: 怎样读写；用过之后停在不确定的状态，不可再用。
        how: 怎样选。
        limits: 写不得的与结尾。
    """
    if how.num_beams > 1:
        return _beam_search(writer, how, limits)
    return _walk(writer, how, limits)


def _walk(writer: Writer, how: Decoding, limits: Limits) -> list[Written]:
    """贪心或抽取：各串互不相干，写完的先退出。"""
    count = how.num_return_sequences
    generator = torch.Generator().manual_seed(how.seed)
    logits = writer.start()
    if count > 1:
        writer.select(torch.zeros(count, dtype=torch.int64))
        logits = logits.expand(count, -1)
    ids: list[list[int]] = [[] for _ in range(count)]
    finished = [False] * count
    going = list(range(count))  # 还在写的是哪几串
    for length in range(how.max_new_tokens):
        tokens = choose(limits.apply(logits, length), how, generator)
        kept: list[int] = []
        for row, (number, token) in enumerate(zip(going, tokens.tolist(), strict=True)):
            if token in limits.stops:
                finished[number] = True
            else:
                ids[number].append(token)
                kept.append(row)
        going = [going[row] for row in kept]
        if not going or length + 1 == how.max_new_tokens:
            break
        if len(kept) < len(tokens):
            writer.select(torch.tensor(kept))
        logits = writer.advance(tokens[kept])
    return [Written(*each) for each in zip(ids, finished, strict=True)]


def choose(scores: Tensor, how: Decoding, generator: torch.Generator) -> Tensor:
    """每串选一个，(R, V) → (R,) int64；`generator` 只在抽取时用。"""
    if not how.do_sample:
        return scores.argmax(-1)
    chances = (scores / how.temperature).softmax(-1).cpu()
    ordered, order = chances.sort(descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    ordered = ordered.masked_fill(before >= how.top_p, 0.0)  # 第一名总在
    drawn = torch.multinomial(ordered, 1, generator=generator)
    return order.gather(1, drawn)[:, 0].to(scores.device)


def _beam_search(writer: Writer, how: Decoding, limits: Limits) -> list[Written]:
    """束搜索。"""
    width = how.num_beams
    done: list[tuple[float, Written]] = []
    ids: list[list[int]] = [[]]
    totals = torch.zeros(1)  # (R,) 各串的总对数概率
    logits = writer.start()
    for length in range(how.max_new_tokens):
        scores = limits.apply(logits, length).log_softmax(-1).cpu()
        ranked = (totals[:, None] + scores).flatten()
        best = ranked.topk(min(2 * width, len(ranked)))
        parents: list[int] = []
        tokens: list[int] = []
        values: list[float] = []
        for place, (value, at) in enumerate(
            zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ):
            row, token = divmod(at, scores.shape[1])
            if value == -torch.inf:
                break
            if token in limits.stops:
                if place < width:
                    done.append((value / (length + 1), Written(ids[row], True)))
            elif len(tokens) < width:
                parents.append(row)
                tokens.append(token)
                values.append(value)
        ids = [[*ids[row], token] for row, token in zip(parents, tokens, strict=True)]
        totals = torch.tensor(values)
        if len(done) >= width or not ids:
            break
        if length + 1 < how.max_new_tokens:
            writer.select(torch.tensor(parents))
            logits = writer.advance(torch.tensor(tokens))
    if len(done) < width:
        ends = _averages(ids, totals.tolist())
        done += [(mean, Written(row, False)) for mean, row in ends]
    done.sort(key=lambda each: -each[0])
    return [written for _, written in done[: how.num_return_sequences]]


def _averages(
    ids: Iterable[list[int]], totals: Iterable[float]
) -> list[tuple[float, list[int]]]:
    """没写完的各串与平均每个词元的对数概率。"""
    return [(value / len(row), row) for row, value in zip(ids, totals, strict=True)]
