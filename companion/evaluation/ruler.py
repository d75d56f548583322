"""尺子：数出来的字频，猜同样的评估目标，要付几个比特。

模型的每字比特数单看没有大小。拿同一个词表、同样的目标，让四种只会数数的办法各答一遍，刻
度就有了：

    均匀     每个词元一样可能                         恰是 log₂ V
    一元     只看词元自己多常见
    二元     看左边一个词元
    三元     看左边两个词元

二元与三元照修正的 Kneser–Ney 平滑（Chen 与 Goodman，1999，§3）。每一阶都是

    p(w | 上文) = max(0, c(上文 w) − D) / c(上文 ·) + γ(上文) · p(w | 短一个词元的上文)

    D = D₁、D₂、D₃₊，按 c 是 1、2、≥3 取；γ 补足到总和为 1
    最高一阶的 c 是次数，低阶的 c 是左边接过几种词元：“曹”字后面才常见的“操”，
    换了上文就不常见

一元之下是均匀。没见过的上文，直接看短一个的。连三元都比不过的模型，学到的还不如一张字频
表；它往后的“进步”说明不了什么。

看得见什么，两边并不全同：尺子只看左边，看的是原文，遮住的左邻也看得见；掩码模型两边都看，
但看不见遮住的。

形状字母：N 目标数，T 词元，K 一种长度的片段有几种，V 词表。
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from companion.batch import IGNORE_INDEX
from companion.corpus.document import Document
from companion.corpus.documents import sides_of
from companion.corpus.tokens import tokenize_documents
from companion.errors import EvaluationError
from companion.evaluation.chrf import chrf
from companion.evaluation.targets import (
    Documents,
    FrozenTargets,
    temporary_folder,
)
from companion.objectives import get_objective

ORDERS = {"unigram": 1, "bigram": 2, "trigram": 3}
NAMES = {
    "uniform": "均匀",
    "unigram": "一元",
    "bigram": "二元",
    "trigram": "三元",
    "copy_chrf": "照抄源侧的 chrF",
}
"""JSON 里的名字 → 给人看的；前四个由粗到细。"""
FALLBACK = (0.5, 1.0, 1.5)
"""文字太少、定不出折扣时用的（同 KenLM）。"""

Codes = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Level:
    """一阶：见过的片段与见过的上文，都按编码排好序。"""

    grams: Codes
    """(K,)，上文的编码 × V + 词元。"""
    shares: Floats
    """打过折扣的相对次数，(K,)。"""
    contexts: Codes
    """(C,)。"""
    left_over: Floats
    """γ：分给低一阶的份额，(C,)。"""

    @classmethod
    def of(cls, grams: Codes, counts: Codes, vocab_size: int) -> "Level":
        """由片段（不重复，已排序）与次数。"""
        contexts, first = np.unique(grams // vocab_size, return_index=True)
        sizes = np.diff(first, append=len(grams))
        taken = np.array([0.0, *discounts(counts)])[np.minimum(counts, 3)]
        totals = np.add.reduceat(counts, first)
        return cls(
            grams,
            (counts - taken) / np.repeat(totals, sizes),
            contexts,
            np.add.reduceat(taken, first) / totals,
        )

    def probability(
        self, context: Codes, words: Codes, below: Floats, v: int
    ) -> Floats:
        """(N,)：各个词元在各自上文之后的概率；`below` 是低一阶的。"""
        seen = look_up(self.grams, self.shares, context * v + words, 0.0)
        return seen + look_up(self.contexts, self.left_over, context, 1.0) * below


@dataclass(frozen=True)
class Ruler:
    """数好了的一份文字。"""

    vocab_size: int
    models: Mapping[str, Sequence[Level]]
    """一元、二元、三元各自的几阶，由低到高。"""

    def probabilities(self, left: Codes, words: Codes) -> dict[str, Floats]:
        """各种办法给各个目标的概率，(N,)。

        Args:
            left: 左边的两个词元，由远到近，(N, 2)；没有的为 −1。
            words: 目标，(N,)。
        """
        v = self.vocab_size
        uniform = np.full(len(words), 1 / v)
        far, near = left.T
        # 没有上文的，编码是 −1，表里查不到，就看低一阶的
        contexts = [
            np.zeros_like(near),
            near,
            np.where(np.minimum(far, near) < 0, -1, far * v + near),
        ]
        found = {"uniform": uniform}
        for name, levels in self.models.items():
            below = uniform
            for level, context in zip(levels, contexts, strict=False):
                below = level.probability(context, words, below, v)
            found[name] = below
        return found


def fit_ruler(tokens: Codes, lengths: Codes, vocab_size: int) -> Ruler:
    """数一份文字。

    Args:
        tokens: 各文档的词元首尾相接，(T,)，在 [0, V) 之内。
        lengths: 每篇文档的词元数，(D,)；片段不跨文档。
        vocab_size: V，小于 200 万（三个词元的编码要放进 int64）。

    Raises:
        EvaluationError: 一个词元也没有。
    """
    if not len(tokens):
        raise EvaluationError(
            found="拟合尺子的文字里没有一个词元",
            expected="几万字以上的文字，与模型读过的同类",
            remedy="换一份文字",
        )
    words = np.asarray(tokens, np.int64)
    place = np.arange(len(words)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    codes, raw = words, [np.unique(words, return_counts=True)]
    for order in (2, 3):
        codes = codes[:-1] * vocab_size + words[order - 1 :]
        raw.append(
            np.unique(codes[place[order - 1 :] >= order - 1], return_counts=True)
        )
    # 低阶：各片段左边接过几种词元，由长一个的片段（去掉最左边的）数出
    lower = [
        np.unique(longer % vocab_size**order, return_counts=True)
        for order, (longer, _) in enumerate(raw[1:], start=1)
    ]
    models = {
        name: [Level.of(*pair, vocab_size) for pair in [*lower[: n - 1], raw[n - 1]]]
        for name, n in ORDERS.items()
    }
    return Ruler(vocab_size, models)


def discounts(counts: Codes) -> tuple[float, float, float]:
    """D₁、D₂、D₃₊；由次数恰为 1、2、3、4 的片段各有几种定出。"""
    n1, n2, n3, n4 = (int((counts == k).sum()) for k in (1, 2, 3, 4))
    if not (n1 and n2 and n3):
        return FALLBACK
    y = n1 / (n1 + 2 * n2)
    found = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
    inside = all(0 <= d <= k for k, d in enumerate(found, start=1))
    return found if inside else FALLBACK


def measure(
    targets: FrozenTargets,
    tokenizer: Any,
    text: Documents,
    *,
    pairs: Sequence[Document] = (),
    cache_dir: str | Path | None = None,
) -> dict[str, float]:
    """尺子在一份冻结的目标上的刻度，与模型的每字比特数直接相比。

    Args:
        targets: 冻结的目标。
        tokenizer: 定下评估目标的那个分词器。
        text: 拟合用的文字；句对的两侧都数。不要用留出集自己。
        pairs: 留出集的句对；给了就另量“照抄源侧”。
        cache_dir: 分词的缓存。

    Returns:
        `uniform`、`unigram`、`bigram`、`trigram`：每字比特数；给了句对时另有
        `copy_chrf`：拿源侧冒充译文的 chrF，0 到 100。

    Raises:
        EvaluationError: 目标不是词元（`replaced_token` 判真假），或文字是空的。
    """
    if get_objective(targets.objective).discriminator:
        raise EvaluationError(
            found=f"{targets.objective} 考的是真假，不是哪个词元",
            expected="目标是词元的训练目标",
            remedy="去掉 --ruler；总答“原文”的准确率已列在成绩里",
        )
    every = text() if callable(text) else text
    sides = [
        side
        for document in every
        for side in (sides_of(document) if document.target else (document,))
    ]
    with temporary_folder(cache_dir) as folder:
        store = tokenize_documents(sides, tokenizer, cache_dir=folder)
        ruler = fit_ruler(np.asarray(store.ids), store.lengths, len(tokenizer))
    chosen = [row.labels != IGNORE_INDEX for row in targets.rows]
    rows = list(zip(targets.rows, chosen, strict=True))
    left = np.concatenate([row.left[at].numpy() for row, at in rows])
    words = np.concatenate([row.labels[at].numpy() for row, at in rows])
    weights = np.concatenate([np.full(int(at.sum()), row.weight) for row, at in rows])
    weights /= targets.draws
    scale = {
        name: -float(np.log2(p) @ weights) / max(1, targets.num_chars)
        for name, p in ruler.probabilities(left, words).items()
    }
    if pairs:
        copied = [document.text for document in pairs]
        scale["copy_chrf"] = chrf(copied, [each.target or "" for each in pairs])
    return scale


def look_up(keys: Codes, values: Floats, wanted: Codes, missing: float) -> Floats:
    """排好序的表里逐个查，(N,)；没有的为 `missing`。"""
    if not len(keys):  # 一个字一篇，就没有两个字的片段
        return np.full(len(wanted), missing)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], missing)
