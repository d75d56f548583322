"""选词元：贪心、抽取、束搜索，与不用技巧的穷举、与 torch 的分布相同。"""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from companion.errors import ConfigError
from companion.inference.decoding import Decoding, Limits, Written, decode

VOCABULARY, STOP = 5, 4


class Table:
    """词元只看前一个的“模型”：一张转移表，记得每串写到哪里。"""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits  # (V + 1, V)，末一行是开头
        self.rows = 1

    def start(self) -> Tensor:
        return self.logits[-1:]

    def advance(self, tokens: Tensor) -> Tensor:
        assert len(tokens) == self.rows
        return self.logits[tokens]

    def select(self, rows: Tensor) -> None:
        assert rows.max() < self.rows
        self.rows = len(rows)


def table(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(VOCABULARY + 1, VOCABULARY, generator=generator)


def limits(*banned: int, least: int = 0, stops: tuple[int, ...] = (STOP,)) -> Limits:
    mask = torch.zeros(VOCABULARY, dtype=torch.bool)
    mask[list(banned)] = True
    return Limits(frozenset(stops), mask, least)


def likelihood(logits: Tensor, ids: list[int], *, ended: bool) -> float:
    """一串的总对数概率，连同结尾。"""
    chances = logits.log_softmax(-1)
    path = [*ids, STOP] if ended else ids
    before = [VOCABULARY, *path[:-1]]
    return sum(float(chances[a, b]) for a, b in zip(before, path, strict=True))


def every_string(logits: Tensor, longest: int) -> list[tuple[float, Written]]:
    """穷举：每一串与平均每个词元的对数概率。"""
    found = []
    for size in range(longest + 1):
        for path in itertools.product(range(VOCABULARY - 1), repeat=size):
            ids = list(path)
            if size < longest:
                total = likelihood(logits, ids, ended=True) / (size + 1)
                found.append((total, Written(ids, True)))
            else:
                total = likelihood(logits, ids, ended=False) / size
                found.append((total, Written(ids, False)))
    return sorted(found, key=lambda each: -each[0])


@given(st.integers(0, 1000))
def test_greedy_takes_the_best_at_every_step(seed):
    """每步取概率最大的，写到结尾或写够为止。"""
    logits = table(seed)
    [found] = decode(Table(logits), Decoding(max_new_tokens=6), limits())
    ids, row = [], VOCABULARY
    while len(ids) < 6 and (best := int(logits[row].argmax())) != STOP:
        ids.append(best)
        row = best
    assert found == Written(ids, len(ids) < 6)


@settings(max_examples=30)
@given(st.integers(0, 1000))
def test_a_wide_enough_beam_finds_the_best_string(seed):
    """束宽到装得下每一串时，名次与穷举相同。"""
    logits = table(seed)
    how = Decoding(max_new_tokens=3, num_beams=100, num_return_sequences=5)
    found = decode(Table(logits), how, limits())
    assert found == [written for _, written in every_string(logits, 3)[:5]]


@given(st.integers(0, 1000), st.integers(2, 4))
def test_a_beam_returns_strings_in_order(seed, width):
    """束搜索给出的几串各不相同，由好到坏。"""
    logits = table(seed)
    how = Decoding(max_new_tokens=4, num_beams=width, num_return_sequences=width)
    found = decode(Table(logits), how, limits())
    means = [
        likelihood(logits, each.ids, ended=each.finished)
        / (len(each.ids) + each.finished)
        for each in found
    ]
    assert means == sorted(means, reverse=True)
    assert len({tuple(each.ids) for each in found}) == len(found) == width


def test_an_unlikely_end_does_not_stop_the_beam():
    """结尾排在束宽之外，就不算写完：否则差的短串会挤掉还在写的好串。"""
    logits = torch.tensor([[2.0, -9.0, -9.0, -9.0, 0.5]]).repeat(6, 1)
    logits[-1] = torch.tensor([1.0, 0.9, -9.0, -9.0, 0.8])
    how = Decoding(max_new_tokens=4, num_beams=2, num_return_sequences=2)
    found = decode(Table(logits), how, limits())
    assert [len(each.ids) for each in found] == [4, 4]
    assert not any(each.finished for each in found)


def test_sampling_follows_the_distribution():
    """抽取两千串：首个词元的频率与 softmax 相差在 4 个标准差之内，温度也算在内。"""
    logits = table()
    how = Decoding(
        max_new_tokens=1, do_sample=True, temperature=1.7, num_return_sequences=2000
    )
    found = decode(Table(logits), how, limits())
    expected = (logits[-1] / 1.7).softmax(-1)
    for token in range(VOCABULARY):
        chance = float(expected[token])
        wanted = [] if token == STOP else [token]
        share = sum(each.ids == wanted for each in found) / 2000
        assert abs(share - chance) < 4 * math.sqrt(chance * (1 - chance) / 2000)


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    """只在概率之和刚够 top_p 的词元里抽：第一名总在，够了之后的都不在。"""
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.08, 0.02]]).log().expand(6, 5)
    for top_p, kept in ((0.1, {0}), (0.4, {0}), (0.41, {0, 1}), (0.75, {0, 1, 2})):
        how = Decoding(
            max_new_tokens=1, do_sample=True, top_p=top_p, num_return_sequences=200
        )
        found = decode(Table(logits), how, limits(stops=()))
        assert {each.ids[0] for each in found} == kept


def test_the_seed_decides_and_the_global_random_state_is_untouched():
    """同一种子同样的几串，不同种子不同；全局随机状态原样。"""
    state = torch.get_rng_state()
    found = [
        decode(
            Table(table()),
            Decoding(
                max_new_tokens=9, do_sample=True, seed=seed, num_return_sequences=3
            ),
            limits(stops=()),
        )
        for seed in (0, 0, 1)
    ]
    assert found[0] == found[1] != found[2]
    assert torch.equal(state, torch.get_rng_state())


def test_what_must_not_be_written_is_not():
    """写不得的从不出现，贪心、抽取、束搜索都一样；结尾不受此限。"""
    for how in (
        Decoding(max_new_tokens=20),
        Decoding(max_new_tokens=20, do_sample=True, num_return_sequences=30),
        Decoding(max_new_tokens=6, num_beams=3, num_return_sequences=3),
    ):
        for each in decode(Table(table(3)), how, limits(0, 2, STOP)):
            assert not {0, 2} & set(each.ids)


def test_at_least_one_token_is_written_where_asked():
    """`least` 之前不许停：结尾最可能时也先写一个。"""
    logits = torch.zeros(6, 5)
    logits[:, STOP] = 9.0
    for how in (Decoding(), Decoding(num_beams=2)):
        assert decode(Table(logits), how, limits()) == [Written([], True)]
        [found] = decode(Table(logits), how, limits(least=1))
        assert len(found.ids) == 1
        assert found.finished


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens = 0"),
        ({"num_beams": 0}, "num_beams = 0"),
        ({"temperature": 0.0}, "temperature = 0"),
        ({"top_p": 1.2}, "top_p = 1.2"),
        ({"num_return_sequences": 2}, "贪心续写却要 2 段"),
        ({"num_return_sequences": 3, "num_beams": 2}, "2 束的搜索续写却要 3 段"),
        ({"do_sample": True, "num_beams": 2}, "二者取一"),
    ],
)
def test_settings_out_of_range_are_refused(options, said):
    """越界或互相矛盾的参数，建的时候就说出来。"""
    with pytest.raises(ConfigError, match=said):
        Decoding(**options)
