"""尺子：数出来的一元、二元、三元，答同一份评估目标。"""

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from companion.batch import IGNORE_INDEX
from companion.checkpoints import load_tokenizer
from companion.checkpoints.loading import Checkpoint
from companion.checkpoints.tiny import tiny_tokenizer
from companion.corpus.document import Document
from companion.errors import EvaluationError
from companion.evaluation.chrf import chrf
from companion.evaluation.ruler import NAMES, discounts, fit_ruler, measure
from companion.evaluation.scoring import evaluate
from companion.evaluation.targets import build_targets

V = 12


def made_up(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """几篇编造的文档：常见的词元多，稀有的少，有几个从不出现。"""
    rng = np.random.default_rng(seed)
    lengths = np.array([400, 1, 2, 300, 3])
    chances = 1 / np.arange(1, V - 1) ** 1.3
    words = rng.choice(V - 2, int(lengths.sum()), p=chances / chances.sum())
    return words.astype(np.int64), lengths


def written_out(
    words: list[int], lengths: list[int], order: int, context: tuple[int, ...], w: int
) -> float:
    """Chen 与 Goodman（1999）的公式，照字面一项一项地写。"""
    documents, at = [], 0
    for length in lengths:
        documents.append(words[at : at + length])
        at += length

    def grams(n: int) -> Counter[tuple[int, ...]]:
        return Counter(
            tuple(d[i : i + n]) for d in documents for i in range(len(d) - n + 1)
        )

    def counted(n: int) -> Counter[tuple[int, ...]]:
        if n == order:
            return grams(n)
        return Counter(longer[1:] for longer in grams(n + 1))

    def probability(n: int, context: tuple[int, ...]) -> float:
        if n == 0:
            return 1 / V
        counts = counted(n)
        shorter = probability(n - 1, context[1:])
        total = sum(c for g, c in counts.items() if g[:-1] == context)
        if not total:
            return shorter
        of = Counter(counts.values())
        d = {1: 0.5, 2: 1.0, 3: 1.5}  # 词元太少，片段没有恰好出现一次的
        if of[1] and of[2] and of[3]:
            y = of[1] / (of[1] + 2 * of[2])
            d = {k: k - (k + 1) * y * of[k + 1] / of[k] for k in (1, 2, 3)}
        kinds = Counter(min(c, 3) for g, c in counts.items() if g[:-1] == context)
        left_over = sum(d[k] * number for k, number in kinds.items()) / total
        c = counts[(*context, w)]
        own = (c - d[min(c, 3)]) / total if c else 0.0
        return own + left_over * shorter

    return probability(order, context)


def test_every_probability_is_the_one_in_the_paper() -> None:
    """见过与没见过的上文、见过与没见过的词元，都与照字面写的公式相等。"""
    words, lengths = made_up()
    found = fit_ruler(words, lengths, V)
    left = np.array([[0, 1], [3, 0], [9, 9], [10, 2], [0, 11]])
    for w in range(V):
        ours = found.probabilities(left, np.full(len(left), w))
        for order, name in enumerate(("unigram", "bigram", "trigram"), start=1):
            expected = [
                written_out(
                    words.tolist(), lengths.tolist(), order, (a, b)[3 - order :], w
                )
                for a, b in left.tolist()
            ]
            assert ours[name] == pytest.approx(expected, rel=1e-12), (name, w)


def test_the_discounts_of_this_text_are_not_the_fallback() -> None:
    """上一个测试用的文字够长，三个折扣都由它定出。"""
    words, _ = made_up()
    _, counts = np.unique(words[:-1] * V + words[1:], return_counts=True)
    assert discounts(counts) != (0.5, 1.0, 1.5)


@pytest.mark.parametrize("context", [(0, 1), (10, 11), (-1, 3), (-1, -1)])
def test_probabilities_sum_to_one_over_the_vocabulary(context: tuple[int, int]) -> None:
    """不论上文见没见过、有没有，四种办法都是词表上的分布。"""
    found = fit_ruler(*made_up(), V).probabilities(
        np.tile(context, (V, 1)), np.arange(V)
    )
    for name, chances in found.items():
        assert chances.sum() == pytest.approx(1), name
        assert (chances > 0).all(), name


def test_a_bigram_counted_by_hand() -> None:
    """“甲乙甲乙甲丙”：文字太少，折扣取 0.5、1、1.5。

    二元：乙在甲后 2 次、丙 1 次，共 3 次；余下 (1 + 0.5) / 3 = 0.5 给一元。一元数左
    边接过几种：乙、甲、丙各 1 种，共 3 种；余下 3 × 0.5 / 3 = 0.5 给均匀的 1/4。于是
    p(乙 | 甲) = (2 − 1) / 3 + 0.5 × ((1 − 0.5) / 3 + 0.5 / 4)。
    """
    found = fit_ruler(np.array([0, 1, 0, 1, 0, 2]), np.array([6]), 4)
    chances = found.probabilities(np.array([[-1, 0]]), np.array([1]))
    assert chances["bigram"][0] == pytest.approx(1 / 3 + 0.5 * (0.5 / 3 + 0.5 / 4))


def test_grams_never_cross_documents() -> None:
    """一字一篇时没有二元可数，二元、三元都退回一元。"""
    found = fit_ruler(np.array([0, 1, 0, 1, 0]), np.ones(5, np.int64), 4)
    chances = found.probabilities(np.array([[0, 1]]), np.array([0]))
    assert chances["bigram"] == chances["trigram"]


def test_an_empty_text_is_refused() -> None:
    """一个词元也没有的文字，说清楚要什么。"""
    with pytest.raises(EvaluationError, match="一个词元"):
        fit_ruler(np.empty(0, np.int64), np.empty(0, np.int64), V)


@pytest.mark.parametrize("objective", ["causal_lm", "masked_lm", "span_corruption"])
def test_the_ruler_reads_what_stands_left_of_every_target(
    objective: str, documents: list[Document]
) -> None:
    """每个目标左边的两个词元就是原文里的那两个；行首没有的是 −1。"""
    kinds = {"causal_lm": "bloom", "masked_lm": "bert", "span_corruption": "t5"}
    tokenizer = load_tokenizer(f"starter:{kinds[objective]}")  # 一字一词元
    options = {"decoder_start_token_id": 0} if objective == "span_corruption" else {}
    targets = build_targets(
        tokenizer, objective, documents, block_size=16, model_options=options
    )
    whole = [
        tokenizer(each.text, add_special_tokens=False)["input_ids"]
        for each in documents
    ]
    met = 0
    for row in targets.rows:
        for at in (row.labels != IGNORE_INDEX).nonzero()[:, 0].tolist():
            ids = whole[row.document]
            place = int(row.starts[at])
            assert ids[place] == int(row.labels[at])
            far, near = row.left[at].tolist()
            assert near in (-1, ids[place - 1])
            assert far in (-1, ids[place - 2])
            met += far >= 0
    assert met > targets.num_targets / 2


def test_evaluate_puts_the_ruler_beside_the_score(
    checkpoint: Callable[..., Checkpoint], documents: list[Document]
) -> None:
    """均匀每个词元恰是 log₂ V；拟合的就是留出集时，越长越省。"""
    model = checkpoint("gpt2")
    scores = evaluate(
        model, "causal_lm", documents, ruler=documents * 3, block_size=16
    ).scores
    assert scores.ruler is not None
    assert list(scores.ruler) == [name for name in NAMES if name != "copy_chrf"]
    assert scores.ruler["uniform"] == pytest.approx(
        math.log2(len(model.tokenizer)) * scores.num_targets / scores.num_chars
    )
    costs = list(scores.ruler.values())
    assert costs == sorted(costs, reverse=True)
    assert scores.as_dict()["ruler"] == scores.ruler


def test_without_a_text_there_is_no_ruler(
    checkpoint: Callable[..., Checkpoint], documents: list[Document]
) -> None:
    """没有给文字，成绩里就没有这一项，JSON 的键照旧。"""
    scores = evaluate(checkpoint("gpt2"), "causal_lm", documents, block_size=16).scores
    assert "ruler" not in scores.as_dict()


def test_pairs_are_measured_by_copying_the_source(
    checkpoint: Callable[..., Checkpoint], documents: list[Document]
) -> None:
    """留出集是句对时，另有照抄源侧的 chrF。"""
    pairs = [
        Document(each.text[:8], each.id, each.source, each.text[2:10])
        for each in documents
    ]
    scores = evaluate(checkpoint("bert"), "translation_lm", pairs, ruler=pairs).scores
    assert scores.ruler is not None
    assert scores.ruler["copy_chrf"] == pytest.approx(
        chrf([each.text for each in pairs], [each.target or "" for each in pairs])
    )


def test_a_discriminator_has_no_ruler(documents: list[Document]) -> None:
    """判真假的目标不是词元，尺子用不上，说清楚。"""
    tokenizer = tiny_tokenizer("electra")
    targets = build_targets(tokenizer, "replaced_token", documents)
    with pytest.raises(EvaluationError, match="真假"):
        measure(targets, tokenizer, documents)
