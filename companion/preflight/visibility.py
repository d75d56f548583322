"""谁看得见谁：改动词元，看哪些位置的输出变了。

一张可见矩阵写得再清楚，也只是声称；是否生效，改一个词元便知。第 j 个词元换成别的，第
i 个位置的输出变了，就是 i 看得见 j（隔着别的词元看见也算）；一点不变，就是看不见。随
机的权重也试得出来：谁看得见谁由结构决定，与学到了什么无关。对角线总是变的：第 i 个位
置的输出里有第 i 个词元自己，不靠注意力，靠残差连接。

同一个办法回答四个问题：

- `measured_visibility`：一行真实的批量里，谁看得见谁。
- `mask_verdict`、`require_mask`：模型是否接受一种四维掩码，是否生效。五种掩码都有传递性
  （看得见的看得见的，也看得见），所以几层之后仍该如此。编码器–解码器只试编码器：整个模型
  只有一个 `attention_mask`，四维的会被当成交叉注意力的掩码。
- `neighbours`：一行的输出随不随同批的别的行、随不随补上的填充而变；变的，评估与训练只把
  等长的行放进一批，或一批一行。
- `can_pack`、`document_leak`：装在一行的两个文档，是不是真的互不可见。各架构认掩码的方
  式不同，有的悄悄不认；换掉文档甲的词元，文档乙的输出应当一点不变，也与乙单独成行时相同。

形状字母：B 行数，L 行长，Q 查询（输出的位置），K 键（改动的词元）或变体，V 输出的宽度。
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from companion.batch import Batch
from companion.checkpoints.running import (
    evaluation_mode,
    is_causal,
    plain_batch,
    plain_ids,
    position_limit,
    read_setting,
    submodel_inputs,
    takes,
    text_config,
)
from companion.errors import ModelError, reason_of
from companion.losses.parts import word_model
from companion.losses.target_head import cross_attention

if TYPE_CHECKING:
    from companion.objectives.attention import MaskKind

SEEN = 1e-5
"""变化超过它才算看得见，相对于输出幅度；舍入在 1e-6 左右，看得见的在 1e-4 以上。"""
LEAK_TOLERANCE = 1e-4
"""文档之间，相对于输出幅度；float32 的舍入在 1e-6 左右，真泄漏在 1e-3 以上。"""
_LENGTH, _PREFIX = 10, 4
"""试掩码用的行长与前缀长度。"""
_LENGTHS, _PREFIXES = (6, 4), (3, 1)
"""一行两篇时，各篇的长度与前缀长度。"""
_DOCUMENTS = (13, 11)
"""试打包用的两个文档的词元数。"""
_NEVER = {
    "xlm": "只收二维掩码，四维掩码触发断言",
    "flaubert": "只收二维掩码，四维掩码触发断言",
    "funnel": "逐层池化把相邻词元并在一起，无从分开文档",
    "convbert": "卷积越过任何掩码，相邻文档互相渗透",
    **dict.fromkeys(
        ("bart", "mbart", "pegasus", "marian", "blenderbot", "m2m_100"),
        "解码器的位置从行首数起，不收 position_ids，第二篇文档与单独成行时不同",
    ),
}
"""已知永远装不得的架构及其缘由；其余的都当场试。"""


@dataclass(frozen=True)
class Verdict:
    """一个模型用不用得一种掩码，或可不可以把几个文档装进一行。"""

    ok: bool
    reason: str
    """判断的依据，中文。"""
    leak: float | None = None
    """相对泄漏量；没有试的为 None。"""

    def __bool__(self) -> bool:
        return self.ok


def read_outputs(
    model: Any, batch: Mapping[str, Any], variants: Mapping[str, Tensor] | None = None
) -> Tensor:
    """读一批；给了变体时，读一行和它的几个变体。

    Args:
        model: transformers 的模型，带不带输出头都可以；一对模型取生成器。在评估模式下
        读，
            读完还原。
        batch: 整理器或分词器的输出；标签不用。
        variants: 这一行里要换的各项 → 几个变体，(K, T) int64。

    Returns:
        (B, Q, V) float32，在 CPU 上；给了变体时是 (1 + K, Q, V)，第 0 行是原样。
    """
    reader = word_model(model)
    inputs = submodel_inputs(reader, dict(batch))
    if variants:
        count = 1 + max(map(len, variants.values()))
        inputs = {k: v.expand(count, *v.shape[1:]) for k, v in inputs.items()}
        for name, rows in variants.items():
            inputs[name] = torch.cat([inputs[name][:1], rows.to(inputs[name])])
    inputs = {name: value.to(reader.device) for name, value in inputs.items()}
    across = inputs.pop("cross_attention_mask", None)
    cache = {"use_cache": False} if takes(reader, "use_cache") else {}
    with evaluation_mode(reader), cross_attention(reader, across):
        values = reader(**inputs, **cache)[0].float().cpu()
    return values.reshape(*values.shape[:2], -1)  # 判别器一个位置只有一个分数：V = 1


def token_influence(
    model: Any, batch: Mapping[str, Any], changed: str = "input_ids"
) -> Tensor:
    """逐个改动词元，量每个位置的输出变了多少。

    Args:
        model: transformers 的模型，带不带输出头都可以。
        batch: 只有一行的批量。
        changed: 改动批量里的哪一项，(1, K) int64。

    Returns:
        相对于输出的最大绝对值，(Q, K) float32：第 i 行第 j 列是改动第 j 个词元之后，第
        i 个位置的输出变了多少。
    """
    [ids] = batch[changed]  # (K,)
    place = torch.arange(len(ids))
    variants = ids.repeat(len(ids), 1)  # 第 j 个变体只改动第 j 个词元
    variants[place, place] = _others(model, ids)
    values = read_outputs(model, batch, {changed: variants})  # (1 + K, Q, V)
    change = (values[1:] - values[0]).abs().amax(-1)  # (K, Q)
    return change.T / values.abs().amax().clamp(min=1e-12)


def measured_visibility(model: Any, batch: Mapping[str, Any]) -> list[Tensor]:
    """一行批量里，谁看得见谁：试出来的。

    Args:
        model: 带输出头的 transformers 模型；在评估模式下试，试完还原。
        batch: 整理器或分词器的输出，只有一行；`labels` 不用。

    Returns:
        几个 (Q, K) bool 矩阵：编码器–解码器依次是编码器的自注意力、解码器的自注意力、交
        叉注意力，别的模型只有一个。

    Raises:
        ModelError: 批量不止一行。
    """
    rows = len(batch["input_ids"])
    if rows != 1:
        raise ModelError(
            found=f"批量有 {rows} 行",
            expected="恰好一行",
            remedy="取其中一行，例如 {k: v[:1] for k, v in batch.items()}",
        )
    if not model.config.is_encoder_decoder:
        return [token_influence(model, batch) > SEEN]
    inner = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return [
        token_influence(model.get_encoder(), inner) > SEEN,
        token_influence(model, batch, "decoder_input_ids") > SEEN,
        token_influence(model, batch) > SEEN,
    ]


def mask_verdict(
    model: Any, mask: "MaskKind", *, packed: bool = False, block_size: int | None = None
) -> Verdict:
    """这个模型用不用得这种掩码：当场试。

    Args:
        model: 已装好的模型；训练或评估模式都可以，试完还原。
        mask: 掩码的名字。
        packed: 一行装几篇文档。
        block_size: 打算用的行长。有的层只看一个窗口（ModernBERT、Mistral），四维掩码会
            取代窗口，行长不超过窗口才用得；缺省按不限长判断。
    """
    from companion.objectives.attention import additive_mask

    visible = _visible(mask, packed)  # (1, L, L)

    def attempt(each: Any) -> Verdict:
        net = each.get_encoder() if each.config.is_encoder_decoder else each
        ids = plain_ids(net, visible.shape[1])[None]
        masks = additive_mask(visible, torch.float32)
        batch = {"input_ids": ids, "attention_mask": masks}
        return _judged(token_influence(net, batch), visible[0])

    return _tried(model, block_size, attempt)


def require_mask(
    model: Any,
    *masks: "MaskKind",
    packed: bool = False,
    block_size: int | None = None,
) -> None:
    """有一种掩码用不得就报错；一种也没有给，就什么也不试。

    Args:
        model: 已装好的模型。
        *masks: 掩码的名字。
        packed: 同 `mask_verdict`。
        block_size: 同 `mask_verdict`。

    Raises:
        ModelError: 模型不收四维掩码，或收下而不照办。
    """
    for mask in masks:
        verdict = mask_verdict(model, mask, packed=packed, block_size=block_size)
        if not verdict:
            raise ModelError(
                found=f"{type(model).__name__} 用不得 {mask} 掩码：{verdict.reason}",
                expected="收四维掩码而且照办的模型",
                remedy="换 GPT-2、Llama、Qwen、GLM（只有解码器）或 BERT、RoBERTa、"
                "ERNIE（编码器）；BLOOM 改用 causal_lm",
            )


Neighbours = Literal["any", "same_length", "none"]
"""一行可以与哪些行同批：长短不论；等长的；都不行。"""

_NEIGHBOURS: WeakKeyDictionary[Any, Neighbours] = WeakKeyDictionary()
_ROW, _LONGER = 24, 40
"""试填充用的行长与补到的长度。"""


def neighbours(model: Any) -> Neighbours:
    """一行可以与哪些行同批而输出不变：头一次问时试，此后记着。

    FNet 的傅里叶变换、Funnel 的池化、ConvBERT 的卷积都把填充算进去，不论掩码；有的专家
    混合按整批分配名额。

    Args:
        model: 不带外壳的模型；在评估模式下试，试完还原。一对模型要两个都行。
    """
    if model not in _NEIGHBOURS:
        order = get_args(Neighbours)
        parts = getattr(model, "parts", {"": model}).values()
        _NEIGHBOURS[model] = max(map(_tried_neighbours, parts), key=order.index)
    return _NEIGHBOURS[model]


def _tried_neighbours(model: Any) -> Neighbours:
    length = min(_LONGER, position_limit(model) or _LONGER)
    row = length * _ROW // _LONGER
    full = {
        name: value
        for name, value in plain_batch(model, 3, length).items()
        if torch.is_tensor(value)
    }
    short = {name: value[:2, :row] for name, value in full.items()}
    alone = read_outputs(model, {name: value[:1] for name, value in short.items()})
    padded = {name: value.clone() for name, value in full.items()}
    for name in padded:
        padded[name][:1, row:] = 0
    top = alone.abs().max().clamp(min=1e-12)

    def changed(batch: Mapping[str, Any]) -> bool:
        found = read_outputs(model, batch)[:1, : alone.shape[1]]
        return bool((found - alone).abs().max() > LEAK_TOLERANCE * top)

    if changed(short):
        return "none"
    return "same_length" if changed(padded) else "any"


_LOOKS_RIGHT: WeakKeyDictionary[Any, float] = WeakKeyDictionary()


def require_left_to_right(model: Any) -> None:
    """从左到右的目标，模型的输出确实看不见右边的词元：头一次问时试，此后记着。

    XLNet 不给排列掩码时两边都看，没有设 `is_decoder` 的 BERT 也是；要猜的词元就在眼前，
    损失很快到零，什么也没有学。

    Args:
        model: 不带外壳的模型；编码器–解码器试的是解码器。

    Raises:
        ModelError: 看得见右边。
    """
    if model not in _LOOKS_RIGHT:
        batch = {
            name: value
            for name, value in plain_batch(model, 1, 8).items()
            if torch.is_tensor(value)
        }
        side = "decoder_input_ids" if "decoder_input_ids" in batch else "input_ids"
        _LOOKS_RIGHT[model] = float(token_influence(model, batch, side).triu(1).max())
    if _LOOKS_RIGHT[model] > LEAK_TOLERANCE:
        raise ModelError(
            found=f"{type(model).__name__} 看得见右边的词元：换掉右边的一个，左边的输出"
            f"变了 {_LOOKS_RIGHT[model]:.1e}（相对）",
            expected="从左到右的目标用只看左边的模型，否则要猜的词元就在眼前",
            remedy="换一个自回归的检查点；BERT 一类用 masked_lm，或在 config.json 写 "
            "is_decoder: true",
        )


def can_pack(model: Any, block_size: int | None = None) -> Verdict:
    """这个模型能不能打包训练。

    Args:
        model: 已装好的模型；训练或评估模式都可以，试完还原。
        block_size: 打算用的行长；同 `mask_verdict`，行长不超过窗口才装得。
    """

    def attempt(each: Any) -> Verdict:
        kind = each.config.model_type
        if kind in _NEVER:
            return Verdict(False, f"{kind}：{_NEVER[kind]}")
        leak = packing_leak(each)
        if leak > LEAK_TOLERANCE:
            return Verdict(False, f"试出泄漏，相对差 {leak:.1e}", leak)
        return Verdict(True, f"试过：文档互不可见，相对差 {leak:.1e}", leak)

    return _tried(model, block_size, attempt)


def packing_leak(model: Any) -> float:
    """两个文档装进一行，量它们渗透了多少；批量由整理器的那条路组装。

    取几个差的最大者：换掉甲后乙的输出变了多少，换掉乙后甲变了多少，装在一行与各自成行差
    多少。除以输出的最大绝对值，所以与模型的幅度无关。

    Args:
        model: 因果或掩码语言模型；在评估模式下试，试完还原。

    Returns:
        相对泄漏量，0 为全无。

    Raises:
        Exception: 模型不收四维掩码时，原样抛出它的异常。
    """
    documents = plain_ids(model, sum(_DOCUMENTS)).split(_DOCUMENTS)
    together = _packed(model, *documents)
    owner = torch.arange(2).repeat_interleave(torch.tensor(_DOCUMENTS))
    owners = {k: owner for k in ("input_ids", "decoder_input_ids") if k in together}
    leak = document_leak(model, together, owners)
    values = read_outputs(model, together)[0]  # (L, V)
    alone = [read_outputs(model, _packed(model, each))[0] for each in documents]
    apart = (torch.cat(alone) - values).abs().amax() / values.abs().amax()
    return max(leak, float(apart))


def document_leak(
    model: Any, batch: Mapping[str, Any], owners: Mapping[str, Tensor]
) -> float:
    """装在一行的两篇，换掉一篇的词元，另一篇的输出变了多少，相对于输出幅度。

    换词元而不换掩码与位置，两篇各换一次，取大者。

    Args:
        model: 在评估模式下试，试完还原。
        batch: 整理器的输出，只有一行。
        owners: 批量里要换的各项 → 各位置属于哪一篇，(T,) int64：0 或 1，别的数哪一篇也
            不属于；输出的位置照解码器的，没有解码器的照 `input_ids` 的。
    """
    variants = {
        name: torch.stack(
            [
                torch.where(
                    owner == each, _others(model, batch[name][0]), batch[name][0]
                )
                for each in (0, 1)
            ]
        )
        for name, owner in owners.items()
    }
    values = read_outputs(model, batch, variants)  # (3, Q, V)
    outputs = owners.get("decoder_input_ids", owners["input_ids"])
    change = [
        (values[1 + each] - values[0])[outputs == 1 - each].abs().amax()
        for each in (0, 1)
    ]
    return float(torch.stack(change).amax() / values[0].abs().amax().clamp(min=1e-12))


def local_window(config: Any) -> int | None:
    """有局部层的模型，一个词元处处都能看全的行长；全局模型为 None。"""
    layers = read_setting(config, "layer_types")
    if layers is not None and "sliding_attention" not in layers:
        return None
    if half := read_setting(config, "local_attention"):  # ModernBERT：左右各半个窗口
        return half // 2
    return read_setting(config, "sliding_window")


def _tried(
    model: Any, block_size: int | None, attempt: Callable[[Any], Verdict]
) -> Verdict:
    """先看窗口，再试；不收掩码的异常写成缘由。一对模型两个都要用得。"""
    verdict = Verdict(False, "没有模型")
    for each in getattr(model, "parts", {"": model}).values():
        window = local_window(text_config(each))
        if window is not None and (block_size is None or block_size > window):
            return Verdict(
                False,
                f"有的层只看 {window} 个词元的窗口，四维掩码会取代它，"
                f"行长至多 {window}",
            )
        try:
            verdict = attempt(each)
        except (
            AssertionError,
            IndexError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            return Verdict(False, f"模型不收四维掩码：{reason_of(error)}")
        if not verdict:
            return verdict
    return verdict


def _others(model: Any, ids: Tensor) -> Tensor:
    """每个词元都换成别的普通词元，形状不变。"""
    one, other = plain_ids(model, 2).to(ids)
    return torch.where(ids == one, other, one)


def _packed(model: Any, *documents: Tensor) -> Batch:
    """把文档装进一行的批量，走整理器的那条路。"""
    from companion.objectives.collate import Example, collate

    ids = torch.cat(documents)
    sizes = torch.tensor([len(document) for document in documents])
    places = torch.arange(len(documents)).repeat_interleave(sizes)
    pair = bool(model.config.is_encoder_decoder)
    example = Example(
        input_ids=ids,
        labels=ids,
        origin=torch.arange(len(ids)),
        hidden=torch.ones_like(ids, dtype=torch.bool),
        documents=places,
        decoder_input_ids=ids if pair else None,
        decoder_documents=places if pair else None,
    )
    return collate([example], pad_token_id=0, causal=not pair and is_causal(model))


def _visible(mask: "MaskKind", packed: bool) -> Tensor:
    """试验用的可见矩阵，(1, L, L) bool。"""
    from companion.objectives.attention import mask_rule, visible_pairs

    lengths, prefixes = (_LENGTHS, _PREFIXES) if packed else ((_LENGTH,), (_PREFIX,))
    numbers = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    rule = mask_rule(mask, numbers[None], torch.tensor([prefixes]))
    return visible_pairs(numbers[None], *rule)


def _judged(change: Tensor, allowed: Tensor) -> Verdict:
    """一张掩码的判断，两者各 (L, L)；不泄漏时恰为 0，真泄漏在 1e-3 以上。"""
    leak = float(change.masked_fill(allowed, 0).max())
    if leak > SEEN:
        return Verdict(False, f"试出泄漏，相对差 {leak:.1e}", leak)
    # bfloat16 会把小的变化舍掉，所以不逐对要求，只要求左右两个方向都有变化
    for name, pairs in (("左", allowed.tril(-1)), ("右", allowed.triu(1))):
        if pairs.any() and not (change[pairs] > 0).any():
            return Verdict(False, f"没有理会掩码：许看{name}边，却看不见", leak)
    return Verdict(True, f"试过：只看得见许看的，相对差 {leak:.1e}", leak)
