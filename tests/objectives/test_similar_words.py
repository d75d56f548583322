"""MacBERT 的替换：输入里没有 [MASK]，词元数不变，没有近义词就换随机的词。"""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    BERT,
    CLS,
    FEW,
    MASK,
    PLAIN_IDS,
    SEP,
    SPECIAL_IDS,
    WORD_LENGTHS,
    rng_of,
    tokenizer_of,
    within_five_sigma,
    word_ids_of,
)

from companion.batch import IGNORE_INDEX
from companion.checkpoints.tiny import tiny_model
from companion.errors import ObjectiveError
from companion.objectives.masked_lm import MaskedLMCollator
from companion.objectives.presets import get_preset
from companion.objectives.rows import runs_of
from companion.objectives.similar_words import (
    NEIGHBOURS,
    replace_words,
    similar_from_embeddings,
    similar_from_lists,
)

TABLE = {"天子": ["诸侯", "大夫", "王"], "诸侯": ["大夫"], "王": ["臣", "天子"]}
WORDS = ["天子", "诸侯", "大夫", "老师", "故事", "王", "臣", "民", "朋", "今天"]
SIMILAR = similar_from_lists(BERT, TABLE)
RANDOM_IDS = np.array(PLAIN_IDS)


def ids_of(text: str) -> list[int]:
    return BERT(text, add_special_tokens=False)["input_ids"]


def words_of(rows: np.ndarray) -> set[str]:
    return {BERT.decode(row).replace(" ", "") for row in rows}


def replaced(text: str, lengths: list[int], seed: int, **shares: float) -> list[int]:
    """`text` 按 `lengths` 分词，全部选中，替换一次。"""
    ids = np.array(ids_of(text))
    return replace_words(
        ids,
        runs_of(ids >= 0, word_ids_of(lengths)),
        SIMILAR,
        random_ids=RANDOM_IDS,
        similar_prob=shares.get("similar", 1.0),
        random_prob=shares.get("random", 0.0),
        rng=rng_of(seed),
    ).tolist()


def test_a_list_keeps_only_words_of_equal_length():
    """“天子”的近义词里留下两个字的，“王”的里留下一个字的。"""
    found = {word: SIMILAR.neighbours[tuple(ids_of(word))] for word in TABLE}
    assert words_of(found["天子"]) == {"诸侯", "大夫"}
    assert words_of(found["王"]) == {"臣"}
    assert len(SIMILAR) == 3
    assert words_of(SIMILAR.pool[2]) == {"天子", "诸侯", "大夫"}


def test_a_list_without_equal_lengths_is_refused():
    """没有一个等长的近义词：说清应当怎样。"""
    with pytest.raises(ObjectiveError, match="词元数相同"):
        similar_from_lists(BERT, {"天子": ["王"]})


def test_words_with_unknown_characters_are_left_out():
    """词表外的字是 [UNK]：既不拿来替换，也不被替换。"""
    similar = similar_from_lists(BERT, TABLE | {"鬱鬱": ["天子"], "王": ["鬱", "臣"]})
    used = {i for rows in similar.pool.values() for i in rows.flatten().tolist()}
    assert not used & SPECIAL_IDS


def test_embeddings_find_the_nearest_words_of_equal_length():
    """把“诸侯”的向量挪到“天子”旁边，它就是“天子”最近的；自己不算，长短相同。"""
    embeddings = tiny_model("bert").get_input_embeddings().weight.detach().clone()
    for one, other in zip(ids_of("天子"), ids_of("诸侯"), strict=True):
        embeddings[other] = embeddings[one] + 1e-4
    similar = similar_from_embeddings(BERT, embeddings, WORDS)
    nearest = similar.neighbours[tuple(ids_of("天子"))]
    assert nearest[0].tolist() == ids_of("诸侯")
    for word, others in similar.neighbours.items():
        assert others.shape[1] == len(word)
        assert list(word) not in others.tolist()
        same_length = sum(len(ids_of(w)) == len(word) for w in WORDS)
        assert len(others) == min(NEIGHBOURS, same_length - 1)


def test_one_lonely_word_has_no_neighbour():
    """同长的词只有它一个：没有近义词可言。"""
    embeddings = tiny_model("bert").get_input_embeddings().weight
    with pytest.raises(ObjectiveError, match="词元数相同"):
        similar_from_embeddings(BERT, embeddings, ["天子", "王"])


def test_a_chosen_word_becomes_one_of_its_similar_words():
    """“天子”换成“诸侯”或“大夫”，两者各半；整词一起换。"""
    outcomes = [tuple(replaced("天子", [2], seed)) for seed in range(400)]
    assert set(outcomes) == {tuple(ids_of("诸侯")), tuple(ids_of("大夫"))}
    assert within_five_sigma(outcomes.count(tuple(ids_of("大夫"))), 400, 0.5)


def test_a_word_without_similar_words_becomes_a_random_word():
    """“老师”不在表里：换成等长的随机的词；没有等长的词，就逐个换随机词元。"""
    pool = {tuple(row) for row in SIMILAR.pool[2].tolist()}
    assert {tuple(replaced("老师", [2], seed)) for seed in range(100)} == pool
    drawn = {i for seed in range(60) for i in replaced("星期日", [3], seed)}
    assert len(drawn) > 60
    assert not drawn & SPECIAL_IDS


def test_eighty_ten_ten_by_words():
    """逐词决定：80% 近义词，10% 随机的词，10% 原样。"""
    outcomes = [
        tuple(replaced("天子", [2], seed, similar=0.8, random=0.1))
        for seed in range(2000)
    ]
    kept = outcomes.count(tuple(ids_of("天子")))
    # 随机的词从三个里抽，有三分之一碰巧是原词
    assert within_five_sigma(kept, 2000, 0.1 + 0.1 / 3)


@FEW
@given(st.lists(WORD_LENGTHS, min_size=1, max_size=3), st.integers(0, 99))
def test_macbert_inputs_have_no_mask_and_the_text_can_be_restored(layout, seed):
    """没有 [MASK]，长度不变，特殊词元不动；标签与输入合起来是原文；与邻行无关。"""
    preset = get_preset("macbert")
    collator = MaskedLMCollator(
        BERT, similar_words=SIMILAR, seed=seed, **preset.options
    )
    features = []
    for example, lengths in enumerate(layout):
        size = sum(lengths)
        body = [PLAIN_IDS[(7 * i + example) % len(PLAIN_IDS)] for i in range(size)]
        features.append(
            {
                "input_ids": [CLS, *body, SEP],
                "word_ids": [-1, *word_ids_of(lengths).tolist(), -1],
                "example_id": example,
            }
        )
    batch = collator(features)
    assert not (batch["input_ids"] == MASK).any()
    for row, feature in enumerate(features):
        alone = collator([feature])
        size = len(feature["input_ids"])
        assert torch.equal(batch["input_ids"][row, :size], alone["input_ids"][0])
        ids, labels = alone["input_ids"][0], alone["labels"][0]
        whole = torch.where(labels != IGNORE_INDEX, labels, ids)
        assert whole.tolist() == feature["input_ids"]
        assert ids[[0, -1]].tolist() == [CLS, SEP]


def test_macbert_masks_at_most_the_floor_of_the_budget():
    """⌊0.15 × 512⌋ = 76 个词元，每字一词时恰好。"""
    body = [PLAIN_IDS[i % len(PLAIN_IDS)] for i in range(510)]
    feature = {
        "input_ids": [CLS, *body, SEP],
        "word_ids": [-1, *range(510), -1],
        "example_id": 0,
    }
    collator = MaskedLMCollator(
        BERT, similar_words=SIMILAR, **get_preset("macbert").options
    )
    assert (collator([feature])["labels"] != IGNORE_INDEX).sum() == 76


def test_characters_may_be_words_of_their_own():
    """粒度 token 时一个字是一个词：换成一个字的近义词。"""
    feature = {"input_ids": [CLS, *ids_of("王"), SEP], "example_id": 0}
    collator = MaskedLMCollator(
        BERT, similar_words=SIMILAR, mask_replace_prob=1.0, random_replace_prob=0.0
    )
    assert collator([feature])["input_ids"][0].tolist() == [CLS, *ids_of("臣"), SEP]


def test_a_tokenizer_without_a_mask_will_do():
    """不用 [MASK]，所以没有掩码词元的分词器也行。"""
    tokenizer = tokenizer_of("qwen3")
    similar = similar_from_lists(tokenizer, {"天": ["大", "王"]})
    feature = {"input_ids": tokenizer("天下大势")["input_ids"], "example_id": 0}
    collator = MaskedLMCollator(tokenizer, similar_words=similar)
    assert (collator([feature])["labels"] != IGNORE_INDEX).any()


def test_the_table_can_be_sent_to_another_process():
    """近义词表可以序列化，替换的结果相同。"""
    again = pickle.loads(pickle.dumps(SIMILAR))
    key = tuple(ids_of("天子"))
    assert np.array_equal(again.neighbours[key], SIMILAR.neighbours[key])
