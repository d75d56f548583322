"""一个文件夹 → 设置、分词器、权重：残缺、损坏、会执行代码的，都在这里拦下。"""

import json
import pickle
import re
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from companion.checkpoints.alibi import accept_document_masks
from companion.checkpoints.running import read_setting, text_config, word_table
from companion.errors import ModelError, reason_of

_LARGEST_GAP = 0.01
"""主干缺失的参数超过这一比例就不能叫“继续”预训练了。"""
_SAFE, _OLD = "model.safetensors", "pytorch_model.bin"


_FOR_SENTENCEPIECE = {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf"}
"""transformers 读 spiece.model 要的包 → 导入时的名字。"""


@contextmanager
def quiet_transformers() -> Generator[None]:
    """期间 transformers 不打进度条与英文报告。"""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def register_own(folder: Path) -> None:
    """文件夹里是本包自己的架构（两行位置的 GLM）时，先载入它：它会向 Auto 类登记。"""
    if read_json(folder / "config.json").get("model_type") == "glm_two_row":
        import_module("companion.checkpoints.two_row_glm")


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
    register_own(folder)
    try:
        with quiet_transformers():
            return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # 配置由外人写成，错法不可穷举
        written = read_json(folder / "config.json")
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


def read_json(path: Path) -> dict[str, Any]:
    """文件里的 JSON 对象；没有、读不懂或不是对象时为空。"""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def read_tokenizer(folder: Path, name: str) -> tuple[Any, list[str]]:
    """分词器与提醒。

    Raises:
        ModelError: 没有可用的分词器文件。
    """
    from transformers import AutoTokenizer, BertTokenizer

    register_own(folder)
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
            return placeless(BertTokenizer.from_pretrained(folder)), [notice]
    if tokenizer is None:
        raise ModelError(
            found=f"{name} 的分词器打不开：{str(failure).splitlines()[0]}",
            expected="tokenizer.json，或与架构相符的词表文件",
            remedy=_tokenizer_remedy(folder),
        ) from failure
    return placeless(tokenizer), [
        *_disagreements(folder, tokenizer),
        *_language(folder, tokenizer),
    ]


def placeless(tokenizer: Any) -> Any:
    """不再记着自己是由文件夹打开的：transformers 会把这写进存下的分词器设置。"""
    for name in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(name, None)
    return tokenizer


_CHINESE = ("zh_CN", "zho_Hans", "zh")
"""中文的语言代码：mBART，NLLB，M2M100。"""


def _language(folder: Path, tokenizer: Any) -> list[str]:
    """多语言分词器往每一行添语言代码；没有写是哪一种，transformers 就用英语。

    Returns:
        提醒：行里写的是哪种语言。没有语言代码的分词器为空。
    """
    code = getattr(tokenizer, "src_lang", None)
    if code is None:
        return []
    if read_json(folder / "tokenizer_config.json").get("src_lang"):
        return [f"分词器往每一行添语言代码 {code}（tokenizer_config.json 的 src_lang）"]
    vocabulary = tokenizer.get_vocab()
    chinese = next((name for name in _CHINESE if name in vocabulary), None)
    if chinese is not None:
        tokenizer.src_lang = chinese
    return [
        f"tokenizer_config.json 没有写 src_lang（transformers 缺省是 {code}）；"
        f"往每一行添的语言代码用 {chinese or code}，别的语言请写上 src_lang"
    ]


def _disagreements(folder: Path, tokenizer: Any) -> list[str]:
    """旁边的词表与 tokenizer.json 不符：transformers 只认后者，改前者毫无作用。"""
    if not (folder / "tokenizer.json").is_file():
        return []
    tables: dict[str, dict[str, int]] = {}
    if (folder / "vocab.txt").is_file():
        text = (folder / "vocab.txt").read_text("utf-8", "replace")
        words = text.removesuffix("\n").split("\n")  # 词表里可以有 U+2028
        tables["vocab.txt"] = {word: number for number, word in enumerate(words)}
    if (folder / "vocab.json").is_file():
        tables["vocab.json"] = read_json(folder / "vocab.json")
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    notices: list[str] = []
    for file, table in tables.items():
        wrong = [w for w, n in table.items() if w and vocabulary.get(w) != n]
        if wrong:
            first = wrong[0]
            notices.append(
                f"{file} 与 tokenizer.json 有 {len(wrong)} 处不符（如 {first}："
                f"{table[first]}，{vocabulary.get(first, '没有')}），用的是后者；"
                f"改了 {file} 的，删去 tokenizer.json，由它重建"
            )
    return notices


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


@dataclass(frozen=True)
class LoadedWeights:
    """装好权重的模型。"""

    model: Any
    """float32，评估模式。"""
    missing_keys: tuple[str, ...]
    """检查点里没有、因而随机初始化的张量，按名字排序。"""
    notices: tuple[str, ...]
    conflicting_tie: bool = False
    """设置说输入与输出的词嵌入共享，文件里却是不同的两份。"""


def weight_files(folder: Path) -> list[Path]:
    """权重的各个文件；打开之前先看在不在、全不全、是不是真的权重。

    Raises:
        ModelError: 没有权重、缺分片，或权重只是 Git LFS 的指针。
    """
    for single in (_SAFE, _OLD):
        if (folder / single).is_file():
            files = [folder / single]
            break
        if (folder / f"{single}.index.json").is_file():
            files = _shards(folder / f"{single}.index.json")
            break
    else:
        present = "、".join(sorted(path.name for path in folder.iterdir())[:6])
        raise ModelError(
            found=f"{folder} 里没有 PyTorch 权重（有：{present}）",
            expected=f"{_SAFE}（优先）或 {_OLD}，或它们的分片与索引",
            remedy="重新下载；只有 tf_model.h5 或 flax_model.msgpack 的模型要先转换",
        )
    for path in files:
        _refuse_pointer(path)
    return files


def check_weight_files(folder: Path) -> list[str]:
    """看过权重的文件（`weight_files`），说该说的话：只有旧式 .bin 时有一条。"""
    files = weight_files(folder)
    if files[0].suffix == ".bin":
        return [f"权重是旧式的 {files[0].name}：只按纯张量读取（torch weights_only）"]
    return []


def load_weights(folder: Path, auto_class: str) -> LoadedWeights:
    """装上权重，并核对每个张量。

    Args:
        folder: 已由 `check_weight_files` 看过的检查点。
        auto_class: transformers 的 Auto 类名。

    Raises:
        ModelError: 损坏、要执行代码、形状不符，或主干缺了 1% 以上的参数。
    """
    import torch
    import transformers
    from safetensors import SafetensorError

    accept_document_masks(read_json(folder / "config.json").get("model_type", ""))
    try:
        # 检查点缺的输出头随机补上：种子固定，同样的命令才得同样的结果
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            torch.default_generator.manual_seed(0)
            # 不是第 2 号协议的 pickle：读得懂就读，读不懂时自有 UnpicklingError
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            model, report = getattr(transformers, auto_class).from_pretrained(
                folder,
                dtype=torch.float32,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # 由 _check_shapes 报出键名
            )
    except pickle.UnpicklingError as error:
        raise _not_plain_tensors(folder, error) from error
    except (SafetensorError, EOFError, RuntimeError, OSError, ValueError) as error:
        raise ModelError(
            found=f"{folder} 的权重读不出来：{reason_of(error)}",
            expected="完整的权重文件",
            remedy="多半是下载不全：删去后重新下载，并核对文件大小",
        ) from error
    _check_shapes(folder, report["mismatched_keys"])
    missing = tuple(sorted(report["missing_keys"]))
    unused = sorted(report["unexpected_keys"])
    _refuse_prefix(folder, model, missing, unused)
    notices = _judge_missing(folder, model, missing)
    notices += _judge_unused(model, unused)
    conflict = _record_own_head(folder, model)
    return LoadedWeights(model.eval(), missing, tuple(notices), conflict)


def _record_own_head(folder: Path, model: Any) -> bool:
    """输出头与词嵌入各是一份时，设置里也这样写；返回文件里的设置是不是说共享。

    T5 v1.1 与 mT5 的输出头自成一份，transformers 5.23 却把设置一律读成共享
    （`T5Config.__post_init__`）。不改过来，别处一调 `tie_weights()`（扩词表、读分片时都
    会），学好的输出头就没了；存下的检查点用第 4 版打开也是如此。
    """
    head = getattr(model.get_output_embeddings(), "weight", None)
    words = word_table(model)
    if head is None or head.data_ptr() == words.data_ptr():
        return False
    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind: Any = type(model.config)
    usual = getattr(kind, "tie_word_embeddings", None)
    model.config.tie_word_embeddings = False
    # 没有写时按架构的缺省值；T5 的缺省值是共享，类上却写作 None
    return bool(written.get("tie_word_embeddings", usual is not False))


def _shards(index: Path) -> list[Path]:
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        names = set(content["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            found=f"权重索引 {index} 读不懂",
            expected="带 weight_map 的 JSON",
            remedy="重新下载索引文件",
        ) from error
    files = [index.parent / str(name) for name in sorted(names)]
    absent = [path.name for path in files if not path.is_file()]
    if absent:
        raise ModelError(
            found=f"缺权重分片 {'、'.join(absent[:3])}（共缺 {len(absent)} 个）",
            expected=f"索引里的 {len(files)} 个分片都在 {index.parent}",
            remedy="把缺的分片下载齐",
        )
    return files


def _refuse_pointer(path: Path) -> None:
    """没装 git-lfs 就 git clone，得到的是百来字节的指针文件。"""
    with path.open("rb") as stream:
        head = stream.read(64)
    if b"git-lfs" in head:
        raise ModelError(
            found=f"{path.name} 只是 Git LFS 的指针，不是权重",
            expected=f"几百 MB 的权重文件（{path}）",
            remedy="装好 git-lfs 后在该文件夹运行 git lfs pull，或直接按编号下载",
        )


def _not_plain_tensors(folder: Path, error: Exception) -> ModelError:
    if unknown := re.search(r"Unsupported operand \d+", str(error)):
        return ModelError(
            found=f"{folder} 的 .bin 用了较新的 pickle 协议（{unknown[0]}），"
            "torch 的安全读法读不懂；没有执行它",
            expected="safetensors，或用 torch.save 的缺省协议存成的 .bin",
            remedy="换一个有 safetensors 的版本；自己存的，用 save_pretrained 再存一次",
        )
    named = re.search(r"(?:GLOBAL|global) ([\w.]+)", str(error))
    asks = f"，要调用 {named[1]}" if named else ""
    return ModelError(
        found=f"{folder} 的 .bin 权重不是纯张量{asks}；没有执行它",
        expected="只含张量的权重（safetensors，或 state_dict 存成的 .bin）",
        remedy="不要用来路不明的 .bin；换一个有 safetensors 的版本，或向作者索取",
    )


def _check_shapes(folder: Path, mismatched: Any) -> None:
    wrong = sorted(tuple(entry) for entry in mismatched)
    if not wrong:
        return
    key, stored, built = wrong[0]
    raise ModelError(
        found=f"{folder} 有 {len(wrong)} 个张量形状不符，例如 {key}："
        f"权重 {tuple(stored)}，配置 {tuple(built)}",
        expected="权重与 config.json 出自同一个模型",
        remedy="换回与权重配套的 config.json（多半是 vocab_size 或 hidden_size 写错）",
    )


def _refuse_prefix(
    folder: Path, model: Any, missing: tuple[str, ...], unused: list[str]
) -> None:
    """缺的都在，只是名字多了同一个前缀（DDP 的 module. 之类）：说出前缀。"""
    extra = set(unused)
    for key in missing[:1]:
        for other in (each for each in unused if each.endswith(f".{key}")):
            prefix = other.removesuffix(key)
            found = [each for each in missing if prefix + each in extra]
            if 2 * len(found) > len(list(model.parameters())):
                raise ModelError(
                    found=f"{folder} 的权重名字都多了前缀 {prefix}（例如 {other}）",
                    expected=f"transformers 的名字，例如 {key}",
                    remedy=f"权重没有缺：读出来，把名字开头的 {prefix} 去掉再存一次；"
                    "自己存的，存 model.module（DDP）或内层模型的 state_dict",
                )


def _judge_missing(folder: Path, model: Any, missing: tuple[str, ...]) -> list[str]:
    """缺主干是错误，缺输出头是提醒。"""
    body = f"{model.base_model_prefix}."
    sizes = {
        name: parameter.numel()
        for name, parameter in model.named_parameters()
        if name.startswith(body) and ".pooler." not in name  # 池化层只给句序的头用
    }
    lost = [key for key in missing if key in sizes]
    gap = sum(sizes[key] for key in lost) / max(sum(sizes.values()), 1)
    if gap > _LARGEST_GAP:
        raise ModelError(
            found=f"{folder} 缺主干权重 {len(lost)} 个，占参数的 {gap:.0%}："
            f"{_some(lost)}",
            expected="主干的每个张量都在；否则从随机权重起步，谈不上继续预训练",
            remedy="重新下载完整的检查点，或核对 config.json 的层数与架构",
        )
    notices = []
    if lost:
        notices.append(f"主干缺 {_some(lost)}，已随机初始化")
    head = [key for key in missing if key not in sizes]
    if head:
        notices.append(
            f"检查点没有输出头（{_some(head)}），已随机初始化：开头的损失会偏高"
        )
    return notices


def _judge_unused(model: Any, unused: list[str]) -> list[str]:
    """多出来的层意味着 config.json 写少了；别的任务的头则无妨。"""
    layers = [key for key in unused if re.search(r"\.(layers?|h|block)\.\d+\.", key)]
    shape = text_config(model)
    if not layers:
        return []
    return [
        f"检查点有 {len(layers)} 个层内张量没有用上（{_some(layers)}）："
        f"核对 config.json 的层数（{read_setting(shape, 'num_hidden_layers', '没写')}）"
    ]


def _some(keys: list[str], shown: int = 3) -> str:
    more = f" 等 {len(keys)} 个" if len(keys) > shown else ""
    return "、".join(keys[:shown]) + more
