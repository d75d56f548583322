"""附录“检查点与花费”：三档设置里的每个检查点，照公式估显存与时间。

书构建时不联网，所以各检查点的形状（层数、宽度、词表）抄自它们发布的 config.json；读者自
己那一份由 `companion.notebook.plan_training` 现读。
"""

from typing import Any

# 编号 → transformers 的设置类与发布的 config.json 里的几项；其余与缺省值相同
_BERT_BASE: dict[str, Any] = {"vocab_size": 21_128}
_BERT_LARGE: dict[str, Any] = {
    "vocab_size": 21_128,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
_BART: dict[str, Any] = {
    "vocab_size": 51_271,
    "d_model": 768,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "encoder_ffn_dim": 3072,
    "decoder_ffn_dim": 3072,
    "encoder_attention_heads": 12,
    "decoder_attention_heads": 12,
}
_T5_BASE: dict[str, Any] = {
    "d_model": 768,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 12,
    "num_heads": 12,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}
_QWEN3: dict[str, Any] = {
    "vocab_size": 151_936,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
}
_ELECTRA: dict[str, Any] = {"vocab_size": 21_128, "num_hidden_layers": 12}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "SIKU-BERT/sikubert": ("Bert", {"vocab_size": 29_791}),
    "SIKU-BERT/sikuroberta": ("Bert", {"vocab_size": 29_791}),
    "hfl/chinese-roberta-wwm-ext": ("Bert", _BERT_BASE),
    "hfl/chinese-roberta-wwm-ext-large": ("Bert", _BERT_LARGE),
    "bigscience/bloom-560m": (
        "Bloom",
        {"vocab_size": 250_880, "hidden_size": 1024, "n_layer": 24, "n_head": 16},
    ),
    "bigscience/bloom-1b7": (
        "Bloom",
        {"vocab_size": 250_880, "hidden_size": 2048, "n_layer": 24, "n_head": 16},
    ),
    "Qwen/Qwen3-0.6B-Base": (
        "Qwen3",
        {**_QWEN3, "hidden_size": 1024, "intermediate_size": 3072},
    ),
    "Qwen/Qwen3-1.7B-Base": (
        "Qwen3",
        {**_QWEN3, "hidden_size": 2048, "intermediate_size": 6144},
    ),
    "fnlp/bart-base-chinese": ("Bart", _BART),
    "fnlp/bart-large-chinese": ("Bart", {"vocab_size": 51_271}),
    "google/mt5-small": (
        "MT5",
        {
            "vocab_size": 250_112,
            "d_ff": 1024,
            "num_heads": 6,
            "tie_word_embeddings": False,
        },
    ),
    "google/mt5-base": ("MT5", {**_T5_BASE, "vocab_size": 250_112}),
    "Langboat/mengzi-t5-base": ("T5", {**_T5_BASE, "vocab_size": 32_128}),
    "hfl/chinese-electra-180g-small-discriminator": (
        "Electra",
        {
            **_ELECTRA,
            "embedding_size": 128,
            "hidden_size": 256,
            "intermediate_size": 1024,
            "num_attention_heads": 4,
        },
    ),
    "hfl/chinese-electra-180g-small-generator": (
        "Electra",
        {
            **_ELECTRA,
            "embedding_size": 128,
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_attention_heads": 1,
        },
    ),
    "hfl/chinese-electra-180g-base-discriminator": (
        "Electra",
        {
            **_ELECTRA,
            "embedding_size": 768,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
        },
    ),
    "hfl/chinese-electra-180g-base-generator": (
        "Electra",
        {
            **_ELECTRA,
            "embedding_size": 768,
            "hidden_size": 192,
            "intermediate_size": 768,
            "num_attention_heads": 3,
        },
    ),
    "zai-org/glm-4-9b-hf": ("Glm", {}),
}

CARDS = {"t4": ("T4", 16, "fp16"), "full": ("A100", 80, "bf16")}
"""档 → 显卡、它的 GB、计算的精度；会溢出的架构在 T4 上是 fp32。"""


def hull(name: str, auto_class: str) -> Any:
    """没有权重的空壳。"""
    import torch
    import transformers

    kind, fields = SHAPES[name]
    config = getattr(transformers, f"{kind}Config")(**fields)
    with torch.device("meta"):
        model = getattr(transformers, auto_class).from_config(config)
    # T5 一族的设置类总说共享，不管 config.json 怎么写
    model.config.tie_word_embeddings = fields.get("tie_word_embeddings", True)
    return model


def rows(profile: str) -> list[dict[str, Any]]:
    """一档的各个检查点；几个目标共用而花费相同的并成一行。

    起步模型不列；形状没有抄来的也不列。
    """
    from companion.notebook.profiles import PROFILES, checkpoints

    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for objective in PROFILES:
        for name in checkpoints(objective, profile):
            if name in SHAPES:
                row = _row(objective, profile, name)
                goal = row.pop("objective")
                same = found.setdefault(tuple(row.values()), {**row, "objective": goal})
                if same["objective"] != goal:
                    same["objective"] += f" {goal}"
    return list(found.values())


def _row(objective: str, profile: str, name: str) -> dict[str, Any]:
    import torch

    from companion.corpus.fetching import UPSTREAM
    from companion.notebook.planning import estimate, peak_teraflops
    from companion.notebook.profiles import profile_config
    from companion.objectives import get_objective
    from companion.preflight.device import Device, overflows_in_fp16

    config = profile_config(profile, objective, "out", 42, model=name)
    hulls = [hull(name, get_objective(objective).auto_class)]
    if config.generator:
        hulls = [
            hull(name, "AutoModelForPreTraining"),
            hull(config.generator, "AutoModelForMaskedLM"),
        ]
    card, gigabytes, precision = CARDS[profile]
    if precision == "fp16" and overflows_in_fp16(hulls[0].config.model_type):
        precision = "fp32"
    device = Device("cuda", card, torch.float32, gigabytes * 2**30, "").at(precision)
    source, _, side = config.corpus.partition(":")
    assert source == "tongjian"
    characters = getattr(UPSTREAM.expected["train"], side)
    needed = estimate(
        config, hulls, device, round(characters * config.num_train_epochs)
    )
    peak = peak_teraflops(device)
    assert peak is not None
    return {
        "objective": f"`{objective}`",
        "model": f"`{name}`" + ("（LoRA）" if config.lora_rank else ""),
        "millions": needed.parameters / 1e6,
        "memory": needed.memory_bytes / 2**30,
        "precision": precision,
        "tokens": needed.tokens / 1e6,
        "minutes": 60 * needed.hours(peak),
    }
