"""伪对数似然（pseudo-log-likelihood）：掩码语言模型给一句话打分。

    PLL(x) = Σ_t log p(x_t | x 去掉 t)        （Salazar 等，2020，§2）

一次只遮一个词元，其余全露着，遮遍每一个词元，对数概率相加；[CLS]、[SEP] 与 [UNK] 不计。
T 个词元要前向 T 次，所以只用于少量句子；整份语料用 `evaluate` 的冻结掩码。

一个词拆成几个词元时，露着的后半截会泄露前半截，分数虚高。`within_word_l2r` 连同本词
后面的词元一起遮（Kauf 与 Ivanova，2023）。逐字的中文词表没有这种拆分，两者本来相同；
给了切词器，它就把“词”当作整体，字级模型与词级模型因此更可比。

报告的是每字比特数：− PLL / (ln 2 · 字数)，越低越好。

形状字母：N 被考的词元数，T 一行的词元数，S 句子数。
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from companion.batch import IGNORE_INDEX, Feature
from companion.checkpoints.running import special_edges
from companion.corpus.document import Document
from companion.corpus.packing import BlockDataset, plan_packing
from companion.corpus.tokens import tokenize_documents
from companion.corpus.words import Segmenter, dictionary_segmenter
from companion.errors import EvaluationError
from companion.evaluation.scoring import BATCH_TOKENS, exam_block_size, row_losses
from companion.evaluation.targets import TargetRow, left_of
from companion.inference.reading import require_masked
from companion.losses.parts import WordLoss, word_model
from companion.objectives import get_objective
from companion.objectives.collate import Example


@dataclass(frozen=True)
class PseudoLikelihood:
    """一组句子的伪对数似然。"""

    bits_per_char: float
    nats: NDArray[np.float64]
    """每句的 −PLL，奈特，(S,)。"""
    chars: NDArray[np.int64]
    """每句被考的字数，(S,)。"""
    num_targets: int


def pseudo_log_likelihood(
    checkpoint: Any,
    texts: Sequence[str],
    *,
    within_word_l2r: bool = False,
    segmenter: Segmenter | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> PseudoLikelihood:
    """一次遮一个词元，给每句话打分。

    Args:
        checkpoint: 掩码语言模型的检查点。
        texts: S 句话；比模型一行还长的切成几片，各片只看自己。
        within_word_l2r: 连同本词后面的词元一起遮。
        segmenter: 什么是词；缺省一个汉字一个词、一串西文一个词。
        batch_tokens: 一批至多多少词元；只影响速度。

    Raises:
        ModelError: 不是掩码语言模型。
        EvaluationError: 一个可考的词元也没有。
        CorpusError: `texts` 是空的。
    """
    require_masked(checkpoint)
    tokenizer = checkpoint.tokenizer
    edges = special_edges(tokenizer)
    documents = [Document(text, str(n), "") for n, text in enumerate(texts)]
    words = None
    if within_word_l2r:
        words = segmenter or dictionary_segmenter(())
    nats = np.zeros(len(documents), np.float64)
    chars = np.zeros(len(documents), np.int64)
    num_targets = 0
    store = tokenize_documents(documents, tokenizer, segmenter=words)
    plan = plan_packing(
        store.lengths,
        exam_block_size(checkpoint.model, None),
        pack=False,
        overhead_per_piece=len(edges.prefix) + len(edges.suffix),
    )
    dataset = BlockDataset(
        store, plan, prefix_ids=edges.prefix, suffix_ids=edges.suffix
    )
    collate = get_objective("masked_lm").make_collator(tokenizer).collate
    for number, feature in enumerate(dataset):
        document = plan[number][0].document
        rows = one_mask_rows(feature, tokenizer, document)
        losses, _ = row_losses(
            word_model(checkpoint.model),
            rows,
            collate,
            WordLoss(),
            batch_tokens=batch_tokens,
        )
        nats[document] += losses.sum()
        chars[document] += sum(
            int(row.num_chars[row.labels != IGNORE_INDEX].sum()) for row in rows
        )
        num_targets += len(rows)
    if chars.sum() == 0:
        raise EvaluationError(
            found="这些句子里没有一个可考的词元",
            expected="至少一个不是 [UNK] 的词元",
            remedy="换几句话，或换一个认得这些字的分词器",
        )
    bits = float(nats.sum()) / math.log(2) / int(chars.sum())
    return PseudoLikelihood(bits, nats, chars, num_targets)


def one_mask_rows(feature: Feature, tokenizer: Any, document: int) -> list[TargetRow]:
    """一行变成 N 行，每行考一个词元。

    样本带 `word_ids` 时，本词之内、目标之后的词元也遮住。
    """
    ids = torch.from_numpy(feature["input_ids"])  # (T,)
    hidden = torch.from_numpy(
        ~feature["special_tokens_mask"]
        & ~np.isin(feature["input_ids"], sorted(tokenizer.all_special_ids))
    )
    targets = hidden.nonzero()[:, 0]  # (N,)
    at = torch.arange(len(ids))
    masked: Tensor = at == targets[:, None]  # (N, T)
    if "word_ids" in feature:
        words = torch.from_numpy(feature["word_ids"])
        same_word = (words == words[targets][:, None]) & (words >= 0)
        masked = masked | (same_word & (at > targets[:, None]))
    inputs = torch.where(masked, tokenizer.mask_token_id, ids)  # (N, T)
    labels = torch.where(at == targets[:, None], ids, IGNORE_INDEX)
    num_chars = torch.from_numpy(feature["num_chars"])
    documents = torch.zeros_like(ids)
    return [
        TargetRow(
            Example(
                input_ids=row,
                labels=label,
                origin=at,
                hidden=label != IGNORE_INDEX,
                documents=documents,
            ),
            label,
            num_chars,
            num_chars.cumsum(0) - num_chars,
            document,
            left_of(ids, feature["special_tokens_mask"]),
        )
        for row, label in zip(inputs, labels, strict=True)
    ]
