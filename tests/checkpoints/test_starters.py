"""起步模型：卡片与文件相符，大小有度。"""

import json
from pathlib import Path

import pytest
from model_folders import write_checkpoint

from companion.checkpoints import locating
from companion.checkpoints.loading import load_checkpoint
from companion.checkpoints.locating import (
    StarterCard,
    list_starters,
    seal,
    starter_path,
)
from companion.errors import ModelError

PRESENT = list_starters()
MEGABYTE = 10**6


@pytest.fixture
def fake(tmp_path, monkeypatch) -> Path:
    """一个假的起步模型文件夹 tmp_path/bert。"""
    monkeypatch.setattr(locating, "_ROOT", tmp_path)
    folder = write_checkpoint(tmp_path / "bert", "bert")
    card = StarterCard(
        name="bert",
        data="几句中文",
        tokens_seen=1000,
        steps=10,
        seed=0,
        bits_per_char=6.5,
        licence_note="CC0",
        sha256={},
        details={"seconds": 1},
    )
    seal(folder, card)
    return folder


def test_a_sealed_starter_opens_by_its_name(fake):
    """封好的起步模型按名字打开，没有提醒。"""
    checkpoint = load_checkpoint("starter:bert", "masked_lm")
    assert checkpoint.notices == []
    assert checkpoint.name == "starter:bert"


def test_the_card_survives_a_round_trip(fake):
    """写下的卡片读回来，各项不变，多出来的在 details 里。"""
    card = list_starters()["bert"]
    assert (card.tokens_seen, card.bits_per_char) == (1000, 6.5)
    assert card.details == {"seconds": 1}
    names = {path.name for path in fake.iterdir()}
    assert set(card.sha256) == names - {"card.json"}


@pytest.mark.parametrize("change", ["damaged", "removed", "added"])
def test_a_changed_file_is_noticed(change, fake):
    """文件坏了、少了、多了，打开前都查得出。"""
    path = fake / ("added.txt" if change == "added" else "model.safetensors")
    if change == "removed":
        path.unlink()
    else:
        path.write_bytes(b"x")
    with pytest.raises(ModelError, match=rf"与卡片不符：{path.name}.*重新安装"):
        starter_path("starter:bert")


def test_a_misspelt_starter_gets_a_suggestion(fake):
    """写错名字：猜最接近的一个。"""
    with pytest.raises(ModelError, match="是不是想写 starter:bert"):
        starter_path("starter:brt")


def test_an_unreadable_card_is_an_error(fake):
    """卡片缺一项：一条中文消息。"""
    content = json.loads((fake / "card.json").read_text())
    del content["licence_note"]
    (fake / "card.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"读不了.*licence_note"):
        list_starters()


def test_both_starters_of_the_spine_are_shipped():
    """两个目标各有一个起步模型：没有它们，离线演示无从谈起。"""
    assert {"bert", "bloom"} <= PRESENT.keys()


@pytest.mark.parametrize("name", PRESENT)
def test_a_shipped_starter_matches_its_card(name):
    """随包的每个文件与卡片的 sha256 相同，总共不到 8 MB，卡片项项有内容。"""
    folder = starter_path(name)
    sizes = (path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert sum(sizes) <= 8 * MEGABYTE
    card = PRESENT[name]
    assert card.data
    assert card.licence_note
    assert card.tokens_seen > card.steps > 0
    assert 0 < card.bits_per_char < 10


def test_the_shipped_starters_are_small_together():
    """全部起步模型合起来不到 55 MB。"""
    sizes = (p.stat().st_size for p in locating._ROOT.rglob("*") if p.is_file())
    assert sum(sizes) <= 55 * MEGABYTE


@pytest.mark.parametrize("name", PRESENT)
def test_a_shipped_starter_opens_without_remarks(name):
    """随包的起步模型打开时没有提醒，权重齐全。"""
    objective = list_starters()[name].details["objective"]
    checkpoint = load_checkpoint(f"starter:{name}", objective)
    assert checkpoint.notices == []
    assert checkpoint.missing_keys == ()
