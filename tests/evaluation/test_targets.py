"""评估目标：在看到模型之前就定下，只由文字、分词器、目标、种子、行长决定。"""

import itertools

import pytest
from built_tokenizers import TOKENIZERS, Slow
from hypothesis import given
from hypothesis import strategies as st

from companion.batch import IGNORE_INDEX
from companion.checkpoints.tiny import tiny_tokenizer
from companion.corpus.document import Document
from companion.corpus.tokenization import unknown_id
from companion.errors import EvaluationError, ObjectiveError
from companion.evaluation.targets import build_targets, sample_documents, windows


@given(length=st.integers(0, 400), window=st.integers(2, 60))
def test_sliding_windows_score_every_token_but_the_first_exactly_once(length, window):
    """滑动窗口考遍 1 … n−1，不重不漏，窗口不超长，除首个外至少有半个窗口的上文。"""
    scored: list[int] = []
    for number, (start, first, stop) in enumerate(windows(length, window)):
        assert 0 <= start < first < stop <= min(length, start + window)
        if number:
            assert first - start >= window // 2
        scored += range(first, stop)
    assert scored == list(range(1, length))


@pytest.mark.parametrize("kind", ["bloom", "gpt2", "llama"])
def test_a_long_document_has_one_target_per_token_after_the_first(kind, documents):
    """因果评估目标的目标依次拼起来，就是各文档首个词元之后的全部词元。"""
    tokenizer = tiny_tokenizer(kind)
    targets = build_targets(tokenizer, "causal_lm", documents, block_size=16)
    for number, document in enumerate(documents):
        ids = tokenizer(document.text, add_special_tokens=False)["input_ids"]
        found = [
            row.labels[row.labels != IGNORE_INDEX].tolist()
            for row in targets.rows
            if row.document == number
        ]
        assert list(itertools.chain(*found)) == ids[1:]
    assert targets.num_targets == sum(
        len(tokenizer(d.text, add_special_tokens=False)["input_ids"]) - 1
        for d in documents
    )


def test_masked_targets_are_fifteen_percent_all_replaced_by_the_mask(documents):
    """掩码评估目标：每行选中 round(0.15·T) 个，选中处全是 [MASK]，别处原样。"""
    tokenizer = tiny_tokenizer("bert")
    targets = build_targets(tokenizer, "masked_lm", documents)
    for row, document in zip(targets.rows, documents, strict=True):
        chosen = row.labels != IGNORE_INDEX
        assert int(chosen.sum()) == max(1, round(0.15 * len(row.labels)))
        assert (row.input_ids[chosen] == tokenizer.mask_token_id).all()
        restored = row.input_ids.where(~chosen, row.labels)
        assert restored.tolist() == tokenizer(document.text)["input_ids"]


def test_the_fingerprint_depends_on_the_seed_and_not_on_the_run(documents):
    """同样的参数是同一份评估目标，换了种子是另一份。"""
    tokenizer = tiny_tokenizer("bert")
    first = build_targets(tokenizer, "masked_lm", documents)
    again = build_targets(tiny_tokenizer("bert"), "masked_lm", iter(documents))
    other = build_targets(tokenizer, "masked_lm", documents, seed=1)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert first.coverage == again.coverage != other.coverage
    assert first.text_fingerprint == other.text_fingerprint


@pytest.mark.parametrize(("kind", "goal"), [("bert", "masked_lm"), ("t5", "causal_lm")])
def test_unknown_and_special_tokens_are_never_targets(kind, goal):
    """[UNK] 不考，只记下它占的字数；[CLS]、[SEP] 也不考。"""
    tokenizer = tiny_tokenizer(kind)
    documents = [Document("龘天齉下靐大龘势" * 4, "a#1", "a")]
    targets = build_targets(tokenizer, goal, documents)
    labels = {int(label) for row in targets.rows for label in row.labels if label >= 0}
    assert labels.isdisjoint(tokenizer.all_special_ids)
    assert 0.4 < targets.unk_rate < 0.6


def test_unknown_characters_count_where_only_the_backend_knows_the_token(documents):
    """外层没写 unk_token 的分词器，[UNK] 由后端的词表认出：从不是目标，UNK 率照算。"""
    named, silent = tiny_tokenizer("bert"), tiny_tokenizer("bert")
    silent.unk_token = None
    texts = [Document("龘天齉下", "d", "d"), *documents]
    expected, found = (build_targets(t, "masked_lm", texts) for t in (named, silent))
    assert silent.unk_token_id is None
    assert found.unk_rate == expected.unk_rate > 0
    assert unknown_id(tiny_tokenizer("gpt2")) == -1  # 与结尾同一个，文字变不出来


def test_a_text_of_nothing_but_unknown_characters_is_refused():
    """没有一个可考的词元时报错，而不是除以零。"""
    with pytest.raises(EvaluationError, match="可考的词元"):
        build_targets(
            tiny_tokenizer("bert"), "masked_lm", [Document("龘齉靐", "a#1", "a")]
        )


def test_a_sample_of_documents_does_not_depend_on_their_order(documents):
    """max_chars 按内容的散列取文档，恰好取够，与次序无关。"""
    forward = sample_documents(documents, 50)
    backward = sample_documents(lambda: reversed(documents), 50)
    assert [d.text for d in forward] == [d.text for d in backward]
    assert sum(d.num_chars for d in forward) == 50


def test_max_chars_below_one_is_refused(documents):
    """max_chars 至少为 1。"""
    with pytest.raises(EvaluationError, match="max_chars"):
        sample_documents(documents, 0)


def test_a_window_too_small_for_two_tokens_is_refused(documents):
    """一个词元的窗口什么也考不了。"""
    with pytest.raises(EvaluationError, match="block_size"):
        build_targets(tiny_tokenizer("bloom"), "causal_lm", documents, block_size=1)


def test_an_unknown_objective_is_refused_with_a_suggestion(documents):
    """目标写错了，猜最接近的一个。"""
    with pytest.raises(ObjectiveError, match="masked_lm"):
        build_targets(tiny_tokenizer("bert"), "mask_lm", documents)


def test_byte_targets_cover_every_character_after_the_first(documents):
    """ByT5 的因果评估目标：首个字节不考，被考的字恰好是首字之外的全部。"""
    targets = build_targets(TOKENIZERS["byt5"], "causal_lm", documents)
    whole = sum(len(document.text) for document in documents)
    assert targets.num_chars == whole - len(documents)


def test_tokens_that_cannot_be_found_in_the_text_are_refused(documents):
    """词元写出来的与原文全然不同，数不出字：点名拒绝，不报一个离谱的分数。"""

    class Coded(Slow):
        def convert_tokens_to_string(self, tokens):
            return "#" * len(tokens)

        def _convert_token_to_id(self, token):
            return 1

    with pytest.raises(EvaluationError, match=r"Coded 的词元对不回原文"):
        build_targets(Coded(), "causal_lm", documents)
