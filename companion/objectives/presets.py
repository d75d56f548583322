"""各论文的掩码选法：`MaskedLMCollator` 的参数，一篇一套，都有名字。

    MaskedLMCollator(tokenizer, **get_preset("albert").options)

这里不导入 torch，`companion objectives` 因此立刻就能列出它们。

ERNIE 1.0 分三个阶段：先逐字，再以短语为单位，再以专名为单位，每个阶段从上一阶段的权重继
续。三个阶段的参数相同，差别全在词界，`companion.corpus.segmenters_for` 给出三个切词器：
一字一词（西文一串一词）、短语、专名优先。以 15% 选词，单字词也在其内。论文没有写各阶段
练多少步，训练时三等分。

MacBERT 练的时候没有 [MASK]，而评估与 `companion fill` 都以 [MASK] 出题；发布的 MacBERT
因此也“不能做原来的掩码任务”。它的好处要在下游任务上量。
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from companion.errors import ObjectiveError

WordSource = Literal["none", "words", "stages"]
"""词界从哪里来：不要，切词器，ERNIE 的三个阶段。"""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """一套掩码选法。"""

    key: str
    title: str
    """怎样选，一句话。"""
    paper: str
    """论文与章节。"""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """`MaskedLMCollator` 的参数；比例与粒度总在其中，没写的取缺省值。"""
    words: WordSource = "none"
    """样本的 `word_ids` 该怎样得来。"""
    similar_words: bool = False
    """要不要另给近义词表（`MaskedLMCollator.similar_words`）。"""


PRESETS: dict[str, Preset] = {
    "bert": Preset(
        key="bert",
        title="逐词元选 15%，个数恰好，80/10/10",
        paper="Devlin 等，2019，§3.1",
        options={"mlm_probability": 0.15, "granularity": "token"},
    ),
    "roberta": Preset(
        key="roberta",
        title="每一轮重新遮，个数随机取整",
        paper="Liu 等，2019，§4.1",
        options={
            "mlm_probability": 0.15,
            "granularity": "token",
            "rounding": "stochastic",
        },
    ),
    "bert-wwm": Preset(
        key="bert-wwm",
        title="全词掩码，词里逐字 80/10/10",
        paper="Cui 等，2021，§III",
        options={"mlm_probability": 0.15, "granularity": "whole_word"},
        words="words",
    ),
    "albert": Preset(
        key="albert",
        title="一至三个词的词组，6/11、3/11、2/11",
        paper="Lan 等，2020，§4.1",
        options={"mlm_probability": 0.15, "granularity": "ngram"},
        words="words",
    ),
    "spanbert": Preset(
        key="spanbert",
        title="几何分布的片段，一段一个决定",
        paper="Joshi 等，2020，§3.1",
        options={"mlm_probability": 0.15, "granularity": "span", "rounding": "up"},
        words="words",
    ),
    "macbert": Preset(
        key="macbert",
        title="一至四个词的词组，换成近义词，不用 [MASK]",
        paper="Cui 等，2021，§IV",
        options={
            "mlm_probability": 0.15,
            "granularity": "ngram",
            "ngram_shares": (0.4, 0.3, 0.2, 0.1),
            "rounding": "down",
        },
        words="words",
        similar_words=True,
    ),
    "ernie": Preset(
        key="ernie",
        title="先逐字，再整个短语，再整个专名，三个阶段",
        paper="Sun 等，2019，§3.2",
        options={"mlm_probability": 0.15, "granularity": "whole_word"},
        words="stages",
    ),
    "modernbert": Preset(
        key="modernbert",
        title="30%，逐词元独立",
        paper="Warner 等，2024，§2.2.2",
        options={
            "mlm_probability": 0.3,
            "granularity": "token",
            "selection": "bernoulli",
        },
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


def masking_options(key: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """一套选法与明说的几项合成整理器的参数。

    Args:
        key: 选法的名字；None 表示没有。
        given: 明说的参数，`mlm_probability`、`granularity` 等。

    Raises:
        ObjectiveError: 明说的一项与选法定下的不同；消息指出是哪一项。

    >>> masking_options("albert", {"seed": 1})["granularity"]
    'ngram'
    """
    fixed = {} if key is None else dict(get_preset(key).options)
    for name, value in given.items():
        if fixed.get(name, value) != value:
            raise ObjectiveError(
                found=f"preset={key} 定下 {name}={fixed[name]}，又给了 {name}={value}",
                expected="选法定下的几项不另给，或给得一样",
                remedy=f"去掉 {name}，或去掉 preset 自己逐项来设",
            )
    return {**fixed, **given}


def word_source(key: str | None, granularity: str) -> WordSource:
    """词界从哪里来；没有选法时只看粒度。

    >>> word_source(None, "token"), word_source(None, "span")
    ('none', 'words')
    >>> word_source("ernie", "whole_word")
    'stages'
    """
    if key is not None:
        return get_preset(key).words
    return "none" if granularity == "token" else "words"
