"""开训之前的估算：式子照书里写的，t4 的检查点都装得进 T4。"""

import importlib.util
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from built_book import ROOT

from companion.checkpoints.tiny import tiny_model
from companion.notebook.planning import (
    PEAKS,
    USED,
    estimate,
    num_parameters,
    plan_training,
)
from companion.notebook.profiles import ALTERNATIVES, PROFILES, profile_config
from companion.preflight.device import Device

T4 = Device("cuda", "Tesla T4", torch.float16, 15 * 2**30, "")


def plan(**settings: Any) -> dict[str, str]:
    """极小一档的估算，改几项设置。"""
    config = profile_config("tiny", "masked_lm", "out", 7, **settings)
    return dict(map(tuple, plan_training(config, T4).rows))


def test_the_tokens_follow_from_the_steps_or_from_the_corpus() -> None:
    """给了步数，步数 × 批量 × 累积；没给，字数 × 遍数 × 每字词元数，再添上回放。"""
    assert plan(gradient_accumulation_steps=2)["要读的词元"] == f"{24 * 1024 * 2:,}"
    once, twice = (
        int(plan(max_steps=-1, num_train_epochs=n)["要读的词元"].replace(",", ""))
        for n in (1.0, 2.0)
    )
    assert abs(twice - 2 * once) <= 1
    alone = int(
        plan(max_steps=-1, num_train_epochs=1.0, replay=None)["要读的词元"].replace(
            ",", ""
        )
    )
    assert once == pytest.approx(alone / 0.8, abs=1)


def test_the_memory_and_the_time_are_the_formulas_of_the_book() -> None:
    """16 字节一个参数加激活，6PK 次运算；LoRA 是 4 字节与 4PK，重算再加 2PK。"""
    hull, tokens = tiny_model("bert"), 1000
    parameters = num_parameters(hull)
    base = profile_config("tiny", "masked_lm", "out", 7)
    plain = estimate(base, [hull], T4, tokens)
    activations = base.tokens_per_batch * 34 * 2 * hull.config.hidden_size
    assert plain.memory_bytes == 16 * parameters + activations
    assert plain.operations == 6 * parameters * tokens
    assert plain.hours(65) == plain.operations / (USED * 65e12) / 3600
    lora = profile_config("tiny", "masked_lm", "out", 7, lora_rank=4)
    frozen = estimate(lora, [hull], T4, tokens)
    assert frozen.memory_bytes == 4 * parameters + activations
    assert frozen.operations == 4 * parameters * tokens
    again = profile_config("tiny", "masked_lm", "out", 7, gradient_checkpointing=True)
    recomputed = estimate(again, [hull], T4, tokens)
    assert recomputed.memory_bytes < plain.memory_bytes
    assert recomputed.operations == 8 * parameters * tokens


def test_a_known_card_gives_hours_and_an_unknown_one_says_how_to_find_out() -> None:
    """认得的显卡给出小时数；CPU 与不认得的，叫人试跑。"""
    config = profile_config("tiny", "masked_lm", "out", 7)
    assert "小时" in plan()["训练的时间"]
    cpu = Device("cpu", "CPU（2 个线程）", torch.float32, 2**33, "")
    assert dict(map(tuple, plan_training(config, cpu).rows))["训练的时间"].startswith(
        "试跑"
    )


def test_a_head_of_its_own_is_counted() -> None:
    """mT5 的输出头另是一份：设置说不共享，空壳里却共享，也补算。"""
    model = tiny_model("t5")
    shared = num_parameters(model)
    model.config.tie_word_embeddings = False
    assert num_parameters(model) == shared + model.lm_head.weight.numel()


@pytest.fixture(scope="module")
def costs() -> ModuleType:
    """书的附录“检查点与花费”。"""
    path = ROOT / "book" / "_ext" / "checkpoint_costs.py"
    spec = importlib.util.spec_from_file_location("checkpoint_costs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_checkpoint_of_a_profile_fits_its_card(costs: ModuleType) -> None:
    """照公式，t4 的都装得进 T4 的九成，full 的都装得进 80 GB 的九成；T4 两小时之内。"""
    listed = {profile: costs.rows(profile) for profile in costs.CARDS}
    for profile, rows in listed.items():
        assert len(rows) >= 7
        for row in rows:
            assert row["memory"] < 0.9 * costs.CARDS[profile][1], row
            assert row["minutes"] < 120, row
    shared = [row["objective"] for row in listed["t4"]]
    assert "`masked_lm` `unified_lm`" in shared, "花费相同的并成一行"
    assert {card for card, _, _ in costs.CARDS.values()} <= set(PEAKS)


def test_an_alternative_brings_its_own_settings() -> None:
    """选了另一个检查点，批量、LoRA 一类的字段跟着换；空的是这一档自己的。"""
    default = profile_config("t4", "span_corruption", "out", 7, model="")
    assert default.model == PROFILES["span_corruption"]["t4"]["model"]
    [(name, changes)] = ALTERNATIVES["span_corruption"]["t4"].items()
    other = profile_config("t4", "span_corruption", "out", 7, model=name)
    assert (other.model, other.tokens_per_batch) == (name, changes["tokens_per_batch"])
    own = profile_config("t4", "span_corruption", "out", 7, model="my/own")
    assert (own.model, own.tokens_per_batch) == ("my/own", default.tokens_per_batch)
