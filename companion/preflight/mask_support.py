"""哪种架构收下哪种掩码：一个一个地试，不靠相信。

给模型一张可见矩阵，改动第 j 个词元，看第 i 个位置的输出：不可见的应当一点不变，可见的应
当有变化。前者不成立是泄漏，后者不成立是模型没有理会这张掩码。五种掩码都有传递性（看得见的
看得见的，也看得见），所以几层之后仍该如此。

掩码的浮点类型与模型相同：transformers 5.23 的编码器在 eager 实现下，bfloat16 的权重遇上
float32 的掩码会报类型不合（只有解码器的模型与 sdpa 不会）。

`mask_table()` 是各架构的极小模型 × 注意力实现 × 精度 × 掩码逐一试出来的结果，也是书里那
张表的来源。编码器–解码器只试编码器：整个模型只有一个 `attention_mask`，四维的会被当成交
叉注意力的掩码，所以要让编码器单独先跑。

形状字母：L 行长，M 几张掩码，K = L + 1 个变体。
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from companion.errors import ModelError
from companion.preflight.leaks import local_window, plain_ids
from companion.preflight.probing import evaluation_mode, takes

if TYPE_CHECKING:
    from companion.objectives.attention import MaskKind

_LENGTH, _PREFIX = 10, 4
"""试验用的行长与前缀长度。"""
_LENGTHS, _PREFIXES = (6, 4), (3, 1)
"""一行两篇时，各篇的长度与前缀长度。"""
_TOLERANCE = 1e-5
"""相对于输出幅度；不泄漏时恰为 0，真泄漏在 1e-3 以上。"""


@dataclass(frozen=True)
class MaskVerdict:
    """一个模型用不用得一种掩码。"""

    ok: bool
    reason: str
    """判断的依据，中文。"""
    leak: float | None = None
    """相对泄漏量；没有试的为 None。"""

    def __bool__(self) -> bool:
        return self.ok


@dataclass(frozen=True)
class MaskRow:
    """`mask_table` 的一行。"""

    kind: str
    implementation: str
    """"eager" 或 "sdpa"。"""
    dtype: str
    """"float32" 或 "bfloat16"。"""
    mask: "MaskKind"
    packed: bool
    """一行装两篇文档。"""
    ok: bool
    reason: str
    leak: float | None


def mask_verdict(
    model: Any, mask: "MaskKind", *, packed: bool = False, block_size: int | None = None
) -> MaskVerdict:
    """这个模型用不用得这种掩码：当场试。

    Args:
        model: 已装好的模型；训练或评估模式都可以，试完还原。
        mask: 掩码的名字。
        packed: 一行装几篇文档。
        block_size: 打算用的行长。有的层只看一个窗口（ModernBERT、Mistral），四维掩码会
            取代窗口，行长不超过窗口才用得；缺省按不限长判断。
    """
    if hasattr(model, "parts"):  # 一对模型：两个都要用得
        found = [
            mask_verdict(each, mask, packed=packed, block_size=block_size)
            for each in model.parts.values()
        ]
        return next((each for each in found if not each), found[0])
    return _verdicts(model, [(mask, packed)], block_size)[0]


def require_mask(
    model: Any,
    *masks: "MaskKind",
    packed: bool = False,
    block_size: int | None = None,
) -> None:
    """有一种掩码用不得就报错；一种也没有给，就什么也不试。

    Args:
        model: 已装好的模型。
        *masks: 掩码的名字，一次前向全部试过。
        packed: 同 `mask_verdict`。
        block_size: 同 `mask_verdict`。

    Raises:
        ModelError: 模型不收四维掩码，或收下而不照办。
    """
    verdicts = (
        _verdicts(model, [(mask, packed) for mask in masks], block_size)
        if masks
        else []
    )
    for mask, verdict in zip(masks, verdicts, strict=True):
        if verdict:
            continue
        raise ModelError(
            found=f"{type(model).__name__} 用不得 {mask} 掩码：{verdict.reason}",
            expected="收四维掩码而且照办的模型",
            remedy="换 GPT-2、Llama、Qwen、GLM（只有解码器）或 BERT、RoBERTa、"
            "ERNIE（编码器）；BLOOM 改用 causal_lm",
        )


def mask_table() -> list[MaskRow]:
    """各架构的极小模型 × 注意力实现 × 精度 × 掩码，逐一试出来的表。"""
    import torch

    from companion.checkpoints.tiny import TINY_KINDS, tiny_model
    from companion.objectives.attention import MaskKind

    cases = [(mask, packed) for packed in (False, True) for mask in get_args(MaskKind)]
    rows: list[MaskRow] = []
    for kind in TINY_KINDS:
        for implementation in ("eager", "sdpa"):
            try:
                model = tiny_model(kind, attn_implementation=implementation)
            except ValueError:  # 这种架构没有 sdpa 实现
                model = None
            for dtype in (torch.float32, torch.bfloat16):
                if model is None:
                    absent = MaskVerdict(False, f"没有 {implementation} 实现")
                    verdicts = [absent] * len(cases)
                else:
                    verdicts = _verdicts(model.to(dtype), cases, None)
                name = str(dtype).removeprefix("torch.")
                rows += [
                    MaskRow(
                        kind,
                        implementation,
                        name,
                        *case,
                        each.ok,
                        each.reason,
                        each.leak,
                    )
                    for case, each in zip(cases, verdicts, strict=True)
                ]
    return rows


def _verdicts(
    model: Any, cases: "list[tuple[MaskKind, bool]]", block_size: int | None
) -> list[MaskVerdict]:
    """几张掩码一起试，一次前向。"""
    import torch

    window = local_window(model.config)
    if window is not None and (block_size is None or block_size > window):
        reason = (
            f"有的层只看 {window} 个词元的窗口，四维掩码会取代它，行长至多 {window}"
        )
        return [MaskVerdict(False, reason)] * len(cases)
    visible = torch.cat([_visible(*case) for case in cases])  # (M, L, L)
    try:
        influence = _influence(model, visible)
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        return [MaskVerdict(False, f"模型不收四维掩码：{first}")] * len(cases)
    return [
        _judged(change, allowed)
        for change, allowed in zip(influence, visible, strict=True)
    ]


def _visible(mask: "MaskKind", packed: bool) -> Any:
    """试验用的可见矩阵，(1, L, L) bool。"""
    import torch

    from companion.objectives.attention import mask_rule, visible_pairs

    lengths, prefixes = (_LENGTHS, _PREFIXES) if packed else ((_LENGTH,), (_PREFIX,))
    numbers = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    rule = mask_rule(mask, numbers[None], torch.tensor([prefixes]))
    return visible_pairs(numbers[None], *rule)


def _influence(model: Any, visible: Any) -> Any:
    """改动键 j 之后查询 i 的输出变了多少，相对于输出幅度，(M, L, L) float32。"""
    import torch

    from companion.objectives.attention import additive_mask

    length = visible.shape[1]
    ids = plain_ids(model.config, 2 * length)
    # 第 0 个变体是原样，第 j + 1 个改动第 j 个词元
    variants = ids[:length].repeat(length + 1, 1)  # (K, L)
    place = torch.arange(length)
    variants[place + 1, place] = ids[length:]
    count = len(visible)
    masks = additive_mask(visible, model.dtype)  # (M, 1, L, L)
    net = model.get_encoder() if model.config.is_encoder_decoder else model
    cache = {"use_cache": False} if takes(net, "use_cache") else {}
    with evaluation_mode(model):
        outputs = net(
            input_ids=variants.repeat(count, 1).to(model.device),
            attention_mask=masks.repeat_interleave(length + 1, dim=0).to(model.device),
            **cache,
        )
    # 判别器一个位置只有一个分数：V = 1
    values = outputs[0].float().reshape(count, length + 1, length, -1)  # (M, K, L, V)
    change = (values[:, 1:] - values[:, :1]).abs().amax(-1)  # (M, 键, 查询)
    return change.transpose(1, 2).cpu() / values.abs().amax().clamp(min=1e-12).cpu()


def _judged(change: Any, allowed: Any) -> MaskVerdict:
    """一张掩码的判断；`change`、`allowed` 各 (L, L)。"""
    leak = float(change.masked_fill(allowed, 0).max())
    if leak > _TOLERANCE:
        return MaskVerdict(False, f"试出泄漏，相对差 {leak:.1e}", leak)
    # bfloat16 会把小的变化舍掉，所以不逐对要求，只要求左右两个方向都有变化
    for name, pairs in (("左", allowed.tril(-1)), ("右", allowed.triu(1))):
        if pairs.any() and not (change[pairs] > 0).any():
            return MaskVerdict(False, f"没有理会掩码：许看{name}边，却看不见", leak)
    return MaskVerdict(True, f"试过：只看得见许看的，相对差 {leak:.1e}", leak)
