"""填空：分数与 transformers 的 fill-mask 管道相同。"""

from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import pipeline

from companion.checkpoints.loading import Checkpoint, load_checkpoint
from companion.checkpoints.locating import list_starters
from companion.checkpoints.running import special_edges
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.corpus.tokenization import text_ids
from companion.errors import ModelError, ObjectiveError
from companion.inference import fill, fill_best, filling, mask_randomly

EXAMPLES = [
    "撒盐空中差可拟,未若柳絮因[MASK]起",
    "今天已经星期[MASK]了，明天就是周末了。",
]


def make(kind: str) -> Checkpoint:
    """极小的检查点。"""
    tokenizer = tiny_tokenizer(kind)
    return Checkpoint(tiny_model(kind, tokenizer), tokenizer, f"tiny-{kind}")


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert"])
@pytest.mark.parametrize(
    "text", [*EXAMPLES, "上必且劝之以[MASK]，然后[MASK]进", "[MASK]"]
)
def test_scores_equal_those_of_the_fill_mask_pipeline(kind, text):
    """一个或几个掩码：词元、概率、次序都与库的管道一致。"""
    model = make(kind)
    library = pipeline("fill-mask", model=model.model, tokenizer=model.tokenizer)
    expected = library(text.replace("[MASK]", model.tokenizer.mask_token), top_k=4)
    if text.count("[MASK]") == 1:
        expected = [expected]
    found = fill(model, text, top_k=4)
    assert len(found) == len(expected) == text.count("[MASK]")
    for ours, theirs in zip(found, expected, strict=True):
        assert [c.score for c in ours] == pytest.approx([t["score"] for t in theirs])
        for candidate, each in zip(ours, theirs, strict=True):
            assert candidate.token == each["token_str"].strip().removeprefix("##")


@pytest.mark.parametrize("kind", ["xlm-roberta", "albert", "bert"])
def test_the_model_reads_what_it_read_in_training(kind, monkeypatch):
    """遮住的是训练时的那个词元，别的不动：掩码之后没有多出的 ▁，[SEP] 是文字。"""
    model, read = make(kind), []
    tokenizer = model.tokenizer
    word_logits = filling.word_logits

    def spy(inner, inputs):
        read.append(inputs["input_ids"][0].tolist())
        return word_logits(inner, inputs)

    monkeypatch.setattr(filling, "word_logits", spy)
    fill(model, "天下[MASK]势[SEP]")
    edges, body = special_edges(tokenizer), text_ids("天下大势[SEP]", tokenizer)
    hidden = body.index(tokenizer.convert_tokens_to_ids("大"))
    body[hidden] = tokenizer.mask_token_id
    assert read == [[*edges.prefix, *body, *edges.suffix]]


def test_a_candidate_carries_the_text_with_this_blank_filled():
    """只填自己这一处，别处仍是 [MASK]；原文的空格与标点不动。"""
    first, second = fill(make("bert"), "天 下[MASK]势,[MASK]久必合", top_k=2)
    assert first[0].text == f"天 下{first[0].token}势,[MASK]久必合"
    assert second[1].text == f"天 下[MASK]势,{second[1].token}久必合"


def test_the_best_fill_takes_every_first_place():
    """fill_best 把各处的第一名都填上。"""
    bert = make("bert")
    first, second = fill(bert, "天下[MASK]势，[MASK]久必合")
    assert (
        fill_best(bert, "天下[MASK]势，[MASK]久必合")
        == f"天下{first[0].token}势，{second[0].token}久必合"
    )


def test_the_tokenizers_own_mask_is_accepted_too():
    """RoBERTa 的掩码写 <mask> 也行，与写 [MASK] 相同。"""
    roberta = make("roberta")
    assert fill(roberta, "良弓<mask>。") == fill(roberta, "良弓[MASK]。")


def test_a_model_in_training_mode_fills_without_dropout():
    """刚训练完的模型仍在训练模式：填空时关掉丢弃法，之后复原。"""
    bert = make("bert")
    quiet = fill(bert, EXAMPLES[0])
    bert.model.train()
    assert fill(bert, EXAMPLES[0]) == quiet
    assert bert.model.training


def test_more_candidates_than_words_gives_the_whole_vocabulary():
    """top_k 超过词表时给全部，概率之和为 1。"""
    [found] = fill(make("bert"), EXAMPLES[0], top_k=10**6)
    assert sum(candidate.score for candidate in found) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "text", "top_k", "error", "message"),
    [
        ("bert", "没有空", 5, ObjectiveError, "没有掩码"),
        ("bert", "[MASK]", 0, ObjectiveError, "top_k"),
        ("bert", "天" * 200 + "[MASK]", 5, ModelError, "128"),
        ("bloom", "[MASK]", 5, ModelError, "complete"),
    ],
)
def test_what_cannot_be_filled_is_refused_by_name(kind, text, top_k, error, message):
    """没有掩码、个数不对、太长、不是掩码模型：各有各的说法。"""
    with pytest.raises(error, match=message):
        fill(make(kind), text, top_k)


@given(seed=st.integers(0, 10**6), count=st.integers(1, 8))
def test_random_masks_restore_the_text_when_filled_back(seed, count):
    """把答案按次序填回去就是原文；遮的个数恰好；标点不遮。"""
    text = "上必且劝之以赏，然后可进"
    masked = mask_randomly(text, tiny_tokenizer("bert"), count, seed)
    assert len(masked.answers) == masked.text.count("[MASK]") == count
    assert "，" not in masked.answers
    restored = masked.text
    for answer in masked.answers:
        restored = restored.replace("[MASK]", answer, 1)
    assert restored == text
    assert mask_randomly(text, tiny_tokenizer("bert"), count, seed) == masked


def test_only_characters_that_are_one_token_are_masked():
    """词表外的字与拆成几个字节的字，一个 [MASK] 装不下，不遮。"""
    assert mask_randomly("龘天齉", tiny_tokenizer("bert"), 1).answers == ["天"]
    roberta = tiny_tokenizer("roberta")
    text = "礼莫大于分，分莫大于名"
    answers = mask_randomly(text, roberta, 1).answers
    offsets = roberta(text, return_offsets_mapping=True)["offset_mapping"]
    spans = [tuple(span) for span in offsets]
    at = [i for i in range(len(text)) if spans.count((i, i + 1)) == 1]
    assert answers[0] in {text[i] for i in at}


def test_a_tokenizer_without_offsets_masks_characters_too():
    """没有偏移的分词器也能用。"""

    class Slow:
        is_fast, unk_token_id, eos_token_id, mask_token = False, 0, None, "<m>"
        added_tokens_decoder = MappingProxyType({})

        def tokenize(self, text, *, split_special_tokens):
            assert split_special_tokens
            return list(text)

        def convert_tokens_to_ids(self, tokens):
            return [{"龘": 0}.get(token, 7) for token in tokens]

        def convert_tokens_to_string(self, tokens):
            return "".join(tokens)

    assert mask_randomly("龘天", Slow(), 1).text == "龘<m>"


@pytest.mark.parametrize("count", [0, 2])
def test_more_masks_than_characters_are_refused(count):
    """可遮的字不够时，说出有几个。"""
    with pytest.raises(ObjectiveError, match="可遮的有 1 个"):
        mask_randomly("天，。", tiny_tokenizer("bert"), count)


def test_a_tokenizer_without_a_mask_is_refused():
    """因果模型的分词器没有掩码词元。"""
    with pytest.raises(ModelError, match="掩码词元"):
        mask_randomly("天下", tiny_tokenizer("bloom"), 1)


@pytest.mark.skipif("bert" not in list_starters(), reason="本安装没有附带 starter:bert")
def test_the_starter_fills_the_examples_of_the_book():
    """starter:bert 填书里的例子，概率由大到小。"""
    bert = load_checkpoint("starter:bert", "masked_lm")
    for text in EXAMPLES:
        [found] = fill(bert, text)
        scores = [candidate.score for candidate in found]
        assert scores == sorted(scores, reverse=True)
        assert 0 < sum(scores) <= 1
    masked = mask_randomly("上必且劝之以赏，然后可进", bert.tokenizer, 2)
    assert len(fill(bert, masked.text)) == 2
