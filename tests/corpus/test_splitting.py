"""切分：一篇归哪边，只由它自己决定。"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.corpus.document import Document
from companion.corpus.documents import (
    split_corpus,
    split_documents,
    split_point,
    split_tail,
)
from companion.errors import CorpusError

texts = st.lists(
    st.text(st.sampled_from("天地玄黄宇宙洪荒"), min_size=1, max_size=6),
    min_size=2,
    max_size=30,
    unique=True,
)


def docs_of(items: list[str]) -> list[Document]:
    """编号为 x#0、x#1 …… 的文档。"""
    return [Document(text, f"x#{index}", "x") for index, text in enumerate(items)]


def sides(items: list[str], ratio: float = 0.3) -> tuple[set[str], set[str]]:
    """切分之后两边的正文。"""
    split = split_documents(docs_of(items), ratio, seed=1)
    return {doc.text for doc in split.train}, {doc.text for doc in split.valid}


@given(items=texts, data=st.data())
def test_reordering_changes_nothing(items: list[str], data: st.DataObject) -> None:
    """打乱次序，每篇仍在原来那边。"""
    assert sides(data.draw(st.permutations(items))) == sides(items)


@given(items=texts, ratio=st.floats(0.01, 0.99))
def test_both_sides_are_never_empty_and_nothing_is_lost(
    items: list[str], ratio: float
) -> None:
    """两边都不空，不重不漏。"""
    train, valid = sides(items, ratio)
    assert train
    assert valid
    assert train | valid == set(items)
    assert not train & valid


def test_adding_documents_moves_no_old_one() -> None:
    """添了新文档，旧文档不换边。"""
    items = [f"第{index}篇" for index in range(400)]
    old_train, old_valid = sides(items[:200])
    train, valid = sides(items)
    assert old_train <= train
    assert old_valid <= valid


def test_duplicates_land_on_the_same_side() -> None:
    """重复的（哪怕标点不同）总在同一边。"""
    items = [f"第{index}篇" for index in range(60)]
    train, valid = sides(items + [f"《第{index}篇》。" for index in range(60)])
    for index in range(60):
        plain, marked = f"第{index}篇", f"《第{index}篇》。"
        assert (plain in train) == (marked in train)
        assert (plain in valid) == (marked in valid)


def test_the_ratio_is_about_right_and_the_seed_matters() -> None:
    """四千篇留出 5%，实得 4%–6%；换个种子就换一批。"""
    docs = docs_of([f"第{index}篇" for index in range(4000)])
    chosen = [{d.id for d in split_documents(docs, seed=seed).valid} for seed in (0, 1)]
    for ids in chosen:
        assert 160 <= len(ids) <= 240
    assert chosen[0] != chosen[1]


def test_order_within_a_side_is_kept_and_points_agree() -> None:
    """各边保持原来的次序；流式切分用 `split_point` 得到同样的结果。"""
    docs = docs_of([f"第{index}篇" for index in range(100)])
    split = split_documents(docs, 0.2, seed=3)
    assert split.valid == [doc for doc in docs if split_point(doc, 3) < 0.2]
    assert split.train == [doc for doc in docs if split_point(doc, 3) >= 0.2]
    assert split.method == "hash"


def test_fewer_than_two_different_documents_are_refused() -> None:
    """只有一篇（或同一篇的几份）无法按文档切，说明怎么办。"""
    for items in (["天"], ["天", "天。"], []):
        with pytest.raises(CorpusError, match="至少两篇"):
            split_documents(docs_of(items))


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_ratio_out_of_range_is_refused(ratio: float) -> None:
    """比例须在 0 与 1 之间。"""
    with pytest.raises(CorpusError, match="valid_ratio"):
        split_documents(docs_of(["天", "地"]), ratio)


@given(
    sentences=st.lists(
        st.text(st.sampled_from("天地玄黄"), min_size=1, max_size=9), min_size=2
    ),
    ratio=st.floats(0.05, 0.9),
)
def test_the_tail_of_one_long_text_is_held_out(
    sentences: list[str], ratio: float
) -> None:
    """单篇长文：在句末断成两段，接起来就是原文，两段都不空。"""
    text = "。".join(sentences) + "。”"
    split = split_tail(Document(text, "x#1", "x"), ratio)
    train, valid = split.train[0], split.valid[0]
    assert train.text + valid.text == text
    assert train.text.endswith("。")
    assert valid.text
    assert (train.id, valid.id) == ("x#1:train", "x#1:valid")


def test_split_corpus_chooses_by_the_number_of_documents() -> None:
    """多篇按哈希，单篇留文末；用了哪种写明。"""
    assert split_corpus(docs_of(["天", "地"])).method == "hash"
    single = split_corpus(docs_of(["天。地。" * 50]), 0.1)
    assert single.method == "tail"
    assert single.as_dict()["valid"] == {"documents": 1, "characters": 20}


def test_a_text_without_two_sentences_cannot_be_cut() -> None:
    """只有一句话，或是句对，都没法留文末。"""
    with pytest.raises(CorpusError, match="只有一句话"):
        split_tail(Document("天地玄黄。", "x#1", "x"))
    with pytest.raises(CorpusError, match="句对"):
        split_tail(Document("天。地。", "x#1", "x", "a"))
