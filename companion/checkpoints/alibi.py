"""让 ALiBi 的模型收下隔开文档的四维掩码（BLOOM，用 ALiBi 的 Falcon）。

    softmax_j(q·k_j + m·j) = softmax_j(q·k_j + m·(j − c))        同一行的键各减同一个数

ALiBi（Press 等，2022，§3）按键的位置加一个偏置，每个查询只看偏置之差。transformers 由
二维掩码数出键的位置，一行只能装一篇；给四维掩码就报错。掩码隔开了文档，一个查询看得见的键
便都在同一篇里，各篇从自己的开头数位置就是了：与单独成行时的偏置逐位相同，半精度时也不因行
尾的位置大而多舍入。

MPT 的偏置不看掩码，本来就收。这里只换“造偏置”的一个函数；二维掩码照旧走原来的。

形状字母：B 行数，L 行长，H 头数。
"""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

FAMILIES = ("bloom", "falcon")
"""`modeling_<名字>.build_alibi_tensor` 由掩码造偏置的架构。"""


def accept_document_masks(model_type: str) -> None:
    """打开这种模型之前调用一次；别的架构什么也不做。

    Args:
        model_type: transformers 的 `config.model_type`。
    """
    if model_type not in FAMILIES:
        return
    module: Any = import_module(
        f"transformers.models.{model_type}.modeling_{model_type}"
    )
    if not hasattr(module.build_alibi_tensor, "original"):
        module.build_alibi_tensor = by_document(module.build_alibi_tensor)


def by_document(original: Callable[..., "Tensor"]) -> Callable[..., "Tensor"]:
    """`build_alibi_tensor` → 也收四维掩码的一个。

    Args:
        original: 原来的：(B, L) 的掩码 → (B·H, 1, L) 的偏置。
    """

    def build(attention_mask: "Tensor", num_heads: int, dtype: Any) -> "Tensor":
        import torch

        if attention_mask.dim() == 2:
            return original(attention_mask, num_heads, dtype)
        places = positions(attention_mask)  # (B, L)
        row = torch.ones(1, places.shape[1], dtype=torch.long, device=places.device)
        table = original(row, num_heads, dtype)[:, 0]  # (H, L) 一篇独占一行时的偏置
        return table[:, places].transpose(0, 1).reshape(-1, 1, places.shape[1])

    build.original = original  # type: ignore[attr-defined]
    return build


def positions(attention_mask: "Tensor") -> "Tensor":
    """各位置在自己的文档里是第几个，(B, L) int64。

    Args:
        attention_mask: (B, 1, L, L)，布尔，或加性的浮点（0 看得见）；每个文档的开头，
            文档里的每个查询都看得见。
    """
    import torch

    mask = attention_mask[:, 0]
    visible = mask > -1 if mask.is_floating_point() else mask.bool()
    first = visible.int().argmax(-1)  # (B, L) 看得见的头一个键，就是文档的开头
    return torch.arange(mask.shape[-1], device=mask.device) - first
