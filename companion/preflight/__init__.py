"""体检：分词器、权重、掩码、谁看得见谁、设备。

名字在第一次用到时才导入，`import companion.preflight` 因此不加载 torch。
"""

from companion.lazy import on_first_use

_HOMES = {
    "Device": "device",
    "Finding": "findings",
    "PackingVerdict": "leaks",
    "adapt_batch": "probing",
    "best_device": "device",
    "can_pack": "leaks",
    "check_checkpoint": "checking",
    "measured_visibility": "influence",
    "packing_leak": "leaks",
    "packing_table": "leaks",
    "token_influence": "influence",
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]

__getattr__, __dir__ = on_first_use(__name__, _HOMES)
