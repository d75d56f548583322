"""条件生成：照开头写。文言在前，末尾一个 [gMASK]，空里写白话。

    泠水不欺人。[gMASK]  →  泠水不欺骗人。

与编码器–解码器的翻译（`translation`）同样的句对、同样的评分；只有解码器的模型也做得到，因
为 A 部分是双向地读的。微调就是 blank_infilling：样本给出 `prefix_length`，其余是一个文
档级的空。
"""

from collections.abc import Sequence
from typing import Any

from companion.batch import Batch
from companion.checkpoints.running import model_options, special_edges
from companion.inference.completion import complete
from companion.inference.reading import require_causal
from companion.notebook.translation import ROOM, Pair, TranslationPlan, fit_pairs
from companion.objectives import get_objective
from companion.preflight.probing import adapt_batch


def finetune_blank(
    checkpoint: Any, pairs: Sequence[Pair], plan: TranslationPlan, seed: int = 0
) -> Any:
    """在句对上微调 GLM，就地改动模型。

    Args:
        checkpoint: 用 blank_infilling 训练过的检查点。
        pairs: （文言，白话）。
        plan: 步数、一步几对、学习率。
        seed: 每步取哪些句对。

    Returns:
        同一个检查点，已放到最好的设备上。

    Raises:
        ModelError: 不是只有解码器的模型。
        ObjectiveError: 分词器缺写空的词元，或句对长过模型的位置。
    """
    require_causal(checkpoint)
    return fit_pairs(checkpoint, pairs, plan, seed, make_batch=blank_batch)


def blank_batch(checkpoint: Any, pairs: Sequence[Pair]) -> Batch:
    """句对 → 批量：文言是前缀，白话是一个文档级的空，标签与输入对齐。"""
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    goal, edges = get_objective("blank_infilling"), special_edges(tokenizer)
    collator = goal.make_collator(tokenizer, **model_options(model, goal))
    features: list[dict[str, Any]] = []
    for number, pair in enumerate(pairs):
        source, target = tokenizer(list(pair), add_special_tokens=False)["input_ids"]
        features.append(
            {
                "input_ids": [*edges.prefix, *source, *target, *edges.suffix],
                "prefix_length": len(edges.prefix) + len(source),
                "example_id": number,
            }
        )
    return adapt_batch(model, collator(features))


def write_after(checkpoint: Any, sources: Sequence[str], max_chars: int) -> list[str]:
    """逐句：双向地读文言，贪心地写后面的空。

    Args:
        checkpoint: GLM。
        sources: 文言。
        max_chars: 参考译文至多多少字；再多写十几个词元就截断。
    """
    return [
        complete(checkpoint, each, max_chars + ROOM, objective="blank_infilling")[
            0
        ].new_text
        for each in sources
    ]
