"""句对经命令到整理器：源侧是前缀，目标侧是续写；半有半无的语料点名。"""

import json
from pathlib import Path

import pytest
import torch

from companion.batch import IGNORE_INDEX
from companion.checkpoints.running import fitted_objective, model_options, special_edges
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.corpus.sources import read_corpus
from companion.errors import CorpusError
from companion.evaluation.targets import build_targets
from companion.training.data import Corpora, prepare_data

PAIRS = sorted(read_corpus("sample:pairs"), key=lambda pair: pair.num_chars)[:6]
KINDS = [
    ("prefix_lm", "gpt2"),
    ("prefix_lm", "t5"),
    ("unified_lm", "bert"),
    ("translation_lm", "bert"),
]


def prepared(key: str, kind: str, documents, tmp_path: Path, configure, **settings):
    """排定的训练数据，与这个模型。"""
    tokenizer = tiny_tokenizer(kind)
    model = tiny_model(kind, tokenizer)
    goal = fitted_objective(model, key)
    config = configure(
        tmp_path / "out", objective=key, tokens_per_batch=512, block_size=100
    )
    data = prepare_data(
        config,
        Corpora(documents, [], [], [], 0),
        goal,
        model,
        tokenizer,
        packed=True,
        cache_dir=tmp_path / "cache",
    )
    return data, tokenizer


def bare(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


def test_the_prefix_is_the_source_and_the_loss_is_on_the_target(tmp_path, configure):
    """只有解码器：前缀恰是文言，标签恰是白话与文档结尾；打包时句对仍一行一个。"""
    data, tokenizer = prepared("prefix_lm", "gpt2", PAIRS, tmp_path, configure)
    assert len(data.rows) == len(PAIRS)
    for number, pair in enumerate(PAIRS):
        [example] = data.collator.examples([data.rows[0, number]])
        source = bare(tokenizer, pair.text)
        target = [*bare(tokenizer, pair.target), tokenizer.eos_token_id]
        assert example.input_ids.tolist() == source + target
        assert example.prefix.tolist() == [True] * len(source) + [False] * len(target)
        assert example.labels.tolist() == [IGNORE_INDEX] * len(source) + target


def test_the_encoder_reads_the_source_and_the_decoder_writes_the_target(
    tmp_path, configure
):
    """编码器–解码器：文言进编码器，白话由解码器写出。"""
    data, tokenizer = prepared("prefix_lm", "t5", PAIRS, tmp_path, configure)
    for number, pair in enumerate(PAIRS):
        [example] = data.collator.examples([data.rows[0, number]])
        assert example.input_ids.tolist() == tokenizer(pair.text).input_ids
        assert example.labels.tolist() == tokenizer(pair.target).input_ids


def test_the_two_sides_are_the_two_segments(tmp_path, configure):
    """UniLM：两段恰是 tokenizer(源, 目标)，不再另插 [SEP]；片段编号在那里分界。"""
    data, tokenizer = prepared("unified_lm", "bert", PAIRS, tmp_path, configure)
    seen = set()
    for number, pair in enumerate(PAIRS):
        for epoch in range(4):
            [example] = data.collator.examples([data.rows[epoch, number]])
            whole = tokenizer(pair.text, pair.target)
            chosen = example.labels != IGNORE_INDEX
            restored = example.input_ids.where(~chosen, example.labels)
            assert restored.tolist() == whole.input_ids
            if example.token_type_ids.any():
                assert example.token_type_ids.tolist() == whole.token_type_ids
                seen.add(bool(example.prefix.all()))
    assert seen == {True, False}  # 双向与序列到序列都用两段


def test_both_sides_are_masked_and_positions_restart(tmp_path, configure):
    """XLM 的句对：两侧都有目标，后一句的位置从 0 数起，两句同一篇。"""
    data, tokenizer = prepared("translation_lm", "bert", PAIRS, tmp_path, configure)
    batch = data.collator([data.rows[0, number] for number in range(len(PAIRS))])
    for row, pair in enumerate(PAIRS):
        first = len(tokenizer(pair.text).input_ids)
        second = len(tokenizer(pair.target).input_ids)
        positions = batch["position_ids"][row, : first + second].tolist()
        assert positions == [*range(first), *range(second)]
        labelled = batch["labels"][row] != IGNORE_INDEX
        assert labelled[:first].any()
        assert labelled[first : first + second].any()
    assert batch["attention_mask"].ndim == 2


@pytest.mark.parametrize(("key", "kind"), KINDS)
def test_the_exam_asks_the_target_side(key, kind):
    """评估目标也按句对出：prefix_lm 考的恰是白话的每个字；翻译语言建模两侧都考。"""
    tokenizer = tiny_tokenizer(kind)
    model = tiny_model(kind, tokenizer)
    goal = fitted_objective(model, key)
    targets = build_targets(
        tokenizer, goal, PAIRS, model_options=model_options(model, goal)
    )
    assert len(targets.rows) == len(PAIRS)
    starts = torch.cat([row.starts[row.labels != IGNORE_INDEX] for row in targets.rows])
    if key == "prefix_lm":
        assert targets.num_targets == sum(
            sum(each != tokenizer.unk_token_id for each in bare(tokenizer, pair.target))
            for pair in PAIRS
        )
    else:
        assert starts.min() < min(len(pair.text) for pair in PAIRS)


def test_monolingual_documents_keep_their_ways(tmp_path, configure):
    """没有译文的文档照旧随机切开、照旧打包。"""
    texts = list(read_corpus("sample:classical"))[:4]
    data, tokenizer = prepared("prefix_lm", "gpt2", texts, tmp_path, configure)
    assert "prefix_length" not in data.rows[0, 0]
    assert special_edges(tokenizer).prefix == ()


@pytest.mark.parametrize("key", ["prefix_lm", "translation_lm"])
def test_half_a_corpus_of_pairs_is_named(key, tmp_path, configure):
    """有的有译文、有的没有：说有几篇、头一篇是哪篇。"""
    path = tmp_path / "半.jsonl"
    lines = [{"source": "民大饥。", "target": "百姓大闹饥荒。"}] * 2
    path.write_text(
        "\n".join(json.dumps(line) for line in [*lines, {"text": "三年春，大旱。"}])
    )
    kind = "gpt2" if key == "prefix_lm" else "bert"
    with pytest.raises(CorpusError, match=r"半#3"):
        prepared(key, kind, list(read_corpus(path)), tmp_path, configure)


@pytest.mark.parametrize("suffix", [".jsonl", ".tsv"])
def test_pairs_from_a_file_reach_the_collator(suffix, tmp_path, configure):
    """`jsonl` 的 source 与 target、两列的 tsv，都读成句对。"""
    path = tmp_path / f"对{suffix}"
    if suffix == ".tsv":
        path.write_text("".join(f"{p.text}\t{p.target}\n" for p in PAIRS))
    else:
        rows = ({"source": p.text, "target": p.target} for p in PAIRS)
        path.write_text("\n".join(json.dumps(row) for row in rows))
    documents = list(read_corpus(path))
    assert [p.target for p in documents] == [p.target for p in PAIRS]
    data, _ = prepared("translation_lm", "bert", documents, tmp_path, configure)
    assert len(data.rows) == len(PAIRS)
