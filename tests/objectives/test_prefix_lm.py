"""前缀语言建模：切点均匀，前缀双向，只有后缀有损失；解码器与编码器–解码器各一个。"""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    CONTAINERS,
    FEW,
    same_feature,
    starts_of,
    tokenizer_of,
    within_five_sigma,
)
from torch.nn.functional import cross_entropy

from companion.batch import IGNORE_INDEX
from companion.checkpoints.tiny import tiny_model
from companion.errors import ObjectiveError
from companion.losses.target_head import target_losses
from companion.objectives.prefix_lm import PrefixLMCollator, PrefixSeq2SeqCollator

LLAMA = tokenizer_of("llama")
BOS, EOS = LLAMA.bos_token_id, LLAMA.eos_token_id
PLAIN = sorted(set(range(len(LLAMA))) - set(LLAMA.all_special_ids))
SENTENCE = "臣光曰：臣闻天子之职莫大于礼，礼莫大于分，分莫大于名。"


@st.composite
def rows(draw: st.DrawFn):
    """一行几篇文档，各有 2 个以上的正文词元，首尾的特殊词元可有可无。"""
    head = [BOS] if draw(st.booleans()) else []
    tail = [EOS] if draw(st.booleans()) else []
    bodies = draw(
        st.lists(
            st.lists(st.sampled_from(PLAIN), min_size=2, max_size=9),
            min_size=1,
            max_size=4,
        )
    )
    documents = [[*head, *body, *tail] for body in bodies]
    contain = draw(st.sampled_from(CONTAINERS))
    feature = {
        "input_ids": contain([token for each in documents for token in each]),
        "document_starts": contain(starts_of([len(each) for each in documents])),
        "example_id": draw(st.integers(0, 2**40)),
    }
    return feature, documents, (len(head), len(tail))


@FEW
@given(rows(), st.integers(0, 5))
def test_a_row_is_prefixes_and_suffixes(row, epoch):
    """词元一个不动；各篇前缀与后缀都含正文，标签恰是后缀，位置从头数。"""
    feature, documents, (head, tail) = row
    (example,) = PrefixLMCollator(LLAMA).examples([feature | {"epoch": epoch}])
    sizes = [len(each) for each in documents]
    assert example.input_ids.tolist() == [token for each in documents for token in each]
    columns = zip(
        example.labels.split(sizes),
        example.prefix.split(sizes),
        example.hidden.split(sizes),
        example.position_ids.split(sizes),
        documents,
        strict=True,
    )
    for number, (labels, prefix, hidden, positions, tokens) in enumerate(columns):
        split = int(prefix.sum())
        assert head + 1 <= split <= len(tokens) - tail - 1
        assert prefix.tolist() == [True] * split + [False] * (len(tokens) - split)
        assert labels.tolist() == [IGNORE_INDEX] * split + tokens[split:]
        assert torch.equal(hidden, ~prefix)
        assert positions.tolist() == list(range(len(tokens)))
        assert (example.documents.split(sizes)[number] == number).all()
    assert example.origin.tolist() == list(range(sum(sizes)))


@FEW
@given(st.lists(rows(), min_size=1, max_size=3), st.integers(1, 16))
def test_a_batch_is_its_rows(features, multiple):
    """批量里的每一行与它单独成批时相同，只多尾部的填充；样本不被改动。"""
    features = [feature for feature, _, _ in features]
    before = copy.deepcopy(features)
    collator = PrefixLMCollator(LLAMA, seed=3)
    together = PrefixLMCollator(LLAMA, seed=3, pad_to_multiple_of=multiple)(features)
    assert all(map(same_feature, features, before))
    length = together["input_ids"].shape[1]
    assert length % multiple == 0
    assert together["attention_mask"].shape == (len(features), 1, length, length)
    for row, feature in enumerate(features):
        alone = collator([feature])
        size = alone["input_ids"].shape[1]
        for name in ("input_ids", "labels", "position_ids"):
            assert torch.equal(together[name][row, :size], alone[name][0]), name
            assert together[name].dtype == torch.int64
        mask = together["attention_mask"][row, 0]
        assert torch.equal(mask[:size, :size], alone["attention_mask"][0, 0])
        assert (mask[:size, size:] < 0).all()
        assert (together["labels"][row, size:] == IGNORE_INDEX).all()
        assert torch.equal(mask[size:] == 0, torch.eye(length, dtype=torch.bool)[size:])


def test_the_split_is_uniform():
    """六千篇 12 个词元的文档：11 个缝，每个占 1/11，5 倍标准差之内。"""
    count = 6000
    features = [{"input_ids": PLAIN[:12], "example_id": n} for n in range(count)]
    examples = PrefixLMCollator(LLAMA).examples(features)
    splits = [int(each.prefix.sum()) for each in examples]
    cells = np.bincount(splits, minlength=12)
    assert cells[0] == 0
    assert len(cells) == 12
    assert all(within_five_sigma(int(cell), count, 1 / 11) for cell in cells[1:])


def test_the_example_of_the_module():
    """文档里的例子：在第 3 个词元之后切开，掩码一格一格地对。"""
    ids = [*PLAIN[:5], EOS]
    batch = PrefixLMCollator(LLAMA)([{"input_ids": ids, "prefix_length": 3}])
    assert batch["labels"].tolist() == [[IGNORE_INDEX] * 3 + ids[3:]]
    assert (batch["attention_mask"][0, 0] == 0).int().tolist() == [
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 1],
    ]


def test_the_noise_is_a_function_of_seed_epoch_and_example():
    """同一（种子，轮次，样本）切在同一处；换一个就切在别处（一百篇里至少有几篇）。"""

    def cuts(seed: int, epoch: int, first: int) -> list[int]:
        features = [
            {"input_ids": PLAIN[:20], "epoch": epoch, "example_id": first + i}
            for i in range(100)
        ]
        examples = PrefixLMCollator(LLAMA, seed=seed).examples(features)
        return [int(each.prefix.sum()) for each in examples]

    assert cuts(0, 0, 0) == cuts(0, 0, 0)
    assert len({tuple(cuts(*key)) for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0)]}) == 3
    assert cuts(0, 0, 0)[10:] == cuts(0, 0, 10)[:90]


def test_examples_without_a_number_draw_from_the_global_stream():
    """没有编号的样本每次不同；设好 torch 的全局种子就能重现。"""
    collator = PrefixLMCollator(LLAMA)
    features = [{"input_ids": PLAIN[:50]}] * 8
    torch.manual_seed(3)
    first, later = collator(features)["labels"], collator(features)["labels"]
    torch.manual_seed(3)
    assert torch.equal(collator(features)["labels"], first)
    assert not torch.equal(first, later)


@pytest.mark.parametrize(
    ("ids", "labels"),
    [
        ([PLAIN[0]], [IGNORE_INDEX]),
        ([PLAIN[0], EOS], [IGNORE_INDEX, EOS]),
        ([BOS, EOS], [IGNORE_INDEX, EOS]),
        ([BOS, PLAIN[0], EOS], [IGNORE_INDEX, PLAIN[0], EOS]),
    ],
)
def test_a_text_too_short_to_split_has_no_prefix(ids, labels):
    """正文不足两个词元的切不开：没有前缀，同因果语言建模。"""
    (example,) = PrefixLMCollator(LLAMA).examples([{"input_ids": ids}])
    assert not example.prefix.any()
    assert example.labels.tolist() == labels


def test_the_end_of_the_document_is_a_target_when_it_is_the_unknown_token():
    """GPT-2 的结尾、未知、填充是同一个词元：结尾不算正文，总在后缀里，总有标签。"""
    tokenizer = tokenizer_of("gpt2")
    features = [
        {"input_ids": [5, 6, 7, tokenizer.eos_token_id], "example_id": i}
        for i in range(40)
    ]
    for example in PrefixLMCollator(tokenizer).examples(features):
        assert example.labels[-1] == tokenizer.eos_token_id
        assert 1 <= example.prefix.sum() <= 2


@pytest.mark.parametrize("make", [PrefixLMCollator, PrefixSeq2SeqCollator])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (5, "样本 7 的 prefix_length 是 5，而文字到第 5 个词元就完了"),
        (9, "prefix_length 是 9"),
        (0, r"prefix_length 是 \[0\]"),
        ([1, 2], r"有 1 篇文档，prefix_length 是 \[1, 2\]"),
    ],
)
def test_a_prefix_as_long_as_the_text_is_refused(make, given, message):
    """没有剩下要预测的、不是正数的、个数不符的前缀，都点名样本。"""
    tokenizer = tokenizer_of("t5")
    feature = {
        "input_ids": [*range(10, 15), tokenizer.eos_token_id],
        "prefix_length": given,
        "example_id": 7,
    }
    with pytest.raises(ObjectiveError, match=message):
        make(tokenizer)([feature])


def test_a_text_beyond_the_positions_is_refused():
    """比位置表还长的文档点名报错；打包的行位置从头数，只看最长的一篇。"""
    collator = PrefixLMCollator(LLAMA, max_length=8)
    collator([{"input_ids": PLAIN[:12], "document_starts": [0, 8]}])
    with pytest.raises(ObjectiveError, match=r"样本 4 破坏之后要用 9 个位置.*8 个"):
        collator([{"input_ids": PLAIN[:9], "example_id": 4}])


@torch.no_grad()
def outputs(model, batch):
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return model(**inputs, use_cache=False).logits


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3", "glm"])
def test_the_prefix_is_read_in_both_directions(kind, implementation):
    """改动前缀的末尾，开头的输出变了；改动后缀，左边的输出逐位不变；别的文档也不变。"""
    model = tiny_model(kind, attn_implementation=implementation)
    collator = PrefixLMCollator(tokenizer_of(kind))
    ids = torch.arange(10, 22)
    feature = {"document_starts": [0, 7], "prefix_length": [4, 2]}

    def changed(at: int) -> torch.Tensor:
        other = ids.clone()
        other[at] = 40
        before, after = (
            outputs(model, collator([feature | {"input_ids": each}]))[0]
            for each in (ids, other)
        )
        return (after != before).any(-1)

    assert changed(3).tolist() == [True] * 7 + [False] * 5
    assert changed(5).tolist() == [False] * 5 + [True] * 2 + [False] * 5
    assert changed(8).tolist() == [False] * 7 + [True] * 5
    assert changed(10).tolist() == [False] * 10 + [True] * 2


def test_the_loss_is_that_of_the_suffix():
    """模型自己的损失与 `target_losses`，都等于在后缀上逐个算的交叉熵。"""
    model = tiny_model("llama")
    features = [
        {"input_ids": PLAIN[:11], "document_starts": [0, 6], "prefix_length": [2, 3]},
        {"input_ids": PLAIN[20:27], "prefix_length": 6},
    ]
    batch = PrefixLMCollator(LLAMA)(features)
    logits = outputs(model, batch)
    # （行，目标的位置）：由左边一格预测
    targets = [(0, t) for t in (2, 3, 4, 5, 9, 10)] + [(1, 6)]
    by_hand = torch.stack(
        [cross_entropy(logits[b, t - 1], batch["input_ids"][b, t]) for b, t in targets]
    )
    with torch.no_grad():
        stock = model(**batch, use_cache=False).loss
        ours = target_losses(model, batch, causal=True)
    torch.testing.assert_close(stock, by_hand.mean())
    torch.testing.assert_close(ours.nats, by_hand)


T5 = tokenizer_of("t5")


def t5_row(texts: list[str]) -> dict:
    documents = [T5(text)["input_ids"] for text in texts]
    return {
        "input_ids": [token for each in documents for token in each],
        "document_starts": starts_of([len(each) for each in documents]),
    }


def test_an_encoder_decoder_reads_the_prefix_and_writes_the_rest():
    """输入（去掉 </s>）接上目标等于原文，两边都非空；目标以 </s> 结尾，都看不见。"""
    end = T5.eos_token_id
    whole = T5(SENTENCE)["input_ids"][:-1]
    features = [t5_row([SENTENCE]) | {"example_id": i} for i in range(60)]
    cuts = set()
    for example in PrefixSeq2SeqCollator(T5).examples(features):
        inputs, labels = example.input_ids.tolist(), example.labels.tolist()
        assert inputs[-1] == labels[-1] == end
        assert inputs[:-1] + labels[:-1] == whole
        cut = len(inputs) - 1
        assert 1 <= cut < len(whole)
        cuts.add(cut)
        assert example.hidden.tolist() == [True] * (len(labels) - 1) + [False]
        assert example.origin.tolist() == [*range(cut, len(whole)), -1]
        assert example.decoder_input_ids.tolist() == [T5.pad_token_id, *labels[:-1]]
    assert len(cuts) > 10


def test_an_encoder_decoder_takes_pairs_and_packed_rows():
    """一行两篇：各自切分，切点照给定的，三处注意力都隔开。"""
    row = t5_row(["良弓藏", "三年春，大旱"])
    starts = row["document_starts"]
    first, second = row["input_ids"][: starts[1]], row["input_ids"][starts[1] :]
    batch = PrefixSeq2SeqCollator(T5)([row | {"prefix_length": [1, 2]}])
    end = T5.eos_token_id
    assert batch["input_ids"].tolist() == [[first[0], end, *second[:2], end]]
    assert batch["labels"].tolist() == [first[1:] + second[2:]]
    seen = batch["cross_attention_mask"][0, 0] == 0
    assert seen[: len(first) - 1].tolist() == [[True] * 2 + [False] * 3] * (
        len(first) - 1
    )
    assert seen[len(first) - 1 :].tolist() == [[False] * 2 + [True] * 3] * (
        len(second) - 2
    )


def test_the_length_of_the_prefix_counts_the_head():
    """BART 的 <s> 也算在 `prefix_length` 里；两边各自套上 <s> 与 </s>。"""
    tokenizer = tokenizer_of("bart")
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    feature = {"input_ids": [start, 10, 11, 12, 13, end], "prefix_length": 3}
    collator = PrefixSeq2SeqCollator(tokenizer, decoder_start_token_id=end)
    (example,) = collator.examples([feature])
    assert example.input_ids.tolist() == [start, 10, 11, end]
    assert example.labels.tolist() == [start, 12, 13, end]
    assert example.origin.tolist() == [-1, 3, 4, -1]
    with pytest.raises(ObjectiveError, match="文字到第 5 个词元就完了"):
        collator([feature | {"prefix_length": 5}])


def test_the_tokens_to_hide_decide_the_split():
    """指定要遮的词元：在第一个之前切开。"""
    row = t5_row([SENTENCE])
    noise = np.zeros(len(row["input_ids"]) - 1, np.bool_)
    noise[[5, 8]] = True
    example = PrefixSeq2SeqCollator(T5).hide(row, noise)
    assert example.input_ids.tolist() == [*row["input_ids"][:5], T5.eos_token_id]
    assert example.labels.tolist() == row["input_ids"][5:]


def test_one_token_leaves_the_encoder_only_the_special_tokens():
    """只有一个词元的文档：编码器只见 </s>；分词器不加特殊词元时点名报错。"""
    collator = PrefixSeq2SeqCollator(T5)
    (example,) = collator.examples([{"input_ids": [10, T5.eos_token_id]}])
    assert example.input_ids.tolist() == [T5.eos_token_id]
    assert example.labels.tolist() == [10, T5.eos_token_id]
    with pytest.raises(ObjectiveError, match="样本 3 里有一篇文档只有一个词元"):
        collator([{"input_ids": [10], "example_id": 3}])


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_the_loss_of_an_encoder_decoder_is_that_of_the_targets(kind):
    """标签不移位：模型的损失等于逐个目标的交叉熵的均值。"""
    tokenizer, model = tokenizer_of(kind), tiny_model(kind)
    start = model.config.decoder_start_token_id
    collator = PrefixSeq2SeqCollator(tokenizer, decoder_start_token_id=start)
    texts = ["飞鸟尽，良弓藏。", SENTENCE, "勿以善小而不为。"]
    features = [
        dict(tokenizer(text)) | {"example_id": i} for i, text in enumerate(texts)
    ]
    batch = collator(features)
    with torch.no_grad():
        result = model(**batch)
    wanted = batch["labels"] != IGNORE_INDEX
    by_hand = cross_entropy(result.logits[wanted], batch["labels"][wanted])
    torch.testing.assert_close(result.loss, by_hand)
