"""掩码家族：同一句话，各种选法各遮哪里；ELECTRA 的一对怎样造假、认假。

形状字母：T 一行的词元数，M 普通词元数。
"""

import math
from collections import Counter
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from companion.batch import IGNORE_INDEX
from companion.errors import ModelError
from companion.notebook.masking import feature_for
from companion.notebook.tables import Table, fixed
from companion.objectives.masked_lm import Granularity, MaskedLMCollator
from companion.objectives.presets import PRESETS
from companion.show import Example, show_example, token_text

GRANULARITIES: dict[Granularity, str] = {
    "token": "逐词元",
    "whole_word": "全词",
    "ngram": "词组",
    "span": "片段",
}
_LONGEST = 4
"""相连的目标，这么长以上的并在一栏。"""


def granularity_table(text: str, tokenizer: Any, seed: int, **options: Any) -> Table:
    """同一句话，四种粒度各遮一遍。

    Args:
        text: 一句话。
        tokenizer: 掩码语言模型的分词器。
        seed: 噪声的种子。
        **options: 交给整理器的其余几项，例如 `mlm_probability`。
    """
    rows = [
        [title, *_question(text, tokenizer, seed, granularity=key, **options)]
        for key, title in GRANULARITIES.items()
    ]
    return Table(["粒度", "模型看到的", "要猜的"], rows)


def presets_table(
    text: str, tokenizer: Any, seed: int, needs: Mapping[str, Mapping[str, Any]]
) -> Table:
    """同一句话，各论文的选法各遮一遍；ERNIE 的三个阶段各占一行。

    Args:
        text: 一句话。
        tokenizer: 掩码语言模型的分词器。
        seed: 噪声的种子。
        needs: 选法 → 它另要的几项：`macbert` 要 `similar_words`，`ernie` 要 `names`。
    """
    rows: list[list[str]] = []
    for key, preset in PRESETS.items():
        for stage in range(3 if preset.words == "stages" else 1):
            name = f"{key} 第 {stage + 1} 阶段" if preset.words == "stages" else key
            given = dict(needs.get(key, {}))
            seen = _question(text, tokenizer, seed, epoch=stage, preset=key, **given)
            rows.append([name, preset.title, *seen])
    return Table(["选法", "怎样选", "模型看到的", "要猜的"], rows)


def run_lengths(text: str, tokenizer: Any, draws: int = 60, **options: Any) -> Table:
    """各粒度遮 `draws` 遍：相连的目标有多长，各占几成。

    Args:
        text: 一段文字，长些数得准。
        tokenizer: 掩码语言模型的分词器。
        draws: 遮几遍。
        **options: 交给整理器的其余几项。
    """
    rows: list[list[str]] = []
    for key, title in GRANULARITIES.items():
        collator = MaskedLMCollator(tokenizer, granularity=key, **options)
        feature = feature_for(text, collator)
        counts: Counter[int] = Counter()
        for number in range(draws):
            [drawn] = collator.examples([{**feature, "example_id": number}])
            counts.update(
                min(sum(1 for _ in run), _LONGEST)
                for chosen, run in groupby((drawn.labels != IGNORE_INDEX).tolist())
                if chosen
            )
        total = counts.total()
        shares = [counts[size] / total for size in range(1, _LONGEST + 1)]
        mean = sum(size * share for size, share in enumerate(shares, 1))
        rows.append([title, *map(fixed, shares), fixed(mean)])
    sizes = [f"{size} 个" for size in range(1, _LONGEST)]
    return Table(
        ["粒度", *sizes, f"{_LONGEST} 个以上", f"平均（至多算 {_LONGEST}）"], rows
    )


def replaced_table(checkpoint: Any, text: str, seed: int = 0) -> Table:
    """ELECTRA 的一对过一遍：遮了哪些，生成器填了什么，判别器信不信。

    Args:
        checkpoint: 生成器与判别器的一对，例如 `starter:electra`。
        text: 一句话。
        seed: 遮哪些、抽什么的种子。

    Raises:
        ModelError: 检查点不是一对。
    """
    import torch

    from companion.checkpoints.electra_pair import ElectraPair
    from companion.preflight.probing import evaluation_mode

    pair, tokenizer = checkpoint.model, checkpoint.tokenizer
    if not isinstance(pair, ElectraPair):
        raise ModelError(
            found=f"{checkpoint.name} 是 {type(pair).__name__}",
            expected="生成器与判别器的一对",
            remedy='用 load_checkpoint("starter:electra", "replaced_token") 打开',
        )
    batch = show_example("replaced_token", text, tokenizer, seed).batch
    batch = {name: value.to(pair.device) for name, value in batch.items()}
    original = batch["original_ids"]
    judged = original != IGNORE_INDEX
    with torch.no_grad(), evaluation_mode(pair):
        fakes, _ = pair.make_fakes(batch)
        truth = (fakes != original).long().masked_fill(~judged, IGNORE_INDEX)
        found = pair.detect({**batch, "input_ids": fakes, "labels": truth})
    rows: list[list[str]] = []
    columns = (original, batch["input_ids"], fakes, truth)
    for (was, seen, fake, replaced), nats in zip(
        zip(*(column[judged].tolist() for column in columns), strict=True),
        found.nats.tolist(),
        strict=True,
    ):
        right = math.exp(-nats)
        words = [token_text(tokenizer, each) for each in (was, seen, fake)]
        verdict = "换过" if replaced else ""
        rows.append([*words, verdict, fixed(right if replaced else 1 - right)])
    return Table(["原文", "生成器看到", "判别器看到", "真相", "说“换过”的把握"], rows)


def _question(
    text: str, tokenizer: Any, seed: int, *, epoch: int = 0, **options: Any
) -> tuple[str, str]:
    """题面与答案：相连的目标连写，隔开的以顿号隔开。"""
    example = show_example("masked_lm", text, tokenizer, seed, epoch=epoch, **options)
    special = set(tokenizer.all_special_ids) - {tokenizer.mask_token_id}
    seen = "".join(
        token_text(tokenizer, each) for each in example.input_ids if each not in special
    )
    return seen, _answers(example, tokenizer)


def _answers(example: Example, tokenizer: Any) -> str:
    runs = [
        "".join(token_text(tokenizer, label) for label in run)
        for chosen, run in groupby(example.labels, lambda label: label != IGNORE_INDEX)
        if chosen
    ]
    return "、".join(runs)
