"""笔记本要用而别处用不着的：设置、表、做错与做对的对照、翻译、练习的批改。

笔记本因此每格只做一件事，不定义函数。名字在第一次用到时才导入，`import
companion.notebook` 不加载 torch，`setup` 来得及先把环境安静下来。
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
