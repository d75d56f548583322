"""掩码的各种选法走得完整条路：切词、词元库、整理器、训练，到检查点。"""

from collections import Counter

import pytest

from companion.batch import IGNORE_INDEX
from companion.checkpoints.loading import load_checkpoint
from companion.checkpoints.tiny import TINY_TEXT, tiny_model, tiny_tokenizer
from companion.corpus.words import dictionary_segmenter
from companion.objectives import get_objective
from companion.training.batching import StagedRows
from companion.training.data import prepare_data, read_corpora
from companion.training.run import train

WAYS = [
    {"granularity": "ngram"},
    {"granularity": "span"},
    {"preset": "roberta"},
    {"preset": "macbert"},
    {"preset": "ernie"},
]


@pytest.fixture(autouse=True)
def _two_characters_a_word(monkeypatch):
    """两个字一词，代替 jieba：载入它的词库要一秒。"""
    pairs = [text[at : at + 2] for text in TINY_TEXT for at in range(0, len(text), 2)]
    monkeypatch.setattr(
        "companion.corpus.words.jieba_segmenter",
        lambda _dictionary=None: dictionary_segmenter(pairs),
    )


@pytest.fixture
def prepare(tmp_path, configure):
    """由设置排定训练数据，用随机权重的极小模型。"""

    def build(**changes):
        if changes.get("preset") == "ernie":
            path = tmp_path / "专名.txt"
            path.write_text("\n".join(text[:3] for text in TINY_TEXT), "utf-8")
            changes["names"] = str(path)
        config = configure(tmp_path / "输出", **changes)
        tokenizer = tiny_tokenizer("bert")
        data = prepare_data(
            config,
            read_corpora(config),
            get_objective("masked_lm"),
            tiny_model("bert", tokenizer),
            tokenizer,
            packed=True,
            cache_dir=tmp_path / "词元",
        )
        return config, data

    return build


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(way.values()))
def test_every_way_of_masking_trains(way, tmp_path, prepare, no_curve):
    """两步之后有一个打得开的检查点，账本里有目标。"""
    config, _ = prepare(**way, max_steps=2)
    result = train(config, quiet=True)
    assert result.ledger.targets > 0
    assert load_checkpoint(str(tmp_path / "输出" / "model"), "masked_lm").model


@pytest.mark.parametrize("granularity", ["whole_word", "ngram", "span"])
def test_every_granularity_but_the_token_cuts_words(granularity, prepare):
    """以词选的都有 word_ids；整词与词组里，一个词不会只选一半。"""
    _, data = prepare(granularity=granularity)
    feature = data.rows[0, 0]
    labels = data.collator([feature])["labels"][0]
    words = feature["word_ids"].tolist()
    chosen = [word for word, x in zip(words, labels.tolist(), strict=True)
              if x != IGNORE_INDEX]  # fmt: skip
    assert chosen
    assert -1 not in chosen
    if granularity != "span":
        sizes = Counter(words)
        assert all(count == sizes[word] for word, count in Counter(chosen).items())


def test_macbert_trains_without_the_mask_token(prepare):
    """近义词在语料里找到：有标签，输入里没有 [MASK]，长短不变。"""
    _, data = prepare(preset="macbert")
    mask = data.collator.tokenizer.mask_token_id
    changed = 0
    for row in range(len(data.rows)):
        feature = data.rows[0, row]
        batch = data.collator([feature])
        assert not (batch["input_ids"] == mask).any()
        assert batch["input_ids"].shape[1] == len(feature["input_ids"])
        same = batch["input_ids"][0].numpy() == feature["input_ids"]
        changed += int((~same).sum())
    assert changed


@pytest.mark.parametrize(("steps", "accumulation"), [(9, 2), (30, 1), (1, 1)])
def test_the_three_stages_share_the_steps(steps, accumulation, prepare):
    """ERNIE 的三个阶段按步数三等分，只换词界，词元一样；步数太少时先练前面的。"""
    _, data = prepare(
        preset="ernie", max_steps=steps, gradient_accumulation_steps=accumulation
    )
    assert isinstance(data.rows, StagedRows)
    found = [{data.rows.stage_of(key) for key in batch} for batch in data.plan.batches]
    assert all(len(stages) == 1 for stages in found)
    each = [stage for stages in found for stage in stages]
    assert each == sorted(each)
    if steps > 1:
        assert Counter(each) == dict.fromkeys(range(3), steps * accumulation // 3)
    widths = []
    key = data.plan.batches[0][0]
    for rows in data.rows.stages:
        assert (rows[key]["input_ids"] == data.rows.stages[0][key]["input_ids"]).all()
        widths.append(max(Counter(rows[key]["word_ids"].tolist()).values()))
    assert widths[0] == 2  # 一字一词；两个的是首尾的 −1
    assert max(widths[1:]) >= 2
