"""GGUF：llama.cpp、Ollama 用的权重文件，读进来训练，训练完再写出去。

**读**：`--model 文件.gguf`。transformers 会读，但读出的模型仍是量化的，不能转精度，也
存不下来；这里解成 float16 的标准检查点，放在缓存里，同一个文件只解一次，以后与别的检
查点一样用。权重是从几位的整数解出来的，与量化之前不同，打开时会说。transformers 5.23
读 Qwen3 的文件时不看 `attention.key_length`，`head_dim` 一律当作 128；切词的规则也不看
（SmolLM 的数字逐个切，读出的却按 GPT-2 切）。这两样都照文件改过来。

**写**：`companion export 模型 --to gguf`。架构与分词器都要认得准才写：llama.cpp 按名
字找切词的规则，名字写错照样运行，只是切得与训练时不同。张量的名字与量化由 gguf 包定，
Llama 的查询与键要换一换次序（两种旋转位置的排法），都与 llama.cpp 的转换脚本相同。
"""

import hashlib
import json
import shutil
import tempfile
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from companion.corpus.sources import cache_folder
from companion.errors import ConfigError, ModelError, reason_of

Precision = Literal["f32", "f16", "bf16", "q8_0"]
"""二维张量存成什么；一维的（归一化、偏置）总是 float32。"""

ARCHITECTURES = {"llama": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3"}
"""`model_type` → gguf 包里架构的名字。"""

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {
    "qwen2": rf"{_WORDS}|\p{{N}}|{_REST}",
    "llama-bpe": rf"{_WORDS}|\p{{N}}{{1,3}}|{_REST}",
}
"""llama.cpp 里的名字 → 切词的正则；Qwen 逐个数字切，Llama 3 三个一切。"""
SPLITS = ("gpt-2", "smollm", *PATTERNS)
"""认得准的切词规则。"""
_ALIASES = {"llama3": "llama-bpe", "llama-v3": "llama-bpe"}

_SPLIT_FIELD = "tokenizer.ggml.pre"
RECORD = "gguf.json"
"""解好的检查点旁边的来历。"""
_EXTRA = 'pip install "cpt-companion[gguf]"'


def unpack_gguf(file: Path) -> Path:
    """解成标准的检查点，返回缓存里的文件夹。

    Args:
        file: 语言模型的 .gguf。

    Raises:
        ModelError: 没有装 gguf，文件读不懂，或 transformers 不认识它的架构。
    """
    _require_gguf(f"{file.name} 是 GGUF")
    stat = file.stat()
    key = f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    name = f"{file.stem}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    folder = cache_folder() / "gguf" / name
    if not (folder / RECORD).is_file():
        _unpack(file, folder)
    return folder


def unpacked_notice(folder: Path) -> str:
    """打开解好的 GGUF 时要说的话。"""
    written = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return (
        f"{written['file']} 的权重由 {written['types']} 解成 float16，"
        f"与量化之前不完全相同{written['split']}"
    )


def write_gguf(model: Any, tokenizer: Any, output: Path, precision: Precision) -> Path:
    """把一个解码器写成 GGUF。

    Args:
        model: `transformers.PreTrainedModel`：Llama、Qwen2 或 Qwen3。
        tokenizer: 它的分词器，字节级 BPE。
        output: 要写的文件，不得已经存在。
        precision: 二维张量存成什么。

    Returns:
        写好的文件。

    Raises:
        ConfigError: 文件已经存在，或后缀不是 .gguf。
        ModelError: 没有装 gguf；架构或分词器不在认得准的几种之内。
    """
    _require_gguf("要写 GGUF")
    if output.suffix != ".gguf" or output.exists():
        raise ConfigError(
            found=f"{output} "
            + ("已经存在" if output.exists() else "的后缀不是 .gguf"),
            expected="一个新的 .gguf 文件，旧结果从不覆盖",
            remedy="换一个 --output，例如 model.gguf",
        )
    kind = model.config.model_type
    if kind not in ARCHITECTURES:
        raise _not_exportable(f"架构 {kind}", "、".join(ARCHITECTURES))
    if (scaling := model.config.rope_parameters["rope_type"]) != "default":
        raise _not_exportable(f"旋转位置的缩放 {scaling}", "没有缩放的（default）")
    if kind == "llama" and (model.config.attention_bias or model.config.mlp_bias):
        raise _not_exportable("Llama 带偏置，读回时会丢", "没有偏置的 Llama")
    table = _token_table(tokenizer, model.get_input_embeddings().weight.shape[0])
    staging = output.with_name(f".{output.name}.new")
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write(model, tokenizer, table, staging, precision)
        staging.rename(output)
    finally:
        staging.unlink(missing_ok=True)
    return output


def _require_gguf(what: str) -> None:
    if find_spec("gguf") is None:
        raise ModelError(
            found=f"{what}，而没有安装 gguf",
            expected="装有 gguf",
            remedy=_EXTRA,
        )


def _unpack(file: Path, folder: Path) -> None:
    import torch
    from gguf import GGUFReader
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    from companion.checkpoints.reading import quiet_transformers

    where = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(**where)
            reader = GGUFReader(file)
            width = reader.get_field(f"{config.model_type}.attention.key_length")
            if width is not None:
                config.head_dim = int(width.contents())
            tokenizer = AutoTokenizer.from_pretrained(**where)
            said = _restore_split(tokenizer, reader)
            model = AutoModelForCausalLM.from_pretrained(
                **where,
                config=config,
                dtype=torch.float16,
                quantization_config=GgufConfig(dequantize=True),
            )
    except Exception as error:  # 文件由外人写成，错法不可穷举
        raise ModelError(
            found=f"{file} 读不出来：{reason_of(error)}",
            expected="transformers 认识的架构的 GGUF（Llama、Qwen2、Qwen3、Gemma 3……）",
            remedy="多半是下载不全，或架构太新；有原来的 safetensors 就用它",
        ) from error
    fresh = type(model)(config).half()  # 量化过的模型存不下来，搬到一个新的里
    fresh.load_state_dict(model.state_dict())
    kinds = Counter(t.tensor_type.name for t in reader.tensors if len(t.shape) > 1)
    types = "、".join(name for name, _ in kinds.most_common())
    written = {"file": file.name, "types": types, "split": said}
    text = json.dumps(written, ensure_ascii=False)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        with quiet_transformers():
            fresh.save_pretrained(staging)
            tokenizer.save_pretrained(staging)
        (staging / RECORD).write_text(text + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _restore_split(tokenizer: Any, reader: Any) -> str:
    """照文件里写的名字改回切词的规则；不认得的，回来的是要说的话。"""
    model, name = (
        field and field.contents()
        for field in map(reader.get_field, ("tokenizer.ggml.model", _SPLIT_FIELD))
    )
    if model != "gpt2":  # SentencePiece 没有这一项
        return ""
    name = _ALIASES.get(name, name)
    if name not in SPLITS:
        return f"；切词的规则 {name} 不认得，切得可能与训练时不同"
    tokenizer.backend_tokenizer.pre_tokenizer = split_rule(name)
    return ""


def _not_exportable(found: str, known: str) -> ModelError:
    return ModelError(
        found=found,
        expected=f"认得准的几种：{known}",
        remedy="用 llama.cpp 的 convert_hf_to_gguf.py 转换：它认得的架构与分词器更多",
    )


def _token_table(tokenizer: Any, rows: int) -> dict[str, Any]:
    """分词器 → GGUF 里的各项。

    Raises:
        ModelError: 不是字节级 BPE，或切词的规则认不准。
    """
    from gguf import TokenType

    written = json.loads(tokenizer.backend_tokenizer.to_str())
    if written["model"]["type"] != "BPE" or written["model"].get("byte_fallback"):
        raise _not_exportable(f"分词器是 {written['model']['type']}", "字节级 BPE")
    names = [f"[PAD{number}]" for number in range(rows)]
    kinds = [TokenType.UNUSED] * rows
    for token, number in tokenizer.get_vocab().items():
        names[number], kinds[number] = token, TokenType.NORMAL
    for number, added in tokenizer.added_tokens_decoder.items():
        kinds[number] = TokenType.CONTROL if added.special else TokenType.USER_DEFINED
    merges = written["model"]["merges"]
    return {
        "pre": split_name(tokenizer.backend_tokenizer.pre_tokenizer),
        "names": names,
        "kinds": kinds,
        "merges": [
            each if isinstance(each, str) else " ".join(each) for each in merges
        ],
    }


def split_rule(name: str) -> Any:
    """切词的规则：llama.cpp 里的名字 → tokenizers 的 `PreTokenizer`。

    Args:
        name: `SPLITS` 之一。
    """
    from tokenizers import Regex, pre_tokenizers

    level = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=name not in PATTERNS
    )
    if name == "gpt-2":
        return level
    if name == "smollm":
        first = pre_tokenizers.Digits(individual_digits=True)
    else:
        first = pre_tokenizers.Split(Regex(PATTERNS[name]), "isolated")
    return pre_tokenizers.Sequence([first, level])


def split_name(rule: Any) -> str:
    """切词的规则在 llama.cpp 里叫什么。

    Raises:
        ModelError: 不在认得准的几种之内。
    """
    steps = _steps(rule)
    for name in SPLITS:
        if steps == _steps(split_rule(name)):
            return name
    kinds = "、".join(step[0] for step in steps) or "没有"
    raise _not_exportable(f"切词的规则（{kinds}）不认得", "、".join(SPLITS))


def _steps(rule: Any) -> list[tuple[Any, ...]]:
    """一条规则的各步：类型，与决定怎样切的几项。"""
    if rule is None:
        return []
    written = json.loads(rule.__getstate__())
    keys = ("type", "pattern", "individual_digits", "use_regex")
    return [
        tuple(json.dumps(step.get(key)) if key != "type" else step[key] for key in keys)
        for step in written.get("pretokenizers", [written])
    ]


def _write(
    model: Any, tokenizer: Any, table: dict[str, Any], file: Path, precision: Precision
) -> None:
    import gguf

    config, kind = model.config, model.config.model_type
    writer = gguf.GGUFWriter(file, kind)
    head = getattr(config, "head_dim", None)
    head = head or config.hidden_size // config.num_attention_heads
    writer.add_name(Path(config.name_or_path or kind).name or kind)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(head)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_vocab_size(len(table["names"]))
    writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[precision]])
    _write_tokenizer(writer, tokenizer, table)
    names = gguf.get_tensor_name_map(
        gguf.MODEL_ARCH[ARCHITECTURES[kind]], config.num_hidden_layers
    )
    tied = config.tie_word_embeddings
    for name, weight in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        values = weight.detach().float().cpu().numpy()
        if kind == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            count = "num_attention_heads" if "q_proj" in name else "num_key_value_heads"
            values = _interleaved(values, getattr(config, count))
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise _not_exportable(f"张量 {name}", "、".join(ARCHITECTURES))
        stored = gguf.GGMLQuantizationType[
            "F32" if values.ndim < 2 else precision.upper()
        ]
        writer.add_tensor(target, gguf.quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


_FILE_TYPES: dict[Precision, str] = {
    "f32": "ALL_F32",
    "f16": "MOSTLY_F16",
    "bf16": "MOSTLY_BF16",
    "q8_0": "MOSTLY_Q8_0",
}


def _write_tokenizer(writer: Any, tokenizer: Any, table: dict[str, Any]) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(table["pre"])
    writer.add_token_list(table["names"])
    writer.add_token_types(table["kinds"])
    writer.add_token_merges(table["merges"])
    for name, add in (
        ("bos", writer.add_bos_token_id),
        ("eos", writer.add_eos_token_id),
        ("pad", writer.add_pad_token_id),
        ("unk", writer.add_unk_token_id),
    ):
        if (number := getattr(tokenizer, f"{name}_token_id")) is not None:
            add(number)
    starts = tokenizer("天").input_ids[:1] == [tokenizer.bos_token_id]
    writer.add_add_bos_token(bool(starts))
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _interleaved(weight: Any, heads: int) -> Any:
    """旋转位置的两种排法：transformers 前后两半配对，llama.cpp 的 Llama 相邻配对。"""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)
