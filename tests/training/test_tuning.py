"""试训：试几个、每次多长、怎样选、怎样接着试；坏的设置先被拒。"""

import json
import shutil
from dataclasses import asdict, replace
from itertools import pairwise

import pytest

from companion.config import TrainingConfig
from companion.errors import ConfigError, TrainingError
from companion.training import train, tune
from companion.training.tuning import (
    LEAST_STEPS,
    LORA_RANK,
    PLAN_FILE,
    PROBES_FILE,
    Probe,
    choose,
)

pytestmark = pytest.mark.usefixtures("no_curve")

GENTLE = Probe(1e-4, 0.05, domain=-0.01, general=0.001)
MIDDLE = Probe(3e-4, 0.05, domain=-0.02, general=0.010)
EAGER = Probe(1e-3, 0.05, domain=-0.03, general=0.050)


@pytest.fixture(scope="module")
def settings(configure, corpus):
    """正式训练 340 步，试训拿一半：一次 20 步。"""

    def build(output, **changes):
        usual = {"eval": True, "max_steps": 340, "eval_max_chars": 400,
                 "average_checkpoints": 2}  # fmt: skip
        both = {"general": str(corpus), "replay": str(corpus)}
        return configure(output, **(usual | both | changes))

    return build


@pytest.fixture(scope="module")
def tuned(settings, tmp_path_factory):
    """试完的一次，与它的文件夹。"""
    folder = tmp_path_factory.mktemp("试训") / "输出"
    return tune(settings(folder), budget=0.5, quiet=True)


def lines_of(folder):
    return (folder / PROBES_FILE).read_text(encoding="utf-8").splitlines(keepends=True)


@pytest.mark.parametrize(
    ("bound", "expected"),
    [(None, EAGER), (0.05, EAGER), (0.02, MIDDLE), (0.005, GENTLE), (0.0001, GENTLE)],
)
def test_the_choice_is_the_best_within_the_bound(bound, expected):
    """不过界的里领域上最低的；全都过了界时忘得最少的。"""
    assert choose([GENTLE, MIDDLE, EAGER], bound) == expected


def test_every_probe_is_one_training_of_the_planned_length(tuned, settings, tmp_path):
    """写下的变化就是照样训练一次得到的；合计不过预算；中间的文件不留。"""
    plan = json.loads((tuned.output / PLAN_FILE).read_text(encoding="utf-8"))
    assert plan["full_steps"] == 340
    assert plan["steps"] >= LEAST_STEPS
    assert len(lines_of(tuned.output)) == len(tuned.probes)
    assert len(tuned.probes) * plan["steps"] <= 0.5 * 340
    names = {"plan.json", "probes.jsonl", "tuning.md", "config.yaml"}
    assert {path.name for path in tuned.output.iterdir()} - {"tuning.png"} == names
    probe = tuned.probes[-1]
    config = replace(
        settings(tmp_path / "输出"),
        learning_rate=probe.learning_rate,
        replay_ratio=probe.replay_ratio,
        max_steps=plan["steps"],
        eval_max_chars=plan["eval_max_chars"],
        eval_steps=0,
        average_checkpoints=None,
        save_steps=plan["steps"],
    )
    metrics = train(config, quiet=True).metrics
    before, after = metrics["before"], metrics["after"]
    for name in ("domain", "general"):
        change = after[name]["bits_per_char"] / before[name]["bits_per_char"] - 1
        assert getattr(probe, name) == pytest.approx(change)


def test_rates_are_tried_around_the_given_one(tuned):
    """四个学习率（最好的在边上时五个）各差三倍，回放照给的比例。"""
    usual = [p for p in tuned.probes if p.replay_ratio == 0.05]
    rates = sorted(p.learning_rate for p in usual)
    assert {1.11e-4, 3.33e-4, 1e-3, 3e-3} <= set(rates)
    assert all(b / a == pytest.approx(3, rel=0.01) for a, b in pairwise(rates))


def test_the_settings_written_are_those_of_the_real_training(tuned, tmp_path):
    """config.yaml 里是选定的几项，界由途中评估守着；换个 output 就能训练。"""
    written = TrainingConfig.from_sources(
        tuned.output / "config.yaml", {"output": str(tmp_path / "正式"), "max_steps": 4}
    )
    assert written.learning_rate == tuned.chosen.learning_rate
    assert written.replay_ratio == tuned.chosen.replay_ratio
    assert written.max_forgetting == 0.02
    assert written.load_best_model_at_end
    assert train(written, quiet=True).metrics["steps"] == 4
    table = (tuned.output / "tuning.md").read_text(encoding="utf-8")
    assert all(reason in table for reason in tuned.reasons)
    assert table.count("←") == 1


def test_what_was_probed_is_not_probed_again(tuned, settings, tmp_path):
    """停在最后一次的半途：前几次照写下的用，末一次补上，与一口气试完的相同。"""
    folder = tmp_path / "输出"
    shutil.copytree(tuned.output, folder)
    kept = lines_of(folder)
    marked = json.loads(kept[0]) | {"domain": 0.125}  # 最差：不改变后面选谁
    text = json.dumps(marked) + "\n" + "".join(kept[1:-1]) + kept[-1][:20]
    (folder / PROBES_FILE).write_text(text, encoding="utf-8")
    again = tune(settings(folder), budget=0.5, quiet=True)
    assert again.probes[0] == replace(tuned.probes[0], domain=0.125)
    assert again.probes[1:] == tuned.probes[1:]
    assert len(lines_of(folder)) == len(kept)


RATES = (1.11e-4, 3.33e-4, 1e-3, 3e-3)


def probes_of(domain, general):
    return [
        Probe(*each) for each in zip(RATES, [0.05] * 4, domain, general, strict=True)
    ]


@pytest.mark.parametrize(
    ("made", "next_ones"),
    [
        pytest.param(
            probes_of((-0.5, -0.4, -0.3, -0.2), (0, 0, 0, 0)),
            [Probe(3.7e-5, 0.05, -0.1, 0)],
            id="lowest-rate-best",
        ),
        pytest.param(
            probes_of((-0.2, -0.3, -0.4, -0.5), (0, 0, 0, 0)),
            [Probe(9e-3, 0.05, -0.1, 0)],
            id="highest-rate-best",
        ),
        pytest.param(
            probes_of((-0.1, -0.3, -0.5, -0.2), (0, 0, 0.03, 0.04)),
            [Probe(1e-3, 0.25, -0.4, 0.01), Probe(1e-3, 0.5, -0.2, 0.005)],
            id="best-forgets-too-much",
        ),
        pytest.param(
            probes_of((-0.1, -0.3, -0.5, -0.2), (0, 0, 0.01, 0.04)),
            [],
            id="best-inside-and-bound-kept",
        ),
    ],
)
def test_what_is_tried_next(tuned, settings, tmp_path, made, next_ones):
    """最好的在边上就再往外一个；忘过了界的以更多的回放再试；都不是就试完了。"""
    folder = tmp_path / "输出"
    shutil.copytree(tuned.output, folder)
    text = "".join(json.dumps(asdict(probe)) + "\n" for probe in made + next_ones)
    (folder / PROBES_FILE).write_text(text, encoding="utf-8")
    found = tune(settings(folder), budget=0.5, quiet=True)
    assert list(found.probes) == made + next_ones
    assert found.config.replay_ratio == found.chosen.replay_ratio


def test_without_replay_or_general_only_rates_are_tried(
    settings, tmp_path, monkeypatch
):
    """没有回放的语料就不试回放，没有通用留出集就不设界；装不下全参数训练就用 LoRA。"""
    pytest.importorskip("peft")
    monkeypatch.setattr("companion.preflight.device.memory_limit", lambda: 2**20)
    config = settings(tmp_path / "输出", replay=None, general=None)
    found = tune(config, budget=0.5, quiet=True)
    assert {p.replay_ratio for p in found.probes} == {0}
    assert {p.general for p in found.probes} == {None}
    assert found.config.max_forgetting is None
    assert not (found.output / "tuning.png").exists()
    assert found.config.lora_rank == LORA_RANK
    assert "LoRA：全参数训练约需" in found.reasons[-1]
    assert "1 MB" in found.reasons[-1]


@pytest.mark.parametrize(
    ("changes", "budget", "words"),
    [
        ({"max_steps": 100}, 0.1, "一次 1 步"),
        ({}, 0.0, "budget"),
        ({}, 0.6, "budget"),
        ({"eval": False}, 0.5, "eval = false"),
    ],
)
def test_what_can_not_be_tuned_is_refused(settings, tmp_path, changes, budget, words):
    """太短、预算不对、没有评估：什么也没写就被拒。"""
    with pytest.raises(ConfigError, match=words):
        tune(settings(tmp_path / "输出", **changes), budget=budget, quiet=True)
    assert not (tmp_path / "输出").exists()


def test_another_plan_in_the_folder_is_refused_by_name(tuned, settings, tmp_path):
    """里面是别的设置试出来的：说出哪几项不同，一个字也不改。"""
    folder = tmp_path / "输出"
    shutil.copytree(tuned.output, folder)
    before = lines_of(folder)
    with pytest.raises(TrainingError, match="seed"):
        tune(settings(folder, seed=7), budget=0.5, quiet=True)
    assert lines_of(folder) == before
