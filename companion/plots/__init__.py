"""图：标签对齐、注意力可见范围、训练曲线；全书只在这里设定中文字体。

这里的函数只收普通的行（列表、字典、numpy 数组），不认识模型，也不认识分词器。名字在
第一次用到时才装载，因此 `import companion.plots` 不会带进 matplotlib。
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
