"""训练目标：一篇论文一个文件，这里是唯一的名册。

名册不导入 torch，`companion objectives` 因此立刻就有回答。
"""

import difflib
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from companion.errors import ObjectiveError


@dataclass(frozen=True, kw_only=True)
class Objective:
    """一个训练目标：叫什么、出自哪里、要什么样的模型。"""

    key: str
    title: str
    family: str
    """模型家族的中文名。"""
    paper: str
    auto_class: str
    """transformers 中打开检查点的 Auto 类。"""
    causal: bool
    """位置 t 的输出对位置 t+1 的标签（真），还是对位置 t 的（假）。"""
    collator: str
    """整理器所在，`模块:类`。"""
    options: tuple[str, ...] = field(default=())
    """设置里属于本目标的字段，原样传给整理器。"""
    starter: str
    """离线演示所用的起步模型。"""

    def make_collator(self, tokenizer: Any, **options: Any) -> Any:
        """建一个整理器；`options` 之外的参数取论文的缺省值。"""
        module, _, name = self.collator.partition(":")
        return getattr(import_module(module), name)(tokenizer, **options)


OBJECTIVES: dict[str, Objective] = {
    "causal_lm": Objective(
        key="causal_lm",
        title="因果语言建模",
        family="因果语言模型（GPT、BLOOM、Llama、Qwen）",
        paper="Radford 等，2018，§3.1；打包：Ding 等，2024",
        auto_class="AutoModelForCausalLM",
        causal=True,
        collator="companion.objectives.causal_lm:CausalLMCollator",
        starter="starter:bloom",
    ),
    "masked_lm": Objective(
        key="masked_lm",
        title="掩码语言建模",
        family="掩码语言模型（BERT、RoBERTa、ALBERT、ERNIE、SikuBERT）",
        paper="Devlin 等，2019，§3.1；整词：Cui 等，2021，§III",
        auto_class="AutoModelForMaskedLM",
        causal=False,
        collator="companion.objectives.masked_lm:MaskedLMCollator",
        options=("mlm_probability", "granularity", "seed"),
        starter="starter:bert",
    ),
}


def get_objective(key: str) -> Objective:
    """按名字取训练目标。

    Raises:
        ObjectiveError: 没有这个名字；消息列出全部名字，并猜最接近的一个。
    """
    if key in OBJECTIVES:
        return OBJECTIVES[key]
    near = difflib.get_close_matches(key, OBJECTIVES, n=1, cutoff=0.4)
    raise ObjectiveError(
        found=f"训练目标 {key!r} 不在名册里",
        expected="、".join(OBJECTIVES) + " 之一",
        remedy=f"是不是想写 {near[0]}" if near else "用 companion objectives 查看名册",
    )
