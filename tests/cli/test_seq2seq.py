"""编码器–解码器的命令：`infill` 填补，`check` 体检，`compare` 猜得出目标。"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from companion.cli.measuring import guess_objective

TEXT = "狡兔死，[MASK]烹；飞鸟尽，[MASK]藏。"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """一个文件夹，里面有随机权重的检查点 t5、mt5、bart、pegasus。"""
    from companion.checkpoints.saving import save_checkpoint
    from companion.checkpoints.tiny import tiny_model, tiny_tokenizer

    folder = tmp_path_factory.mktemp("checkpoints")
    for kind in ("t5", "mt5", "bart", "pegasus"):
        tokenizer = tiny_tokenizer(kind)
        save_checkpoint(tiny_model(kind, tokenizer), tokenizer, folder / kind)
    return folder


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_infill_gives_the_whole_text_and_each_fill(
    kind: str, run: Callable[..., Any], pairs: Path
) -> None:
    """JSON 里有全文、各处写的、写完没有；否则只打印全文，没写完的另行提醒。"""
    words = ("infill", TEXT, "--model", pairs / kind, "--max-new-tokens", 4)
    result = run(*words, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert set(found) == {
        "model", "objective", "text", "filled", "fills", "finished"
    }  # fmt: skip
    one, two = found["fills"]
    assert found["filled"] == f"狡兔死，{one}烹；飞鸟尽，{two}藏。"
    assert found["text"] == TEXT
    plain = run(*words)
    assert plain.stdout == found["filled"] + "\n"
    assert plain.stderr.count("还没有写完") == found["finished"].count(False)


def test_infill_is_what_the_function_gives(
    run: Callable[..., Any], pairs: Path
) -> None:
    """与 `companion.infill` 一字不差。"""
    from companion import infill, load_checkpoint

    checkpoint = load_checkpoint(str(pairs / "t5"), "span_corruption")
    expected = infill(checkpoint, TEXT)
    found = json.loads(run("infill", TEXT, "--model", pairs / "t5", "--json").stdout)
    assert (found["filled"], found["fills"]) == (expected.text, expected.fills)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("没有缺处",), "[MASK]"),
        ((TEXT, "--max-new-tokens", "0"), "max_new_tokens"),
        (("良[MASK]藏" * 11,), "至多写 10 处"),
    ],
)
def test_what_cannot_be_filled_is_one_message(
    words: tuple[str, ...], said: str, run: Callable[..., Any], pairs: Path
) -> None:
    """退出码 1，一条消息，标准输出是空的。"""
    result = run("infill", *words, "--model", pairs / "t5")
    assert result.exit_code == 1
    assert said in result.stderr
    assert result.stdout == ""


def test_an_encoder_is_refused_with_another_way(
    run: Callable[..., Any], checkpoints: Path
) -> None:
    """BERT 不能填补：说出它是什么，该换什么。"""
    result = run("infill", TEXT, "--model", checkpoints / "bert")
    assert result.exit_code == 1
    assert "编码器–解码器" in result.stderr
    assert "starter:t5" in result.stderr


def test_check_reads_the_objective_s_own_batches(
    run: Callable[..., Any], pairs: Path
) -> None:
    """BART 用于文本填补：可以训练；用于片段破坏：没有哨兵，退出码 1。"""
    words = ("check", "--model", pairs / "bart", "--json", "--objective")
    good = run(*words, "text_infilling")
    assert good.exit_code == 0, good.stderr
    assert json.loads(good.stdout)["ok"]
    bad = run(*words, "span_corruption")
    assert bad.exit_code == 1
    codes = {
        each["code"]: each["severity"] for each in json.loads(bad.stdout)["findings"]
    }
    assert codes["needed_tokens"] == "error"


def test_a_text_with_a_sentinel_is_refused_before_the_first_step(
    run: Callable[..., Any], pairs: Path, tmp_path: Path
) -> None:
    """mT5 的正文里会切出哨兵：说出哪一篇、第几个词元，不留输出文件夹。"""
    corpus = tmp_path / "corpus.txt"
    lines = ["天下之势分久必合" * 3, "合久 <extra_id_3> 必分", "民为邦本本固邦宁" * 3]
    corpus.write_text("\n\n".join(lines), "utf-8")
    result = run(
        "train", "--objective", "span_corruption", "--model", pairs / "mt5",
        "--set", "block_size=64",
        "--corpus", corpus, "--valid", corpus, "--output", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 1
    assert "corpus#2 的正文里已有 ▁<extra_id_3>（第 4 个词元）" in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_objective_of_an_encoder_decoder_is_guessed(pairs: Path) -> None:
    """各家猜成自己预训练时的目标。"""
    guesses = {
        kind: guess_objective(str(pairs / kind)) for kind in ("t5", "bart", "pegasus")
    }
    assert guesses == {
        "t5": "span_corruption",
        "bart": "text_infilling",
        "pegasus": "gap_sentences",
    }
