"""替换词元检测的批量：就是掩码语言建模的批量，另加原文与抽样的随机数。"""

import copy

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
    masked_features,
    same_feature,
    within_five_sigma,
)

from companion.batch import IGNORE_INDEX
from companion.objectives.masked_lm import MaskedLMCollator
from companion.objectives.replaced_token import NOISE_BITS, ReplacedTokenCollator

BATCHES = st.lists(masked_features(), min_size=1, max_size=4)


def sentence(size: int, example: int) -> dict:
    body = [PLAIN_IDS[(i * 7 + example) % len(PLAIN_IDS)] for i in range(size - 2)]
    return {"input_ids": [CLS, *body, SEP], "example_id": example}


@FEW
@given(BATCHES, st.integers(0, 99))
def test_the_batch_is_that_of_masked_lm(features, seed):
    """遮哪些、换成什么，与同样设置的 MaskedLMCollator 相同；样本与全局随机数不动。"""
    collator = ReplacedTokenCollator(BERT, seed=seed)
    plain = MaskedLMCollator(
        BERT, seed=seed, mask_replace_prob=0.85, random_replace_prob=0.0
    )
    before, state = copy.deepcopy(features), torch.get_rng_state()
    batch, expected = collator(features), plain(features)
    assert all(torch.equal(batch[key], expected[key]) for key in expected)
    assert all(map(same_feature, features, before))
    assert torch.equal(torch.get_rng_state(), state)


@FEW
@given(BATCHES, st.integers(0, 99))
def test_the_original_is_known_at_every_ordinary_token(features, seed):
    """普通词元处是原文，特殊词元与填充处是 −100；遮住的都在普通词元里。"""
    batch = ReplacedTokenCollator(BERT, seed=seed, pad_to_multiple_of=8)(features)
    labels, original = batch["labels"], batch["original_ids"]
    chosen = labels != IGNORE_INDEX
    assert torch.equal(original[chosen], labels[chosen])
    for row, feature in enumerate(features):
        ids = list(map(int, feature["input_ids"]))
        expected = [IGNORE_INDEX if i in SPECIAL_IDS else i for i in ids]
        assert original[row, : len(ids)].tolist() == expected
        assert (original[row, len(ids) :] == IGNORE_INDEX).all()


@FEW
@given(BATCHES, st.integers(0, 99))
def test_the_noise_depends_on_the_example_alone(features, seed):
    """随机数与同批的样本、填充都无关，在 [0, 2⁵³) 之内。"""
    collator = ReplacedTokenCollator(BERT, seed=seed)
    noise = collator(features)["sampling_noise"]
    assert noise.dtype == torch.int64
    assert ((noise >= 0) & (noise < 1 << NOISE_BITS)).all()
    for row, feature in enumerate(features):
        alone = collator([feature])["sampling_noise"][0]
        assert torch.equal(noise[row, : len(alone)], alone)


def test_the_noise_is_new_in_every_epoch_and_for_every_example():
    """种子、轮次、编号换了一个，随机数就全换。"""
    feature = sentence(40, 0)

    def noise(seed: int, epoch: int, example: int) -> tuple[int, ...]:
        row = feature | {"epoch": epoch, "example_id": example}
        batch = ReplacedTokenCollator(BERT, seed=seed)([row])
        return tuple(batch["sampling_noise"][0].tolist())

    drawn = [noise(s, e, i) for s in (0, 1) for e in (0, 1) for i in (0, 1)]
    assert len({value for row in drawn for value in row}) == 8 * 40


def test_the_noise_is_uniform():
    """两万个随机数落在十个区间里，各占一成。"""
    features = [sentence(100, example) for example in range(200)]
    lots = ReplacedTokenCollator(BERT)(features)["sampling_noise"] * 2.0**-NOISE_BITS
    for count in torch.histc(lots.float(), 10, 0, 1).tolist():
        assert within_five_sigma(int(count), 20_000, 0.1)


def test_eighty_five_percent_are_masked_and_the_rest_kept():
    """发布的代码：85% 换成 [MASK]，15% 原样，没有随机的。"""
    features = [sentence(102, example) for example in range(300)]
    batch = ReplacedTokenCollator(BERT)(features)
    chosen = batch["labels"] != IGNORE_INDEX
    shown, labels = batch["input_ids"][chosen], batch["labels"][chosen]
    assert ((shown == MASK) | (shown == labels)).all()
    assert within_five_sigma(int((shown == MASK).sum()), len(shown), 0.85)
