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

import json
import warnings
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from companion.checkpoints.locating import Location, locate
from companion.checkpoints.quiet import quiet_transformers
from companion.checkpoints.suitability import check_family, check_fit
from companion.checkpoints.weights import check_weight_files, load_weights
from companion.errors import ModelError

if TYPE_CHECKING:
    from companion.objectives import Objective

_FOR_SENTENCEPIECE = {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf"}
"""transformers 读 spiece.model 要的包 → 导入时的名字。"""

DISCRIMINATOR, GENERATOR = "discriminator", "generator"
"""一对模型存在一个文件夹里时，各自的文件夹名。"""


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
    objective: "str | Objective",
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
        一对的文件夹时，只取其中的生成器。

    Raises:
        ModelError: 找不到、残缺、不可信，或与训练目标不合。
    """
    from companion.objectives import get_objective

    goal = get_objective(objective) if isinstance(objective, str) else objective
    if goal.discriminator:
        from companion.checkpoints.electra_checkpoint import load_pair

        pair = load_pair(name, generator, revision=revision)
        check_fit(pair.pair, pair.tokenizer, goal, name)
        return Checkpoint(pair.pair, pair.tokenizer, name, pair.notices)
    location = _word_half(locate(name, revision), name)
    if (location.folder / "adapter_config.json").is_file():
        return _load_adapter(name, location.folder, goal)
    config = read_config(location.folder, name)
    goal = goal.for_config(config)
    check_family(config, goal, name)
    notices = [*location.notices, *check_weight_files(location.folder)]
    with quiet_transformers():
        loaded = load_weights(location.folder, goal.auto_class)
    tokenizer, remarks = _read_tokenizer(location.folder, name)
    check_fit(loaded.model, tokenizer, goal, name)
    return Checkpoint(
        loaded.model,
        tokenizer,
        name,
        [*notices, *loaded.notices, *remarks],
        loaded.missing_keys,
        loaded.notices,
        loaded.conflicting_tie,
    )


def load_tokenizer(name: str, *, revision: str | None = None) -> Any:
    """只打开分词器；名字的写法同 `load_checkpoint`，权重不下载。

    Raises:
        ModelError: 找不到，或没有可用的分词器文件。
    """
    folder = locate(name, revision, weights=False).folder
    if (folder / DISCRIMINATOR).is_dir():
        folder = folder / DISCRIMINATOR
    return _read_tokenizer(folder, name)[0]


def load_objective(
    name: str, objective: "Objective", *, revision: str | None = None
) -> "Objective":
    """训练目标用于这个检查点时的样子，由 config.json 看出；权重不下载。

    Raises:
        ModelError: 找不到，或设置读不懂。
    """
    if objective.encoder_decoder is None:
        return objective
    folder = locate(name, revision, weights=False).folder
    return objective.for_config(read_config(folder, name))


def load_model_options(
    name: str, objective: "Objective", *, revision: str | None = None
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

    from companion.checkpoints.running import model_options

    folder = locate(name, revision, weights=False).folder
    config = read_config(folder, name)
    objective = objective.for_config(config)
    check_family(config, objective, name)
    with quiet_transformers(), torch.device("meta"):
        hull = getattr(transformers, objective.auto_class).from_config(config)
    return model_options(hull, objective)


def _word_half(location: Location, name: str) -> Location:
    """一对模型的文件夹（`save_pair`）→ 其中会猜字的生成器；别的原样返回。"""
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


def read_config(folder: Path, name: str) -> Any:
    """检查点的设置。

    Raises:
        ModelError: 没有 config.json，读不懂，或要执行仓库的代码。
    """
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        present = "、".join(sorted(p.name for p in folder.iterdir())[:5]) or "空的"
        raise ModelError(
            found=f"{name} 里没有 config.json（有：{present}）",
            expected="transformers 的检查点：config.json、权重与分词器",
            remedy="给出检查点所在的那一层文件夹；训练输出在 model/ 之下",
        )
    try:
        with quiet_transformers():
            return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # 配置由外人写成，错法不可穷举
        written = _read_json(folder / "config.json")
        if "auto_map" in written:
            raise ModelError(
                found=f"{name} 要执行仓库自带的代码才能打开",
                expected="transformers 内置的架构；本程序不执行下载来的代码",
                remedy="换一个内置架构的检查点（BERT、BLOOM、Qwen3……）",
            ) from error
        raise ModelError(
            found=f"{name} 的 config.json 读不懂"
            f"（model_type：{written.get('model_type', '没有写')}）",
            expected="transformers 认识的 model_type，例如 bert、bloom、qwen3",
            remedy="核对 config.json；老检查点补上 model_type 一行即可",
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _read_tokenizer(folder: Path, name: str) -> tuple[Any, list[str]]:
    """分词器与提醒。"""
    from transformers import AutoTokenizer, BertTokenizer

    tokenizer, failure = None, None
    with quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # tokenizers 直接抛 Exception
            failure = error
        entries = _lone_vocabulary(folder)
        if entries and (tokenizer is None or len(tokenizer) < entries / 2):
            notice = (
                f"{name} 只有 vocab.txt（{entries} 行）：按 model_type 自动选的分词器"
                "读不了它，已改用 BertTokenizer"
            )
            return BertTokenizer.from_pretrained(folder), [notice]
    if tokenizer is None:
        raise ModelError(
            found=f"{name} 的分词器打不开：{str(failure).splitlines()[0]}",
            expected="tokenizer.json，或与架构相符的词表文件",
            remedy=_tokenizer_remedy(folder),
        ) from failure
    return tokenizer, []


def _tokenizer_remedy(folder: Path) -> str:
    """分词器打不开怎么办：transformers 只说缺 tiktoken，真正缺的常是下面两个包。"""
    absent = [
        name
        for name, module in _FOR_SENTENCEPIECE.items()
        if any(folder.glob("*.model")) and not _has_module(module)
    ]
    if absent:
        return f"先装读 SentencePiece 词表的包：pip install {' '.join(absent)}"
    return "从原处重新下载分词器的各文件；XLM、FlauBERT 的另要 pip install sacremoses"


def _has_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # 上一级的包也没有
        return False


def _lone_vocabulary(folder: Path) -> int:
    """只靠 vocab.txt 立身的文件夹，返回其行数；否则 0。"""
    if not (folder / "vocab.txt").is_file():
        return 0
    others = ("tokenizer.json", "vocab.json")
    if any((folder / other).is_file() for other in others) or any(
        folder.glob("*.model")
    ):
        return 0
    with (folder / "vocab.txt").open(encoding="utf-8", errors="replace") as lines:
        return sum(1 for _ in lines)


def _load_adapter(name: str, folder: Path, goal: "Objective") -> Checkpoint:
    """LoRA 适配器：打开它的底座，并进去，得到一个普通模型。"""
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ModelError(
            found=f"{name} 是 LoRA 适配器，本机没有装 peft",
            expected="能读适配器的环境",
            remedy="pip install 'cpt-companion[lora]'",
        ) from error
    written = _read_json(folder / "adapter_config.json")
    base_name = written.get("base_model_name_or_path")
    if not base_name:
        raise ModelError(
            found=f"{name} 的 adapter_config.json 没有写底座",
            expected="base_model_name_or_path 指明底座模型",
            remedy="在 adapter_config.json 里补上底座的路径或仓库编号",
        )
    if (folder / base_name).is_dir():  # 相对适配器文件夹的路径
        base_name = str(folder / base_name)
    base = load_checkpoint(base_name, goal, revision=written.get("revision"))
    with quiet_transformers(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = PeftModel.from_pretrained(base.model, str(folder))
            model = model.merge_and_unload()
        except Exception as error:  # 权重与底座不符时 peft 与 torch 各抛各的
            raise ModelError(
                found=f"适配器 {name} 装不上底座 {base_name}："
                f"{str(error).splitlines()[0]}",
                expected="适配器与它训练时的底座配套，权重是纯张量",
                remedy="核对 base_model_name_or_path 与 revision",
            ) from error
    if any("missing adapter keys" in str(warning.message) for warning in caught):
        raise ModelError(
            found=f"适配器 {name} 的权重与 adapter_config.json 对不上，有缺",
            expected="适配器的每个张量都在文件里",
            remedy="重新下载或重新保存适配器",
        )
    tokenizer, remarks = base.tokenizer, [f"已把适配器 {name} 并入底座 {base_name}"]
    if any(folder.glob("tokenizer*")) or (folder / "vocab.txt").is_file():
        tokenizer, more = _read_tokenizer(folder, name)
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
