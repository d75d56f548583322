"""把一段文字变成训练目标眼里的样子：词元、输入、标签，以及谁看得见谁。

走的是训练的原路：同一个分词、同一个数据集、同一个整理器，只是一批里只有一行。所以书里的
表与图画的就是模型真正收到的张量，不是另画的示意。

形状字母：T 一行的词元数，R 行内文档数。
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from companion.batch import IGNORE_INDEX, Feature
from companion.errors import ObjectiveError
from companion.objectives import Objective, get_objective
from companion.plots.rows import LabelRows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from companion.corpus.words import Segmenter

_GRANULARITIES = {"whole_word": "（整词）"}


@dataclass(frozen=True)
class Example:
    """一行样本：给人看的几行，和谁看得见谁。"""

    rows: LabelRows
    visible: "NDArray[np.bool_]"
    """(T, T) bool，真处表示行号的词元看得见列号的词元。"""
    input_ids: list[int]
    """整理器给出的输入，(T,)。"""
    labels: list[int]
    """整理器给出的标签，(T,)；−100 处不计损失。"""


def example_rows(
    objective: str,
    text: str | Sequence[str],
    tokenizer: Any,
    seed: int = 0,
    *,
    epoch: int = 0,
    segmenter: "Segmenter | None" = None,
    **options: Any,
) -> LabelRows:
    """一段文字的“词元 → 输入 → 标签”；参数同 `show_example`。

    >>> from companion.models.tiny import tiny_tokenizer
    >>> example_rows("masked_lm", "狡兔死", tiny_tokenizer("bert")).tokens
    ['[CLS]', '狡', '兔', '死', '[SEP]']
    """
    return show_example(
        objective, text, tokenizer, seed, epoch=epoch, segmenter=segmenter, **options
    ).rows


def show_example(
    objective: str,
    text: str | Sequence[str],
    tokenizer: Any,
    seed: int = 0,
    *,
    epoch: int = 0,
    segmenter: "Segmenter | None" = None,
    **options: Any,
) -> Example:
    """把文字交给真正的整理器，取回一行。

    Args:
        objective: 训练目标的键。
        text: 一段文字；给几段就打包成一行，每段是一个文档。
        tokenizer: transformers 的分词器。
        seed: 噪声的种子；没有噪声的目标不用它。
        epoch: 第几轮；同一样本每轮的噪声不同。
        segmenter: 整词掩码的分词函数；缺省用 jieba。
        **options: 交给整理器的参数，如 `mlm_probability`、`granularity`。

    Raises:
        ObjectiveError: 没有这个目标或参数，没有文字，或与分词器不合。
    """
    goal = get_objective(objective)
    texts = [text] if isinstance(text, str) else list(text)
    settings = {**options, **({"seed": seed} if "seed" in goal.options else {})}
    _check(goal, texts, settings)
    collator = goal.make_collator(tokenizer, **settings)
    if settings.get("granularity") == "whole_word" and segmenter is None:
        from companion.corpus.words import jieba_segmenter

        segmenter = jieba_segmenter()
    feature = {**_feature(goal, texts, tokenizer, segmenter), "epoch": epoch}
    batch = collator([feature])
    title = goal.title + _GRANULARITIES.get(str(settings.get("granularity")), "")
    return _read(goal, title, feature, batch, tokenizer)


def _check(goal: Objective, texts: list[str], settings: dict[str, Any]) -> None:
    for name in settings:
        if name not in goal.options:
            known = "、".join(goal.options) or "没有可调的参数"
            raise ObjectiveError(
                found=f"{goal.key} 没有参数 {name}",
                expected=known,
                remedy=f"去掉 {name}",
            )
    if not texts or any(not text.strip() for text in texts):
        raise ObjectiveError(
            found="有一段文字是空的",
            expected="每段至少一个字",
            remedy="给一句话，例如 狡兔死，走狗烹",
        )


def _feature(
    goal: Objective, texts: list[str], tokenizer: Any, segmenter: "Segmenter | None"
) -> Feature:
    """几段文字 → 打包好的一个样本，样本编号为 0。"""
    from companion.corpus.document import Document
    from companion.corpus.packing import BlockDataset, Piece
    from companion.corpus.tokens import tokenize_documents
    from companion.models.running import special_edges

    documents = [Document(each, f"例#{n}", "例") for n, each in enumerate(texts, 1)]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        store = tokenize_documents(
            documents, tokenizer, cache_dir=folder, segmenter=segmenter
        )
        row = [Piece(n, 0, int(length)) for n, length in enumerate(store.lengths)]
        prefix, suffix = special_edges(tokenizer)
        end = tokenizer.eos_token_id if goal.causal else None
        return BlockDataset(
            store,
            [row],
            prefix_ids=prefix,
            suffix_ids=suffix,
            document_end_ids=() if end is None or end in suffix else (end,),
        )[0]


def _read(
    goal: Objective, title: str, feature: Feature, batch: dict[str, Any], tokenizer: Any
) -> Example:
    """批量的第 0 行 → 给人看的几行。"""
    import torch

    from companion.objectives.attention import document_index, visible_within_documents

    inputs: list[int] = batch["input_ids"][0].tolist()
    labels: list[int] = batch["labels"][0].tolist()
    starts = torch.as_tensor(feature["document_starts"])
    documents = document_index(starts, len(inputs), len(inputs))  # (T,)
    mask = batch["attention_mask"]
    if mask.ndim == 4:  # 一行多个文档：整理器自己给出了谁看得见谁
        visible = mask[0, 0] == 0  # (T, T)
    else:  # 一行一个文档：模型自己补上因果的三角
        visible = visible_within_documents(documents[None], causal=goal.causal)[0]
    sources = [
        None if label == IGNORE_INDEX or (goal.causal and at == 0) else at - goal.causal
        for at, label in enumerate(labels)
    ]
    rows = LabelRows(
        title=title,
        tokens=[token_text(tokenizer, int(each)) for each in feature["input_ids"]],
        inputs=[token_text(tokenizer, each) for each in inputs],
        labels=[
            None if each == IGNORE_INDEX else token_text(tokenizer, each)
            for each in labels
        ],
        predicted_by=sources,
        special=[bool(each) for each in feature["special_tokens_mask"]],
        document=documents.tolist(),
        mask_token=tokenizer.mask_token,
    )
    return Example(rows, visible.numpy(), inputs, labels)


def token_text(tokenizer: Any, token_id: int) -> str:
    """一个词元给人看的样子。

    字节级 BPE 的词元存成一串怪字符（“å¸Ŀ”），这里还原成文字；只占半个汉字的词元还原
    不了，写成字节“⟨E5B8⟩”。其余分词器的词元照原样（“##光”“▁是”）。
    """
    token: str = tokenizer.convert_ids_to_tokens(token_id)
    if token_id in tokenizer.all_special_ids or not _is_byte_level(tokenizer):
        return token
    table = _byte_of_character()
    if any(character not in table for character in token):  # 后来添加的词元
        return token
    data = bytes(table[character] for character in token)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return f"⟨{data.hex().upper()}⟩"


def _is_byte_level(tokenizer: Any) -> bool:
    if not tokenizer.is_fast:
        return False
    decoder = tokenizer.backend_tokenizer.decoder
    return decoder is not None and "ByteLevel" in json.dumps(
        json.loads(decoder.__getstate__())
    )


@cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2 的字节表：可见的字节写成自己，其余依次写成 U+0100 起的字符。"""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {
        chr(256 + number): byte for number, byte in enumerate(hidden)
    }
