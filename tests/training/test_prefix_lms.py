"""前缀语言模型从头到尾：文件夹 → 训练 → 原样的检查点；打包、账本、续训。"""

import shutil
from itertools import permutations
from typing import Any

import pytest
import torch
import transformers

from companion.batch import IGNORE_INDEX
from companion.checkpoints.running import fitted_objective
from companion.checkpoints.saving import save_checkpoint
from companion.checkpoints.tiny import TINY_TEXT, tiny_model, tiny_tokenizer
from companion.config import TrainingConfig
from companion.objectives.attention import visible_pairs
from companion.preflight.visibility import can_pack
from companion.training import train
from companion.training.data import prepare_data, read_corpora

CASES = [
    ("gpt2", "prefix_lm"),
    ("qwen3", "prefix_lm"),
    ("t5", "prefix_lm"),
    ("bart", "prefix_lm"),
    ("bert", "unified_lm"),
    ("roberta", "unified_lm"),
    ("distilbert", "unified_lm"),
    ("glm", "blank_infilling"),
    ("llama", "blank_infilling"),
    ("glm_two_row", "blank_infilling"),
]
PACKED = [case for case in CASES if case[0] != "bart"]


def made(kind: str, goal: str) -> tuple[Any, Any]:
    """极小的模型与分词器；填空的词表里有写空用的词元。"""
    tokenizer = tiny_tokenizer("glm_two_row" if goal == "blank_infilling" else kind)
    return tiny_model(kind, tokenizer), tokenizer


@pytest.fixture(scope="module")
def long_corpus(tmp_path_factory):
    """二十篇，各有几句，篇篇不同。"""
    texts = ["".join(triple) for triple in permutations(TINY_TEXT[4:9], 3)][:20]
    path = tmp_path_factory.mktemp("corpus") / "语料.txt"
    path.write_text("\n\n".join(texts), encoding="utf-8")
    return path


def config_of(goal: str, model: Any, corpus: Any, output: Any, **changes: Any):
    """训练几步，不评估。"""
    defaults: dict[str, Any] = {
        "objective": goal,
        "model": str(model),
        "corpus": str(corpus),
        "output": str(output),
        "eval": False,
        "max_steps": 8,
        "block_size": 64,
        "tokens_per_batch": 1024,
        "learning_rate": 5e-3,
        "warmup_steps": 0.1,
        "logging_steps": 2,
        "precision": "fp32",
        "seed": 0,
    }
    return TrainingConfig(**(defaults | changes))


@pytest.mark.usefixtures("no_curve")
@pytest.mark.parametrize(("kind", "goal"), CASES)
def test_a_checkpoint_is_trained_and_stays_what_it_was(
    kind, goal, tmp_path, long_corpus
):
    """损失降了；存下的由 Auto 类打开，不缺一个张量，也不多；设置照旧。"""
    model, tokenizer = made(kind, goal)
    save_checkpoint(model, tokenizer, tmp_path / "原来")
    config = config_of(goal, tmp_path / "原来", long_corpus, tmp_path / "输出")
    result = train(config, quiet=True)
    losses = [row["loss"] for row in result.log]
    assert losses[-1] < losses[0] - 0.1
    result.ledger.check()
    assert result.ledger.targets > 0
    auto_class = getattr(transformers, fitted_objective(model, goal).auto_class)
    again, report = auto_class.from_pretrained(
        tmp_path / "输出" / "model", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert type(again) is type(model)
    assert again.config.vocab_size == model.config.vocab_size
    assert not torch.equal(
        again.get_input_embeddings().weight, model.get_input_embeddings().weight
    )


@pytest.mark.parametrize(("kind", "goal"), PACKED)
def test_rows_hold_several_documents_that_never_meet(kind, goal, tmp_path):
    """打包：词元账是平的，词元一个不少；一行几篇，互不可见，各篇都有目标。"""
    model, tokenizer = made(kind, goal)
    objective = fitted_objective(model, goal)
    short = tmp_path / "短文.txt"
    short.write_text("\n\n".join(TINY_TEXT), encoding="utf-8")
    config = config_of(goal, "x", short, "x", max_steps=1, block_size=128)
    corpora = read_corpora(config)
    data = prepare_data(
        config, corpora, objective, model, tokenizer,
        packed=can_pack(model).ok, cache_dir=tmp_path,
    )  # fmt: skip
    data.ledger.check()
    assert data.ledger.placed == data.ledger.tokens_in
    assert len(data.rows) < len(corpora.train)
    features = [data.rows[0, row] for row in range(len(data.rows))]
    assert max(len(feature["document_starts"]) for feature in features) > 1
    examples = data.collator.examples(features)
    batch = data.collator.collate(examples)
    mask = batch["attention_mask"][:, 0] == 0
    for row, (feature, example) in enumerate(zip(features, examples, strict=True)):
        inside = example.documents
        assert int(inside[-1]) + 1 == len(feature["document_starts"])
        size = len(inside)
        seen = mask[row, :size, :size]
        assert not seen[inside[:, None] != inside[None]].any()
        if objective.masks:
            reverse = torch.tensor([example.reverse])
            expected = visible_pairs(inside[None], example.prefix[None], reverse)
            assert torch.equal(seen, expected[0])
        owners = inside if objective.masks else example.decoder_documents
        targets = owners[example.labels != IGNORE_INDEX]
        if goal != "unified_lm":  # 它在整行里选 15%，短的一篇可以一个不选
            assert set(targets.tolist()) == set(inside.tolist())


@pytest.mark.usefixtures("no_curve")
@pytest.mark.parametrize(("kind", "goal"), [CASES[0], CASES[4], CASES[-1]])
def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(
    kind, goal, tmp_path, long_corpus, weights
):
    """走到第 4 步的检查点接着训练，与一口气走完逐位相等：噪声由轮次与编号定。"""
    model, tokenizer = made(kind, goal)
    save_checkpoint(model, tokenizer, tmp_path / "原来")
    config = config_of(
        goal, tmp_path / "原来", long_corpus, tmp_path / "一气",
        max_steps=6, save_steps=2, tokens_per_batch=256,
    )  # fmt: skip
    whole = train(config, quiet=True)
    cut = tmp_path / "断过"
    shutil.copytree(whole.output, cut)
    for name in ("checkpoint-6", "model"):
        shutil.rmtree(cut / name)
    (cut / "metrics.json").unlink()
    again = train(
        config_of(goal, tmp_path / "原来", long_corpus, cut, max_steps=6, save_steps=2,
                  tokens_per_batch=256), resume=True, quiet=True,
    )  # fmt: skip
    assert weights(cut / "model") == weights(whole.output / "model")
    assert again.ledger.targets == whole.ledger.targets


def test_the_settings_reach_the_collator(long_corpus, tmp_path):
    """每一项设置都到得了整理器，没有设的取论文的值，模型知道的照模型。"""
    model, tokenizer = made("glm_two_row", "blank_infilling")
    config = config_of(
        "blank_infilling", "x", long_corpus, "x", document_probability=0.0,
        poisson_lambda=2.0, max_steps=1,
    )  # fmt: skip
    objective = fitted_objective(model, "blank_infilling")
    data = prepare_data(
        config, read_corpora(config), objective, model, tokenizer,
        packed=True, cache_dir=tmp_path,
    )  # fmt: skip
    collator = data.collator
    assert (collator.document_probability, collator.poisson_lambda) == (0.0, 2.0)
    assert (collator.sentence_probability, collator.noise_density) == (0.3, 0.15)
    assert (collator.position_rows, collator.max_length) == (2, 128)
