"""图要画的行：一个样本在训练目标眼里的样子；没有图，也不需要 matplotlib。

`LabelRows` 的输入与标签同列；`PairRows` 是编码器–解码器的两条行，长短不同，中间由“出自
原文第几列”相连（GLM 的 A、B 两部分也是这个样子，只是装在同一行里）；`AttentionPanel` 是
谁看得见谁。图在 `labels.py` 与 `attention.py`，终端里的表和替代文字在 `texts.py`。

`align` 把原文与编码器的输入对齐。整理器只说哪些词元看不见，不说每个输入从哪里来。看得见
的照次序抄在输入里，所以两边相同的一一相对，相邻两个之间剩下的归成一段：

    原文    臣  光  曰  臣  闻          段    0→0  (1,2)→1  3→2  4→3
    输入    臣  <X>     臣  闻

一段里有几个掩码、各盖住几个词元，从结果看不出来，也就不去猜。句子打乱了次序时，先找出是
怎样排的，再照新的次序对齐。

形状字母：T 原文的词元数，L 编码器的输入长，K 解码器的行长，S 句数。
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Literal, NamedTuple

from companion.errors import ObjectiveError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Role = Literal["masked", "replaced", "kept", "next", "dropped", "ignored"]
"""一列在损失里的角色：

masked 遮住 · replaced 换成别的词元 · kept 原样留下但要预测 · next 由别的列预测 ·
dropped 有标签而没有位置去预测它 · ignored 标签是 −100。
"""

ROLE_WORDS: dict[Role, str] = {
    "masked": "遮住，要还原",
    "replaced": "换成别的词元，要还原",
    "kept": "原样留下，也要预测",
    "next": "由前一列的输出预测",
    "dropped": "有标签，但没有位置预测它",
    "ignored": "不计损失",
}


_ROWS = ("tokens", "inputs", "labels", "predicted_by", "special", "document")


@dataclass(frozen=True)
class LabelRows:
    """一个样本的几行，每行 T 列，列号与张量的位置相同（从 0 数起）。

    Raises:
        ObjectiveError: 各行长短不一，或预测来源越界、与标签矛盾。
    """

    title: str
    """图题，如“掩码语言建模”。"""
    tokens: list[str]
    """原来的词元，(T,)。"""
    inputs: list[str]
    """模型看到的词元，(T,)。"""
    labels: list[str | None]
    """标签，(T,)；None 表示 −100。与 transformers 相同，没有移位。"""
    predicted_by: list[int | None]
    """哪一列的输出预测本列的标签，(T,)；因果语言建模是 t − 1，掩码语言建模是 t。"""
    special: list[bool]
    """特殊词元处为真，(T,)。"""
    document: list[int]
    """本列属于第几个文档，(T,)，从 0 数起；填充处为 −1。"""
    mask_token: str | None = "[MASK]"
    """哪个词元表示遮住；没有时为 None。"""

    def __post_init__(self) -> None:
        """各行等长；标签是 −100 处没有预测来源；来源在行内。"""
        lengths = {name: len(getattr(self, name)) for name in _ROWS}
        if len(set(lengths.values())) != 1 or not self.tokens:
            raise ObjectiveError(
                found="各行的列数是 "
                + "、".join(f"{name} {n}" for name, n in lengths.items()),
                expected="各行列数相同，且至少 1 列",
                remedy="从同一个样本的同一行取出词元、输入和标签",
            )
        for column, (label, source) in enumerate(
            zip(self.labels, self.predicted_by, strict=True)
        ):
            if source is None:
                continue
            if label is None or not 0 <= source < len(self.tokens):
                raise ObjectiveError(
                    found=f"第 {column} 列的标签是 {label!r}，预测来源是 {source}",
                    expected="标签为 −100 的列没有来源，其余来源在行内",
                    remedy="标签为 None 时把 predicted_by 也设为 None",
                )

    def __len__(self) -> int:
        """列数 T。"""
        return len(self.tokens)

    @property
    def is_shifted(self) -> bool:
        """有标签由别的列预测（因果语言建模）。"""
        return "next" in self.roles()

    def roles(self) -> list[Role]:
        """每一列在损失里的角色，(T,)。"""
        return [self._role(column) for column in range(len(self))]

    def _role(self, column: int) -> Role:
        if self.labels[column] is None:
            return "ignored"
        source = self.predicted_by[column]
        if source is None:
            return "dropped"
        if source != column:
            return "next"
        if self.inputs[column] == self.mask_token:
            return "masked"
        return "kept" if self.inputs[column] == self.tokens[column] else "replaced"

    def arrows(self) -> list[tuple[int, int]]:
        """（作出预测的列，标签所在的列），按标签的先后。"""
        return [
            (source, column)
            for column, source in enumerate(self.predicted_by)
            if source is not None
        ]


class Span(NamedTuple):
    """对齐的一段；一边可以是空的，不会两边都空。"""

    tokens: tuple[int, ...]
    """原文的第几个词元。"""
    inputs: tuple[int, ...]
    """输入的第几个位置，相连。"""

    def moved(self, tokens: int, inputs: int) -> "Span":
        """两边的编号各加一个数。"""
        return Span(
            tuple(tokens + each for each in self.tokens),
            tuple(inputs + each for each in self.inputs),
        )


def align(
    tokens: Sequence[int],
    inputs: Sequence[int],
    hidden: Sequence[bool],
    sentences: Sequence[range] = (),
) -> list[Span]:
    """一篇文档的对齐，照输入的次序。

    - 一样长，看得见的又都在原处：逐个相对（逐词元的掩码，MASS 的随机替换也在内）。
    - 看得见的次序不变，或只是各句换了次序：逐个相对，其余归段。
    - 次序全变了（旋转）：对不上，先列原文，再列输入。

    Args:
        tokens: 原文的编号，(T,)。
        inputs: 编码器输入的编号，(L,)。
        hidden: 编码器看不见的词元，(T,)。
        sentences: 各句是原文的哪一段，相连，(S,)。

    Returns:
        各段；原文与输入的每个位置恰好各在一段里。

    >>> align([5, 6, 7, 8], [5, 99, 8], [False, True, True, False])
    [Span(tokens=(0,), inputs=(0,)), Span(tokens=(1, 2), inputs=(1,)),
     Span(tokens=(3,), inputs=(2,))]
    """
    if len(tokens) == len(inputs) and all(
        unseen or token == given
        for token, given, unseen in zip(tokens, inputs, hidden, strict=True)
    ):
        return [Span((at,), (at,)) for at in range(len(tokens))]
    known = {token for token, unseen in zip(tokens, hidden, strict=True) if not unseen}
    copies = [at for at, given in enumerate(inputs) if given in known]
    copied = [inputs[at] for at in copies]
    for order in _orders(tokens, copied, hidden, sentences):
        seen = [at for at in order if not hidden[at]]
        if [tokens[at] for at in seen] == copied:
            return list(_spans(order, dict(zip(seen, copies, strict=True)), inputs))
    return [
        *(Span((at,), ()) for at in range(len(tokens))),
        *(Span((), (at,)) for at in range(len(inputs))),
    ]


def _orders(
    tokens: Sequence[int],
    copied: list[int],
    hidden: Sequence[bool],
    sentences: Sequence[range],
) -> Iterator[list[int]]:
    """原文的词元可能是怎样排的：照原来的次序，或各句换过次序。"""
    yield [*range(len(tokens))]
    if not sentences:
        return
    first, last = sentences[0].start, sentences[-1].stop
    start = sum(not unseen for unseen in hidden[:first])
    words = [[tokens[at] for at in each if not hidden[at]] for each in sentences]
    arranged = _arrange(words, copied, start)
    if arranged is not None:
        middle = [at for number in arranged for at in sentences[number]]
        yield [*range(first), *middle, *range(last, len(tokens))]


def _arrange(words: list[list[int]], target: list[int], start: int) -> list[int] | None:
    """各句怎样排，才能从 `target[start]` 起一句接一句；排不成时为 None。

    一个词元也看不见的句子不知在哪里，留在原来的前一句之后。
    """
    left = {number: each for number, each in enumerate(words) if each}
    order: list[int] = []
    at, first = start, 0
    while left:
        fits = (n for n in sorted(left) if target[at : at + len(words[n])] == words[n])
        number = next((n for n in fits if n >= first), None)
        if number is not None:
            order.append(number)
            at, first = at + len(left.pop(number)), 0
        elif order:  # 走不通：退一句，改试后面的
            last = order.pop()
            left[last] = words[last]
            at, first = at - len(words[last]), last + 1
        else:
            return None
    for number, each in enumerate(words):
        if not each:
            order.insert(order.index(number - 1) + 1 if number else 0, number)
    return order


def _spans(
    order: list[int], copy_of: dict[int, int], inputs: Sequence[int]
) -> Iterator[Span]:
    """抄下来的各一段，相邻两个之间的归成一段。"""
    between: list[int] = []
    given = 0  # 还没有归段的第一个输入

    def gap(stop: int) -> Iterator[Span]:
        if between or given < stop:
            yield Span(tuple(between), tuple(range(given, stop)))

    for token in order:
        if token not in copy_of:
            between.append(token)
            continue
        yield from gap(copy_of[token])
        yield Span((token,), (copy_of[token],))
        between, given = [], copy_of[token] + 1
    yield from gap(len(inputs))


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
                remedy="用 companion.plots.rows.align 对齐",
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


@dataclass(frozen=True, kw_only=True)
class AttentionPanel:
    """哪个查询看得见哪个键；行是查询，列是键。"""

    title: str
    visible: "ArrayLike"
    """(Q, K) bool，真处看得见。"""
    queries: Sequence[str] | None = None
    """行上的词元，(Q,)。"""
    keys: Sequence[str] | None = None
    """列上的词元，(K,)。"""
    query_documents: Sequence[int] | None = None
    """行属于第几个文档，(Q,)；交界处画粗线。"""
    key_documents: Sequence[int] | None = None
    """列属于第几个文档，(K,)。"""
    parts: Sequence[int] | None = None
    """自注意力的一行分成几部分（前缀与后缀，A 与 B），(Q,)；交界处画虚线。"""
    cross: bool = False
    """行与列是两条不同的行（交叉注意力）。"""
