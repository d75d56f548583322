"""裁断：先看区间，再看大小，话说得老实。"""

import dataclasses

import numpy as np
import pytest

from companion.corpus.document import Document
from companion.errors import EvaluationError
from companion.evaluation.bootstrap import Difference
from companion.evaluation.scoring import Evaluation, Scores, evaluate
from companion.evaluation.verdict import Comparison, compare_scores, judge


def pair(before: float, after: float, low: float | None, high: float) -> Comparison:
    """前后两个分数与差的区间。"""
    scores = [Scores(bits, bits, 0.2, 0.0, 1000, 1000) for bits in (before, after)]
    interval = None if low is None else (low, high)
    return Comparison(*scores, Difference(before - after, interval, True))


@pytest.mark.parametrize(
    ("after", "low", "high", "said"),
    [
        (5.3, 0.6, 0.8, "领域上学到了很多"),
        (5.7, 0.2, 0.4, "领域上学到了一些"),
        (5.94, 0.04, 0.08, "领域上学到了一点"),
        (5.98, 0.01, 0.03, "领域上几乎没变"),
        (5.9, -0.1, 0.3, "领域上看不出差别"),
        (5.0, None, 0.0, "领域上看不出差别"),
        (6.3, -0.4, -0.2, "领域上反而差了一些"),
    ],
)
def test_the_headline_follows_the_interval_and_then_the_size(after, low, high, said):
    """区间含 0 或没有区间就是看不出；否则按相对变化的大小说程度。"""
    assert judge(pair(6.0, after, low, high)).headline.startswith(said)


def test_the_example_of_the_book_reads_as_it_should():
    """领域降 6.3%，通用升 1.2%：学到了一些，忘了一点，数字与区间都在。"""
    verdict = judge(pair(6.52, 6.11, 0.37, 0.45), pair(5.90, 5.97, -0.09, -0.05))
    assert verdict.headline == "领域上学到了一些，通用上忘了一点。"
    assert verdict.sentences[0] == (
        "领域上，每字比特数由 6.520 降到 6.110（−6.3%，95% 区间 −6.9% 到 −5.7%）。"
    )
    assert "由 5.900 升到 5.970（+1.2%" in verdict.sentences[1]
    assert verdict.advice == []


@pytest.mark.parametrize(
    ("seen", "starts", "void"),
    [
        ({"domain": 0.005}, "领域上学到了很多，通用上忘了一点。", False),
        ({"domain": 0.05}, "领域上学到了很多，通用上忘了一点。", False),
        ({"domain": 0.5}, "领域留出集有 50% 的字就在训练文字里", True),
        ({"general": 0.5}, "领域上学到了很多；通用留出集也见于训练文字", False),
    ],
)
def test_what_was_trained_on_is_not_called_learnt(seen, starts, void):
    """一成以上的字在训练文字里就不说学到；一成以下只说占多少，不到百分之一不提。"""
    domain, general = pair(6.0, 5.3, 0.6, 0.8), pair(5.90, 5.97, -0.09, -0.05)
    verdict = judge(domain, general, seen)
    assert verdict.headline.startswith(starts)
    assert verdict.void is void
    said = [line for line in verdict.sentences if "量的是背诵" in line]
    assert len(said) == (max(seen.values()) >= 0.01)


def test_without_a_general_set_the_verdict_says_what_it_does_not_know():
    """没有通用留出集，就不说“没有忘”。"""
    verdict = judge(pair(6.0, 5.5, 0.4, 0.6))
    assert "没有给通用留出集，不知道忘了什么" in verdict.headline
    assert len(verdict.sentences) == 1


def test_an_interval_around_zero_is_said_in_the_sentence_too():
    """区间含 0，句子里也写明看不出差别。"""
    assert "区间含 0，看不出差别" in judge(pair(6.0, 5.9, -0.1, 0.3)).sentences[0]


def test_too_few_rows_are_admitted():
    """估不出区间时说行数太少，而不是“区间含 0”。"""
    sentence = judge(pair(6.0, 5.0, None, 0)).sentences[0]
    assert "行数太少" in sentence
    assert "区间含 0" not in sentence


def test_a_model_that_got_worse_gets_advice():
    """领域变差：先降学习率；忘得比学得多：得不偿失，试试回放。"""
    worse = judge(pair(6.0, 6.3, -0.4, -0.2))
    assert "学习率" in worse.advice[0]
    costly = judge(pair(6.0, 5.8, 0.1, 0.3), pair(5.0, 5.5, -0.6, -0.4))
    assert any("回放" in advice for advice in costly.advice)
    assert any("得不偿失" in advice for advice in costly.advice)


def test_a_general_set_that_improved_is_not_called_forgetting():
    """通用也好了，就说没有忘。"""
    assert (
        "没有忘" in judge(pair(6.0, 5.5, 0.4, 0.6), pair(5.0, 4.8, 0.1, 0.3)).headline
    )


def test_one_checkpoint_compared_with_itself_shows_no_difference(checkpoint, documents):
    """同一个检查点：差为 0，区间是 [0, 0]，看不出差别。"""
    result = evaluate(checkpoint("bert"), "masked_lm", documents)
    comparison = compare_scores(result, result)
    assert comparison.difference == (0.0, (0.0, 0.0), True)
    assert comparison.direction == "same"
    assert comparison.note == ""


def test_a_paired_comparison_is_before_minus_after(checkpoint, documents):
    """差等于两个每字比特数之差，区间夹着它。"""
    before, after = (
        evaluate(checkpoint("bert", seed=seed), "masked_lm", documents)
        for seed in (0, 1)
    )
    found = compare_scores(before, after)
    expected = before.scores.bits_per_char - after.scores.bits_per_char
    assert found.difference.value == pytest.approx(expected)
    assert found.difference.interval is not None
    assert found.difference.interval[0] <= expected <= found.difference.interval[1]


def test_masked_models_with_other_masks_are_not_compared(checkpoint, documents):
    """种子不同，遮的字不同，分数不能相减。"""
    bert = checkpoint("bert")
    results = [evaluate(bert, "masked_lm", documents, seed=seed) for seed in (0, 1)]
    with pytest.raises(EvaluationError, match=r"考的字不同.*同一个分词器") as caught:
        compare_scores(*results)
    assert caught.value.found
    assert caught.value.expected
    assert caught.value.remedy


def test_other_texts_are_not_compared(checkpoint, documents):
    """两份留出集不同，不能相减。"""
    bert = checkpoint("bert")
    results = [evaluate(bert, "masked_lm", each) for each in (documents, documents[:2])]
    with pytest.raises(EvaluationError, match="文字不同"):
        compare_scores(*results)


def test_other_objectives_are_not_compared(checkpoint, documents):
    """因果的分数与掩码的分数不是一回事。"""
    masked = evaluate(checkpoint("bert"), "masked_lm", documents)
    causal = evaluate(checkpoint("bloom"), "causal_lm", documents)
    with pytest.raises(EvaluationError, match="masked_lm"):
        compare_scores(masked, causal)


def _causal(chars: list[int], fingerprint: str) -> Evaluation:
    counts = np.array(chars)
    scores = Scores(6.0, 4.0, 0.1, 0.0, int(counts.sum()), 3)
    return Evaluation(
        scores, counts * 4.0, counts, "causal_lm", fingerprint, fingerprint, "同文"
    )


def test_causal_models_with_other_tokenizers_are_compared_with_a_note():
    """文字相同、分词器不同：每字比特数可比，不配对，并说明限制。"""
    found = compare_scores(_causal([300, 400], "甲"), _causal([200, 300, 199], "乙"))
    assert not found.difference.paired
    assert "只有每字比特数可比" in found.note
    assert "被考的字之前 700 个、之后 699 个" in found.note


def test_a_tokenizer_that_drops_characters_is_not_compared():
    """被考的字数差得太多，说明有一边丢了字。"""
    with pytest.raises(EvaluationError, match="丢字"):
        compare_scores(_causal([300, 400], "甲"), _causal([300, 300], "乙"))


def test_masked_models_over_the_same_characters_are_compared_with_a_note(
    checkpoint, documents
):
    """词元编号不同而遮住的字相同（只是词表换了次序）：可比，附说明。"""
    result = evaluate(checkpoint("bert"), "masked_lm", documents)
    renumbered = dataclasses.replace(result, fingerprint="别的编号")
    note = compare_scores(result, renumbered).note
    assert "无法配对" in note
    assert "被考的字相同" in note


def test_a_real_change_of_causal_tokenizer_is_comparable(checkpoint):
    """字节级的 BLOOM 与 GPT-2 读同一份文字，考的字数相差不到百分之一。"""
    documents = [
        Document("天下大势，分久必合，合久必分。" * 8, f"d#{n}", "d") for n in (1, 2)
    ]
    results = [
        evaluate(checkpoint(kind), "causal_lm", documents) for kind in ("bloom", "gpt2")
    ]
    found = compare_scores(*results)
    assert found.difference.value == pytest.approx(
        results[0].scores.bits_per_char - results[1].scores.bits_per_char
    )
