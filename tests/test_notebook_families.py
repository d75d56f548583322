"""四个家族的支撑：检查点、掩码声称的与试出来的、多移一格的损失、注意力的去处。"""

import re

import pytest

from companion.errors import ConfigError
from companion.notebook import (
    attention_table,
    claimed_masks,
    family_examples,
    masks_table,
    measured_masks,
    open_families,
    shift_table,
)
from companion.notebook.families import MODELS, Family
from companion.objectives import OBJECTIVES

SENTENCE = "狡兔死，走狗烹。"


@pytest.fixture(scope="module")
def families() -> dict[str, Family]:
    """极小的一档。"""
    return open_families("tiny")


def test_every_profile_has_one_model_of_each_family() -> None:
    """三档都有同样的四个目标，都在名册里；极小的一档不联网。"""
    for profile, models in MODELS.items():
        assert list(models) == list(MODELS["tiny"]), profile
        assert set(models) <= set(OBJECTIVES)
    assert all(
        name.split(":")[0] in ("starter", "tiny") for name in MODELS["tiny"].values()
    )
    with pytest.raises(ConfigError, match="改成 tiny"):
        open_families("Tiny")


def test_the_four_families_do_what_their_masks_say(families: dict[str, Family]) -> None:
    """六个矩阵，没有一格对不上；因果与前缀切出同样的词元。"""
    examples = family_examples(families, SENTENCE, 42)
    table = masks_table(families, examples)
    assert len(table.rows) == 6
    assert all(row[1] == row[2] and row[3].startswith("0 / ") for row in table.rows)
    causal, prefix = (examples[key].rows for key in ("causal_lm", "prefix_lm"))
    assert causal.inputs == prefix.inputs


def test_the_two_pictures_of_a_pair_differ_in_their_titles_only(
    families: dict[str, Family],
) -> None:
    """三张图，题目写明哪张是试出来的，行列上的词元相同。"""
    pair = families["text_infilling"]
    example = family_examples(families, SENTENCE, 42)["text_infilling"]
    claimed, measured = claimed_masks(pair, example), measured_masks(pair, example)
    assert len(claimed) == len(measured) == 3
    for said, found in zip(claimed, measured, strict=True):
        assert found.title == f"{said.title}（试出来的）"
        assert (found.queries, found.keys) == (said.queries, said.keys)


def test_shifting_the_labels_hurts_every_family(families: dict[str, Family]) -> None:
    """自己先移一格，三类预训练过的模型的损失都高出 1 奈特以上。"""
    text = "惠公九年，冬十月，赤翎部翎主以三羽传帐，聚骑二万于黄羊川，欲入塞就食。"
    trained = [
        family for family in families.values() if family.objective != "prefix_lm"
    ]
    table = shift_table(trained, text, 42)
    assert len(table.rows) == 3
    for *_, straight, moved in table.rows:
        assert float(moved) > float(straight) + 1


def test_a_mask_token_is_looked_at_like_any_other(families: dict[str, Family]) -> None:
    """[MASK] 得到的注意力与它顶替的字相差不到一半；一句里加起来是 1。"""
    checkpoint = families["masked_lm"].checkpoint
    usual = checkpoint.model.config._attn_implementation
    table = attention_table(
        checkpoint, {"原句": SENTENCE, "遮住": SENTENCE.replace("狗", "[MASK]")}
    )
    assert checkpoint.model.config._attn_implementation == usual
    [masked] = [row for row in table.rows if row[2] == "[MASK]"]
    assert re.match("狗", masked[0])
    assert 0.5 < float(masked[3]) / float(masked[1]) < 1.5
    assert sum(float(row[3]) for row in table.rows) == pytest.approx(1, abs=0.01)
