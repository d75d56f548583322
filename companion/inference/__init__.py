"""推理：给掩码填字（`fill`），给开头续写（`complete`），填补缺文（`infill`）。

名字在第一次用到时才导入，`import companion.inference` 因此不加载 torch。
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
