"""编码器–解码器的一个样本：原文怎样变成编码器的输入，解码器逐格写出什么。

与 `rows.py` 的区别：那里输入与标签同列，这里是两条长短不同的行，中间由“出自原文第几列”
相连。GLM 的 A、B 两部分也是这个样子，只是装在同一行里。

形状字母：T 原文的词元数，L 编码器的输入长，K 解码器的行长。
"""

from dataclasses import dataclass
from itertools import chain
from typing import Literal

from companion.errors import ObjectiveError
from companion.plots.alignment import Span

Fate = Literal["kept", "masked", "replaced", "exposed", "removed", "added", "moved"]
"""对齐的一段遭遇了什么：

kept 照抄 · masked 换成掩码或哨兵 · replaced 换成别的词元 · exposed 该遮而原样留下 ·
removed 不在输入里 · added 原文里没有 · moved 换了次序。
"""

FATE_WORDS: dict[Fate, str] = {
    "kept": "",
    "masked": "遮住，要写出来",
    "replaced": "换成别的词元，要写出来",
    "exposed": "原样留下，也要写出来",
    "removed": "不在输入里，要写出来",
    "added": "原文里没有",
    "moved": "换了次序",
}

Target = Literal["scored", "extra", "copied", "unknown", "ignored"]
"""解码器的一格：

scored 计损失，评估也考 · extra 原文没有（哨兵、结尾），评估不考 · copied 输入里看得见，
评估不考 · unknown 词表外的字，评估不考 · ignored 标签是 −100。
"""

TARGET_WORDS: dict[Target, str] = {
    "scored": "计损失，评估也考",
    "extra": "计损失，原文没有，不考",
    "copied": "计损失，输入里看得见，不考",
    "unknown": "计损失，词表外的字，不考",
    "ignored": "不计损失",
}


@dataclass(frozen=True, kw_only=True)
class PairRows:
    """一个样本的两条行，以及它们与原文的对应；列号从 0 数起。

    Raises:
        ObjectiveError: 同一条行的各项长短不一，对齐有重漏，或出处越界。
    """

    title: str
    """图题，如“片段破坏”。"""
    tokens: list[str]
    """原来的词元，(T,)。"""
    special: list[bool]
    """特殊词元处为真，(T,)。"""
    document: list[int]
    """属于第几个文档，(T,)，从 0 数起。"""
    hidden: list[bool]
    """输入里看不见、要解码器写出来的，(T,)。"""
    inputs: list[str]
    """编码器的输入，(L,)。"""
    is_mask: list[bool]
    """输入的哪些位置是掩码或哨兵，(L,)。"""
    input_document: list[int]
    """(L,)。"""
    spans: list[Span]
    """原文与输入的对齐，照输入的次序。"""
    decoder_inputs: list[str]
    """解码器的输入，(K,)。"""
    decoder_visible: list[bool]
    """解码器的哪些位置真有内容，(K,)。"""
    decoder_document: list[int]
    """(K,)。"""
    labels: list[str | None]
    """标签，(K,)；None 表示 −100。由同一格的输出预测。"""
    origin: list[int | None]
    """标签是原文的第几列，(K,)；原文没有的为 None。"""
    scored: list[bool]
    """评估考的标签，(K,)。"""
    sides: tuple[str, str] = ("编码器", "解码器")
    """两条行的名字。"""
    input_columns: list[int] | None = None
    """输入的各个位置在张量里的列号，(L,)；None 表示从 0 数起。"""
    decoder_columns: list[int] | None = None
    """解码器的各个位置在张量里的列号，(K,)；None 表示从 0 数起。"""

    def __post_init__(self) -> None:
        """各项等长；对齐不重不漏；出处在原文之内。"""
        for names in (
            ("tokens", "special", "document", "hidden"),
            ("inputs", "is_mask", "input_document", "input_columns"),
            ("decoder_inputs", "decoder_visible", "decoder_document", "labels",
             "origin", "scored", "decoder_columns"),
        ):  # fmt: skip
            given = {name: getattr(self, name) for name in names}
            sizes = {name: len(row) for name, row in given.items() if row is not None}
            if len(set(sizes.values())) != 1 or 0 in sizes.values():
                raise ObjectiveError(
                    found="同一条行的长短是 "
                    + "、".join(f"{name} {size}" for name, size in sizes.items()),
                    expected="长短相同，且至少一列",
                    remedy="从同一个样本的同一行取出各项",
                )
        covered = [
            sorted(chain.from_iterable(side)) for side in zip(*self.spans, strict=True)
        ]
        if covered != [[*range(len(self.tokens))], [*range(len(self.inputs))]]:
            raise ObjectiveError(
                found=f"对齐的各段盖住 {covered}",
                expected="原文与输入的每一列恰在一段里",
                remedy="用 companion.plots.alignment.align 对齐",
            )
        for column, source in enumerate(self.origin):
            if source is not None and not 0 <= source < len(self.tokens):
                raise ObjectiveError(
                    found=f"第 {column} 个标签出自原文第 {source} 列",
                    expected=f"在 0 与 {len(self.tokens) - 1} 之间，或 None",
                    remedy="核对整理器给出的 origin",
                )

    @property
    def fates(self) -> list[Fate]:
        """每一段遭遇了什么，与 `spans` 等长。"""
        return [self._fate(span) for span in self.spans]

    @property
    def jumps(self) -> list[int]:
        """哪几段不接着前一段的原文：句子换了次序。"""
        next_token, found = 0, list[int]()
        for number, span in enumerate(self.spans):
            if span.tokens and span.tokens[0] != next_token:
                found.append(number)
            next_token = span.tokens[-1] + 1 if span.tokens else next_token
        return found

    def _fate(self, span: Span) -> Fate:
        if not span.inputs:
            return "removed" if self.hidden[span.tokens[0]] else "moved"
        if not span.tokens:
            copied = self.inputs[span.inputs[0]] in self.tokens
            return "moved" if copied else "added"
        if not self.hidden[span.tokens[0]]:
            return "kept"
        if any(self.is_mask[at] for at in span.inputs):
            return "masked"
        given = self.inputs[span.inputs[0]]
        return "exposed" if given == self.tokens[span.tokens[0]] else "replaced"

    @property
    def targets(self) -> list[Target]:
        """解码器的每一格计不计损失、考不考，(K,)。"""
        return [self._target(column) for column in range(len(self.labels))]

    def _target(self, column: int) -> Target:
        source = self.origin[column]
        if self.labels[column] is None:
            return "ignored"
        if self.scored[column]:
            return "scored"
        if source is None:
            return "extra"
        return "unknown" if self.hidden[source] else "copied"

    def joined(self) -> tuple[list[str], list[int]]:
        """两条行装在同一行时（GLM）：整行的输入，与它们属于第几个文档。"""
        columns = [*(self.input_columns or ()), *(self.decoder_columns or ())]
        words = [*self.inputs, *self.decoder_inputs]
        owners = [*self.input_document, *self.decoder_document]
        order = sorted(range(len(columns)), key=columns.__getitem__)
        return [words[at] for at in order], [owners[at] for at in order]
