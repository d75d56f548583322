"""设置与整理器共用的几种选法；不导入 torch，`companion --help` 因此立刻就有回答。"""

from typing import Literal

Granularity = Literal["token", "whole_word", "ngram", "span"]
"""掩码语言建模：谁和谁一起被选中（`masked_lm`）。"""

PresetName = Literal[
    "bert",
    "roberta",
    "bert-wwm",
    "albert",
    "spanbert",
    "macbert",
    "ernie",
    "modernbert",
]
"""掩码语言建模：照哪一篇论文选（`presets`）。"""

SpanPlacement = Literal["unbiased", "reference"]
"""片段破坏与文本填补：各处机会相等，或照发布的代码。"""

InfillingNoise = Literal["text_infilling", "token_masking", "token_deletion"]
"""文本填补：怎样弄坏（`text_infilling`）。"""

GapStrategy = Literal["principal", "random", "lead"]
"""缺句生成：挖哪几句（`gap_sentences`）。"""
