"""互动页：显示的每一格与 `companion show` 相同；键盘用得了，错误说得清。"""

import re
import runpy
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason='没有装浏览器测试：pip install -e ".[test]"')

OBJECTIVES = (
    "causal_lm",
    "fill_in_the_middle",
    "masked_lm",
    "whole_word",
    "masked_diffusion",
    "span_corruption",
    "text_infilling",
    "masked_seq2seq",
    "prefix_lm",
    "blank_infilling",
)
# 一个字；词表之外的字、西文与空格；连着的句末与后引号；长到有几段
TEXTS = (
    "善",
    "𠮷野家 é 3.5 元。",
    "“善。”王曰：「可！」众皆诺……",
    "天下之事，分久必合，合久必分。" * 4,
)
WORDS = ("司马光/曰", "天下/大势/分久必合", "𠮷野/家", "才者 ， 德之资 也 ； 德者")
SEEDS = (1, 7, 11)  # 自回归填空恰好走到文档、词元、句子三个层次

_READ = """([objective, text, seed]) => {
  const field = (name) => document.getElementById(`play-${name}`);
  field("objective").value = objective;
  field("text").value = text;
  field("seed").value = String(seed);
  document.getElementById("play").dispatchEvent(new Event("input"));
  const read = (row, line) =>
    [...row.querySelectorAll(`[data-line="${line}"] .play-token`)]
      .map((node) => node.textContent);
  const rows = [...document.querySelectorAll("#play-result .play-row")];
  const last = rows.at(-1);
  return {
    tokens: read(rows[0], "词元"),
    inputs: read(rows.length > 1 ? rows[1] : last, "输入"),
    decoder: rows.length > 1 ? read(last, "解码器的输入") : null,
    labels: read(last, "标签"),
    grey: rows.length > 1 ? [...last.querySelectorAll('[data-line="解码器的输入"]')]
      .map((node) => !node.classList.contains("play-ignored")) : null,
  };
}"""


def split_words(text: str) -> list[str]:
    """互动页的切词：空白或 / 隔开。"""
    return [part for part in re.split(r"[\s/]+", text) if part]


@cache
def load(name: str) -> Any:
    """起步模型的分词器，一个只载入一次。"""
    from companion.checkpoints.loading import load_tokenizer

    return load_tokenizer(name)


def shown_by_companion(key: str, text: str, seed: int) -> dict[str, Any]:
    """`companion show` 的几行，写成互动页的样子。"""
    from companion.checkpoints.loading import load_model_options
    from companion.objectives import get_objective
    from companion.plots.rows import PairRows
    from companion.show import example_rows

    goal = get_objective("masked_lm" if key == "whole_word" else key)
    options: dict[str, Any] = {}
    if key == "whole_word":
        words = split_words(text)
        text = "".join(words)
        options = {"granularity": "whole_word", "segmenter": lambda _: words}
    rows = example_rows(
        goal,
        text,
        load(goal.starter),
        seed,
        model_options=load_model_options(goal.starter, goal),
        **options,
    )
    pair = isinstance(rows, PairRows)
    return {
        "tokens": rows.tokens,
        "inputs": rows.inputs,
        "decoder": rows.decoder_inputs if pair else None,
        "labels": ["−100" if label is None else label for label in rows.labels],
        "grey": rows.decoder_visible if pair else None,
    }


def test_the_page_shows_what_companion_shows(visit: Any) -> None:
    """同样的目标、句子与种子，网页上的每一格与 companion show 逐个词元相同。

    菜单里的目标不多不少，就是逐个核对的这几个。
    """
    page = visit.open("book/play")
    offered = page.eval_on_selector_all(
        "#play-objective option", "options => options.map(each => each.value)"
    )
    assert tuple(offered) == OBJECTIVES
    for key in OBJECTIVES:
        for text in WORDS if key == "whole_word" else TEXTS:
            for seed in SEEDS:
                said = page.evaluate(_READ, [key, text, seed])
                assert said == shown_by_companion(key, text, seed), (key, text, seed)


def test_the_vectors_reach_every_level_of_blank_infilling() -> None:
    """核对用的句子与种子，三个层次的空都走到了。"""
    said = {
        token
        for text in TEXTS
        for seed in SEEDS
        for token in shown_by_companion("blank_infilling", text, seed)["inputs"]
    }
    assert {"[MASK]", "[sMASK]", "[gMASK]"} <= said


def test_the_python_of_the_page_gives_the_same_row(
    visit: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """按一下换成 Python：那几行跑得通，给出页上的同一行；GLM 的两行位置也相同。"""
    page = visit.open("book/play")
    page.locator("#play-seed").fill("7")
    page.locator("#play-language").click()
    for key in ("masked_lm", "text_infilling", "whole_word", "blank_infilling"):
        page.locator("#play-objective").select_option(key)
        script = tmp_path / f"{key}.py"
        script.write_text(page.locator("#play-command code").text_content(), "utf-8")
        row = runpy.run_path(str(script))["row"]
        cells = page.locator('#play-result [data-line="输入"] .play-token')
        assert cells.all_text_contents() == row.rows.inputs, key
    assert "[MASK]" in capsys.readouterr().out
    shown = page.locator('#play-result [data-line="位置编号"] .play-token')
    pairs = [list(map(int, each.split("，"))) for each in shown.all_text_contents()]
    assert pairs == row.batch["position_ids"][0].T.tolist()


def test_whole_words_open_with_a_sentence_that_is_cut(visit: Any) -> None:
    """例句换成切好了词的；没有切的一句是一个词，整句遮住，页上说出来。"""
    page = visit.open("book/play")
    page.locator("#play-objective").select_option("whole_word")
    text = page.locator("#play-text").input_value()
    assert len(split_words(text)) > 5
    inputs = page.locator('#play-result [data-line="输入"] .play-token')
    assert "臣" in inputs.all_text_contents()
    note = page.locator("#play-result .play-note")
    assert "没有隔开" not in note.text_content()
    page.locator("#play-text").fill("司马光曰")
    assert inputs.all_text_contents().count("[MASK]") >= 2
    assert "没有隔开" in note.text_content()
    page.locator("#play-objective").select_option("masked_lm")
    assert page.locator("#play-text").input_value() == "司马光曰"


def test_the_form_works_with_the_keyboard_alone(visit: Any) -> None:
    """只用键盘：写字、换目标、换种子，结果随之改变。"""
    page = visit.open("book/play")
    page.locator("#play-text").focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("狡兔死，走狗烹")
    page.keyboard.press("Tab")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    second = page.locator("#play-objective option").nth(1).get_attribute("value")
    assert page.locator("#play-objective").input_value() == second
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("#play-seed").input_value() == "2"
    expected = shown_by_companion(second, "狡兔死，走狗烹", 2)
    shown = page.locator('#play-result [data-line="输入"] .play-token')
    assert shown.all_text_contents() == expected["inputs"]
    command = page.locator("#play-command code").text_content()
    assert command == f"companion show {second} '狡兔死，走狗烹' --seed 2"


def test_what_cannot_be_corrupted_is_said(visit: Any) -> None:
    """空的句子、模型自己的记号、负的种子：说出原因，不画旧的结果。"""
    page = visit.open("book/play")
    for text, seed, word in (
        ("  ", "0", "至少一个字"), ("一个[MASK]", "0", "[MASK]"), ("善", "-1", "种子"),
    ):  # fmt: skip
        page.locator("#play-seed").fill("0")
        page.locator("#play-text").fill("善")
        assert page.locator("#play-result").is_visible()
        page.locator("#play-seed").fill(seed)
        page.locator("#play-text").fill(text)
        assert word in page.locator("#play-message").text_content()
        assert page.locator("#play-result").is_hidden()


def test_the_page_works_from_a_folder_without_a_server(visit: Any, html: Any) -> None:
    """离线版直接从文件夹打开，照样算得出。"""
    visit.page.goto((html / "book" / "play.html").as_uri())
    assert visit.page.locator("#play-result .play-row").count() == 1
