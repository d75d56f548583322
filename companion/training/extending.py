"""扩充词表的训练：数出语料的缺字缺词，添进检查点，先只训练新行，再放开全部。

    缺字    鱻 [UNK]、缺词 司马光 → 司 | 马 | 光      corpus.missing
    添进    新行取旧切法的平均，旧行逐位不变          models.vocabulary
    先      只有新行有梯度，权重衰减为 0，旧行与其余参数逐位不变
    后      全部参数一起训练

新行起头时只是旧行的平均；先让它们在旧模型里找到位置，旧模型就不必去迁就还没有学过的行。
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

from transformers import TrainerCallback

from companion.checkpoints.loading import Checkpoint
from companion.checkpoints.vocabulary import (
    Extension,
    embeddings_only,
    extend_vocabulary,
)
from companion.config import TrainingConfig
from companion.corpus.document import Document
from companion.corpus.missing import MissingVocabulary, missing_vocabulary
from companion.corpus.words import jieba_segmenter
from companion.errors import ConfigError

MIN_COUNT = 2
"""只出现一次的字词不添：一个例子训不好一行。"""


def extend_for_corpus(
    checkpoint: Checkpoint, config: TrainingConfig, documents: Iterable[Document]
) -> Extension | None:
    """照设置把语料的缺字缺词添进检查点；没有要求扩充时为 None。

    Args:
        checkpoint: 打开了的检查点，模型就地扩大。
        config: 训练设置；用 `new_characters`、`new_words`、`user_dictionary`、`seed`。
        documents: 训练语料。

    Raises:
        ConfigError: 要扩充，而语料里没有缺的，或训练的是一对模型。
        ModelError: 分词器添不进去。
    """
    if not (config.new_characters or config.new_words):
        return None
    if not hasattr(checkpoint.model, "resize_token_embeddings"):  # ELECTRA 的一对
        raise ConfigError(
            found=f"{config.objective} 训练一对模型，又要扩充词表",
            expected="只有一个模型的训练目标",
            remedy="去掉 new_characters 与 new_words；或先以别的目标扩充",
        )
    words = jieba_segmenter(config.user_dictionary) if config.new_words else None
    found = missing_vocabulary(
        documents, checkpoint.tokenizer, segmenter=words, min_count=MIN_COUNT
    )
    tokens = found.tokens(config.new_characters, config.new_words)
    if not tokens:
        raise ConfigError(
            found="要扩充词表，而语料里没有一个缺字或缺词"
            f"（出现 {MIN_COUNT} 次以上的才算）",
            expected="至少一个分词器认不得或要拆开的字词",
            remedy="去掉 new_characters 与 new_words；用 companion corpus missing 看看",
        )
    extension = extend_vocabulary(checkpoint, tokens, seed=config.seed)
    if found.num_unknown:
        extension.checkpoint.notices.append(_rates(found, tokens))
    return extension


def _rates(found: MissingVocabulary, tokens: Sequence[str]) -> str:
    """认不得的字，扩充前后各占多少。"""
    added = set(tokens)
    known = sum(p.count for p in found.characters if p.unknown and p.text in added)
    left = found.num_unknown - known
    return (
        f"认不得的字由 {found.num_unknown:,} 个（{found.unknown_rate:.3%}）"
        f"减到 {left:,} 个（{left / found.num_characters:.3%}）"
    )


def num_embedding_steps(config: TrainingConfig, num_steps: int) -> int:
    """先只训练新行的步数。

    Args:
        config: 训练设置。
        num_steps: 总步数。
    """
    wanted = config.embedding_steps
    return min(num_steps, round(wanted * num_steps if wanted < 1 else wanted))


class EmbeddingsFirst(TrainerCallback):
    """开头几步只训练新行：别的参数没有梯度，旧行没有梯度也不衰减。

    Args:
        ids: 新词元的编号。
        num_steps: 开头几步；续训时已经过了就什么也不做。
    """

    def __init__(self, ids: Sequence[int], num_steps: int) -> None:
        self.ids = ids
        self.num_steps = num_steps
        self._held = ExitStack()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kept: Any) -> None:
        """冻结；优化器与断点的状态都已读好。"""
        early = state.global_step < self.num_steps
        # 断点里存着当时的衰减，所以放开之后续训也要重新设
        _set_decay(kept["optimizer"], 0.0 if early else args.weight_decay)
        if early:
            self._held.enter_context(embeddings_only(kept["model"], self.ids))

    def on_step_end(self, args: Any, state: Any, control: Any, **kept: Any) -> None:
        """到时候就放开。"""
        if state.global_step == self.num_steps:
            self._held.close()
            _set_decay(kept["optimizer"], args.weight_decay)

    def close(self) -> None:
        """中途停下时也恢复原样。"""
        self._held.close()


def _set_decay(optimizer: Any, decay: float) -> None:
    """Trainer 的第一组参数衰减，第二组（偏置与归一化）从不衰减。"""
    optimizer.param_groups[0]["weight_decay"] = decay
