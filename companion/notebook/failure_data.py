"""数据里的失败：打包泄漏，留出集混进了训练集。"""

from typing import Any

from companion.checkpoints.loading import load_checkpoint, load_tokenizer
from companion.checkpoints.tiny import tiny_model
from companion.corpus.dedup import overlap
from companion.notebook.failure import Failure
from companion.notebook.failure_loop import (
    Trace,
    draw,
    fit,
    frozen,
    mean_nats,
    rows_of,
    sample_documents,
)
from companion.notebook.tables import Table, fixed
from companion.objectives.causal_lm import CausalLMCollator
from companion.objectives.masked_lm import MaskedLMCollator
from companion.plots.curves import Line
from companion.preflight.probing import evaluation_mode, takes

_TEXTS = ("狡兔死，走狗烹。", "今天天气很好，我们去看书吧。")
_OTHER = "飞鸟尽，良弓藏。"
"""与前一篇一样长，用来换掉它。"""
_HELD_OUT = 24
_COPIES = 3
"""混进训练集的留出文档重复几遍：转引、镜像站、多个版本。"""


def leaking_pack(seed: int, steps: int) -> Failure:
    """两篇装进一行而没有隔开：改动前一篇，后一篇的输出跟着变。

    Args:
        seed: 用不着：谁看得见谁由结构决定，与权重无关。
        steps: 同上。
    """
    del seed, steps
    tokenizer = load_tokenizer("starter:bloom")
    llama = tiny_model("llama", tokenizer)
    ways = packed_ways(tokenizer)
    changes = {
        name: later_change(llama, tokenizer, build, **cache)
        for name, (build, cache) in ways.items()
    }
    names = list(changes)
    wrong, right = names[0], names[-1]
    places = list(range(1, len(changes[wrong]) + 1))
    return Failure(
        title="打包泄漏：换掉前一篇，后一篇的输出变了多少",
        wrong="首尾相接，切成等长的行，一张全 1 的掩码",
        right="四维掩码隔开各篇，位置各从头数起",
        measure="后一篇的输出至多变了多少，相对于输出的幅度",
        wrong_value=max(changes[wrong]),
        right_value=max(changes[right]),
        verdict=f"前一篇换掉之后，后一篇的输出至多变了 {max(changes[wrong]):.3f}；"
        f"隔开之后是 {max(changes[right]):.1g}",
        lines=tuple(
            Line(name=name, x=places, y=changes[name], right=max(changes[name]) < 1e-5)
            for name in (wrong, right)
        ),
        xlabel="后一篇的第几个词元",
        ylabel="输出的相对变化",
        table=Table(
            ["怎样装进一行", "后一篇的输出变了", "隔开了吗"],
            [
                [name, fixed(max(each)), "是" if max(each) < 1e-5 else "否"]
                for name, each in changes.items()
            ],
        ),
        facts={"positions_only": max(changes[names[1]])},
    )  # fmt: skip


def packed_ways(tokenizer: Any) -> dict[str, tuple[Any, dict[str, bool]]]:
    """装法的名字 →（两篇的词元 → 批量的函数，交给模型的另几个参数）。"""
    from transformers import (
        DataCollatorForLanguageModeling,
        DataCollatorWithFlattening,
    )

    library = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    flat = DataCollatorWithFlattening()
    ours = CausalLMCollator(tokenizer)

    def joined(first: list[int], second: list[int]) -> Any:
        return library([{"input_ids": first + second}])

    def positioned(first: list[int], second: list[int]) -> Any:
        positions = [*range(len(first)), *range(len(second))]
        return library([{"input_ids": first + second, "position_ids": positions}])

    def flattened(first: list[int], second: list[int]) -> Any:
        return flat([{"input_ids": each} for each in (first, second)])

    def separated(first: list[int], second: list[int]) -> Any:
        starts = [0, len(first)]
        return ours([{"input_ids": first + second, "document_starts": starts}])

    cached, uncached = {"use_cache": True}, {"use_cache": False}
    name = "DataCollatorForLanguageModeling"
    return {
        f"首尾相接，{name}": (joined, uncached),
        f"另给从头数的位置，{name}": (positioned, uncached),
        "DataCollatorWithFlattening，开着缓存": (flattened, cached),
        "DataCollatorWithFlattening，关了缓存": (flattened, uncached),
        "companion 的整理器，开着缓存": (separated, cached),
        "companion 的整理器，关了缓存": (separated, uncached),
    }


def later_change(
    model: Any, tokenizer: Any, build: Any, **options: bool
) -> list[float]:
    """换掉前一篇，后一篇各个位置的输出变了多少，相对于输出的最大绝对值。

    Args:
        model: 因果语言模型。
        tokenizer: 分词器。
        build: 两篇的词元 → 批量。
        **options: 交给模型的另几个参数，如 `use_cache`。
    """
    first, second, other = (
        tokenizer(text, add_special_tokens=False).input_ids
        for text in (*_TEXTS, _OTHER)
    )
    outputs: list[Any] = []
    for front in (first, other):
        batch = {
            name: value
            for name, value in build(front, second).items()
            if name != "labels" and takes(model, name)
        }
        with evaluation_mode(model):
            outputs.append(model(**batch, **options).logits[0])  # (L, V)
    before, after = outputs
    change = (before - after)[len(first) :].abs().amax(-1)
    return (change / before.abs().max()).tolist()


def contaminated_validation(seed: int, steps: int) -> Failure:
    """留出的几篇也在训练集里：成绩一路变好，没见过的文档却不是这样。"""
    train = sample_documents("classical")
    chapters = sample_documents("classical", "valid")
    leaked, unseen = chapters[::2], chapters[1::2]
    mixed = [*train[: len(leaked) * _COPIES], *leaked * _COPIES]
    clean = train[: len(mixed)]
    traces: dict[bool, Trace] = {}
    after: dict[bool, float] = {}
    for good, documents in ((False, mixed), (True, clean)):
        checkpoint = load_checkpoint("starter:bert", "masked_lm")
        tokenizer, model = checkpoint.tokenizer, checkpoint.model
        fixed_noise = MaskedLMCollator(tokenizer)
        exam, other = (
            frozen(rows_of(tokenizer, each), fixed_noise, _HELD_OUT)
            for each in (leaked, unseen)
        )
        rows = rows_of(tokenizer, documents)
        traces[good] = fit(
            model,
            draw(rows, MaskedLMCollator(tokenizer, seed=seed), steps, seed),
            causal=False,
            probe=lambda m=model, e=exam: mean_nats(m, e, causal=False),
        )
        after[good] = mean_nats(model, other, causal=False)
    ends = {good: trace.probes[-1] for good, trace in traces.items()}
    reports = {
        good: overlap(each, leaked) for good, each in ((False, mixed), (True, clean))
    }
    return Failure(
        title="留出集混进了训练集：留出集的损失",
        wrong=f"留出的 {len(leaked)} 篇也在训练集里",
        right="按文档切分，训练之前查重合",
        measure="那几篇上遮住的字的损失，奈特/目标",
        wrong_value=ends[False],
        right_value=ends[True],
        worse_is_higher=False,
        verdict=f"{steps} 步之后，混进去的那几篇是 {ends[False]:.2f}，干净的切分是 "
        f"{ends[True]:.2f}；两边都没见过的几篇是 {after[False]:.2f} 与 "
        f"{after[True]:.2f}：多出来的进步是背书",
        lines=tuple(
            Line(name="干净的切分" if good else "混进了训练集",
                 x=list(map(float, trace.probed_at)), y=trace.probes, right=good)
            for good, trace in traces.items()
        ),
        xlabel="步",
        ylabel="留出集的损失（奈特/目标）",
        table=Table(
            ["", "那几篇", "没见过的几篇", "与训练集重合的篇数"],
            [
                [name, fixed(ends[good]), fixed(after[good]),
                 f"{reports[good].contaminated} / {reports[good].documents}"]
                for name, good in (("混进了训练集", False), ("干净的切分", True))
            ],
        ),
        facts={"before": traces[True].probes[0], "unseen_wrong": after[False],
               "unseen_right": after[True],
               "contaminated_wrong": reports[False].contaminated,
               "contaminated_right": reports[True].contaminated},
    )  # fmt: skip
