"""笔记本 07 的几张表：题面与答案相符，粒度越整目标越长，判别器的把握与真相对得上。"""

import pytest

from companion.checkpoints.loading import load_checkpoint, load_tokenizer
from companion.errors import ModelError
from companion.notebook import (
    granularity_table,
    presets_table,
    replaced_table,
    run_lengths,
)
from companion.objectives.presets import PRESETS

TEXT = "平原君门下食客数千人，皆以为天下之士。"


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("starter:bert")


def test_every_granularity_asks_for_as_much_as_its_budget_allows(tokenizer):
    """21 个词元的三成是 6 个：逐词元与片段恰好，以词选的不超过。"""
    table = granularity_table(TEXT, tokenizer, 3, mlm_probability=0.3)
    asked = {
        row[0]: sum(char in TEXT for char in row[2].replace("、", ""))
        for row in table.rows
    }
    assert list(asked) == ["逐词元", "全词", "词组", "片段"]
    assert asked["逐词元"] == asked["片段"] == 6
    assert 0 < asked["全词"] <= 6
    assert 0 < asked["词组"] <= 6


def test_the_larger_the_unit_the_longer_the_run(tokenizer):
    """相连的目标平均长度，四种粒度依次增大；各种长短的比例合起来是一。"""
    table = run_lengths(TEXT * 6, tokenizer, draws=30)
    means = [float(row[-1]) for row in table.rows]
    assert means == sorted(means)
    assert means[-1] > 2 * means[0]
    for row in table.rows:
        assert sum(map(float, row[1:-1])) == pytest.approx(1, abs=0.003)


def test_every_preset_has_a_row_and_macbert_no_mask(tokenizer):
    """ERNIE 三个阶段三行，其余各一行；MacBERT 的题面里没有 [MASK]。"""
    needs = {"ernie": {"names": "tongjian"},
             "macbert": {"similar_words": {"天下": ["四海"]}}}  # fmt: skip
    table = presets_table(TEXT, tokenizer, 1, needs)
    names = [row[0] for row in table.rows]
    assert len(names) == len(PRESETS) + 2
    seen = dict(zip(names, (row[2] for row in table.rows), strict=True))
    assert "[MASK]" not in seen["macbert"]
    assert "[MASK]" in seen["bert-wwm"]


def test_the_discriminator_is_shown_what_the_generator_wrote():
    """没遮的三栏相同；真换过的，判别器看到的与原文不同；把握都是概率。"""
    table = replaced_table(load_checkpoint("starter:electra", "replaced_token"), TEXT)
    assert len(table.rows) == len(TEXT)
    for original, masked, shown, truth, chance in table.rows:
        if masked != "[MASK]":
            assert shown in (original, masked)
        assert (truth == "换过") == (shown != original)
        assert 0 <= float(chance) <= 1
    assert any(row[1] == "[MASK]" for row in table.rows)


def test_a_single_model_is_not_a_pair():
    """拿填空的模型来认假：说清要哪一种。"""
    bert = load_checkpoint("starter:bert", "masked_lm")
    with pytest.raises(ModelError, match="一对"):
        replaced_table(bert, TEXT)
