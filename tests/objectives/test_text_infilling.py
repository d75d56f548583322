"""文本填补：盖住多少、盖在哪里、换成什么，目标总是原来次序的全文。"""

import math
import random
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    corrupted,
    rng_of,
    shares_agree,
    tokenizer_of,
    within_five_sigma,
)
from transformers import PreTrainedTokenizerFast

from companion.checkpoints.tiny import tiny_model
from companion.errors import ObjectiveError
from companion.objectives.rows import runs_of
from companion.objectives.text_infilling import (
    TextInfillingCollator,
    draw_span_lengths,
    poisson_bounds,
)

BART = tokenizer_of("bart")
START = BART.eos_token_id
NOISES = ("text_infilling", "token_masking", "token_deletion")
PLACEMENTS = ("unbiased", "reference")
TEXT = "良弓藏。天下大势，分久必合，合久必分？学而时习之，不亦说乎！𠀀𪚥亦字也。"


def letters() -> PreTrainedTokenizerFast:
    """论文图 2 的词表：A 到 E、句号、掩码（写作 _）、一个填充。"""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocab = {token: i for i, token in enumerate("#_ABCDE。")}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="#"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="#", mask_token="_"
    )


LETTERS = letters()


def collator(tokenizer=LETTERS, **options) -> TextInfillingCollator:
    options = {"permute_sentences": False} | options
    return TextInfillingCollator(tokenizer, decoder_start_token_id=0, **options)


def copies(text: str, count: int) -> list[np.ndarray]:
    """同一篇文字 `count` 份。"""
    return [np.array(LETTERS.convert_tokens_to_ids(list(text)), np.int64)] * count


def numbered(lengths: list[int]) -> list[np.ndarray]:
    """各篇的词元互不相同，从 100 编起，看得出谁是谁。"""
    ends = np.cumsum(lengths)
    return [
        np.arange(100 + end - n, 100 + end)
        for end, n in zip(ends, lengths, strict=True)
    ]


def written(rows) -> list[str]:
    """各行词元，写成字母。"""
    return ["".join(LETTERS.convert_ids_to_tokens(row)) for row in rows]


def inputs_of(made, texts, seed: int = 0) -> list[str]:
    """编码器的各个输入，写成字母。"""
    return written(each.inputs for each in corrupted(made, texts, seed))


def hidden_of(made, texts) -> np.ndarray:
    """等长的各篇里看不见的，(D, n) bool。"""
    return np.stack([each.hidden for each in corrupted(made, texts)])


# ———— 论文的例子 ————


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"noise": "token_masking", "noise_density": 2 / 7}, "A_C。_E。"),
        ({"noise": "token_deletion", "noise_density": 2 / 7}, "AC。E。"),
        ({"noise_density": 2 / 7}, "A_。D_E。"),
        ({"noise_density": 2 / 7, "span_placement": "reference"}, "A_。D_E。"),
        ({"noise_density": 0.0, "permute_sentences": True}, "DE。ABC。"),
        ({"noise_density": 0.0, "rotate": True}, "C。DE。AB"),
    ],
)
def test_every_corruption_of_figure_2_comes_out(options, expected):
    """论文图 2 的五种写法都在可能的结果之中，目标总是 ABC。DE。"""
    found = corrupted(collator(**options), copies("ABC。DE。", 4000))
    assert expected in written(each.inputs for each in found)
    assert set(written(each.targets for each in found)) == {"ABC。DE。"}


def test_hidden_names_what_the_encoder_cannot_see():
    """图 2 的“A_。D_E。”看不见的只有 B 与 C：凭空插进的掩码不盖住谁。"""
    found = corrupted(collator(noise_density=2 / 7), copies("ABC。DE。", 4000))
    at = written(each.inputs for each in found).index("A_。D_E。")
    assert found[at].hidden.tolist() == [False, True, True, False, False, False, False]


# ———— 同一规律的朴素写法 ————


def naive_spans(budget: int, mean: float, rng: random.Random) -> list[int]:
    """段长逐个抽到恰好 `budget`。"""
    spans: list[int] = []
    while sum(spans) < budget:
        length, share = 0, math.exp(-mean)
        left = rng.random() - share
        while left > 0:
            length += 1
            share *= mean / length
            left -= share
        spans.append(min(length, budget - sum(spans)))
    rng.shuffle(spans)
    return spans


def naive(text: str, density: float, placement: str, rng: random.Random) -> str:
    """一个词元一个词元地写。"""
    budget = math.ceil(len(text) * density)
    drawn = naive_spans(budget, 3.0, rng)
    spans = [length for length in drawn if length]
    states = ["keep"] * len(text)
    if placement == "unbiased":
        items = [None] * (len(text) - budget) + spans
        rng.shuffle(items)
        states = []
        for item in items:
            states += ["keep"] if item is None else ["head"] + ["rest"] * (item - 1)
        turn = rng.randrange(len(text))
        states = states[turn:] + states[:turn]
        if states[0] == "rest":
            states[0] = "head"
    else:
        starts = rng.sample(range(len(text)), len(spans))
        for start in starts:
            states[start] = "head"
        for start, length in zip(starts, spans, strict=True):
            for place in range(start + 1, min(start + length, len(text))):
                states[place] = "rest"
    shown = {"keep": lambda c: c, "head": lambda c: "_", "rest": lambda c: ""}
    pieces = [shown[state](c) for state, c in zip(states, text, strict=True)]
    out = [piece for piece in pieces if piece]
    gaps = [rng.randrange(len(out) + 1) for length in drawn if not length]
    for gap in sorted(gaps[: len(text) - len(out)], reverse=True):
        out.insert(gap, "_")
    return "".join(out)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize(("text", "density"), [("ABCDE", 0.5), ("ABCD", 0.5)])
def test_the_law_is_the_naive_law(text, density, placement):
    """与逐个词元写成的同一规律：每种结果的频率都相符。"""
    trials = 10_000
    rng = random.Random(0)
    expected = Counter(naive(text, density, placement, rng) for _ in range(trials))
    made = collator(noise_density=density, span_placement=placement)
    found = Counter(inputs_of(made, copies(text, trials)))
    assert len(found) > 5
    for outcome in found.keys() | expected.keys():
        assert shares_agree(found[outcome], trials, expected[outcome], trials), outcome


# ———— 个数 ————


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    density=st.sampled_from([0.0, 0.07, 0.15, 0.3, 0.5, 1.0]),
    mean=st.sampled_from([0.1, 1.0, 3.0, 20.0]),
    noise=st.sampled_from(NOISES),
    placement=st.sampled_from(PLACEMENTS),
    seed=st.integers(0, 99),
)
def test_counts_are_exact(lengths, density, mean, noise, placement, seed):
    """恰好 ⌈p·n⌉ 个看不见（fairseq 的放法至多这么多），看得见的照原样、照原序。"""
    made = collator(
        noise_density=density,
        poisson_lambda=mean,
        noise=noise,
        span_placement=placement,
    )
    documents = numbered(lengths)
    for text, each in zip(documents, corrupted(made, documents, seed), strict=True):
        budget = math.ceil(round(len(text) * density, 9))
        if noise == "token_deletion":
            budget = min(budget, len(text) - 1)
        count = int(each.hidden.sum())
        if noise == "text_infilling" and placement == "reference":
            assert count <= budget
            assert (count > 0) == (budget > 0)
        else:
            assert count == budget
        masks = each.inputs == LETTERS.mask_token_id
        num_masks = int(masks.sum())
        assert np.array_equal(each.inputs[~masks], text[~each.hidden])
        assert 1 <= len(each.inputs) <= len(text)
        assert len(each.inputs) == len(text) - count + num_masks
        if noise == "token_masking":
            assert num_masks == count
        elif noise == "token_deletion":
            assert num_masks == 0
        else:
            assert len(runs_of(each.hidden)) <= num_masks <= count
        assert np.array_equal(each.targets, text)
        assert each.origin.tolist() == list(range(len(text)))


def test_rounding_up_is_not_fooled_by_floating_point():
    """0.07 × 100 在浮点数里略大于 7，盖住的仍是 7 个。"""
    assert hidden_of(collator(noise_density=0.07), numbered([100])).sum() == 7


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("size", range(1, 11))
def test_short_documents_work(size, placement, noise):
    """1 至 10 个词元的文档都有结果；只有一个词元时盖住它，逐个删去时留下它。"""
    made = collator(noise=noise, span_placement=placement, permute_sentences=True)
    found = corrupted(made, numbered([size] * 200))
    hidden = np.array([each.hidden.sum() for each in found])
    least = 0 if (noise, size) == ("token_deletion", 1) else 1
    assert hidden.min() >= least
    assert hidden.max() <= math.ceil(0.3 * size)
    assert all(len(each.inputs) for each in found)


def test_the_span_lengths_follow_the_poisson_law():
    """段长 0 至 8 的频率是 e⁻³3ᵏ/k!，总和恰是预算，长度为 0 的另计。"""
    spans, num_empty = draw_span_lengths(30_000, poisson_bounds(3.0), rng_of(0))
    assert sum(spans) == 30_000
    assert min(spans) == 1
    trials = len(spans) + num_empty
    assert within_five_sigma(num_empty, trials, math.exp(-3))
    for length in range(1, 9):
        share = math.exp(-3) * 3**length / math.factorial(length)
        assert within_five_sigma(spans.count(length), trials, share)
    assert draw_span_lengths(0, poisson_bounds(3.0), rng_of(0)) == ([], 0)


def test_rare_long_spans_still_fill_the_budget():
    """百次里九十九次抽到空段时，一直抽到恰好为止。"""
    bounds = np.append(np.full(100, 0.99), 1.0)
    drawn = [draw_span_lengths(10, bounds, rng_of(0, n)) for n in range(50)]
    assert all(spans == [10] for spans, _ in drawn)
    num_empty = sum(count for _, count in drawn)
    assert within_five_sigma(50, 50 + num_empty, 0.01)


def test_the_shortened_span_may_come_anywhere():
    """截短的那一段不总在最后：预算 4 时，(3, 1) 与 (1, 3) 一样多。"""
    count, bounds = 6000, np.array([0.0, 0, 0, 1])
    ordered = Counter(
        tuple(draw_span_lengths(4, bounds, rng_of(0, n))[0]) for n in range(count)
    )
    assert ordered.keys() == {(3, 1), (1, 3)}
    assert within_five_sigma(ordered[3, 1], count, 0.5)


@pytest.mark.parametrize("noise", ["text_infilling", "token_masking"])
@pytest.mark.parametrize("size", [4, 20])
def test_every_token_is_equally_likely_to_be_hidden(size, noise):
    """不论在文首、文末还是中间，盖住的机会都恰是 T/n。"""
    count = 10_000
    hidden = hidden_of(collator(noise=noise), [np.arange(100, 100 + size)] * count)
    hidden = hidden.sum(axis=0)
    share = math.ceil(0.3 * size) / size
    assert all(within_five_sigma(int(each), count, share) for each in hidden)


def test_the_reference_placement_hides_less_than_it_promises():
    """照 fairseq 的放法，510 个词元盖住 26.8%，输入长 81.7%，文首盖住得少。"""
    found = corrupted(collator(span_placement="reference"), numbered([510] * 400))
    hidden = np.stack([each.hidden for each in found])
    assert hidden.mean() == pytest.approx(0.268, abs=0.003)
    lengths = np.array([len(each.inputs) for each in found])
    assert lengths.mean() / 510 == pytest.approx(0.817, abs=0.003)
    assert hidden[:, 0].mean() < 0.15 < hidden[:, 10:].mean()


# ———— 打乱与旋转 ————


def test_all_orders_of_the_sentences_are_equally_likely():
    """三句的六种次序机会相等，每一句都完整，目标仍是原来的次序。"""
    count = 12_000
    made = collator(noise_density=0.0, permute_sentences=True)
    done = corrupted(made, copies("AB。C。DE。", count))
    found = Counter(written(each.inputs for each in done))
    orders = {"".join(order) for order in permutations(["AB。", "C。", "DE。"])}
    assert found.keys() == orders
    assert all(within_five_sigma(found[each], count, 1 / 6) for each in orders)
    assert not any(each.hidden.any() for each in done)
    assert set(written(each.targets for each in done)) == {"AB。C。DE。"}


def test_sentences_are_permuted_before_they_are_infilled():
    """打乱与填补同用时，看得见的词元按某种句序排列，`hidden` 仍照原文的位置。"""
    count = 500
    made = collator(permute_sentences=True, noise="token_deletion")
    turned = 0
    for each in corrupted(made, copies("ABC。DE。", count)):
        [row] = written([each.inputs])
        shown = [
            "" if gone else token
            for gone, token in zip(each.hidden, "ABC。DE。", strict=True)
        ]
        first, second = "".join(shown[:4]), "".join(shown[4:])
        assert row in (first + second, second + first)
        turned += row != first + second
    assert within_five_sigma(turned, count, 0.5)


def test_rotation_starts_anywhere_with_the_same_probability():
    """每个词元作开头的机会相等，包括原来的第一个（fairseq 的是别处的两倍）。"""
    count = 10_000
    made = collator(noise_density=0.0, rotate=True)
    found = Counter(inputs_of(made, copies("ABCDE", count)))
    assert found.keys() == {"ABCDE", "BCDEA", "CDEAB", "DEABC", "EABCD"}
    assert all(within_five_sigma(each, count, 0.2) for each in found.values())


# ———— 指定的词元（填空与出题） ————


@pytest.mark.parametrize(
    ("noise", "expected"),
    [
        ("text_infilling", "A_D_"),
        ("token_masking", "A__D_"),
        ("token_deletion", "AD"),
    ],
)
def test_chosen_tokens_are_hidden_as_in_training(noise, expected):
    """指定遮哪些词元时，样子与训练时相同。"""
    [text] = copies("ABCDE", 1)
    noise_mask = np.array([0, 1, 1, 0, 1], bool)
    result = collator(noise=noise).hide_tokens(text, noise_mask)
    assert written([result.inputs, result.targets]) == [expected, "ABCDE"]
    assert np.array_equal(result.hidden, noise_mask)


# ———— 可复现 ————


def test_the_noise_is_a_function_of_seed_epoch_and_example():
    """同一（种子, 轮次, 样本）结果相同，换了任何一个都不同。"""
    feature = dict(BART(TEXT), example_id=7, epoch=1)
    made = TextInfillingCollator(BART, START, seed=3)
    row = made([feature])["input_ids"][0].tolist()
    assert made([feature])["input_ids"][0].tolist() == row
    for other in ({"epoch": 2}, {"example_id": 8}):
        assert made([feature | other])["input_ids"][0].tolist() != row
    reseeded = TextInfillingCollator(BART, START, seed=4)
    assert reseeded([feature])["input_ids"][0].tolist() != row


# ———— 批量 ————


def test_the_labels_are_the_whole_text_and_its_edges():
    """标签是 <s> 全文 </s>，解码器的输入是它右移一格，以 decoder_start 起头。"""
    made = TextInfillingCollator(BART, START)
    batch = made([dict(BART(TEXT), example_id=0)])
    labels = batch["labels"][0].tolist()
    assert labels == BART(TEXT)["input_ids"]
    assert batch["decoder_input_ids"][0].tolist() == [START, *labels[:-1]]
    assert BART.decode(labels, skip_special_tokens=True) == TEXT
    inputs = batch["input_ids"][0].tolist()
    assert (inputs[0], inputs[-1]) == (BART.bos_token_id, BART.eos_token_id)
    assert BART.mask_token_id in inputs[1:-1]


def test_the_edges_are_never_hidden():
    """首尾的特殊词元从不盖住，也不列入要考的。"""
    made = TextInfillingCollator(BART, START, noise_density=1.0)
    for example in made.examples([dict(BART(t), example_id=0) for t in (TEXT, "分")]):
        assert not example.hidden[0]
        assert not example.hidden[-1]
        assert example.hidden[1:-1].all()


def test_the_loss_of_a_stock_model_is_the_cross_entropy_by_hand():
    """批量原样交给 BART，损失等于逐个标签的交叉熵的平均。"""
    made = TextInfillingCollator(BART, START)
    texts = (TEXT, "合久必分。", "勿以善小而不为。勿以恶小而为之。")
    batch = made([dict(BART(t), example_id=i) for i, t in enumerate(texts)])
    with torch.no_grad():
        output = tiny_model("bart")(**batch)
    nats = [
        F.cross_entropy(logits, label)
        for row, row_logits in zip(batch["labels"], output.logits, strict=True)
        for label, logits in zip(row, row_logits, strict=True)
        if label >= 0
    ]
    assert len(nats) == sum(len(BART(text)["input_ids"]) for text in texts)
    assert output.loss.item() == pytest.approx(torch.stack(nats).mean().item())


# ———— 说得清的错误 ————


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"noise_density": 1.5}, "noise_density = 1.5"),
        ({"poisson_lambda": 0.0}, "poisson_lambda = 0.0"),
        ({"noise": "rotation"}, "noise = 'rotation'"),
        ({"span_placement": "fairseq"}, "span_placement = 'fairseq'"),
    ],
)
def test_bad_settings_are_named(options, words):
    """越界的数、不认得的名字，连同原值一起报出。"""
    with pytest.raises(ObjectiveError, match=words):
        collator(**options)


def test_a_tokenizer_without_a_mask_can_only_delete():
    """T5 没有掩码词元：填补报错并指路，逐个删去照常。"""
    t5 = tokenizer_of("t5")
    with pytest.raises(ObjectiveError, match=r"没有掩码词元.*span_corruption"):
        collator(t5)
    made = collator(t5, noise="token_deletion")
    row = made([dict(t5("良弓藏。"), example_id=0)])["input_ids"][0]
    assert len(row) < len(t5("良弓藏。")["input_ids"])


def test_a_text_that_already_contains_a_mask_is_refused():
    """原文里写着 <mask> 时报错，说明是哪个样本、第几个词元。"""
    texts = ("分分", "分<mask>分")
    features = [dict(BART(t), example_id=i) for i, t in enumerate(texts)]
    with pytest.raises(ObjectiveError, match=r"样本 1 .*已有 <mask>.*第 2 个"):
        TextInfillingCollator(BART, START)(features)
