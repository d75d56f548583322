"""书里点了名的模型，打包、四维掩码、bf16、重算、编译哪样用得：逐一试出来。

    python experiments/model_support.py [--backend inductor] [--resume]

写 `results/model_support.json`，书末的“模型×目标支持表”由它生成。torch.compile 缺省用
aot_eager（捕捉整个模型的图与反向，不生成代码），一行几秒；inductor 一行几十秒。

`NAMED_MODELS` 是一张名单，一行一个（模型，目标）；`measure_support` 拿随机权重的极小模
型把各列逐一试出来，与 float32 的损失、梯度相比，不靠相信。测试重试便宜的几列，核对表没
有过时。一种架构有几个自己的目标时，各占一行。
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from by_hand import losses_by_hand, objective_by_hand
from recording import RESULTS, record

from companion.batch import Batch, Feature
from companion.checkpoints.electra_pair import (
    DISCRIMINATORS,
    ElectraPair,
    fresh_generator,
)
from companion.checkpoints.reading import quiet_transformers
from companion.checkpoints.running import (
    adapt_batch,
    fitted_objective,
    model_options,
)
from companion.checkpoints.tiny import TINY_TEXT, tiny_model, tiny_tokenizer
from companion.errors import CompanionError
from companion.objectives import Objective, get_objective
from companion.objectives.translation_lm import pair_feature
from companion.preflight.visibility import can_pack, mask_verdict

NAME = "model_support"
_SAME = 1e-4
"""重算、编译之后的损失与梯度：相对差至多这么大；float32 的舍入在 1e-6 左右。"""
_CLOSE = 0.02
"""bf16 只有三位十进制有效数字：损失的相对差至多这么大。"""
_NUM_TEXTS = 6
_COMPILING = (AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class NamedModel:
    """名单的一行。"""

    name: str
    """书里的叫法。"""
    kind: str
    """`TINY_KINDS` 的键。"""
    objective: str
    """训练目标的键。"""

    @property
    def label(self) -> str:
        """给人看的，例如 "BERT + masked_lm"。"""
        return f"{self.name} + {self.objective}"


NAMED_MODELS: tuple[NamedModel, ...] = (
    NamedModel("GPT-2", "gpt2", "causal_lm"),
    NamedModel("GPT-2", "gpt2", "prefix_lm"),
    NamedModel("BLOOM", "bloom", "causal_lm"),
    NamedModel("BLOOM", "bloom", "fill_in_the_middle"),
    NamedModel("Llama", "llama", "causal_lm"),
    NamedModel("Qwen3", "qwen3", "causal_lm"),
    NamedModel("Qwen3", "qwen3", "prefix_lm"),
    NamedModel("Qwen3", "qwen3", "fill_in_the_middle"),
    NamedModel("Qwen3", "qwen3", "masked_diffusion"),
    NamedModel("BERT", "bert", "masked_lm"),
    NamedModel("BERT", "bert", "sentence_order"),
    NamedModel("BERT", "bert", "masked_diffusion"),
    NamedModel("UniLM", "bert", "unified_lm"),
    NamedModel("SikuBERT", "bert", "masked_lm"),
    NamedModel("ERNIE", "ernie", "masked_lm"),
    NamedModel("ALBERT", "albert", "masked_lm"),
    NamedModel("ALBERT", "albert", "sentence_order"),
    NamedModel("RoBERTa", "roberta", "masked_lm"),
    NamedModel("DistilBERT", "distilbert", "masked_lm"),
    NamedModel("ConvBERT", "convbert", "replaced_token"),
    NamedModel("XLM", "xlm", "masked_lm"),
    NamedModel("XLM", "xlm", "translation_lm"),
    NamedModel("XLM-RoBERTa", "xlm-roberta", "masked_lm"),
    NamedModel("FlauBERT", "flaubert", "masked_lm"),
    NamedModel("ELECTRA", "electra", "replaced_token"),
    NamedModel("Funnel", "funnel", "replaced_token"),
    NamedModel("ModernBERT", "modernbert", "masked_lm"),
    NamedModel("ModernBERT", "modernbert", "masked_diffusion"),
    NamedModel("T5", "t5", "span_corruption"),
    NamedModel("UL2", "t5", "mixture_of_denoisers"),
    NamedModel("mT5", "mt5", "span_corruption"),
    NamedModel("BART", "bart", "text_infilling"),
    NamedModel("中文 BART", "bart-chinese", "text_infilling"),
    NamedModel("MASS", "bart", "masked_seq2seq"),
    NamedModel("PEGASUS", "pegasus", "gap_sentences"),
    NamedModel("GLM", "glm_two_row", "blank_infilling"),
    NamedModel("GLM-4", "glm", "prefix_lm"),
)
"""书里点了名的模型，与各自的目标；换目标、添模型都只动一行。"""


@dataclass(frozen=True)
class SupportRow:
    """一个（模型，目标）试出来的结果；每列空字符串是用得，否则是用不得的缘由。"""

    packing: str
    four_d_mask: str
    bf16: str
    gradient_checkpointing: str
    compile: str | None
    """torch.compile；没有试的为 None。"""


def measure_support(
    kind: str, objective: str, *, backend: str | None = None
) -> SupportRow:
    """把各列逐一试出来。

    Args:
        kind: `TINY_KINDS` 的键。
        objective: 训练目标的键。
        backend: 也试 torch.compile，用这个后端：aot_eager 试图的捕捉与求导，几秒；
            inductor 再加代码生成，一个模型几十秒，要 C++ 编译器。缺省不试。
    """
    goal = get_objective(objective)
    tokenizer = goal.with_special_tokens(tiny_tokenizer(kind))
    model = tiny_for(kind, goal, tokenizer, **no_dropout(kind))
    goal = fitted_objective(model, goal)
    packable, mask = can_pack(model), mask_verdict(model, "prefix")
    alone = "" if goal.packable else "这个目标一行一个样本，或一个句对"
    batch = _batch(model, tokenizer, goal)
    model.train()  # 重算只在训练模式下发生；随机失活已是零
    exact = _step(model, batch, goal.causal)
    return SupportRow(
        packing=alone or ("" if packable else packable.reason),
        four_d_mask="" if mask else mask.reason,
        bf16=_bf16(model, batch, goal.causal, exact),
        gradient_checkpointing=_recomputed(model, batch, goal.causal, exact),
        compile=_compiled(model, batch, goal.causal, exact, backend)
        if backend
        else None,
    )


def no_dropout(kind: str) -> dict[str, float]:
    """配置里与随机失活有关的各项，都置零：比较损失之前先去掉随机。"""
    fields = vars(tiny_model(kind).config)
    return {
        name: 0.0
        for name, value in fields.items()
        if "drop" in name and isinstance(value, float)
    }


def tiny_for(kind: str, goal: Objective, tokenizer: Any, **overrides: Any) -> Any:
    """照目标建的极小模型：句序用预训练类，替换词元检测是生成器与判别器的一对。

    Args:
        kind: `TINY_KINDS` 的键。
        goal: 训练目标。
        tokenizer: 词表由它定。
        **overrides: 覆盖配置的任意字段。
    """
    if goal.discriminator:
        judge = tiny_model(
            kind, tokenizer, auto_class=DISCRIMINATORS[kind], num_labels=1, **overrides
        )
        return ElectraPair(fresh_generator(judge), judge).eval()
    chosen = goal.auto_class if goal.judges_order else None
    return tiny_model(kind, tokenizer, auto_class=chosen, **overrides)


def _batch(model: Any, tokenizer: Any, goal: Any) -> Batch:
    """几篇短文，照目标破坏，一行一篇；要句对的，一行一对。"""
    collator = goal.make_collator(tokenizer, **model_options(model, goal))
    pairs = list(zip(TINY_TEXT, TINY_TEXT[4:], strict=False))[:_NUM_TEXTS]
    rows: list[Feature] = [
        pair_feature(tokenizer, *pair, example_id=number)
        if goal.pairs_required
        else {"input_ids": tokenizer("".join(pair))["input_ids"], "example_id": number}
        for number, pair in enumerate(pairs)
    ]
    return adapt_batch(model, collator(rows))


def _each(model: Any) -> Iterable[Any]:
    """一对里的两个模型；别的就是它自己。"""
    return getattr(model, "parts", {"": model}).values()


def _step(model: Any, batch: Batch, causal: bool) -> tuple[float, Any]:
    """一次前向、反向；返回每目标的损失，与全部梯度接成的一个向量。"""
    model.zero_grad()
    loss = objective_by_hand(losses_by_hand(model, batch, causal=causal))
    loss.backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return float(loss.detach()), torch.cat(gradients)


def _different(step: tuple[float, Any], exact: tuple[float, Any]) -> str:
    """损失或梯度与 `exact` 不同时说出差多少。"""
    loss = abs(step[0] - exact[0]) / abs(exact[0])
    slope = float((step[1] - exact[1]).norm() / exact[1].norm())
    if loss <= _SAME and slope <= _SAME:
        return ""
    return f"损失的相对差 {loss:.0e}，梯度的 {slope:.0e}"


def _bf16(model: Any, batch: Batch, causal: bool, exact: tuple[float, Any]) -> str:
    def half() -> str:
        with torch.autocast("cpu", torch.bfloat16):
            loss, slope = _step(model, batch, causal)
        change = abs(loss - exact[0]) / exact[0]
        if change <= _CLOSE and bool(slope.isfinite().all()):
            return ""
        return f"损失的相对差 {change:.1%}"

    return _tried(half)


def _recomputed(
    model: Any, batch: Batch, causal: bool, exact: tuple[float, Any]
) -> str:
    if not model.supports_gradient_checkpointing:
        return "transformers 没有给这种架构实现"

    # transformers 5.23 改了方法名，旧名在第 6 版去掉
    renamed = all(hasattr(e, "activation_checkpointing_enable") for e in _each(model))
    switch = "activation_checkpointing_" if renamed else "gradient_checkpointing_"

    def recompute() -> str:
        for each in _each(model):
            getattr(each, switch + "enable")({"use_reentrant": False})
        return _different(_step(model, batch, causal), exact)

    try:
        return _tried(recompute)
    finally:
        for each in _each(model):
            getattr(each, switch + "disable")()


def _compiled(
    model: Any, batch: Batch, causal: bool, exact: tuple[float, Any], backend: str
) -> str:
    def compile_and_run() -> str:
        torch.compiler.reset()
        for each in _each(model):
            each.compile(backend=backend)
        return _different(_step(model, batch, causal), exact)

    return _tried(compile_and_run)


def _tried(attempt: Callable[[], str]) -> str:
    """试一次；抛出的异常写成缘由。"""
    try:
        return attempt()
    except CompanionError:
        raise
    except _COMPILING as error:
        return (str(error) or type(error).__name__).strip().splitlines()[0][:120]


def main() -> None:
    """照名单逐行试，每行试完就存；同一种架构的同一个目标只试一次。"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--backend", default="aot_eager", help="torch.compile 的后端；none 不试这一列"
    )
    parser.add_argument("--resume", action="store_true", help="表里已有的行不再试")
    given = parser.parse_args()
    backend = None if given.backend == "none" else given.backend
    known = {}
    if given.resume:
        written = json.loads((RESULTS / f"{NAME}.json").read_text("utf-8"))
        known = {
            (row["kind"], row["objective"]): row
            for row in written["rows"]
            if row["compile"] is not None or backend is None
        }
        backends = {*written["backends"], backend} - {None}
    else:
        backends = {backend} - {None}
    rows = []
    for named in NAMED_MODELS:
        key, start = (named.kind, named.objective), time.perf_counter()
        if key not in known:
            with quiet_transformers():
                known[key] = asdict(measure_support(*key, backend=backend))
        rows.append({**known[key], **asdict(named)})
        record(NAME, {"backends": sorted(backends), "rows": rows})
        print(f"{named.label}：{time.perf_counter() - start:.0f} 秒", flush=True)


if __name__ == "__main__":
    main()
