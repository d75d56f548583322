"""片段边界：谁的边界在哪里，什么时候没有。"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from companion.batch import IGNORE_INDEX
from companion.checkpoints.tiny import TINY_TEXT, tiny_tokenizer
from companion.errors import ObjectiveError
from companion.objectives.masked_lm import (
    MAX_BORDER_TARGETS,
    MaskedLMCollator,
    span_borders,
)

TOKENIZER = tiny_tokenizer("bert")


def bools(text: str) -> np.ndarray:
    return np.array([each == "1" for each in text])


def naive(chosen: list[bool], documents: list[int], edges: list[bool]) -> list:
    """一个词元一个词元地走：往左、往右走到片段之外，看站着的是谁。"""
    length = len(chosen)
    found = [(IGNORE_INDEX, IGNORE_INDEX)] * length
    for place in range(length):
        if not chosen[place]:
            continue
        left = right = place
        while left >= 0 and chosen[left] and documents[left] == documents[place]:
            left -= 1
        while right < length and chosen[right] and documents[right] == documents[place]:
            right += 1
        outside = left < 0 or right == length
        if outside or edges[left] or edges[right] or place - left > MAX_BORDER_TARGETS:
            continue
        if documents[left] == documents[place] == documents[right]:
            found[place] = (left, right)
    return found


@given(
    st.lists(
        st.tuples(
            st.booleans(), st.integers(0, 5).map(bool), st.integers(0, 9).map(bool)
        ),
        min_size=1,
        max_size=40,
    )
)
def test_the_borders_are_found_one_by_one(cells):
    """与逐个词元去找的相同：片段、文档的分界与特殊词元任意摆。"""
    documents = np.cumsum([not same for _, same, _ in cells])
    edges = np.array([not plain for _, _, plain in cells])
    chosen = np.array([cell[0] for cell in cells]) & ~edges
    found = span_borders(chosen, documents, edges)
    wanted = naive(chosen.tolist(), documents.tolist(), edges.tolist())
    assert [tuple(pair) for pair in found.tolist()] == wanted


@pytest.mark.parametrize(
    ("chosen", "documents", "edges", "sides"),
    [
        ("0011000", "0000000", "1000001", (1, 4)),
        ("0110000", "0000000", "1000001", None),  # 贴着 [CLS]
        ("0000110", "0000000", "1000001", None),  # 贴着 [SEP]
        ("1100000", "0000000", "0000000", None),  # 行首，没有 [CLS]
        ("0001100", "0000011", "0000000", None),  # 右边是另一篇
        ("0001100", "0001111", "0000000", None),  # 左边是另一篇
        ("1111111", "0000000", "0000000", None),  # 整行都是
    ],
)
def test_a_span_at_an_edge_has_no_target(chosen, documents, edges, sides):
    """片段贴着行端、特殊词元或另一篇文档，就没有边界目标。"""
    numbers = np.array([int(each) for each in documents])
    found = span_borders(bools(chosen), numbers, bools(edges))
    at = found[bools(chosen)].tolist()
    assert at == [list(sides or (IGNORE_INDEX,) * 2)] * len(at)
    assert (found[~bools(chosen)] == IGNORE_INDEX).all()


def test_a_long_span_predicts_its_first_fifteen_tokens():
    """二十个词元的片段，只猜开头十五个（发布的命令 max_pair_targets = 15）。"""
    chosen, none = np.zeros(24, np.bool_), np.zeros(24, np.bool_)
    chosen[2:22] = True
    found = span_borders(chosen, none.astype(int), none)
    assert np.flatnonzero(found[:, 0] >= 0).tolist() == list(range(2, 17))


def features(*, packed: bool) -> list[dict]:
    """几句各一行，或两句一行。"""
    rows = []
    for number in range(12):
        texts = (TINY_TEXT[number % 6], TINY_TEXT[(number + 1) % 6])
        ids = [TOKENIZER(text).input_ids for text in texts[: 1 + packed]]
        starts = [0, len(ids[0])][: len(ids)]
        row = [token for each in ids for token in each]
        words = [-1 if t in TOKENIZER.all_special_ids else n for n, t in enumerate(row)]
        rows.append(
            {
                "input_ids": row,
                "word_ids": words,
                "document_starts": starts,
                "example_id": number,
            }
        )
    return rows


@pytest.mark.parametrize("packed", [False, True])
def test_borders_come_from_the_spans_not_from_the_masks(packed):
    """保留、随机的片段也有边界；边界没有选中、不是特殊词元、与片段同篇。"""
    collator = MaskedLMCollator(
        TOKENIZER, granularity="span", mlm_probability=0.3, span_boundary=True
    )
    rows = features(packed=packed)
    batch = collator(rows)
    borders, labels = batch["span_borders"], batch["labels"]
    assert borders.shape == (*labels.shape, 2)
    has = borders[..., 0] != IGNORE_INDEX
    assert has.any()
    assert (labels[has] != IGNORE_INDEX).all()
    lines = has.nonzero()[:, 0]
    kept = 0
    for line, pair, place in zip(lines, borders[has], has.nonzero()[:, 1], strict=True):
        assert pair[0] < place < pair[1]
        assert (labels[line, pair] == IGNORE_INDEX).all()
        assert not torch.isin(
            batch["input_ids"][line, pair],
            torch.tensor([TOKENIZER.cls_token_id, TOKENIZER.sep_token_id]),
        ).any()
        second = rows[int(line)]["document_starts"][-1]
        if packed:
            assert bool(pair[0] >= second) == bool(pair[1] >= second)
        kept += int(batch["input_ids"][line, place] != TOKENIZER.mask_token_id)
    assert kept > 0


def test_the_masks_are_the_same_with_and_without_borders():
    """另给边界，不改遮了什么；不要边界的批量没有这一项。"""
    plain = MaskedLMCollator(TOKENIZER, granularity="span")
    more = MaskedLMCollator(TOKENIZER, granularity="span", span_boundary=True)
    rows = features(packed=True)
    without, batch = plain(rows), more(rows)
    assert batch.keys() - without.keys() == {"span_borders"}
    for name, value in without.items():
        torch.testing.assert_close(batch[name], value, rtol=0, atol=0)


def test_borders_need_spans():
    """粒度不是片段，报错。"""
    with pytest.raises(ObjectiveError, match=r"span_boundary.*granularity=ngram"):
        MaskedLMCollator(TOKENIZER, granularity="ngram", span_boundary=True)
