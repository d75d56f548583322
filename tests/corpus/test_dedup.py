"""去重与污染检查：重复的丢、相像的丢、无关的留，留出集漏进训练集要查得出。"""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.corpus.dedup import corpus_stats, deduplicate, overlap
from companion.corpus.document import Document, content_key, content_letters
from companion.errors import CorpusError

ALPHABET = [chr(code) for code in range(0x4E00, 0x4E00 + 2000)]


def prose(seed: int, length: int) -> str:
    """一段不会重复的假文。"""
    return "".join(random.Random(seed).choices(ALPHABET, k=length))


def docs_of(*texts: str) -> list[Document]:
    """编号为 x#0、x#1 …… 的文档。"""
    return [Document(text, f"x#{index}", "x") for index, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("气温-5度。", "气温5度。"),
        ("若a>b则胜。", "若a<b则胜。"),
        ("股价1.5元。", "股价15元。"),
        ("E = mc²", "E = mc2"),
        ("他来了？", "他来了。"),
        ("Polish", "polish"),
    ],
)
def test_only_documents_equal_to_the_sign_are_exact_duplicates(
    one: str, other: str
) -> None:
    """差一个符号、小数点或大小写，都不是完全重复；合成字形之后逐字相同才是。"""
    kept, report = deduplicate(docs_of(one, other, one), near=False)
    assert [doc.text for doc in kept] == [one, other]
    assert report.exact == 1
    assert report.examples == [("x#2", "x#0", 1.0)]
    composed, _ = deduplicate(docs_of("café", "cafe\u0301"), near=False)
    assert len(list(composed)) == 1


def test_documents_that_differ_in_punctuation_are_near_duplicates() -> None:
    """标点、空白、全半角与大小写不同而文字相同，算近似重复，留先来的。"""
    kept, report = deduplicate(
        docs_of("帝从之。", "「帝从之」", "帝不从", "ＡＢ", "ab!")
    )
    assert [doc.text for doc in kept] == ["帝从之。", "帝不从", "ＡＢ"]
    assert (report.exact, report.near, report.documents_out) == (0, 2, 3)
    assert report.examples[0] == ("x#1", "x#0", 1.0)


def test_near_duplicates_are_dropped_and_unrelated_texts_kept() -> None:
    """改了几个字的是近似重复；毫不相干的不是。"""
    original = prose(1, 1000)
    edited = original[:300] + "甲乙丙" + original[303:]
    kept, report = deduplicate(docs_of(original, edited, prose(2, 1000)))
    assert [doc.id for doc in kept] == ["x#0", "x#2"]
    assert report.near == 1
    assert report.examples[0][:2] == ("x#1", "x#0")
    assert report.characters_dropped == 1000


def test_near_duplicates_stay_when_not_asked_for() -> None:
    """只去完全重复时，改了字的留下。"""
    original = prose(1, 500)
    kept, _ = deduplicate(docs_of(original, original + "甲"), near=False)
    assert len(list(kept)) == 2


@pytest.mark.parametrize(("shared", "dropped"), [(0.95, 1), (0.5, 0)])
def test_the_threshold_is_a_jaccard_similarity(shared: float, dropped: int) -> None:
    """相似度明显高于阈值的丢，明显低于的留：0.95 与 0.5 都离 0.8 三个标准差以上。"""
    # 两篇各 n 个片段、共有 c 个：J = c / (2n − c)
    total = 2000
    common = round(2 * total * shared / (1 + shared))
    head = prose(3, common)
    docs, report = deduplicate(
        docs_of(head + prose(4, total - common), head + prose(5, total - common))
    )
    list(docs)
    assert report.near == dropped


def test_candidates_below_the_threshold_are_checked_and_kept() -> None:
    """相似度 0.7 的常会落进同一个桶；用整个签名核对之后，一篇也不丢。"""
    texts: list[str] = []
    for family in range(30):
        head = prose(family, 412)  # 2 × 500 个片段里共有约 412 个：J ≈ 0.7
        texts += [head + prose(1000 * side + family, 88) for side in (1, 2)]
    kept, report = deduplicate(docs_of(*texts))
    assert len(list(kept)) == 60
    assert report.near == 0


def test_deduplication_is_deterministic() -> None:
    """同样的输入，两次结果相同，与哈希随机化无关。"""
    texts = [prose(seed % 7, 200) + prose(seed, 4) for seed in range(30)]
    runs = [[doc.id for doc in deduplicate(docs_of(*texts))[0]] for _ in range(2)]
    assert runs[0] == runs[1]
    assert runs[0] == ["x#0", "x#1", "x#2", "x#3", "x#4", "x#5", "x#6"]


@settings(max_examples=20)
@given(texts=st.lists(st.text(st.sampled_from("天地，a。"), max_size=4), max_size=8))
def test_exact_deduplication_keeps_one_of_each(texts: list[str]) -> None:
    """留下的两两不同，且再去一遍什么也不丢；篇数守恒。"""
    kept, report = deduplicate(docs_of(*texts), near=False)
    survivors = list(kept)
    keys = [content_key(doc) for doc in survivors]
    assert len(keys) == len(set(keys))
    assert set(keys) == {content_key(doc) for doc in docs_of(*texts)}
    assert report.documents_in == len(texts) == len(survivors) + report.exact


def test_pairs_with_one_equal_side_are_not_duplicates() -> None:
    """文言相同而译文不同的句对不算完全重复。"""
    pairs = [Document("善", "x#0", "x", "好"), Document("善", "x#1", "x", "不错啊")]
    assert len(list(deduplicate(pairs, near=False)[0])) == 2


def test_a_bad_threshold_is_refused() -> None:
    """阈值越界当场就报。"""
    for threshold in (0.0, 1.5, -1.0):
        with pytest.raises(CorpusError, match="阈值"):
            deduplicate([], threshold=threshold)


def test_overlap_counts_exact_near_and_shared_runs() -> None:
    """留出集的四篇：照抄的、改过的、引了一段的、清白的，各归其类。"""
    copied, edited, clean = prose(1, 400), prose(2, 400), prose(3, 400)
    quote = prose(9, 33)
    quoting = prose(4, 200) + quote + prose(5, 200)
    train = docs_of(copied, edited[:200] + "甲" + edited[201:], prose(6, 50) + quote)
    report = overlap(train, docs_of(copied, edited, quoting, clean))
    assert (report.documents, report.exact, report.near) == (4, 1, 1)
    assert (report.shared, report.contaminated) == (3, 3)
    assert report.shared_characters == 400 + 399 + 33
    assert report.worst is not None
    assert (report.worst.valid_id, report.worst.train_id) == ("x#0", "x#0")
    assert report.worst.length == 400
    assert "1 篇整篇见于训练集" in str(report)
    assert report.as_dict()["contaminated"] == 3


@given(
    length=st.integers(4, 40),
    before=st.integers(0, 30),
    after=st.integers(0, 30),
    shift=st.integers(0, 30),
    run_length=st.integers(4, 24),
)
def test_a_shared_run_is_found_exactly_when_long_enough(
    length: int, before: int, after: int, shift: int, run_length: int
) -> None:
    """不论公共片段落在哪里：够长就一定查出，且长度正好；不够长就一定不算。"""
    run = prose(7, length)
    # 两边的邻字取自不相交的字，公共片段恰好是 run
    valid = docs_of("㐀" * before + run + "㐁" * after)
    train = docs_of("㐂" * shift + run + "㐃" * 3)
    report = overlap(train, valid, run_length=run_length, near=False)
    if length >= run_length:
        assert report.shared == 1
        assert report.shared_characters == length
        assert report.worst is not None
        assert report.worst.length == length
    else:
        assert report.shared == 0
        assert report.worst is None


def test_overlap_with_itself_is_total_and_fast() -> None:
    """整篇相同的长文，伸展一次就够，不会逐锚重来。"""
    docs = docs_of(prose(1, 60_000))
    report = overlap(docs, docs, near=False)
    assert report.shared_ratio == 1.0
    assert report.exact == 1


def test_twins_in_the_held_out_set_are_both_counted() -> None:
    """留出集里彼此相像的两篇，训练集像其一，两篇都算。"""
    text = prose(1, 500)
    report = overlap(docs_of(text + "甲乙"), docs_of(text, text + "丙"))
    assert report.near == 2


def test_overlap_refuses_an_empty_held_out_set_and_tiny_runs() -> None:
    """没有留出集无从检查；片段太短处处是巧合。"""
    with pytest.raises(CorpusError, match="留出集里没有文档"):
        overlap([], [])
    with pytest.raises(CorpusError, match="至少 4 字"):
        overlap([], docs_of("天"), run_length=3)


def test_statistics_count_what_they_say() -> None:
    """篇数、字数、不同字符、分位数与重复率，小例子手算核对。"""
    stats = corpus_stats(
        [*docs_of("天地", "天地", "ab天"), Document("善", "y", "y", "好")]
    )
    assert (stats.documents, stats.pairs, stats.characters) == (4, 1, 9)
    assert stats.distinct_characters == 6
    assert stats.wide_ratio == 7 / 9
    assert stats.length_percentiles == {"p5": 2, "p50": 2, "p95": 3}
    assert (stats.longest, stats.duplicates, stats.duplicate_ratio) == (3, 1, 0.25)
    assert "重复篇数" in str(stats)
    with pytest.raises(CorpusError, match="没有文档"):
        corpus_stats([])


def test_content_letters_compare_but_never_write() -> None:
    """用来比较的文字去标点、合全半角；原文不动。"""
    assert content_letters("（臣光曰）：ＡＢ c！") == "臣光曰abc"
