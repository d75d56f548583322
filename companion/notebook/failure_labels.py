"""标签与词元里的失败：换错了分词器、填充就是结尾、累积放大了损失。"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from companion.checkpoints.loading import load_checkpoint, load_tokenizer
from companion.checkpoints.quiet import quiet_transformers
from companion.notebook.failure import Failure
from companion.notebook.failure_loop import (
    ROWS,
    Trace,
    draw,
    fit,
    frozen,
    mean_nats,
    rows_of,
    sample_documents,
    steps_axis,
)
from companion.notebook.tables import Table, fixed
from companion.objectives.causal_lm import CausalLMCollator
from companion.objectives.masked_lm import MaskedLMCollator
from companion.plots.curves import Line
from companion.preflight.probing import evaluation_mode

_HELD_OUT = 16
_SENTENCES = 200
"""学停下用几句话。"""
_ENDINGS = 8
"""考几句停不停。"""
_SHORTEST, _LONGEST = 4, 48


def wrong_tokenizer(seed: int, steps: int) -> Failure:
    """词表的字一个不少，次序不同：编号都合法，读到的却全是别的字。"""
    traces: dict[bool, Trace] = {}
    before: dict[bool, float] = {}
    for good in (False, True):
        checkpoint = load_checkpoint("starter:bert", "masked_lm")
        vocabulary = len(checkpoint.tokenizer)
        tokenizer = checkpoint.tokenizer if good else reordered(checkpoint.tokenizer)
        collator = MaskedLMCollator(tokenizer, seed=seed)
        exam = frozen(
            rows_of(tokenizer, sample_documents("classical", "valid")),
            MaskedLMCollator(tokenizer),
            _HELD_OUT,
        )
        before[good] = mean_nats(checkpoint.model, exam, causal=False)
        rows = rows_of(tokenizer, sample_documents("classical"))
        batches = draw(rows, collator, steps, seed)
        traces[good] = fit(checkpoint.model, batches, causal=False)
    ends = {good: trace.tail() for good, trace in traces.items()}
    guess = float(torch.tensor(float(vocabulary)).log())
    return Failure(
        title="换错了分词器：训练损失",
        wrong="词表的字相同而次序不同的分词器",
        right="与权重一同发布的分词器",
        measure="训练之前，留出集上遮住的字的损失，奈特/目标",
        wrong_value=before[False],
        right_value=before[True],
        verdict=f"训练之前，配套的分词器是 {before[True]:.2f}，换错的是 "
        f"{before[False]:.2f}，比瞎猜的 ln {vocabulary} = {guess:.2f} 还差；"
        f"{steps} 步之后是 {ends[True]:.2f} 与 {ends[False]:.2f}，看着像在学",
        lines=tuple(
            Line(name="配套的" if good else "换错的", x=steps_axis(trace),
                 y=trace.losses, right=good)
            for good, trace in traces.items()
        ),
        xlabel="步",
        ylabel="损失（奈特/目标）",
        table=opened_vocabularies(),
        facts={"guessing": guess, "tail_wrong": ends[False], "tail_right": ends[True]},
    )  # fmt: skip


def reordered(tokenizer: Any) -> Any:
    """同样的字，按码位另排一遍编号；特殊词元的编号不动。"""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary: dict[str, int] = state["model"]["vocab"]
    special = {*tokenizer.all_special_tokens}
    words = [word for word in vocabulary if word not in special]
    places = sorted(vocabulary[word] for word in words)
    state["model"]["vocab"] = {
        **{word: vocabulary[word] for word in vocabulary if word in special},
        **dict(zip(sorted(words), places, strict=True)),
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        **{
            name: word
            for name, word in tokenizer.special_tokens_map.items()
            if isinstance(word, str)
        },
    )


def opened_vocabularies() -> Table:
    """同一个只有 vocab.txt 的文件夹，各种打开法各得到几个词元。

    中文的 ALBERT、RoBERTa、GPT-2 多半如此：权重是别的架构，词表是 BERT 的。
    """
    from transformers import AutoTokenizer, BertTokenizer

    words = load_tokenizer("starter:bert").get_vocab()
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as name, quiet_transformers():
        folder = Path(name)
        lines = sorted(words, key=words.__getitem__)
        (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (folder / "config.json").write_text('{"model_type": "roberta"}')
        opened = {
            "AutoTokenizer（model_type 是 roberta）": AutoTokenizer.from_pretrained(
                folder
            ),
            "BertTokenizer(vocab_file=…)": BertTokenizer(
                vocab_file=str(folder / "vocab.txt")
            ),
            "companion 的 load_tokenizer": load_tokenizer(name),
        }
        for how, tokenizer in opened.items():
            ids = tokenizer("臣光曰", add_special_tokens=False).input_ids
            seen = " ".join(tokenizer.convert_ids_to_tokens(ids)) or "（空的）"
            rows.append([how, str(len(tokenizer)), seen])
    return Table(["怎样打开", "词元数", "“臣光曰”切成"], rows)


def pad_is_eos(seed: int, steps: int) -> Failure:
    """`pad_token = eos_token`：库的整理器按编号遮标签，结尾一个也不剩。"""
    from transformers import DataCollatorForLanguageModeling

    traces: dict[bool, Trace] = {}
    kept: dict[bool, int] = {}
    for good in (False, True):
        checkpoint = load_checkpoint("starter:bloom", "causal_lm")
        tokenizer = checkpoint.tokenizer
        tokenizer.pad_token = tokenizer.eos_token
        rows = _sentences(tokenizer, "train")[:_SENTENCES]
        library = DataCollatorForLanguageModeling(tokenizer, mlm=False)
        collator = CausalLMCollator(tokenizer) if good else _only_ids(library)
        [batch] = draw(rows, collator, 1, seed)
        kept[good] = int((batch["labels"] == tokenizer.eos_token_id).sum())
        exam = _sentences(tokenizer, "valid")[:_ENDINGS]
        traces[good] = fit(
            checkpoint.model,
            draw(rows, collator, steps, seed),
            causal=True,
            probe=lambda m=checkpoint.model, e=exam: stopping(m, e),
        )
    ends = {good: trace.probes[-1] for good, trace in traces.items()}
    return Failure(
        title="填充就是结尾：句子写完了，下一个是结尾的概率",
        wrong="pad_token = eos_token，用 DataCollatorForLanguageModeling",
        right="按位置遮标签（CausalLMCollator），或另设填充词元",
        measure="留出的句子写完之后，下一个词元是结尾的概率",
        wrong_value=ends[False],
        right_value=ends[True],
        worse_is_higher=False,
        verdict=f"{ROWS} 句话的批量里，库的标签有 {kept[False]} 个结尾，本包的有 "
        f"{kept[True]} 个；{steps} 步之后，句子写完时停下的概率是 {ends[False]:.3f} 与 "
        f"{ends[True]:.3f}（训练前 {traces[True].probes[0]:.3f}）",
        lines=tuple(
            Line(name="CausalLMCollator" if good else "库的整理器",
                 x=list(map(float, trace.probed_at)), y=trace.probes, right=good)
            for good, trace in traces.items()
        ),
        xlabel="步",
        ylabel="下一个词元是结尾的概率",
        table=Table(
            ["整理器", "标签里的结尾", "停下的概率：训练前", "训练后"],
            [
                [name, str(kept[good]), fixed(traces[good].probes[0]),
                 fixed(ends[good])]
                for name, good in (
                    ("DataCollatorForLanguageModeling", False),
                    ("CausalLMCollator", True),
                )
            ],
        ),
        facts={"kept_wrong": kept[False], "kept_right": kept[True],
               "before": traces[True].probes[0]},
    )  # fmt: skip


def stopping(model: Any, rows: list[dict[str, list[int]]]) -> float:
    """每句去掉结尾，看下一个词元是结尾的概率；各句平均。"""
    total = 0.0
    with evaluation_mode(model):
        for row in rows:
            *ids, end = row["input_ids"]
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1]  # (V,)
            total += float(logits.softmax(-1)[end])
    return total / len(rows)


def _sentences(tokenizer: Any, split: str) -> list[dict[str, list[int]]]:
    """白话一侧的句子，一句一篇，各以结尾收尾。"""
    sentences = [
        f"{sentence}。"
        for document in sample_documents("modern", split)
        for sentence in document.text.split("。")
        if _SHORTEST < len(sentence) < _LONGEST
    ]
    encoded = tokenizer(sentences, add_special_tokens=False).input_ids
    return [{"input_ids": [*ids, tokenizer.eos_token_id]} for ids in encoded]


def _only_ids(collator: Any) -> Any:
    """库的整理器不认得样本编号与轮次，只给它词元。"""
    return lambda rows: dict(
        collator([{"input_ids": row["input_ids"]} for row in rows])
    )


def accumulated_loss(seed: int, steps: int) -> Failure:
    """梯度累积：库的 Trainer 把掩码语言模型的损失与梯度放大几倍，一声不响。

    Args:
        seed: 遮哪些词元、用哪几行。
        steps: 用不着；一步就看得出来。
    """
    del steps
    from companion.notebook.accumulation import COUNTS, library_step, our_step

    checkpoint = load_checkpoint("starter:bert", "masked_lm")
    tokenizer = checkpoint.tokenizer
    rows = rows_of(tokenizer, sample_documents("classical"))
    [batch] = draw(rows, MaskedLMCollator(tokenizer, seed=seed), 1, seed)
    library = {n: library_step(batch, n) for n in COUNTS}
    ours = {n: our_step(batch, n) for n in COUNTS}
    last = COUNTS[-1]
    shown = [("Trainer", library, False), ("companion", ours, True)]
    return Failure(
        title="累积放大了损失：同样四行，分几次读完",
        wrong="transformers 的 Trainer 训练 BERT，gradient_accumulation_steps > 1",
        right="损失在目标上求和，除以整步的目标数",
        measure=f"累积 {last} 次时的损失是不累积时的几倍",
        wrong_value=library[last].loss / library[1].loss,
        right_value=ours[last].loss / ours[1].loss,
        verdict=f"同样的四行一次读完，损失是 {library[1].loss:.2f}；分 {last} 次累积，"
        f"Trainer 记下 {library[last].loss:.2f}，梯度范数是原来的 "
        f"{library[last].norm / library[1].norm:.2f} 倍；本包记下的仍是 "
        f"{ours[last].loss:.2f}",
        lines=tuple(
            Line(name=name, x=list(map(float, COUNTS)),
                 y=[each[n].loss for n in COUNTS], right=good)
            for name, each, good in shown
        ),
        xlabel="gradient_accumulation_steps",
        ylabel="记下的损失（奈特/目标）",
        table=Table(
            ["累积几次", *(f"{name}：{what}" for name, _, _ in shown
                           for what in ("损失", "梯度范数"))],
            [
                [str(n), *(fixed(value) for _, each, _ in shown
                           for value in (each[n].loss, each[n].norm))]
                for n in COUNTS
            ],
        ),
        facts={"norm_wrong": library[last].norm / library[1].norm,
               "norm_right": ours[last].norm / ours[1].norm},
    )  # fmt: skip
