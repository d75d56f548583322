"""一段文字变成“词元 → 输入 → 标签”：与整理器逐字相符，与训练同一条路。"""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from companion.batch import IGNORE_INDEX
from companion.checkpoints.tiny import tiny_tokenizer
from companion.errors import ObjectiveError
from companion.objectives.causal_lm import CausalLMCollator
from companion.objectives.masked_lm import MaskedLMCollator
from companion.show import example_rows, show_example, token_text

KINDS = ("bert", "roberta", "xlm-roberta", "gpt2", "bloom", "qwen3", "xlm")
TEXT = "狡兔死，走狗烹；飞鸟尽，良弓藏。"
texts = st.text("狡兔死走狗烹飞鸟尽良弓藏，。；𠮷 abR", min_size=1, max_size=40).filter(
    lambda text: bool(text.strip())
)


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    return {kind: tiny_tokenizer(kind) for kind in KINDS}


def test_masked_lm_rows_equal_the_collator(tokenizers: dict[str, Any]) -> None:
    """把同样的编号、同样的样本号交给整理器，得到逐位相同的输入与标签。"""
    tokenizer = tokenizers["bert"]
    shown = show_example("masked_lm", TEXT, tokenizer, seed=7, mlm_probability=0.4)
    batch = MaskedLMCollator(tokenizer, mlm_probability=0.4, seed=7)(
        [{"input_ids": tokenizer(TEXT)["input_ids"], "example_id": 0, "epoch": 0}]
    )
    assert shown.input_ids == batch["input_ids"][0].tolist()
    assert shown.labels == batch["labels"][0].tolist()


def test_causal_lm_rows_equal_the_collator(tokenizers: dict[str, Any]) -> None:
    """因果语言建模：编号后面接文档结尾词元，标签不移位。"""
    tokenizer = tokenizers["bloom"]
    shown = show_example("causal_lm", TEXT, tokenizer)
    ids = [*tokenizer(TEXT)["input_ids"], tokenizer.eos_token_id]
    batch = CausalLMCollator(tokenizer)([{"input_ids": ids}])
    assert shown.input_ids == ids
    assert shown.labels == batch["labels"][0].tolist() == [IGNORE_INDEX, *ids[1:]]
    assert shown.rows.predicted_by == [None, *range(len(ids) - 1)]


@given(text=texts, seed=st.integers(0, 99), epoch=st.integers(0, 3))
def test_masked_rows_hide_only_what_they_label(
    text: str, seed: int, epoch: int
) -> None:
    """没有标签的列原样；有标签的列，标签就是原来的词元，由本列预测；特殊词元不动。

    词表外的字是 [UNK]，也是特殊词元：整行都是它时，没有标签。
    """
    rows = example_rows("masked_lm", text, tiny_tokenizer("bert"), seed, epoch=epoch)
    assert any(label is not None for label in rows.labels) or all(rows.special)
    for at, label in enumerate(rows.labels):
        if label is None:
            assert rows.inputs[at] == rows.tokens[at]
            assert rows.predicted_by[at] is None
        else:
            assert label == rows.tokens[at]
            assert rows.predicted_by[at] == at
            assert not rows.special[at]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tokenizer_shows_readable_tokens(
    kind: str, tokenizers: dict[str, Any]
) -> None:
    """WordPiece、SentencePiece、字节 BPE、纯 Python 的分词器都行；没有怪字符与“�”。"""
    tokenizer = tokenizers[kind]
    objective = "causal_lm" if tokenizer.mask_token is None else "masked_lm"
    rows = example_rows(objective, "狡兔死 走狗烹", tokenizer)
    shown = "".join(rows.tokens)
    assert not set(shown) & set("�ĠĊçåæ")
    assert len(rows) >= 5


def test_half_a_character_is_shown_as_bytes(tokenizers: dict[str, Any]) -> None:
    """字节 BPE 把一个汉字拆开时，写成字节；把它们接起来正是原文的 UTF-8。"""
    tokenizer = tokenizers["gpt2"]
    tokens = [token_text(tokenizer, each) for each in tokenizer("𠮷")["input_ids"]]
    assert all(token.startswith("⟨") and token.endswith("⟩") for token in tokens)
    assert bytes.fromhex("".join(token[1:-1] for token in tokens)) == "𠮷".encode()


@given(text=texts)
def test_byte_level_tokens_join_to_the_text(text: str) -> None:
    """字节 BPE 的词元还原成文字（半个字还原成字节）之后，接起来还是原文。"""
    tokenizer = tiny_tokenizer("bloom")
    data = b""
    for each in tokenizer(text, add_special_tokens=False)["input_ids"]:
        token = token_text(tokenizer, each)
        is_bytes = token.startswith("⟨")
        data += bytes.fromhex(token[1:-1]) if is_bytes else token.encode()
    assert data.decode() == text


def test_whole_words_are_chosen_together(tokenizers: dict[str, Any]) -> None:
    """整词粒度：给定的分词函数切出的词，要么整个有标签，要么整个没有；图题写明。"""
    words = [
        "狡兔",
        "死",
        "，",
        "走狗",
        "烹",
        "；",
        "飞鸟",
        "尽",
        "，",
        "良弓",
        "藏",
        "。",
    ]
    for seed in range(8):
        rows = example_rows(
            "masked_lm",
            TEXT,
            tokenizers["bert"],
            seed,
            segmenter=lambda _: words,
            granularity="whole_word",
            mlm_probability=0.3,
        )
        assert rows.title == "掩码语言建模（全词）"
        at = 1  # [CLS]
        for word in words:
            labelled = {rows.labels[at + k] is not None for k in range(len(word))}
            assert len(labelled) == 1
            at += len(word)


def test_whole_words_need_no_segmenter_of_your_own(tokenizers: dict[str, Any]) -> None:
    """没给分词函数就用 jieba。"""
    rows = example_rows("masked_lm", TEXT, tokenizers["bert"], granularity="whole_word")
    assert len(rows) == len(TEXT) + 2


@pytest.mark.parametrize(
    ("objective", "kind"), [("masked_lm", "bert"), ("causal_lm", "bloom")]
)
def test_several_texts_share_a_row_and_never_see_each_other(
    objective: str, kind: str, tokenizers: dict[str, Any]
) -> None:
    """打包：一段一个文档，各带自己的特殊词元；可见矩阵正是“同一文档”（因果再取下三角）。"""
    shown = show_example(objective, ["狡兔死", "走狗烹", "良弓藏"], tokenizers[kind])
    documents = np.array(shown.rows.document)
    assert sorted(set(documents)) == [0, 1, 2]
    same = documents[:, None] == documents[None, :]
    expected = np.tril(same) if objective == "causal_lm" else same
    assert np.array_equal(shown.visible, expected)
    alone = [
        example_rows(objective, text, tokenizers[kind]) for text in ("狡兔死", "走狗烹")
    ]
    assert shown.rows.tokens[: len(alone[0])] == alone[0].tokens


def test_a_single_text_shows_what_the_model_itself_will_mask(
    tokenizers: dict[str, Any],
) -> None:
    """一行一个文档时掩码是二维的：编码器全看得见，因果模型自己补上三角。"""
    masked = show_example("masked_lm", "狡兔死", tokenizers["bert"])
    assert masked.visible.all()
    causal = show_example("causal_lm", "狡兔死", tokenizers["bloom"])
    size = len(causal.input_ids)
    assert np.array_equal(causal.visible, np.tril(np.ones((size, size), bool)))


def test_the_first_token_of_each_packed_document_is_no_target(
    tokenizers: dict[str, Any],
) -> None:
    """因果语言建模：每个文档的首个词元左边没有上文，所以没有标签。"""
    rows = example_rows("causal_lm", ["狡兔死", "走狗烹"], tokenizers["bloom"])
    starts = [at for at in range(len(rows)) if at == 0
              or rows.document[at] != rows.document[at - 1]]  # fmt: skip
    assert [at for at, label in enumerate(rows.labels) if label is None] == starts


def test_the_global_random_state_is_left_alone(tokenizers: dict[str, Any]) -> None:
    """看一个样本不动用户的随机数。"""
    before = torch.random.get_rng_state()
    example_rows("masked_lm", TEXT, tokenizers["bert"])
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("objective", "text", "options", "said"),
    [
        ("maskedlm", "狡兔死", {}, "masked_lm"),
        ("masked_lm", "", {}, "空的"),
        ("masked_lm", [], {}, "空的"),
        ("masked_lm", ["狡兔死", "\n"], {}, "空的"),
        ("masked_lm", "狡兔死", {"noise_density": 0.1}, "没有参数 noise_density"),
        ("causal_lm", "狡兔死", {"granularity": "token"}, "没有参数 granularity"),
        ("masked_lm", "狡兔死", {"preset": "macbert"}, "没有近义词表"),
    ],
)
def test_mistakes_are_named(
    objective: str,
    text: Any,
    options: dict[str, Any],
    said: str,
    tokenizers: dict[str, Any],
) -> None:
    """没有的目标、空的文字、不属于这个目标的参数：`ObjectiveError` 说得出名字。"""
    with pytest.raises(ObjectiveError, match=said):
        example_rows(objective, text, tokenizers["bert"], **options)
