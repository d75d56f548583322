"""各个目标在模型上的损失：只算目标处的输出头，与句序、片段边界、教师。

名字在第一次用到时才导入，`import companion.losses` 因此不加载 torch。
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
