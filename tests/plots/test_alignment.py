"""原文与编码器输入的对齐：不重不漏，抄下来的各归其位。"""

from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.plots.rows import Span, align

MASK = 99
words = st.lists(st.integers(0, 6), min_size=1, max_size=20)


@st.composite
def infilled(draw: st.DrawFn) -> tuple[list[int], list[int], list[bool]]:
    """一篇原文，每段遮住的换成一个掩码（片段破坏、文本填补）。"""
    tokens = draw(words)
    hidden = draw(st.lists(st.booleans(), min_size=len(tokens), max_size=len(tokens)))
    inputs: list[int] = []
    for at, token in enumerate(tokens):
        if not hidden[at]:
            inputs.append(token)
        elif at == 0 or not hidden[at - 1]:
            inputs.append(MASK)
    return tokens, inputs, hidden


def covers(spans: list[Span], tokens: int, inputs: int) -> bool:
    """原文与输入的每个位置恰好各在一段里；输入照原来的次序。"""
    sides = [list(chain.from_iterable(side)) for side in zip(*spans, strict=True)]
    return sorted(sides[0]) == [*range(tokens)] and sides[1] == [*range(inputs)]


@given(infilled())
def test_each_mask_stands_for_the_run_it_replaced(
    case: tuple[list[int], list[int], list[bool]],
) -> None:
    """看得见的词元各对着抄下来的自己，每个掩码对着它换下的那一整段。"""
    tokens, inputs, hidden = case
    spans = align(tokens, inputs, hidden)
    assert covers(spans, len(tokens), len(inputs))
    for span in spans:
        [given] = span.inputs
        assert all(hidden[at] == (inputs[given] == MASK) for at in span.tokens)
        if inputs[given] != MASK:
            assert [tokens[at] for at in span.tokens] == [inputs[given]]
        else:
            assert span.tokens == tuple(range(span.tokens[0], span.tokens[-1] + 1))


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=5),
        min_size=2,
        max_size=5,
    ),
    st.data(),
)
def test_permuted_sentences_are_matched_sentence_by_sentence(
    sentences: list[list[tuple[int, bool]]], data: st.DataObject
) -> None:
    """各句随意排列、遮去一些词元，两端另有特殊词元：每个看得见的都对着一个相同的输入。"""
    first, last = 50, 51
    tokens = [first, *(token for each in sentences for token, _ in each), last]
    hidden = [False, *(unseen for each in sentences for _, unseen in each), False]
    order = data.draw(st.permutations(range(len(sentences))))
    inputs = [
        first,
        *(
            token
            for number in order
            for token, unseen in sentences[number]
            if not unseen
        ),
        last,
    ]
    starts = [1]
    for each in sentences:
        starts.append(starts[-1] + len(each))
    ranges = [range(a, b) for a, b in pairwise(starts)]
    spans = align(tokens, inputs, hidden, ranges)
    assert covers(spans, len(tokens), len(inputs))
    for span in spans:
        if span.inputs:
            assert [tokens[at] for at in span.tokens] == [
                inputs[at] for at in span.inputs
            ]
        else:
            assert all(hidden[at] for at in span.tokens)


@pytest.mark.parametrize(
    ("tokens", "inputs", "hidden", "expected"),
    [
        # 掩码插在缝里：对着空
        ([5, 6], [5, MASK, 6], [0, 0], [((0,), (0,)), ((), (1,)), ((1,), (2,))]),
        # 逐个删去：输入的一边是空的
        ([5, 6, 7], [5, 7], [0, 1, 0], [((0,), (0,)), ((1,), ()), ((2,), (1,))]),
        # 逐词元的掩码与随机替换：一个对一个
        ([5, 6, 7], [5, MASK, 3], [0, 1, 1],
         [((0,), (0,)), ((1,), (1,)), ((2,), (2,))]),
        # 一段里的几个掩码各盖几个，看不出来：归成一段
        ([5, 6, 7, 8], [5, MASK, MASK], [0, 1, 1, 1],
         [((0,), (0,)), ((1, 2, 3), (1, 2))]),
        # 旋转：对不上，先列原文，再列输入
        ([5, 6, 7], [7, 5, 6], [0, 0, 0],
         [((0,), ()), ((1,), ()), ((2,), ()), ((), (0,)), ((), (1,)), ((), (2,))]),
    ],
)  # fmt: skip
def test_small_cases(
    tokens: list[int],
    inputs: list[int],
    hidden: list[int],
    expected: list[tuple[tuple[int, ...], tuple[int, ...]]],
) -> None:
    """几种破坏各一例。"""
    spans = align(tokens, inputs, [bool(each) for each in hidden])
    assert spans == [Span(*each) for each in expected]


def test_a_wrong_first_guess_is_taken_back() -> None:
    """“12”与“1”都能在前，只有一种接得下去：走不通就退回来。"""
    spans = align([1, 1, 2], [1, 2, 1], [False] * 3, [range(1), range(1, 3)])
    assert spans == [Span((1,), (0,)), Span((2,), (1,)), Span((0,), (2,))]
