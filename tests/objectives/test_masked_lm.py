"""掩码语言建模：选多少、选谁、换成什么，与批量、次序、进程数都无关。"""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    BERT,
    CLS,
    FEW,
    MASK,
    PAD,
    PLAIN_IDS,
    SEP,
    SPECIAL_IDS,
    UNK,
    WORD_LENGTHS,
    masked_features,
    same_feature,
    shares_agree,
    tokenizer_of,
    within_five_sigma,
    word_ids_of,
)
from torch.utils.data import DataLoader
from transformers import DataCollatorForLanguageModeling

from companion.batch import IGNORE_INDEX
from companion.errors import ObjectiveError
from companion.objectives.masked_lm import MaskedLMCollator
from companion.objectives.noise import masking_budget

BATCHES = st.lists(masked_features(), min_size=1, max_size=4)
SETTINGS = st.fixed_dictionaries(
    {
        "mlm_probability": st.sampled_from([0.0, 0.15, 0.5, 1.0]),
        "selection": st.sampled_from(["exact", "bernoulli"]),
        "seed": st.integers(0, 99),
    }
)
SPECIALS = torch.tensor(sorted(SPECIAL_IDS))
SENTENCE = "学而时习之，不亦说乎？有朋自远方来，不亦乐乎？"


def original(features, length: int) -> torch.Tensor:
    rows = [list(map(int, feature["input_ids"])) for feature in features]
    return torch.tensor([row + [PAD] * (length - len(row)) for row in rows])


def sentence(size: int, example: int = 0, seed: int = 0) -> dict:
    """一行 `size` 个词元（连同 [CLS] 与 [SEP]）的样本。"""
    generator = torch.Generator().manual_seed(1000 * seed + example)
    drawn = torch.randint(len(PLAIN_IDS), (size - 2,), generator=generator)
    body = [PLAIN_IDS[i] for i in drawn.tolist()]
    return {"input_ids": [CLS, *body, SEP], "example_id": example}


@FEW
@given(BATCHES, SETTINGS)
def test_inputs_and_labels_restore_the_text(features, settings):
    """int64、同形；有标签处取标签、无标签处取输入，就是补齐后的原文。"""
    batch = MaskedLMCollator(BERT, **settings)(features)
    assert {value.dtype for value in batch.values()} == {torch.int64}
    ids, labels = batch["input_ids"], batch["labels"]
    text = original(features, ids.shape[1])
    assert torch.equal(torch.where(labels != IGNORE_INDEX, labels, ids), text)
    sizes = torch.tensor([len(feature["input_ids"]) for feature in features])
    real = torch.arange(ids.shape[1]) < sizes[:, None]
    assert torch.equal(batch["attention_mask"], real.long())
    assert (ids[~real] == PAD).all()
    assert (labels[~real] == IGNORE_INDEX).all()


@FEW
@given(BATCHES, SETTINGS)
def test_special_tokens_are_never_hidden_nor_labelled(features, settings):
    """[CLS]、[SEP]、[UNK]、原文里的 [MASK] 原样留着，也不用去猜。"""
    batch = MaskedLMCollator(BERT, **settings)(features)
    text = original(features, batch["input_ids"].shape[1])
    special = torch.isin(text, SPECIALS)
    assert (batch["labels"][special] == IGNORE_INDEX).all()
    assert torch.equal(batch["input_ids"][special], text[special])


@FEW
@given(BATCHES, SETTINGS)
def test_every_row_with_an_ordinary_token_has_a_target(features, settings):
    """每行都有目标，只有特殊词元的行没有；`exact` 时个数恰是预算。"""
    batch = MaskedLMCollator(BERT, **settings)(features)
    counts = (batch["labels"] != IGNORE_INDEX).sum(1).tolist()
    for feature, count in zip(features, counts, strict=True):
        ids = list(map(int, feature["input_ids"]))
        candidates = sum(i not in SPECIAL_IDS for i in ids)
        budget = masking_budget(len(ids), candidates, settings["mlm_probability"])
        assert (count > 0) == (candidates > 0)
        if settings["selection"] == "exact":
            assert count == budget


@FEW
@given(BATCHES, SETTINGS)
def test_collating_leaves_the_examples_and_the_global_stream_alone(features, settings):
    """样本不变，全局随机数不变；同样的样本给出同样的批量。"""
    collator = MaskedLMCollator(BERT, **settings)
    before, state = copy.deepcopy(features), torch.get_rng_state()
    first, second = collator(features), collator(features)
    assert all(map(same_feature, features, before))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[key], second[key]) for key in first)


@FEW
@given(BATCHES, SETTINGS, st.integers(1, 16))
def test_neighbours_and_padding_change_nothing_in_a_row(features, settings, multiple):
    """一行在批里与独自一行相同，取到倍数也只添尾部的填充。"""
    batch = MaskedLMCollator(BERT, pad_to_multiple_of=multiple, **settings)(features)
    assert batch["input_ids"].shape[1] % multiple == 0
    for row, feature in enumerate(features):
        alone = MaskedLMCollator(BERT, **settings)([feature])
        size = alone["input_ids"].shape[1]
        for key, value in alone.items():
            assert torch.equal(batch[key][row, :size], value[0])
        assert (batch["input_ids"][row, size:] == PAD).all()


def test_512_tokens_have_77_targets():
    """BERT 的数：连同两端 512 个词元，恰好 77 个目标。"""
    batch = MaskedLMCollator(BERT)([sentence(512, i) for i in range(20)])
    assert (batch["labels"] != IGNORE_INDEX).sum(1).tolist() == [77] * 20


@pytest.mark.parametrize(
    ("ids", "targets"),
    [
        ([PLAIN_IDS[0]], 1),  # 一个词元
        ([CLS], 0),
        ([CLS, SEP], 0),
        ([CLS, UNK, SEP], 0),
        ([CLS, PLAIN_IDS[0], SEP], 1),
    ],
)
@pytest.mark.parametrize("granularity", ["token", "whole_word"])
def test_short_rows_have_the_targets_they_can(ids, targets, granularity):
    """一两个词元也行；只有特殊词元就没有目标。"""
    words = [-1 if i in SPECIAL_IDS else 0 for i in ids]
    feature = {"input_ids": ids, "word_ids": words, "example_id": 0}
    labels = MaskedLMCollator(BERT, granularity=granularity)([feature])["labels"]
    assert (labels != IGNORE_INDEX).sum() == targets


def test_a_row_whose_every_token_is_flagged_special_has_no_target():
    """`special_tokens_mask` 全为真，就没有目标，输入也不变。"""
    feature = sentence(12) | {"special_tokens_mask": [1] * 12}
    batch = MaskedLMCollator(BERT, mlm_probability=1.0)([feature])
    assert (batch["labels"] == IGNORE_INDEX).all()
    assert batch["input_ids"].tolist() == [feature["input_ids"]]


def test_an_empty_example_is_refused_by_name():
    """空样本点名报错。"""
    with pytest.raises(ObjectiveError, match="样本 7 没有词元"):
        MaskedLMCollator(BERT)([{"input_ids": [], "example_id": 7}])


def test_hidden_tokens_split_eighty_ten_ten():
    """约两万个目标：80% 是 [MASK]，10% 换成别的，10% 原样；换上的从无特殊词元。"""
    features = [sentence(102, i) for i in range(1340)]
    batch = MaskedLMCollator(BERT)(features)
    chosen = batch["labels"] != IGNORE_INDEX
    shown, labels = batch["input_ids"][chosen], batch["labels"][chosen]
    masked, kept = int((shown == MASK).sum()), int((shown == labels).sum())
    drawn = shown[(shown != MASK) & (shown != labels)]
    same = 0.1 / len(PLAIN_IDS)  # 随机词元碰巧就是原来那个
    assert len(shown) == 1340 * 15
    assert within_five_sigma(masked, len(shown), 0.8)
    assert within_five_sigma(kept, len(shown), 0.1 + same)
    assert within_five_sigma(len(drawn), len(shown), 0.1 - same)
    assert not torch.isin(drawn, SPECIALS).any()
    assert len(drawn.unique()) == len(PLAIN_IDS)  # 每个普通词元都抽得到


def test_every_position_is_hidden_equally_often():
    """4,000 个样本里，18 个普通位置各自的选中率都是 3/18，两端从不选中。"""
    features = [sentence(20) | {"example_id": example} for example in range(4000)]
    labels = MaskedLMCollator(BERT)(features)["labels"]
    counts = (labels != IGNORE_INDEX).sum(0).tolist()
    assert counts[0] == counts[-1] == 0
    assert all(within_five_sigma(count, 4000, 3 / 18) for count in counts[1:-1])


def test_the_mask_is_new_in_every_epoch_and_for_every_seed():
    """轮次、种子、编号换了一个，遮的就不是同一些；都相同就完全相同。"""
    text = sentence(200)["input_ids"]
    keys = [(s, e, i) for s in (0, 1) for e in (0, 1) for i in (0, 1)]

    def labels(seed: int, epoch: int, example: int) -> torch.Tensor:
        feature = {"input_ids": text, "epoch": epoch, "example_id": example}
        return MaskedLMCollator(BERT, seed=seed)([feature])["labels"]

    drawn = [labels(*key) for key in keys]
    for one, key in enumerate(keys):
        assert torch.equal(drawn[one], labels(*key))
        for other in range(one):
            assert not torch.equal(drawn[one], drawn[other])


@pytest.mark.parametrize("integer", [np.int64, np.int32, torch.tensor])
def test_example_numbers_may_be_of_any_integer_type(integer):
    """编号与轮次是 numpy 或 torch 的整数，噪声也一样。"""
    plain = sentence(100) | {"example_id": 2**30, "epoch": 3}
    typed = plain | {"example_id": integer(2**30), "epoch": integer(3)}
    labels = MaskedLMCollator(BERT, seed=7)([plain, typed])["labels"]
    assert torch.equal(labels[0], labels[1])


def test_over_forty_epochs_almost_every_token_is_hidden():
    """动态掩码：1 − 0.85⁴⁰ ≈ 99.8% 的词元至少遮过一次，静态掩码永远只有 15%。"""
    collator = MaskedLMCollator(BERT)
    feature = sentence(202)
    rows = [feature | {"epoch": epoch} for epoch in range(40)]
    hidden = (collator(rows)["labels"] != IGNORE_INDEX).any(0)
    assert hidden.sum() >= 195
    assert (collator(rows[:1])["labels"] != IGNORE_INDEX).sum() == 30


def loaded(batch_size: int, order: list[int], workers: int) -> dict[int, list]:
    """经真的 DataLoader 走一遍：样本编号 → 去掉填充的 (输入, 标签)。"""
    features = [sentence(8 + i % 9, i) | {"epoch": 3} for i in range(24)]
    loader = DataLoader(
        features,
        batch_size=batch_size,
        sampler=order,
        num_workers=workers,
        collate_fn=MaskedLMCollator(BERT, seed=4),
    )
    rows = [
        (inputs[kept.bool()].tolist(), labels[kept.bool()].tolist())
        for batch in loader
        for inputs, labels, kept in zip(
            batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True
        )
    ]
    return dict(zip(order, rows, strict=True))


def test_order_batch_size_and_workers_change_nothing():
    """换次序、换批量大小、用 0 或 2 个进程，每个样本的噪声都不变。"""
    forwards, backwards = list(range(24)), list(range(23, -1, -1))
    reference = loaded(1, forwards, 0)
    assert loaded(5, backwards, 0) == reference
    assert loaded(4, backwards, 2) == reference


def test_examples_without_a_number_draw_from_the_global_stream():
    """没有编号的样本每次不同；设好 torch 的全局种子就能重现。"""
    collator = MaskedLMCollator(BERT)
    rows = [{"input_ids": sentence(100)["input_ids"]}] * 2
    torch.manual_seed(3)
    first, later = collator(rows)["labels"], collator(rows)["labels"]
    torch.manual_seed(3)
    again = collator(rows)["labels"]
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert not torch.equal(first[0], first[1])


def test_workers_do_not_repeat_each_other_without_numbers():
    """没有编号时，两个进程、两轮的噪声也各不相同：发生器没有随整理器复制。"""
    loader = DataLoader(
        [{"input_ids": sentence(100)["input_ids"]}] * 4,
        num_workers=2,
        collate_fn=MaskedLMCollator(BERT),
    )
    drawn = [tuple(b["labels"][0].tolist()) for _ in range(2) for b in loader]
    assert len(set(drawn)) == 8


def shares(batch, text: torch.Tensor) -> tuple[int, int, int, int, int]:
    """候选数、目标数、其中 [MASK]、换成别的、原样的个数。"""
    chosen = batch["labels"] != IGNORE_INDEX
    shown, labels = batch["input_ids"][chosen], batch["labels"][chosen]
    masked, kept = int((shown == MASK).sum()), int((shown == labels).sum())
    candidates = int((~torch.isin(text, SPECIALS)).sum())
    return candidates, len(shown), masked, len(shown) - masked - kept, kept


def test_bernoulli_selection_agrees_with_the_library():
    """2,000 行：目标、[MASK]、随机、原样的比例与库的整理器在 5 倍标准差内一致。"""
    features = [sentence(50, i) for i in range(2000)]
    text = original(features, 50)
    ours = MaskedLMCollator(BERT, selection="bernoulli")(features)
    library = DataCollatorForLanguageModeling(BERT, seed=0)(
        [{"input_ids": row, "attention_mask": [1] * 50} for row in text.tolist()]
    )
    first, second = shares(ours, text), shares(library, text)
    assert shares_agree(first[1], first[0], second[1], second[0])
    for kind in (2, 3, 4):
        assert shares_agree(first[kind], first[1], second[kind], second[1])


@FEW
@given(st.lists(WORD_LENGTHS, min_size=1, max_size=3), st.integers(0, 99))
def test_whole_words_are_never_split(layout, seed):
    """一词全遮或全不遮；预算 − 最长词 < 目标数 ≤ 预算，除非一个词都放不下。"""
    features = [
        sentence(sum(lengths) + 2, example)
        | {"word_ids": [-1, *word_ids_of(lengths).tolist(), -1]}
        for example, lengths in enumerate(layout)
    ]
    collator = MaskedLMCollator(BERT, granularity="whole_word", seed=seed)
    for row, lengths in zip(collator(features)["labels"], layout, strict=True):
        chosen = row[1 : sum(lengths) + 1] != IGNORE_INDEX
        words = chosen.split(lengths)
        assert all(word.all() or not word.any() for word in words)
        budget = masking_budget(sum(lengths) + 2, sum(lengths), 0.15)
        if min(lengths) > budget:
            assert chosen.sum() == min(lengths)
        else:
            assert budget - max(lengths) < chosen.sum() <= budget


def test_characters_as_words_have_the_exact_count():
    """每个字自成一词：512 个词元还是恰好 77 个目标。"""
    feature = sentence(512) | {"word_ids": [-1, *range(510), -1]}
    labels = MaskedLMCollator(BERT, granularity="whole_word")([feature])["labels"]
    assert (labels != IGNORE_INDEX).sum() == 77


def test_the_tokens_of_a_word_are_replaced_one_by_one():
    """80/10/10 逐词元决定：同一个词里可以既有 [MASK] 又有原样的字。"""
    lengths = [5] * 40
    words = [-1, *word_ids_of(lengths).tolist(), -1]
    features = [sentence(202, i) | {"word_ids": words} for i in range(100)]
    batch = MaskedLMCollator(BERT, granularity="whole_word")(features)
    masked = (batch["input_ids"] == MASK)[:, 1:-1].unflatten(1, (40, 5)).sum(-1)
    chosen = 100 * 6  # 预算 30 个词元，每行六个词
    assert (batch["labels"] != IGNORE_INDEX).sum() == 5 * chosen
    assert within_five_sigma(int((masked == 5).sum()), chosen, 0.8**5)
    assert within_five_sigma(int((masked == 4).sum()), chosen, 5 * 0.8**4 * 0.2)


def chinese_features(count: int) -> list[dict]:
    encoded = BERT(SENTENCE, return_offsets_mapping=True)
    ids, size = encoded["input_ids"], len(encoded["input_ids"])
    inner = [-1, *word_ids_of([4, 1, 4, 1, 1, 1, 1, 3, 1, 1, 4, 1]).tolist(), -1]
    return [
        {
            "input_ids": ids,
            "attention_mask": [1] * size,
            "special_tokens_mask": [1, *[0] * (size - 2), 1],
            "offset_mapping": encoded["offset_mapping"],
            "word_ids": inner,
            "example_id": example,
        }
        for example in range(count)
    ]


def test_the_library_hides_a_chinese_sentence_wholly_or_not_at_all():
    """对照：库以字符间隙断词，中文整句是一个“词”，要么全遮，要么一个不遮。"""
    library = DataCollatorForLanguageModeling(
        BERT,
        whole_word_mask=True,
        mask_replace_prob=1.0,
        random_replace_prob=0.0,
        seed=0,
    )
    names = ("input_ids", "attention_mask", "special_tokens_mask", "offset_mapping")
    features = chinese_features(400)
    batch = library([{name: feature[name] for name in names} for feature in features])
    counts = (batch["labels"] != IGNORE_INDEX).sum(1)
    assert counts.unique().tolist() == [0, len(SENTENCE)]
    assert within_five_sigma(int((counts > 0).sum()), 400, 0.15)


def test_ours_hides_words_of_the_same_sentence():
    """同一句话，给了词界：每行都有目标，不超过预算，词不拆开，哪个词都轮得到。"""
    features = chinese_features(400)
    collator = MaskedLMCollator(BERT, granularity="whole_word")
    chosen = collator(features)["labels"][:, 1:-1] != IGNORE_INDEX
    budget = round(0.15 * (len(SENTENCE) + 2))
    assert set(chosen.sum(1).tolist()) <= set(range(budget - 3, budget + 1))
    words = chosen.split([4, 1, 4, 1, 1, 1, 1, 3, 1, 1, 4, 1], dim=1)
    for word in words:
        hidden = word.all(1)
        assert torch.equal(hidden, word.any(1))
        assert hidden.any()


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "modernbert", "albert"])
def test_any_tokenizer_with_a_mask_token_will_do(kind):
    """字节级 BPE、Unigram 也一样：特殊词元不选，能还原，用的是它自己的掩码词元。"""
    tokenizer = tokenizer_of(kind)
    ids = tokenizer(SENTENCE)["input_ids"]
    collator = MaskedLMCollator(tokenizer, mask_replace_prob=1, random_replace_prob=0)
    batch = collator([{"input_ids": ids, "example_id": 0}])
    chosen = batch["labels"] != IGNORE_INDEX
    assert torch.where(chosen, batch["labels"], batch["input_ids"]).tolist() == [ids]
    assert (batch["input_ids"][chosen] == tokenizer.mask_token_id).all()
    assert not set(batch["labels"][chosen].tolist()) & set(tokenizer.all_special_ids)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mlm_probability": 1.5}, "mlm_probability = 1.5"),
        ({"mask_replace_prob": -0.1}, "mask_replace_prob = -0.1"),
        (
            {"random_replace_prob": 0.3},
            r"mask_replace_prob \+ random_replace_prob = 1.1",
        ),
        ({"granularity": "sentence"}, "granularity = 'sentence'.*whole_word"),
        ({"selection": "all"}, "selection = 'all'.*bernoulli"),
        ({"granularity": "whole_word", "selection": "bernoulli"}, "whole_word 配了"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(settings, message):
    """越界、写错、互相矛盾的设置，建整理器时就拒绝。"""
    with pytest.raises(ObjectiveError, match=message):
        MaskedLMCollator(BERT, **settings)


def test_a_tokenizer_without_a_mask_token_is_refused():
    """GPT-2 没有掩码词元：点名分词器，并指向 causal_lm。"""
    with pytest.raises(ObjectiveError, match=r"GPT2Tokenizer.*没有掩码词元.*causal_lm"):
        MaskedLMCollator(tokenizer_of("gpt2"))


def test_whole_words_need_word_ids():
    """整词粒度而样本没有词界：说清怎么算，也说清 Trainer 会删列。"""
    collator = MaskedLMCollator(BERT, granularity="whole_word")
    with pytest.raises(ObjectiveError, match=r"word_ids.*remove_unused_columns=False"):
        collator([sentence(9)])
