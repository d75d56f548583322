"""把整理器多跑几遍，数一数它究竟遮了什么。

形状字母：T 一行的词元数。
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from companion.batch import IGNORE_INDEX, Feature
from companion.errors import ObjectiveError
from companion.inference.filling import MaskedText
from companion.notebook.tables import Table, fixed
from companion.objectives import get_objective
from companion.objectives.masked_lm import MaskedLMCollator
from companion.show import _feature as feature_of


def mask_by_collator(text: str, collator: MaskedLMCollator) -> MaskedText:
    """让整理器来遮，还原成文字：训练时模型看到的题目。

    Args:
        text: 原文；分词器须一字一词元。
        collator: 取 `mask_replace_prob=1.0, random_replace_prob=0.0` 的，目标才都是
            [MASK]。

    Returns:
        遮过的文字与被遮的字，按出现的次序。
    """
    tokenizer = collator.tokenizer
    feature = feature_for(text, collator)
    batch = collator([feature])
    inputs, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    special = feature["special_tokens_mask"].tolist()
    kept = [i for i, edge in zip(inputs, special, strict=True) if not edge]
    answers = [i for i in labels if i != IGNORE_INDEX]
    return MaskedText(
        "".join(tokenizer.convert_ids_to_tokens(kept)),
        tokenizer.convert_ids_to_tokens(answers),
    )


def masked_counts(text: str, collators: Mapping[str, Any], draws: int = 300) -> Table:
    """同一句话遮 `draws` 遍，数每遍选中几个词元。

    Args:
        text: 一句话。
        collators: 名字 → 整理器，我们的或 transformers 的。
        draws: 遮几遍。

    Returns:
        一个整理器一行，一种个数一列，写出占几成。
    """
    _require_draws(draws)
    tallies = {
        name: Counter(_selected(text, collator, draws))
        for name, collator in collators.items()
    }
    counts = sorted({count for tally in tallies.values() for count in tally})
    rows = [
        [name, *(fixed(tally[count] / draws) for count in counts)]
        for name, tally in tallies.items()
    ]
    return Table(["整理器", *(f"选中 {count} 个" for count in counts)], rows)


def noise_shares(text: str, collator: MaskedLMCollator, draws: int = 100) -> Table:
    """选中的词元里，换成掩码、换成别的、原样保留的各占多少。

    Args:
        text: 一段长些的文字。
        collator: 掩码语言建模的整理器。
        draws: 遮几遍，每遍是另一轮。
    """
    _require_draws(draws)
    feature = feature_for(text, collator)
    mask_id = collator.tokenizer.mask_token_id
    num_tokens = masked = kept = chosen = 0
    for epoch in range(draws):
        batch = collator([{**feature, "epoch": epoch}])
        inputs, labels = batch["input_ids"][0], batch["labels"][0]  # (T,)
        targets = labels != IGNORE_INDEX
        num_tokens += len(labels)
        chosen += int(targets.sum())
        masked += int((targets & (inputs == mask_id)).sum())
        kept += int((targets & (inputs == labels)).sum())
    rows = [
        ["选中的占全部词元", fixed(chosen / num_tokens)],
        ["其中换成 [MASK]", fixed(masked / chosen)],
        ["其中换成别的词元", fixed((chosen - masked - kept) / chosen)],
        ["其中原样保留", fixed(kept / chosen)],
    ]
    return Table(["", "比例"], rows)


def _selected(text: str, collator: Any, draws: int) -> list[int]:
    """每遍选中的个数，(draws,)。"""
    if isinstance(collator, MaskedLMCollator):
        own = feature_for(text, collator)
        features = [{**own, "epoch": epoch} for epoch in range(draws)]
    else:  # 库的整理器：全词要字符区间，别的键它不认
        encoded = collator.tokenizer(
            text,
            return_offsets_mapping=bool(getattr(collator, "whole_word_mask", False)),
            return_special_tokens_mask=True,
        )
        features = [dict(encoded) for _ in range(draws)]
    return [
        int((collator([feature])["labels"] != IGNORE_INDEX).sum())
        for feature in features
    ]


def feature_for(text: str, collator: MaskedLMCollator) -> Feature:
    """训练时的样本；以词选的用 jieba 切词。"""
    segmenter = None
    if collator.granularity != "token":
        from companion.corpus.words import jieba_segmenter

        segmenter = jieba_segmenter()
    goal = get_objective("masked_lm")
    return feature_of(goal, [text], collator.tokenizer, segmenter)


def _require_draws(draws: int) -> None:
    if draws < 1:
        raise ObjectiveError(
            found=f"draws = {draws}", expected="正整数", remedy="改成例如 draws=100"
        )
