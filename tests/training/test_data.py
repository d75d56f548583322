"""语料到行：账目守恒、编号错开、该留出的留出。"""

from dataclasses import replace

import numpy as np
import pytest

from companion.checkpoints.loading import load_checkpoint
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.config import TrainingConfig
from companion.corpus.document import Document
from companion.corpus.packing import BlockDataset, plan_packing
from companion.corpus.tokens import TokenStore
from companion.errors import ConfigError, CorpusError
from companion.objectives import OBJECTIVES, get_objective
from companion.training.data import (
    Corpora,
    JoinedRows,
    choose_block_size,
    prepare_data,
    read_corpora,
    refuse_others,
)


def dataset(*lengths: int, first: int = 10) -> BlockDataset:
    ids = iter(range(first, 10_000))
    store = TokenStore.from_ids([[next(ids) for _ in range(n)] for n in lengths])
    plan = plan_packing(lengths, 16, pack=False)
    return BlockDataset(store, plan, prefix_ids=(1,), suffix_ids=(2,))


def test_joined_rows_number_the_replay_after_the_domain():
    """领域 3 行、回放 2 行：样本编号 0–4，内容各归各，轮次照带。"""
    domain, general = dataset(3, 4, 5), dataset(6, 2, first=500)
    rows = JoinedRows([domain, general])
    assert len(rows) == 5
    assert rows.lengths.tolist() == [5, 6, 7, 8, 4]
    features = [rows[7, n] for n in range(5)]
    assert [feature["example_id"] for feature in features] == [0, 1, 2, 3, 4]
    assert {feature["epoch"] for feature in features} == {7}
    for n, feature in enumerate(features):
        source = domain[n] if n < 3 else general[n - 3]
        assert np.array_equal(feature["input_ids"], source["input_ids"])


def test_joined_rows_leave_the_source_alone():
    """取样本不改动原来的数据集：它自己的编号仍从 0 数起。"""
    domain, general = dataset(3), dataset(6, first=500)
    assert JoinedRows([domain, general])[0, 1]["example_id"] == 1
    assert general[0]["example_id"] == 0


@pytest.mark.parametrize(
    ("kind", "changes", "size"),
    [
        ("bert", {"block_size": None, "tokens_per_batch": 4096}, 128),
        ("bert", {"block_size": None, "tokens_per_batch": 100}, 100),
        ("bert", {"block_size": 128}, 128),
        ("bloom", {"block_size": None, "tokens_per_batch": 4096}, 512),
        ("bloom", {"block_size": 2048, "tokens_per_batch": 4096}, 2048),
    ],
)
def test_the_block_size_is_what_the_model_can_read(
    tmp_path, configure, kind, changes, size
):
    """缺省取 512、预算与位置上限的最小者；BLOOM 没有上限。"""
    config = configure(tmp_path, kind, **changes)
    assert choose_block_size(config, tiny_model(kind)) == size


def test_a_row_is_no_longer_than_those_of_pretraining(tmp_path, configure):
    """T5 没有位置上限：缺省不超过 `n_positions`，自己给的可以更长。"""
    model = tiny_model("t5")
    model.config.n_positions = 96
    config = configure(tmp_path, block_size=None, tokens_per_batch=4096)
    assert choose_block_size(config, model) == 96
    config = replace(config, block_size=200)
    assert choose_block_size(config, model) == 200


def test_a_block_longer_than_the_positions_is_refused(tmp_path, configure):
    """超过位置上限：说出两个数，以及能用的写法。"""
    config = configure(tmp_path, block_size=129, tokens_per_batch=256)
    with pytest.raises(ConfigError) as caught:
        choose_block_size(config, tiny_model("bert"))
    assert "129" in caught.value.found
    assert "block_size=128" in caught.value.remedy


def test_duplicates_are_dropped_and_counted(tmp_path, configure):
    """重复的两篇只留一篇，记下删了几篇；关掉就都留着。"""
    path = tmp_path / "重复.txt"
    path.write_text("良弓藏。\n\n走狗烹。\n\n良弓藏。\n\n飞鸟尽。", encoding="utf-8")
    config = configure(tmp_path, corpus=str(path))
    corpora = read_corpora(config)
    assert corpora.duplicates == 1
    assert len(corpora.train) + len(corpora.valid) == 3
    kept = read_corpora(replace(config, deduplicate=False))
    assert kept.duplicates == 0
    assert len(kept.train) + len(kept.valid) == 4


def test_the_held_out_documents_are_not_trained_on(tmp_path, configure):
    """没有给留出集：按文档划出一部分，训练时一篇也没有。"""
    corpora = read_corpora(configure(tmp_path))
    assert corpora.valid
    assert not {d.text for d in corpora.train} & {d.text for d in corpora.valid}


def test_a_held_out_file_is_used_whole(tmp_path, configure):
    """给了留出集：语料全部用来训练，留出集就是那个文件。"""
    path = tmp_path / "留出.txt"
    path.write_text("此篇留出。\n\n此篇也留出。", encoding="utf-8")
    whole = read_corpora(configure(tmp_path))
    corpora = read_corpora(configure(tmp_path, valid=str(path), general=str(path)))
    assert [d.text for d in corpora.valid] == ["此篇留出。", "此篇也留出。"]
    assert list(corpora.general) == list(corpora.valid)
    assert len(corpora.train) == len(whole.train) + len(whole.valid)


def test_a_named_corpus_brings_its_own_held_out_set(tmp_path, configure):
    """随包语料自带按章的留出集；作 --general 时也取它的留出集。"""
    corpora = read_corpora(
        configure(tmp_path, corpus="sample:classical", general="sample:modern")
    )
    assert len(corpora.valid) > 1
    train = {document.text for document in corpora.train}
    assert not train & {document.text for document in corpora.valid}
    own = read_corpora(configure(tmp_path, corpus="sample:modern"))
    assert [d.text for d in corpora.general] == [d.text for d in own.valid]


def test_a_single_text_without_a_second_sentence_cannot_be_split(tmp_path, configure):
    """只有一句话：划不出留出集，说清楚。"""
    path = tmp_path / "一句.txt"
    path.write_text("良弓藏。", encoding="utf-8")
    with pytest.raises(CorpusError):
        read_corpora(configure(tmp_path, corpus=str(path)))


TEXTS = ("学而时习之，不亦说乎？", "天下大势，分久必合。", "王使人告于诸侯，" * 9)


def prepared(
    tmp_path, configure, kind="bert", *, packed=True, replay=(), texts=TEXTS, **changes
):
    config = configure(tmp_path, kind, **changes)
    tokenizer = tiny_tokenizer(kind)
    documents = [Document(text, f"d#{n}", "d") for n, text in enumerate(texts)]
    return prepare_data(
        config,
        Corpora(documents, [], [], list(replay), 0),
        get_objective(config.objective),
        tiny_model(kind, tokenizer),
        tokenizer,
        packed=packed,
        cache_dir=tmp_path / "cache",
    )


@pytest.mark.parametrize("packed", [True, False])
def test_every_token_is_in_exactly_one_row(tmp_path, configure, packed):
    """各行的非特殊词元合起来就是全部文字；账本与计划相符。"""
    data = prepared(tmp_path, configure, packed=packed)
    tokenizer = tiny_tokenizer("bert")
    found = []
    for n in range(len(data.rows)):
        feature = data.rows[0, n]
        found += feature["input_ids"][~feature["special_tokens_mask"]].tolist()
        assert len(feature["input_ids"]) <= data.block_size
    wanted = [
        i for text in TEXTS for i in tokenizer(text, add_special_tokens=False).input_ids
    ]
    assert sorted(found) == sorted(wanted)
    assert data.ledger.tokens_in == data.ledger.placed == len(wanted)
    assert data.ledger.trained == data.plan.tokens
    assert data.ledger.grid == data.ledger.trained + data.ledger.padded
    starts = [len(data.rows[0, n]["document_starts"]) for n in range(len(data.rows))]
    assert (max(starts) > 1) is packed


def test_a_causal_document_ends_with_eos(tmp_path, configure):
    """因果模型：每篇末尾恰有一个 EOS，切开的长文中间没有。"""
    data = prepared(tmp_path, configure, "gpt2", packed=False)
    eos = tiny_tokenizer("gpt2").eos_token_id
    ids = [data.rows[0, n]["input_ids"].tolist() for n in range(len(data.rows))]
    assert len(ids) > len(TEXTS)
    assert sum(row.count(eos) for row in ids) == len(TEXTS)
    assert sum(row[-1] == eos for row in ids) == len(TEXTS)


def test_an_end_added_by_the_tokenizer_itself_ends_only_the_document(
    tmp_path, configure
):
    """分词器自己就添 [SEP]，它又是结尾词元：切开的长文中间没有，每篇末尾恰有一个。"""
    tokenizer = tiny_tokenizer("bert")
    tokenizer.eos_token = "[SEP]"
    data = prepare_data(
        configure(tmp_path, "gpt2", block_size=32),
        Corpora(
            [Document(text * 3, f"t#{n}", "t") for n, text in enumerate(TEXTS)],
            [],
            [],
            [],
            0,
        ),
        get_objective("causal_lm"),
        tiny_model("gpt2", tokenizer),
        tokenizer,
        packed=False,
        cache_dir=tmp_path / "cache",
    )
    ids = [data.rows[0, n]["input_ids"].tolist() for n in range(len(data.rows))]
    end = tokenizer.sep_token_id
    assert len(ids) > len(TEXTS)
    assert sum(row.count(end) for row in ids) == len(TEXTS)
    assert sum(row[-1] == end for row in ids) == len(TEXTS)
    assert all(row[0] == tokenizer.cls_token_id for row in ids)


def test_only_whole_word_masking_cuts_words(tmp_path, configure):
    """全词掩码才有 word_ids。"""
    assert "word_ids" not in prepared(tmp_path, configure).rows[0, 0]
    feature = prepared(tmp_path, configure, granularity="whole_word").rows[0, 0]
    words = feature["word_ids"]
    assert (words[feature["special_tokens_mask"]] == -1).all()
    assert 0 < words.max() < len(words) - 1


def test_the_replay_rows_follow_the_domain(tmp_path, configure):
    """账本只记领域语料的文字，训练的词元则包括回放。"""
    replay = [Document("今天已经星期日了。", f"r#{n}", "r") for n in range(9)]
    alone = prepared(tmp_path, configure, max_steps=-1, num_train_epochs=1)
    mixed = prepared(
        tmp_path, configure, replay=replay, replay_ratio=0.2, max_steps=-1,
        num_train_epochs=1,
    )  # fmt: skip
    assert mixed.ledger.tokens_in == alone.ledger.tokens_in
    assert len(mixed.rows) > len(alone.rows)
    assert mixed.plan.replayed > 0
    assert mixed.ledger.trained == alone.ledger.trained + mixed.plan.replayed
    assert mixed.ledger.epochs == pytest.approx(1)


def test_the_prepared_rows_match_a_checkpoint_on_disk(tmp_path, configure, checkpoints):
    """磁盘上的检查点与内存里的极小模型给出同样的行长。"""
    loaded = load_checkpoint(str(checkpoints / "bert"), "masked_lm")
    assert choose_block_size(configure(tmp_path), loaded.model) == 32


@pytest.mark.parametrize(
    ("kind", "objective"),
    [("bart-chinese", "text_infilling"), ("bart-chinese", "masked_seq2seq")],
)
def test_documents_too_short_to_corrupt_are_dropped_and_counted(
    tmp_path, configure, kind, objective
):
    """只有一个词元的文档遮了就什么也不剩：不进训练，账本写明几个，账仍是平的。"""
    texts = ("王", *TEXTS, "曰")
    data = prepared(tmp_path, configure, kind, objective=objective, texts=texts)
    whole = prepared(tmp_path / "b", configure, kind, objective=objective)
    assert data.ledger.dropped == {"一篇不足 2 个词元": 2}
    assert data.ledger.tokens_in == whole.ledger.tokens_in + 2
    assert data.ledger.placed == whole.ledger.placed


def test_a_corpus_of_single_tokens_is_refused(tmp_path, configure):
    """一篇也出不了题：开训之前说清有几篇、至少要几个词元。"""
    with pytest.raises(CorpusError, match="2 篇，篇篇不足 2 个词元"):
        prepared(
            tmp_path,
            configure,
            "bart-chinese",
            objective="text_infilling",
            texts=("王", "曰"),
        )


@pytest.mark.parametrize("key", OBJECTIVES)
def test_every_objective_takes_a_seed(key):
    """随机种子哪个目标都用：打乱与随机失活由它定，设了它不算设了别的目标的选项。"""
    config = TrainingConfig(objective=key, model="m", corpus="c", output="o", seed=1)
    refuse_others(config, OBJECTIVES[key])
