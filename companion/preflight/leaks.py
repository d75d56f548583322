"""打包泄漏：同一行里的两个文档，是不是真的互不可见。

把许多短文档装进一行可以省去填充，前提是它们互相看不见。各架构认掩码的方式不同，有的
悄悄不认；与其相信，不如试：改动文档 A 的词元，文档 B 的输出应当一点不变，并且与 B 单独
成行时相同。`packing_leak` 用整理器组装的同一种批量做这个试验。

`packing_table()` 是对各架构的极小模型逐一试出来的结果，也是书里那张表的来源。

形状字母：L 行长，A、B 两个文档的长度（L = A + B），V 词表大小。
"""

from dataclasses import dataclass
from typing import Any

from companion.preflight.probing import adapt_batch, evaluation_mode, is_causal, takes

_NEVER = {
    "bloom": "ALiBi 偏置按二维掩码推算，四维掩码直接报错",
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

LEAK_TOLERANCE = 1e-4
"""相对于输出幅度；float32 的舍入在 1e-6 左右，真泄漏在 1e-3 以上。"""
_LENGTHS = (13, 11)
"""试验用的两个文档的词元数。"""


@dataclass(frozen=True)
class PackingVerdict:
    """一个模型可不可以把几个文档装进一行。"""

    ok: bool
    reason: str
    """判断的依据，中文。"""
    leak: float | None = None
    """相对泄漏量；没有试的为 None。"""

    def __bool__(self) -> bool:
        return self.ok


@dataclass(frozen=True)
class PackingRow:
    """`packing_table` 的一行。"""

    kind: str
    implementation: str
    """"eager" 或 "sdpa"。"""
    ok: bool
    reason: str
    leak: float | None


def can_pack(model: Any, block_size: int | None = None) -> PackingVerdict:
    """这个模型能不能打包训练。

    Args:
        model: 已装好的模型；训练或评估模式都可以，试完还原。
        block_size: 打算用的行长。有的层只看一个窗口（ModernBERT、Mistral），四维掩码会
            取代窗口，行长不超过窗口才装得；缺省按不限长判断。
    """
    if hasattr(model, "parts"):  # 一对模型：两个都要装得
        found = [can_pack(each, block_size) for each in model.parts.values()]
        return next((each for each in found if not each), found[0])
    known = _NEVER.get(model.config.model_type)
    if known is not None:
        return PackingVerdict(False, f"{model.config.model_type}：{known}")
    window = local_window(model.config)
    if window is not None and (block_size is None or block_size > window):
        return PackingVerdict(
            False,
            f"有的层只看 {window} 个词元的窗口，四维掩码会取代它，行长至多 {window}",
        )
    try:
        leak = packing_leak(model)
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        return PackingVerdict(False, f"模型不收四维掩码：{first}")
    if leak > LEAK_TOLERANCE:
        return PackingVerdict(False, f"试出泄漏，相对差 {leak:.1e}", leak)
    return PackingVerdict(True, f"试过：文档互不可见，相对差 {leak:.1e}", leak)


def packing_leak(model: Any) -> float:
    """两个文档装进一行，量它们渗透了多少。

    取几个差的最大者：换掉 A 后 B 的输出变了多少，换掉 B 后 A 变了多少，装在一行与各自
    成行差多少。除以输出的最大绝对值，所以与模型的幅度无关。

    Args:
        model: 因果或掩码语言模型；在评估模式下试，试完还原。

    Returns:
        相对泄漏量，0 为全无。

    Raises:
        Exception: 模型不收四维掩码时，原样抛出它的异常。
    """
    first, second = _LENGTHS
    ids = plain_ids(model.config, 2 * (first + second))
    a, b = ids[:first], ids[first : first + second]
    other_a, other_b = ids[-first:], ids[-first - second : -first]
    with evaluation_mode(model):
        together = _logits(model, a, b)  # (L, V)
        changes = [
            _logits(model, other_a, b)[first:] - together[first:],
            _logits(model, a, other_b)[:first] - together[:first],
            _logits(model, a) - together[:first],
            _logits(model, b) - together[first:],
        ]
    largest = max(change.abs().max().item() for change in changes)
    return largest / max(together.abs().max().item(), 1e-12)


def packing_table() -> list[PackingRow]:
    """各架构的极小模型 × 两种注意力实现，逐一试出来的表。"""
    from companion.checkpoints.tiny import TINY_KINDS, tiny_model

    rows: list[PackingRow] = []
    for kind in TINY_KINDS:
        for implementation in ("eager", "sdpa"):
            try:
                model = tiny_model(kind, attn_implementation=implementation)
            except ValueError:  # 这种架构没有 sdpa 实现
                reason = f"没有 {implementation} 实现"
                rows.append(PackingRow(kind, implementation, False, reason, None))
                continue
            verdict = can_pack(model)
            rows.append(
                PackingRow(
                    kind, implementation, verdict.ok, verdict.reason, verdict.leak
                )
            )
    return rows


def _logits(model: Any, *documents: Any) -> Any:
    """把文档装进一行，走整理器的那条路，返回 (L, V) float32。"""
    import torch

    from companion.losses.target_head import cross_attention
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
    batch = collate([example], pad_token_id=0, causal=not pair and is_causal(model))
    inputs = {
        name: tensor.to(model.device)
        for name, tensor in adapt_batch(model, batch).items()
        if name != "labels"
    }
    mask = inputs.pop("cross_attention_mask", None)
    cache = {"use_cache": False} if takes(model, "use_cache") else {}
    with cross_attention(model, mask):
        outputs = model(**inputs, **cache)
    logits = getattr(outputs, "logits", None)  # 预训练类的词元头另有名字
    return (outputs.prediction_logits if logits is None else logits)[0].float()


def plain_ids(config: Any, count: int) -> Any:
    """`count` 个普通词元的编号，避开特殊词元，(count,) int64；只由词表大小决定。"""
    import torch

    names = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id")
    special = {getattr(config, name, None) for name in names}
    plain = [i for i in range(min(config.vocab_size, 1000)) if i not in special]
    return torch.tensor([plain[7 * i % len(plain)] for i in range(count)])


def local_window(config: Any) -> int | None:
    """有局部层的模型，一个词元处处都能看全的行长；全局模型为 None。"""
    layers = getattr(config, "layer_types", None)
    if layers is not None and "sliding_attention" not in layers:
        return None
    if getattr(config, "local_attention", None):  # ModernBERT：左右各半个窗口
        return config.local_attention // 2
    return getattr(config, "sliding_window", None)
