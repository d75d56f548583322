"""编码器–解码器从头到尾：各家检查点的文件夹 → 训练 → 原样的检查点。"""

from itertools import permutations
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from companion.checkpoints.saving import save_checkpoint
from companion.checkpoints.tiny import TINY_TEXT, tiny_model, tiny_tokenizer
from companion.config import TrainingConfig
from companion.errors import ConfigError, CorpusError
from companion.objectives import get_objective
from companion.preflight.visibility import can_pack
from companion.training import train
from companion.training.data import prepare_data, read_corpora

STEPS = 8
CASES = [
    ("t5", "span_corruption"),
    ("mt5", "mixture_of_denoisers"),
    ("bart", "masked_seq2seq"),
    ("bart-chinese", "text_infilling"),
    ("mbart", "text_infilling"),
    ("pegasus", "gap_sentences"),
]


@pytest.fixture(scope="module")
def long_corpus(tmp_path_factory):
    """二十篇，各有几句：缺句生成要不止一句。"""
    texts = ["".join(triple) for triple in permutations(TINY_TEXT[4:9], 3)][:20]
    path = tmp_path_factory.mktemp("corpus") / "语料.txt"
    path.write_text("\n\n".join(texts), encoding="utf-8")
    return path


def folder_of(kind: str, folder: Path) -> Path:
    """检查点文件夹；中文 BART 照仓库里的样子，只有 vocab.txt，没有 tokenizer.json。"""
    tokenizer = tiny_tokenizer(kind)
    save_checkpoint(tiny_model(kind, tokenizer), tokenizer, folder)
    if kind == "bart-chinese":
        vocabulary = tokenizer.get_vocab()
        for path in folder.glob("tokenizer*"):
            path.unlink()
        lines = sorted(vocabulary, key=vocabulary.__getitem__)
        (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def run(kind: str, goal: str, corpus: Path, tmp_path: Path, **changes):
    """训练几步，不评估。"""
    defaults = {
        "objective": goal,
        "model": str(folder_of(kind, tmp_path / "原来")),
        "corpus": str(corpus),
        "output": str(tmp_path / "输出"),
        "eval": False,
        "max_steps": STEPS,
        "block_size": 48,
        "tokens_per_batch": 1024,
        "learning_rate": 5e-3,
        "warmup_steps": 0.1,
        "logging_steps": 2,
        "precision": "fp32",
        "seed": 0,
    }
    return train(TrainingConfig(**(defaults | changes)), quiet=True)


@pytest.mark.usefixtures("no_curve")
@pytest.mark.parametrize(("kind", "goal"), CASES)
def test_a_stock_checkpoint_is_trained_and_stays_a_stock_checkpoint(
    kind, goal, tmp_path, long_corpus
):
    """损失降了；存下的由 AutoModel 与 AutoTokenizer 打开，一个张量不缺，逐位相同。"""
    result = run(kind, goal, long_corpus, tmp_path)
    losses = [row["loss"] for row in result.log]
    assert losses[-1] < losses[0] - 0.1
    saved = tmp_path / "输出" / "model"
    model, report = AutoModelForSeq2SeqLM.from_pretrained(
        saved, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    weights = load_file(saved / "model.safetensors")
    assert all(torch.equal(model.state_dict()[name], weights[name]) for name in weights)
    before = tiny_model(kind)
    assert model.config.decoder_start_token_id == before.config.decoder_start_token_id
    separate = not torch.equal(
        model.lm_head.weight, model.get_input_embeddings().weight
    )
    assert separate == (kind == "mt5")
    assert not torch.equal(model.lm_head.weight, before.lm_head.weight)
    text = TINY_TEXT[1]
    again = AutoTokenizer.from_pretrained(saved)
    assert again(text)["input_ids"] == tiny_tokenizer(kind)(text)["input_ids"]


def test_only_models_that_isolate_documents_are_packed(tmp_path, long_corpus):
    """T5 把几篇装进一行，三处注意力各有掩码；BART 一篇一行。"""
    batches, counts = {}, {}
    for kind, goal, options in (
        ("t5", "span_corruption", {"mean_noise_span_length": 12.0}),
        ("bart-chinese", "text_infilling", {}),
    ):
        config = TrainingConfig(
            objective=goal, model="x", corpus=str(long_corpus), output="x",
            max_steps=1, block_size=128, **options,
        )  # fmt: skip
        model, tokenizer = tiny_model(kind), tiny_tokenizer(kind)
        data = prepare_data(
            config,
            read_corpora(config),
            get_objective(goal),
            model,
            tokenizer,
            packed=can_pack(model).ok,
            cache_dir=tmp_path,
        )
        data.ledger.check()
        counts[kind] = len(data.rows)
        batches[kind] = data.collator([data.rows[0, row] for row in range(3)])
    assert counts["t5"] < 19 == counts["bart-chinese"]
    assert batches["t5"]["cross_attention_mask"].dim() == 4
    assert batches["bart-chinese"]["attention_mask"].dim() == 2


@pytest.mark.parametrize("kind", ["pegasus", "t5"])
def test_a_corpus_without_a_sentence_to_spare_is_refused(kind, tmp_path, long_corpus):
    """缺句生成的语料篇篇只有一句：开训之前就说，不去练满篇的“没有缺句”。"""
    sentences = long_corpus.read_text("utf-8").replace("。", "，").replace("？", "，")
    corpus = tmp_path / "一句.txt"
    corpus.write_text(sentences.replace("；", "，"), encoding="utf-8")
    with pytest.raises(CorpusError, match="没有一篇有两句"):
        run(kind, "gap_sentences", corpus, tmp_path)
    assert not (tmp_path / "输出").exists()


def test_the_whole_spine_reports_bits_per_hidden_character(tmp_path, long_corpus):
    """前后各考一次，样张与报告都有；训练的设置不影响评估目标。"""
    result = run(
        "t5", "span_corruption", long_corpus, tmp_path,
        eval=True, max_steps=4, noise_density=0.3,
    )  # fmt: skip
    before, after = (result.metrics[when]["domain"] for when in ("before", "after"))
    assert before["num_targets"] == after["num_targets"] > 0
    assert after["bits_per_char"] != before["bits_per_char"]
    assert (tmp_path / "输出" / "report.html").is_file()


def test_half_precision_that_overflows_is_refused_before_anything_is_written(
    tmp_path, long_corpus
):
    """T5 配 fp16：还没建输出文件夹就说清缘由。"""
    with pytest.raises(ConfigError, match="t5 的激活"):
        run("t5", "span_corruption", long_corpus, tmp_path, precision="fp16")
    assert not (tmp_path / "输出").exists()
