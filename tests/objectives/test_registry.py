"""名册：名字、论文、模型类与整理器对得上。"""

import dataclasses
from importlib import import_module

import pytest
import transformers
from strategies import tokenizer_of

from companion.errors import ObjectiveError
from companion.models.starters import list_starters
from companion.objectives import OBJECTIVES, get_objective
from companion.objectives.causal_lm import CausalLMCollator
from companion.objectives.masked_lm import MaskedLMCollator

EVERY = pytest.mark.parametrize("key", OBJECTIVES)


@EVERY
def test_the_key_is_the_name(key):
    """按名字取到的就是它自己。"""
    assert get_objective(key) is OBJECTIVES[key]
    assert OBJECTIVES[key].key == key


@EVERY
def test_the_collator_lives_where_the_roster_says(key):
    """所列模块里有这个类，交给它的设置都是它的字段。"""
    objective = OBJECTIVES[key]
    module, _, name = objective.collator.partition(":")
    collator = getattr(import_module(module), name)
    fields = {field.name for field in dataclasses.fields(collator)}
    assert set(objective.options) <= fields


@EVERY
def test_the_model_class_and_the_starter_exist(key):
    """这个 Auto 类在 transformers 里，起步模型在册，输出的方向与类名一致。"""
    objective = OBJECTIVES[key]
    assert hasattr(transformers, objective.auto_class)
    assert objective.starter.removeprefix("starter:") in list_starters()
    assert objective.causal == (objective.auto_class == "AutoModelForCausalLM")


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
