"""语料：从原始文本到文档，再到词元与打包的行；不用 torch。

一篇文本走过的路，每步一种类型进、一种类型出，不回头：

- `reading`：文件 → `Document`
- `cleaning`、`dedup`：`Document` → `Document`，或计了数的理由
- `splitting`：→ 训练集、留出集
- `words`、`tokens`：→ 词元
- `packing`、`pairing`：→ 打包的行，或一行一个句对；`ledger` 记账

公开的名字在第一次用到时才载入，`import companion.corpus` 本身不碰任何大库。
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
