"""章节里的实验：几步、一个种子跑得通，方向与书里说的相同。"""

import argparse
import importlib
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
Summary = list[dict[str, Any]]


@pytest.fixture
def run_quick(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], Summary]:
    """`--quick` 打印的汇总；不要语料文件夹，不写 results/。

    在本进程里当作脚本来跑：装入 torch 与 transformers 要十秒，一个实验一次太贵。
    """
    monkeypatch.delenv("COMPANION_DATA", raising=False)
    monkeypatch.syspath_prepend(ROOT / "experiments")
    # 曲线一张要一秒，这里不看
    monkeypatch.setattr("companion.plots.curves.plot_curve", lambda *_a, **_k: None)
    monkeypatch.setattr("companion.plots.style.save_figure", lambda *_args: None)

    def written() -> dict[str, int]:
        return {p.name: p.stat().st_mtime_ns for p in (ROOT / "results").iterdir()}

    def run(script: str) -> Summary:
        path, before = str(ROOT / "experiments" / script), written()
        monkeypatch.setattr(sys, "argv", [path, "--quick"])
        capsys.readouterr()
        runpy.run_path(path, run_name="__main__")
        assert written() == before
        return json.loads(capsys.readouterr().out)

    return run


def test_replay_forgets_less_and_learns_a_little_less(
    run_quick: Callable[[str], Summary],
) -> None:
    """同样多的词元，掺两成半回放：通用升得少，领域降得也少一些。"""
    without, replayed = run_quick("replay_tradeoff.py")
    assert (without["replay_ratio"], replayed["replay_ratio"]) == (0.0, 0.25)
    assert replayed["general"]["mean"] < without["general"]["mean"]
    assert without["domain"]["mean"] < replayed["domain"]["mean"] < 0


def test_what_is_read_many_times_is_recited(
    run_quick: Callable[[str], Summary],
) -> None:
    """一小段读十六遍，给开头就背得出后文；没读过的文字一处也写不对。"""
    [row] = run_quick("extraction.py")
    assert row["read_whole"]["mean"] > 0.3
    assert row["unread_whole"]["mean"] == 0


def test_lora_trains_few_parameters_and_moves_less(
    run_quick: Callable[[str], Summary],
) -> None:
    """同一个学习率下，LoRA 只训练百分之几的参数，领域上学得少。"""
    pytest.importorskip("peft", reason='没有装 peft：pip install -e ".[lora]"')
    full, lora = run_quick("full_or_lora.py")
    assert full["share"] == 1
    assert lora["share"] < 0.05
    assert full["domain"]["mean"] < lora["domain"]["mean"]


def test_scoring_only_the_targets_reads_faster(
    run_quick: Callable[[str], Summary],
) -> None:
    """一样的模型与文字，只在目标上算输出头，每秒处理器时间读的字多得多。"""
    whole, targets = run_quick("one_factor.py")
    speed = "characters_per_cpu_second"
    assert targets[speed]["mean"] > 1.3 * whole[speed]["mean"]


def test_padding_shrinks_from_one_way_of_batching_to_the_next(
    run_quick: Callable[[str], Summary],
) -> None:
    """补到固定长、补到批内最长、分桶、打包，填充一个比一个少；打包的行也少得多。"""
    fixed, longest, bucketed, packed = run_quick("padding_share.py")
    shares = [each["padding"] for each in (fixed, longest, bucketed, packed)]
    assert shares == sorted(shares, reverse=True)
    assert fixed["padding"] > 0.5 > 0.1 > bucketed["padding"]
    assert packed["rows"] < fixed["rows"] / 3


def test_new_characters_do_not_hurt_the_old_ones(
    run_quick: Callable[[str], Summary],
) -> None:
    """添不添生字，认得的字训练之后一样好猜，相差不到百分之二。"""
    plain, extended = (
        each["known_bits_per_char"]["mean"]
        for each in run_quick("vocabulary_extension.py")
    )
    assert abs(extended / plain - 1) < 0.02


def test_only_the_bytes_lose_nothing(run_quick: Callable[[str], Summary]) -> None:
    """同样的词表：字节 BPE 没有 [UNK]、句句还原；一字一元缺字，Unigram 还改标点。"""
    word_piece, unigram, byte_bpe = run_quick("tokenize_tongjian.py")
    assert byte_bpe["general"]["unk_rate"]["max"] == 0
    assert byte_bpe["general"]["restored_rate"]["min"] == 1
    assert word_piece["classical"]["unk_rate"]["min"] > 0
    lost, changed = (
        each["classical"]["restored_rate"]["mean"] for each in (word_piece, unigram)
    )
    assert changed < lost < 1
    assert byte_bpe["classical"]["tokens_per_char"]["mean"] < 1
    assert byte_bpe["general"]["tokens_per_char"]["mean"] > 1


def test_equal_compute_buys_fewer_steps_of_a_pair(
    run_quick: Callable[[str], Summary],
) -> None:
    """同样的运算数，一对走两遍，步数少；练惯了真假的那一个，判得比只报比例的好。"""
    rows = run_quick("electra_or_mlm.py")
    found = {(row["start"], row["objective"]): row for row in rows}
    starts = ("starter:bert", "starter:electra")
    assert set(found) == {
        (start, objective)
        for start in starts
        for objective in ("none", "masked_lm", "replaced_token")
    }
    for start in starts:
        pair, words = (
            found[start, key]["steps"]["mean"]
            for key in ("replaced_token", "masked_lm")
        )
        assert 0 < pair < words
    skilled, beginner = (found[start, "replaced_token"] for start in starts[::-1])
    assert skilled["own"]["max"] < skilled["own_floor"]["min"]
    assert beginner["own"]["min"] > skilled["own"]["max"]


def test_both_optimizers_learn(run_quick: Callable[[str], Summary]) -> None:
    """几步之后，AdamW 与 Muon 的领域每字比特数都低于训练前。"""
    rows = run_quick("optimizers.py")
    assert {row["optimizer"] for row in rows} == {"adamw", "muon"}
    assert all(row["domain"]["max"] < 0 for row in rows)


@pytest.mark.parametrize(
    ("differences", "said"),
    [((-0.02, -0.021, -0.019), "学得多"), ((0.02, -0.02, 0.001), "分不出高下")],
)
def test_the_conclusion_follows_the_test(
    monkeypatch: pytest.MonkeyPatch, differences: tuple[float, ...], said: str
) -> None:
    """三个种子的差一致才说高下；选学习率的种子与对照不算。"""
    monkeypatch.syspath_prepend(ROOT / "experiments")
    optimizers = importlib.import_module("optimizers")
    runs = [
        {
            "kind": "bert", "optimizer": name, "corpus": corpus, "seed": seed,
            "domain": -0.1 + (differences[seed % 50] if name == "muon" else 0),
            "general": 0.01,
        }
        for name in ("adamw", "muon")
        for corpus, seed in (
            ("tongjian", 0), ("tongjian", 1), ("tongjian", 2), ("tongjian", 100),
            ("control", 0),
        )
    ]  # fmt: skip
    sentence, [test] = optimizers.conclude(runs)
    assert f"领域上{said}" in sentence
    assert "通用上分不出高下" in sentence
    assert len(test) == 3
    mean = sum(differences) / 3
    assert test["domain"]["difference"]["mean"] == pytest.approx(mean)


@pytest.mark.parametrize(("kind", "side"), [("bert", "classical"), ("qwen3", "modern")])
def test_the_control_reads_the_side_of_the_domain(
    monkeypatch: pytest.MonkeyPatch, kind: str, side: str
) -> None:
    """读文言的，对照也读文言；读白话的读白话。"""
    monkeypatch.syspath_prepend(ROOT / "experiments")
    runs = importlib.import_module("runs")
    read = Path(runs.control_text(kind, argparse.Namespace(data=Path("d"))))
    assert read == Path(f"d/base/train.{side}.txt.gz")


def test_replay_is_judged_by_pairs_of_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.0003 总比 0.001 学得多才说学得多；对照不分高下就说不分；没有比的不写。"""
    monkeypatch.syspath_prepend(ROOT / "experiments")
    tradeoff = importlib.import_module("replay_tradeoff")
    gains = {
        ("tongjian", 3e-4): (-0.030, -0.031, -0.029),
        ("tongjian", 1e-3): (-0.020, -0.0205, -0.0195),
        ("control", 3e-4): (-0.04, -0.02, -0.031),
    }
    runs = [
        {
            "kind": "qwen3", "corpus": corpus, "learning_rate": rate,
            "replay_ratio": 0.05, "seed": seed, "domain": gain, "general": 0.01,
        }
        for (corpus, rate), each in gains.items()
        for seed, gain in enumerate(each)
    ]  # fmt: skip
    said = tradeoff.conclude(runs)["conclusions"]["qwen3"]
    assert set(said) == {"rate", "corpus"}
    assert "领域上学得多（差 −1.00%" in said["rate"]
    assert "领域上分不出高下" in said["corpus"]


def test_a_second_round_is_measured_from_both_starts(
    run_quick: Callable[[str], Summary],
) -> None:
    """带着动量与只拿权重，各有开头的升降与走完的升降。"""
    moments, weights = run_quick("second_round.py")
    assert (moments["start"], weights["start"]) == ("moments", "weights")
    assert moments["jump"]["mean"] != weights["jump"]["mean"]
    assert {"jump", "gain"} <= moments.keys()
