"""排批：每行一轮恰好一次、不超预算、只由（种子, 轮次）决定、填充很少。"""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.training.batching import (
    BatchPlan,
    PlannedSampler,
    Share,
    bucket_by_length,
    plan_batches,
)

LENGTHS = st.lists(st.integers(1, 120), min_size=1, max_size=60)
BUDGETS = st.integers(8, 400)
SEEDS = st.integers(0, 2**32 - 1)


def plan(lengths, budget=100, *, seed=0, accumulation=1, **options) -> BatchPlan:
    return plan_batches(
        np.array(lengths, np.int64),
        tokens_per_batch=budget,
        accumulation=accumulation,
        seed=seed,
        **options,
    )


def rows_by_epoch(batches) -> dict[int, Counter[int]]:
    seen: dict[int, Counter[int]] = {}
    for batch in batches:
        for epoch, row in batch:
            seen.setdefault(epoch, Counter())[row] += 1
    return seen


@given(LENGTHS, BUDGETS, SEEDS, st.integers(1, 3), st.integers(1, 4))
def test_every_row_comes_exactly_once_per_epoch(
    lengths, budget, seed, epochs, accumulation
):
    """整轮之内每行恰好一次；为凑足最后一步多取的，来自下一轮，也不重复。"""
    planned = plan(
        lengths, budget, seed=seed, accumulation=accumulation, num_epochs=epochs
    )
    seen = rows_by_epoch(planned.batches)
    whole = Counter(range(len(lengths)))
    assert all(seen[epoch] == whole for epoch in range(epochs))
    assert all(count == 1 for rows in seen.values() for count in rows.values())
    assert len(planned.batches) == planned.num_steps * accumulation
    surplus = [b for b in planned.batches if b[0][0] >= epochs]
    assert len(surplus) < accumulation


@given(LENGTHS, BUDGETS, SEEDS)
def test_a_batch_never_exceeds_the_budget(lengths, budget, seed):
    """行数 × 最长行 ≤ 预算；只有比预算还长的一行可以独占一批。"""
    for batch in plan(lengths, budget, seed=seed).batches:
        sizes = [lengths[row] for _, row in batch]
        assert len(sizes) * max(sizes) <= budget or len(sizes) == 1


@given(LENGTHS, BUDGETS, SEEDS)
def test_the_plan_depends_on_seed_and_epoch_alone(lengths, budget, seed):
    """同样的种子排出同样的批；要更多轮时，前面的轮次原样不动。"""
    once = plan(lengths, budget, seed=seed, num_epochs=1)
    assert plan(lengths, budget, seed=seed, num_epochs=1) == once
    twice = plan(lengths, budget, seed=seed, num_epochs=2).batches
    assert twice[: len(once.batches)] == once.batches


def test_another_seed_and_another_epoch_shuffle_anew():
    """换种子或换轮次，同批的行与批的次序都变。"""
    lengths = list(range(1, 60))

    def epoch(seed, number):
        batches = plan(lengths, seed=seed, num_epochs=2).batches
        return [[row for _, row in b] for b in batches if b[0][0] == number]

    first, second, other = epoch(0, 0), epoch(0, 1), epoch(1, 0)
    assert first != second
    assert first != other
    longest = [max(lengths[row] for row in batch) for batch in first]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


@given(LENGTHS, BUDGETS, st.integers(1, 40), st.integers(1, 4))
def test_max_steps_is_exact(lengths, budget, steps, accumulation):
    """按步数训练：不多不少，轮数够不够都一样。"""
    planned = plan(lengths, budget, max_steps=steps, accumulation=accumulation)
    assert planned.num_steps == steps
    assert len(planned.batches) == steps * accumulation


@given(LENGTHS, st.sampled_from([0.25, 0.5, 1.5, 2.75]), st.integers(1, 3))
def test_a_fraction_of_an_epoch_is_that_share_of_its_batches(
    lengths, epochs, accumulation
):
    """小数轮：最后一轮只取前若干批，是整轮计划的前缀。"""
    part = plan(lengths, num_epochs=epochs, accumulation=accumulation)
    whole = plan(lengths, num_epochs=int(epochs) + 4).batches
    sizes = Counter(batch[0][0] for batch in whole)
    done = sum(sizes[epoch] for epoch in range(int(epochs)))
    wanted = done + max(1, round(epochs % 1 * sizes[int(epochs)]))
    wanted += -wanted % accumulation
    assert part.batches == whole[:wanted]


@given(LENGTHS, BUDGETS, st.integers(1, 30))
def test_the_plan_keeps_its_accounts(lengths, budget, steps):
    """词元、格子与轮数，与逐行数出来的相同。"""
    planned = plan(lengths, budget, max_steps=steps)
    sizes = [[lengths[row] for _, row in batch] for batch in planned.batches]
    assert planned.tokens == sum(map(sum, sizes))
    assert planned.grid == sum(len(batch) * max(batch) for batch in sizes)
    assert planned.epochs == pytest.approx(planned.tokens / sum(lengths))
    assert planned.replayed == 0


@given(LENGTHS, st.integers(1, 4), st.integers(1, 4), st.integers(1, 6))
def test_ranks_share_each_step_without_overlap(lengths, world, accumulation, steps):
    """各进程的批互不相交，合起来就是计划；每一步各取同样多批。"""
    together = accumulation * world
    planned = plan(lengths, max_steps=steps, accumulation=together)
    ranks = [list(PlannedSampler(planned, rank, world)) for rank in range(world)]
    assert [len(r) for r in ranks] == [steps * accumulation] * world
    assert len(PlannedSampler(planned, 0, world)) == steps * accumulation
    for step in range(steps):
        mine = [r[step * accumulation :][:accumulation] for r in ranks]
        woven = [batch for micro in zip(*mine, strict=True) for batch in micro]
        assert woven == planned.batches[step * together :][:together]


def with_replay(domain: int, general: int, ratio: float) -> tuple[Share, Share]:
    """一份领域语料，其余的行是回放。"""
    return (
        Share(0, domain, 1 - ratio),
        Share(domain, domain + general, ratio, is_replay=True),
    )


REPLAYED = st.lists(st.integers(1, 60), min_size=1, max_size=30)


@given(LENGTHS, REPLAYED, st.floats(0.02, 0.6), SEEDS)
def test_replay_keeps_its_share_and_visits_every_row_before_repeating(
    domain, general, ratio, seed
):
    """每轮之后，回放的词元与应得的相差不到一行；没有一行先来第二遍。"""
    planned = plan(
        [*domain, *general],
        seed=seed,
        num_epochs=5,
        shares=with_replay(len(domain), len(general), ratio),
    )
    quota = sum(domain) * ratio / (1 - ratio)  # 一轮应得的回放词元
    counts = Counter(dict.fromkeys(range(len(domain), len(domain) + len(general)), 0))
    total = 0
    for epoch, rows in sorted(rows_by_epoch(planned.batches).items()):
        replayed = {row: n for row, n in rows.items() if row >= len(domain)}
        counts.update(replayed)
        total += sum(n * general[row - len(domain)] for row, n in replayed.items())
        assert 0 <= total - quota * (epoch + 1) < max(general) + 1e-6
        assert max(counts.values()) - min(counts.values()) <= 1
        assert Counter(r for r in rows if r < len(domain)) == Counter(
            range(len(domain))
        )
    assert planned.replayed == total


def test_replay_is_that_share_of_the_trained_tokens():
    """三轮、两成回放：实际的份额在 19% 与 21% 之间，回放的行各轮不同。"""
    rng = np.random.default_rng(0)
    domain, general = rng.integers(20, 128, 400), rng.integers(20, 128, 900)
    planned = plan(
        [*domain, *general],
        1024,
        num_epochs=3,
        shares=with_replay(len(domain), len(general), 0.2),
    )
    assert planned.replayed / planned.tokens == pytest.approx(0.2, abs=0.01)
    assert planned.epochs == pytest.approx(3)
    epochs = [
        {row for row in rows if row >= len(domain)}
        for rows in rows_by_epoch(planned.batches).values()
    ]
    assert all(not a & b for a, b in pairwise(epochs))


def test_bucketing_pads_far_less_than_the_order_of_the_text():
    """同样的预算，按长度分桶的填充不到原次序的十分之一，且不过百分之五。"""
    lengths = np.random.default_rng(0).lognormal(3.5, 0.8, 4000).astype(int) + 2
    naive, batch = 0, []
    for length in lengths:
        if (len(batch) + 1) * max([*batch, length]) > 4096:
            naive += len(batch) * max(batch) - sum(batch)
            batch = []
        batch.append(length)
    planned = plan(lengths, 4096)
    padded = planned.grid - planned.tokens
    assert padded < 0.1 * naive
    assert padded < 0.05 * planned.tokens


@given(LENGTHS, BUDGETS, SEEDS)
def test_buckets_partition_the_rows(lengths, budget, seed):
    """`bucket_by_length`：每行恰在一批；没有行就没有批。"""
    rng = np.random.default_rng(seed)
    batches = bucket_by_length(np.array(lengths), budget, rng)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    assert bucket_by_length(np.zeros(0, np.int64), budget, rng) == []


@given(lengths=LENGTHS, budget=BUDGETS, seed=SEEDS)
def test_rows_of_one_length_leave_no_padding(lengths, budget, seed):
    """看得见填充的模型：一批里的行一样长，每行仍是恰好一次。"""
    sizes = np.array(lengths, np.int64)
    rng = np.random.default_rng(seed)
    found = bucket_by_length(sizes, budget, rng, same_length=True)
    assert all(len(set(sizes[batch])) == 1 for batch in found)
    assert sorted(np.concatenate(found)) == list(range(len(lengths)))
