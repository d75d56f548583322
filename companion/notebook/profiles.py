"""三档设置：同一个笔记本，先用极小的模型跑通，再换真正的检查点。

| 档 | 模型与语料 | 在哪里跑 |
|---|---|---|
| `tiny` | 起步模型、随包附带的小史书 | 任何 CPU，一分钟之内 |
| `t4` | sikubert、bloom-560m 等、《资治通鉴》 | 一块 16 GB 的 GPU |
| `full` | 更大的模型，多读几遍 | 一块或几块大显存的 GPU |

`t4` 与 `full` 的检查点不止一个：`PROFILES` 里是经典的，`ALTERNATIVES` 里是今天更常选
的，由笔记本的 `MODEL` 一栏来选。显存与时间由 `planning` 照公式估出。
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from companion.config import TrainingConfig
from companion.corpus.sources import NAMED
from companion.errors import ConfigError
from companion.objectives import get_objective

if TYPE_CHECKING:
    from companion.checkpoints.loading import Checkpoint
    from companion.show import Example

_TINY: dict[str, Any] = {
    "replay_ratio": 0.2,
    "max_steps": 24,
    "block_size": 128,
    "eval_max_chars": 4_000,
    "tokens_per_batch": 1024,
    "learning_rate": 1e-3,
    "warmup_steps": 0.1,
    "logging_steps": 2,
    "save_steps": 1000,
    # 精度不由设备实测决定：提交的输出要在别的机器上重现
    "precision": "fp32",
}
_T4: dict[str, Any] = {
    "block_size": 512,
    "warmup_steps": 0.05,
    "save_total_limit": 1,
    "eval_max_chars": 30_000,
}
_FULL: dict[str, Any] = {"block_size": 512, "warmup_steps": 0.05, "save_total_limit": 1}

_TINY_PAIR: dict[str, Any] = {
    **_TINY,
    "corpus": "sample:classical",
    # 解码器要把全文写一遍，一步比掩码模型慢
    "max_steps": 16,
    "tokens_per_batch": 768,
    "logging_steps": 1,
}
_T4_PAIR: dict[str, Any] = {
    **_T4,
    "corpus": "tongjian:classical",
    "num_train_epochs": 2.0,
    "tokens_per_batch": 8192,
}
_FULL_PAIR: dict[str, Any] = {
    **_FULL,
    "corpus": "tongjian:classical",
    "num_train_epochs": 4.0,
    "tokens_per_batch": 32_768,
}
# 起步模型的位置只有 256 个，学习率不必像大模型那样低
_SHORT: dict[str, Any] = {"block_size": 200, "learning_rate": 5e-4}
_BART: dict[str, dict[str, Any]] = {
    "tiny": {**_TINY_PAIR, "model": "starter:bart"},
    "t4": {**_T4_PAIR, "model": "fnlp/bart-base-chinese"},
    "full": {**_FULL_PAIR, "model": "fnlp/bart-large-chinese"},
}

_SIKU: dict[str, dict[str, Any]] = {
    "t4": {
        **_T4,
        "model": "SIKU-BERT/sikubert",
        "corpus": "tongjian:classical",
        "num_train_epochs": 2.0,
        "tokens_per_batch": 8192,
    },
    "full": {
        **_FULL,
        "model": "SIKU-BERT/sikuroberta",
        "corpus": "tongjian:classical",
        "num_train_epochs": 4.0,
        "tokens_per_batch": 32_768,
    },
}

PROFILES: dict[str, dict[str, dict[str, Any]]] = {
    "masked_lm": {
        "tiny": {**_TINY, "model": "starter:bert", "corpus": "sample:classical"},
        **_SIKU,
    },
    "causal_lm": {
        "tiny": {
            **_TINY,
            "model": "starter:bloom",
            "corpus": "sample:modern",
            "max_steps": 20,  # 每个词元都计损失，一步比掩码模型慢
        },
        "t4": {
            **_T4,
            "model": "bigscience/bloom-560m",
            "corpus": "tongjian:modern",
            "num_train_epochs": 1.0,
            "tokens_per_batch": 1024,
            "gradient_accumulation_steps": 8,
            "gradient_checkpointing": True,
        },
        "full": {
            **_FULL,
            "model": "bigscience/bloom-1b7",
            "corpus": "tongjian:modern",
            "num_train_epochs": 3.0,
            "tokens_per_batch": 8192,
            "gradient_accumulation_steps": 4,
            "gradient_checkpointing": True,
        },
    },
    "fill_in_the_middle": {
        "tiny": {
            **_TINY,
            "model": "starter:bloom",
            "corpus": "sample:modern",
            "max_steps": 14,
            "eval_max_chars": 2_000,
        },
        "t4": {
            **_T4,
            "model": "Qwen/Qwen3-0.6B-Base",
            "corpus": "tongjian:modern",
            "num_train_epochs": 1.0,
            "tokens_per_batch": 1024,
            "gradient_accumulation_steps": 8,
            "gradient_checkpointing": True,
        },
        "full": {
            **_FULL,
            "model": "Qwen/Qwen3-1.7B-Base",
            "corpus": "tongjian:modern",
            "num_train_epochs": 3.0,
            "tokens_per_batch": 8192,
            "gradient_accumulation_steps": 4,
            "gradient_checkpointing": True,
        },
    },
    "masked_diffusion": {
        "tiny": {
            **_TINY,
            "model": "starter:bert",
            "corpus": "sample:classical",
            "max_steps": 28,
            "eval_max_chars": 2_000,
        },
        **_SIKU,
    },
    "text_infilling": _BART,
    "masked_seq2seq": _BART,
    "span_corruption": {
        "tiny": {**_TINY_PAIR, "model": get_objective("span_corruption").starter},
        # T5 一类的学习率照例高些；不能用 fp16，T4 上就是 fp32
        "t4": {**_T4_PAIR, "model": "google/mt5-small", "learning_rate": 3e-4},
        "full": {**_FULL_PAIR, "model": "google/mt5-base", "learning_rate": 3e-4},
    },
    "unified_lm": {
        "tiny": {**_TINY_PAIR, "model": "starter:bert"},
        "t4": {**_T4_PAIR, "model": "SIKU-BERT/sikubert"},
        "full": {**_FULL_PAIR, "model": "SIKU-BERT/sikuroberta"},
    },
    # 判别器的成绩一步就动；先看得出方向，再谈多少
    "replaced_token": {
        "tiny": {
            **_TINY,
            "model": "starter:electra",
            "corpus": "sample:classical",
            "max_steps": 20,
        },
        "t4": {
            **_T4,
            "model": "hfl/chinese-electra-180g-small-discriminator",
            "generator": "hfl/chinese-electra-180g-small-generator",
            "corpus": "tongjian:classical",
            "num_train_epochs": 2.0,
            "tokens_per_batch": 8192,
        },
        "full": {
            **_FULL,
            "model": "hfl/chinese-electra-180g-base-discriminator",
            "generator": "hfl/chinese-electra-180g-base-generator",
            "corpus": "tongjian:classical",
            "num_train_epochs": 4.0,
            "tokens_per_batch": 32_768,
        },
    },
    # 两行位置的中文 GLM 要运行检查点自带的代码，所以各档都是起步模型，读的语料不同；
    # transformers 内置的 GLM 见 ALTERNATIVES
    "blank_infilling": {
        "tiny": {**_TINY_PAIR, "model": "starter:glm"},
        "t4": {**_T4_PAIR, "model": "starter:glm", **_SHORT},
        "full": {**_FULL_PAIR, "model": "starter:glm", **_SHORT},
    },
}
"""训练目标 → 档 → 设置的字段；没有写的用 `TrainingConfig` 的缺省值。"""

# T5 在 T4 上只能用 fp32，激活大一倍：微批量减半，累积两次，结果相同
_BIGGER_T5: dict[str, Any] = {
    "tokens_per_batch": 4096,
    "gradient_accumulation_steps": 2,
}
_LORA: dict[str, Any] = {
    "lora_rank": 16,
    "tokens_per_batch": 1024,
    "gradient_accumulation_steps": 8,
    "gradient_checkpointing": True,
    "block_size": 512,
    "learning_rate": None,
}
_WORDS: dict[str, dict[str, dict[str, Any]]] = {
    "t4": {"hfl/chinese-roberta-wwm-ext": {}},
    "full": {"hfl/chinese-roberta-wwm-ext-large": {}},
}
ALTERNATIVES: dict[str, dict[str, dict[str, dict[str, Any]]]] = {
    "masked_lm": _WORDS,
    "unified_lm": _WORDS,
    "causal_lm": {
        "t4": {"Qwen/Qwen3-0.6B-Base": {}},
        "full": {"Qwen/Qwen3-1.7B-Base": {}},
    },
    "span_corruption": {
        "t4": {"Langboat/mengzi-t5-base": _BIGGER_T5},
        "full": {"Langboat/mengzi-t5-base": {}},
    },
    # transformers 内置的 GLM，一行位置；大，只训练 LoRA
    "blank_infilling": {
        "t4": {"zai-org/glm-edge-1.5b-chat": _LORA},
        "full": {"zai-org/glm-4-9b-hf": _LORA},
    },
}
"""训练目标 → 档 → 另可选的检查点 → 要跟着改的字段。"""


FAMILIES: dict[str, dict[str, str]] = {
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

STUDY: dict[str, dict[str, Any]] = {
    "tiny": {"max_steps": 16, "tokens_per_batch": 512, "eval_max_chars": 3_000},
    "t4": {"max_steps": 200, "tokens_per_batch": 4096},
    "full": {"max_steps": 1_000, "tokens_per_batch": 8192},
}
"""档 → 每种做法训练多久：要跑几次，所以各次都短。"""


def require_profile(profile: str, profiles: Iterable[str]) -> None:
    """没有这一档就报错，并猜最接近的一档。

    Raises:
        ConfigError: `profile` 不在 `profiles` 里。
    """
    known = list(profiles)
    if profile not in known:
        near = difflib.get_close_matches(profile, known, n=1, cutoff=0.3)
        raise ConfigError(
            found=f"PROFILE = {profile!r}",
            expected="、".join(known) + " 之一",
            remedy=f"改成 {near[0] if near else 'tiny'}",
        )


def profile_config(
    profile: str,
    objective: str,
    output: str | Path,
    seed: int,
    *,
    model: str = "",
    corpus: str = "",
    **settings: Any,
) -> TrainingConfig:
    """一档设置。

    Args:
        profile: `tiny`、`t4` 或 `full`。
        objective: 训练目标的键。
        output: 输出文件夹，新的或空的；见 `new_run`。
        seed: 随机种子。
        model: 换一个检查点；空的是这一档自己的。`ALTERNATIVES` 里的连设置一起换。
        corpus: 换一份语料，路径或名字；空的是这一档自己的。
        **settings: 要改的字段，盖过表里的。

    Raises:
        ObjectiveError: 没有这个目标。
        ConfigError: 没有这一档，或字段写错。

    >>> profile_config("tiny", "masked_lm", "out", 42).model
    'starter:bert'
    """
    key = get_objective(objective).key
    require_profile(profile, PROFILES[key])
    chosen: dict[str, Any] = {}
    if model:
        others = ALTERNATIVES.get(key, {}).get(profile, {})
        chosen = {**others.get(model, {}), "model": model}
    fields = {
        **_general(profile),
        **PROFILES[key][profile],
        **chosen,
        "objective": objective,
        "output": str(output),
        "seed": seed,
        **({"corpus": corpus} if corpus else {}),
        **settings,
    }
    return TrainingConfig.from_sources(None, fields)


def checkpoints(objective: str, profile: str) -> tuple[str, ...]:
    """一档可选的检查点，经典的在前。

    >>> checkpoints("causal_lm", "t4")
    ('bigscience/bloom-560m', 'Qwen/Qwen3-0.6B-Base')
    """
    others = ALTERNATIVES.get(objective, {}).get(profile, {})
    return (PROFILES[objective][profile]["model"], *others)


def _general(profile: str) -> Mapping[str, str]:
    """通用留出集总是随包的那份；回放只在极小的一档用，大语料会把它重复太多遍。"""
    samples = resources.files("companion.corpus") / "samples"
    found = {"general": str(samples / "general.valid.txt")}
    if profile == "tiny":
        found["replay"] = str(samples / "general.train.txt")
    return found


def new_run(name: str, root: str | Path = "runs") -> Path:
    """一个还没有用过的输出文件夹；重跑笔记本时，上一次的结果还在。

    >>> new_run("quickstart", "no-such-folder").as_posix()
    'no-such-folder/quickstart-1'
    """
    number = 1
    while (Path(root) / f"{name}-{number}").exists():
        number += 1
    return Path(root) / f"{name}-{number}"


def fresh(config: TrainingConfig) -> TrainingConfig:
    """训练的格再运行一次：输出文件夹用过了，就换成下一个编号，并说出来。

    旧的结果从不覆盖，也不删。

    Args:
        config: 训练的设置；`output` 形如 `new_run` 给的 `runs/名字-编号`。

    Returns:
        文件夹还没有用过的，原样交回；用过的，只改 `output`。
    """
    output = Path(config.output)
    if not output.exists():
        return config
    following = new_run(re.sub(r"-\d+$", "", output.name), output.parent)
    print(f"{output.as_posix()} 里的结果留着不动，这次写进 {following.as_posix()}")
    return replace(config, output=str(following))


def get_corpus(spec: str) -> str:
    """取得语料，返回一句话：从哪里来，权利状况如何；随包附带的不联网。

    Raises:
        CorpusError: 要下载而下不来。
    """
    name = spec.partition(":")[0]
    source = NAMED.get(name)
    if source is None:
        return f"{spec}：本机的文件"
    if source.embedded:
        return f"{spec}：随包附带，不用下载。{source.licence}"
    if source.folder() is None:  # 缓存与 COMPANION_DATA 里都没有
        from companion.corpus import fetch

        fetch(name)
    return f"{spec}：已在本机。{source.licence}"


def open_families(profile: str) -> dict[str, "Checkpoint"]:
    """打开四个家族的检查点，训练目标的键 → 检查点。

    Args:
        profile: `tiny`、`t4` 或 `full`。

    Raises:
        ConfigError: 没有这一档。
    """
    from companion.checkpoints.loading import (
        Checkpoint,
        load_checkpoint,
        load_tokenizer,
    )
    from companion.checkpoints.tiny import tiny_model

    require_profile(profile, FAMILIES)
    opened: dict[str, Checkpoint] = {}
    for key, name in FAMILIES[profile].items():
        prefix, _, kind = name.partition(":")
        if prefix == "tiny":  # 随机造一个，借用因果一族的分词器，切出的词元因此相同
            tokenizer = load_tokenizer(FAMILIES[profile]["causal_lm"])
            opened[key] = Checkpoint(tiny_model(kind, tokenizer), tokenizer, name)
        else:
            opened[key] = load_checkpoint(name, key)
    return opened


def prefix_example(
    objective: str,
    checkpoint: Any,
    text: str,
    seed: int,
    *,
    epoch: int = 0,
    **options: Any,
) -> "Example":
    """一个样本；整理器的参数里只有模型知道的，从检查点里取。"""
    from companion.checkpoints.running import fitted_objective, model_options
    from companion.show import show_example

    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    goal = fitted_objective(model, objective)
    known = model_options(model, goal)
    return show_example(
        goal, text, tokenizer, seed, epoch=epoch, model_options=known, **options
    )
