"""设置要用的本事在不在：fp16 会溢出的架构，在哪种设备上都拒绝。"""

from types import SimpleNamespace

import pytest

from companion.config import TrainingConfig
from companion.errors import ConfigError
from companion.preflight.device import overflows_in_fp16
from companion.training.arguments import check_means

DEVICES = ("cuda", "mps", "cpu")


def model_of(family: str) -> SimpleNamespace:
    return SimpleNamespace(config=SimpleNamespace(model_type=family))


def config_of(precision: str) -> TrainingConfig:
    return TrainingConfig(
        objective="span_corruption",
        model="x",
        corpus="x",
        output="x",
        precision=precision,
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", ["t5", "mt5", "umt5", "longt5", "gemma2"])
def test_fp16_is_refused_for_architectures_that_overflow(family, device):
    """说出缘由（65,504），给出 bf16 与 fp32 两条路。"""
    with pytest.raises(ConfigError, match=family) as caught:
        check_means(config_of("fp16"), model_of(family), device)
    assert "65,504" in caught.value.found
    for way in ("precision=bf16", "precision=fp32"):
        assert way in caught.value.remedy


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["auto", "bf16", "fp32"])
def test_every_other_precision_is_allowed(precision, device):
    """T5 用 bf16、fp32 或由设备决定，都可以。"""
    check_means(config_of(precision), model_of("t5"), device)


@pytest.mark.parametrize("family", ["bart", "mbart", "pegasus", "bert", "bloom"])
def test_fp16_is_allowed_where_it_does_not_overflow(family):
    """BART 一类在显卡上可以用 fp16。"""
    assert not overflows_in_fp16(family)
    check_means(config_of("fp16"), model_of(family), "cuda")
