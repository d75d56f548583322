"""“版本变迁”一页说的，对着装好的 transformers 逐条核对。"""

import dataclasses
import inspect
import re
from pathlib import Path

import pytest
import transformers
from built_book import ROOT
from packaging.version import Version
from transformers.pipelines import SUPPORTED_TASKS

TEXT = (ROOT / "book" / "versions.md").read_text("utf-8")
GONE_SETTINGS = (
    "evaluation_strategy",
    "warmup_ratio",
    "no_cuda",
    "group_by_length",
    "overwrite_output_dir",
    "logging_dir",
    "save_safetensors",
)
NEW_SETTINGS = ("eval_strategy", "warmup_steps", "use_cpu", "train_sampling_strategy")
GONE_NAMES = (
    "AdamW",
    "DataCollatorForWholeWordMask",
    "DataCollatorForSOP",
    "LineByLineTextDataset",
    "TextDataset",
    "BloomTokenizerFast",
    "ErnieTokenizer",
    "TFBertModel",
    "FlaxBertModel",
)
GONE_METHODS = (
    "encode_plus",
    "batch_encode_plus",
    "additional_special_tokens",
    "build_inputs_with_special_tokens",
)
GONE_TASKS = (
    "text2text-generation",
    "summarization",
    "translation",
    "question-answering",
)


def mentioned(name: str) -> bool:
    """页面里提到了这个名字。"""
    return re.search(rf"(?<![\w]){re.escape(name)}(?![\w])", TEXT) is not None


def default_of(setting: str) -> object:
    """TrainingArguments 的一项缺省值。"""
    fields = {f.name: f for f in dataclasses.fields(transformers.TrainingArguments)}
    return fields[setting].default


@pytest.mark.parametrize("name", GONE_SETTINGS)
def test_these_settings_are_gone(name: str) -> None:
    """页面说删去的设置，装好的版本里确实没有。"""
    assert mentioned(name)
    assert name not in inspect.signature(transformers.TrainingArguments).parameters


@pytest.mark.parametrize("name", NEW_SETTINGS)
def test_these_settings_took_their_place(name: str) -> None:
    """页面说改用的设置，装好的版本里确实有。"""
    assert mentioned(name)
    assert name in inspect.signature(transformers.TrainingArguments).parameters


@pytest.mark.parametrize("name", GONE_NAMES)
def test_these_classes_are_gone(name: str) -> None:
    """页面说删去的类，装好的版本里确实没有。"""
    assert mentioned(name)
    assert not hasattr(transformers, name)


@pytest.mark.parametrize("name", GONE_METHODS)
def test_these_tokenizer_methods_are_gone(name: str) -> None:
    """页面说删去的方法，分词器的类上确实没有。"""
    assert mentioned(name)
    assert not hasattr(transformers.PreTrainedTokenizerFast, name)


@pytest.mark.parametrize("name", GONE_TASKS)
def test_these_pipelines_are_gone(name: str) -> None:
    """页面说删去的流水线，装好的版本里确实没有。"""
    assert mentioned(name)
    assert name not in SUPPORTED_TASKS


def test_the_trainer_takes_a_processing_class() -> None:
    """Trainer 的 tokenizer 参数改名为 processing_class。"""
    parameters = inspect.signature(transformers.Trainer).parameters
    assert "processing_class" in parameters
    assert "tokenizer" not in parameters


def test_the_fast_bert_tokenizer_is_the_bert_tokenizer() -> None:
    """两个名字是同一个类。"""
    assert transformers.BertTokenizerFast is transformers.BertTokenizer


def test_the_defaults_are_those_of_the_page() -> None:
    """上报缺省关着，优化器缺省是合并的实现。"""
    assert default_of("report_to") == "none"
    assert default_of("optim") == "adamw_torch_fused"
    assert mentioned("adamw_torch_fused")


def test_a_checkpoint_keeps_its_precision(tmp_path: Path) -> None:
    """bf16 存下的，不写 dtype 就读成 bf16。"""
    import torch

    config = transformers.GPT2Config(vocab_size=8, n_embd=4, n_layer=1, n_head=1)
    transformers.GPT2LMHeadModel(config).to(torch.bfloat16).save_pretrained(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.dtype == torch.bfloat16


def test_the_page_names_the_range_the_package_asks_for() -> None:
    """页面写的范围就是 pyproject.toml 里的，装好的版本在其中。"""
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert '"transformers>=5.15,<6"' in project
    assert "5.15 以上、6 以下" in TEXT
    assert Version("5.15") <= Version(transformers.__version__) < Version("6")
