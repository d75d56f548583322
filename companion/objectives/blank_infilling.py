"""GLM 填空：上文双向地读，挖去的片段逐个自回归地写。

    损失 = − Σ_片段 Σ_i log p(s_i | A 部分, 已写完的片段, s_<i)   （Du 等，2022，§2.1）

例（论文图 2；挖去 [x3] 与 [x5 x6]，片段的次序打乱成后者在先）：

                A 部分                  B 部分
    input_ids   x1  x2  [M] x4  [M] │ [S] x5  x6  [S] x3
    labels       −   −   −   −   −  │ x5  x6  [E] x3  [E]
    位置之一     1   2   3   4   5  │  5   5   5   3   3     在 A 部分的第几个
    位置之二     0   0   0   0   0  │  1   2   3   1   2     在片段里的第几个

（论文从 1 数起，这里第一行从 0 数起。）A 部分互相可见；B 部分看 A 与自己的左边，已写完
的片段也在左边；A 看不见 B。**标签与输入对齐，不移位**：[S] 处的输出就是片段的首个词元。

位置有两种带法（`position_rows`）：

- 2：两行都给，(B, 2, L)，给有两套位置嵌入的模型（原版的 GLM，`starter:glm`）。
- 1：只给第一行，(B, L)，给 transformers 自带的 `GlmForCausalLM`、Llama 等；片段内的
  次序由掩码的因果与 [S] 体现。重复的位置会让这些模型以为几个文档装在一行、把 B 部分逐个
  隔离，四维掩码压过这种猜测。它们的损失要自己移位，用库的 Trainer 时要设
  `shift_labels=True`。

与发布的代码不同：文档级的片段末尾也写 [E]（论文如此；代码不写），模型由此学会停。

遮哪些片段有三个层次（Du 等，2022，§2.1、§2.2），都先定预算 ⌊0.15·T⌋（至少 1），T 是正文
的词元数：

- 词元级：片段长度取自去掉零的泊松分布（λ = 3，只取 1 到 39，重新归一，均值 3.157），抽
  到总长够预算为止，最后一个不截短；片段互不相邻，摆法在全部摆法里均匀。
- 句级：整句整句地遮，句子次序随机，够预算为止；只有一句的文档改为词元级。
- 文档级：末尾的一整段，长度在 ⌈T/2⌉ 与 T − 1 之间均匀。

发布的代码（THUDM/GLM `blocklm_utils.py`）各片段的位置独立地抽再排序，相近的摆法略多；装
不下时整篇丢弃。这里均匀地摆，装不下的片段不遮，至少留一个词元不遮。

形状字母：T 一篇正文的词元数，n 片段数；破坏之后有 T + 2n 个（首尾的特殊词元另计）。
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from companion.batch import IGNORE_INDEX, Batch, Feature
from companion.errors import ObjectiveError
from companion.objectives.collate import Example, PrefixCollator, make_example
from companion.objectives.rows import (
    Document,
    Row,
    Runs,
    draw_below,
    require_probability,
    runs_of,
    shuffled,
)
from companion.objectives.sentences import SentenceMarks, sentence_marks

MAX_SPAN = 39
"""词元级片段至多多长（发布代码的 `max_block_length` 40，不含）。"""

START_NAMES = ("[sop]", "<sop>", "<|startofpiece|>")
"""片段开头的几种写法；词表里有它，就是用 GLM 的填空训练过的。"""

_NAMES = {
    "mask": ("[MASK]",),
    "sentence_mask": ("[sMASK]",),
    "document_mask": ("[gMASK]",),
    "start": START_NAMES,
    "end": ("[eop]", "<eop>", "<|endofpiece|>"),
}
"""各种空与起止词元的名字；GLM、ChatGLM、GLM-4 写法不一，取词表里有的第一个。"""


@dataclass(frozen=True)
class BlankTokens:
    """写空用的五个词元的编号；这个分词器没有、也用不着的为 −1。"""

    mask: int
    sentence_mask: int
    document_mask: int
    start: int
    """一个片段的开头，论文记作 [S]。"""
    end: int
    """一个片段的结尾，论文记作 [E]。"""


def find_blank_tokens(
    tokenizer: Any, *, sentences: bool = True, documents: bool = True
) -> BlankTokens:
    """在词表里找写空用的词元。

    Args:
        tokenizer: transformers 的分词器。
        sentences: 要不要句级的 [sMASK]。
        documents: 要不要文档级的 [gMASK]。

    Raises:
        ObjectiveError: 词表里缺要用的词元；消息逐个指出。
    """
    unused = {"sentence_mask": not sentences, "document_mask": not documents}
    found = {role: _find(tokenizer, names) for role, names in _NAMES.items()}
    if found["mask"] < 0 and tokenizer.mask_token_id is not None:
        found["mask"] = tokenizer.mask_token_id  # RoBERTa 的 <mask>
    missing = [
        _NAMES[role][0]
        for role, number in found.items()
        if number < 0 and not unused.get(role)
    ]
    if missing:
        raise ObjectiveError(
            found=f"分词器 {type(tokenizer).__name__} 没有 {'、'.join(missing)}",
            expected="GLM 填空的每个特殊词元在词表里各占一个编号",
            remedy="用 starter:glm；或先 tokenizer.add_special_tokens("
            f'{{"extra_special_tokens": {missing!r}}})，'
            "再 model.resize_token_embeddings(len(tokenizer))；"
            "只缺 [sMASK]、[gMASK] 时也可以把 sentence_probability、"
            "document_probability 设为 0（评估目标三级都有，所以另加 eval=false）",
        )
    return BlankTokens(**found)


def _find(tokenizer: Any, names: tuple[str, ...]) -> int:
    for name in names:
        number = tokenizer.convert_tokens_to_ids(name)
        if number is not None and tokenizer.convert_ids_to_tokens(number) == name:
            return int(number)
    return -1


def truncated_poisson(mean: float) -> NDArray[np.float64]:
    """去掉零、截到 39 的泊松分布：P(1), …, P(39)，(39,) float64。

    >>> chances = truncated_poisson(3.0)
    >>> round(float(chances[0]), 3), round(float(chances @ np.arange(1, 40)), 3)
    (0.157, 3.157)
    """
    sizes = np.arange(1, MAX_SPAN + 1)
    logs = sizes * math.log(mean) - np.array([math.lgamma(k + 1) for k in sizes])
    weights = np.exp(logs - logs.max())
    return weights / weights.sum()


@cache
def _length_bounds(mean: float) -> NDArray[np.float64]:
    """段长的累积概率；一个整理器只算一次，不必篇篇重算。"""
    return truncated_poisson(mean).cumsum()


def token_spans(
    length: int, rng: np.random.Generator, *, density: float, mean_length: float
) -> Runs:
    """词元级的片段：互不相邻，总长刚够预算。

    Args:
        length: 正文的词元数；为 0 的没有片段。
        rng: 随机数来源。
        density: 预算占正文的比例。
        mean_length: 泊松分布的 λ。
    """
    if length == 0:
        return []
    bounds = _length_bounds(mean_length)
    budget = max(1, int(density * length))
    sizes: list[int] = []
    while sum(sizes) < budget:
        size = 1 + int(np.searchsorted(bounds, rng.random(), side="right"))
        size = min(size, MAX_SPAN, max(length - 1, 1))  # 末项可能略小于 1
        if sum(sizes) + size + len(sizes) > length:  # 片段之间各隔一个
            break
        sizes.append(size)
    # 刚够预算的那一段偏长；不打乱，它就总在最右边
    sizes = [sizes[n] for n in shuffled(len(sizes), rng)]
    # 不遮的词元有 T − M 个，它们之间与两头的缝里各放至多一段
    gaps = length - sum(sizes) + 1
    spans: Runs = []
    before = 0
    for gap, size in zip(
        sorted(shuffled(gaps, rng)[: len(sizes)]),
        sizes,
        strict=True,
    ):
        spans.append((gap + before, gap + before + size))
        before += size
    return spans


def sentence_spans(
    tokens: NDArray[np.int64],
    marks: SentenceMarks,
    rng: np.random.Generator,
    *,
    density: float,
) -> Runs:
    """句级的片段：整句，总长刚够预算，至少留一句；只有一句的文档没有片段。

    Args:
        tokens: 正文，(T,)，至少一个词元。
        marks: 句末词元，见 `companion.objectives.sentences`。
        rng: 随机数来源。
        density: 预算占正文的比例。
    """
    lengths = marks.split(tokens.tolist())
    ends = np.cumsum(lengths).tolist()
    budget = max(1, int(density * len(tokens)))
    chosen: Runs = []
    total = 0
    for which in shuffled(len(lengths), rng)[:-1]:
        if total >= budget:
            break
        chosen.append((ends[which] - lengths[which], ends[which]))
        total += lengths[which]
    return sorted(chosen)


def tail_span(length: int, rng: np.random.Generator) -> Runs:
    """文档级的片段：末尾的一段，长度在 ⌈T/2⌉ 与 T − 1 之间均匀。

    只有一个词元的遮它自己，没有词元的没有片段。
    """
    least = max(1, min(-(-length // 2), length - 1))
    size = least + draw_below(max(least, length - 1) - least + 1, rng)
    return [(length - size, length)] if length else []


def blank_out(
    ids: NDArray[np.int64],
    blanks: Runs,
    order: Sequence[int],
    mask_id: int,
    tokens: BlankTokens,
) -> dict[str, NDArray[Any]]:
    """挖去给定的片段，造出 A、B 两部分。

    Args:
        ids: 一篇文档；首尾的特殊词元留在 A 部分。
        blanks: n 个片段，从左到右，互不重叠。
        order: B 部分里依次写第几个片段。
        mask_id: 空用哪个词元写。
        tokens: 起止词元。

    Returns:
        `Example` 的各项，各 (L,)；`position_ids` 是 (2, L)，`origin` 指 `ids` 的位置。
    """
    given: list[int] = []  # A 部分的词元
    source: list[int] = []  # 它们是原文的第几个
    places: list[int] = []  # 各个空在 A 部分的第几个
    done = 0
    for start, stop in blanks:
        given += [*ids[done:start].tolist(), mask_id]
        source += [*range(done, start), -1]
        places.append(len(given) - 1)
        done = stop
    given += ids[done:].tolist()
    source += range(done, len(ids))
    num_given = len(given)

    labels = [IGNORE_INDEX] * num_given
    level, inside = list(range(num_given)), [0] * num_given
    for which in order:
        start, stop = blanks[which]
        span: list[int] = ids[start:stop].tolist()
        given += [tokens.start, *span]
        labels += [*span, tokens.end]
        source += [*range(start, stop), -1]
        level += [places[which]] * (len(span) + 1)
        inside += range(1, len(span) + 2)
    origin = np.array(source, np.int64)
    in_part_a = np.arange(len(given)) < num_given
    return {
        "input_ids": np.array(given, np.int64),
        "labels": np.array(labels, np.int64),
        "origin": origin,
        "hidden": ~in_part_a & (origin >= 0),
        "prefix": in_part_a,
        "position_ids": np.array([level, inside], np.int64),
    }


@dataclass
class BlankInfillingCollator(PrefixCollator):
    """GLM 填空的数据整理器；可单独用在 `transformers.Trainer` 里。

    输出 `input_ids`、`labels` (B, L)，`position_ids` (B, 2, L) 或 (B, L)，都是
    int64，与 `attention_mask` (B, 1, L, L) float32。标签与输入对齐。

    每篇文档各抽一个层次；样本带 `prefix_length` 时，前缀之后的正文是一个文档级的空（条
    件生成的微调）。缺省的三种比例照发布的中文大模型（`glm-large-chinese`）。

    Raises:
        ObjectiveError: 分词器缺写空的词元，概率越界，或见父类。
    """

    sentence_probability: float = 0.3
    """一篇文档用句级的概率。"""
    document_probability: float = 0.3
    """一篇文档用文档级的概率；其余是词元级。"""
    noise_density: float = 0.15
    """词元级与句级遮住的比例。"""
    poisson_lambda: float = 3.0
    """词元级片段长度的泊松均值（去掉零之前）。"""
    position_rows: Literal[1, 2] = 2
    shift_labels: bool = False
    """批量另带一份 `shift_labels`：transformers 的因果模型见了它就不再移位。"""

    tokens: BlankTokens = field(init=False, repr=False)
    """这个分词器写空用的词元。"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check()
        self.tokens = find_blank_tokens(
            self.tokenizer,
            sentences=self.sentence_probability > 0,
            documents=self.document_probability > 0,
        )
        if self.sentence_probability > 0:
            self._marks = sentence_marks(self.tokenizer)

    def row_capacity(self, block_size: int, num_edges: int) -> int:
        """每个片段多占两格：465 个词元的一行平均长成 512 个，偶有长出几个的。

        片段有几个是抽的，不像 T5 由长度定死；要从不长出，每行得多空出一成半。长出的不占
        位置：两行位置都从不超过原文的长度，只多花一点内存。行内装了许多短文档时，每篇至
        少一个片段，也会长出一些。
        """
        del num_edges
        mean = float(truncated_poisson(self.poisson_lambda) @ np.arange(1, 40))
        growth = 1 + 2 * self.noise_density / mean
        return int((block_size - 2) / growth)  # 末一段不截短，片段平均多出不到一个

    def example(self, row: Row) -> Example:
        """逐篇抽层次，挖空，打乱片段的次序。"""
        parts: list[tuple[Document, dict[str, NDArray[Any]]]] = []
        for document in row.documents:
            rng = row.rng(self.seed, document.number)
            blanks, mask_id = self.choose_blanks(row, document, rng)
            order = shuffled(len(blanks), rng)
            parts.append(
                (document, self._blanked(row, document, blanks, order, mask_id))
            )
        return self._joined(parts)

    def hide(self, feature: Feature, noise: NDArray[np.bool_]) -> Example:
        """挖去指定的词元，相连的成一个词元级的空；填空题用，没有随机。

        Args:
            feature: 一个样本，只有一篇文档。
            noise: 要挖的，与不带首尾特殊词元的正文等长，bool。
        """
        row = self.read(feature)
        [document] = row.documents
        blanks = runs_of(noise)
        order = range(len(blanks))
        blanked = self._blanked(row, document, blanks, order, self.tokens.mask)
        return self._joined([(document, blanked)])

    def choose_blanks(
        self, row: Row, document: Document, rng: np.random.Generator
    ) -> tuple[Runs, int]:
        """一篇的片段（从正文的第一个词元数起），与空用哪个词元写。"""
        ahead = self.tokens.document_mask
        if ahead < 0:  # 没有 [gMASK] 的分词器，给定前缀的文档用 [MASK]
            ahead = self.tokens.mask
        length = document.length
        if row.prefix_lengths is not None:
            split = max(row.split(document, rng), document.left)
            return [(split - document.left, length)], ahead
        lot = rng.random()
        if lot < self.document_probability:
            return tail_span(length, rng), ahead
        if lot < self.document_probability + self.sentence_probability and length:
            body = row.body(document)
            blanks = sentence_spans(body, self._marks, rng, density=self.noise_density)
            if blanks:  # 只有一句的改为词元级
                return blanks, self.tokens.sentence_mask
        blanks = token_spans(
            length, rng, density=self.noise_density, mean_length=self.poisson_lambda
        )
        return blanks, self.tokens.mask

    def _blanked(
        self,
        row: Row,
        document: Document,
        blanks: Runs,
        order: Sequence[int],
        mask_id: int,
    ) -> dict[str, NDArray[Any]]:
        shift = document.left - document.start
        return blank_out(
            row.input_ids[document.start : document.stop],
            [(start + shift, stop + shift) for start, stop in blanks],
            order,
            mask_id,
            self.tokens,
        )

    @staticmethod
    def _joined(
        parts: Sequence[tuple[Document, dict[str, NDArray[Any]]]],
    ) -> Example:
        """各篇接成一行。"""
        for document, part in parts:
            origin = part["origin"]
            part["origin"] = np.where(origin < 0, -1, origin + document.start)
            part["documents"] = np.full(len(origin), document.number)
        columns = {
            name: np.concatenate([part[name] for _, part in parts], axis=-1)
            for name in parts[0][1]
        }
        return make_example(columns.pop("input_ids"), columns.pop("labels"), **columns)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """补齐并配上四维掩码；只要一行位置时去掉第二行。"""
        batch = super().collate(examples)
        if self.position_rows == 1:
            batch["position_ids"] = batch["position_ids"][:, 0]
        if self.shift_labels:
            batch["shift_labels"] = batch["labels"]
        return batch

    def _check(self) -> None:
        for name in ("sentence_probability", "document_probability", "noise_density"):
            require_probability(name, getattr(self, name))
        require_probability(
            "sentence_probability + document_probability",
            self.sentence_probability + self.document_probability,
        )
        if self.poisson_lambda <= 0:
            raise ObjectiveError(
                found=f"poisson_lambda = {self.poisson_lambda}",
                expected="片段长度的泊松均值大于 0",
                remedy="用论文的 poisson_lambda=3",
            )
        if self.position_rows not in (1, 2):
            raise ObjectiveError(
                found=f"position_rows = {self.position_rows!r}",
                expected="1（transformers 自带的模型）或 2（有两套位置嵌入的 GLM）",
                remedy="照模型选其一",
            )
