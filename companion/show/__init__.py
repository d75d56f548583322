"""把一段文字变成训练目标眼里的样子：词元、输入、标签，以及谁看得见谁。

走的是训练的原路：同一个分词、同一个数据集、同一个整理器，只是一批里只有一行。所以书里的
表与图画的就是模型真正收到的张量，不是另画的示意。
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from companion.batch import IGNORE_INDEX, Feature
from companion.errors import ObjectiveError
from companion.objectives import Objective, get_objective
from companion.plots.rows import LabelRows, PairRows
from companion.show.reading import Example, Reader, token_text

if TYPE_CHECKING:
    from companion.corpus.words import Segmenter

__all__ = ["Example", "example_rows", "show_example", "token_text"]

_GRANULARITIES = {"whole_word": "（全词）", "ngram": "（词组）", "span": "（片段）"}
_NO_ORDER = -1
_ORDERS = {0: "（原来的次序）", 1: "（对调）", IGNORE_INDEX: "（只有一句，不计）"}


def example_rows(
    objective: str | Objective,
    text: str | Sequence[str],
    tokenizer: Any,
    seed: int = 0,
    *,
    epoch: int = 0,
    segmenter: "Segmenter | None" = None,
    model_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> LabelRows | PairRows:
    """一段文字的“词元 → 输入 → 标签”；参数同 `show_example`。

    Returns:
        `LabelRows`；编码器–解码器与 GLM 填空是 `PairRows`。

    >>> from companion.checkpoints.tiny import tiny_tokenizer
    >>> example_rows("masked_lm", "狡兔死", tiny_tokenizer("bert")).tokens
    ['[CLS]', '狡', '兔', '死', '[SEP]']
    """
    return show_example(
        objective,
        text,
        tokenizer,
        seed,
        epoch=epoch,
        segmenter=segmenter,
        model_options=model_options,
        **options,
    ).rows


def show_example(
    objective: str | Objective,
    text: str | Sequence[str],
    tokenizer: Any,
    seed: int = 0,
    *,
    epoch: int = 0,
    segmenter: "Segmenter | None" = None,
    model_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Example:
    """把文字交给真正的整理器，取回一行。

    Args:
        objective: 训练目标或它的键。
        text: 一段文字；给几段就打包成一行，每段是一个文档。
        tokenizer: transformers 的分词器；缺了目标要的特殊词元时，用添了的另一份。
        seed: 噪声的种子；没有噪声的目标不用它。
        epoch: 第几轮；同一样本每轮的噪声不同。
        segmenter: 以词选时的分词函数；缺省用 jieba。
        model_options: 整理器的参数里只有模型知道的
            （`companion.checkpoints.loading.load_model_options`）；不给时取整理器的缺省值，
            `decoder_start_token_id` 因此只对 T5、mT5、Pegasus 是对的。
        **options: 训练设置里属于这个目标的几项，如 `mlm_probability`、`preset`；
            `preset="macbert"` 另要 `similar_words`，`preset="ernie"` 另要 `names`，它的
            三个阶段依次是第 0、1、2 轮。

    Raises:
        ObjectiveError: 没有这个目标或参数，没有文字，或与分词器不合。
    """
    goal = get_objective(objective) if isinstance(objective, str) else objective
    tokenizer = goal.with_special_tokens(tokenizer)
    texts = [text] if isinstance(text, str) else list(text)
    settings = {**options, **({"seed": seed} if "seed" in goal.options else {})}
    _check(goal, texts, settings)
    title = goal.title
    if "preset" in goal.options:
        settings, words, mark = _read_masking(settings, tokenizer, epoch)
        segmenter, title = segmenter or words, title + mark
    collator = goal.make_collator(tokenizer, **settings, **(model_options or {}))
    feature = {**_feature(goal, texts, tokenizer, segmenter), "epoch": epoch}
    [corrupted] = collator.examples([feature])
    batch = collator.collate([corrupted])
    title += _ORDERS.get(int(corrupted.extra.get("order", _NO_ORDER)), "")
    return Reader(goal, title, feature, corrupted, batch, tokenizer).read()


def _read_masking(
    settings: dict[str, Any], tokenizer: Any, epoch: int
) -> "tuple[dict[str, Any], Segmenter | None, str]":
    """掩码的选法：整理器的参数、切词器、标题的后缀。"""
    from companion.training.masking import read_masking

    masking = read_masking(settings)
    if masking.replaces and masking.similar_words is None:
        raise ObjectiveError(
            found="preset=macbert 没有近义词表",
            expected="similar_words 是一个文件，或造好的 SimilarWords",
            remedy="用 companion.training.masking.find_similar_words 由词嵌入找一份",
        )
    options = masking.collator_options(tokenizer, None, ())
    stage = min(epoch, len(masking.segmenters) - 1)
    if preset := settings.get("preset"):
        mark = f"（{preset}）"
    else:
        mark = _GRANULARITIES.get(str(options.get("granularity")), "")
    return options, masking.segmenters[stage], mark


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
    from companion.checkpoints.running import special_edges
    from companion.corpus.document import Document
    from companion.corpus.packing import BlockDataset
    from companion.corpus.tokens import Piece, tokenize_documents

    documents = [Document(each, f"例#{n}", "例") for n, each in enumerate(texts, 1)]
    store = tokenize_documents(documents, tokenizer, segmenter=segmenter)
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
