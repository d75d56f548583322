"""chrF：与 sacrebleu 相等，边界上也说得通。"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.errors import EvaluationError
from companion.evaluation.chrf import chrf

sacrebleu = pytest.importorskip("sacrebleu", reason='没有装测试工具：".[test]"')
SENTENCES = st.text(alphabet="公曰善霍在关。，a ", max_size=12)


@given(st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=4))
def test_it_equals_sacrebleu(pairs: list[tuple[str, str]]) -> None:
    """任何几句话，连同空句、空白与短过六字的，都与 sacrebleu 的缺省设置相等。"""
    written, references = (list(side) for side in zip(*pairs, strict=True))
    expected = sacrebleu.corpus_chrf(written, [references]).score
    assert chrf(written, references) == pytest.approx(expected, abs=1e-9)


def test_the_same_text_scores_a_hundred_and_nothing_in_common_scores_zero() -> None:
    """完全相同是 100，一个字也不同是 0，空译文是 0。"""
    text = ["公默然良久，乃罢。"]
    assert chrf(text, text) == pytest.approx(100)
    assert chrf(["雁回关"], ["沙津渡"]) == 0
    assert chrf([""], text) == 0


def test_leaving_out_costs_more_than_adding() -> None:
    """召回算得重：漏译半句比多写半句扣得多。"""
    whole, half = "霍在关在，舟不问来处。", "霍在关在，"
    assert chrf([half], [whole]) < chrf([whole], [half])


def test_unmatched_lists_are_refused() -> None:
    """两边句数不同，或一句也没有。"""
    with pytest.raises(EvaluationError, match="逐句对应"):
        chrf(["霍在关在"], [])
    with pytest.raises(EvaluationError, match="至少一句"):
        chrf([], [])
