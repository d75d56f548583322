"""检查点：找、开、存、扩充词表；起步模型、极小模型与两行位置的 GLM。

名字在第一次用到时才导入，`import companion.checkpoints` 因此不加载 torch。
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
