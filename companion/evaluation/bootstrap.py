"""自助法（bootstrap）：数字有多可信，由数据自己来说。

留出集只是同类文字的一小份样本，换一份，数字就会变一点。自助法从已有的行里有放回地重抽
（Efron，1979），看比值怎样变：

    每字比特数 = Σ 奈特 / (ln 2 · Σ 字数)，分子分母一同重抽

比较训练前后时，同一次重抽里前后取同样的行（配对），行与行的难易之差因此相消，区间窄得多。

同一文档的各行并不完全独立，长文档切出的行多时，真实的区间会比这里的略宽。

形状字母：R 行数，S 重抽次数。
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

NUM_RESAMPLES = 1000
CONFIDENCE = 0.95

Floats = NDArray[np.float64]


class Difference(NamedTuple):
    """之前减之后，单位同输入；为正就是降了。"""

    value: float
    interval: tuple[float, float] | None
    """置信区间 (下, 上)；行数不足两行时无从估计，为 None。"""
    paired: bool


def bootstrap_ratio(
    numerator: ArrayLike,
    denominator: ArrayLike,
    *,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Σ 分子 / Σ 分母的百分位自助区间。

    Args:
        numerator: 每行的分子，(R,)。
        denominator: 每行的分母，(R,)。
        num_resamples: 重抽多少次。
        confidence: 置信水平，0.95 即取 2.5% 与 97.5% 分位。
        seed: 随机种子。

    Returns:
        (下, 上)；不足两行时无从估计，返回 None。

    >>> bootstrap_ratio([2, 2, 2], [1, 1, 1])
    (2.0, 2.0)
    """
    columns = np.stack([_floats(numerator), _floats(denominator)])  # (2, R)
    if columns.shape[1] < 2:
        return None
    sums = np.stack(list(_resample(columns, num_resamples, seed)))  # (S, 2)
    return _percentiles(_divide(sums[:, 0], sums[:, 1]), confidence)


def bootstrap_difference(
    before: tuple[ArrayLike, ArrayLike],
    after: tuple[ArrayLike, ArrayLike],
    *,
    paired: bool = True,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Difference:
    """两个比值之差（之前减之后）与它的百分位自助区间。

    Args:
        before: 之前的 (分子, 分母)，各 (R,)。
        after: 之后的 (分子, 分母)；配对时行数与之前相同，且一一对应。
        paired: 两边是否取同样的行；行对不上时设为假，各自独立重抽，区间较宽。
        num_resamples: 重抽多少次。
        confidence: 置信水平。
        seed: 随机种子。

    >>> bootstrap_difference(([3, 5], [1, 1]), ([2, 4], [1, 1]))
    Difference(value=1.0, interval=(1.0, 1.0), paired=True)
    """
    first = np.stack([_floats(each) for each in before])  # (2, R)
    second = np.stack([_floats(each) for each in after])
    value = _ratio(first) - _ratio(second)
    if min(first.shape[1], second.shape[1]) < 2:
        return Difference(value, None, paired)
    if paired:
        both = np.concatenate([first, second])  # (4, R)
        sums = np.stack(list(_resample(both, num_resamples, seed)))  # (S, 4)
    else:
        sums = np.concatenate(
            [
                np.stack(list(_resample(first, num_resamples, seed))),
                np.stack(list(_resample(second, num_resamples, seed + 1))),
            ],
            axis=1,
        )
    gaps = _divide(sums[:, 0], sums[:, 1]) - _divide(sums[:, 2], sums[:, 3])
    return Difference(value, _percentiles(gaps, confidence), paired)


def _resample(columns: Floats, num_resamples: int, seed: int) -> Iterator[Floats]:
    """每次重抽后各列的和，(C,)；一次只占一份行号的内存。"""
    rng = np.random.default_rng(seed)
    num_rows = columns.shape[1]
    for _ in range(num_resamples):
        chosen = rng.integers(num_rows, size=num_rows)
        counts = np.bincount(chosen, minlength=num_rows)
        yield columns @ counts


def _percentiles(values: Floats, confidence: float) -> tuple[float, float] | None:
    finite = values[np.isfinite(values)]  # 抽到的行全都没有字时，比值没有定义
    if len(finite) == 0:
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(finite, [tail, 1 - tail])
    return float(low), float(high)


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return numerator / denominator


def _ratio(columns: Floats) -> float:
    return float(columns[0].sum() / columns[1].sum())


def _floats(values: Any) -> Floats:
    return np.asarray(values, np.float64)
