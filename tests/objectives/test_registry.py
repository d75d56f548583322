"""名册：名字、论文、模型类与整理器对得上。"""

import dataclasses
from importlib import import_module
from typing import get_args

import pytest
import transformers
from strategies import tokenizer_of

from companion.checkpoints.locating import list_starters
from companion.checkpoints.running import fitted_objective
from companion.checkpoints.tiny import tiny_model
from companion.config import setting_docs
from companion.errors import ObjectiveError
from companion.objectives import OBJECTIVES, get_objective
from companion.objectives.attention import MaskKind
from companion.objectives.causal_lm import CausalLMCollator
from companion.objectives.collate import PrefixCollator
from companion.objectives.masked_lm import MaskedLMCollator
from companion.training.masking import SETTINGS

EVERY = pytest.mark.parametrize("key", OBJECTIVES)
FORMS = [form for goal in OBJECTIVES.values() for form in goal.forms]
"""各目标的各种样子。"""


@EVERY
def test_the_key_is_the_name(key):
    """按名字取到的就是它自己。"""
    assert get_objective(key) is OBJECTIVES[key]
    assert OBJECTIVES[key].key == key


@pytest.mark.parametrize("objective", FORMS, ids=lambda form: form.collator)
def test_the_collator_lives_where_the_roster_says(objective):
    """所列模块里有这个类，交给它的各项都是它的字段；设置里有的都在设置的名册里。"""
    module, _, name = objective.collator.partition(":")
    collator = getattr(import_module(module), name)
    fields = {field.name for field in dataclasses.fields(collator)}
    own = set(objective.options) - set(
        SETTINGS if "preset" in objective.options else ()
    )
    assert own <= fields
    assert set(objective.model_options) <= fields
    assert objective.frozen_options.keys() <= fields
    assert set(objective.options) <= setting_docs().keys()
    assert set(objective.training_options) <= setting_docs().keys() - fields
    assert set(objective.masks) <= set(get_args(MaskKind))
    assert bool(objective.masks) == issubclass(collator, PrefixCollator)


@pytest.mark.parametrize("objective", FORMS, ids=lambda form: form.collator)
def test_the_model_class_and_the_starter_exist(objective):
    """这个 Auto 类在 transformers 里，起步模型在册；只有解码器的标签才可能移位。"""
    assert hasattr(transformers, objective.auto_class)
    assert objective.starter.removeprefix("starter:") in list_starters()
    decoder = objective.auto_class == "AutoModelForCausalLM"
    assert objective.causal == (decoder and objective.key != "blank_infilling")


@EVERY
def test_the_form_follows_the_model(key):
    """有第二种样子的目标遇上那一类模型才换，键不变，模型类正是那一类的；别的不换。"""
    objective = OBJECTIVES[key]
    for kind in ("t5", "gpt2", "bert"):
        form = fitted_objective(tiny_model(kind), key)
        assert form.key == key
        other = {"t5": objective.encoder_decoder, "gpt2": objective.decoder}
        assert form is (other.get(kind) or objective)
        if form is not objective:
            wanted = "AutoModelForSeq2SeqLM" if kind == "t5" else "AutoModelForCausalLM"
            assert form.auto_class == wanted


def test_collators_are_made_with_their_options():
    """设置原样传给整理器，没给的取论文的缺省值。"""
    causal = get_objective("causal_lm").make_collator(tokenizer_of("bloom"))
    masked = get_objective("masked_lm").make_collator(
        tokenizer_of("bert"), mlm_probability=0.3, granularity="whole_word", seed=5
    )
    assert causal == CausalLMCollator(tokenizer_of("bloom"))
    assert masked == MaskedLMCollator(
        tokenizer_of("bert"), mlm_probability=0.3, granularity="whole_word", seed=5
    )


@pytest.mark.parametrize(
    ("wrong", "right"), [("mlm", "masked_lm"), ("casual_lm", "causal_lm")]
)
def test_an_unknown_objective_suggests_the_nearest(wrong, right):
    """写错名字，消息列出全部名字，并猜最接近的一个。"""
    with pytest.raises(ObjectiveError, match=f"是不是想写 {right}") as caught:
        get_objective(wrong)
    assert all(key in caught.value.expected for key in OBJECTIVES)


def test_a_name_like_no_other_points_to_the_roster():
    """谁也不像的名字，指去看名册。"""
    with pytest.raises(ObjectiveError, match="companion objectives"):
        get_objective("翻译")
