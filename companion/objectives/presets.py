"""各论文的掩码选法：`MaskedLMCollator` 的参数，一篇一套，都有名字。

这里不导入 torch，`companion objectives` 因此立刻就能列出它们。

ERNIE 1.0 是先后三次训练，各用一套：先逐字，再以短语为单位，再以专名为单位，每次从上一次
的检查点继续。三套的差别全在词界：短语用切词器或短语词典，专名用
`companion.corpus.names.names_first`。发布的代码以 15% 选词，单字词也在其内；各阶段练多
少步，论文没有写。
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from companion.errors import ObjectiveError

WordSource = Literal["none", "words", "phrases", "names"]
"""词界从哪里来：不要，切词器，短语词典，专名词典（其余照短语）。"""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """一套掩码选法。"""

    key: str
    title: str
    paper: str
    """论文与章节。"""
    options: Mapping[str, Any] = field(default_factory=dict)
    """`MaskedLMCollator` 的参数；没写的取缺省值。"""
    words: WordSource = "none"
    """样本的 `word_ids` 该怎样得来。"""
    similar_words: bool = False
    """要不要另给近义词表（`MaskedLMCollator.similar_words`）。"""


PRESETS: dict[str, Preset] = {
    "bert": Preset(
        key="bert",
        title="BERT：逐词元选 15%，个数恰好，80/10/10",
        paper="Devlin 等，2019，§3.1",
    ),
    "roberta": Preset(
        key="roberta",
        title="RoBERTa：每一轮重新遮，个数随机取整",
        paper="Liu 等，2019，§4.1",
        options={"rounding": "stochastic"},
    ),
    "bert-wwm": Preset(
        key="bert-wwm",
        title="BERT-wwm：全词掩码，词里逐字 80/10/10",
        paper="Cui 等，2021，§III",
        options={"granularity": "whole_word"},
        words="words",
    ),
    "albert": Preset(
        key="albert",
        title="ALBERT：一至三个词的词组，6/11、3/11、2/11",
        paper="Lan 等，2020，§4.1",
        options={"granularity": "ngram"},
        words="words",
    ),
    "spanbert": Preset(
        key="spanbert",
        title="SpanBERT：几何分布的片段，一段一个决定",
        paper="Joshi 等，2020，§3.1",
        options={"granularity": "span", "rounding": "up"},
        words="words",
    ),
    "macbert": Preset(
        key="macbert",
        title="MacBERT：一至四个词的词组，换成近义词，不用 [MASK]",
        paper="Cui 等，2021，§IV",
        options={
            "granularity": "ngram",
            "ngram_shares": (0.4, 0.3, 0.2, 0.1),
            "rounding": "down",
        },
        words="words",
        similar_words=True,
    ),
    "ernie-basic": Preset(
        key="ernie-basic",
        title="ERNIE 第一阶段：逐字",
        paper="Sun 等，2019，§3.2",
    ),
    "ernie-phrase": Preset(
        key="ernie-phrase",
        title="ERNIE 第二阶段：短语整个遮住",
        paper="Sun 等，2019，§3.2",
        options={"granularity": "whole_word"},
        words="phrases",
    ),
    "ernie-entity": Preset(
        key="ernie-entity",
        title="ERNIE 第三阶段：人名、地名、官名整个遮住",
        paper="Sun 等，2019，§3.2",
        options={"granularity": "whole_word"},
        words="names",
    ),
    "modernbert": Preset(
        key="modernbert",
        title="ModernBERT：30%，逐词元独立",
        paper="Warner 等，2024，§2.2.2",
        options={"mlm_probability": 0.3, "selection": "bernoulli"},
    ),
}


def get_preset(key: str) -> Preset:
    """按名字取一套。

    Raises:
        ObjectiveError: 没有这个名字；消息列出全部名字，并猜最接近的一个。
    """
    if key in PRESETS:
        return PRESETS[key]
    near = difflib.get_close_matches(key, PRESETS, n=1, cutoff=0.4)
    raise ObjectiveError(
        found=f"没有名叫 {key!r} 的掩码选法",
        expected="、".join(PRESETS) + " 之一",
        remedy=f"是不是想写 {near[0]}" if near else "用 companion objectives 查看",
    )
