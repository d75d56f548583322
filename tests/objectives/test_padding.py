"""补齐：真实词元在左，填充在右，行长取到倍数。"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from companion.objectives.padding import pad_rows, padded_length

ROWS = st.lists(st.lists(st.integers(-5, 99), max_size=12), min_size=1, max_size=6)


@given(ROWS, st.integers(-100, 3), st.integers(0, 5))
def test_rows_are_filled_on_the_right(rows, value, extra):
    """每行后面接上够数的填充值；原来的行不变。"""
    tensors = [torch.tensor(row, dtype=torch.int64) for row in rows]
    length = max(map(len, rows)) + extra
    expected = [row + [value] * (length - len(row)) for row in rows]
    assert pad_rows(tensors, value, length).tolist() == expected
    assert [tensor.tolist() for tensor in tensors] == rows


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
def test_the_type_of_the_rows_is_kept(dtype):
    """整数、布尔、浮点各归各。"""
    rows = [torch.ones(2, dtype=dtype), torch.ones(1, dtype=dtype)]
    assert pad_rows(rows, 0, 3).dtype == dtype


@given(st.lists(st.integers(1, 300), min_size=1), st.integers(1, 64))
def test_the_length_is_the_least_multiple_that_holds_the_longest_row(lengths, multiple):
    """是倍数，装得下，而且再短一个倍数就装不下。"""
    length = padded_length(lengths, multiple)
    assert length % multiple == 0
    assert length - multiple < max(lengths) <= length
    assert padded_length(lengths) == max(lengths)
