"""编码器–解码器的共用部分：首尾、移位、补齐、隔开同一行里的文档，与破坏的方式无关。"""

import copy
import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    CONTAINERS,
    DOCUMENT_LENGTHS,
    FEW,
    same_feature,
    starts_of,
    tokenizer_of,
)

from companion.batch import IGNORE_INDEX
from companion.checkpoints.tiny import tiny_model
from companion.errors import ObjectiveError
from companion.losses.target_head import target_losses
from companion.objectives.seq2seq import Corruption, Seq2SeqCollator

T5, BERT = tokenizer_of("t5"), tokenizer_of("bert")
CLS, SEP, PAD = BERT.cls_token_id, BERT.sep_token_id, BERT.pad_token_id
MARK, START = 99, 7
LEAST = torch.finfo(torch.float32).min
PLAIN = st.integers(5, 90)


@dataclass
class OddTokens(Seq2SeqCollator):
    """编码器看第 0、2、4… 个词元，解码器写第 1、3、5… 个，最后写一个 MARK。"""

    def corrupt(self, tokens, rng):
        return self.hide_tokens(tokens, np.arange(len(tokens)) % 2 == 1)

    def hide_tokens(self, tokens, noise):
        origin = np.append(np.flatnonzero(noise), -1)
        return Corruption(
            inputs=tokens[~noise],
            targets=np.append(tokens[noise], MARK),
            origin=origin,
            hidden=origin >= 0,
        )


@dataclass
class PartlyVisible(OddTokens):
    """MARK 与首尾不计损失，解码器也看不见那几格。"""

    def decoder_side(self, corruption, prefix, suffix):
        side = super().decoder_side(corruption, prefix, suffix)
        labels = np.where(side["hidden"], side["labels"], IGNORE_INDEX)
        return side | {"labels": labels, "decoder_visible": side["hidden"]}


@dataclass
class FirstNumber(OddTokens):
    """把每篇的第一个随机数写进输入。"""

    def corrupt(self, tokens, rng):
        first = [int(rng.random() * 2**40)]
        result = super().corrupt(tokens, rng)
        return replace(result, inputs=np.append(first, result.inputs[1:]))


def odd(tokenizer=BERT, **options) -> OddTokens:
    return OddTokens(tokenizer, decoder_start_token_id=START, **options)


def row(*bodies: list[int], example: int = 0, prefix=(CLS,), suffix=(SEP,)) -> dict:
    """几篇文档装成一行。"""
    parts = [[*prefix, *body, *suffix] for body in bodies]
    return {
        "input_ids": list(itertools.chain.from_iterable(parts)),
        "document_starts": starts_of([len(part) for part in parts]),
        "example_id": example,
    }


# ———— 一行一篇 ————


def test_edges_stay_on_both_sides_and_the_decoder_sees_one_step_back():
    """首尾的特殊词元回到输入与目标上；解码器的输入是目标右移一格，首格是 START。"""
    batch = odd()([row([11, 12, 13, 14, 15])])
    assert batch["input_ids"].tolist() == [[CLS, 11, 13, 15, SEP]]
    assert batch["labels"].tolist() == [[CLS, 12, 14, MARK, SEP]]
    assert batch["decoder_input_ids"].tolist() == [[START, CLS, 12, 14, MARK]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1]]
    assert set(batch) == {
        "input_ids",
        "labels",
        "decoder_input_ids",
        "attention_mask",
    }


@pytest.mark.parametrize("body", [[11], [11, 12], [11, 12, 13]])
@pytest.mark.parametrize("prefix", [(), (CLS,)])
@pytest.mark.parametrize("suffix", [(), (SEP,), (SEP, SEP)])
def test_any_edges_will_do(body, prefix, suffix):
    """没有首尾、只有一头、一头有两个，都原样套回去。"""
    batch = odd()([row(body, prefix=prefix, suffix=suffix)])
    assert batch["input_ids"][0].tolist() == [*prefix, *body[::2], *suffix]
    assert batch["labels"][0].tolist() == [*prefix, *body[1::2], MARK, *suffix]
    assert batch["decoder_input_ids"][0, 0] == START


def test_rows_are_padded_on_the_right():
    """短的一行右侧补齐：输入补填充词元、不受注意；标签补 −100。"""
    batch = odd()([row([11, 12, 13, 14]), row([21], example=1)])
    assert batch["input_ids"][1].tolist() == [CLS, 21, SEP, PAD]
    assert batch["attention_mask"][1].tolist() == [1, 1, 1, 0]
    assert batch["labels"][1].tolist() == [CLS, MARK, SEP, *[IGNORE_INDEX] * 2]
    assert batch["decoder_input_ids"][1].tolist() == [START, CLS, MARK, PAD, PAD]
    assert all(each.dtype == torch.int64 for each in batch.values())


def test_both_sides_are_padded_to_a_multiple():
    """`pad_to_multiple_of` 管输入，也管标签，只多出填充。"""
    plain, padded = odd()([row([11, 12])]), odd(pad_to_multiple_of=8)([row([11, 12])])
    for key, value in plain.items():
        assert padded[key].shape == (1, 8)
        assert torch.equal(padded[key][:, : value.shape[1]], value)


def test_labels_may_be_part_of_the_targets():
    """不计损失处是 −100；`decoder_visible` 之外连同首尾都不受注意。"""
    batch = PartlyVisible(BERT, decoder_start_token_id=START)([row([11, 12, 13, 14])])
    assert batch["labels"][0].tolist() == [-100, 12, 14, -100, -100]
    assert batch["decoder_input_ids"][0].tolist() == [START, CLS, 12, 14, MARK]
    assert batch["decoder_attention_mask"][0].tolist() == [0, 1, 1, 0, 0]


def test_an_unknown_token_at_the_edge_is_text():
    """[UNK] 与 [MASK] 可以是正文，不当作首尾的特殊词元。"""
    unk = BERT.unk_token_id
    batch = odd()([row([unk, 12, 13, unk])])
    assert batch["labels"][0].tolist() == [CLS, 12, unk, MARK, SEP]


# ———— 标签与原文 ————


@FEW
@given(
    rows=st.lists(DOCUMENT_LENGTHS, min_size=1, max_size=4),
    prefix=st.sampled_from([(), (CLS,)]),
    suffix=st.sampled_from([(), (SEP,)]),
    data=st.data(),
)
def test_origin_points_into_the_raw_row(rows, prefix, suffix, data):
    """`origin` 处的原文就是标签；`hidden` 的都有原文，而且输入里没有它。"""
    features, number = [], iter(range(100, 10**6))
    for example, lengths in enumerate(rows):
        bodies = [[next(number) for _ in range(size)] for size in lengths]
        features.append(row(*bodies, example=example, prefix=prefix, suffix=suffix))
    for feature, example in zip(features, odd().examples(features), strict=True):
        raw = torch.tensor(feature["input_ids"])
        known = example.origin >= 0
        assert torch.equal(raw[example.origin[known]], example.labels[known])
        assert known[example.hidden].all()
        assert not torch.isin(example.labels[example.hidden], example.input_ids).any()
        starts = torch.tensor(feature["document_starts"])
        owner = torch.searchsorted(starts, example.origin[known], right=True) - 1
        assert torch.equal(owner, example.decoder_documents[known])
        everything = torch.cat([example.input_ids, example.labels[example.hidden]])
        assert sorted(everything.tolist()) == sorted(raw.tolist())


@FEW
@given(
    bodies=st.lists(st.lists(PLAIN, min_size=1, max_size=9), min_size=1, max_size=5),
    contain=st.sampled_from(CONTAINERS),
)
def test_collate_of_examples_is_the_call_and_nothing_is_changed(bodies, contain):
    """`collate(examples(f))` 就是 `f` 的批量；样本一项不动，什么容器都收。"""
    features = [
        {"input_ids": contain([CLS, *body, SEP]), "example_id": i}
        for i, body in enumerate(bodies)
    ]
    before = copy.deepcopy(features)
    made = odd()
    batch, again = made(features), made.collate(made.examples(features))
    assert batch.keys() == again.keys()
    assert all(torch.equal(batch[key], again[key]) for key in batch)
    assert all(map(same_feature, features, before))


def test_chosen_tokens_of_one_sample_can_be_hidden():
    """`hide` 的噪声与正文等长，不数首尾。"""
    example = odd().hide(row([11, 12, 13]), np.array([True, False, False]))
    assert example.input_ids.tolist() == [CLS, 12, 13, SEP]
    assert example.labels.tolist() == [CLS, 11, MARK, SEP]
    assert example.origin.tolist() == [-1, 1, -1, -1]


# ———— 一行几篇 ————


def test_packed_documents_see_only_themselves():
    """三处注意力都隔开；解码器各篇从 START 重新开始，而且不看右边。"""
    batch = odd()([row([11, 12], [21]), row([31], example=1)])
    assert batch["input_ids"][0].tolist() == [CLS, 11, SEP, CLS, 21, SEP]
    assert batch["labels"][0].tolist() == [CLS, 12, MARK, SEP, CLS, MARK, SEP]
    assert batch["decoder_input_ids"][0].tolist() == [
        *(START, CLS, 12, MARK),
        *(START, CLS, MARK),
    ]
    encoder = torch.block_diag(torch.ones(3, 3), torch.ones(3, 3))
    decoder = torch.block_diag(torch.ones(4, 4), torch.ones(3, 3)).tril()
    cross = torch.block_diag(torch.ones(4, 3), torch.ones(3, 3))
    for name, visible in (
        ("attention_mask", encoder),
        ("decoder_attention_mask", decoder),
        ("cross_attention_mask", cross),
    ):
        mask = batch[name]
        assert mask.dtype == torch.float32
        assert torch.equal(mask[0, 0] == 0, visible.bool())
        assert set(mask.unique().tolist()) == {LEAST, 0.0}
    assert batch["cross_attention_mask"].shape == (2, 1, 7, 6)
    lonely = batch["cross_attention_mask"][1, 0, :3]  # 第二行只有一篇，长 3
    assert torch.equal(lonely == 0, torch.tensor([[True] * 3 + [False] * 3] * 3))


@pytest.mark.parametrize("make", [OddTokens, PartlyVisible])
def test_a_packed_row_scores_as_its_documents_alone(make):
    """T5 上，一行几篇的逐目标损失，与各篇单独一行时相同。"""
    bodies = [[11, 12, 13, 14, 15], [21, 22], [31, 32, 33, 34], [41, 42, 43]]
    made, model = make(T5, START), tiny_model("t5")

    def nats(features):
        batch = made(features)
        with torch.no_grad():
            return target_losses(model, batch, causal=False).nats

    edges = {"prefix": (), "suffix": (T5.eos_token_id,)}
    packed = nats([row(*bodies[:3], **edges), row(bodies[3], **edges)])
    alone = nats([row(body, **edges) for body in bodies])
    assert len(packed) == len(alone)
    assert torch.allclose(packed, alone, atol=1e-5)


def test_every_document_has_random_numbers_of_its_own():
    """随机数由（种子, 轮次, 样本, 行内第几篇）决定，与批里的次序无关。"""
    made = FirstNumber(T5, seed=3)
    features = [
        row([11], [12], example=5, prefix=(), suffix=()) | {"epoch": 2},
        row([13], example=6, prefix=(), suffix=()),
    ]
    found = [each.input_ids.tolist() for each in made.examples(features)]
    keys = [(3, 2, 5, 0), (3, 2, 5, 1), (3, 0, 6, 0)]
    drawn = [int(np.random.default_rng(key).random() * 2**40) for key in keys]
    assert found == [drawn[:2], drawn[2:]]
    turned = [each.input_ids.tolist() for each in made.examples(features[::-1])]
    assert turned == found[::-1]


# ———— 参数与错误 ————


def test_the_decoder_starts_with_padding_by_default():
    """T5 的解码器以填充词元起头；别的模型要从 config 里抄。"""
    assert OddTokens(T5).decoder_start_token_id == T5.pad_token_id
    with pytest.raises(ObjectiveError, match=r"decoder_start_token_id=model\.config"):
        OddTokens(tokenizer_of("gpt2"))


def test_a_row_holds_a_block_unless_the_objective_says_otherwise():
    """长度不变的目标，原文一行就是 `block_size`。"""
    assert odd().row_capacity(512, 2) == 512


def test_samples_with_different_edges_are_named():
    """一批之内首尾不一致时，说出是哪个样本、各是什么。"""
    with pytest.raises(ObjectiveError, match=r"样本 1 的首尾是 \[\] … .*别的.*CLS"):
        odd()([row([11]), row([12], example=1, prefix=())])
    with pytest.raises(ObjectiveError, match="正文里不要有特殊词元"):
        odd()([row([11], [SEP, 12])])


@pytest.mark.parametrize("body", [[], [SEP]])
def test_a_document_of_special_tokens_only_is_named(body):
    """只有特殊词元的文档没有可写的，报错。"""
    with pytest.raises(ObjectiveError, match=r"样本 4 里有一篇文档只有特殊词元"):
        odd()([row([11], body, example=4)])


@pytest.mark.parametrize("body", [[11, 8, 12], [8, 11], [11, 8]])
def test_reserved_tokens_are_refused_wherever_they_stand(body):
    """原文里有本目标的掩码、哨兵时报错，排在首尾也认得出不是首尾的特殊词元。"""
    made = odd(T5)
    sentinel = T5.convert_tokens_to_ids("<extra_id_3>")
    made.reserve([sentinel, T5.convert_tokens_to_ids("<extra_id_4>")])
    body = [sentinel if token == 8 else token for token in body]
    edges = {"prefix": (), "suffix": (T5.eos_token_id,)}
    features = [row([11], **edges), row([12], body, example=9, **edges)]
    words = f"样本 9 .*已有 <extra_id_3>.*第 {body.index(sentinel) + 1} 个"
    with pytest.raises(ObjectiveError, match=words):
        made(features)
