"""GLM 填空：论文的图逐格核对；填回空就是原文；层次与次序的比例在 5 倍标准差之内。"""

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
    bodies,
    same_feature,
    starts_of,
    tokenizer_of,
    within_five_sigma,
)
from torch.nn.functional import cross_entropy

from companion.batch import IGNORE_INDEX
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.errors import ObjectiveError
from companion.losses.target_head import target_losses
from companion.objectives.blank_infilling import (
    BlankInfillingCollator,
    blank_out,
    find_blank_tokens,
)
from companion.objectives.collate import make_example

GLM = tiny_tokenizer("bert")
GLM.add_special_tokens(
    {"extra_special_tokens": ["[sMASK]", "[gMASK]", "[sop]", "[eop]"]}
)
TOKENS = find_blank_tokens(GLM)
MASKS = (TOKENS.mask, TOKENS.sentence_mask, TOKENS.document_mask)
TEXT = (
    "臣光曰：臣闻天子之职莫大于礼，礼莫大于分，分莫大于名。三年春，大旱，民饥！"
    "飞鸟尽，良弓藏。勿以善小而不为。"
)
ONLY_TOKENS = {"sentence_probability": 0.0, "document_probability": 0.0}
ONLY_SENTENCES = {"sentence_probability": 1.0, "document_probability": 0.0}
ONLY_DOCUMENTS = {"sentence_probability": 0.0, "document_probability": 1.0}


def test_the_figure_of_the_paper():
    """图 2：x1…x6 挖去 [x3] 与 [x5 x6]，后者先写；输入、标签、两行位置、掩码都相同。"""
    x1, x2, x3, x4, x5, x6 = PLAIN_IDS[:6]
    text = np.array([x1, x2, x3, x4, x5, x6])
    parts = blank_out(text, [(2, 3), (4, 6)], [1, 0], MASK, TOKENS)
    example = make_example(parts.pop("input_ids"), parts.pop("labels"), **parts)
    s, e, no = TOKENS.start, TOKENS.end, IGNORE_INDEX
    assert example.input_ids.tolist() == [x1, x2, MASK, x4, MASK, s, x5, x6, s, x3]
    assert example.labels.tolist() == [no] * 5 + [x5, x6, e, x3, e]
    assert (example.position_ids + torch.tensor([[1], [0]])).tolist() == [
        [1, 2, 3, 4, 5, 5, 5, 5, 3, 3],
        [0, 0, 0, 0, 0, 1, 2, 3, 1, 2],
    ]
    assert example.origin.tolist() == [0, 1, -1, 3, -1, 4, 5, -1, 2, -1]
    assert example.hidden.tolist() == [False] * 5 + [True, True, False, True, False]
    batch = BlankInfillingCollator(GLM).collate([example])
    a, b = torch.ones(10, 5), torch.ones(5, 5).tril()
    paper = torch.cat([a, torch.cat([torch.zeros(5, 5), b])], dim=1).bool()
    assert torch.equal(batch["attention_mask"][0, 0] == 0, paper)
    assert torch.equal(batch["position_ids"][0], example.position_ids)


@st.composite
def packed_rows(draw: st.DrawFn) -> dict:
    """一行几篇 [CLS] 正文 [SEP]，正文夹有 [UNK] 与原文里写出的 [MASK]。"""
    documents = [
        [CLS, *body, SEP]
        for body in draw(st.lists(bodies(0, 30), min_size=1, max_size=4))
    ]
    return {
        "input_ids": [token for each in documents for token in each],
        "document_starts": starts_of([len(each) for each in documents]),
        "example_id": draw(st.integers(0, 2**40)),
    }


def parts_of(example, number: int):
    """一篇文档的 A 部分与各片段：[(第几个空, 片段)]。"""
    here = example.documents == number
    ids, labels = example.input_ids[here], example.labels[here]
    first, second = example.position_ids[:, here]
    a = example.prefix[here]
    spans, span, at = [], [], -1
    for token, position, offset in zip(
        labels[~a].tolist(), first[~a].tolist(), second[~a].tolist(), strict=True
    ):
        if offset == 1:
            at = position
        assert position == at
        assert offset == len(span) + 1
        if token == TOKENS.end:
            spans.append((at, span))
            span = []
        else:
            span.append(token)
    assert not span  # 每个片段都以 [E] 收尾
    return ids[a].tolist(), first[a].tolist(), spans


@FEW
@given(
    packed_rows(), st.integers(0, 9), st.sampled_from([ONLY_TOKENS, ONLY_DOCUMENTS, {}])
)
def test_filling_the_blanks_restores_the_text(feature, epoch, levels):
    """照位置把片段填回空里就是原文；空数等于片段数；标签 M + n 个，总长 T + 2n。"""
    before = copy.deepcopy(feature)
    collator = BlankInfillingCollator(GLM, **levels)
    (example,) = collator.examples([feature | {"epoch": epoch}])
    assert same_feature(feature, before)
    restored = []
    bounds = [*feature["document_starts"], len(feature["input_ids"])]
    for number, (start, stop) in enumerate(pairwise(bounds)):
        a, positions, spans = parts_of(example, number)
        assert positions == list(range(len(a)))
        filled = dict(spans)
        assert len(filled) == len(spans)
        assert all(a[at] in MASKS for at in filled)
        pieces = [filled.get(at, [token]) for at, token in enumerate(a)]
        restored += [token for piece in pieces for token in piece]
        hidden = sum(len(span) for _, span in spans)
        here = example.documents == number
        assert int((example.labels[here] != IGNORE_INDEX).sum()) == hidden + len(spans)
        assert int(here.sum()) == stop - start + 2 * len(spans)
        assert (len(spans) == 0) == (stop - start == 2)
        # B 部分的输入是标签右移一格，片段开头换成 [S]
        inputs = example.input_ids[here & ~example.prefix].tolist()
        assert inputs == [x for _, span in spans for x in (TOKENS.start, *span)]
    assert restored == feature["input_ids"]
    raw = torch.tensor(feature["input_ids"])
    known = example.hidden
    assert torch.equal(raw[example.origin[known]], example.labels[known])


@FEW
@given(packed_rows(), packed_rows(), st.integers(1, 9), st.sampled_from([1, 2]))
def test_a_batch_is_its_rows(first, second, multiple, rows):
    """批量里的每一行与它单独成批时相同；填充处位置为 0、没有标签、谁也看不见。"""
    collator = BlankInfillingCollator(GLM, position_rows=rows)
    together = BlankInfillingCollator(
        GLM, position_rows=rows, pad_to_multiple_of=multiple
    )([first, second])
    length = together["input_ids"].shape[1]
    assert length % multiple == 0
    shape = (2, 2, length) if rows == 2 else (2, length)
    assert together["position_ids"].shape == shape
    for row, feature in enumerate((first, second)):
        alone = collator([feature])
        size = alone["input_ids"].shape[1]
        for name in ("input_ids", "labels", "position_ids"):
            assert torch.equal(together[name][row][..., :size], alone[name][0])
            assert together[name].dtype == torch.int64
        mask = together["attention_mask"][row, 0]
        assert torch.equal(mask[:size, :size], alone["attention_mask"][0, 0])
        assert (mask[:size, size:] < 0).all()
        assert (together["position_ids"][row][..., size:] == 0).all()
        assert (together["labels"][row, size:] == IGNORE_INDEX).all()


def test_the_order_of_the_spans_is_shuffled():
    """三个片段的文档：六种次序各 1/6，5 倍标准差之内。"""
    features = [
        {"input_ids": PLAIN_IDS[:40], "example_id": number} for number in range(1500)
    ]
    orders: dict[tuple, int] = {}
    collator = BlankInfillingCollator(GLM, **ONLY_TOKENS)
    for example in collator.examples(features):
        begins = example.position_ids[0][example.position_ids[1] == 1].tolist()
        if len(begins) == 3:
            rank = tuple(sorted(begins).index(at) for at in begins)
            orders[rank] = orders.get(rank, 0) + 1
    total = sum(orders.values())
    assert len(orders) == 6
    assert total > 300
    assert all(within_five_sigma(n, total, 1 / 6) for n in orders.values())


def test_the_levels_are_drawn_as_asked():
    """三种层次的比例照设置，5 倍标准差之内；空用各自的词元写。"""
    features = [
        {"input_ids": GLM(TEXT)["input_ids"], "example_id": number}
        for number in range(1500)
    ]
    collator = BlankInfillingCollator(
        GLM, sentence_probability=0.2, document_probability=0.5
    )
    counts = dict.fromkeys(MASKS, 0)
    for example in collator.examples(features):
        used = set(example.input_ids[example.prefix].tolist()) & set(MASKS)
        assert len(used) == 1
        counts[used.pop()] += 1
    for token, share in zip(MASKS, (0.3, 0.2, 0.5), strict=True):
        assert within_five_sigma(counts[token], 1500, share)


def test_a_single_sentence_falls_back_to_tokens():
    """只有一句的文档，句级无从挖起：改为词元级，用 [MASK]。"""
    features = [
        {"input_ids": GLM("良弓藏")["input_ids"], "example_id": n} for n in range(20)
    ]
    for example in BlankInfillingCollator(GLM, **ONLY_SENTENCES).examples(features):
        assert set(example.input_ids.tolist()) & set(MASKS) == {MASK}


def test_a_given_prefix_is_completed():
    """样本给定前缀：其余正文是一个 [gMASK] 空，首尾的特殊词元留在 A 部分。"""
    ids = GLM("飞鸟尽，良弓藏。")["input_ids"]
    (example,) = BlankInfillingCollator(GLM).examples(
        [{"input_ids": ids, "prefix_length": 5}]
    )
    assert example.input_ids.tolist() == [
        *ids[:5],
        TOKENS.document_mask,
        SEP,
        TOKENS.start,
        *ids[5:-1],
    ]
    assert example.labels[7:].tolist() == [*ids[5:-1], TOKENS.end]


def test_the_noise_is_a_function_of_seed_epoch_and_example():
    """同一（种子，轮次，样本）挖在同样的地方，换任何一个都不同。"""

    def drawn(seed: int, epoch: int, number: int) -> tuple:
        feature = {"input_ids": PLAIN_IDS[:100], "epoch": epoch, "example_id": number}
        collator = BlankInfillingCollator(GLM, seed=seed, **ONLY_TOKENS)
        return tuple(collator.examples([feature])[0].input_ids.tolist())

    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert drawn(*keys[0]) == drawn(*keys[0])
    assert len({drawn(*key) for key in keys}) == 4


@torch.no_grad()
def logits_of(model, batch):
    inputs = {k: v for k, v in batch.items() if not k.endswith("labels")}
    return model(**inputs, use_cache=False).logits


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["glm", "llama", "qwen3", "gpt2"])
def test_a_stock_model_reads_what_the_mask_allows(kind, implementation):
    """一行位置、四维掩码：改动任一词元，看不见它的输出逐位不变，看得见的都变。"""
    model = tiny_model(kind, GLM, attn_implementation=implementation)
    collator = BlankInfillingCollator(GLM, position_rows=1, **ONLY_TOKENS)
    feature = {
        "input_ids": PLAIN_IDS[:24],
        "document_starts": [0, 14],
        "example_id": 5,
    }
    batch = collator([feature])
    before = logits_of(model, batch)
    seen = batch["attention_mask"][0, 0] == 0
    for at in range(batch["input_ids"].shape[1]):
        ids = batch["input_ids"].clone()
        ids[0, at] = PLAIN_IDS[60]
        moved = (logits_of(model, {**batch, "input_ids": ids}) != before).any(-1)[0]
        assert torch.equal(moved, seen[:, at])


def test_without_the_mask_the_repeated_positions_look_like_packing():
    """为什么要四维掩码：不给它，重复的位置被当成打包，B 部分完全看不见 A 部分。"""
    model = tiny_model("llama", GLM)
    collator = BlankInfillingCollator(GLM, position_rows=1, **ONLY_TOKENS)
    feature = {"input_ids": PLAIN_IDS[:20], "example_id": 5}
    (example,) = collator.examples([feature])
    batch = collator.collate([example])
    del batch["attention_mask"]
    before = logits_of(model, batch)
    ids = batch["input_ids"].clone()
    ids[0, 0] = PLAIN_IDS[60]
    moved = (logits_of(model, {**batch, "input_ids": ids}) != before).any(-1)[0]
    assert not moved[~example.prefix][1:].any()


def test_aligned_labels_are_the_loss():
    """`shift_labels` 与 `target_losses` 都等于对齐的交叉熵；照移位算则不等。"""
    model = tiny_model("glm", GLM)
    collator = BlankInfillingCollator(GLM, position_rows=1, shift_labels=True)
    features = [
        {"input_ids": GLM(TEXT)["input_ids"], "example_id": number}
        for number in range(4)
    ]
    batch = collator(features)
    chosen = batch["labels"] != IGNORE_INDEX
    by_hand = cross_entropy(
        logits_of(model, batch)[chosen], batch["labels"][chosen], reduction="none"
    )
    with torch.no_grad():
        stock = model(**batch, use_cache=False).loss
        shifted = batch.pop("shift_labels")
        wrong = model(**batch, use_cache=False).loss
        ours = target_losses(model, batch, causal=False)
    assert torch.equal(shifted, batch["labels"])
    torch.testing.assert_close(stock, by_hand.mean())
    torch.testing.assert_close(ours.nats, by_hand)
    assert (wrong - stock).abs() > 1e-3


def test_a_row_of_special_tokens_has_nothing_to_fill():
    """没有正文的文档原样成为 A 部分，没有标签，也不出错。"""
    batch = BlankInfillingCollator(GLM)([{"input_ids": [CLS, SEP], "example_id": 0}])
    assert batch["input_ids"].tolist() == [[CLS, SEP]]
    assert (batch["labels"] == IGNORE_INDEX).all()


def test_rows_keep_within_the_block_on_average():
    """`row_capacity` 的原文长成的行，平均不超过 `block_size`；位置从不超过原文。"""
    collator = BlankInfillingCollator(GLM, **ONLY_TOKENS)
    capacity = collator.row_capacity(512, 0)
    assert 450 < capacity < 512
    ids = [PLAIN_IDS[t % len(PLAIN_IDS)] for t in range(capacity)]
    examples = collator.examples(
        [{"input_ids": ids, "example_id": number} for number in range(50)]
    )
    sizes = [len(each.input_ids) for each in examples]
    assert sum(sizes) / len(sizes) <= 512
    assert all(int(each.position_ids.max()) < capacity for each in examples)


def test_missing_tokens_are_named():
    """缺哪个点哪个；用不着的不问。"""
    with pytest.raises(
        ObjectiveError,
        match=r"没有 \[sMASK\]、\[gMASK\]、\[sop\]、\[eop\].*starter:glm",
    ):
        BlankInfillingCollator(BERT)
    with pytest.raises(ObjectiveError, match=r"没有 \[sop\]、\[eop\]。"):
        BlankInfillingCollator(BERT, **ONLY_TOKENS)
    with pytest.raises(ObjectiveError, match=r"没有 \[MASK\]、"):
        BlankInfillingCollator(tokenizer_of("llama"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise_density": 1.5}, "noise_density = 1.5"),
        ({"sentence_probability": 0.8}, r"sentence_probability \+ document_probab"),
        ({"poisson_lambda": 0}, "poisson_lambda = 0"),
        ({"position_rows": 3}, "position_rows = 3"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(settings, message):
    """越界的设置，建整理器时就拒绝。"""
    with pytest.raises(ObjectiveError, match=message):
        BlankInfillingCollator(GLM, **settings)


def test_a_text_beyond_the_positions_is_refused():
    """比位置表还长的 A 部分点名报错。"""
    collator = BlankInfillingCollator(GLM, max_length=16, **ONLY_TOKENS)
    with pytest.raises(ObjectiveError, match=r"样本 9 破坏之后要用 \d+ 个位置.*16 个"):
        collator([{"input_ids": PLAIN_IDS[:40], "example_id": 9}])
