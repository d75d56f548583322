"""四个家族，同一句话：各自的检查点、样本与掩码，声称的与试出来的并排。"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from companion.batch import IGNORE_INDEX
from companion.checkpoints.loading import Checkpoint, load_checkpoint, load_tokenizer
from companion.checkpoints.tiny import tiny_model
from companion.notebook.prefixes import prefix_example
from companion.notebook.profiles import require_profile
from companion.notebook.tables import Table, fixed
from companion.plots.rows import AttentionPanel
from companion.preflight.influence import measured_visibility
from companion.preflight.probing import adapt_batch, evaluation_mode
from companion.show import Example, token_text

MODELS: dict[str, dict[str, str]] = {
    "tiny": {
        "causal_lm": "starter:bloom",
        "masked_lm": "starter:bert",
        "text_infilling": "starter:bart",
        "prefix_lm": "tiny:llama",
    },
    "t4": {
        "causal_lm": "bigscience/bloom-560m",
        "masked_lm": "SIKU-BERT/sikubert",
        "text_infilling": "fnlp/bart-base-chinese",
        "prefix_lm": "Qwen/Qwen3-0.6B-Base",
    },
    "full": {
        "causal_lm": "bigscience/bloom-1b7",
        "masked_lm": "SIKU-BERT/sikuroberta",
        "text_infilling": "fnlp/bart-large-chinese",
        "prefix_lm": "Qwen/Qwen3-1.7B-Base",
    },
}
"""档 → 每个家族的训练目标与检查点；`tiny:` 的权重是随机的，只能看掩码，不会写字。"""

NAMES = {
    "causal_lm": "因果",
    "masked_lm": "掩码",
    "text_infilling": "编码器–解码器",
    "prefix_lm": "前缀",
}
_OPTIONS: dict[str, dict[str, Any]] = {"masked_lm": {"mlm_probability": 0.3}}
"""短句里也要遮得到几个字。"""


@dataclass(frozen=True)
class Family:
    """一个家族的代表：打开了的检查点，与它用的训练目标。"""

    name: str
    objective: str
    checkpoint: Checkpoint

    def example(self, text: str, seed: int = 0, **options: Any) -> Example:
        """这个家族眼里的 `text`；`options` 交给整理器。"""
        return prefix_example(self.objective, self.checkpoint, text, seed, **options)


def open_families(profile: str) -> dict[str, Family]:
    """打开四个家族的检查点，训练目标的键 → 家族。

    Args:
        profile: `tiny`、`t4` 或 `full`。

    Raises:
        ConfigError: 没有这一档。
    """
    require_profile(profile, MODELS)
    chosen = MODELS[profile]
    return {
        key: Family(NAMES[key], key, _open(name, key, chosen["causal_lm"]))
        for key, name in chosen.items()
    }


def _open(name: str, objective: str, words: str) -> Checkpoint:
    """`tiny:` 的模型随机造一个，借用 `words` 的分词器，切出的词元因此相同。"""
    prefix, _, kind = name.partition(":")
    if prefix != "tiny":
        return load_checkpoint(name, objective)
    tokenizer = load_tokenizer(words)
    return Checkpoint(tiny_model(kind, tokenizer), tokenizer, name)


def family_examples(
    families: Mapping[str, Family], text: str, seed: int
) -> dict[str, Example]:
    """同一句话，四个家族各出一个样本；键同 `families`。"""
    return {
        key: family.example(text, seed, **_OPTIONS.get(key, {}))
        for key, family in families.items()
    }


def claimed_masks(family: Family, example: Example) -> list[AttentionPanel]:
    """掩码声称的：谁看得见谁；题目写明是哪个家族。"""
    panels = example.masks()
    if len(panels) == 1:
        return [replace(panels[0], title=family.name)]
    return panels


def measured_masks(family: Family, example: Example) -> list[AttentionPanel]:
    """试出来的：改动列上的词元，行上的输出变了，就是看得见；次序同 `claimed_masks`。"""
    measured = measured_visibility(family.checkpoint.model, example.batch)
    return [
        replace(panel, title=f"{panel.title}（试出来的）", visible=seen.numpy())
        for panel, seen in zip(claimed_masks(family, example), measured, strict=True)
    ]


def masks_table(
    families: Mapping[str, Family], examples: Mapping[str, Example]
) -> Table:
    """每个矩阵一行：声称看得见几格，试出来几格，对不上几格。"""
    rows: list[list[str]] = []
    for key, family in families.items():
        claimed = claimed_masks(family, examples[key])
        measured = measured_masks(family, examples[key])
        for said, found in zip(claimed, measured, strict=True):
            wrong = said.visible != found.visible
            counts = [_cells(each) for each in (said.visible, found.visible, wrong)]
            rows.append([said.title, *counts])
    return Table(["掩码", "声称看得见", "试出来的", "对不上"], rows)


def _cells(matrix: Any) -> str:
    return f"{int(matrix.sum())} / {matrix.size}"


def shift_table(families: Iterable[Family], text: str, seed: int) -> Table:
    """标签照原样交给模型，与自己先左移一格，损失各是多少（每个目标多少奈特）。

    Args:
        families: 要试的家族，预训练过的才看得出差别。
        text: 一段长些的文字，短句只有几个目标。
        seed: 遮哪些词元的种子。
    """
    rows: list[list[str]] = []
    for family in families:
        batch = family.example(text, seed).batch
        labels = batch["labels"]
        moved = labels.roll(-1, dims=1)
        moved[:, -1] = IGNORE_INDEX
        losses = [_loss(family, {**batch, "labels": each}) for each in (labels, moved)]
        rows.append([family.name, family.checkpoint.name, *map(fixed, losses)])
    return Table(["家族", "模型", "照原样", "先移一格"], rows)


def _loss(family: Family, batch: Mapping[str, Any]) -> float:
    model = family.checkpoint.model
    with evaluation_mode(model):
        return float(model(**adapt_batch(model, dict(batch))).loss)


def attention_table(checkpoint: Checkpoint, texts: Mapping[str, str]) -> Table:
    """每个词元得到多少注意力：各层、各头、各个查询平均，一句里加起来是 1。

    Args:
        checkpoint: 编码器；试的时候换成 eager 实现，别的实现不交出权重。
        texts: 名字 → 一句话；要切成一样多的词元。
    """
    columns: list[list[str]] = []
    for text in texts.values():
        encoded = checkpoint.tokenizer(text, return_tensors="pt")
        ids = encoded["input_ids"][0].tolist()
        columns.append([token_text(checkpoint.tokenizer, each) for each in ids])
        columns.append([fixed(each) for each in _received(checkpoint.model, encoded)])
    heads = [title for name in texts for title in (name, "注意力")]
    return Table(heads, list(zip(*columns, strict=True)))


def _received(model: Any, encoded: Mapping[str, Any]) -> list[float]:
    import torch

    usual = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with evaluation_mode(model):
            attentions = model(**encoded, output_attentions=True).attentions
    finally:
        model.set_attn_implementation(usual)
    return torch.stack(attentions).mean((0, 1, 2, 3)).tolist()  # (层, B, 头, Q, K)
