"""喂给模型之前先看清：它收什么、能读多长、分词器在两头加什么、合目标的样子。"""

import inspect
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from companion.batch import LOSS_WEIGHTS, Batch
from companion.errors import ModelError
from companion.objectives import Objective, get_objective
from companion.objectives.objective import Kind

if TYPE_CHECKING:
    import torch
    from torch import nn


HEAD_NAMES = (
    "cls",  # BERT、ERNIE
    "lm_head",  # GPT-2、BLOOM、Llama、Qwen、RoBERTa、Funnel
    "predictions",  # ALBERT
    "vocab_transform",  # DistilBERT
    "generator_predictions",  # ELECTRA、ConvBERT
    "pred_layer",  # XLM、FlauBERT
    "head",  # ModernBERT
)
"""各架构输出头入口的属性名；入口收到最后一层的隐藏状态。"""


ORDER_LABELS = ("sentence_order_label", "next_sentence_label")
"""ALBERT 的标签名，BERT 与 ERNIE 的标签名。"""


LABEL_KEYS = (
    "labels",
    "original_ids",
    "sampling_noise",
    "sentence_order_label",
    "next_sentence_label",
    "span_borders",
    "attended",
    LOSS_WEIGHTS,
)
"""批量里不交给模型的几项。"""


_POSITION_TABLES = ("position_embeddings", "wpe", "embed_positions")
"""位置表在各架构里的属性名：BERT 一族，GPT-2，BART 与 OPT。"""
_OPTIONAL = ("position_ids", "token_type_ids", "attention_mask")
"""有的模型不收的几项。不收掩码的（FNet）看得见填充，见 `preflight.visibility`。"""


_PROBE = "一"
DEFAULT_BLOCK_SIZE = 512
"""没有说行长时设想的行长，词元数。"""


def inner_model(model: Any) -> Any:
    """剥去 DDP 与 peft 的外壳。"""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def layer_stacks(model: Any) -> "list[tuple[str, nn.ModuleList]]":
    """最外面的各个 `ModuleList` 与它们的名字：一串层一个。"""
    from torch import nn

    found: list[tuple[str, nn.ModuleList]] = []
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleList):
            found.append((name, child))
        else:
            found += [(f"{name}.{rest}", each) for rest, each in layer_stacks(child)]
    return found


def text_config(model: Any) -> Any:
    """读文字的那一份设置：能看图的模型把它套在里面，别的就是整份设置。"""
    return inner_model(model).config.get_text_config()


def read_setting(config: Any, name: str, default: Any = None) -> Any:
    """设置里的一项；没有，或逐层不同而没有总的一个（Gemma 4），是 `default`。"""
    try:
        found = getattr(config, name, None)
    except Exception:  # transformers 给逐层不同的一项另定了一种错误
        found = None
    return default if found is None else found


def word_table(model: Any) -> "torch.Tensor":
    """输入的词嵌入，(V, D)；`get_input_embeddings` 给的不是（Perceiver）时另找。

    Raises:
        ModelError: 没有一张与词表一样长的嵌入表。
    """
    from torch import nn

    weight = getattr(model.get_input_embeddings(), "weight", None)
    if weight is not None:
        return weight
    size = read_setting(text_config(model), "vocab_size", 1)
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.num_embeddings >= size:
            return module.weight
    raise ModelError(
        found=f"{type(model).__name__} 没有 {size} 行的词嵌入",
        expected="读词元的模型：一个编号一行嵌入",
        remedy="换一个读文字的检查点",
    )


def vocabulary_size(model: Any) -> int:
    """词表的大小；设置里没有写的（FSMT 两侧各有一份），看词嵌入有几行。"""
    size = read_setting(text_config(model), "vocab_size")
    return len(word_table(model)) if size is None else int(size)


def plain_ids(model: Any, count: int) -> "torch.Tensor":
    """`count` 个普通词元的编号，避开特殊词元，(count,) int64；只由词表大小决定。"""
    import torch

    config = text_config(model)
    names = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id")
    special = {read_setting(config, name) for name in names}
    size = min(vocabulary_size(model), 1000)
    plain = [i for i in range(size) if i not in special]
    return torch.tensor([plain[7 * i % len(plain)] for i in range(count)])


def plain_batch(model: Any, num_rows: int = 2, length: int = 6) -> Batch:
    """试读用的一批普通词元，在模型的设备上，没有填充。

    Args:
        model: 不带外壳的模型。
        num_rows: 行数 B。
        length: 行长 L；编码器–解码器的两侧一样长。

    Returns:
        `input_ids`、`attention_mask` (B, L)，编码器–解码器另有 `decoder_input_ids`；
        模型收 `use_cache` 时不留缓存。
    """
    import torch

    ids = plain_ids(model, num_rows * length).view(num_rows, length).to(model.device)
    batch: Batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder:
        batch["decoder_input_ids"] = ids.flip(0)
    adapted = adapt_batch(model, batch)
    if takes(model, "use_cache"):
        adapted["use_cache"] = False  # type: ignore[assignment]
    return adapted


def output_head(model: Any) -> Any:
    """输出头的入口模块，`torch.nn.Module`。

    Raises:
        ModelError: `HEAD_NAMES` 里没有一个属性是这个模型的。
    """
    from torch import nn

    for name in HEAD_NAMES:
        head = getattr(model, name, None)
        if isinstance(head, nn.Module):
            return head
    raise ModelError(
        found=f"{type(model).__name__} 没有认得的输出头",
        expected=f"属性 {'、'.join(HEAD_NAMES)} 之一",
        remedy="用带语言建模头的类打开检查点（AutoModelForMaskedLM、"
        "AutoModelForCausalLM）",
    )


def widest_float(device: "torch.device") -> "torch.dtype":
    """这种设备上最宽的浮点类型：Apple GPU（mps）没有双精度，别的都有。

    >>> import torch
    >>> widest_float(torch.device("mps")), widest_float(torch.device("cpu"))
    (torch.float32, torch.float64)
    """
    import torch

    return torch.float32 if device.type == "mps" else torch.float64


def kind_of(config: Any) -> Kind:
    """编码器、解码器，还是编码器–解码器；BERT 等设 `is_decoder` 后只看左边，是解码器。

    Args:
        config: 模型的 transformers 设置。
    """
    from transformers import AutoModelForMaskedLM

    if config.is_encoder_decoder:
        return "encoder_decoder"
    bidirectional = type(config) in AutoModelForMaskedLM._model_mapping
    if bidirectional and not getattr(config, "is_decoder", False):  # 有的没有这一项
        return "encoder"
    return "decoder"


def takes(model: Any, argument: str) -> bool:
    """模型的 forward 收不收这个参数。"""
    return argument in inspect.signature(model.forward).parameters


def is_causal(model: Any) -> bool:
    """输出是否只看左边：解码器，或设了 `is_decoder` 的编码器。"""
    from transformers import AutoModelForMaskedLM

    bidirectional = type(model.config) in AutoModelForMaskedLM._model_mapping
    return not bidirectional or bool(getattr(model.config, "is_decoder", False))


@contextmanager
def evaluation_mode(model: Any) -> Generator[None]:
    """期间关掉随机失活（dropout）与梯度；结束时每个子模块各回各的模式。"""
    import torch

    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def adapt_batch(model: Any, batch: Batch) -> Batch:
    """把整理器的批量改成这个模型收得下的样子，原批量不动。

    整理器不认识模型，位置一律从 0 数起。RoBERTa 一族从 `pad_token_id + 1` 数起，这里
    补上；模型不收的 `position_ids`、`token_type_ids`、`attention_mask`，这里去掉；加性
    掩码换成模型的浮点类型。训练与评估喂模型之前都经过它。

    Args:
        model: transformers 的模型，不带 DDP、peft 的外壳。
        batch: 整理器的输出。

    Returns:
        键与形状都与 `batch` 相同，至多少了模型不收的几项。一对模型（ELECTRA）各收什么，
        由它们自己去改，这里原样返回。
    """
    if hasattr(model, "parts"):
        return dict(batch)
    adapted = {
        name: _in_dtype(value, model.dtype) if name.endswith("_mask") else value
        for name, value in batch.items()
        if name not in _OPTIONAL or takes(model, name)
    }
    if "position_ids" in adapted:
        adapted["position_ids"] = adapted["position_ids"] + position_offset(model)
    return adapted


def _in_dtype(value: Any, dtype: Any) -> Any:
    """加性掩码换成 `dtype`：遮住处是它的最小有限值，不溢出成 −inf；别的张量原样。"""
    import torch

    if not torch.is_tensor(value) or not value.is_floating_point():
        return value
    if value.dtype == dtype:
        return value
    least = torch.tensor(torch.finfo(dtype).min, dtype=dtype, device=value.device)
    return torch.where(value < 0, least, torch.zeros_like(least))


def submodel_inputs(model: Any, batch: Batch) -> Batch:
    """只留模型要的几项，改成它收得下的样子；标签都不给。"""
    kept = {name: value for name, value in batch.items() if name not in LABEL_KEYS}
    return adapt_batch(model, kept)


def position_offset(model: Any) -> int:
    """第一个词元的位置编号：RoBERTa 一族是 `pad_token_id + 1`，其余是 0。"""
    embeddings: Any = getattr(model.base_model, "embeddings", None)
    if hasattr(embeddings, "create_position_ids_from_input_ids"):
        return int(embeddings.padding_idx) + 1
    return 0


def position_table(model: Any) -> int | None:
    """位置嵌入表够一行用多少词元；旋转位置、相对位置、ALiBi 等没有表的为 None。

    RoBERTa 的位置从 `pad_token_id + 1` 数起，BART 的从 2 数起，开头几行用不上；有几张表
    时（编码器与解码器）取小的。
    """
    from torch import nn

    tables = [
        module.num_embeddings - _unused_rows(module)
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in _POSITION_TABLES
        and isinstance(module, nn.Embedding)
    ]
    return min(tables, default=None)


def _unused_rows(table: Any) -> int:
    """位置表开头用不上的行数。"""
    offset = getattr(table, "offset", None)  # BART 一族写在模块上
    if offset is None:
        offset = 0 if table.padding_idx is None else table.padding_idx + 1
    return int(offset)


def position_limit(model: Any) -> int | None:
    """模型一行至多能读多少词元（含特殊词元）；None 表示没有上限。

    有位置表的看表（`position_table`），旋转位置看预训练时的长度；BLOOM 的 ALiBi
    与 T5 的相对位置没有上限。
    """
    table = position_table(inner_model(model))
    if table is not None:
        return table
    length = read_setting(text_config(model), "max_position_embeddings", 0)
    return length if length > 0 else None  # XLNet 的没有上限，写作 −1


def over_limit(model: Any, length: int) -> int | None:
    """一行 `length` 个词元超过位置上限时，是那个上限；放得下的为 None。"""
    limit = position_limit(model)
    return limit if limit is not None and length > limit else None


def position_rows(model: Any) -> int:
    """模型的位置有几行：GLM 的是两行，别的都是一行。"""
    return getattr(text_config(model), "position_rows", 1)


def default_block_size(model: Any) -> int:
    """没有说一行多长时取多长：512，但不超过位置上限，也不超过预训练时的长度。

    T5 的相对位置没有上限，`n_positions` 是它预训练时的行长；更长的行读得进，读不好。
    """
    trained = read_setting(text_config(model), "n_positions")
    return min(filter(None, (DEFAULT_BLOCK_SIZE, position_limit(model), trained)))


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


def row_edges(tokenizer: Any, objective: Objective) -> tuple[Edges, tuple[int, ...]]:
    """每一片两头的特殊词元，与只写在文档末尾的。

    从左到右写的目标把结尾词元当作“到此为止”来学，所以它只在文档的末尾。分词器自己在每段
    之后添 </s>、[SEP] 的，若照添在切出来的每一片之后，模型学到的是随处可停。

    >>> from companion.checkpoints.tiny import tiny_tokenizer
    >>> from companion.objectives import get_objective
    >>> row_edges(tiny_tokenizer("bert"), get_objective("masked_lm"))
    (Edges(prefix=(2,), suffix=(3,)), ())
    >>> row_edges(tiny_tokenizer("bert"), get_objective("causal_lm"))
    (Edges(prefix=(2,), suffix=()), (3,))
    """
    edges, end = special_edges(tokenizer), tokenizer.eos_token_id
    if not objective.causal:
        return edges, ()
    own = () if end is None or end in edges.suffix else (end,)
    return Edges(edges.prefix, ()), own + edges.suffix


def fitted_objective(model: Any, objective: str | Objective) -> Objective:
    """训练目标用于这个模型时的样子：整理器与移位随模型是哪一类而定。

    Args:
        model: transformers 的模型，可以带外壳。
        objective: 训练目标或它的键。
    """
    goal = get_objective(objective) if isinstance(objective, str) else objective
    return goal.for_kind(kind_of(inner_model(model).config))


def model_options(model: Any, objective: Objective) -> dict[str, Any]:
    """整理器的参数里只有模型知道的几项。

    - `decoder_start_token_id`：解码器的第一个输入，T5 是填充词元，BART 是 `</s>`。
    - `keep_positions`：解码器用绝对位置（BART），片段要留在原来的位置上（MASS）。
    - `type_vocab_size`：段编号有几种。
    - `position_rows`：位置有几行。
    - `order_label`：句序的标签在这个模型里叫什么。
    - `num_languages`：语言编号有几种；没有语言编号的是 0。
    - `language_ids`：句对前后两句的语言编号（`language_ids`）。
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
    if "language_ids" in objective.model_options:
        options["language_ids"] = language_ids(config)
    if "order_label" in objective.model_options:
        options["order_label"] = order_label(inner_model(model))
    if "position_rows" in objective.model_options:
        options["position_rows"] = position_rows(model)
    if "max_length" in objective.model_options:
        options["max_length"] = position_limit(model)
    return options


def _has_languages(config: Any) -> bool:
    """有语言嵌入的架构（XLM、FlauBERT）。"""
    return getattr(config, "n_langs", None) is not None


LANGUAGES = "companion_languages"
"""config.json 里的这一项：句对前后两句的语言编号，训练时由 `languages` 设置写下。"""


def language_ids(config: Any) -> tuple[int, int]:
    """句对两句的语言编号：写下了的；否则都是中文（`lang2id` 里的 zh），再否则 0 与 1。

    Args:
        config: 模型的 transformers 设置。
    """
    first, second = getattr(config, LANGUAGES, None) or (None, None)
    if first is None or second is None:
        chinese = (getattr(config, "lang2id", None) or {}).get("zh")
        return (0, 1) if chinese is None else (chinese, chinese)
    return int(first), int(second)


def order_label(model: Any) -> str:
    """句序的标签在这个模型里叫什么；整理器的 `order_label` 照它设。

    Raises:
        ModelError: 模型不收句序的标签。
    """
    for name in ORDER_LABELS:
        if takes(model, name):
            return name
    raise ModelError(
        found=f"{type(model).__name__} 不收句序的标签",
        expected="ALBERT、BERT、ERNIE 的预训练类（AutoModelForPreTraining）",
        remedy="换这三种检查点之一，或改用 masked_lm",
    )


def judges_order(kind: Any) -> bool:
    """这个模型类收不收句序的标签。"""
    return any(takes(kind, name) for name in ORDER_LABELS)
