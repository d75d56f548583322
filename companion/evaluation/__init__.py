"""评估：每字比特数、伪对数似然、遗忘、报告卡。

名字在第一次用到时才导入，`import companion.evaluation` 因此不加载 torch。
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
