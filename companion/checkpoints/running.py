"""喂给模型之前先看清：它能读多长，分词器在两头加什么。"""

from typing import Any, NamedTuple

from companion.errors import ModelError
from companion.losses.sentence_order import order_label
from companion.losses.target_head import inner_model
from companion.objectives import Objective, get_objective
from companion.preflight.probing import position_table

_PROBE = "一"
DEFAULT_BLOCK_SIZE = 512
"""没有说行长时设想的行长，词元数。"""


class Edges(NamedTuple):
    """分词器自动加在一段文字两头的特殊词元，如 [CLS] 与 [SEP]。"""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]


def special_edges(tokenizer: Any) -> Edges:
    """用一个字去试：分词器在两头各添了什么。

    >>> from companion.checkpoints.tiny import tiny_tokenizer
    >>> special_edges(tiny_tokenizer("bert"))
    Edges(prefix=(2,), suffix=(3,))
    """
    whole = tokenizer(_PROBE, add_special_tokens=True)["input_ids"]
    bare = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    for start in range(len(whole) - len(bare) + 1):
        stop = start + len(bare)
        if whole[start:stop] == bare:
            return Edges(tuple(whole[:start]), tuple(whole[stop:]))
    return Edges((), ())


def fitted_objective(model: Any, objective: str | Objective) -> Objective:
    """训练目标用于这个模型时的样子：整理器与移位随模型有没有编码器而定。

    Args:
        model: transformers 的模型，可以带外壳。
        objective: 训练目标或它的键。
    """
    goal = get_objective(objective) if isinstance(objective, str) else objective
    return goal.for_config(inner_model(model).config)


def model_options(model: Any, objective: Objective) -> dict[str, Any]:
    """整理器的参数里只有模型知道的几项。

    - `decoder_start_token_id`：解码器的第一个输入，T5 是填充词元，BART 是 `</s>`。
    - `keep_positions`：解码器用绝对位置（BART），片段要留在原来的位置上（MASS）。
    - `type_vocab_size`：段编号有几种。
    - `position_rows`：位置有几行。
    - `order_label`：句序的标签在这个模型里叫什么。
    - `num_languages`：语言编号有几种；没有语言编号的是 0。
    - `max_length`：位置够一篇文档用多少词元；没有上限时为 None。

    Raises:
        ModelError: 编码器–解码器的设置里没有 `decoder_start_token_id`，或模型不判句序。
    """
    config = inner_model(model).config
    options: dict[str, Any] = {}
    if "decoder_start_token_id" in objective.model_options:
        start = getattr(config, "decoder_start_token_id", None)
        if start is None:
            raise ModelError(
                found=f"{config.model_type} 的设置里没有 decoder_start_token_id",
                expected="解码器的第一个输入（T5 是 0，facebook/bart 是 2，"
                "mBART 是语言代码的编号）",
                remedy="在检查点的 config.json 里补上 decoder_start_token_id，"
                "值照它预训练时的",
            )
        options["decoder_start_token_id"] = start
    if "keep_positions" in objective.model_options:
        options["keep_positions"] = position_limit(model) is not None
    if "type_vocab_size" in objective.model_options:
        kinds = getattr(config, "type_vocab_size", 0) or 0
        # XLM 也收片段编号，却拿它去查词嵌入
        options["type_vocab_size"] = 0 if _has_languages(config) else kinds
    if "num_languages" in objective.model_options:
        has = _has_languages(config)
        options["num_languages"] = config.n_langs if has else 0
    if "order_label" in objective.model_options:
        options["order_label"] = order_label(inner_model(model))
    if "position_rows" in objective.model_options:
        options["position_rows"] = position_rows(model)
    if "max_length" in objective.model_options:
        options["max_length"] = position_limit(model)
    return options


def position_rows(model: Any) -> int:
    """模型的位置有几行：GLM 的是两行，别的都是一行。"""
    return getattr(inner_model(model).config, "position_rows", 1)


def _has_languages(config: Any) -> bool:
    """有语言嵌入的架构（XLM、FlauBERT）。"""
    return getattr(config, "n_langs", None) is not None


def position_limit(model: Any) -> int | None:
    """模型一行至多能读多少词元（含特殊词元）；None 表示没有上限。

    有位置表的看表（`probing.position_table`），旋转位置看预训练时的长度；BLOOM 的 ALiBi
    与 T5 的相对位置没有上限。
    """
    inner = inner_model(model)
    table = position_table(inner)
    if table is not None:
        return table
    return getattr(inner.config, "max_position_embeddings", None)


def default_block_size(model: Any) -> int:
    """没有说一行多长时取多长：512，但不超过位置上限，也不超过预训练时的长度。

    T5 的相对位置没有上限，`n_positions` 是它预训练时的行长；更长的行读得进，读不好。
    """
    trained = getattr(inner_model(model).config, "n_positions", None)
    return min(filter(None, (DEFAULT_BLOCK_SIZE, position_limit(model), trained)))
