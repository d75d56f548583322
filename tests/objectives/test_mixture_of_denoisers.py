"""混合去噪：七种各占七分之一，各守各的规矩，模式词元在最前。"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from strategies import FEW, tokenizer_of, within_five_sigma
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from companion.batch import IGNORE_INDEX
from companion.checkpoints.tiny import tiny_model
from companion.errors import ObjectiveError
from companion.objectives.mixture_of_denoisers import (
    DENOISERS,
    MixtureOfDenoisersCollator,
)
from companion.objectives.ragged import Ragged, document_keys
from companion.objectives.span_corruption import span_counts

SIZE = 40
"""词表里普通词元的个数；编号从 3 起。"""
SEQUENTIAL = [each.mode for each in DENOISERS].index("[S2S]")


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
    return Ragged.of([generator.integers(3, 3 + SIZE, n) for n in lengths])


def keys_of(count, seed=0):
    zeros = np.zeros(count, np.int64)
    return document_keys(seed, zeros, np.arange(count), zeros)


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
    """七种各占七分之一（14000 篇，5 倍标准差）。"""
    which = MixtureOfDenoisersCollator(PLAIN).draw(keys_of(14000))
    for count in np.bincount(which, minlength=7).tolist():
        assert within_five_sigma(count, 14000, 1 / 7)


@pytest.mark.parametrize("length", [*range(1, 11), 40, 200, 568])
def test_every_denoiser_keeps_its_counts(length):
    """R 与 X：输入 L − N + S、目标 N + S；S：后缀 1 到 L/2 个，两边都没有哨兵。"""
    collator, count = MixtureOfDenoisersCollator(PLAIN), 140
    if length == 568:  # (3, 0.5) 要 95 个哨兵
        assert span_counts(np.array([568]), 0.5, 3.0)[1] == 95
    documents, keys = documents_of([length] * count), keys_of(count)
    result = collator.corrupt_documents(documents, keys)
    for which, inputs, targets in zip(
        collator.draw(keys), result.inputs.lengths, result.targets.lengths, strict=True
    ):
        each = DENOISERS[which]
        if length == 1:
            assert (inputs, targets) == (1, 1)  # 什么也没盖，目标只有一个哨兵
        elif which == SEQUENTIAL:
            assert 1 <= targets <= length // 2
            assert inputs + targets == length
        else:
            noise, spans = span_counts(
                np.array([length]), each.noise_density, each.mean_noise_span_length
            )
            assert (inputs, targets) == (length - noise + spans, noise + spans)


def test_the_suffix_is_uniform_with_a_mean_of_a_quarter():
    """S 的目标恰是后缀，长度在 1 到 L/2 之间均匀。"""
    collator, count = MixtureOfDenoisersCollator(PLAIN), 7000
    keys = keys_of(count)
    keys = keys[collator.draw(keys) == SEQUENTIAL]
    documents = documents_of([20] * len(keys))
    result = collator.corrupt_documents(documents, keys)
    for text, inputs, suffix in zip(
        documents.split(), result.inputs.split(), result.targets.split(), strict=True
    ):
        assert np.array_equal(np.concatenate([inputs, suffix]), text)
    for size in range(1, 11):
        hits = int((result.targets.lengths == size).sum())
        assert within_five_sigma(hits, len(keys), 1 / 10)
    assert result.hidden.all()
    assert np.array_equal(
        documents.values[
            np.repeat(documents.starts, result.targets.lengths) + result.origin
        ],
        result.targets.values,
    )


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
    documents, keys = documents_of(lengths, seed), keys_of(len(lengths), seed)
    result = collator.corrupt_documents(documents, keys)
    names = tokenizer.convert_ids_to_tokens
    for which, text, inputs, targets, origin, hidden in zip(
        collator.draw(keys),
        documents.split(),
        result.inputs.split(),
        result.targets.split(),
        Ragged(result.origin, result.targets.lengths).split(),
        Ragged(result.hidden, result.targets.lengths).split(),
        strict=True,
    ):
        body = inputs.tolist()
        if modes:
            assert names([body.pop(0)]) == [DENOISERS[which].mode]
        filled = merge(body, targets.tolist(), collator.sentinel_ids.tolist())
        assert filled == text.tolist()
        assert np.array_equal(hidden, targets < 3 + SIZE)
        assert np.array_equal(targets[hidden], text[origin[hidden]])
        assert (origin[~hidden] == -1).all()


def test_hiding_given_tokens_says_how_much_is_hidden():
    """填空时照 T5 的样子换成哨兵，遮得少是 [NLU]，遮去三成是 [NLG]。"""
    documents = documents_of([10, 10])
    noise = np.zeros(20, bool)
    noise[[2, 3, 11, 14, 15]] = True
    result = MixtureOfDenoisersCollator(MODES).hide_tokens(documents, noise)
    words = [MODES.convert_ids_to_tokens(row.tolist()) for row in result.inputs.split()]
    assert [row[0] for row in words] == ["[NLU]", "[NLG]"]
    assert [word for word in words[1] if "extra" in word] == [
        "<extra_id_0>",
        "<extra_id_1>",
    ]
    assert np.array_equal(result.targets.values[result.hidden], documents.values[noise])


@pytest.mark.parametrize("missing", ["[NLU]", "[NLG]", "[S2S]"])
def test_modes_are_left_out_unless_all_three_are_single_tokens(missing):
    """缺一个就都不放：`mode_ids` 是 None，输入与没有模式词元的一样。"""
    three = [mode for mode in ("[NLU]", "[NLG]", "[S2S]") if mode != missing]
    collator = MixtureOfDenoisersCollator(tokenizer_with(three))
    assert collator.mode_ids is None
    documents, keys = documents_of([30] * 9), keys_of(9)
    result = collator.corrupt_documents(documents, keys)
    plain = MixtureOfDenoisersCollator(PLAIN).corrupt_documents(documents, keys)
    assert np.array_equal(result.inputs.values, plain.inputs.values)


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
