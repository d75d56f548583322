"""掩码序列到序列（MASS）：遮的与猜的是同一段，解码器只看得见这一段。"""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    BERT,
    CLS,
    FEW,
    MASK,
    PLAIN_IDS,
    SEP,
    UNK,
    bodies,
    corrupted,
    rng_of,
    starts_of,
    tokenizer_of,
    within_five_sigma,
)
from transformers import Trainer, TrainingArguments

from companion.batch import IGNORE_INDEX
from companion.checkpoints.tiny import tiny_model
from companion.errors import ObjectiveError
from companion.objectives.masked_seq2seq import MaskedSeq2SeqCollator, choose_fragment
from companion.objectives.rows import runs_of
from companion.objectives.seq2seq import mask_id_of

TEXTS = [
    "飞鸟尽，良弓藏。",
    "臣光曰：礼莫大于分，分莫大于名。",
    "三年春，大旱，民饥。",
    "民",
    "𠮷𡘙𠀋之下。",  # 扩展 B 区的字
]
BODY = st.lists(st.one_of(st.sampled_from(PLAIN_IDS), st.just(UNK)), min_size=1)
DENSITY = st.sampled_from([0.01, 0.3, 0.5, 0.9, 1.0])


def bert_row(body, example: int = 0, **items) -> dict:
    return {"input_ids": [CLS, *body, SEP], "example_id": example, **items}


def rows_of(kind: str, texts=TEXTS) -> list[dict]:
    tokenizer = tokenizer_of(kind)
    return [
        {"input_ids": tokenizer(text)["input_ids"], "example_id": i}
        for i, text in enumerate(texts)
    ]


def collator_of(kind: str, **options) -> MaskedSeq2SeqCollator:
    start = tiny_model(kind).config.decoder_start_token_id
    return MaskedSeq2SeqCollator(
        tokenizer_of(kind), decoder_start_token_id=start, **options
    )


def test_the_figure_of_the_paper_comes_out():
    """图 1：x₁…x₈ 遮住 x₃…x₆；解码器在第 4 至 6 格看见 x₃…x₅，第 3 格是 x₂。"""
    x = PLAIN_IDS[:8]
    collator = MaskedSeq2SeqCollator(
        BERT, decoder_start_token_id=CLS, mask_replace_prob=1.0, random_replace_prob=0.0
    )
    rows = [bert_row(x, example) for example in range(50)]
    hole, none = [MASK] * 4, IGNORE_INDEX
    third = [none, none, none, x[2]]  # 片段恰从 x₃ 起的那一次
    example = next(e for e in collator.examples(rows) if e.labels[:4].tolist() == third)
    assert example.input_ids.tolist() == [CLS, *x[:2], *hole, *x[6:], SEP]
    assert example.labels.tolist() == [none] * 3 + x[2:6] + [none] * 3
    assert example.decoder_input_ids.tolist() == [MASK] * 3 + x[1:5] + [MASK] * 3
    shown = [False] * 3 + [True] * 4 + [False] * 3
    assert example.decoder_visible.tolist() == shown
    assert example.hidden.tolist() == shown
    assert example.origin.tolist() == [-1, *range(1, 9), -1]


@FEW
@given(st.lists(BODY, min_size=1, max_size=4), DENSITY, st.integers(0, 9))
def test_the_labels_are_one_fragment_and_restore_the_text(texts, density, seed):
    """标签恰 max(1, round(k)) 个，位置相连；填回输入就是原文；片段之外一字不动。"""
    collator = MaskedSeq2SeqCollator(
        BERT, decoder_start_token_id=SEP, noise_density=density, seed=seed
    )
    rows = [bert_row(body, i) for i, body in enumerate(texts)]
    before = copy.deepcopy(rows)
    batch = collator(rows)
    assert rows == before
    assert {value.dtype for value in batch.values()} == {torch.int64}
    for number, body in enumerate(texts):
        size = len(body) + 2
        ids, labels, given_ids, shown = (
            batch[name][number, :size]
            for name in (
                "input_ids",
                "labels",
                "decoder_input_ids",
                "decoder_attention_mask",
            )
        )
        text = torch.tensor([CLS, *body, SEP])
        at = torch.nonzero(labels != IGNORE_INDEX)[:, 0]
        assert len(at) == max(1, round(density * len(body)))
        assert torch.equal(at, torch.arange(at[0], at[0] + len(at)))
        assert at[0] >= 1
        assert at[-1] <= len(body)
        assert torch.equal(labels[at], text[at])
        outside = labels == IGNORE_INDEX
        assert torch.equal(ids[outside], text[outside])
        assert torch.equal(given_ids[at], text[at - 1])  # 左边的那个词元
        assert (given_ids[outside] == MASK).all()
        assert torch.equal(shown, (~outside).long())
    assert (batch["decoder_attention_mask"] == (batch["labels"] != -100)).all()


def test_chosen_tokens_are_hidden_the_same_way():
    """指定遮哪几个：逐个换成掩码，标签与解码器照训练时的样子。"""
    collator = MaskedSeq2SeqCollator(BERT, decoder_start_token_id=SEP)
    x, none = PLAIN_IDS[:4], IGNORE_INDEX
    noise = np.array([True, True, False, False])
    example = collator.hide(bert_row(x), noise)
    assert example.input_ids.tolist() == [CLS, MASK, MASK, *x[2:], SEP]
    assert example.labels.tolist() == [none, *x[:2], none, none, none]
    assert example.decoder_input_ids.tolist() == [MASK, CLS, x[0], MASK, MASK, MASK]


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_the_start_is_first_or_last_more_often_than_elsewhere(slots):
    """有 n 个起点：两端各 0.2 + 0.6/n，其余各 0.6/n（5 倍标准差之内）。"""
    trials = 10_000
    starts = []
    for number in range(trials):
        fragment = choose_fragment(slots + 3, 4 / (slots + 3), rng_of(0, number))
        start = int(fragment.argmax())
        assert runs_of(fragment) == [(start, start + 4)]
        starts.append(start)
    shares = np.full(slots, 0.6 / slots)
    shares[0] += 0.2
    shares[-1] += 0.2
    counts = np.bincount(starts, minlength=slots)
    assert len(counts) == slots
    for count, share in zip(counts.tolist(), shares.tolist(), strict=True):
        assert within_five_sigma(count, trials, share)


def test_the_fragment_is_mostly_masked_sometimes_random_or_kept():
    """片段里 80% 掩码、10% 随机、10% 原样；片段的第一个与别的同样难猜。"""
    size, count = 20, 2_000
    body = (np.arange(size * count) % len(PLAIN_IDS)).reshape(count, size)
    done = corrupted(MaskedSeq2SeqCollator(BERT), np.array(PLAIN_IDS)[body])
    seen = np.concatenate([each.inputs[each.hidden] for each in done])
    text = np.concatenate([each.targets[each.hidden] for each in done])
    masked, kept, total = (seen == MASK).sum(), (seen == text).sum(), len(seen)
    random = total - masked - kept
    lucky = 0.1 / len(PLAIN_IDS)  # 随机抽中的恰是原来那个
    assert total == 10 * count
    assert within_five_sigma(int(masked), total, 0.8)
    assert within_five_sigma(int(kept), total, 0.1 + lucky)
    assert within_five_sigma(int(random), total, 0.1 - lucky)
    assert set(seen.tolist()) <= {MASK, *PLAIN_IDS}  # 从不换成别的特殊词元
    first = seen[::10]  # MASS-supNMT 把遮的一段错开两格，第一个总露在外面
    assert within_five_sigma(int((first == MASK).sum()), count, 0.8)


@pytest.mark.parametrize("keep_positions", [True, False])
def test_noise_depends_only_on_seed_epoch_and_example(keep_positions):
    """与同批的别的样本、次序都无关；换一轮、换种子就不同。"""
    collator = MaskedSeq2SeqCollator(BERT, keep_positions=keep_positions)
    rows = [bert_row(PLAIN_IDS[: 9 + i], i, epoch=3) for i in range(6)]
    together = collator.examples(rows)
    for i in reversed(range(6)):
        (alone,) = collator.examples([rows[i]])
        assert torch.equal(alone.input_ids, together[i].input_ids)
        assert torch.equal(alone.labels, together[i].labels)
        assert torch.equal(alone.decoder_input_ids, together[i].decoder_input_ids)
    later = collator.examples([{**row, "epoch": 4} for row in rows])
    other = MaskedSeq2SeqCollator(BERT, seed=1).examples(rows)
    for changed in (later, other):
        assert not all(
            torch.equal(a.input_ids, b.input_ids)
            for a, b in zip(changed, together, strict=True)
        )


@pytest.mark.parametrize("keep_positions", [True, False])
def test_documents_in_one_row_are_each_cut_on_their_own(keep_positions):
    """一行几篇：每篇各有一段，合起来就是把各篇分开破坏的结果。"""
    lengths = [5, 1, 8]
    texts = [PLAIN_IDS[i : i + n] for i, n in enumerate(lengths)]
    ids = [token for body in texts for token in (CLS, *body, SEP)]
    starts = starts_of([n + 2 for n in lengths])
    collator = MaskedSeq2SeqCollator(BERT, keep_positions=keep_positions)
    (example,) = collator.examples(
        [{"input_ids": ids, "document_starts": starts, "example_id": 7}]
    )
    done = [
        collator.corrupt(np.array(body), np.random.default_rng((0, 0, 7, number)))
        for number, body in enumerate(texts)
    ]
    wanted = [token for each in done for token in (CLS, *each.inputs, SEP)]
    assert example.input_ids.tolist() == wanted
    labels = example.labels[example.labels != IGNORE_INDEX]
    hidden = [each.targets[each.hidden] for each in done]
    assert labels.tolist() == np.concatenate(hidden).tolist()
    assert torch.equal(labels, torch.tensor(ids)[example.origin[example.hidden]])
    targets = example.decoder_documents[example.hidden]
    assert targets.tolist() == [0, 0, 1, 2, 2, 2, 2]


def test_packed_decoder_rows_show_only_the_fragments():
    """一行几篇而保留位置：解码器的每一格只看得见同一篇片段里左边的几格。"""
    row = {
        "input_ids": [CLS, *PLAIN_IDS[:6], SEP, CLS, *PLAIN_IDS[:4], SEP],
        "document_starts": [0, 8],
        "example_id": 0,
    }
    batch = MaskedSeq2SeqCollator(BERT)([row])
    inside = batch["labels"][0] != IGNORE_INDEX
    owner = torch.tensor([0] * 8 + [1] * 6)
    wanted = (owner[:, None] == owner) & inside[:, None] & inside
    wanted = wanted.tril() | torch.eye(14, dtype=torch.bool)
    assert torch.equal(batch["decoder_attention_mask"][0, 0] == 0, wanted)


def test_t5_replaces_each_token_by_the_first_sentinel_and_crops_the_decoder():
    """T5 没有掩码词元：一个换一个 <extra_id_0>；解码器只有片段，以左边的词元起头。"""
    tokenizer = tokenizer_of("t5")
    sentinel = tokenizer.convert_tokens_to_ids("<extra_id_0>")
    collator = collator_of(
        "t5", keep_positions=False, mask_replace_prob=1.0, random_replace_prob=0.0
    )
    assert collator.mask_id == sentinel
    rows = rows_of("t5")
    batch = collator(rows)
    assert "decoder_attention_mask" not in batch
    for number, row in enumerate(rows):
        text = row["input_ids"]
        size = max(1, round((len(text) - 1) / 2))
        labels = batch["labels"][number]
        fragment = labels[:size].tolist()
        assert (labels[size:] == IGNORE_INDEX).all()
        ids = batch["input_ids"][number, : len(text)].tolist()
        start = ids.index(sentinel)
        assert fragment == text[start : start + size]
        assert ids == text[:start] + [sentinel] * size + text[start + size :]
        head = text[start - 1] if start else collator.decoder_start_token_id
        given_ids = batch["decoder_input_ids"][number, :size].tolist()
        assert given_ids == [head, *fragment[:-1]]


def test_keeping_the_positions_changes_nothing_for_t5():
    """T5 只认位置之差：整行的解码器与裁剪的解码器给出同样的概率。"""
    model, rows = tiny_model("t5"), rows_of("t5")
    logits = []
    for keep in (True, False):
        batch = collator_of("t5", keep_positions=keep)(rows)
        with torch.no_grad():
            out = model(**batch).logits
        logits.append(out[batch["labels"] != IGNORE_INDEX])
    torch.testing.assert_close(*logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_what_stands_in_the_masked_decoder_slots_does_not_matter(attention):
    """BART：片段之外的格子换成任何词元，片段处的输出一位不差。"""
    model = tiny_model("bart", attn_implementation=attention)
    batch = collator_of("bart")(rows_of("bart"))
    inside = batch["labels"] != IGNORE_INDEX
    other = batch["decoder_input_ids"].clone()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(5, 400, other.shape, generator=generator)
    other[~inside] = noise[~inside]
    with torch.no_grad():
        first = model(**batch).logits[inside]
        second = model(**(batch | {"decoder_input_ids": other})).logits[inside]
    assert torch.equal(first, second)


def test_the_full_row_equals_a_short_decoder_at_the_original_positions():
    """BART：整行的解码器 = 只有片段、位置从 u 数起的解码器（误差 1e-5 之内）。"""
    model = tiny_model("bart")
    for row in rows_of("bart"):
        batch = collator_of("bart")([row])
        inside = batch["labels"][0] != IGNORE_INDEX
        first = int(inside.nonzero()[0])
        short = copy.deepcopy(model)
        table = short.model.decoder.embed_positions
        moved = table.weight.data.roll(-first, dims=0)  # 第 i 格取第 first + i 个位置
        table.weight.data.copy_(moved)
        with torch.no_grad():
            whole = model(**batch).logits[0, inside]
            alone = short(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                decoder_input_ids=batch["decoder_input_ids"][:, inside],
            ).logits[0]
        torch.testing.assert_close(whole, alone, atol=1e-5, rtol=0)


def test_one_hidden_token_is_masked_language_modelling():
    """片段长 1：只猜一个，解码器一个片段词元也没有；两边的字都影响它。"""
    collator = collator_of("bart", noise_density=0.01, seed=4)
    (row,) = rows_of("bart", TEXTS[1:2])
    batch = collator([row])
    (at,) = torch.nonzero(batch["labels"][0] != IGNORE_INDEX)[:, 0].tolist()
    assert batch["decoder_input_ids"][0, at] == row["input_ids"][at - 1]
    assert 2 < at < len(row["input_ids"]) - 3
    model = tiny_model("bart")
    with torch.no_grad():
        before = model(**batch).logits[0, at]
        for place in (at - 2, at + 2):
            changed = batch["input_ids"].clone()
            changed[0, place] = 5
            after = model(**(batch | {"input_ids": changed})).logits[0, at]
            assert (after - before).abs().max() > 1e-6


def test_hiding_everything_is_language_modelling():
    """片段是全篇：编码器只剩掩码，解码器从左到右写全篇；一个字只影响它右边的。"""
    collator = collator_of(
        "bart", noise_density=1.0, mask_replace_prob=1.0, random_replace_prob=0.0
    )
    tokenizer, model = tokenizer_of("bart"), tiny_model("bart")
    ids = tokenizer(TEXTS[1])["input_ids"]
    changed = [*ids[:9], 5, *ids[10:]]
    rows = [{"input_ids": each, "example_id": 0} for each in (ids, changed)]
    batch = collator(rows)
    edges = [ids[0]], [ids[-1]]
    hidden = [tokenizer.mask_token_id] * (len(ids) - 2)
    assert batch["input_ids"].tolist() == [edges[0] + hidden + edges[1]] * 2
    assert batch["labels"][0].tolist() == [-100, *ids[1:-1], -100]
    assert batch["decoder_input_ids"][0, 1:-1].tolist() == ids[:-2]
    with torch.no_grad():
        one, two = model(**batch).logits[:, 1:-1]
    moved = (one - two).abs().amax(dim=1) > 1e-6
    assert moved.tolist() == [False] * 9 + [True] * (len(ids) - 2 - 9)


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_the_loss_of_the_stock_model_is_the_mean_over_the_fragments(kind):
    """库的模型收下这一批；损失等于片段处逐个交叉熵的平均，梯度处处有限。"""
    model = tiny_model(kind)
    batch = collator_of(kind, keep_positions=kind == "bart")(rows_of(kind))
    out = model(**batch)
    inside = batch["labels"] != IGNORE_INDEX
    by_hand = F.cross_entropy(out.logits[inside], batch["labels"][inside])
    torch.testing.assert_close(out.loss, by_hand)
    out.loss.backward()
    assert all(
        weight.grad is None or weight.grad.isfinite().all()
        for weight in model.parameters()
    )


def test_the_stock_trainer_takes_the_collator(tmp_path):
    """放进库的 Trainer 就能训练，行长补到 8 的倍数也一样。"""
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=2,
        remove_unused_columns=False,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    collator = collator_of("bart", pad_to_multiple_of=8)
    assert {value.shape[1] % 8 for value in collator(rows_of("bart")).values()} == {0}
    trainer = Trainer(
        tiny_model("bart"),
        arguments,
        train_dataset=rows_of("bart"),
        data_collator=collator,
    )
    assert np.isfinite(trainer.train().training_loss)


@FEW
@given(bodies(1, stray_specials=False))
def test_encoder_rows_keep_their_length(body):
    """编码器的输入与原文等长：原文一行装多少，编码器一行就有多少。"""
    collator = MaskedSeq2SeqCollator(BERT)
    batch = collator([bert_row(body)])
    assert batch["input_ids"].shape == (1, len(body) + 2)
    assert collator.row_capacity(512, 2) == 512


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"noise_density": 0.0}, "noise_density = 0.0"),
        ({"noise_density": 1.5}, "noise_density = 1.5"),
        ({"mask_replace_prob": -0.1}, "mask_replace_prob = -0.1"),
        ({"random_replace_prob": 0.3}, "mask_replace_prob \\+ random_replace_prob"),
    ],
)
def test_options_out_of_range_are_named(options, found):
    with pytest.raises(ObjectiveError, match=found):
        MaskedSeq2SeqCollator(BERT, **options)


def test_a_tokenizer_without_mask_and_sentinel_is_named():
    """GPT-2、BLOOM 的词表里没有可用来遮的词元。"""
    with pytest.raises(ObjectiveError, match="既没有掩码词元，也没有哨兵词元"):
        MaskedSeq2SeqCollator(tokenizer_of("bloom"))


def test_the_mask_may_have_a_name_of_its_own():
    """先找指名的词元，再找掩码词元，最后是哨兵词元。"""
    assert mask_id_of(BERT, "之") == BERT.convert_tokens_to_ids("之")
    assert mask_id_of(BERT, "<mask_1>") == MASK
    t5 = tokenizer_of("t5")
    assert mask_id_of(t5, "<mask_1>") == t5.convert_tokens_to_ids("<extra_id_0>")


def test_a_text_that_already_contains_the_mask_is_named():
    """原文里写着 [MASK]：说出是哪一篇的第几个词元。"""
    rows = [bert_row(PLAIN_IDS[:3]), bert_row([PLAIN_IDS[0], MASK], 1)]
    with pytest.raises(ObjectiveError, match=r"样本 1 的正文里已有 \[MASK\].*第 2 个"):
        MaskedSeq2SeqCollator(BERT)(rows)
