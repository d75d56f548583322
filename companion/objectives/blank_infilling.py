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

形状字母：N 首尾相接的总长，D 文档数，S 片段数，M 挖去的词元数；一篇 T 个词元、n 个片段
的文档变成 T + 2n 个。
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from companion.batch import IGNORE_INDEX, Batch, Feature
from companion.errors import ObjectiveError
from companion.objectives.blanks import (
    BlankTokens,
    Spans,
    find_blank_tokens,
    sentence_spans,
    tail_spans,
    token_spans,
    truncated_poisson,
)
from companion.objectives.documents import Documents, row_sizes, split_rows
from companion.objectives.example import Example
from companion.objectives.explicit_mask import ExplicitMaskCollator
from companion.objectives.noise import require_probability
from companion.objectives.ragged import Ragged, uniform
from companion.objectives.sentences import sentence_end_ids

_LEVEL, _SHUFFLE = 1, 2
"""层次与片段次序的随机数流。"""


def blank_documents(
    documents: Documents,
    spans: Spans,
    order: NDArray[np.float64],
    masks: NDArray[np.int64],
    tokens: BlankTokens,
) -> list[Example]:
    """挖去给定的片段，造出 A、B 两部分。

    Args:
        documents: D 篇文档；首尾的特殊词元留在 A 部分。
        spans: S 个片段，同一篇的互不重叠。
        order: 片段在 B 部分的次序：同一篇之内由小到大，(S,)。
        masks: 各篇的空用哪个词元写，(D,)。
        tokens: 起止词元。

    Returns:
        每行一个样本；`position_ids` 是 (2, L)。
    """
    ids, owners = documents.ids, documents.owners
    starts = documents.lefts[spans.documents] + spans.starts  # (S,) 在总表里
    heads = np.zeros(len(ids), np.bool_)
    heads[starts] = True
    edges = np.zeros(len(ids) + 1, np.int64)
    np.add.at(edges, starts, 1)
    np.add.at(edges, starts + spans.lengths, -1)
    kept = (edges[:-1].cumsum() == 0) | heads  # A 部分：没挖的，与每个空的第一格
    order_by_document = np.lexsort((order, spans.documents))
    owner_a = owners[kept]
    count = len(documents.starts)
    size_a = np.bincount(owner_a, minlength=count)
    first_a = size_a.cumsum() - size_a
    level = kept.cumsum() - 1 - first_a[owners]  # (N,) 在 A 部分的第几个

    begin = starts[order_by_document]  # 各片段依 B 部分的次序
    sizes = spans.lengths[order_by_document] + 1  # 带上 [S]
    owner_b = np.repeat(spans.documents[order_by_document], sizes)
    size_b = np.bincount(owner_b, minlength=count)
    offset = np.arange(len(owner_b)) - np.repeat(sizes.cumsum() - sizes, sizes)
    source = np.repeat(begin, sizes) + offset  # (M + S,) 这一格要写的词元
    ending = offset == np.repeat(sizes, sizes) - 1
    safe = np.minimum(source, len(ids) - 1)

    sizes_out = size_a + size_b
    first_out = sizes_out.cumsum() - sizes_out
    at_a = first_out[owner_a] + level[kept]
    first_b = size_b.cumsum() - size_b
    at_b = first_out[owner_b] + size_a[owner_b]
    at_b += np.arange(len(owner_b)) - first_b[owner_b]

    def joined(part_a: Any, part_b: Any, dtype: Any = np.int64) -> NDArray[Any]:
        whole = np.empty(int(sizes_out.sum()), dtype)
        whole[at_a] = part_a
        whole[at_b] = part_b
        return whole

    places = documents.row_places
    written = np.where(offset == 0, tokens.start, ids[source - 1])
    columns = {
        "input_ids": joined(np.where(heads, masks[owners], ids)[kept], written),
        "labels": joined(IGNORE_INDEX, np.where(ending, tokens.end, ids[safe])),
        "origin": joined(
            np.where(heads, -1, places)[kept], np.where(ending, -1, places[safe])
        ),
        "hidden": joined(False, ~ending, np.bool_),
        "documents": joined(documents.inner[owner_a], documents.inner[owner_b]),
        "prefix": joined(True, False, np.bool_),
        "position_ids": np.stack(
            [
                joined(level[kept], np.repeat(level[begin], sizes)),
                joined(0, offset + 1),
            ]
        ),
    }
    rows = split_rows(columns, row_sizes(sizes_out, documents.rows))
    return [Example(**row) for row in rows]


@dataclass
class BlankInfillingCollator(ExplicitMaskCollator):
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
        none = np.empty(0, np.int64)
        self._ends, self._closers = (
            sentence_end_ids(self.tokenizer)
            if self.sentence_probability > 0
            else (none, none)
        )

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

    def corrupt(self, documents: Documents) -> list[Example]:
        """逐篇抽层次，挖空，打乱片段的次序。"""
        spans, masks = self.choose_spans(documents)
        rank = np.arange(len(spans.documents)) - np.searchsorted(
            spans.documents, spans.documents
        )
        lots = uniform(documents.keys, int(rank.max(initial=0)) + 1, _SHUFFLE)
        order = lots[spans.documents, rank]
        return blank_documents(documents, spans, order, masks, self.tokens)

    def hide(self, feature: Feature, noise: NDArray[np.bool_]) -> Example:
        """挖去指定的词元，相连的成一个词元级的空；填空题用，没有随机。

        Args:
            feature: 一个样本，只有一篇文档。
            noise: 要挖的，与不带首尾特殊词元的正文等长，bool。
        """
        edges = np.diff(np.pad(noise, 1).astype(np.int8))
        starts, stops = np.flatnonzero(edges > 0), np.flatnonzero(edges < 0)
        spans = Spans(np.zeros_like(starts), starts, stops - starts)
        order = np.arange(len(starts), dtype=np.float64)
        masks = np.array([self.tokens.mask])
        return blank_documents(self.read([feature]), spans, order, masks, self.tokens)[
            0
        ]

    def choose_spans(self, documents: Documents) -> tuple[Spans, NDArray[np.int64]]:
        """每篇的层次与片段。

        Returns:
            全部片段，与各篇的空用哪个词元写，(D,)。
        """
        lengths = documents.rights - documents.lefts
        given = documents.given >= 0
        lot = uniform(documents.keys, 1, _LEVEL)[:, 0]
        whole = ~given & (lot < self.document_probability)
        by_sentence = (lot < self.document_probability + self.sentence_probability) & (
            ~given & ~whole & (lengths > 0)
        )
        parts = [_given_spans(documents, np.flatnonzero(given))]
        chosen = np.flatnonzero(by_sentence)
        if len(chosen):
            bodies = Ragged.of(
                [
                    documents.ids[documents.lefts[d] : documents.rights[d]]
                    for d in chosen
                ]
            )
            spans = sentence_spans(
                bodies,
                documents.keys[chosen],
                density=self.noise_density,
                ends=self._ends,
                closers=self._closers,
            )
            by_sentence[:] = False
            by_sentence[chosen[spans.documents]] = True  # 只有一句的改为词元级
            parts.append(_renumbered(spans, chosen))
        chosen = np.flatnonzero(whole)
        tails = tail_spans(lengths[chosen], documents.keys[chosen])
        parts.append(_renumbered(tails, chosen))
        chosen = np.flatnonzero(~given & ~whole & ~by_sentence)
        tokens = token_spans(
            lengths[chosen],
            documents.keys[chosen],
            density=self.noise_density,
            mean_length=self.poisson_lambda,
        )
        parts.append(_renumbered(tokens, chosen))
        masks = np.where(by_sentence, self.tokens.sentence_mask, self.tokens.mask)
        ahead = self.tokens.document_mask
        if ahead < 0:  # 没有 [gMASK] 的分词器，给定前缀的文档用 [MASK]
            ahead = self.tokens.mask
        return _merged(parts), np.where(whole | given, ahead, masks)

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


def _given_spans(documents: Documents, chosen: NDArray[np.int64]) -> Spans:
    """样本给定了前缀：其余的正文是一个片段。"""
    starts = (np.maximum(documents.given, documents.lefts) - documents.lefts)[chosen]
    sizes = (documents.rights - documents.lefts)[chosen] - starts
    return Spans(chosen, starts, sizes)


def _renumbered(spans: Spans, numbers: NDArray[np.int64]) -> Spans:
    """在一部分文档里的编号 → 在全部文档里的编号。"""
    return Spans(numbers[spans.documents], spans.starts, spans.lengths)


def _merged(parts: Sequence[Spans]) -> Spans:
    documents = np.concatenate([part.documents for part in parts])
    starts = np.concatenate([part.starts for part in parts])
    order = np.lexsort((starts, documents))
    lengths = np.concatenate([part.lengths for part in parts])
    return Spans(documents[order], starts[order], lengths[order])
