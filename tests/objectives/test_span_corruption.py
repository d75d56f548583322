"""片段破坏：论文的例子、长度、位置的规律，以及与同批的样本无关。"""

import itertools
import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from strategies import FEW, corrupted, rng_of, tokenizer_of, within_five_sigma
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from companion.batch import IGNORE_INDEX
from companion.checkpoints.tiny import tiny_model
from companion.errors import ObjectiveError
from companion.objectives.span_corruption import (
    SpanCorruptionCollator,
    place_spans,
    raw_length,
    replace_spans,
    span_counts,
)

TEXT = "天下大势，分久必合，合久必分。𠀀𠀋𡃁𪚥之属，皆僻字也。"
PLACEMENTS = pytest.mark.parametrize("placement", ["reference", "unbiased"])
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=8)


def character_tokenizer(sentinels, characters=TEXT):
    """一字一元，结尾 </s>，另有所列的哨兵。"""
    words = ["<pad>", "</s>", "<unk>", *sorted(set(characters)), *sentinels]
    inner = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


HUNDRED = character_tokenizer([f"<extra_id_{i}>" for i in reversed(range(100))])
SENTINELS = HUNDRED.convert_tokens_to_ids([f"<extra_id_{i}>" for i in range(100)])


def naive_mask(length, num_noise, num_spans):
    """论文的代码：打乱分界，没盖的一段与盖住的一段交替。"""

    def split(total):
        cuts = sorted(random.sample(range(1, total), num_spans - 1))
        return [b - a for a, b in itertools.pairwise([0, *cuts, total])]

    pairs = zip(split(length - num_noise), split(num_noise), strict=True)
    return [hidden for kept, cut in pairs for hidden in [0] * kept + [1] * cut]


def naive_corrupt(tokens, mask, sentinels, *, final):
    """逐个词元地写：一段噪声在输入里是一个哨兵，在目标里跟在哨兵后面。"""
    inputs, targets, used, inside = [], [], 0, False
    for token, hidden in zip(tokens, mask, strict=True):
        if hidden and not inside:
            inputs.append(sentinels[used])
            targets.append(sentinels[used])
            used += 1
        (targets if hidden else inputs).append(token)
        inside = bool(hidden)
    if final or not used:
        targets.append(sentinels[used])
    return inputs, targets


def merge(inputs, targets, sentinels):
    """把目标里的各段填回输入的哨兵处。"""
    known, pieces, current = set(sentinels), {}, None
    for token in targets:
        if token in known:
            current = pieces.setdefault(token, [])
        else:
            current.append(token)
    return [t for token in inputs for t in pieces.get(token, [token])]


def random_documents(lengths, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(3, len(set(TEXT)), n) for n in lengths]


def test_the_figure_of_the_paper_comes_out():
    """Raffel 等，2020，图 2：盖住 for inviting 与 last，结尾另有一个哨兵。"""
    sentence = "Thank you for inviting me to your party last week ."
    words = sentence.split()
    vocabulary = {word: 10 + i for i, word in enumerate(words)}
    x, y, z = 3, 2, 1
    tokens = np.array([vocabulary[word] for word in words])
    noise = np.array([word in ("for", "inviting", "last") for word in words])
    result = replace_spans(tokens, noise, np.array([x, y, z]), final_sentinel=True)
    spelt = {number: word for word, number in vocabulary.items()} | {
        x: "<X>",
        y: "<Y>",
        z: "<Z>",
    }
    said = [
        " ".join(spelt[i] for i in column) for column in (result.inputs, result.targets)
    ]
    assert said == [
        "Thank you <X> me to your party <Y> week .",
        "<X> for inviting <Y> last <Z>",
    ]
    assert result.origin.tolist() == [-1, 2, 3, -1, 8, -1]
    assert result.hidden.tolist() == [False, True, True, False, True, False]


@pytest.mark.parametrize(
    ("room", "density", "mean", "raw", "targets"),
    [
        (128, 0.15, 3, 141, 29),
        (256, 0.15, 3, 284, 58),
        (512, 0.15, 3, 568, 114),
        (1024, 0.15, 3, 1137, 229),
        (2048, 0.15, 3, 2274, 456),
        (512, 0.15, 8, 588, 100),
        (512, 0.5, 3, 766, 512),
        (512, 0.5, 8, 908, 512),
        (512, 0.15, 64, 600, 92),
        (512, 0.5, 64, 1006, 512),
    ],
)
def test_raw_lengths_fill_the_block_as_in_the_released_code(
    room, density, mean, raw, targets
):
    """`random_spans_helper` 的数：原文多长，输入恰好填满一行，目标又多长。"""
    assert raw_length(room - 1, density, mean) == raw
    noise, spans = span_counts(raw, density, mean)
    assert raw - noise + spans + 1 == room
    assert noise + spans + 1 == targets


@PLACEMENTS
@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize(
    ("block_size", "density"), [(64, 0.15), (200, 0.15), (99, 0.5)]
)
def test_the_row_capacity_is_the_longest_row_that_fits(
    placement, final, block_size, density
):
    """一行一篇，两侧都不超过 block_size（0.5 时可能空一格）；再多一个就超过。"""
    collator = SpanCorruptionCollator(
        HUNDRED,
        noise_density=density,
        final_sentinel=final,
        span_placement=placement,
    )
    capacity = collator.row_capacity(block_size, num_edges=1)

    def longest(size):
        rows = [3 + i % 20 for i in range(size - 1)]
        features = [
            {"input_ids": [*rows, HUNDRED.eos_token_id], "example_id": i}
            for i in range(60)
        ]
        batch = collator(features)
        return max(batch["input_ids"].shape[1], batch["labels"].shape[1])

    assert block_size - 1 <= longest(capacity) <= block_size
    assert longest(capacity + 1) > block_size


@FEW
@given(LENGTHS, st.integers(0, 99), st.booleans(), st.sampled_from([0.15, 0.5, 0.9]))
def test_runs_are_replaced_as_token_by_token(lengths, seed, final, density):
    """同一个掩码，与逐词元的写法逐个相等。"""
    for number, tokens in enumerate(random_documents(lengths, seed)):
        counts = span_counts(len(tokens), density, 2.0)
        noise = place_spans(len(tokens), *counts, rng_of(seed, number))
        result = replace_spans(tokens, noise, np.array(SENTINELS), final_sentinel=final)
        expected = naive_corrupt(
            tokens.tolist(), noise.tolist(), SENTINELS, final=final
        )
        assert (result.inputs.tolist(), result.targets.tolist()) == expected


@FEW
@given(LENGTHS, st.integers(0, 99), st.sampled_from(["reference", "unbiased"]))
def test_filling_the_sentinels_restores_the_text(lengths, seed, placement):
    """把目标的各段填回哨兵处就是原文；origin 指着原文，hidden 恰是哨兵之外的目标。"""
    documents = random_documents(lengths, seed)
    collator = SpanCorruptionCollator(HUNDRED, span_placement=placement)
    for text, each in zip(documents, corrupted(collator, documents, seed), strict=True):
        filled = merge(each.inputs.tolist(), each.targets.tolist(), SENTINELS)
        assert filled == text.tolist()
        assert np.array_equal(each.hidden, ~np.isin(each.targets, SENTINELS))
        assert np.array_equal(each.targets[each.hidden], text[each.origin[each.hidden]])
        assert (each.origin[~each.hidden] == -1).all()
        used = each.targets[~each.hidden].tolist()
        assert used == SENTINELS[: len(used)]


@pytest.mark.parametrize("length", range(1, 11))
@PLACEMENTS
def test_short_documents_hide_exactly_what_the_paper_says(length, placement):
    """1 到 10 个词元：盖 max(1, round(0.15·L)) 个，一段，转断了是两段；一个不盖。"""
    documents = random_documents([length] * 50)
    collator = SpanCorruptionCollator(HUNDRED, span_placement=placement)
    hidden = 0 if length == 1 else max(1, round(0.15 * length))
    for text, each in zip(documents, corrupted(collator, documents), strict=True):
        spans = len(each.targets) - hidden
        assert len(each.inputs) == length - hidden + (spans if hidden else 0)
        assert spans in ((1,) if hidden < 2 or placement == "reference" else (1, 2))
        if length == 1:
            assert each.targets.tolist() == [SENTINELS[0]]
            assert np.array_equal(each.inputs, text)


def test_the_counts_are_exact_at_the_size_of_the_paper():
    """568 个词元：盖 85 个、28 段，输入 511、目标 113，每篇都是。"""
    for each in corrupted(
        SpanCorruptionCollator(HUNDRED), random_documents([568] * 30)
    ):
        sizes = len(each.inputs), len(each.targets), int(each.hidden.sum())
        assert sizes == (511, 113, 85)


def test_many_spans_never_exceed_the_visible_tokens():
    """密度 0.9、平均 1 个词元：发布的代码在此出错，这里段数不超过没盖的个数。"""
    for length in range(2, 60):
        noise, spans = span_counts(length, 0.9, 1.0)
        assert 1 <= spans <= length - noise
        assert place_spans(length, noise, spans, rng_of(length)).sum() == noise


def masks_of(length, count, placement="reference", seed=0):
    """`count` 篇等长文档的掩码，(count, length)。"""
    collator = SpanCorruptionCollator(HUNDRED, span_placement=placement)
    text = np.arange(1000, 1000 + length)
    mask = np.zeros((count, length), bool)
    for row, each in zip(mask, corrupted(collator, [text] * count, seed), strict=True):
        row[each.origin[each.hidden]] = True
    return mask


def test_span_lengths_follow_the_law_of_random_compositions():
    """P(长 k) = C(N−k−1, S−2) / C(N−1, S−1)，N=85、S=28：.321 .221 .151 …"""
    count, num_noise, num_spans = 400, 85, 28
    mask = np.pad(masks_of(568, count), ((0, 0), (1, 1))).astype(int)
    edges = np.diff(mask, axis=1)
    lengths = np.nonzero(edges == -1)[1] - np.nonzero(edges == 1)[1]
    assert len(lengths) == count * num_spans
    for k in range(1, 9):
        share = math.comb(num_noise - k - 1, num_spans - 2) / math.comb(
            num_noise - 1, num_spans - 1
        )
        assert within_five_sigma(int((lengths == k).sum()), len(lengths), share)


def test_the_two_partitions_and_the_turn_are_unrelated():
    """没盖的怎样分、盖住的怎样分、转多少，互不相关（4000 篇，5 倍标准差）。"""
    length, count = 40, 4000
    mask, turned = masks_of(length, count), masks_of(length, count, "unbiased")
    first_kept = mask.argmax(1)  # 两段时，第一段没盖的有几个
    runs = (np.diff(mask.astype(int), axis=1) == -1).argmax(1) + 1
    first_noise = runs - first_kept
    rolled = np.stack([np.roll(mask, -k, axis=1) for k in range(length)])
    angle = (rolled == turned).all(2).argmax(0)
    assert span_counts(length, 0.15, 3.0)[1] == 2
    numbers = np.corrcoef([first_kept, first_noise, angle])[np.triu_indices(3, 1)]
    assert (np.abs(numbers) <= 5 / math.sqrt(count)).all()
    still = angle == 0  # 34 个没盖的有 33 条缝，切在第一条的机会不因此而变
    hits = int((first_kept[still] == 1).sum())
    assert within_five_sigma(hits, int(still.sum()), 1 / 33)


def test_placement_agrees_with_the_naive_law_place_by_place():
    """每个位置盖住的频率与逐篇抽签的写法相差不过 5 倍标准差（两边各 2000 篇）。"""
    random.seed(0)
    length, count = 40, 2000
    noise, spans = span_counts(length, 0.15, 3.0)
    ours = masks_of(length, count).mean(0)
    naive = np.mean([naive_mask(length, noise, spans) for _ in range(count)], axis=0)
    sigma = np.sqrt((ours * (1 - ours) + naive * (1 - naive)) / count)
    assert (np.abs(ours - naive) <= 5 * sigma).all()


def test_the_reference_always_hides_the_last_token_and_never_the_first():
    """发布的代码从没盖的一段开始，以盖住的一段结束。"""
    mask = masks_of(20, 200)
    assert not mask[:, 0].any()
    assert mask[:, -1].all()


def test_a_short_line_is_hidden_in_the_same_place_every_time_by_the_reference():
    """30 个词元以内只有一段，又必在末尾：发布的代码每一轮盖同一处，`unbiased` 不然。"""
    for length in (10, 20, 30):
        assert (masks_of(length, 50) == masks_of(length, 1)).all()
        assert len(np.unique(masks_of(length, 50, "unbiased"), axis=0)) > 5
    assert len(np.unique(masks_of(31, 50), axis=0)) > 5


@pytest.mark.parametrize("length", [7, 20, 100])
def test_the_unbiased_placement_hides_every_place_alike(length):
    """转过之后，每个位置盖住的机会都是 N/L，每篇仍恰好盖 N 个，至多多断出一段。"""
    count = 3000
    mask = masks_of(length, count, "unbiased")
    noise, spans = span_counts(length, 0.15, 3.0)
    assert (mask.sum(1) == noise).all()
    for hits in mask.sum(0).tolist():
        assert within_five_sigma(hits, count, noise / length)
    starts = (np.diff(np.pad(mask, ((0, 0), (1, 0))).astype(int), axis=1) == 1).sum(1)
    wrapped = mask[:, 0] & mask[:, -1]
    assert np.array_equal(starts, spans + wrapped)


def feature_of(text, example_id, **more):
    return {**HUNDRED(text), "example_id": example_id, **more}


@PLACEMENTS
def test_neighbours_change_nothing(placement):
    """一个样本独自成批、与长短不一的样本同批，破坏得一模一样。"""
    collator = SpanCorruptionCollator(HUNDRED, span_placement=placement)
    features = [feature_of(TEXT[: 5 + 2 * i], i) for i in range(8)]
    together = collator.examples(features)
    alone = [collator.examples([feature])[0] for feature in reversed(features)][::-1]
    for first, second in zip(together, alone, strict=True):
        for name in ("input_ids", "labels", "decoder_input_ids", "origin", "hidden"):
            assert torch.equal(getattr(first, name), getattr(second, name))


def test_epochs_and_seeds_change_the_noise_and_repetition_does_not():
    """同（种子, 轮次, 编号）同噪声；换一个轮次、种子或编号就不同。"""

    def masks(seed=0, epoch=0, first=0):
        features = [feature_of(TEXT * 3, first + i, epoch=epoch) for i in range(8)]
        return SpanCorruptionCollator(HUNDRED, seed=seed)(features)["labels"]

    assert torch.equal(masks(), masks())
    for other in (masks(seed=1), masks(epoch=1), masks(first=8)):
        assert other.shape != masks().shape or not torch.equal(other, masks())


def test_packed_documents_are_corrupted_one_by_one():
    """一行三篇：各有自己的哨兵、</s> 与解码器开头，逐篇填回就是原文。"""
    texts = [TEXT[:9], TEXT[9:11], TEXT[11:]]
    rows = [HUNDRED(text)["input_ids"] for text in texts]
    starts = np.cumsum([0, *map(len, rows)])[:-1]
    collator = SpanCorruptionCollator(HUNDRED)
    feature = {
        "input_ids": [i for row in rows for i in row],
        "document_starts": starts,
        "example_id": 3,
    }
    [example] = collator.examples([feature])
    [first] = collator.examples([{"input_ids": rows[0], "example_id": 3}])
    for number, row in enumerate(rows):
        inputs = example.input_ids[example.documents == number].tolist()
        inside = example.decoder_documents == number
        labels = example.labels[inside].tolist()
        assert inputs[-1] == labels[-1] == HUNDRED.eos_token_id
        assert merge(inputs[:-1], labels[:-1], SENTINELS) == row[:-1]
        assert example.decoder_input_ids[inside].tolist() == [0, *labels[:-1]]
        origin = example.origin[inside & example.hidden]
        assert example.labels[inside & example.hidden].tolist() == [
            feature["input_ids"][i] for i in origin.tolist()
        ]
    assert torch.equal(example.labels[: len(first.labels)], first.labels)
    masks = collator([feature])
    length, width = len(example.input_ids), len(example.labels)
    assert masks["attention_mask"].shape == (1, 1, length, length)
    assert masks["cross_attention_mask"].shape == (1, 1, width, length)


def test_the_loss_of_a_stock_model_is_the_cross_entropy_of_the_labels():
    """库里的 T5 直接吃这一批：labels 右移就是 decoder_input_ids，损失等于手算的。"""
    tokenizer = tokenizer_of("t5")
    texts = ["天下大势，分久必合，合久必分。", "三年春，大旱，民饥。"]
    features = [{**tokenizer(text), "example_id": i} for i, text in enumerate(texts)]
    batch = SpanCorruptionCollator(tokenizer)(features)
    assert {value.dtype for value in batch.values()} == {torch.int64}
    shifted = batch["labels"].roll(1, dims=1)
    shifted[:, 0] = tokenizer.pad_token_id
    shifted = shifted.masked_fill(shifted == IGNORE_INDEX, tokenizer.pad_token_id)
    real = batch["labels"] != IGNORE_INDEX
    assert torch.equal(batch["decoder_input_ids"][real], shifted[real])
    model = tiny_model("t5")
    with torch.no_grad():
        output = model(**batch)
    by_hand = F.cross_entropy(output.logits[real], batch["labels"][real])
    torch.testing.assert_close(output.loss, by_hand)


def test_hiding_given_tokens_gives_one_sentinel_per_run():
    """填空：指定遮哪些，相连的是一段；一个也不遮的文档只得到结尾的哨兵。"""

    def said(text, noise):
        example = SpanCorruptionCollator(HUNDRED).hide(
            HUNDRED(text), np.array(noise, bool)
        )
        columns = (example.input_ids, example.labels)
        return ["".join(HUNDRED.convert_ids_to_tokens(each)) for each in columns]

    assert said("天下大势", [1, 1, 0, 1]) == [
        "<extra_id_0>大<extra_id_1></s>",
        "<extra_id_0>天下<extra_id_1>势</s>",
    ]
    assert said("合久必分", [0] * 4) == ["合久必分</s>", "<extra_id_0></s>"]


def test_the_end_token_is_never_hidden_and_always_a_target():
    """</s> 留在输入的末尾，也是目标的末尾；被盖的只有正文。"""
    features = [feature_of(TEXT, i) for i in range(20)]
    for example in SpanCorruptionCollator(HUNDRED).examples(features):
        assert example.input_ids[-1] == example.labels[-1] == HUNDRED.eos_token_id
        assert example.origin[-1] == -1
        assert not example.hidden[-1]
        assert int(example.origin.max()) < len(HUNDRED(TEXT)["input_ids"]) - 1


@pytest.mark.parametrize(
    "names",
    [
        [f"<extra_id_{i}>" for i in range(30)],
        [f"<extra_id_{i}>" for i in reversed(range(30))],
        [f"▁<extra_id_{i}>" for i in reversed(range(30))],
        [f"extra{i}" for i in range(30)],
        ["<extra_id_7>", "<extra_id_1>", "<extra_id_0>"],
    ],
)
def test_sentinels_are_found_by_name_in_any_order(names):
    """升序、降序、mT5 与 UER 的叫法：第 k 个哨兵总是名字里写着 k 的那个，数到断处。"""
    tokenizer = character_tokenizer(names)
    found = SpanCorruptionCollator(tokenizer).sentinel_ids.tolist()
    said = tokenizer.convert_ids_to_tokens(found)
    numbers = [int("".join(filter(str.isdigit, token))) for token in said]
    assert numbers == list(range(2 if len(names) == 3 else 30))


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_vocabulary_without_sentinels_is_refused(kind):
    """BERT、GPT 的词表没有哨兵：造整理器时就说清，并指出别的目标。"""
    start = {"decoder_start_token_id": 0}
    with pytest.raises(ObjectiveError, match="没有哨兵") as caught:
        SpanCorruptionCollator(tokenizer_of(kind), **start)
    assert "text_infilling" in caught.value.remedy


def test_too_few_sentinels_are_counted():
    """10 个哨兵撑不起 568 个词元的一篇，报错说要 28 个；一行的容量也在开训之前就查。"""
    collator = SpanCorruptionCollator(
        character_tokenizer([f"<extra_id_{i}>" for i in range(10)])
    )
    with pytest.raises(ObjectiveError, match="要用 28 个哨兵，词表里只有 10 个"):
        corrupted(collator, random_documents([30, 568]))
    with pytest.raises(ObjectiveError, match="要用 28 个哨兵") as caught:
        collator.row_capacity(512, 1)
    assert "block_size" in caught.value.remedy
    assert collator.row_capacity(128, 1) == 142


@pytest.mark.parametrize("number", [0, 4, 99])
def test_a_text_with_a_sentinel_in_it_is_refused(number):
    """原文里写着哨兵：报错说是哪个样本、第几个词元、哪个哨兵。"""
    features = [
        {"input_ids": [5, 6, 1], "example_id": 7},
        {"input_ids": [7, SENTINELS[number], 8, 1], "example_id": 9},
    ]
    with pytest.raises(ObjectiveError, match="样本 9 的正文里已有") as caught:
        SpanCorruptionCollator(HUNDRED)(features)
    assert f"<extra_id_{number}>（那篇文档的第 2 个词元）" in caught.value.found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise_density": 0.0}, "noise_density = 0.0"),
        ({"noise_density": 1.0}, "noise_density = 1.0"),
        ({"mean_noise_span_length": 0.5}, "mean_noise_span_length = 0.5"),
        ({"span_placement": "random"}, "unbiased、reference"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    """越界的参数在造整理器时就报错。"""
    with pytest.raises(ObjectiveError, match=message):
        SpanCorruptionCollator(HUNDRED, **options)
