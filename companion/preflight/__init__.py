"""体检：分词器、权重、掩码、谁看得见谁、设备。

名字在第一次用到时才导入，`import companion.preflight` 因此不加载 torch。
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
