"""笔记本 t4、full 两档的每个检查点：本机的模型仓库里，同一编号之下放同一类的极小权重。

权重的格式、分词器的文件与真的同一种：SikuBERT、roberta-wwm、中文 BART、ELECTRA 是 .bin
与 vocab.txt，mT5、mengzi 是 .bin 与 spiece.model，BLOOM、Qwen3、GLM 是 safetensors
与 tokenizer.json。语料是真名的 `tongjian`。
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer
from model_folders import write_checkpoint, write_glm, write_old_checkpoint

from companion.checkpoints.tiny import TINY_TEXT
from companion.notebook.profiles import FAMILIES, PROFILES, checkpoints
from companion.notebook.tokenizers import PUBLIC

for module in ("sentencepiece", "google.protobuf"):
    pytest.importorskip(module, reason="读 spiece.model 要它：重新安装本包就有")

OLD = {
    "SIKU-BERT/sikubert": "bert",
    "SIKU-BERT/sikuroberta": "bert",
    "hfl/chinese-roberta-wwm-ext": "bert",
    "hfl/chinese-roberta-wwm-ext-large": "bert",
    "fnlp/bart-base-chinese": "bart-chinese",
    "fnlp/bart-large-chinese": "bart-chinese",
    "google/mt5-small": "mt5",
    "google/mt5-base": "mt5",
    "Langboat/mengzi-t5-base": "t5",
    "hfl/chinese-electra-180g-small-generator": "electra",
    "hfl/chinese-electra-180g-base-generator": "electra",
    "hfl/chinese-electra-180g-small-discriminator": "electra",
    "hfl/chinese-electra-180g-base-discriminator": "electra",
}
"""旧式的仓库：.bin 与词表文件。"""
NEW = {
    "bigscience/bloom-560m": "bloom",
    "bigscience/bloom-1b7": "bloom",
    "Qwen/Qwen3-0.6B-Base": "qwen3",
    "Qwen/Qwen3-1.7B-Base": "qwen3",
    "zai-org/glm-edge-1.5b-chat": "glm",
    "zai-org/glm-4-9b-hf": "glm",
}
"""今天的仓库：safetensors 与 tokenizer.json。"""

CASES = [
    (objective, profile, name)
    for objective in PROFILES
    for profile in ("t4", "full")
    for name in checkpoints(objective, profile)
    if not name.startswith("starter:")
]

_PROGRAM = """
import json, sys
from companion.checkpoints.loading import load_checkpoint
from companion.notebook import get_corpus, plan_training, profile_config
from companion.checkpoints.tiny import TINY_TEXT
from companion.notebook import open_families
from companion.notebook.tokenizers import public_tokenizers
from companion.plots import curves, style
from companion.training import train

curves.plot_curve = style.save_figure = lambda *args, **options: None  # 画一张要一秒
TINY = {"max_steps": 1, "block_size": 48, "tokens_per_batch": 96,
        "eval_max_chars": 300,
        "num_train_epochs": 1.0, "gradient_accumulation_steps": 1, "precision": "fp32"}
EXAMINED = ("SIKU-BERT/sikubert", "Qwen/Qwen3-0.6B-Base")  # 前后各考一次要几秒
answers = {}
for objective, profile, name in json.loads(sys.argv[1]):
    key = f"{objective} {profile} {name}"
    config = profile_config(profile, objective, f"out/{len(answers)}", 7, model=name)
    get_corpus(config.corpus)
    rows = dict(map(tuple, plan_training(config).rows))
    answer = {"model": config.model, "corpus": config.corpus, "plan": rows}
    if profile == "t4":
        tiny = profile_config(
            profile, objective, config.output, 7, model=name, **TINY, lora_rank=0,
            eval=name in EXAMINED,
        )
        done = train(tiny, quiet=True)
        opened = load_checkpoint(f"{config.output}/model", objective)
        answer |= {"steps": done.metrics["steps"],
                   "examined": sorted(done.metrics.get("after", {})),
                   "targets": done.ledger.targets,
                   "class": type(opened.model).__name__}
    answers[key] = answer
answers["families"] = [
    type(each.model).__name__ for each in open_families("t4").values()
]
answers["tokenizers"] = [len(each) for each in public_tokenizers("t4").values()]
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """一个全新的进程、全新的缓存里，逐个打开、估算，t4 的各训练一步。"""
    root = tmp_path_factory.mktemp("profiles")
    folders = {
        kind: write_old_checkpoint(root / "old" / kind, kind)
        for kind in set(OLD.values())
    } | {
        kind: write_checkpoint(root / "new" / kind, kind)
        for kind in set(NEW.values()) - {"glm"}
    }
    folders["glm"] = write_glm(root / "new" / "glm")
    repositories = {name: folders[kind] for name, kind in {**OLD, **NEW}.items()}
    write_discriminator(root / "discriminator")
    for name in repositories:
        if name.endswith("-discriminator"):
            repositories[name] = root / "discriminator"
    write_tongjian(root / "data" / "tongjian")
    program = {"PYTHONPATH": os.environ.get("PYTHONPATH", ""), "OMP_NUM_THREADS": "1"}
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    with HubServer(repositories) as hub:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, json.dumps(CASES)],
            env=inherited
            | program
            | {
                "HF_ENDPOINT": hub.url,
                "HF_HOME": str(root / "hub"),
                "COMPANION_DATA": str(root / "data"),
                "XDG_CACHE_HOME": str(root / "cache"),
            },
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def write_discriminator(folder: Path) -> None:
    """ELECTRA 的判别器，旧式；与生成器同一个词表。"""
    import torch
    from transformers import ElectraForPreTraining

    write_old_checkpoint(folder, "electra")
    config = ElectraForPreTraining.config_class.from_pretrained(folder)
    config.architectures = ["ElectraForPreTraining"]
    config.save_pretrained(folder)
    model = ElectraForPreTraining(config)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def write_tongjian(folder: Path) -> None:
    """与 `companion corpus fetch tongjian` 得到的同名；文字都是极小词表认得的。"""
    folder.mkdir(parents=True)
    lines = list(TINY_TEXT)
    chapters = ["".join(lines[i:] + lines[:i]) for i in range(len(lines))]
    chapters += ["".join(reversed(lines[i:] + lines[:i])) for i in range(len(lines))]
    for side in ("classical", "modern"):
        for split, texts in (("train", chapters[:-1]), ("valid", chapters[-1:])):
            path = folder / f"{split}.{side}.txt"
            path.write_text("\n\n".join(texts) + "\n", encoding="utf-8")


def test_every_checkpoint_the_notebooks_name_is_here() -> None:
    """名单不多不少：设置表、模型分类、分词器三张表里的编号都在上面。"""
    named = {name for _, _, name in CASES}
    named |= {
        PROFILES["replaced_token"][profile]["generator"] for profile in ("t4", "full")
    }
    for profile in ("t4", "full"):
        named |= set(PUBLIC[profile].values()) | set(FAMILIES[profile].values())
    assert named == {*OLD, *NEW}


@pytest.mark.parametrize(
    ("objective", "profile", "name"), CASES, ids=[f"{o}-{n}" for o, _, n in CASES]
)
def test_a_profile_reaches_its_checkpoint_and_its_corpus(
    objective: str, profile: str, name: str, answers: dict[str, Any]
) -> None:
    """选了哪个检查点就是哪个，读的是真名的语料；内存与词元数由公式估出。"""
    found = answers[f"{objective} {profile} {name}"]
    assert found["model"] == name == found["plan"]["检查点"]
    assert found["corpus"].startswith("tongjian:")
    assert int(found["plan"]["要读的词元"].replace(",", "")) > 1000
    assert "MB" in found["plan"]["训练的内存"]


@pytest.mark.parametrize(
    ("objective", "name"), [(o, n) for o, profile, n in CASES if profile == "t4"]
)
def test_a_step_of_the_t4_profile_trains(
    objective: str, name: str, answers: dict[str, Any]
) -> None:
    """t4 的每个检查点训练得了一步，存成的还打得开，类没有变；考了的两侧都有成绩。"""
    found = answers[f"{objective} t4 {name}"]
    assert found["steps"] == 1
    assert found["targets"] > 0
    if name in ("SIKU-BERT/sikubert", "Qwen/Qwen3-0.6B-Base"):
        assert found["examined"] == ["domain", "general"]
    kind = {**OLD, **NEW}[name]
    assert (
        found["class"]
        == {
            "bert": "BertForMaskedLM",
            "bloom": "BloomForCausalLM",
            "qwen3": "Qwen3ForCausalLM",
            "glm": "GlmForCausalLM",
            "mt5": "MT5ForConditionalGeneration",
            "t5": "T5ForConditionalGeneration",
            "bart-chinese": "BartForConditionalGeneration",
            "electra": "ElectraPair",
        }[kind]
    )


def test_the_four_families_and_the_public_tokenizers_open(
    answers: dict[str, Any],
) -> None:
    """第 01、02 章的 t4 一档：四个家族各打开一个，五个分词器都读得进来。"""
    assert answers["families"] == [
        "BloomForCausalLM",
        "BertForMaskedLM",
        "BartForConditionalGeneration",
        "Qwen3ForCausalLM",
    ]
    assert all(size > 100 for size in answers["tokenizers"])
