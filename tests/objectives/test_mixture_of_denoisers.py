"""混合去噪：七种各占七分之一，各守各的规矩，模式词元在最前。"""

from collections import Counter

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
from companion.objectives.mixture_of_denoisers import (
    DENOISERS,
    Denoiser,
    MixtureOfDenoisersCollator,
    keep_beginning,
)
from companion.objectives.rows import draw_below
from companion.objectives.span_corruption import span_counts

SIZE = 40
"""词表里普通词元的个数；编号从 3 起。"""
SEQUENTIAL = DENOISERS[-1]


def tokenizer_with(modes=("[NLU]", "[NLG]", "[S2S]"), sentinels=100):
    words = ["<pad>", "</s>", "<unk>"]
    words += [chr(ord("一") + i) for i in range(SIZE)]
    words += [f"<extra_id_{i}>" for i in reversed(range(sentinels))]
    words += modes
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


PLAIN = tokenizer_with(modes=())
MODES = tokenizer_with()


def documents_of(lengths, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(3, 3 + SIZE, n) for n in lengths]


def drawn(seed, number) -> Denoiser:
    """第 `number` 个样本抽到的：第一个随机数决定。"""
    return DENOISERS[draw_below(len(DENOISERS), rng_of(seed, number))]


def merge(inputs, targets, sentinels):
    """把目标的各段填回哨兵处；没有哨兵就接在后面（S）。"""
    known, pieces, current = set(sentinels), {}, None
    if not known & set(inputs):
        return inputs + [token for token in targets if token not in known]
    for token in targets:
        if token in known:
            current = pieces.setdefault(token, [])
        else:
            current.append(token)
    return [t for token in inputs for t in pieces.get(token, [token])]


def test_the_table_is_the_one_of_the_paper():
    """R 两种、X 四种、S 一种；极端 = 一段不少于 12 个，或盖住不少于三成。"""
    settings = [(d.mean_noise_span_length, d.noise_density) for d in DENOISERS]
    assert sorted(settings[:6]) == [
        (3, 0.15), (3, 0.5), (8, 0.15), (8, 0.5), (64, 0.15), (64, 0.5)
    ]  # fmt: skip
    assert settings[6] == (None, 0.25)
    for each in DENOISERS[:6]:
        extreme = each.mean_noise_span_length >= 12 or each.noise_density >= 0.3
        assert each.mode == ("[NLG]" if extreme else "[NLU]")


def test_the_denoisers_are_equally_frequent():
    """七种各占七分之一（3500 篇，5 倍标准差）。"""
    found = corrupted(MixtureOfDenoisersCollator(MODES), documents_of([20] * 3500))
    modes = Counter(MODES.convert_ids_to_tokens([int(e.inputs[0]) for e in found]))
    for mode, share in (("[NLU]", 2 / 7), ("[NLG]", 4 / 7), ("[S2S]", 1 / 7)):
        assert within_five_sigma(modes[mode], 3500, share)
    counts = Counter(drawn(0, number) for number in range(3500))
    assert all(within_five_sigma(counts[each], 3500, 1 / 7) for each in DENOISERS)


@pytest.mark.parametrize("length", [*range(1, 11), 40, 200, 568])
def test_every_denoiser_keeps_its_counts(length):
    """R 与 X：输入 L − N + S、目标 N + S；S：后缀 1 到 L/2 个，两边都没有哨兵。"""
    collator, count = MixtureOfDenoisersCollator(PLAIN), 140
    if length == 568:  # (3, 0.5) 要 95 个哨兵
        assert span_counts(568, 0.5, 3.0)[1] == 95
    for number, done in enumerate(corrupted(collator, documents_of([length] * count))):
        each = drawn(0, number)
        inputs, targets = len(done.inputs), len(done.targets)
        if length == 1:
            assert (inputs, targets) == (1, 1)  # 什么也没盖，目标只有一个哨兵
        elif each is SEQUENTIAL:
            assert 1 <= targets <= length // 2
            assert inputs + targets == length
        else:
            noise, spans = span_counts(
                length, each.noise_density, each.mean_noise_span_length
            )
            assert (inputs, targets) == (length - noise + spans, noise + spans)


def test_the_suffix_is_uniform_with_a_mean_of_a_quarter():
    """S 的目标恰是后缀，长度在 1 到 L/2 之间均匀。"""
    documents = documents_of([20] * 4000)
    sizes = Counter[int]()
    for text, done in zip(
        documents,
        (keep_beginning(text, rng_of(0, n)) for n, text in enumerate(documents)),
        strict=True,
    ):
        assert np.array_equal(np.concatenate([done.inputs, done.targets]), text)
        assert done.hidden.all()
        assert np.array_equal(text[done.origin], done.targets)
        sizes[len(done.targets)] += 1
    assert sizes.keys() == set(range(1, 11))
    assert all(within_five_sigma(each, 4000, 1 / 10) for each in sizes.values())


@FEW
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=8),
    st.integers(0, 99),
    st.booleans(),
)
def test_inputs_and_targets_restore_the_text(lengths, seed, modes):
    """去掉模式词元，把目标填回输入，就是原文；origin 与 hidden 对得上。"""
    tokenizer = MODES if modes else PLAIN
    collator = MixtureOfDenoisersCollator(tokenizer)
    documents = documents_of(lengths, seed)
    names = tokenizer.convert_ids_to_tokens
    for number, (text, done) in enumerate(
        zip(documents, corrupted(collator, documents, seed), strict=True)
    ):
        body = done.inputs.tolist()
        if modes:
            assert names([body.pop(0)]) == [drawn(seed, number).mode]
        filled = merge(body, done.targets.tolist(), collator.sentinel_ids.tolist())
        assert filled == text.tolist()
        assert np.array_equal(done.hidden, done.targets < 3 + SIZE)
        assert np.array_equal(done.targets[done.hidden], text[done.origin[done.hidden]])
        assert (done.origin[~done.hidden] == -1).all()


def test_hiding_given_tokens_says_how_much_is_hidden():
    """填空时照 T5 的样子换成哨兵，遮得少是 [NLU]，遮去三成是 [NLG]。"""
    [text] = documents_of([10])
    for places, mode, sentinels in (([2, 3], "[NLU]", 1), ([1, 4, 5], "[NLG]", 2)):
        noise = np.isin(np.arange(10), places)
        result = MixtureOfDenoisersCollator(MODES).hide_tokens(text, noise)
        words = MODES.convert_ids_to_tokens(result.inputs.tolist())
        assert words[0] == mode
        assert [word for word in words if "extra" in word] == [
            f"<extra_id_{number}>" for number in range(sentinels)
        ]
        assert np.array_equal(result.targets[result.hidden], text[noise])


@pytest.mark.parametrize("missing", ["[NLU]", "[NLG]", "[S2S]"])
def test_modes_that_cannot_be_spelt_are_left_out(missing):
    """有一个切出 [UNK] 就都不放：`mode_ids` 是空的，输入与没有模式的一样。"""
    three = [mode for mode in ("[NLU]", "[NLG]", "[S2S]") if mode != missing]
    collator = MixtureOfDenoisersCollator(tokenizer_with(three))
    assert collator.mode_ids == {}
    documents = documents_of([30] * 9)
    plain = corrupted(MixtureOfDenoisersCollator(PLAIN), documents)
    for one, other in zip(corrupted(collator, documents), plain, strict=True):
        assert np.array_equal(one.inputs, other.inputs)


def test_modes_are_written_as_text_where_they_are_no_single_token():
    """UL2 的公开用法：“[NLU]”照文字切成几个词元，放在最前；一行少装几个原文。"""
    letters = tokenizer_with(tuple("[]NLUGS2"))
    collator = MixtureOfDenoisersCollator(letters)
    spelt = {mode: list(mode) for mode in ("[NLU]", "[NLG]", "[S2S]")}
    words = {
        mode: letters.convert_ids_to_tokens(ids)
        for mode, ids in collator.mode_ids.items()
    }
    assert words == spelt
    for number, done in enumerate(corrupted(collator, documents_of([30] * 9))):
        head = letters.convert_ids_to_tokens(done.inputs[:5].tolist())
        assert head == spelt[drawn(0, number).mode]
    capacity = collator.row_capacity(64, 1)
    batch = collator([feature_of(capacity - 1, i) for i in range(60)])
    assert batch["input_ids"].shape[1] <= 64


def feature_of(size, example_id, **more):
    body = [3 + (7 * i + example_id) % SIZE for i in range(size)]
    return {"input_ids": [*body, 1], "example_id": example_id, **more}


def test_neighbours_change_nothing():
    """一个样本独自成批、与长短不一的样本同批，抽到同一种，破坏得一模一样。"""
    collator = MixtureOfDenoisersCollator(MODES)
    features = [feature_of(4 + 3 * i, i) for i in range(20)]
    together = collator.examples(features)
    for feature, first in zip(features, together, strict=True):
        [second] = collator.examples([feature])
        for name in ("input_ids", "labels", "decoder_input_ids", "origin", "hidden"):
            assert torch.equal(getattr(first, name), getattr(second, name))


def test_another_epoch_draws_another_noise():
    """同一轮重来一遍不变，换一轮就变。"""
    collator = MixtureOfDenoisersCollator(MODES)

    def said(epoch):
        examples = collator.examples([feature_of(50, i, epoch=epoch) for i in range(9)])
        return [example.input_ids.tolist() for example in examples]

    assert said(0) == said(0)
    assert all(first != second for first, second in zip(said(0), said(1), strict=True))


def test_documents_of_one_row_draw_their_own_denoisers():
    """一行里的几篇各抽各的；第一篇与它独自一行时相同。"""
    collator = MixtureOfDenoisersCollator(MODES)
    rows = [feature_of(size, 0)["input_ids"] for size in (30, 12, 25, 18, 9, 22)]
    starts = np.cumsum([0, *map(len, rows)])[:-1]
    ids = [i for row in rows for i in row]
    feature = {"input_ids": ids, "document_starts": starts, "example_id": 5}
    [packed] = collator.examples([feature])
    [alone] = collator.examples([{"input_ids": rows[0], "example_id": 5}])
    inside = packed.documents == 0
    assert torch.equal(packed.input_ids[inside], alone.input_ids)
    assert torch.equal(packed.labels[packed.decoder_documents == 0], alone.labels)
    firsts = [int(packed.input_ids[packed.documents == n][0]) for n in range(6)]
    assert len(set(firsts)) > 1
    assert set(MODES.convert_ids_to_tokens(firsts)) <= {"[NLU]", "[NLG]", "[S2S]"}
    assert [ids[i] for i in packed.origin[packed.hidden].tolist()] == packed.labels[
        packed.hidden
    ].tolist()


def test_the_loss_of_a_stock_model_is_the_cross_entropy_of_the_labels():
    """库里的 T5 直接吃这一批，损失等于手算的；行长不超过原文的一行。"""
    tokenizer = tokenizer_of("t5")
    features = [
        {**tokenizer(text), "example_id": i}
        for i, text in enumerate(
            ["天下大势，分久必合，合久必分。", "三年春，大旱。"] * 4
        )
    ]
    batch = MixtureOfDenoisersCollator(tokenizer)(features)
    assert {value.dtype for value in batch.values()} == {torch.int64}
    assert batch["input_ids"].shape[1] <= max(len(f["input_ids"]) for f in features)
    real = batch["labels"] != IGNORE_INDEX
    with torch.no_grad():
        output = tiny_model("t5")(**batch)
    by_hand = F.cross_entropy(output.logits[real], batch["labels"][real])
    torch.testing.assert_close(output.loss, by_hand)
    assert (batch["decoder_input_ids"][:, 0] == tokenizer.pad_token_id).all()


def test_a_full_row_fits_whatever_is_drawn():
    """原文恰是 row_capacity 时，两侧都不超过 block_size；少了哨兵在开训之前就报。"""
    collator = MixtureOfDenoisersCollator(MODES)
    capacity = collator.row_capacity(128, 1)
    batch = collator([feature_of(capacity - 1, i) for i in range(40)])
    assert max(batch["input_ids"].shape[1], batch["labels"].shape[1]) <= 128
    with pytest.raises(ObjectiveError, match="要用 85 个哨兵，词表里只有 10 个"):
        MixtureOfDenoisersCollator(tokenizer_with(sentinels=10)).row_capacity(512, 1)


def test_a_vocabulary_without_sentinels_is_refused():
    """BERT 的词表没有哨兵：造整理器时就说清。"""
    with pytest.raises(ObjectiveError, match="没有哨兵"):
        MixtureOfDenoisersCollator(tokenizer_of("bert"))
