"""每套选法都建得起来，个数合各自的论文。"""

import subprocess
import sys
from typing import get_args

import pytest
from strategies import BERT, CLS, PLAIN_IDS, SEP, within_five_sigma

from companion.batch import IGNORE_INDEX
from companion.errors import ObjectiveError
from companion.objectives.choices import PresetName
from companion.objectives.masked_lm import MaskedLMCollator
from companion.objectives.presets import PRESETS, get_preset, masking_options
from companion.objectives.similar_words import similar_from_lists

SIMILAR = similar_from_lists(BERT, {"王": ["臣"], "天子": ["诸侯"]})


def counts_of(key: str, rows: int) -> list[int]:
    """`rows` 行各 512 个词元、每字一词：各行有几个目标。"""
    preset = get_preset(key)
    extra = {"similar_words": SIMILAR} if preset.similar_words else {}
    collator = MaskedLMCollator(BERT, **preset.options, **extra)
    body = [PLAIN_IDS[i % len(PLAIN_IDS)] for i in range(510)]
    word_ids = {"word_ids": [-1, *range(510), -1]} if preset.words != "none" else {}
    features = [
        {"input_ids": [CLS, *body, SEP], "example_id": example, **word_ids}
        for example in range(rows)
    ]
    return (collator(features)["labels"] != IGNORE_INDEX).sum(1).tolist()


@pytest.mark.parametrize(
    ("key", "counts"),
    [
        ("bert", {77}),
        ("roberta", {76, 77}),
        ("bert-wwm", {77}),
        ("albert", {77}),
        ("spanbert", {77}),
        ("macbert", {76}),
        ("ernie", {77}),
    ],
)
def test_512_tokens_have_the_targets_of_the_paper(key, counts):
    """512 个词元的目标数与各家发布的代码一样。"""
    assert set(counts_of(key, 20)) == counts


def test_modernbert_hides_thirty_percent():
    """ModernBERT：510 个候选各自以 30% 独立选中。"""
    assert within_five_sigma(sum(counts_of("modernbert", 40)), 40 * 510, 0.3)


@pytest.mark.parametrize("key", PRESETS)
def test_every_preset_names_its_paper_and_what_words_it_needs(key):
    """键与名字相符，有出处；以词选的说明词界从哪里来。"""
    preset = PRESETS[key]
    assert preset.key == key
    assert "§" in preset.paper
    assert {"mlm_probability", "granularity"} <= preset.options.keys()
    by_words = preset.options["granularity"] != "token"
    assert by_words == (preset.words != "none")


def test_an_unknown_preset_is_refused_with_the_nearest_name():
    """写错名字：列出全部，猜最近的。"""
    with pytest.raises(ObjectiveError, match=r"bert-wmw.*modernbert.*bert-wwm"):
        get_preset("bert-wmw")


def test_a_preset_refuses_a_setting_that_contradicts_it():
    """选法定下的一项另给了别的值：点名是哪一项；给得一样就不妨。"""
    with pytest.raises(ObjectiveError, match=r"albert.*granularity=ngram.*token"):
        masking_options("albert", {"granularity": "token"})
    with pytest.raises(ObjectiveError, match=r"modernbert.*mlm_probability=0\.3"):
        masking_options("modernbert", {"mlm_probability": 0.15})
    given = {"mlm_probability": 0.3, "seed": 4}
    options = masking_options("modernbert", given)
    assert options == {**get_preset("modernbert").options, **given}


def test_the_settings_know_every_preset():
    """设置里 preset 的选项与名册相同。"""
    assert get_args(PresetName) == tuple(PRESETS)


def test_listing_the_presets_loads_no_torch():
    """名册可以立刻列出。"""
    code = "import sys, companion.objectives.presets; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
