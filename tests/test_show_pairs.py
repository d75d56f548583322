"""编码器–解码器与前缀各目标的样本：与整理器逐字相符，要考的与评估相同。"""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.batch import IGNORE_INDEX
from companion.checkpoints.loading import load_model_options
from companion.checkpoints.running import fitted_objective
from companion.checkpoints.saving import save_checkpoint
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.corpus.document import Document
from companion.errors import ModelError
from companion.evaluation.targets import build_targets
from companion.objectives import OBJECTIVES, get_objective
from companion.objectives.span_corruption import SpanCorruptionCollator
from companion.plots.rows import PairRows
from companion.show import show_example

TEXT = "臣光曰：臣闻天子之职莫大于礼。礼莫大于分！分莫大于名？"
SEQ2SEQ = [key for key, goal in OBJECTIVES.items() if goal.seq2seq]
BLANKS = ["[MASK]", "[sMASK]", "[gMASK]", "[sop]", "[eop]"]
KIND = {"text_infilling": "bart"}
"""用哪个分词器；没有写的用 T5 的。"""
texts = st.text(
    "狡兔死走狗烹。飞鸟尽良弓藏？！；“”𠮷 abR", min_size=1, max_size=30
).filter(lambda text: bool(text.strip()))


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    return {kind: tiny_tokenizer(kind) for kind in ("t5", "bart", "bert", "gpt2")}


def shown(objective: str, text: Any, tokenizers: dict[str, Any], **options: Any) -> Any:
    """用合适的分词器看一个样本；`decoder_start_token_id` 照各自的模型。"""
    kind = KIND.get(objective, "t5")
    tokenizer = tokenizers[kind]
    start = tokenizer.pad_token_id if kind == "t5" else tokenizer.eos_token_id
    given = {"decoder_start_token_id": start}
    return show_example(objective, text, tokenizer, model_options=given, **options)


def test_span_corruption_equals_the_collator(tokenizers: dict[str, Any]) -> None:
    """把同样的编号、同样的样本号交给整理器，得到逐位相同的三行张量。"""
    tokenizer = tokenizers["t5"]
    given = show_example(
        "span_corruption", TEXT, tokenizer, seed=7, epoch=2, noise_density=0.4
    )
    batch = SpanCorruptionCollator(tokenizer, noise_density=0.4, seed=7)(
        [{"input_ids": tokenizer(TEXT)["input_ids"], "example_id": 0, "epoch": 2}]
    )
    for name, ids in (
        ("input_ids", given.input_ids),
        ("labels", given.labels),
        ("decoder_input_ids", given.decoder_input_ids),
    ):
        assert ids == batch[name][0].tolist()


@given(text=texts, seed=st.integers(0, 99), objective=st.sampled_from(SEQ2SEQ))
def test_every_label_is_the_token_it_says(text: str, seed: int, objective: str) -> None:
    """标签写着出自哪一列，就是那一列的词元；看得见的段两边相同；考的都看不见。"""
    kinds = {kind: tiny_tokenizer(kind) for kind in ("t5", "bart")}
    rows: PairRows = shown(objective, text, kinds, seed=seed).rows
    for at, (label, source) in enumerate(zip(rows.labels, rows.origin, strict=True)):
        if label is not None and source is not None:
            assert label == rows.tokens[source]
        if rows.scored[at]:
            assert source is not None
            assert rows.hidden[source]
    for span, fate in zip(rows.spans, rows.fates, strict=True):
        if fate == "kept":
            [token], [given] = span
            assert rows.tokens[token] == rows.inputs[given]
            assert not rows.hidden[token]
        if fate in ("masked", "replaced", "exposed", "removed"):
            assert all(rows.hidden[token] for token in span.tokens)
    written = {source for source, label in zip(rows.origin, rows.labels, strict=True)
               if label is not None}  # fmt: skip
    assert {at for at, unseen in enumerate(rows.hidden) if unseen} <= written


@pytest.mark.parametrize("objective", SEQ2SEQ)
def test_the_decoder_reads_what_it_has_just_written(
    objective: str, tokenizers: dict[str, Any]
) -> None:
    """每一格的输入是前一格的标签，每篇的第一格是起始词元（MASS 是片段左边的词元）。"""
    rows: PairRows = shown(objective, [TEXT, "狡兔死，走狗烹。"], tokenizers).rows
    for at in range(1, len(rows.labels)):
        same = rows.decoder_document[at] == rows.decoder_document[at - 1]
        if same and rows.labels[at] is not None and rows.labels[at - 1] is not None:
            assert rows.decoder_inputs[at] == rows.labels[at - 1]


@pytest.mark.parametrize("objective", SEQ2SEQ)
def test_evaluation_asks_for_the_labels_marked_as_scored(
    objective: str, tokenizers: dict[str, Any]
) -> None:
    """评估出的评估集：考的位置、考的词元，与标出的一个不差。"""
    tokenizer = tokenizers[KIND.get(objective, "t5")]
    goal = get_objective(objective)
    frozen = {k: v for k, v in goal.frozen_options.items() if k in goal.options}
    for each in (TEXT, "𠮷在狡兔死，走狗烹。飞鸟尽。"):
        documents = [Document(each, "例", "例")]
        [row] = build_targets(tokenizer, objective, documents, block_size=48).rows
        given = show_example(objective, each, tokenizer, **frozen)
        asked = (row.labels != IGNORE_INDEX).tolist()
        if objective != "masked_seq2seq":  # 它出题时另有不能由用户设的两项
            assert given.input_ids == row.input_ids.tolist()
        assert given.rows.scored == asked


def test_permuted_sentences_are_shown_in_their_new_order(
    tokenizers: dict[str, Any],
) -> None:
    """打乱句子：照新的次序逐个对齐，没有一列对不上；列号仍是原文的。"""
    found = set()
    for seed in range(6):
        rows: PairRows = shown("text_infilling", TEXT, tokenizers, seed=seed).rows
        assert "moved" not in rows.fates
        found.add(tuple(rows.spans[at].tokens[0] for at in rows.jumps))
    assert len(found) > 1


def test_a_fragment_stays_in_place_or_is_cut_out(tokenizers: dict[str, Any]) -> None:
    """MASS：保留位置时解码器与原文等长，只有片段处看得见；裁下来时处处看得见。"""
    tokenizer = tokenizers["bart"]
    start = {"decoder_start_token_id": tokenizer.eos_token_id}
    whole, cut = (
        show_example(
            "masked_seq2seq",
            TEXT,
            tokenizer,
            model_options={**start, "keep_positions": keep},
        )
        for keep in (True, False)
    )
    rows: PairRows = whole.rows  # type: ignore[assignment]
    labelled = [label is not None for label in rows.labels]
    assert rows.decoder_visible == labelled == rows.scored
    assert len(rows.labels) == len(rows.tokens)
    assert all(cut.rows.decoder_visible)  # type: ignore[union-attr]
    assert cut.rows.labels == [label for label in rows.labels if label is not None]
    assert whole.decoder_visible is not None
    seen = np.array(labelled)
    expected = np.tril(seen[:, None] & seen[None, :])
    assert np.array_equal(whole.decoder_visible & seen[:, None], expected)


@pytest.mark.parametrize("objective", SEQ2SEQ)
def test_packed_documents_never_see_each_other(
    objective: str, tokenizers: dict[str, Any]
) -> None:
    """三处注意力都隔开：编码器同篇互见，解码器同篇只看左边，交叉注意力看同一篇。"""
    given = shown(objective, ["狡兔死，走狗烹。", "飞鸟尽。良弓藏。"], tokenizers)
    rows = given.rows
    encoder, decoder = np.array(rows.input_document), np.array(rows.decoder_document)
    seen = np.array(rows.decoder_visible)
    same = np.equal.outer
    assert given.explicit
    assert np.array_equal(given.visible, same(encoder, encoder))
    own = np.tril(same(decoder, decoder))[seen][:, seen]
    assert np.array_equal(given.decoder_visible[seen][:, seen], own)
    assert np.array_equal(given.cross_visible[seen], same(decoder, encoder)[seen])
    titles = [panel.title for panel in given.masks()]
    assert titles == ["编码器自注意力", "解码器自注意力", "交叉注意力：解码器看编码器"]


def test_a_leak_in_the_batch_is_seen(
    tokenizers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """矩阵读自批量，不是另画的：整理器忘了隔开交叉注意力，这里就处处可见。"""
    collate = SpanCorruptionCollator.collate

    def leaky(self: SpanCorruptionCollator, examples: Any) -> Any:
        batch = collate(self, examples)
        return {**batch, "cross_attention_mask": 0 * batch["cross_attention_mask"]}

    monkeypatch.setattr(SpanCorruptionCollator, "collate", leaky)
    given = shown("span_corruption", ["狡兔死，走狗烹。", "飞鸟尽。"], tokenizers)
    assert given.cross_visible.all()
    assert not given.visible.all()


def test_a_single_text_shows_what_the_model_itself_will_mask(
    tokenizers: dict[str, Any],
) -> None:
    """一行一篇时批量只有二维掩码：编码器与交叉处处可见，解码器是下三角。"""
    given = shown("span_corruption", TEXT, tokenizers)
    size = len(given.labels)
    assert not given.explicit
    assert given.visible.all()
    assert given.cross_visible.all()
    assert given.cross_visible.shape == (size, len(given.input_ids))
    assert np.array_equal(given.decoder_visible, np.tril(np.ones((size, size), bool)))


@pytest.mark.parametrize(
    ("kind", "start"), [("t5", "pad_token"), ("bart", "eos_token")]
)
def test_what_only_the_model_knows_comes_from_its_config(
    kind: str, start: str, tokenizers: dict[str, Any], tmp_path: Any
) -> None:
    """解码器的起始词元、片段要不要留在原位，由 config.json 看出，不装权重。"""
    tokenizer = tokenizers[kind]
    save_checkpoint(tiny_model(kind, tokenizer), tokenizer, tmp_path / kind)
    for path in (tmp_path / kind).glob("*.safetensors"):
        path.unlink()
    found = load_model_options(str(tmp_path / kind), get_objective("masked_seq2seq"))
    assert found == {
        "decoder_start_token_id": getattr(tokenizer, f"{start}_id"),
        "keep_positions": kind == "bart",
    }
    assert load_model_options("没有这个", get_objective("masked_lm")) == {}
    with pytest.raises(ModelError, match="没有文件夹"):
        load_model_options("./没有这个", get_objective("span_corruption"))


def test_a_prefix_is_seen_both_ways(tokenizers: dict[str, Any]) -> None:
    """前缀语言模型：可见矩阵照批量给的读；前缀没有标签，其余由前一列预测。"""
    given = show_example("prefix_lm", TEXT, tokenizers["gpt2"], seed=1)
    rows = given.rows
    first = rows.labels.index(next(each for each in rows.labels if each))
    assert given.explicit
    assert given.visible[:first, :first].all()
    later = np.tril(np.ones_like(given.visible))
    assert np.array_equal(given.visible[first:], later[first:])
    assert rows.predicted_by[first] == first - 1  # type: ignore[union-attr]
    [panel] = given.masks()
    assert panel.parts == [1] * first + [0] * (len(rows.labels) - first)
    assert panel.title == "谁看得见谁：前缀双向，其余从左到右"


def test_a_prefix_of_an_encoder_decoder_is_what_the_encoder_reads(
    tokenizers: dict[str, Any],
) -> None:
    """同一个键，配编码器–解码器：前缀进编码器，其余由解码器写，都要考。"""
    goal = fitted_objective(tiny_model("t5"), "prefix_lm")
    rows: PairRows = show_example(goal, TEXT, tokenizers["t5"]).rows  # type: ignore[assignment]
    split = len(rows.inputs) - 1
    assert rows.inputs == [*rows.tokens[:split], "</s>"]
    assert rows.labels == rows.tokens[split:]
    assert rows.scored == [True] * (len(rows.labels) - 1) + [False]


def test_an_inserted_token_has_no_original(tokenizers: dict[str, Any]) -> None:
    """UniLM 在两段之间插的 [SEP]：原文那一格是空的，其余各列照旧对齐。"""
    inserted = 0
    titles = set()
    for seed in range(12):
        given = show_example("unified_lm", TEXT, tokenizers["bert"], seed=seed)
        rows = given.rows
        titles.add(given.masks()[0].title.removeprefix("谁看得见谁："))
        assert [t for t in rows.tokens if t][1:-1] == [*TEXT]
        assert given.token_type_ids is not None
        for at, token in enumerate(rows.tokens):
            if not token:
                assert (rows.inputs[at], rows.special[at]) == ("[SEP]", True)
                inserted += 1
    assert inserted
    assert titles == {"双向", "从左到右", "从右到左", "前缀双向，其余从左到右"}


def test_blank_infilling_is_shown_as_two_parts_of_one_row() -> None:
    """GLM：A 部分像编码器，B 部分像解码器；列号合起来正是整行，B 看得见整个 A。"""
    tokenizer = tiny_tokenizer("bert")
    tokenizer.add_special_tokens({"extra_special_tokens": BLANKS})
    given = show_example("blank_infilling", TEXT, tokenizer, seed=3)
    rows: PairRows = given.rows  # type: ignore[assignment]
    words, _ = rows.joined()
    assert words == tokenizer.convert_ids_to_tokens(given.input_ids)
    assert rows.sides == ("A 部分", "B 部分")
    assert len(given.position_ids or []) == 2
    assert rows.decoder_columns is not None
    assert given.visible[np.ix_(rows.decoder_columns, rows.input_columns or [])].all()
    for label, source in zip(rows.labels, rows.origin, strict=True):
        assert label == ("[eop]" if source is None else rows.tokens[source])
    [panel] = given.masks()
    assert panel.title == "谁看得见谁：A 部分双向，B 部分从左到右"
    assert panel.parts == [1] * len(rows.inputs) + [0] * len(rows.labels)
