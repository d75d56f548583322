"""预训练模型的继续预训练：语料、训练目标、训练、评估、推理与图。

    from companion import TrainingConfig, train

    result = train(TrainingConfig(objective="masked_lm", model="starter:bert",
                                  corpus="sample:classical", output="out"))

公开的名字都在这里，第一次用到时才导入它所在的模块，所以 `import companion` 不加载
torch、transformers 与 matplotlib。

`glm_two_row`（两行位置的 GLM，如 `starter:glm`）的检查点由 `load_checkpoint` 打开；直接
用 transformers 的 Auto 类打开它，先写一行 `import companion.checkpoints.two_row_glm`。
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
