"""伪对数似然：一次遮一个，等于逐个亲手遮。"""

import math

import pytest
import torch

from companion.corpus.words import dictionary_segmenter
from companion.errors import EvaluationError, ModelError
from companion.evaluation.pll import pseudo_log_likelihood

TEXTS = ["飞鸟尽，良弓藏。", "天下大势"]


def by_hand(bert, text: str, groups: list[list[int]]) -> float:
    """逐个词元遮住（连同 groups 里排在它后面的），求 −Σ 对数概率。"""
    ids = bert.tokenizer(text)["input_ids"]
    nats = 0.0
    for group in groups:
        for k, at in enumerate(group):
            masked = list(ids)
            for later in group[k:]:
                masked[later] = bert.tokenizer.mask_token_id
            with torch.no_grad():
                logits = bert.model(input_ids=torch.tensor([masked])).logits[0, at]
            nats -= float(logits.log_softmax(-1)[ids[at]])
    return nats


def test_each_token_is_scored_with_all_others_visible(checkpoint):
    """Salazar 等，2020：[CLS] 与 [SEP] 不计，其余每个词元遮一次。"""
    bert = checkpoint("bert")
    result = pseudo_log_likelihood(bert, TEXTS)
    for text, nats in zip(TEXTS, result.nats, strict=True):
        groups = [[at] for at in range(1, len(text) + 1)]
        assert nats == pytest.approx(by_hand(bert, text, groups), rel=1e-5)
    total = sum(map(len, TEXTS))
    assert result.num_targets == result.chars.sum() == total
    assert result.bits_per_char == pytest.approx(
        result.nats.sum() / math.log(2) / total
    )


def test_within_word_left_to_right_also_hides_the_rest_of_the_word(checkpoint):
    """Kauf 与 Ivanova，2023：遮“天”时，同一个词后面的“下”也遮住，反之不遮。"""
    bert = checkpoint("bert")
    words = dictionary_segmenter(["天下", "大势"])
    result = pseudo_log_likelihood(
        bert, ["天下大势"], within_word_l2r=True, segmenter=words
    )
    expected = by_hand(bert, "天下大势", [[1, 2], [3, 4]])
    assert result.nats[0] == pytest.approx(expected, rel=1e-5)


def test_one_character_words_make_both_variants_equal(checkpoint):
    """一字一词时，词内从左到右与原来的相同；西文拆开的词则不同。"""
    bert = checkpoint("bert")
    plain = pseudo_log_likelihood(bert, ["良弓藏", "ab"])
    inside = pseudo_log_likelihood(bert, ["良弓藏", "ab"], within_word_l2r=True)
    assert inside.nats[0] == pytest.approx(plain.nats[0], rel=1e-6)
    assert inside.nats[1] != pytest.approx(plain.nats[1], rel=1e-6)


def test_the_batch_size_does_not_change_the_likelihood(checkpoint):
    """一次一行与一次全部，结果相同。"""
    bert = checkpoint("bert")
    one = pseudo_log_likelihood(bert, TEXTS, batch_tokens=1)
    many = pseudo_log_likelihood(bert, TEXTS)
    assert one.nats == pytest.approx(many.nats, rel=1e-6)


def test_unknown_characters_are_not_scored(checkpoint):
    """[UNK] 不计；一句全是生字就无从打分。"""
    bert = checkpoint("bert")
    assert pseudo_log_likelihood(bert, ["天龘下"]).num_targets == 2
    with pytest.raises(EvaluationError, match="可考"):
        pseudo_log_likelihood(bert, ["龘齉"])


def test_a_causal_model_is_refused(checkpoint):
    """因果模型没有掩码。"""
    with pytest.raises(ModelError, match="掩码语言模型"):
        pseudo_log_likelihood(checkpoint("bloom"), TEXTS)
