"""失败目录：十种失败都重现得出，方向对；库会做错的，当场就是错的。"""

import importlib.util
import json
import math
import re
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch

from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.errors import EvaluationError
from companion.notebook import FAILURES, failures_table, reproduce
from companion.notebook.failure import Failure
from companion.notebook.failure_labels import opened_vocabularies, reordered
from companion.notebook.failure_precision import refusal, scale_feed_forward
from companion.plots.curves import Line, plot_contrast

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


@cache
def failure(key: str) -> Failure:
    """几步的重现，各测试共用。"""
    return reproduce(key, seed=0, steps=4)


@pytest.mark.parametrize("key", FAILURES)
def test_every_failure_is_reproduced(key: str) -> None:
    """只差一处的两次运行，做错的更坏；要画的线有做错的，也有做对的。"""
    found = failure(key)
    assert found.reproduced, str(found)
    assert {line.right for line in found.lines} == {True, False}
    assert found.verdict
    json.dumps(found.as_dict(), allow_nan=False)


def test_the_library_multiplies_an_accumulated_loss_and_we_do_not() -> None:
    """BERT 累积四次：transformers 的 Trainer 记下四倍的损失与梯度，本包不变。"""
    found = failure("accumulated_loss")
    assert found.wrong_value == pytest.approx(4, rel=1e-4)
    assert found.right_value == pytest.approx(1, rel=1e-4)
    assert found.facts["norm_wrong"] == pytest.approx(4, rel=1e-4)
    assert found.facts["norm_right"] == pytest.approx(1, rel=1e-4)


def test_the_library_drops_every_end_when_it_pads_with_it() -> None:
    """四句话四个结尾：库一个不留，本包一个不丢。"""
    facts = failure("pad_is_eos").facts
    assert (facts["kept_wrong"], facts["kept_right"]) == (0, 4)


def test_only_isolated_documents_do_not_leak() -> None:
    """库的三种常见装法泄漏；关了缓存的扁平整理器与本包的不泄漏。"""
    isolated = [row[2] for row in failure("leaking_pack").table.rows]
    assert isolated == ["否", "否", "否", "是", "是", "是"]


def test_fp16_breaks_where_an_activation_exceeds_its_largest_number() -> None:
    """损失不是有限数的那些行，激活都超过 65,504；没超过的，三种精度相差无几。"""
    for peak, exact, brain, half in failure("fp16_overflow").table.rows:
        assert float(brain) == pytest.approx(float(exact), rel=0.01)
        if float(peak.replace(",", "")) > torch.finfo(torch.float16).max:
            assert half in ("nan", "inf")
        else:
            assert float(half) == pytest.approx(float(exact), rel=0.01)


def test_a_random_head_guesses_and_the_check_says_so() -> None:
    """随机的输出头与瞎猜相差不到一成，体检给出警告。"""
    found = failure("random_head")
    assert found.wrong_value == pytest.approx(math.log(8000), rel=0.1)
    assert "warning" in found.table.rows[-1][0]


def test_a_wrong_tokenizer_is_worse_than_guessing() -> None:
    """编号都合法，开头的损失却高过 ln V：模型笃定地猜错。"""
    found = failure("wrong_tokenizer")
    assert found.wrong_value > found.facts["guessing"] > found.right_value


def test_the_reordered_tokenizer_knows_the_same_characters() -> None:
    """同样的字、同样的特殊词元，只是普通的字换了编号。"""
    tokenizer = tiny_tokenizer("bert")
    other = reordered(tokenizer)
    assert {*tokenizer.get_vocab()} == {*other.get_vocab()}
    assert {*tokenizer.get_vocab().values()} == {*other.get_vocab().values()}
    assert other.mask_token_id == tokenizer.mask_token_id
    moved = [
        word
        for word, at in tokenizer.get_vocab().items()
        if other.get_vocab()[word] != at
    ]
    assert len(moved) > len(tokenizer) / 2


def test_a_lone_vocabulary_is_read_whole_only_by_us() -> None:
    """只有 vocab.txt 的文件夹：库的两种打开法得到五个词元，本包得到八千个。"""
    assert [row[1] for row in opened_vocabularies().rows] == ["5", "5", "8000"]


def test_scaling_a_feed_forward_layer_changes_nothing_in_float32() -> None:
    """2 的幂：T5 的输出逐位相同，中间的激活大了那么多倍。"""
    model = tiny_model("t5").eval()
    inputs = {
        "input_ids": torch.tensor([[5, 6, 7]]),
        "decoder_input_ids": torch.tensor([[0, 8]]),
    }
    with torch.no_grad():
        before = model(**inputs).logits
        scale_feed_forward(model, 2.0**14)
        after = model(**inputs).logits
    assert torch.equal(before, after)


def test_the_package_refuses_t5_in_fp16() -> None:
    """要 T5 用 fp16，开训之前就拒绝；BERT 不拦。"""
    assert "65,504" in refusal(tiny_model("t5"))
    assert refusal(tiny_model("bert")) == ""


def test_an_unknown_failure_is_refused_with_a_guess() -> None:
    """键写错：猜最近的一个；步数太少：说出下限。"""
    with pytest.raises(EvaluationError, match="double_shift"):
        reproduce("double_shfit")
    with pytest.raises(EvaluationError, match="至少 4 步"):
        reproduce("double_shift", steps=1)


def test_the_table_has_a_row_for_each_failure() -> None:
    """一种一行，三位小数。"""
    table = failures_table([failure("leaking_pack"), failure("accumulated_loss")])
    assert [row[3] for row in table.rows] == ["0.000", "1.000"]


def test_the_script_runs_one_and_summarises(
    script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """一次运行的记录齐全；两个种子合起来有均值与散布；没有重现就停下。"""
    one = script.run("leaking_pack", 0, 4)
    assert one["reproduced"]
    assert "leaking_pack" in capsys.readouterr().out
    both = script.summarise([one, {**one, "seed": 1, "wrong": one["wrong"] + 2}])
    assert both["wrong"]["mean"] == pytest.approx(one["wrong"] + 1)
    assert both["seeds"] == [0, 1]


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


def test_the_chapter_tells_symptom_cause_proof_and_cure_of_each() -> None:
    """第 11 章：每一种各有一节，依次是症状、病因、怎样确认、药方。"""
    text = (ROOT / "book" / "11_failures.md").read_text("utf-8")
    sections = {
        key: part
        for part in re.split(r"^### ", text, flags=re.MULTILINE)[1:]
        for key in re.findall(r"`(\w+)`", part.splitlines()[0])
    }
    assert list(sections) == list(FAILURES)
    for key, part in sections.items():
        steps = re.findall(r"^\*\*(症状|病因|怎样确认|药方)\*\*：", part, re.MULTILINE)
        assert steps == ["症状", "病因", "怎样确认", "药方"], key
