"""UniLM：一个 BERT，三种掩码，同一个完形填空。

    损失 = − Σ_{t ∈ 选中} log p(x_t | 掩码许看的 x̃)    （Dong 等，2019，§2.3）

同一句话、同样的 [MASK]，换一张可见矩阵就换了一个任务（图 1）：

    双向          1/3   [CLS] S1 [SEP] S2 [SEP]   处处可见
    序列到序列     1/3   [CLS] S1 [SEP] S2 [SEP]   S1 互相可见，S2 看 S1 与自己的左边
    从左到右       1/6   [CLS] S  [SEP]            看自己与左边
    从右到左       1/6   [CLS] S  [SEP]            看自己与右边

四种都是填空：[MASK] 在自己的位置上预测，标签不移位。选中 15%（个数恰好），80% 换成
[MASK]、10% 随机、10% 保留；每挑一次，80% 只遮一个词元，20% 遮相连的两个或三个（§2.4）。

论文没有发布预训练的代码，这里定下几件它没有写明的事：

- 任务**逐行**抽，不逐批抽：每一步的梯度里四种任务都有；一行抽到什么只由（种子，轮次，
  样本编号）决定，与同谁一批、几个进程无关。一行装几篇文档时，各篇同一任务，各自切分。
- 两段由一篇文档在正文的词元之间均匀切开，中间插一个 [SEP]；所以一行会长一个词元。
- 不做下一句预测：两段总是相连的，检查点的语言建模头里也没有那个分类器。

片段编号（`token_type_ids`）：检查点有六种时照发布的代码，双向 0/1，从左到右 2，从右到左
3，序列到序列 4/5；普通的 BERT 只有两种，两段是 0/1，一段是 0。

微调（`fine_tuning`）只用序列到序列，只遮目标端，连同末尾的 [SEP]：模型由此学会停。个数
是 round(0.7 × 目标词元数)，词元数不含 [SEP]，候选含它（§2.5 与发布的代码）。

形状字母：B 行数，L 行长，T 一行的词元数。
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from companion.batch import IGNORE_INDEX
from companion.errors import ObjectiveError
from companion.objectives.attention import MaskKind
from companion.objectives.collate import Example, PrefixCollator, make_example
from companion.objectives.noise import choose_tokens, masking_budget, replace_tokens
from companion.objectives.rows import (
    Row,
    draw_below,
    ordinary_ids_of,
    require_probability,
    shuffled,
)

TASKS: dict[MaskKind, float] = {
    "bidirectional": 1 / 3,
    "seq2seq": 1 / 3,
    "left_to_right": 1 / 6,
    "right_to_left": 1 / 6,
}
"""四种任务与抽中的概率（Dong 等，2019，§2.3）。"""

SEGMENTS: dict[MaskKind, tuple[int, int]] = {
    "bidirectional": (0, 1),
    "seq2seq": (4, 5),
    "left_to_right": (2, 2),
    "right_to_left": (3, 3),
}
"""有六种片段编号的检查点：第一段与第二段。从右到左的 3 没有公布，按空缺推定。"""


def choose_ngrams(
    candidates: NDArray[np.bool_],
    budget: int,
    ngram_probability: float,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """挑词元，有时一次挑相连的两三个，共 `budget` 个。

    起点的次序随机；每个起点以 `1 − ngram_probability` 只挑自己，否则挑两个或三个（各
    半），遇到非候选处即止。挑满为止，最后一次可能挑不全。

    Args:
        candidates: 候选处为真，(T,) bool。
        budget: 要挑的个数；超过候选数时全挑。
        ngram_probability: 一次挑相连几个的概率。
        rng: 随机数来源。

    Returns:
        挑中处为真，(T,) bool。
    """
    chosen = np.zeros_like(candidates)
    left = min(budget, int(candidates.sum()))
    places: list[int] = np.flatnonzero(candidates).tolist()
    for first in [places[n] for n in shuffled(len(places), rng)]:
        size = 1
        if rng.random() < ngram_probability:
            size = 2 + draw_below(2, rng)
        for place in range(first, min(first + size, len(candidates))):
            if left == 0 or not candidates[place]:
                break
            if not chosen[place]:
                chosen[place] = True
                left -= 1
    return chosen


@dataclass
class UnifiedLMCollator(PrefixCollator):
    """UniLM v1 的数据整理器，给 BERT 一类的掩码语言模型；可单独用在 `Trainer` 里。

    输出 `input_ids`、`labels`、`token_type_ids` (B, L) int64 与 `attention_mask`
    (B, 1, L, L) float32。样本带 `prefix_length` 时，源端照它划定（含 [CLS] 与中间的
    [SEP]，如 `tokenizer(源, 目标)` 的输出），不再插入 [SEP]。

    Raises:
        ObjectiveError: 分词器没有 [MASK] 或 [SEP]，概率越界，或见父类。
    """

    mlm_probability: float = 0.15
    """预训练时选中的比例；T 个词元选 max(1, round(0.15·T)) 个。"""
    ngram_probability: float = 0.2
    """一次遮相连两三个词元的概率；微调时总是一个。"""
    fine_tuning: bool = False
    """只用序列到序列，只遮目标端。"""
    target_mask_probability: float = 0.7
    """微调时遮住目标端的比例（§2.5；发布的各个方案都用 0.7，CoQA 用 0.5）。"""
    mask_replace_prob: float = 0.8
    random_replace_prob: float = 0.1
    type_vocab_size: int = 2
    """检查点有几种片段编号，抄自 `model.config`；不足两种时不给 `token_type_ids`。"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check()
        self._random_ids = ordinary_ids_of(self.tokenizer)

    def row_capacity(self, block_size: int, num_edges: int) -> int:
        """两段之间要插一个 [SEP]，原文少装一个词元。"""
        del num_edges
        return block_size - 1

    def example(self, row: Row) -> Example:
        """抽任务，分段，遮词元；一行几篇时，各篇同一任务，各自切分。"""
        rng = row.rng(self.seed)
        names = tuple(TASKS)
        bounds = np.cumsum(tuple(TASKS.values()))[:-1]
        task = names[int(np.searchsorted(bounds, rng.random(), side="right"))]
        if self.fine_tuning:
            task = "seq2seq"
        source, second, documents = self._segmented(row, task, rng)
        missing = source < 0  # 插入的 [SEP]
        ids = np.where(missing, self.tokenizer.sep_token_id, row.input_ids[source])
        candidates = ~(row.special[source] | missing)
        if self.fine_tuning:
            ending = self._endings(row, source)
            chosen = self._choose_targets(candidates, second, ending, documents, rng)
        else:
            budget = masking_budget(
                len(ids), int(candidates.sum()), self.mlm_probability
            )
            chosen = choose_ngrams(candidates, budget, self.ngram_probability, rng)
        inputs = replace_tokens(
            ids,
            chosen,
            mask_token_id=self.tokenizer.mask_token_id,
            random_ids=self._random_ids,
            mask_replace_prob=self.mask_replace_prob,
            random_replace_prob=self.random_replace_prob,
            rng=rng,
        )
        prefix = {"bidirectional": np.ones_like(second), "seq2seq": ~second}
        return make_example(
            inputs,
            np.where(chosen, ids, IGNORE_INDEX),
            origin=source,
            documents=documents,
            prefix=prefix.get(task, np.zeros_like(second)),
            reverse=task == "right_to_left",
            token_type_ids=self._segments(task, second),
        )

    def _segmented(
        self, row: Row, task: MaskKind, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
        """各位置取原行的第几个词元（插入的 [SEP] 为 −1），是不是第二段，属于第几篇。"""
        paired = task in ("bidirectional", "seq2seq")
        source: list[int] = []
        second: list[bool] = []
        owner: list[int] = []
        for document in row.documents:
            start, stop = document.start, document.stop
            cut = row.split(document, rng) if paired else stop
            places = list(range(start, cut))
            if paired and row.prefix_lengths is None and cut > start:
                places.append(-1)  # 归第一段
            source += [*places, *range(cut, stop)]
            second += [False] * len(places) + [True] * (stop - cut)
            owner += [document.number] * (len(places) + stop - cut)
        return np.array(source), np.array(second), np.array(owner)

    def _endings(self, row: Row, source: NDArray[np.int64]) -> NDArray[np.bool_]:
        """各篇末尾的 [SEP]。"""
        last = [
            document.right
            for document in row.documents
            if document.right < document.stop
        ]
        return np.isin(source, last)

    def _choose_targets(
        self,
        candidates: NDArray[np.bool_],
        target: NDArray[np.bool_],
        ending: NDArray[np.bool_],
        documents: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> NDArray[np.bool_]:
        """微调：各篇的目标端选 round(p·n) 个，末尾的 [SEP] 也是候选。"""
        chosen = np.zeros_like(candidates)
        for number in range(int(documents[-1]) + 1):
            inside = documents == number
            words = candidates & target & inside
            count = max(1, round(int(words.sum()) * self.target_mask_probability))
            chosen |= choose_tokens(words | (ending & inside), count, rng)
        return chosen

    def _segments(
        self, task: MaskKind, second: NDArray[np.bool_]
    ) -> NDArray[np.int64] | None:
        if self.type_vocab_size < 2:
            return None
        if self.type_vocab_size < 6:
            return second.astype(np.int64)
        source, target = SEGMENTS[task]
        return np.where(second, target, source)

    def _check(self) -> None:
        for name in (
            "mlm_probability",
            "ngram_probability",
            "target_mask_probability",
            "mask_replace_prob",
            "random_replace_prob",
        ):
            require_probability(name, getattr(self, name))
        require_probability(
            "mask_replace_prob + random_replace_prob",
            self.mask_replace_prob + self.random_replace_prob,
        )
        needed = {"mask_token": "[MASK]", "sep_token": "[SEP]"}
        missing = [
            f"{name}（{example}）"
            for name, example in needed.items()
            if getattr(self.tokenizer, f"{name}_id") is None
        ]
        if missing:
            raise ObjectiveError(
                found=f"分词器 {type(self.tokenizer).__name__} 没有 "
                f"{'、'.join(missing)}",
                expected="UniLM 的分词器两者都有，如 BERT 的",
                remedy="换一个 BERT 类的检查点；只有解码器的模型改用 prefix_lm",
            )
