"""缺句生成（PEGASUS）：挖去整句，一句一个掩码，目标依次是挖去的各句。"""

import copy
from collections import Counter
from itertools import accumulate, pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    BERT,
    CLS,
    FEW,
    MASK,
    PLAIN_IDS,
    SEP,
    UNK,
    corrupted,
    rng_of,
    starts_of,
    tokenizer_of,
    within_five_sigma,
)

from companion.batch import IGNORE_INDEX
from companion.checkpoints.tiny import tiny_model
from companion.errors import ObjectiveError
from companion.objectives import gap_sentences
from companion.objectives.gap_sentences import (
    GapSentencesCollator,
    gap_count,
)

STOP, COMMA = BERT.convert_tokens_to_ids(["。", "，"])
WORDS = [token for token in PLAIN_IDS if BERT.decode([token]).isalpha()]
SENTENCE = st.lists(
    st.sampled_from([*WORDS[:12], COMMA, UNK]), min_size=1, max_size=8
).map(lambda words: [*words, STOP])
DOCUMENT = st.lists(SENTENCE, min_size=1, max_size=9)
STRATEGIES = ["principal", "random", "lead"]
TEXTS = [
    "飞鸟尽，良弓藏。走狗烹！鸟藏弓，狗烹尽。",
    "他说：“这本书很好看。”大家都笑了起来！我们读书。",
    "𠮷𡘙之下。𠮷𠀋而已。天下大势。",  # 扩展 B 区的字
    "臣光曰",
]


def join(sentences) -> list[int]:
    return [token for sentence in sentences for token in sentence]


def bert_row(sentences, example: int = 0, **items) -> dict:
    return {"input_ids": [CLS, *join(sentences), SEP], "example_id": example, **items}


def rows_of(tokenizer) -> list[dict]:
    return [
        {"input_ids": tokenizer(text)["input_ids"], "example_id": i}
        for i, text in enumerate(TEXTS)
    ]


def pegasus_tokenizer(words: str):
    """与真 Pegasus 同类：<mask_1> 是缺句，mask_token 是 <mask_2>，结尾加 </s>。"""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    specials = ["<pad>", "</s>", "<unk>", "<mask_1>", "<mask_2>"]
    pieces = [*specials, *dict.fromkeys(words.split())]
    backend = Tokenizer(
        models.WordLevel({piece: i for i, piece in enumerate(pieces)}, "<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask_2>",
        extra_special_tokens=["<mask_1>"],
    )


def test_the_figure_of_the_paper_comes_out():
    """图 1：挖去第二句，换成 <mask_1>；解码器写出这一句与 </s>。"""
    first, second, third = (
        "Pegasus is mythical 。",
        "It is pure white 。",
        "It names the model 。",
    )
    text = f"{first} {second} {third}"
    tokenizer = pegasus_tokenizer(text)
    collator = GapSentencesCollator(tokenizer, strategy="random")
    ids = tokenizer(text)["input_ids"]
    rows = [{"input_ids": ids, "example_id": i} for i in range(20)]
    shown = {
        tuple(tokenizer.convert_ids_to_tokens(e.labels)): (
            " ".join(tokenizer.convert_ids_to_tokens(e.input_ids)),
            " ".join(tokenizer.convert_ids_to_tokens(e.decoder_input_ids)),
        )
        for e in collator.examples(rows)
    }
    assert shown[(*second.split(), "</s>")] == (
        f"{first} <mask_1> {third} </s>",
        f"<pad> {second}",
    )
    assert len(shown) == 3  # 三句都有挖到的时候


@FEW
@given(
    st.lists(DOCUMENT, min_size=1, max_size=3),
    st.sampled_from(STRATEGIES),
    st.sampled_from([0.1, 0.3, 0.5, 0.9]),
)
def test_the_gaps_filled_in_order_restore_the_document(texts, strategy, density):
    """掩码数恰是挖去的句数；目标的各句依次填回掩码处就是原文，至少留下一句。"""
    collator = GapSentencesCollator(
        BERT, noise_density=density, strategy=strategy, decoder_start_token_id=SEP
    )
    rows = [bert_row(text, i) for i, text in enumerate(texts)]
    before = copy.deepcopy(rows)
    examples = collator.examples(rows)
    assert rows == before
    for text, example in zip(texts, examples, strict=True):
        ids, labels = example.input_ids.tolist(), example.labels.tolist()
        count = (
            0
            if len(text) == 1
            else min(len(text) - 1, max(1, round(len(text) * density)))
        )
        assert ids.count(MASK) == count
        assert (labels[0], labels[-1]) == (CLS, SEP)
        assert example.decoder_input_ids.tolist() == [SEP, *labels[:-1]]
        origin = example.origin[1:-1].tolist()
        assert [[CLS, *join(text), SEP][at] for at in origin] == labels[1:-1]
        assert origin == sorted(origin)
        assert example.hidden.tolist() == [False, *[True] * len(origin), False]
        ends = [0, *(i for i, t in enumerate(labels[1:-1], 1) if t == STOP)]
        gaps = iter([labels[a + 1 : b + 1] for a, b in pairwise(ends)])
        filled = join(next(gaps) if token == MASK else [token] for token in ids)
        assert filled == [CLS, *join(text), SEP]
        assert list(gaps) == []


def rouge_1(sentence: str, rest: str) -> float:
    """ROUGE-1 的 F 值，逐字，标点不算。"""
    here, there = (Counter(c for c in text if c.isalnum()) for text in (sentence, rest))
    shared = (here & there).total()
    if shared == 0:
        return 0.0
    precision, recall = shared / here.total(), shared / there.total()
    return round(2 * precision * recall / (precision + recall), 9)  # 平局不由舍入定


def naive(sentences: list[str], rng: np.random.Generator, density: float) -> set[int]:
    """逐句用 ROUGE-1 的定义算：挖去第几句。"""
    noise = rng.random(len(sentences))
    scores = [
        rouge_1(text, "".join(sentences[:i] + sentences[i + 1 :]))
        * (1 + gap_sentences.SCORE_NOISE * (2 * noise[i] - 1))
        for i, text in enumerate(sentences)
    ]
    count = min(max(1, round(density * len(sentences))), len(sentences) - 1)
    order = sorted(range(len(sentences)), key=lambda i: -scores[i])
    return set(order[:count])


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_principal_sentences_have_the_highest_rouge(noise, monkeypatch):
    """挖的就是 ROUGE-1 F 值最高的几句：与逐句用 Counter 数的一样。"""
    monkeypatch.setattr(gap_sentences, "SCORE_NOISE", noise)
    rng = np.random.default_rng(1)
    texts = [
        [[*rng.choice(WORDS[:20], rng.integers(1, 15)), COMMA, STOP] for _ in range(n)]
        for n in (1, 2, 3, 4, 7, 12, 30)
    ]
    done = corrupted(GapSentencesCollator(BERT), [join(text) for text in texts])
    for number, (text, each) in enumerate(zip(texts, done, strict=True)):
        words = ["".join(BERT.convert_ids_to_tokens(line)) for line in text]
        alone = len(text) == 1
        expected = set() if alone else naive(words, rng_of(0, number), 0.3)
        starts = starts_of([len(line) for line in text])
        assert {i for i, at in enumerate(starts) if at in each.origin} == expected


def test_the_noise_on_the_scores_breaks_ties_but_not_large_gaps():
    """分数相同的两句各占一半；高出一倍的那句总是挖到；都不沾边时随意。"""
    a, b, c, d = WORDS[:4]
    tied = [[a, b, STOP], [a, b, STOP], [c, STOP]]
    clear = [[a, b, STOP], [c, d, STOP], [a, b, c, d, STOP]]
    apart = [[a, STOP], [b, STOP]]
    trials = 2_000
    collator = GapSentencesCollator(BERT, noise_density=0.3)
    firsts = {}
    for name, text in (("tied", tied), ("clear", clear), ("apart", apart)):
        done = corrupted(collator, [join(text)] * trials)
        firsts[name] = np.array([each.origin[0] for each in done])
    assert set(firsts["clear"].tolist()) == {6}
    assert set(firsts["tied"].tolist()) == {0, 3}
    for name in ("tied", "apart"):
        assert within_five_sigma(int((firsts[name] == 0).sum()), trials, 0.5)


def test_random_sentences_are_uniform_and_lead_sentences_come_first():
    """随意挑：每句的机会相等；开头：总是前几句。"""
    trials, text = 5_000, [[WORDS[i], STOP] for i in range(5)]
    for strategy in ("random", "lead"):
        collator = GapSentencesCollator(BERT, noise_density=0.4, strategy=strategy)
        done = corrupted(collator, [join(text)] * trials)
        chosen = np.concatenate([each.origin[::2] // 2 for each in done])
        if strategy == "lead":
            assert chosen.tolist() == [0, 1] * trials
        else:
            for count in np.bincount(chosen, minlength=5).tolist():
                assert within_five_sigma(count, trials, 0.4)


def test_counts_leave_at_least_one_sentence():
    """round(0.3·S)，至少一句，至少留一句；只有一句的不挖。"""
    counts = [gap_count(size, 0.3) for size in range(1, 11)]
    assert counts == [0, 1, 1, 1, 2, 2, 2, 2, 3, 3]
    assert [gap_count(size, 0.99) for size in range(1, 5)] == [0, 1, 2, 3]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_noise_depends_only_on_seed_epoch_and_example(strategy):
    """与同批的别的样本无关；换一轮、换种子挖的就不全同（lead 除外）。"""
    rng = np.random.default_rng(0)
    texts = [[[*rng.choice(WORDS[:8], 5), STOP] for _ in range(6)] for _ in range(8)]
    rows = [bert_row(text, i, epoch=2) for i, text in enumerate(texts)]

    def inputs(rows, **options) -> list[list[int]]:
        collator = GapSentencesCollator(BERT, strategy=strategy, **options)
        return [example.input_ids.tolist() for example in collator.examples(rows)]

    together = inputs(rows)
    assert [inputs([row])[0] for row in reversed(rows)] == together[::-1]
    later = inputs([{**row, "epoch": 3} for row in rows])
    assert (later == together) == (strategy == "lead")
    assert (inputs(rows, seed=1) == together) == (strategy == "lead")


def test_documents_in_one_row_are_each_treated_alone():
    """一行几篇：句子不跨文档，每篇各自挖、各有目标；合起来等于分开做。"""
    texts = [
        [[*WORDS[:3], STOP], [*WORDS[2:4], STOP]],
        [WORDS[5:7]],  # 一句，而且没有句末
        [[*WORDS[:2], STOP], [*WORDS[1:6], STOP], [*WORDS[4:7], STOP]],
    ]
    rows = [[CLS, *join(text), SEP] for text in texts]
    collator = GapSentencesCollator(BERT)
    (packed,) = collator.examples(
        [
            {
                "input_ids": join(rows),
                "document_starts": starts_of([len(row) for row in rows]),
                "example_id": 4,
            }
        ]
    )
    done = [
        collator.corrupt(np.array(join(text)), np.random.default_rng((0, 0, 4, n)))
        for n, text in enumerate(texts)
    ]
    inputs = join([CLS, *each.inputs, SEP] for each in done)
    targets = join([CLS, *each.targets, SEP] for each in done)
    assert packed.input_ids.tolist() == inputs
    assert packed.labels.tolist() == targets
    sizes = [len(each.targets) + 2 for each in done]
    owners = join([i] * size for i, size in enumerate(sizes))
    assert packed.decoder_documents.tolist() == owners
    assert len(done[1].targets) == 0
    whole = torch.tensor(join(rows))
    assert torch.equal(
        whole[packed.origin[packed.hidden]], packed.labels[packed.hidden]
    )
    assert list(accumulate(sizes))[-1] == len(packed.labels)


def test_a_document_of_one_sentence_has_nothing_to_write():
    """只有一句：输入是全文，目标只有首尾的特殊词元，没有要考的。"""
    (example,) = GapSentencesCollator(BERT).examples([bert_row([[WORDS[0], STOP]])])
    assert example.input_ids.tolist() == [CLS, WORDS[0], STOP, SEP]
    assert example.labels.tolist() == [CLS, SEP]
    assert not example.hidden.any()


def test_an_empty_target_is_named():
    """没有首尾的特殊词元，又只有一句：目标一个词元也没有，说清怎么办。"""
    with pytest.raises(ObjectiveError, match=r"目标是空的.*add_special_tokens"):
        GapSentencesCollator(BERT)([{"input_ids": [WORDS[0], STOP]}])


@pytest.mark.parametrize("size", range(1, 11))
def test_documents_of_any_length_work(size):
    """一到十个词元，全是句末或一个句末也没有，都能成一批。"""
    collator = GapSentencesCollator(BERT)
    rows = [bert_row([[STOP] * size]), bert_row([WORDS[:size]], 1)]
    batch = collator(rows)
    assert {value.dtype for value in batch.values()} == {torch.int64}
    assert batch["labels"].tolist() == [[CLS, SEP]] * 2  # 连着的句末是一句


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_the_loss_of_the_stock_model_is_the_mean_over_the_targets(kind):
    """库的模型收下这一批；损失等于逐个交叉熵的平均，梯度处处有限。"""
    tokenizer, model = tokenizer_of(kind), tiny_model(kind)
    start = model.config.decoder_start_token_id
    collator = GapSentencesCollator(tokenizer, decoder_start_token_id=start)
    batch = collator(rows_of(tokenizer))
    out = model(**batch)
    inside = batch["labels"] != IGNORE_INDEX
    by_hand = F.cross_entropy(out.logits[inside], batch["labels"][inside])
    torch.testing.assert_close(out.loss, by_hand)
    out.loss.backward()
    assert all(
        weight.grad is None or weight.grad.isfinite().all()
        for weight in model.parameters()
    )
    assert torch.equal(
        batch["decoder_input_ids"][:, 1:][inside[:, 1:]],
        batch["labels"][:, :-1][inside[:, 1:]],
    )


@pytest.mark.parametrize("kind", ["t5", "bart", "bert"])
def test_every_kind_of_tokenizer_gives_whole_sentences(kind):
    """字符、SentencePiece、字节级 BPE：挖去的都是整句。

    引号跟着它的那一句；极小的字节级 BPE 把引号拆成两个词元，认不出来。
    """
    tokenizer = tokenizer_of(kind)
    collator = GapSentencesCollator(tokenizer, strategy="lead")
    examples = collator.examples(rows_of(tokenizer))
    written = [
        tokenizer.decode(example.labels, skip_special_tokens=True).replace(" ", "")
        for example in examples
    ]
    assert written[0] == "飞鸟尽，良弓藏。"
    assert written[1] == "他说：“这本书很好看。" + "”" * (kind != "bart")
    assert written[3] == ""
    mask = {"t5": "<extra_id_0>", "bart": "<mask>", "bert": "[MASK]"}[kind]
    assert collator.mask_id == tokenizer.convert_tokens_to_ids(mask)
    assert all(int((e.input_ids == collator.mask_id).sum()) == 1 for e in examples[:3])


def test_characters_are_counted_not_tokens():
    """一个词元写出的每个字都算，标点、▁、[UNK] 不算；半个字自己算一个。"""
    t5 = tokenizer_of("t5")
    pair = next(
        token for token in t5.get_vocab() if len(token) == 2 and token.isalpha()
    )
    tokens = t5.convert_tokens_to_ids([pair, "。", "▁", "<unk>"])
    spell = GapSentencesCollator(t5).spell
    assert ["".join(spell(token)) for token in tokens] == [pair, "", "", ""]
    bart = tokenizer_of("bart")
    spell = GapSentencesCollator(bart).spell
    parts = bart("𠮷", add_special_tokens=False)["input_ids"]
    assert all(len(spell(part)) == 1 for part in parts)
    assert len({spell(part)[0] for part in parts}) == len(set(parts))


def test_chosen_tokens_are_hidden_the_same_way():
    """指定遮哪几个：每段相连的换成一个掩码，目标依次是遮住的词元。"""
    x = WORDS[:6]
    noise = np.array([True, False, True, True, False, True])
    example = GapSentencesCollator(BERT).hide(bert_row([x]), noise)
    assert example.input_ids.tolist() == [CLS, MASK, x[1], MASK, x[4], MASK, SEP]
    assert example.labels.tolist() == [CLS, x[0], x[2], x[3], x[5], SEP]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"noise_density": 0.0}, "noise_density = 0.0"),
        ({"noise_density": 1.0}, "noise_density = 1.0"),
        ({"strategy": "last"}, "strategy = 'last'.*principal、random、lead"),
    ],
)
def test_options_out_of_range_are_named(options, found):
    with pytest.raises(ObjectiveError, match=found):
        GapSentencesCollator(BERT, **options)


def test_unsuitable_tokenizers_and_texts_are_named():
    """没有可用来遮的词元；原文里已有掩码。"""
    with pytest.raises(ObjectiveError, match="既没有掩码词元，也没有哨兵词元"):
        GapSentencesCollator(tokenizer_of("bloom"))
    with pytest.raises(ObjectiveError, match=r"样本 0 的正文里已有 \[MASK\]"):
        GapSentencesCollator(BERT)([bert_row([[WORDS[0], MASK, STOP]])])
