"""训练：设置 → 排定的批次 → `transformers.Trainer` → 检查点与报告。

名字在第一次用到时才载入，`import companion.training` 因此不加载 torch。
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
