"""UniLM：四种任务一个整理器；掩码照论文，个数恰好，比例在 5 倍标准差之内。"""

import copy
from itertools import pairwise

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
    PLAIN_IDS,
    SEP,
    SPECIAL_IDS,
    UNK,
    bodies,
    rng_of,
    same_feature,
    starts_of,
    tokenizer_of,
    within_five_sigma,
)
from torch.nn.functional import cross_entropy

from companion.batch import IGNORE_INDEX
from companion.checkpoints.running import adapt_batch
from companion.checkpoints.tiny import tiny_model
from companion.errors import ObjectiveError
from companion.losses.target_head import target_losses
from companion.objectives.noise import masking_budget
from companion.objectives.rows import runs_of
from companion.objectives.unified_lm import (
    SEGMENTS,
    TASKS,
    UnifiedLMCollator,
    choose_ngrams,
)

SIX = {"type_vocab_size": 6}
A, B, C = PLAIN_IDS[:3]


def task_of(example) -> str:
    """由六种片段编号认出任务。"""
    segments = set(example.token_type_ids.tolist())
    return next(task for task, pair in SEGMENTS.items() if segments <= set(pair))


def sentence(length: int, example: int = 0) -> dict:
    """[CLS] 正文 [SEP]，共 `length` 个词元。"""
    body = [PLAIN_IDS[(7 * t + example) % len(PLAIN_IDS)] for t in range(length - 2)]
    return {"input_ids": [CLS, *body, SEP], "example_id": example}


@st.composite
def packed_rows(draw: st.DrawFn) -> dict:
    """一行几篇，正文夹有 [UNK] 与原文里写出的 [MASK]。"""
    documents = [
        [CLS, *body, SEP]
        for body in draw(st.lists(bodies(1, 10), min_size=1, max_size=4))
    ]
    return {
        "input_ids": [token for each in documents for token in each],
        "document_starts": starts_of([len(each) for each in documents]),
        "example_id": draw(st.integers(0, 2**40)),
    }


@FEW
@given(packed_rows(), st.integers(0, 9), st.booleans())
def test_the_text_can_be_restored(feature, epoch, fine_tuning):
    """去掉插入的 [SEP]、填回标签，恰是原文；标签只在选中处，特殊词元不动。"""
    before = copy.deepcopy(feature)
    collator = UnifiedLMCollator(BERT, fine_tuning=fine_tuning, **SIX)
    (example,) = collator.examples([feature | {"epoch": epoch}])
    assert same_feature(feature, before)
    chosen = example.labels != IGNORE_INDEX
    assert torch.equal(example.hidden, chosen)
    filled = torch.where(chosen, example.labels, example.input_ids)
    kept = example.origin >= 0
    assert filled[kept].tolist() == feature["input_ids"]
    assert example.origin[kept].tolist() == list(range(len(feature["input_ids"])))
    assert (filled[~kept] == SEP).all()
    assert not chosen[~kept].any()
    special = torch.isin(filled, torch.tensor(sorted(SPECIAL_IDS)))
    assert torch.equal(example.input_ids[~chosen], filled[~chosen])
    endings = filled == SEP
    assert not (chosen & special & ~(endings if fine_tuning else False)).any()


@FEW
@given(packed_rows(), st.integers(0, 9))
def test_every_document_of_a_row_is_split_by_one_sep(feature, epoch):
    """两段的任务：切得开的文档恰插一个 [SEP]，在源端末尾；一段的任务不插。"""
    (example,) = UnifiedLMCollator(BERT, **SIX).examples([feature | {"epoch": epoch}])
    task = task_of(example)
    paired = task in ("bidirectional", "seq2seq")
    target = example.token_type_ids == SEGMENTS[task][1]
    starts = [*feature["document_starts"], len(feature["input_ids"])]
    for number, (start, stop) in enumerate(pairwise(starts)):
        here = example.documents == number
        inserted = example.origin[here] < 0
        assert int(inserted.sum()) == int(paired and stop - start >= 4)
        if inserted.any():
            source = ~target[here]
            assert source.tolist() == sorted(source.tolist(), reverse=True)
            at = int(inserted.nonzero())
            assert int(source.sum()) == at + 1  # [SEP] 归源端
            assert 2 <= at < int(here.sum()) - 2  # 两边都有正文
    prefix = {"bidirectional": torch.ones_like(target), "seq2seq": ~target}
    assert torch.equal(example.prefix, prefix.get(task, torch.zeros_like(target)))
    assert example.reverse == (task == "right_to_left")


@FEW
@given(st.integers(3, 200), st.integers(0, 2**40))
def test_the_number_of_targets_is_exact(length, number):
    """一行连同插入的 [SEP] 有 T 个词元，选 max(1, round(0.15·T)) 个。"""
    feature = sentence(length) | {"example_id": number}
    (example,) = UnifiedLMCollator(BERT).examples([feature])
    expected = masking_budget(len(example.labels), length - 2, 0.15)
    assert int(example.hidden.sum()) == expected


@FEW
@given(packed_rows(), packed_rows(), st.integers(1, 9))
def test_a_batch_is_its_rows(first, second, multiple):
    """批量里的每一行与它单独成批时相同，只多尾部的填充。"""
    collator = UnifiedLMCollator(BERT, seed=5)
    together = UnifiedLMCollator(BERT, seed=5, pad_to_multiple_of=multiple)(
        [first, second]
    )
    length = together["input_ids"].shape[1]
    assert length % multiple == 0
    for row, feature in enumerate((first, second)):
        alone = collator([feature])
        size = alone["input_ids"].shape[1]
        for name in ("input_ids", "labels", "token_type_ids"):
            assert torch.equal(together[name][row, :size], alone[name][0])
            assert together[name].dtype == torch.int64
        mask = together["attention_mask"][row, 0]
        assert torch.equal(mask[:size, :size], alone["attention_mask"][0, 0])
        assert (mask[:size, size:] < 0).all()
        assert (together["labels"][row, size:] == IGNORE_INDEX).all()


def pair(source: int, target: int, number: int) -> dict:
    return {
        "input_ids": [CLS, *[A] * source, SEP, *[B] * target, SEP],
        "prefix_length": source + 2,
        "example_id": number,
    }


def test_the_four_masks_are_those_of_the_paper():
    """图 1：S1 有两个词元、S2 有三个，四种掩码逐格核对；一对一对地给，不再插 [SEP]。"""
    collator = UnifiedLMCollator(BERT, **SIX)
    features = [pair(2, 3, number) for number in range(60)]
    examples, batch = collator.examples(features), collator(features)
    i, j = torch.arange(8)[:, None], torch.arange(8)[None]
    papers = {
        "bidirectional": torch.ones(8, 8, dtype=torch.bool),
        "left_to_right": j <= i,
        "right_to_left": j >= i,
        "seq2seq": (j < 4) | ((i >= 4) & (j <= i)),
    }
    segments = {
        "bidirectional": [0] * 4 + [1] * 4,
        "seq2seq": [4] * 4 + [5] * 4,
        "left_to_right": [2] * 8,
        "right_to_left": [3] * 8,
    }
    seen = set()
    for row, example in enumerate(examples):
        task = task_of(example)
        seen.add(task)
        assert torch.equal(batch["attention_mask"][row, 0] == 0, papers[task])
        assert example.token_type_ids.tolist() == segments[task]
    assert seen == set(TASKS)


def test_the_tasks_are_drawn_two_to_two_to_one_to_one():
    """1,200 行：双向与序列到序列各 1/3，两种单向各 1/6，5 倍标准差之内。"""
    features = [sentence(5, number) for number in range(1200)]
    drawn = [task_of(e) for e in UnifiedLMCollator(BERT, **SIX).examples(features)]
    for task, share in TASKS.items():
        assert within_five_sigma(drawn.count(task), 1200, share), task


def test_eighty_ten_ten():
    """选中的 80% 换成 [MASK]、10% 换成别的、10% 原样；随机的从不是特殊词元。"""
    features = [sentence(200, number) for number in range(150)]
    examples = UnifiedLMCollator(BERT).examples(features)
    shown = torch.cat([each.input_ids[each.hidden] for each in examples])
    labels = torch.cat([each.labels[each.hidden] for each in examples])
    count, masked = len(labels), int((shown == MASK).sum())
    same = int((shown == labels).sum())
    lucky = 0.1 / len(PLAIN_IDS)  # 随机抽到它自己
    assert within_five_sigma(masked, count, 0.8)
    assert within_five_sigma(same, count, 0.1 + lucky)
    assert not torch.isin(shown[shown != MASK], torch.tensor(sorted(SPECIAL_IDS))).any()


@pytest.mark.parametrize(
    ("probability", "shares"),
    [(0.2, {1: 0.8, 2: 0.1, 3: 0.1}), (1.0, {2: 0.5, 3: 0.5})],
)
def test_a_pick_takes_one_two_or_three_tokens(probability, shares):
    """稀疏地挑，各次少有相连：单个 80%，两个、三个各半，5 倍标准差之内。"""
    candidates = np.ones(200_000, np.bool_)
    chosen = choose_ngrams(candidates, 2000, probability, rng_of(0))
    assert int(chosen.sum()) == 2000
    sizes = [stop - start for start, stop in runs_of(chosen)]
    for size, share in shares.items():
        # 偶有两次挑在一起，约三十次，小于 5 倍标准差
        assert within_five_sigma(sizes.count(size), len(sizes), share), size


@FEW
@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(0, 40))
def test_ngrams_stay_within_the_candidates(candidates, budget):
    """只挑候选，个数恰是预算与候选数之小者；非候选把相连的几个隔断。"""
    flags = np.array(candidates)
    chosen = choose_ngrams(flags, budget, 1.0, rng_of(budget))
    assert not (chosen & ~flags).any()
    assert int(chosen.sum()) == min(budget, int(flags.sum()))


def test_single_tokens_are_chosen_uniformly():
    """不挑相连的几个时，每个位置被挑中的机会相同，首尾也不例外。"""
    rng, candidates = rng_of(1), np.ones(20, np.bool_)
    picks = sum(choose_ngrams(candidates, 3, 0.0, rng).astype(int) for _ in range(1500))
    assert all(within_five_sigma(int(each), 1500, 3 / 20) for each in picks)


def test_fine_tuning_hides_the_target_and_its_ending():
    """目标 5 个词元、比例 0.7：总是 round(3.5) = 4 个；6 个候选，[SEP] 中 2/3。"""
    features = [pair(4, 5, number) for number in range(400)]
    collator = UnifiedLMCollator(BERT, fine_tuning=True, **SIX)
    examples = collator.examples(features)
    endings = 0
    for example in examples:
        assert task_of(example) == "seq2seq"
        assert int(example.hidden.sum()) == 4
        assert not example.hidden[:6].any()
        endings += int(example.hidden[-1])
        assert example.labels[-1] in (SEP, IGNORE_INDEX)
    assert within_five_sigma(endings, 400, 4 / 6)


@FEW
@given(packed_rows())
def test_fine_tuning_masks_every_document_of_a_row(feature):
    """一行几篇：每篇的目标端各选 max(1, round(0.7·n)) 个，源端从不选。"""
    collator = UnifiedLMCollator(BERT, fine_tuning=True, **SIX)
    (example,) = collator.examples([feature])
    restored = torch.where(example.hidden, example.labels, example.input_ids)
    special = torch.isin(restored, torch.tensor(sorted(SPECIAL_IDS)))
    target = example.token_type_ids == 5
    assert not (example.hidden & ~target).any()
    for number in range(len(feature["document_starts"])):
        here = target & (example.documents == number)
        words = int((here & ~special).sum())
        expected = min(max(1, round(0.7 * words)), words + 1)
        assert int((example.hidden & here).sum()) == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [(6, {0, 1, 2, 3, 4, 5}), (2, {0, 1}), (4, {0, 1}), (1, None), (0, None)],
)
def test_segments_follow_the_checkpoint(size, expected):
    """六种照论文，两种用 0/1，没有的不给。"""
    collator = UnifiedLMCollator(BERT, type_vocab_size=size)
    batch = collator([sentence(9, number) for number in range(60)])
    if expected is None:
        assert "token_type_ids" not in batch
    else:
        assert set(batch["token_type_ids"].unique().tolist()) == expected


def test_a_text_that_cannot_be_split_has_one_segment():
    """一个词元的文档：不插 [SEP]，没有源端。"""
    features = [{"input_ids": [CLS, A, SEP], "example_id": n} for n in range(30)]
    for example in UnifiedLMCollator(BERT).examples(features):
        assert len(example.input_ids) == 3
        assert example.labels.tolist() == [IGNORE_INDEX, A, IGNORE_INDEX]


@pytest.mark.parametrize("ids", [[CLS, SEP], [CLS, UNK, SEP], [CLS, UNK, UNK, SEP]])
def test_a_text_of_special_tokens_has_no_target(ids):
    """没有候选的行没有标签，也不出错。"""
    for number in range(10):
        batch = UnifiedLMCollator(BERT)([{"input_ids": ids, "example_id": number}])
        assert (batch["labels"] == IGNORE_INDEX).all()


def test_the_noise_is_a_function_of_seed_epoch_and_example():
    """同一（种子，轮次，样本）噪声相同，换任何一个都不同。"""

    def drawn(seed: int, epoch: int, number: int) -> tuple:
        feature = sentence(200) | {"epoch": epoch, "example_id": number}
        (example,) = UnifiedLMCollator(BERT, seed=seed).examples([feature])
        return tuple(example.labels.tolist())

    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert drawn(*keys[0]) == drawn(*keys[0])
    assert len({drawn(*key) for key in keys}) == 4


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["bert", "ernie", "roberta", "electra"])
def test_each_task_reads_only_what_its_mask_allows(kind, implementation):
    """真模型上扰动：改动一个词元，看不见它的位置输出逐位不变，看得见的都变。"""
    tokenizer = tokenizer_of(kind)
    model = tiny_model(kind, attn_implementation=implementation)
    collator = UnifiedLMCollator(
        tokenizer,
        mask_replace_prob=0.0,
        random_replace_prob=0.0,
        type_vocab_size=model.config.type_vocab_size,
    )
    ids = [tokenizer.cls_token_id, *range(10, 19), tokenizer.sep_token_id]
    features = [
        {"input_ids": ids, "document_starts": [0, 6], "example_id": number}
        for number in range(12)
    ]
    before = collator(features)
    column = int((before["input_ids"] == 13).nonzero()[0, 1])
    changed = {
        **before,
        "input_ids": torch.where(before["input_ids"] == 13, 30, before["input_ids"]),
    }

    @torch.no_grad()
    def run(batch):
        inputs = adapt_batch(model, batch)
        return model(**{k: v for k, v in inputs.items() if k != "labels"}).logits

    moved = (run(changed) != run(before)).any(-1)  # (B, L)
    seen = before["attention_mask"][:, 0] == 0
    assert column > 0
    for row, token in (before["input_ids"] == 13).nonzero().tolist():
        assert torch.equal(moved[row], seen[row, :, token])


def test_the_loss_is_that_of_the_chosen_tokens():
    """标签不移位：模型的损失与 `target_losses` 都等于选中处的交叉熵。"""
    model = tiny_model("bert")
    batch = UnifiedLMCollator(BERT)([sentence(20, number) for number in range(6)])
    chosen = batch["labels"] != IGNORE_INDEX
    with torch.no_grad():
        result = model(**batch)
        ours = target_losses(model, batch, causal=False)
    by_hand = cross_entropy(
        result.logits[chosen], batch["labels"][chosen], reduction="none"
    )
    torch.testing.assert_close(result.loss, by_hand.mean())
    torch.testing.assert_close(ours.nats, by_hand)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mlm_probability": 1.5}, "mlm_probability = 1.5"),
        ({"ngram_probability": -1}, "ngram_probability = -1"),
        ({"target_mask_probability": 2}, "target_mask_probability = 2"),
        ({"random_replace_prob": 0.3}, r"mask_replace_prob \+ random_replace_prob"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(settings, message):
    """越界的设置，建整理器时就拒绝。"""
    with pytest.raises(ObjectiveError, match=message):
        UnifiedLMCollator(BERT, **settings)


def test_a_tokenizer_without_mask_and_sep_is_refused():
    """GPT-2 两者都没有：一次说全，并指向 prefix_lm。"""
    with pytest.raises(
        ObjectiveError, match=r"GPT2Tokenizer.*mask_token.*sep_token.*prefix_lm"
    ):
        UnifiedLMCollator(tokenizer_of("gpt2"))


def test_a_row_that_grows_beyond_the_positions_is_refused():
    """恰好占满位置表的行，插一个 [SEP] 就超了：点名样本；`row_capacity` 留了余地。"""
    collator = UnifiedLMCollator(BERT, max_length=16, fine_tuning=True)
    assert collator.row_capacity(16, 2) == 15
    collator([sentence(15)])
    with pytest.raises(ObjectiveError, match=r"样本 3 破坏之后要用 17 个位置"):
        collator([sentence(16, 3)])
