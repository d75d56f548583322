"""原文与编码器输入的对齐：哪几个词元换成了哪几个输入。

整理器只说哪些词元看不见，不说编码器的每个输入从哪里来。看得见的照次序抄在输入里，所以
两边相同的一一相对，相邻两个之间剩下的归成一段：

    原文    臣  光  曰  臣  闻          段    0→0  (1,2)→1  3→2  4→3
    输入    臣  <X>     臣  闻

一段里有几个掩码、各盖住几个词元，从结果看不出来，也就不去猜。句子打乱了次序时，先找出是
怎样排的，再照新的次序对齐。

形状字母：T 原文的词元数，L 输入的词元数，S 句数。
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple


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
