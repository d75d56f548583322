"""打开检查点：先验明正身，再交给训练。

检查点残缺时，transformers 常常只打一行日志，随机补上缺的。这里都说成错误或提醒：

| 情形 | transformers | 这里 |
|---|---|---|
| 缺一半权重 | 日志 | `ModelError`，列出键名 |
| 缺输出头 | 日志 | 提醒，`Checkpoint.missing_keys` 有名单 |
| 只有 vocab.txt 的 ALBERT、GPT-2 等 | 1–104 个词元的分词器 | 改用 BertTokenizer，提醒 |
| 词元编号超出词嵌入 | 训练中途越界 | `ModelError` |
| 会执行代码的 pickle | 英文异常 | `ModelError`，不执行 |

不信任下载来的东西：优先 safetensors，旧式 .bin 只经 torch 的 weights_only 读取，
从不执行仓库里的代码（`trust_remote_code=False`）。
"""

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from companion.checkpoints.locating import DISCRIMINATOR, GENERATOR, Location, locate
from companion.checkpoints.reading import (
    check_weight_files,
    load_weights,
    quiet_transformers,
    read_config,
    read_json,
    read_tokenizer,
)
from companion.checkpoints.running import (
    judges_order,
    kind_of,
    model_options,
    word_table,
)
from companion.errors import ModelError, reason_of
from companion.objectives import Objective, get_objective

_SMALLEST_COVERAGE = 0.5
"""分词器的词表不足词嵌入的这一比例时，断定读错了分词器。"""


@dataclass(frozen=True)
class Checkpoint:
    """打开了的检查点。"""

    model: Any
    """`transformers.PreTrainedModel`，float32，评估模式，在 CPU 上。"""
    tokenizer: Any
    name: str
    """用户给的名字。"""
    notices: list[str] = field(default_factory=list)
    """用户应当知道、但不妨碍训练的事，中文。"""
    missing_keys: tuple[str, ...] = ()
    """检查点里没有、因而随机初始化的张量。"""
    weight_notices: tuple[str, ...] = ()
    """`notices` 里说权重有缺、有多的几条。"""
    conflicting_tie: bool = False
    """设置说输入与输出的词嵌入共享，文件里却是不同的两份；读进来后各是各的。"""


def load_checkpoint(
    name: str,
    objective: str | Objective,
    *,
    revision: str | None = None,
    generator: str | None = None,
) -> Checkpoint:
    """打开模型与分词器，并核对它们合不合训练目标。

    Args:
        name: starter:名字、本地文件夹，或模型仓库的编号（可带 @版本）；
            也可以是 LoRA 适配器的文件夹，适配器会并进它的底座。
        objective: 训练目标或它的键，决定用哪个 Auto 类。
        revision: 仓库的分支、标签或提交。
        generator: replaced_token 的生成器；不给就用同一文件夹里的，再没有就新建。

    Returns:
        打开了的检查点；replaced_token 的 `model` 是一对（`ElectraPair`），别的目标打开
        一对的文件夹时，只取其中的生成器。目标要的特殊词元分词器没有的，词表已经扩好，
        提醒里说明。

    Raises:
        ModelError: 找不到、残缺、不可信，或与训练目标不合。
    """
    goal = get_objective(objective) if isinstance(objective, str) else objective
    if goal.discriminator:
        from companion.checkpoints.electra_pair import open_pair

        pair, tokenizer, remarks = open_pair(name, generator, revision=revision)
        check_fit(pair, tokenizer, goal, name)
        return Checkpoint(pair, tokenizer, name, remarks)
    location = _word_half(locate(name, revision), name)
    if (location.folder / "adapter_config.json").is_file():
        return _load_adapter(name, location.folder, goal)
    config = read_config(location.folder, name)
    goal = goal.for_kind(kind_of(config))
    check_family(config, goal, name)
    notices = [*location.notices, *check_weight_files(location.folder)]
    with quiet_transformers():
        loaded = load_weights(location.folder, goal.auto_class)
    tokenizer, remarks = read_tokenizer(location.folder, name)
    check_fit(loaded.model, tokenizer, goal, name)
    found = Checkpoint(
        loaded.model,
        tokenizer,
        name,
        [*notices, *loaded.notices, *remarks],
        loaded.missing_keys,
        loaded.notices,
        loaded.conflicting_tie,
    )
    from companion.checkpoints.vocabulary import extend_for_objective

    return extend_for_objective(found, goal)


def load_tokenizer(name: str, *, revision: str | None = None) -> Any:
    """只打开分词器；名字的写法同 `load_checkpoint`，权重不下载。

    Raises:
        ModelError: 找不到，或没有可用的分词器文件。
    """
    folder = locate(name, revision, weights=False).folder
    if (folder / DISCRIMINATOR).is_dir():
        folder = folder / DISCRIMINATOR
    return read_tokenizer(folder, name)[0]


def load_objective(
    name: str, objective: Objective, *, revision: str | None = None
) -> Objective:
    """训练目标用于这个检查点时的样子，由 config.json 看出；权重不下载。

    Raises:
        ModelError: 找不到，或设置读不懂。
    """
    if len(objective.forms) == 1:
        return objective
    folder = locate(name, revision, weights=False).folder
    return objective.for_kind(kind_of(read_config(folder, name)))


def load_model_options(
    name: str, objective: Objective, *, revision: str | None = None
) -> dict[str, Any]:
    """整理器的参数里只有模型知道的几项（`model_options`），由 config.json 看出。

    照设置搭一个没有权重的空壳来问，所以与训练时问真模型的答案相同；权重不下载。

    Raises:
        ModelError: 找不到，设置读不懂，或与训练目标不合。
    """
    if not objective.model_options:
        return {}
    import torch
    import transformers

    folder = locate(name, revision, weights=False).folder
    config = read_config(folder, name)
    objective = objective.for_kind(kind_of(config))
    check_family(config, objective, name)
    with quiet_transformers(), torch.device("meta"):
        hull = getattr(transformers, objective.auto_class).from_config(config)
    return model_options(hull, objective)


def _word_half(location: Location, name: str) -> Location:
    """一对模型的文件夹→ 其中会猜字的生成器；别的原样返回。"""
    if not (location.folder / DISCRIMINATOR).is_dir():
        return location
    inside = location.folder / GENERATOR
    if inside.is_dir():
        notice = f"{name} 是生成器与判别器的一对，打开的是其中的生成器"
        return Location(inside, (*location.notices, notice))
    raise ModelError(
        found=f"{name} 里只有判别器",
        expected="会猜字的模型：判别器只判真假，没有语言建模的头",
        remedy="用 --objective replaced_token，或换成配套的生成器",
    )


def _load_adapter(name: str, folder: Path, goal: Objective) -> Checkpoint:
    """LoRA 适配器：打开它的底座，并进去，得到一个普通模型。"""
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ModelError(
            found=f"{name} 是 LoRA 适配器，本机没有装 peft",
            expected="能读适配器的环境",
            remedy="pip install 'cpt-companion[lora]'",
        ) from error
    written = read_json(folder / "adapter_config.json")
    base_name = written.get("base_model_name_or_path")
    if not base_name:
        raise ModelError(
            found=f"{name} 的 adapter_config.json 没有写底座",
            expected="base_model_name_or_path 指明底座模型",
            remedy="在 adapter_config.json 里补上底座的路径或仓库编号",
        )
    if (folder / base_name).is_dir():  # 相对适配器文件夹的路径
        base_name = str(folder / base_name)
    beside = folder.parent / Path(base_name).name
    if not Path(base_name).exists() and (beside / "config.json").is_file():
        base_name = str(beside)  # 连同底座一起搬了家
    base = load_checkpoint(base_name, goal, revision=written.get("revision"))
    remarks = _fit_embeddings(base.model, folder, name)
    frozen = {n for n, w in base.model.named_parameters() if not w.requires_grad}
    with quiet_transformers(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = PeftModel.from_pretrained(base.model, str(folder))
            model = model.merge_and_unload()
            for key, weight in model.named_parameters():  # peft 冻结了底座
                weight.requires_grad_(key not in frozen)
        except Exception as error:  # 权重与底座不符时 peft 与 torch 各抛各的
            raise ModelError(
                found=f"适配器 {name} 装不上底座 {base_name}：{reason_of(error)}",
                expected="适配器与它训练时的底座配套，权重是纯张量",
                remedy="核对 base_model_name_or_path 与 revision",
            ) from error
    if any("missing adapter keys" in str(warning.message) for warning in caught):
        raise ModelError(
            found=f"适配器 {name} 的权重与 adapter_config.json 对不上，有缺",
            expected="适配器的每个张量都在文件里",
            remedy="重新下载或重新保存适配器",
        )
    tokenizer = base.tokenizer
    remarks.append(f"已把适配器 {name} 并入底座 {base_name}")
    if any(folder.glob("tokenizer*")) or (folder / "vocab.txt").is_file():
        tokenizer, more = read_tokenizer(folder, name)
        remarks += more
    check_fit(model, tokenizer, goal, name)
    notices = [*base.notices, *remarks]
    return Checkpoint(
        model.eval(),
        tokenizer,
        name,
        notices,
        base.missing_keys,
        base.weight_notices,
        base.conflicting_tie,
    )


def _fit_embeddings(model: Any, folder: Path, name: str) -> list[str]:
    """适配器连词嵌入一起存着、行数与底座不同的：训练它之前扩过词表，底座照样扩。

    Returns:
        提醒：扩了就有一条。
    """
    from safetensors import safe_open

    file = folder / "adapter_model.safetensors"
    words = model.get_input_embeddings().weight
    if not file.is_file():  # 旧式 .bin：行数不符时由 peft 报错
        return []
    with safe_open(file, framework="pt") as stored:
        shapes = {key: stored.get_slice(key).get_shape() for key in stored.keys()}  # noqa: SIM118
    layer = next(
        key for key, module in model.named_modules()
        if module is model.get_input_embeddings()
    )  # fmt: skip
    rows = {
        shape[0]
        for key, shape in shapes.items()
        if f"{layer}." in key
        and shape[1:] == [words.shape[1]]
        and "lora_" not in key
        and "trainable_tokens" not in key  # 只有新词元的几行
    }
    if not rows or rows == {words.shape[0]}:
        return []
    before = words.shape[0]
    model.resize_token_embeddings(rows.pop(), mean_resizing=False)
    after = model.get_input_embeddings().weight.shape[0]
    return [
        f"适配器 {name} 训练之前扩过词表：底座的词嵌入由 {before} 行改为 {after} 行"
    ]


def check_family(config: Any, goal: Objective, name: str) -> None:
    """编码器、解码器、编码器–解码器各有其目标。

    Args:
        config: 检查点的 transformers 设置。
        goal: 训练目标。
        name: 用户给的名字。

    Raises:
        ModelError: 不是这个目标要的那一类。
    """
    import transformers

    wanted = getattr(transformers, goal.auto_class)
    kind = {
        "encoder": "编码器",
        "decoder": "解码器",
        "encoder_decoder": "编码器–解码器",
    }[kind_of(config)]
    needed = {
        "AutoModelForMaskedLM": "编码器",
        "AutoModelForPreTraining": "编码器",
        "AutoModelForCausalLM": "解码器",
        "AutoModelForSeq2SeqLM": "编码器–解码器",
    }[goal.auto_class]
    if kind == needed and type(config) in wanted._model_mapping:
        if not goal.judges_order:
            return
        if judges_order(wanted._model_mapping[type(config)]):
            return
    other = {
        "编码器": "masked_lm",
        "解码器": "causal_lm",
        "编码器–解码器": "span_corruption（T5 类）、text_infilling（BART 类）",
    }[kind]
    change = f"，或改用目标 {other}" if kind != needed else ""
    unknown = "" if kind != needed else f"，不在 {goal.auto_class} 认得的架构里"
    raise ModelError(
        found=f"{name} 是{kind}（model_type：{config.model_type}）{unknown}",
        expected=f"{goal.key} 用{needed}：{goal.family}",
        remedy=f"换一个这样的检查点（例如 {goal.starter}）{change}",
    )


def check_fit(model: Any, tokenizer: Any, goal: Objective, name: str) -> None:
    """分词器与模型、与目标是否相配。

    Args:
        model: 已打开的模型，或一对模型。
        tokenizer: 它的分词器。
        goal: 训练目标。
        name: 用户给的名字。

    Raises:
        ModelError: 编号超出词嵌入，词表差得太多，或没有掩码词元。
    """
    rows = len(word_table(model))
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= rows:
        raise ModelError(
            found=f"{name} 的分词器有编号 {largest}，词嵌入只有 {rows} 行",
            expected=f"每个词元的编号小于 {rows}",
            remedy="换回与这份权重配套的分词器；若添过新词，"
            "先用 model.resize_token_embeddings 扩词嵌入并保存",
        )
    if len(tokenizer) < _SMALLEST_COVERAGE * rows:
        raise ModelError(
            found=f"{name} 的分词器只有 {len(tokenizer)} 个词元，词嵌入有 {rows} 行",
            expected="两者大致相等；差这么多，多半是缺词表文件或读错了分词器",
            remedy="补齐 tokenizer.json 或 vocab.txt；中文的 ALBERT、RoBERTa、GPT-2 "
            "若用 BERT 词表，在 config.json 写上 tokenizer_class: BertTokenizer",
        )
    if goal.usage == "fill" and tokenizer.mask_token_id is None:
        raise ModelError(
            found=f"{name} 的分词器没有掩码词元",
            expected=f"{goal.key} 的分词器有 mask_token（BERT 的是 [MASK]）",
            remedy=f"换一个这样的检查点（例如 {goal.starter}），或改用目标 causal_lm",
        )
