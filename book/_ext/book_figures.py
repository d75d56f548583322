"""书里的图：数据取自 `results/` 或当场算出，画法都在 `companion.plots`。"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import checkpoint_costs
import practice_figures
from recorded import recorded

WIDTH = 5.0
"""英寸；比正文窄一些，手机上缩得不多，字还读得清。"""


def replay_tradeoff() -> Any:
    """回放与学习率：学到的对忘掉的，起步模型 bert。"""
    from companion.plots import plot_tradeoff

    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for run in recorded("replay_tradeoff")["runs"]:
        rate, ratio = run["learning_rate"], run["replay_ratio"]
        # 峰值 0.003 比不训练还差，画进来别的就挤成一团
        if (run["kind"], run["corpus"]) != ("bert", "tongjian") or rate > 1e-3:
            continue
        point = groups.setdefault(
            (rate, ratio),
            {
                "series": f"峰值 {rate:g}",
                "level": f"回放 {ratio:.0%}" if ratio else "不回放",
                "learned": [],
                "forgotten": [],
            },
        )
        before, after = run["before"], run["after"]
        point["learned"].append(before["domain"] - after["domain"])
        point["forgotten"].append(after["general"] - before["general"])
    points = [groups[key] for key in sorted(groups)]
    return plot_tradeoff(points, title="学到的与忘掉的，每字比特数", width=WIDTH)


def schedules() -> Any:
    """四种学习率曲线，一百步，预热一成。"""
    from companion.plots import plot_schedules
    from companion.training.arguments import factor_at

    steps, warmup = 100, 10
    names = {
        "cosine": "余弦（缺省）",
        "warmup_stable_decay": "预热、平稳、衰减",
        "linear": "线性",
        "constant": "不变",
    }
    curves = {
        name: [factor_at(step, kind, steps, warmup) for step in range(steps)]
        for kind, name in names.items()
    }
    return plot_schedules(
        curves, num_warmup=warmup, title="学习率怎样升、怎样降", width=WIDTH
    )


def packing() -> Any:
    """随包史书开头的十六句，一句一篇，打包前后。"""
    from companion.checkpoints.loading import load_tokenizer
    from companion.corpus.packing import plan_packing
    from companion.corpus.sources import read_corpus
    from companion.plots import RowsPanel, plot_rows

    capacity, special = 112, 2
    tokenizer = load_tokenizer("starter:bert")
    [text] = [each.text for each in read_corpus("sample:classical")][:1]
    lines = [line + "。" for line in text.split("。") if line][:16]
    encoded = tokenizer(lines, add_special_tokens=False)["input_ids"]
    lengths = [len(ids) for ids in encoded]
    panels: list[RowsPanel] = []
    for title, pack in (("一篇一行，补到最长", False), ("打包，一行至多 112", True)):
        plan = plan_packing(lengths, capacity, pack=pack, overhead_per_piece=special)
        rows = [
            [(piece.document, piece.stop - piece.start + special) for piece in row]
            for row in plan
        ]
        widest = max(sum(size for _, size in row) for row in rows)
        panels.append(RowsPanel(title, rows, [widest] * len(rows)))
    return plot_rows(panels, width=WIDTH)


SENTENCE = "狡兔死。"
"""短，两张图才能并排，手机上字也读得清。"""


def families() -> Any:
    """四个家族的掩码，取自真正的整理器。"""
    from companion.plots import plot_attention_panels

    panels: list[Any] = []
    for key, starter, title in (
        ("causal_lm", "bloom", "因果"),
        ("masked_lm", "bert", "掩码（编码器）"),
        ("prefix_lm", "bloom", "前缀"),
        ("text_infilling", "bart", ""),
    ):
        masks = _example(key, starter, SENTENCE).masks()
        panels += [replace(masks[0], title=title)] if title else masks
    return plot_attention_panels(panels, width=WIDTH)


def packed_causal() -> Any:
    """两篇装一行：各看各的。"""
    from companion.plots import plot_attention

    packed = _example("causal_lm", "bloom", ["狡兔死。", "飞鸟尽。"])
    title = "两篇装在一行，各只看自己的左边"
    rows = packed.rows
    return plot_attention(
        packed.visible, rows.tokens, documents=rows.document, title=title
    )


def packed_seq2seq() -> Any:
    """T5 把两篇装一行：解码器自己的与交叉的注意力，各隔开。"""
    from companion.plots import plot_attention_panels

    packed = _example("span_corruption", "t5", ["狡兔死。", "飞鸟尽。"])
    return plot_attention_panels(packed.masks()[1:], width=WIDTH)


def prefixes() -> Any:
    """UniLM 的四张掩码，与 GLM 的一张。"""
    from companion.plots import plot_attention_panels

    tasks: dict[str, Any] = {}
    for epoch in range(40):  # 任务逐行抽签，每种取最后抽到的
        row = _example("unified_lm", "bert", SENTENCE, seed=42, epoch=epoch)
        parts = [bool(part) for part in row.parts]
        one = "从右到左" if row.reverse else "从左到右"
        name = "双向" if all(parts) else "序列到序列" if any(parts) else one
        tasks[name] = replace(row.masks()[0], title=f"UniLM：{name}")
    blanks = _example("blank_infilling", "glm", SENTENCE, seed=3).masks()[0]
    panels = [tasks[name] for name in sorted(tasks)]
    panels.append(replace(blanks, title="GLM：先 A 后 B"))
    return plot_attention_panels(panels, width=WIDTH)


def _example(
    key: str, starter: str, text: str | list[str], seed: int = 42, **options: Any
) -> Any:
    """真正的整理器给出的一行。"""
    from companion.show import show_example

    goal, tokenizer, known = _opened(key, f"starter:{starter}")
    return show_example(goal, text, tokenizer, seed, model_options=known, **options)


@cache
def _opened(key: str, name: str) -> tuple[Any, Any, Any]:
    """目标、分词器，与整理器要问模型的几项；一个检查点只打开一次。"""
    from companion.checkpoints.loading import (
        load_model_options,
        load_objective,
        load_tokenizer,
    )
    from companion.objectives import get_objective

    goal = load_objective(name, get_objective(key))
    return goal, load_tokenizer(name), load_model_options(name, goal)


def fill_in_the_middle() -> Any:
    """中间填补的一行：中段挪到末尾，照旧只看左边。"""
    from companion.plots import plot_attention

    row = _example("fill_in_the_middle", "bloom", SENTENCE, seed=3)
    title = "中段挪到了末尾，仍是只看左边"
    return plot_attention(row.visible, row.rows.tokens, title=title)


def granularity() -> Any:
    """同一句话，几种粒度各遮哪里。"""
    rows: dict[str, Any] = {
        "逐词元": {},
        "全词": {"granularity": "whole_word"},
        "词组": {"granularity": "ngram"},
        "片段": {"granularity": "span"},
    }
    return _picked(rows, "平原君门下食客数千人，皆以为天下之士。", seed=1)


def whole_word() -> Any:
    """逐词元与全词，各遮哪里。"""
    rows: dict[str, Any] = {"逐词元": {}, "全词": {"granularity": "whole_word"}}
    return _picked(rows, "今天已经星期日了，明天就是周末了。", seed=3)


def _picked(choices: dict[str, Any], text: str, seed: int) -> Any:
    """一行一种选法，一格一个字，选中的涂色；三轮叠着看，一轮一个深浅。"""
    from companion.plots import style
    from companion.plots.style import Card, drawing, finish, plain

    epochs, size = 3, 0.27
    width = 0.75 + size * len(text)
    lines = len(choices) * (epochs + 0.6)
    said: list[str] = []
    with drawing():
        card = Card(width, 0.45 + size * lines, constrained=False)
        axes = card.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, width)
        axes.set_ylim(0.45 + size * lines, 0)
        axes.axis("off")
        top = 0.25
        for name, options in choices.items():
            middle = top + size * epochs / 2
            axes.text(0.62, middle, name, ha="right", va="center", color=style.INK)
            for epoch in range(epochs):
                row = _example(
                    "masked_lm", "bert", text, seed, epoch=epoch,
                    mlm_probability=0.3, **options,
                ).rows  # fmt: skip
                labels = row.labels[1:-1]
                shown = "".join(
                    "■" if label else letter
                    for letter, label in zip(text, labels, strict=True)
                )
                said.append(f"{name}：{shown}")
                for at, (letter, label) in enumerate(zip(text, labels, strict=True)):
                    x, y = 0.7 + size * at, top + size * epoch
                    color = style.BLUE if label else "white"
                    axes.fill(
                        [x, x + size, x + size, x],
                        [y, y, y + size, y + size],
                        color=color,
                        ec=style.PALE,
                        lw=0.8,
                    )
                    plain(
                        axes.text(
                            x + size / 2,
                            y + size / 2,
                            letter,
                            ha="center",
                            va="center",
                            color="white" if label else style.INK,
                        )
                    )
            top += size * (epochs + 0.6)
        return finish(card, "蓝底的字被选中，一种选法三轮。" + "；".join(said) + "。")


def ruler() -> Any:
    """起步模型与数出来的三元，文言一侧。"""
    from companion.plots import style
    from companion.plots.style import Card, drawing, finish

    rows = [
        row
        for row in recorded("measure_ruler")["summary"]
        if row["side"] == "classical"
    ]
    with drawing():
        card = Card(WIDTH, 0.9 + 0.42 * len(rows), constrained=True)
        axes = card.subplots()
        for at, row in enumerate(rows):
            axes.barh(at, row["bits_per_char"], color=style.LIGHT_BLUE, ec=style.BLUE)
            for key, mark in (("bigram", "|"), ("trigram", "D")):
                axes.plot(row[key], at, mark, color=style.VERMILION, ms=9, mew=2)
        names = [f"starter:{row['model']}" for row in rows]
        axes.set_yticks(range(len(rows)), names)
        axes.invert_yaxis()
        axes.set_xlim(6, 9)
        axes.set_xlabel("每字比特数，越短越好；｜是数出来的二元，◆是三元")
        axes.spines[["top", "right"]].set_visible(False)
        said = "；".join(
            f"{name} {row['bits_per_char']:.2f}，二元 {row['bigram']:.2f}，"
            f"三元 {row['trigram']:.2f}"
            for name, row in zip(names, rows, strict=True)
        )
        return finish(card, f"《资治通鉴》文言留出集上的每字比特数。{said}。")


def lora() -> Any:
    """全参数、LoRA 与只训练词嵌入：各个学习率下学到的与忘掉的。"""
    from companion.plots import plot_tradeoff

    names = {"full": "全参数", "embeddings": "只训练词嵌入"}
    points = [
        {
            "series": names.get(row["method"], f"LoRA 秩 {row['method'][5:]}"),
            "level": f"学习率 {row['learning_rate']:g}",
            "learned": [-100 * row["domain"]["mean"]],
            "forgotten": [100 * row["general"]["mean"]],
        }
        for row in recorded("full_or_lora")["summary"]
        if row["general"]["mean"] < 0.05  # 学坏了的在表里
    ]
    return plot_tradeoff(
        points, title="训练多少参数：学到的与忘掉的", percent=True, width=WIDTH
    )


def merging() -> Any:
    """合并的几种做法：领域与格式各剩多少。"""
    from companion.plots import style
    from companion.plots.style import Card, drawing, finish

    rows = recorded("merging")["summary"]
    line = [row for row in rows if row["model"].endswith("差")]
    start = [row for row in rows if row["model"] == "问答"]
    with drawing():
        card = Card(WIDTH, 3.6, constrained=True)
        axes = card.subplots()
        path = [(row["domain"]["mean"], row["format"]["mean"]) for row in start + line]
        axes.plot(*zip(*path, strict=True), color=style.BLUE, lw=1.2, zorder=1)
        for row in rows:
            x, y = row["domain"]["mean"], row["format"]["mean"]
            merged = row in line
            axes.plot(x, y, "o", color=style.BLUE if merged else style.VERMILION, ms=7)
            name = row["model"].removeprefix("问答 + ")
            short = {"问答之后再续训": "再续训", "问答与再续训之间插值一半": "插值一半"}
            axes.annotate(
                short.get(name, name), (x, y), textcoords="offset points",
                xytext=(6, 5) if merged or row in start else (-6, -5),
                ha="left" if merged or row in start else "right",
                va="bottom" if merged or row in start else "top",
            )  # fmt: skip
        axes.set_xlabel("领域：每字比特数（越左越好）")
        axes.set_ylabel("格式：每字比特数（越低越好）")
        axes.margins(x=0.22, y=0.12)
        axes.spines[["top", "right"]].set_visible(False)
        said = "；".join(
            f"{row['model']}：领域 {row['domain']['mean']:.3f}，"
            f"格式 {row['format']['mean']:.3f}"
            for row in rows
        )
        return finish(card, f"合并的几种做法。{said}。")


STEPS = (
    ("只差几个事实，或只换口气？", "先试提示与检索"),
    ("有标注、没有成片的文字？", "直接微调"),
    ("要看左右两边（判断、断句、检索）？", "masked_lm"),
    ("接着往下写？", "causal_lm"),
    ("读一段，写另一段？", "span_corruption、text_infilling"),
    ("一个模型又读又写、填几处空？", "blank_infilling、unified_lm"),
)


def decision() -> Any:
    """先问要做什么，再选目标。"""
    from companion.plots import style
    from companion.plots.style import Card, drawing, finish

    height = 0.62
    with drawing():
        card = Card(WIDTH, 0.3 + height * len(STEPS), constrained=False)
        axes = card.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, WIDTH)
        axes.set_ylim(0.3 + height * len(STEPS), 0)
        axes.axis("off")
        box = {"boxstyle": "round,pad=0.35", "lw": 1}
        for at, (question, answer) in enumerate(STEPS):
            y = 0.4 + height * at
            axes.text(
                0.15, y, question, va="center",
                bbox={**box, "fc": "white", "ec": style.GREY},
            )  # fmt: skip
            axes.annotate(
                answer, xy=(2.55, y), xytext=(3.0, y), va="center",
                bbox={**box, "fc": style.LIGHT_BLUE, "ec": style.BLUE},
            )  # fmt: skip
            axes.text(2.72, y, "是 →", va="center", ha="center", color=style.BLUE)
            if at + 1 < len(STEPS):
                axes.text(0.55, y + height / 2, "↓ 否", va="center", color=style.GREY)
        said = "；".join(f"{question}是，{answer}" for question, answer in STEPS)
        return finish(card, f"依次问：{said}。")


def ledger() -> Any:
    """随包史书训练一遍：语料的词元去了哪里，批量的格子装了什么。"""
    from companion.plots import style
    from companion.plots.style import Card, drawing, finish

    counts = _ledgers()
    with drawing():
        card = Card(WIDTH, 1.0 + 0.5 * len(counts), constrained=True)
        axes = card.subplots()
        colors = {
            "语料的词元": style.BLUE, "特殊词元": style.SKY, "填充": style.PALE
        }  # fmt: skip
        for at, parts in enumerate(counts.values()):
            left = 0
            for name, amount in parts.items():
                axes.barh(
                    at, amount, left=left, color=colors[name], ec="white",
                    label=name if at == 0 else None,
                )  # fmt: skip
                left += amount
        axes.set_yticks(range(len(counts)), list(counts))
        axes.invert_yaxis()
        axes.set_xlabel("批量里的格子，一遍")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
        said = "；".join(
            f"{way}：" + "、".join(f"{name} {n:,}" for name, n in parts.items())
            for way, parts in counts.items()
        )
        return finish(card, f"同样的文字，批量里的格子装了什么。{said}。")


def _ledgers() -> dict[str, dict[str, int]]:
    """三种装法的账：每行补到 128，按长度分桶，打包。"""
    from companion.checkpoints.loading import load_tokenizer
    from companion.corpus.packing import plan_packing
    from companion.corpus.sources import read_corpus

    tokenizer = load_tokenizer("starter:bert")
    lines = [
        line + "。"
        for document in read_corpus("sample:classical")
        for line in document.text.split("。")
        if line
    ]
    sizes = [
        len(ids) for ids in tokenizer(lines, add_special_tokens=False)["input_ids"]
    ]
    capacity, special, batch = 128, 2, 16
    found: dict[str, dict[str, int]] = {}
    for way in ("一句一行，补到 128", "按长度分桶", "打包"):
        plan = plan_packing(
            sizes, capacity, pack=way == "打包", overhead_per_piece=special
        )
        rows = [
            sum(piece.stop - piece.start + special for piece in row) for row in plan
        ]
        pieces = sum(len(row) for row in plan)
        if way.startswith("一句"):
            grid = capacity * len(rows)
        else:
            ordered = sorted(rows)
            groups = [ordered[n : n + batch] for n in range(0, len(ordered), batch)]
            grid = sum(max(group) * len(group) for group in groups)
        found[way] = {
            "语料的词元": sum(rows) - special * pieces,
            "特殊词元": special * pieces,
            "填充": grid - sum(rows),
        }
    return found


def memory() -> list[dict[str, Any]]:
    """几个公开的检查点训练时占多少，照 `training_memory` 的公式；只搭空壳，不下载。"""
    import torch

    from companion.preflight.device import Device, training_memory

    gpu = Device("cuda", "GPU", torch.bfloat16, 0, "")
    shells = {
        "SIKU-BERT/sikubert": "AutoModelForMaskedLM",
        "bigscience/bloom-560m": "AutoModelForCausalLM",
        "Qwen/Qwen3-0.6B-Base": "AutoModelForCausalLM",
    }
    rows: list[dict[str, Any]] = []
    for name, auto in shells.items():
        model = checkpoint_costs.hull(name, auto)
        parameters = sum(weight.numel() for weight in model.parameters())
        fixed = 16 * parameters
        whole = training_memory(model, gpu, 4096, 512)
        rows.append(
            {
                "model": f"`{name}`",
                "millions": parameters / 1e6,
                "states": fixed / 2**30,
                "activations": (whole - fixed) / 2**30,
                "whole": whole / 2**30,
                "frozen": (4 * parameters + whole - fixed) / 2**30,
            }
        )
    return rows


def sharded_memory() -> list[dict[str, Any]]:
    """切成几片，每块卡要多少：一个微批量 4096 个词元，bf16 计算，重算激活。

    参数、梯度、动量每个参数 16 字节，按片分。切不开的：最外一组（词嵌入、输出头）收齐的
    float32 与它的梯度；收齐着的两层与一层的梯度；各层的输入与正在重算的一层。
    """
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    shapes = {  # 宽、层数、头数、键值的头数、前馈的宽、词表、共不共用
        "Qwen2.5-0.5B": (896, 24, 14, 2, 4864, 151_936, True),
        "Qwen2.5-1.5B": (1536, 28, 12, 2, 8960, 151_936, True),
        "Qwen2.5-7B": (3584, 28, 28, 4, 18_944, 152_064, False),
        "Qwen2.5-14B": (5120, 48, 40, 8, 13_824, 152_064, False),
    }
    tokens, rows = 4096, list[dict[str, Any]]()
    for name, (width, depth, heads, keys, inner, words, tied) in shapes.items():
        config = Qwen2Config(
            hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads,
            num_key_value_heads=keys, intermediate_size=inner, vocab_size=words,
            tie_word_embeddings=tied,
        )  # fmt: skip
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)
        whole = sum(weight.numel() for weight in model.parameters())
        layer = sum(weight.numel() for weight in model.model.layers[0].parameters())
        activations = tokens * width * (4 * depth + 34)
        gathered = 8 * (whole - depth * layer) + 12 * layer
        fixed = gathered + activations
        rows.append(
            {
                "model": name,
                "billions": whole / 1e9,
                "one": (16 * whole + activations) / 2**30,
                "eight": (16 * whole / 8 + fixed) / 2**30,
                "many": (16 * whole / 32 + fixed) / 2**30,
                "fixed": fixed / 2**30,
            }
        )
    return rows


def failure(key: str) -> Any:
    """失败目录的一条：第一个种子，做错与做对的第一条曲线。"""
    from companion.notebook.contrast import Contrast

    first = recorded("failures")["runs"][key][0]
    sides = [
        {name: _curve(value) for name, value in first[side].items()}
        for side in ("wrong", "right")
    ]
    return Contrast(first["title"], *sides, "higher", first["x"]).plot(width=WIDTH)


def _curve(value: Any) -> Any:
    """记下的曲线读回来：横轴 → 纵轴，None 是非数；单个的数原样。"""
    if not isinstance(value, list):
        return value
    return {x: math.nan if y is None else y for x, y in value}


TABLES: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "memory": memory,
    "sharded_memory": sharded_memory,
    "mixture": practice_figures.mixture,
    "checkpoints_t4": partial(checkpoint_costs.rows, "t4"),
    "checkpoints_full": partial(checkpoint_costs.rows, "full"),
}

FIGURES: dict[str, Callable[[], Any]] = {
    "replay_tradeoff": replay_tradeoff,
    "packing": packing,
    "schedules": schedules,
    "families": families,
    "ledger": ledger,
    "packed_causal": packed_causal,
    "whole_word": whole_word,
    "packed_seq2seq": packed_seq2seq,
    "prefixes": prefixes,
    "fill_in_the_middle": fill_in_the_middle,
    "granularity": granularity,
    "ruler": ruler,
    "lora": lora,
    "decision": decision,
    "merging": merging,
    **practice_figures.FIGURES,
    **{
        f"failures_{key}": partial(failure, key)
        for key in recorded("failures")["cases"]
    },
}
