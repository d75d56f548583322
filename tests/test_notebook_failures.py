"""失败目录：十格都真的犯了错，方向对；并排的表、曲线与章节说的是同一件事。"""

import importlib.util
import math
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
import torch

from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.config import TrainingConfig
from companion.errors import ConfigError, EvaluationError
from companion.notebook import contrast, draw, fit, mean_loss
from companion.notebook.contrast import Contrast
from companion.objectives.causal_lm import CausalLMCollator
from companion.plots.curves import Line, plot_contrast
from companion.training.arguments import check_means

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """experiments/failures.py，当作模块读进来。"""
    path = ROOT / "experiments" / "failures.py"
    spec = importlib.util.spec_from_file_location("experiments_failures", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path.parent))
        spec.loader.exec_module(module)
    return module


Numbers = dict[str, float | list[float]]


@pytest.fixture(scope="module")
def found(script: ModuleType) -> dict[str, tuple[Numbers, Numbers]]:
    """笔记本的十格提交的输出里，做错与做对的各个数：名字 → 一个数或一条曲线。

    重跑与提交的逐字相同，由 test_notebooks.py 核对，这里不再训练一遍。
    """
    committed: dict[str, tuple[Numbers, Numbers]] = {}
    for cell in nbformat.read(script.NOTEBOOK, as_version=4).cells:
        for key in re.findall(r'^found\["(\w+)"\] = ', cell.source, re.MULTILINE):
            text = "".join(each.get("text", "") for each in cell.outputs)
            assert "没有重现" not in text, key
            names, *rows = re.findall(r"^ +(\S.*)\n做错 (.*)\n做对 (.*)$", text, re.M)[
                0
            ]
            wrong, right = (map(read, re.split(r" {2,}", row.strip())) for row in rows)
            committed[key] = (
                dict(zip(names.split(), wrong, strict=True)),
                dict(zip(names.split(), right, strict=True)),
            )
    return committed


def read(cell: str) -> float | list[float]:
    """表里的一格。"""
    numbers = [float(each) for each in cell.split(" → ")]
    return numbers if len(numbers) > 1 else numbers[0]


def test_every_cell_makes_its_mistake_and_its_cure(
    found: dict[str, tuple[Numbers, Numbers]], script: ModuleType
) -> None:
    """十种，只差一处的两次运行，做错的都更坏：哪一种也没有说“没有重现”。"""
    assert {*found} == {*script.cells()[1]}
    assert len(found) == 10
    assert all([*wrong] == [*right] for wrong, right in found.values())


def test_the_script_runs_the_cells_and_records_them(script: ModuleType) -> None:
    """experiments/failures.py 跑的就是笔记本的格；写得进 JSON，也合得起来。"""
    with torch.random.fork_rng():
        ran = script.run(["leaking_pack", "pad_is_eos"], 0, 4)
    assert [*ran] == ["leaking_pack", "pad_is_eos"]
    for key, each in ran.items():
        assert each.betrayed, f"{key}\n{each}"
        one = script.as_record(each, 0, 4)
        both = script.summarise([one, {**one, "seed": 1}])
        assert both["right"][each.tell]["mean"] == pytest.approx(
            each.right[each.tell], abs=1e-5
        )


def test_the_library_multiplies_an_accumulated_loss(
    found: dict[str, tuple[Numbers, Numbers]],
) -> None:
    """BERT 累积四次：transformers 的 Trainer 记下四倍的损失与梯度，除对了就不变。"""
    wrong, right = found["accumulated_loss"]
    for name in ("损失的倍数", "梯度的倍数"):
        assert wrong[name] == pytest.approx(4, rel=0.05)  # 平均的平均
        assert right[name] == pytest.approx(1, rel=5e-4)


def test_the_library_drops_every_end_when_it_pads_with_it(
    found: dict[str, tuple[Numbers, Numbers]],
) -> None:
    """四句话四个结尾：库一个不留，本包一个不丢。"""
    assert [each["标签里的结尾"] for each in found["pad_is_eos"]] == [0, 4]


def test_a_first_loss_names_the_tokenizer_and_the_head(
    found: dict[str, tuple[Numbers, Numbers]],
) -> None:
    """换错的分词器、随机的输出头都不比瞎猜强，配套的远低于它。"""
    guess = math.log(8000)
    assert found["wrong_tokenizer"][0]["第一步"] > guess
    assert found["random_head"][0]["第一步"] > guess
    assert found["random_head"][1]["第一步"] < guess - 2


def test_fp16_breaks_where_an_activation_exceeds_its_largest_number(
    found: dict[str, tuple[Numbers, Numbers]],
) -> None:
    """同一个函数：没有溢出的几档，两种精度相差无几；溢出的，fp16 不是有限数。"""
    half, brain = (each["损失"] for each in found["fp16_overflow"])
    assert math.isfinite(half[0])
    assert not math.isfinite(half[-1])
    assert brain == pytest.approx([half[0]] * len(brain), rel=0.01)


def test_the_package_refuses_t5_in_fp16() -> None:
    """要 T5 用 fp16，开训之前就拒绝；BERT 不拦。"""
    config = TrainingConfig(
        objective="span_corruption", model="starter:t5", corpus="sample:classical",
        output="out", precision="fp16",
    )  # fmt: skip
    with pytest.raises(ConfigError, match="65,504"):
        check_means(config, tiny_model("t5"), "cuda")
    check_means(config, tiny_model("bert"), "cuda")


def test_a_contrast_shows_both_sides_and_the_telling_number(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """一边一行，曲线写出几个点；最后一行是看得出错的数；方向不对就说出来。"""
    each = contrast(
        "题", {"末步": 2.0, "损失": [3.0, 2.0]}, {"末步": 1.0, "损失": [3.0, 1.0]}
    )
    printed = capsys.readouterr().out
    assert "3.000 → 2.000" in printed
    assert "看“末步”：做错 2.000，做对 1.000" in printed
    assert each.betrayed
    assert not contrast("题", {"末步": 1.0}, {"末步": 2.0}).betrayed
    assert "没有重现" in capsys.readouterr().out
    assert contrast("题", {"概率": 0.1}, {"概率": 0.9}, worse="lower").betrayed
    assert contrast("题", {"损失": math.nan}, {"损失": 4.0}).betrayed
    assert not contrast("题", {"损失": 4.0}, {"损失": math.nan}).betrayed


def test_the_curve_of_a_contrast_has_the_steps_or_its_own_places() -> None:
    """列表的横轴从 1 数起，字典的横轴是它的键。"""
    for curve, places in (([3.0, 2.0], [1, 2]), ({4: 3.0, 16: 2.0}, [4, 16])):
        figure = Contrast("题", {"损失": curve}, {"损失": curve}, "higher", "步").plot()
        [axes] = figure.axes
        assert [*axes.get_lines()[0].get_xdata()] == places


@pytest.mark.parametrize(
    ("wrong", "right"),
    [({"甲": 1.0}, {"乙": 1.0}), ({"甲": [1.0]}, {"甲": [2.0]}), ({}, {})],
)
def test_outcomes_that_cannot_be_compared_are_refused(
    wrong: dict[str, Any], right: dict[str, Any]
) -> None:
    """名字不同，第一个不是单个的数，什么都没有：说出怎样写。"""
    with pytest.raises(EvaluationError, match="第一个是单个的数"):
        contrast("题", wrong, right)
    with pytest.raises(EvaluationError, match="至少一条曲线"):
        Contrast("题", {"甲": 1.0}, {"甲": 1.0}, "higher", "步").plot()


def test_the_loop_draws_the_same_batches_and_learns_them() -> None:
    """同一个种子抽到同样的行；走几步，损失降下来；看的函数首尾各调用一次。"""
    tokenizer = tiny_tokenizer("bloom")
    rows = [
        {"input_ids": tokenizer(each).input_ids} for each in ("狡兔死", "走狗烹") * 2
    ]
    collator = CausalLMCollator(tokenizer)
    batches, again = (draw(rows, collator, 6, seed=3) for _ in range(2))
    for batch, same in zip(batches, again, strict=True):
        assert torch.equal(batch["labels"], same["labels"])
    model, scores = tiny_model("bloom", tokenizer), []
    losses = fit(
        model, batches, 1e-2, watch=lambda: scores.append(mean_loss(model, batches))
    )
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    assert scores[-1] < scores[0]
    assert len(scores) == 3


def test_the_figure_marks_what_is_not_a_number() -> None:
    """非数的点画成×，图例与替代文字都说得出；几乎相同的线不画成大起大落。"""
    lines = [
        Line(name="对", x=[0, 1, 2], y=[4.371, 4.372, 4.371], right=True),
        Line(name="错", x=[0, 1, 2], y=[4.371, math.nan, math.inf], right=False),
    ]
    figure = plot_contrast(lines, title="题", xlabel="横", ylabel="纵")
    [axes] = figure.axes
    drawn = {line.get_gid(): line for line in axes.get_lines()}
    assert list(drawn["broken-1"].get_xdata()) == [1, 2]
    assert "有 2 处不是有限数" in figure.alt  # type: ignore[attr-defined]
    low, high = axes.get_ylim()
    assert high - low > 0.05
    assert drawn["line-0"].get_linestyle() != drawn["line-1"].get_linestyle()


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [Line(name="空", x=[], y=[], right=True)],
        [Line(name="短", x=[0, 1], y=[1.0], right=True)],
        [Line(name="坏", x=[0], y=[math.nan], right=True)],
    ],
)
def test_lines_that_cannot_be_drawn_are_refused(lines: list[Line]) -> None:
    """没有线、没有点、长短不一、全是非数：说出是哪一条。"""
    with pytest.raises(EvaluationError, match="两轴等长"):
        plot_contrast(lines, title="题", xlabel="横", ylabel="纵")


def test_the_chapter_tells_symptom_cause_proof_and_cure_of_each(
    script: ModuleType,
) -> None:
    """第 11 章：每一种各有一节，依次是症状、病因、怎样确认、药方；引的就是笔记本的。"""
    text = (ROOT / "book" / "11_failures.md").read_text("utf-8")
    sections = {
        key: part
        for part in re.split(r"^### ", text, flags=re.MULTILINE)[1:]
        for key in re.findall(r"`(\w+)`", part.splitlines()[0])
    }
    assert {*sections} == {*script.cells()[1]}
    for key, part in sections.items():
        steps = re.findall(r"^\*\*(症状|病因|怎样确认|药方)\*\*：", part, re.MULTILINE)
        assert steps == ["症状", "病因", "怎样确认", "药方"], key
    lines = text.partition("## 实验")[2].partition("```python\n")[2].partition("```")[0]
    assert lines in script.cells()[1]["double_shift"]
