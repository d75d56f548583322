"""片段破坏（T5、mT5、T5 v1.1）：盖住几段文字，只让解码器写出盖住的那些。

    损失 = − Σ_k log p(y_k | y_<k, x̃)        （Raffel 等，2020，§3.1.4、§3.3.4）

例（论文图 2）：输入里每段换成一个哨兵，目标里哨兵领着那一段：

    原文    Thank you for inviting me to your party last week .
    输入    Thank you <X> me to your party <Y> week .
    目标    <X> for inviting <Y> last <Z>

结尾的 <Z> 论文里有，发布的代码（`t5/data/preprocessors.py`）里没有；公开的检查点由代码
训成，所以缺省不写，`final_sentinel=True` 才写。

一篇有 L 个词元，盖住 N = round(0.15·L) 个，分成 S = round(N/3) 段（舍入取偶，至少盖一
个、留一个）。N 个怎样分成 S 段、其余 L − N 个怎样分成 S 段，都在一切分法里均匀地选。于
是输入长 L − N + S，目标长 N + S：568 个词元恰好变成 512 与 114（连同两侧的 </s>）。

- `reference` 照发布的代码：没盖的一段在前、盖住的一段在后，交替排列。于是第一个词元从不
  盖住，最后一个**总是**盖住。30 个词元以内只有一段，每一轮都盖同一处：一行短短的中文，
  只学得到补全末尾几个字。
- `unbiased` 把这样排好的一圈随机转一个角度，每个词元盖住的机会都恰是 N/L。转到一段的中
  间，这一段就断成首尾两段，所以有 S 或 S + 1 段。

只有一个词元的文档照发布的代码：什么也不盖，目标只有一个哨兵，说“后面没有了”。

形状字母：L 一篇正文的词元数，K 目标的长度，S 哨兵数。
"""

import itertools
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from companion.errors import ObjectiveError
from companion.objectives.choices import SpanPlacement
from companion.objectives.rows import draw_below, runs_of, shuffled
from companion.objectives.seq2seq import (
    Corruption,
    Ids,
    Seq2SeqCollator,
    require_sentinels,
    sentinel_ids_of,
)


def span_counts(
    length: int, noise_density: float, mean_noise_span_length: float
) -> tuple[int, int]:
    """一篇盖住几个词元、分成几段；只有一个词元的按两个算，见 `place_spans`。

    >>> [span_counts(length, 0.15, 3.0) for length in (568, 10, 2)]
    [(85, 28), (2, 1), (1, 1)]
    """
    length = max(length, 2)
    noise = min(max(round(length * noise_density), 1), length - 1)
    spans = max(round(noise / mean_noise_span_length), 1)
    # 发布的代码没有这个上限，L=10、密度 0.9、平均 1 个词元时就会出错
    return noise, min(spans, noise, length - noise)


def place_spans(
    length: int, num_noise: int, num_spans: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """没盖的一段、盖住的一段，交替排满一篇；各段的长短在一切分法里均匀。

    Args:
        length: 词元数。
        num_noise: 盖住几个，1 ≤ num_noise < max(2, length)。
        num_spans: 分成几段，不超过盖住的数与没盖的数。
        rng: 随机数来源。

    Returns:
        盖住处为真，(L,) bool；只有一个词元的文档不盖。
    """
    kept = random_partition(max(length, 2) - num_noise, num_spans, rng)
    hidden = random_partition(num_noise, num_spans, rng)
    sizes = np.stack([kept, hidden], axis=1).ravel()
    return np.repeat([False, True] * num_spans, sizes)[:length]


def random_partition(total: int, parts: int, rng: np.random.Generator) -> Ids:
    """把 `total` 分成 `parts` 个正整数，一切分法机会相等：在 total − 1 个缝里选下刀处。

    Returns:
        (parts,)，总和为 `total`。
    """
    cuts = sorted(1 + gap for gap in shuffled(total - 1, rng)[: parts - 1])
    return np.diff([0, *cuts, total])


def replace_spans(
    tokens: Ids,
    noise: NDArray[np.bool_],
    sentinel_ids: Ids,
    *,
    final_sentinel: bool = False,
) -> Corruption:
    """相连的噪声是一段：输入里换成一个哨兵，目标里哨兵在前、这一段在后。

    Args:
        tokens: 正文，(L,) int64；里面没有哨兵，整理器读样本时查过。
        noise: 盖住处为真，(L,) bool。
        sentinel_ids: 哨兵，按使用的次序，(S,) int64。
        final_sentinel: 目标末尾再写一个哨兵；一段也没有的文档总是写。

    Raises:
        ObjectiveError: 哨兵不够。
    """
    runs = runs_of(noise)
    ended = final_sentinel or not runs
    require_sentinels(len(runs) + ended, sentinel_ids)
    inputs: list[int] = []
    targets: list[int] = []
    origin: list[int] = []
    done = 0  # 原文写到了哪里
    for sentinel, (start, stop) in zip(sentinel_ids.tolist(), runs, strict=False):
        inputs += [*tokens[done:start].tolist(), sentinel]
        targets += [sentinel, *tokens[start:stop].tolist()]
        origin += [-1, *range(start, stop)]
        done = stop
    inputs += tokens[done:].tolist()
    if ended:
        targets.append(int(sentinel_ids[len(runs)]))
        origin.append(-1)
    at = np.array(origin, np.int64)
    return Corruption(
        inputs=np.array(inputs, np.int64),
        targets=np.array(targets, np.int64),
        origin=at,
        hidden=at >= 0,
    )


def corrupt_spans(
    tokens: Ids,
    rng: np.random.Generator,
    sentinel_ids: Ids,
    *,
    noise_density: float = 0.15,
    mean_noise_span_length: float = 3.0,
    span_placement: SpanPlacement = "reference",
    final_sentinel: bool = False,
) -> Corruption:
    """片段破坏，论文的三步：定个数，放片段，换哨兵。

    Args:
        tokens: 正文，(L,) int64。
        rng: 随机数来源。
        sentinel_ids: 哨兵，按使用的次序，(S,) int64。
        noise_density: 盖住的比例。
        mean_noise_span_length: 一段平均几个词元。
        span_placement: 见模块说明。
        final_sentinel: 目标末尾再写一个哨兵。

    Raises:
        ObjectiveError: 哨兵不够。
    """
    counts = span_counts(len(tokens), noise_density, mean_noise_span_length)
    noise = place_spans(len(tokens), *counts, rng)
    if span_placement == "unbiased":
        noise = np.roll(noise, draw_below(len(tokens), rng))
    return replace_spans(tokens, noise, sentinel_ids, final_sentinel=final_sentinel)


@dataclass
class SpanCorruptionCollator(Seq2SeqCollator):
    """片段破坏的数据整理器；输入与输出见 `Seq2SeqCollator`。

    Raises:
        ObjectiveError: 词表里没有哨兵或不够用，参数越界，或原文里已有哨兵。
    """

    noise_density: float = 0.15
    """盖住的比例（Raffel 等，2020，§3.1.4）。"""
    mean_noise_span_length: float = 3.0
    """一段平均几个词元（同上，§3.3.4）。"""
    final_sentinel: bool = False
    """目标末尾再写一个哨兵：论文的正文有，发布的代码没有。"""
    span_placement: SpanPlacement = "reference"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check()
        self.sentinel_ids = sentinel_ids_of(self.tokenizer)
        self.reserve(self.sentinel_ids.tolist())

    def corrupt(self, tokens: Ids, rng: np.random.Generator) -> Corruption:
        """每段噪声在输入里换成一个哨兵，在目标里由哨兵领着写出。"""
        return corrupt_spans(
            tokens,
            rng,
            self.sentinel_ids,
            noise_density=self.noise_density,
            mean_noise_span_length=self.mean_noise_span_length,
            span_placement=self.span_placement,
            final_sentinel=self.final_sentinel,
        )

    def hide_tokens(self, tokens: Ids, noise: NDArray[np.bool_]) -> Corruption:
        """每段相连的换成一个哨兵。"""
        return replace_spans(
            tokens, noise, self.sentinel_ids, final_sentinel=self.final_sentinel
        )

    def row_capacity(self, block_size: int, num_edges: int) -> int:
        """原文一行的词元数：破坏之后两侧都不超过 `block_size`，而且再多一个就会超过。

        说的是一行一篇。行内装了许多短文档时，每篇至少盖一个、换上一个哨兵，省不下位置，
        输入会超过 `block_size`，但不超过这里的返回值（T5 的位置是相对的，没有上限）。

        Args:
            block_size: 编码器一行的长度，含特殊词元。
            num_edges: 首尾共有几个特殊词元。

        Raises:
            ObjectiveError: 装满一行要用的哨兵比词表里的多。

        例：`block_size` 为 512、结尾有 </s> 时是 568 + 1，多出的 1 也是 </s>。
        """
        body = raw_length(
            block_size - num_edges,
            self.noise_density,
            self.mean_noise_span_length,
            extra_spans=int(self.span_placement == "unbiased"),
            extra_targets=int(self.final_sentinel),
        )
        _, num_spans = span_counts(
            body, self.noise_density, self.mean_noise_span_length
        )
        extra = int(self.span_placement == "unbiased") + int(self.final_sentinel)
        require_sentinels(num_spans + extra, self.sentinel_ids)
        return body + num_edges

    def _check(self) -> None:
        if not 0.0 < self.noise_density < 1.0:
            raise ObjectiveError(
                found=f"noise_density = {self.noise_density}",
                expected="noise_density 在 0 与 1 之间，不含两端",
                remedy="改用例如 noise_density=0.15",
            )
        if self.mean_noise_span_length < 1.0:
            raise ObjectiveError(
                found=f"mean_noise_span_length = {self.mean_noise_span_length}",
                expected="一段平均至少一个词元",
                remedy="改用例如 mean_noise_span_length=3",
            )
        if self.span_placement not in get_args(SpanPlacement):
            raise ObjectiveError(
                found=f"span_placement = {self.span_placement!r}",
                expected=f"{'、'.join(get_args(SpanPlacement))} 之一",
                remedy="照上面的名字改写",
            )


def raw_length(
    room: int,
    noise_density: float,
    mean_noise_span_length: float,
    *,
    extra_spans: int = 0,
    extra_targets: int = 0,
) -> int:
    """多长的原文破坏之后，输入与目标都恰好放进 `room` 个位置，都不含首尾的特殊词元。

    Args:
        room: 一侧的位置数。
        noise_density: 盖住的比例。
        mean_noise_span_length: 一段平均几个词元。
        extra_spans: 比 `span_counts` 至多再多几段。
        extra_targets: 目标另外再多几个词元。

    例（T5 的数，两侧各留一个 </s>）：

    >>> raw_length(511, 0.15, 3.0), raw_length(511, 0.5, 3.0)
    (568, 766)
    """

    def fits(length: int) -> bool:
        noise, spans = span_counts(length, noise_density, mean_noise_span_length)
        spans += extra_spans
        return max(length - noise + spans, noise + spans + extra_targets) <= room

    # 两侧都随 L 不减
    return next(length for length in itertools.count(1) if not fits(length + 1))
