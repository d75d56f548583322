"""`complete` 与 `infill` 用于前缀模型：照检查点记下的目标读写，也可写明。"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TEXT = "狡兔死，走狗烹"
BLANKS = "狡兔死，[MASK]烹；[sMASK]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """一个文件夹，里面有随机权重的检查点；gpt2 与 bert 旁边记着训练目标。"""
    from companion.checkpoints.saving import save_checkpoint
    from companion.checkpoints.tiny import tiny_model, tiny_tokenizer

    folder = tmp_path_factory.mktemp("runs")
    for kind, objective in (
        ("gpt2", "prefix_lm"),
        ("bert", "unified_lm"),
        ("glm_two_row", None),
    ):
        tokenizer = tiny_tokenizer(kind)
        save_checkpoint(tiny_model(kind, tokenizer), tokenizer, folder / kind / "model")
        if objective is not None:
            record = f"objective: {objective}\n"
            (folder / kind / "config.yaml").write_text(record, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("kind", "objective"),
    [("gpt2", "prefix_lm"), ("bert", "unified_lm"), ("glm_two_row", "blank_infilling")],
)
def test_complete_reads_as_the_checkpoint_was_trained(
    kind: str, objective: str, run: Callable[..., Any], folder: Path
) -> None:
    """不写目标也知道：与 `companion.complete` 写明目标的一字不差。"""
    from companion import complete, load_checkpoint

    model = str(folder / kind / "model")
    result = run(
        "complete", TEXT, "--model", model, "--max-new-tokens", 5, "--num-beams", 2,
        "--num-return", 2, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["objective"] == objective
    expected = complete(
        load_checkpoint(model, objective), TEXT, 5, objective=objective,
        num_beams=2, num_return_sequences=2,
    )  # fmt: skip
    assert [c["text"] for c in found["completions"]] == [e.text for e in expected]


def test_the_objective_can_be_said(run: Callable[..., Any], folder: Path) -> None:
    """--objective 压过记下的：同一个检查点，只看左边与双向地读，写法不同。"""
    words = ("complete", TEXT, "--model", folder / "gpt2" / "model", "--json")
    prefix, causal = (
        json.loads(run(*words, "--objective", goal).stdout)
        for goal in ("prefix_lm", "causal_lm")
    )
    assert prefix["objective"] == "prefix_lm"
    assert causal["objective"] == "causal_lm"


def test_infill_fills_the_blanks_of_glm(run: Callable[..., Any], folder: Path) -> None:
    """几个空、两种空；抽样由种子定；与 `companion.infill` 一字不差。"""
    from companion import infill, load_checkpoint

    model = str(folder / "glm_two_row" / "model")
    words = ("infill", BLANKS, "--model", model, "--max-new-tokens", 4, "--json")
    found = json.loads(run(*words).stdout)
    expected = infill(load_checkpoint(model, "blank_infilling"), BLANKS, 4)
    assert (found["filled"], found["fills"]) == (expected.text, expected.fills)
    assert found["objective"] == "blank_infilling"
    sampled = [
        json.loads(run(*words, "--sample", "--seed", seed).stdout)["filled"]
        for seed in (0, 0, 1)
    ]
    assert sampled[0] == sampled[1] != sampled[2]


def test_the_help_names_the_three_blanks(run: Callable[..., Any]) -> None:
    """方括号里的名字原样印出，没有被当成排版的标记吃掉。"""
    shown = run("infill", "--help").stdout
    for blank in ("[MASK]", "[sMASK]", "[gMASK]"):
        assert blank in shown
    assert "\\" not in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("infill", "没有空", "--model", "glm_two_row"), "文字里没有空"),
        (("infill", BLANKS, "--model", "gpt2"), "编码器–解码器"),
        (("infill", BLANKS, "--model", "gpt2", "--objective", "blank_infilling"),
         "没有 [MASK]"),
        (("complete", "", "--model", "glm_two_row"), "开头是空的"),
        (("complete", TEXT, "--model", "gpt2", "--objective", "unified_lm"), "解码器"),
        (("complete", TEXT, "--model", "bert", "--objective", "masked_lm"),
         "不会续写"),
        (("complete", TEXT, "--model", "bert", "--objective", "prefx_lm"),
         "是不是想写 prefix_lm"),
        (("complete", TEXT, "--model", "bert", "--num-beams", "2", "--sample"),
         "二者取一"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_one_message(
    words: tuple[str, ...], said: str, run: Callable[..., Any], folder: Path
) -> None:
    """退出码 1，一条消息，标准输出是空的。"""
    at = words.index("--model") + 1
    named = [*words[:at], folder / words[at] / "model", *words[at + 1 :]]
    result = run(*named)
    assert result.exit_code == 1
    assert said in result.stderr.replace("\n", "")
    assert result.stdout == ""
