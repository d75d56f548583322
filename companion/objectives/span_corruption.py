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

形状字母：D 文档数，N 全部词元首尾相接的总长，K 全部目标首尾相接的总长，S 哨兵数。
"""

import itertools
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from companion.errors import ObjectiveError
from companion.objectives.ragged import Ragged, choose_ragged, uniform
from companion.objectives.seq2seq import Corruption, Seq2SeqCollator

SpanPlacement = Literal["reference", "unbiased"]

_NOISE, _KEPT, _TURN = range(3)  # 三处随机，各用一股

_SENTINEL_NAMES = ("▁<extra_id_{}>", "<extra_id_{}>", "extra{}")
"""哨兵的叫法：mT5 的 SentencePiece 词表、T5、UER 的中文 T5（BERT 词表）。"""


@dataclass
class SpanCorruptionCollator(Seq2SeqCollator):
    """片段破坏的数据整理器；输入与输出见 `Seq2SeqCollator`。

    一篇文档的噪声只由（seed, epoch, example_id, 行内第几篇）决定。

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

    def corrupt_documents(
        self, documents: Ragged, keys: NDArray[np.uint64]
    ) -> Corruption:
        """每段噪声在输入里换成一个哨兵，在目标里由哨兵领着写出。"""
        num_noise, num_spans = span_counts(
            documents.lengths, self.noise_density, self.mean_noise_span_length
        )
        noise = place_spans(documents.lengths, num_noise, num_spans, keys)
        if self.span_placement == "unbiased":
            angle = uniform(keys, 1, _TURN)[:, 0] * documents.lengths
            circle = Ragged(noise, documents.lengths)
            noise = circle.rolled(angle.astype(np.int64)).values
        return replace_spans(
            documents, noise, self.sentinel_ids, final_sentinel=self.final_sentinel
        )

    def hide_tokens(self, documents: Ragged, noise: NDArray[np.bool_]) -> Corruption:
        """每段相连的换成一个哨兵。"""
        return replace_spans(
            documents, noise, self.sentinel_ids, final_sentinel=self.final_sentinel
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
            np.array([body]), self.noise_density, self.mean_noise_span_length
        )
        extra = int(self.span_placement == "unbiased") + int(self.final_sentinel)
        require_sentinels(int(num_spans[0]) + extra, self.sentinel_ids)
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


def sentinel_ids_of(tokenizer: Any) -> NDArray[np.int64]:
    """词表里的哨兵，按使用的次序，(S,) int64；按名字找，不论编号升降、排在何处。

    Raises:
        ObjectiveError: 一个也没有。
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    for name in _SENTINEL_NAMES:
        found = itertools.takewhile(
            lambda token: token in vocabulary, map(name.format, itertools.count())
        )
        ids = np.array([vocabulary[token] for token in found], np.int64)
        if len(ids):
            return ids
    raise ObjectiveError(
        found=f"分词器 {type(tokenizer).__name__} 的词表里没有哨兵",
        expected="有 <extra_id_0> …（T5、mT5）或 extra0 …（UER 的中文 T5）",
        remedy="换用 T5 类的检查点；BART 类的用 text_infilling",
    )


def require_sentinels(needed: int, sentinel_ids: NDArray[np.int64]) -> None:
    """哨兵不够 `needed` 个时报错。"""
    if needed > len(sentinel_ids):
        raise ObjectiveError(
            found=f"一篇文档要用 {needed} 个哨兵，词表里只有 {len(sentinel_ids)} 个",
            expected=f"词表里至少有 {needed} 个哨兵",
            remedy="调小 block_size；span_corruption 也可调大 mean_noise_span_length",
        )


def span_counts(
    lengths: NDArray[np.int64],
    noise_density: float | NDArray[np.float64],
    mean_noise_span_length: float | NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """各篇盖住几个词元、分成几段，各 (D,) int64；两个参数可以逐篇给。

    只有一个词元的按两个算，见 `place_spans`。

    >>> span_counts(np.array([568, 10, 2]), 0.15, 3.0)
    (array([85,  2,  1]), array([28,  1,  1]))
    """
    lengths = np.maximum(lengths, 2)
    noise = np.rint(lengths * noise_density).astype(np.int64)
    noise = np.minimum(np.maximum(noise, 1), lengths - 1)
    spans = np.rint(noise / mean_noise_span_length).astype(np.int64)
    # 发布的代码没有这个上限，L=10、密度 0.9、平均 1 个词元时就会出错
    most = np.minimum(noise, lengths - noise)
    return noise, np.minimum(np.maximum(spans, 1), most)


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
    longest = int((room + 2) / (1.0 - noise_density)) + 2  # L − N ≤ room
    lengths = np.arange(1, longest + 1)
    noise, spans = span_counts(lengths, noise_density, mean_noise_span_length)
    spans += extra_spans
    fits = np.maximum(lengths - noise + spans, noise + spans + extra_targets) <= room
    return max(1, int(np.count_nonzero(fits)))  # 两侧都随 L 不减，所以数个数即可


def place_spans(
    lengths: NDArray[np.int64],
    num_noise: NDArray[np.int64],
    num_spans: NDArray[np.int64],
    keys: NDArray[np.uint64],
) -> NDArray[np.bool_]:
    """没盖的一段、盖住的一段，交替排满每一篇；各段的长短在一切分法里均匀。

    Args:
        lengths: 各篇的词元数，(D,)。
        num_noise: 各篇盖住几个，(D,)，1 ≤ num_noise < max(2, lengths)。
        num_spans: 各篇分成几段，(D,)，不超过盖住的数与没盖的数。
        keys: 各篇的随机数钥匙，(D,) uint64。

    Returns:
        盖住处为真，(N,) bool；只有一个词元的文档不盖。
    """
    full = np.maximum(lengths, 2)  # 一个词元的当作两个来排，再去掉第二个
    runs = _partition(  # 没盖的各篇与盖住的各篇，一次分完
        np.concatenate([full - num_noise, num_noise]),
        np.tile(num_spans, 2),
        np.tile(keys, 2),
        np.repeat([_KEPT, _NOISE], len(lengths)),
    )
    runs = runs.reshape(2, -1).T.ravel()  # 没盖的一段、盖住的一段，交替
    mask = np.repeat(np.tile([False, True], len(runs) // 2), runs)
    single = lengths == 1
    return np.delete(mask, np.cumsum(full)[single] - 1) if single.any() else mask


def replace_spans(
    documents: Ragged,
    noise: NDArray[np.bool_],
    sentinel_ids: NDArray[np.int64],
    *,
    final_sentinel: bool = False,
) -> Corruption:
    """相连的噪声是一段：输入里换成一个哨兵，目标里哨兵在前、这一段在后。

    Args:
        documents: D 篇原文；里面没有哨兵，整理器读样本时查过。
        noise: 盖住处为真，(N,) bool。
        sentinel_ids: 哨兵，按使用的次序，(S,) int64。
        final_sentinel: 目标末尾再写一个哨兵；一段也没有的文档总是写。

    Raises:
        ObjectiveError: 哨兵不够。
    """
    is_head = documents.run_heads(noise)  # (N,) 每段的第一个词元
    hidden_at = np.flatnonzero(noise)
    heads = is_head[hidden_at]  # 噪声里的第几个是段首
    first = np.flatnonzero(heads)
    num_hidden = documents.counts(hidden_at)  # (D,)
    runs = documents.counts(hidden_at[first])  # (D,) 每篇几段
    ended = (runs == 0) | final_sentinel
    require_sentinels(int((runs + ended).max(initial=0)), sentinel_ids)
    sentinels = sentinel_ids[Ragged(first, runs).places]  # 每篇都从第一个用起

    # 一段在输入里只占一格：减去它之前的噪声，加上它之前的各段
    inputs = documents.values[np.flatnonzero(is_head | ~noise)]
    inputs[hidden_at[first] - first + np.arange(len(first))] = sentinels

    # 一个词元在目标里的位置 = 它是第几个噪声 + 到它为止几段 + 前面几篇的结尾哨兵
    lengths = num_hidden + runs + ended  # (D,) 目标的长度
    before = np.repeat(np.cumsum(ended) - ended, num_hidden)
    at = np.arange(len(hidden_at)) + np.cumsum(heads) + before
    targets = np.empty(int(lengths.sum()), np.int64)
    origin = np.full(len(targets), -1)
    targets[at] = documents.values[hidden_at]
    origin[at] = hidden_at - np.repeat(documents.starts, num_hidden)
    targets[at[first] - 1] = sentinels
    targets[(np.cumsum(lengths) - 1)[ended]] = sentinel_ids[runs[ended]]
    return Corruption(
        inputs=Ragged(inputs, documents.lengths - num_hidden + runs),
        targets=Ragged(targets, lengths),
        origin=origin,
        hidden=origin >= 0,
    )


def _partition(
    totals: NDArray[np.int64],
    parts: NDArray[np.int64],
    keys: NDArray[np.uint64],
    streams: NDArray[np.int64],
) -> NDArray[np.int64]:
    """把 `totals[d]` 分成 `parts[d]` 个正整数，一切分法机会相等；首尾相接，(ΣS,)。

    在 totals − 1 个缝里选 parts − 1 个下刀。
    """
    cuts = np.flatnonzero(choose_ragged(totals - 1, parts - 1, keys, streams))
    is_last = np.zeros(int(parts.sum()), np.bool_)
    is_last[np.cumsum(parts) - 1] = True
    ends = np.empty(len(is_last), np.int64)  # 每份到此为止
    ends[is_last] = np.cumsum(totals)
    # 前面每篇少一个缝，缝又在下一份之前：第 d 篇的缝要加 d + 1
    ends[~is_last] = cuts + 1 + np.repeat(np.arange(len(parts)), parts - 1)
    sizes = ends.copy()
    sizes[1:] -= ends[:-1]
    return sizes
