"""断句探针与两个目标的共同起点：题出得对，分类器学得到，编码器一字不差。"""

from pathlib import Path
from types import ModuleType

import pytest
import torch

TEXT = "王曰：“善。”乃行"


pytestmark = pytest.mark.usefixtures("experiments")


@pytest.fixture(scope="module")
def probing() -> ModuleType:
    """断句探针。"""
    import punctuation_probe

    return punctuation_probe


def test_breaks_stand_where_the_marks_stood(probing: ModuleType) -> None:
    """标点去掉，前一个字记下断开；引号去掉，不算断开；开头的标点没有前一个字。"""
    [piece] = probing.pieces_of(["，王曰：“善。”\n乃行"], 100)
    assert piece.text == "王曰善乃行"
    assert piece.breaks == (False, True, True, False, False)


def test_pieces_are_rows_and_stop_in_time(probing: ModuleType) -> None:
    """一行至多 126 字；够了就停，一字不重。"""
    pieces = probing.pieces_of(["甲" * 300, "乙" * 300], 260)
    assert [len(each.text) for each in pieces] == [126, 126, 48]
    assert all(len(each.text) == len(each.breaks) for each in pieces)


def test_a_feature_that_tells_is_used_and_noise_is_not(probing: ModuleType) -> None:
    """答案写在特征里：F1 是 1；特征是噪声：花费不低于只报比例。"""
    drawn = torch.Generator().manual_seed(0)
    breaks = torch.rand(2_000, generator=drawn) < 0.25
    noise = torch.randn(2_000, 4, generator=drawn)
    telling = torch.cat([noise, breaks[:, None] * 2.0 + 1], dim=1)
    for features, good in ((telling, True), (noise, False)):
        halves = features[:1000], breaks[:1000], features[1000:], breaks[1000:]
        score = probing.probe_score(*halves)
        assert (score["f1"] == 1) == good
        assert (score["bits"] < 0.3) == good
        assert good or score["bits"] > 0.75  # 比例 0.25 的熵是 0.81 比特


def test_both_objectives_start_from_the_same_encoder(
    probing: ModuleType, tmp_path: Path
) -> None:
    """同一个起点写成掩码模型与一对，各层的隐藏状态逐位相同；生成器只有一层。"""
    from electra_or_mlm import encoder_of, starting_points

    from companion.checkpoints.loading import load_checkpoint

    models = starting_points(tmp_path)
    pieces = probing.pieces_of([TEXT, "臣光曰：臣闻天子之职莫大于礼。"], 100)
    for start in ("starter:bert", "starter:electra"):
        words, pair = (
            load_checkpoint(models[start, objective], objective)
            for objective in ("masked_lm", "replaced_token")
        )
        states = [
            probing.hidden_states(encoder_of(each), each.tokenizer, pieces)
            for each in (words, pair)
        ]
        assert len(states[0]) == len(states[1]) > 1
        for mine, theirs in zip(*states, strict=True):
            assert mine.shape == (len("王曰善乃行") + 13, 192)
            assert torch.equal(mine, theirs)
        assert len(pair.model.generator.electra.encoder.layer) == 1
        assert not words.missing_keys
        assert not pair.notices
