"""第 12 章的每一条命令都照抄着运行：一部 GB18030 的小书，从原始文件到报告卡。"""

import io
import re
import shlex
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

CHAPTER = Path(__file__).resolve().parents[2] / "book" / "12_your_corpus.md"
BLOCK = re.compile(r"^```(python|bash|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    """章里名叫 `title` 的一节。"""
    text = CHAPTER.read_text(encoding="utf-8")
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def blocks(text: str) -> list[tuple[str, str]]:
    """依次的代码块：语言与内容。"""
    return [(kind, body) for kind, body in BLOCK.findall(text)]


def commands(body: str) -> list[list[str]]:
    """一块终端命令里的各条，去掉开头的 companion。"""
    words = [shlex.split(line) for line in body.splitlines() if line.strip()]
    assert all(each[0] == "companion" for each in words)
    return [each[1:] for each in words]


def test_the_whole_way_runs_as_it_is_printed(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """造一部 GB18030 的小书，逐条运行到“换成真的”之前；印出的与书里的逐行相同。"""
    monkeypatch.chdir(tmp_path)
    said, ran = "", []
    for kind, body in blocks(section("从头到尾").split("**换成真的**")[0]):
        if kind == "python":
            exec(body, {})
            with pytest.raises(UnicodeDecodeError):
                (tmp_path / "我的小说.txt").read_text(encoding="utf-8")
        elif kind == "bash":
            said = ""
            for words in commands(body):
                done = run(*words)
                assert done.exit_code == 0, (words, done.stderr, done.exception)
                said += done.stdout
                ran.append(words[0] if words[0] != "corpus" else words[1])
        else:
            missing = [line for line in body.splitlines() if line not in said]
            assert not missing, (missing, said)
    assert ran == [
        "stats",
        "chapters",
        "stats",
        "clean",
        "split",
        "check",
        "show",
        "train",
        "compare",
        "fill",
    ]
    card = (tmp_path / "对照" / "report.md").read_text(encoding="utf-8")
    assert "领域" in card
    assert "通用" in card
    assert (tmp_path / "试跑" / "metrics.json").is_file()


def test_the_real_runs_of_the_chapter_are_valid_settings(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """“换成真的”里的命令不下载也不训练，设置却照样收得下。"""
    import companion.training

    seen: list[Any] = []

    def remember(config: Any, **_: Any) -> Any:
        seen.append(config)
        return SimpleNamespace(metrics={}, output=config.output)

    monkeypatch.setattr(companion.training, "train", remember)
    for kind, body in blocks(section("从头到尾").split("**换成真的**")[1]):
        assert kind == "bash"
        for words in commands(body):
            assert run(*words).exit_code == 0, words
    assert [each.objective for each in seen] == ["masked_lm", "causal_lm"]
    assert all(each.replay_ratio == 0.25 and each.max_steps == -1 for each in seen)
    assert seen[1].gradient_checkpointing


def test_the_worked_example_of_the_cost_is_right() -> None:
    """算费用的一段照抄着运行，印出的与书里的相同；式子与它算的是同一件事。"""
    text = section("公式：要花多少")
    (_, code), (_, shown) = blocks(text)
    space: dict[str, Any] = {}
    with redirect_stdout(io.StringIO()) as said:
        exec(code, space)
    assert said.getvalue() == shown
    own = space["characters"] * space["tokens_per_char"] * space["epochs"]
    assert space["tokens"] * (1 - space["replay"]) == pytest.approx(own)


def test_the_numbers_of_the_exercises_are_right() -> None:
    """练习里的三个数，照式子再算一遍。"""
    text = section("练习")
    tokens = 3_000_000 * 0.8 * 2 / 0.75
    assert f"{tokens:,.0f}".replace(",", r"\,") in text
    assert f"{tokens / 5000:.0f}$ 秒" in text
    assert f"{16 * 1.5e9 / 2**30:.1f}$ GB" in text
    assert f"{4 * 1.5e9 / 2**30:.1f} GB" in text


def test_the_models_of_the_tables_are_written_alike() -> None:
    """决策的表里，每个检查点都是“组织/名字”，目标都在名册里。"""
    from companion.objectives import OBJECTIVES

    rows = re.findall(r"^\| .*`.*\|$", section("直觉：一棵决策树"), re.MULTILINE)
    assert len(rows) == 4
    for row in rows:
        goals, *models = (cell.strip() for cell in row.strip("|").split("|"))
        assert set(re.findall(r"`(\w+)`", goals)) <= set(OBJECTIVES), row
        assert all(re.fullmatch(r"`[\w-]+/[\w.-]+`", each) for each in models), row
