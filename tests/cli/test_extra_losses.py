"""命令行里的另一份损失：训练一次，看一个样本。"""

import json


def test_span_boundaries_from_the_command_line(run, checkpoints, corpus, tmp_path):
    """`--set span_boundary=true`：训练走完，日志多一份；`show` 收下它，名册列出它。"""
    output = tmp_path / "out"
    done = run(
        "train", "--objective", "masked_lm", "--model", checkpoints / "bert",
        "--corpus", corpus, "--valid", corpus, "--output", output, "--max-steps", 2,
        "--set", "preset=spanbert", "--set", "span_boundary=true",
        "--set", "eval=false", "--set", "logging_steps=1", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "片段边界：边界头" in done.stderr
    lines = (output / "log.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert all(row["boundary_loss"] > 0 for row in rows)
    options = ("--set", "granularity=span", "--set", "span_boundary=true")
    shown = run("show", "masked_lm", "狡兔死，走狗烹；飞鸟尽，良弓藏。", *options)
    assert "个由第" in shown.stdout
    assert "去猜" in shown.stdout
    refused = run("show", "masked_lm", "狡兔死", "--set", "span_boundary=true")
    assert refused.exit_code == 1
    assert "granularity=span" in refused.stderr
    assert "span_boundary" in run("objectives").stdout


def test_a_teacher_from_the_command_line(run, checkpoints, corpus, tmp_path):
    """`--set teacher=…`：训练走完，日志多两份，前后照常评估；`show` 用不着它。"""
    output = tmp_path / "out"
    done = run(
        "train", "--objective", "masked_lm", "--model", checkpoints / "bert",
        "--corpus", corpus, "--valid", corpus, "--output", output, "--max-steps", 2,
        "--set", f"teacher={checkpoints / 'bert'}", "--set", "logging_steps=1",
        "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "蒸馏：教师" in done.stderr
    lines = (output / "log.jsonl").read_text().splitlines()
    for row in map(json.loads, lines):
        assert {"teacher_loss", "teacher_accuracy", "hidden_loss"} <= row.keys()
    assert {"before", "after"} <= json.loads(done.stdout).keys()
    assert "teacher" in run("objectives").stdout
    assert run("show", "masked_lm", "狡兔死", "--set", "teacher=x").exit_code == 1


def test_a_teacher_is_part_of_the_check(run, checkpoints):
    """`check --teacher`：多一条结果；词表不同的、别的目标的，按名拒绝。"""
    bert = ("check", "--model", checkpoints / "bert", "--objective", "masked_lm")
    done = run(*bert, "--teacher", checkpoints / "bert", "--json")
    codes = {each["code"] for each in json.loads(done.stdout)["findings"]}
    assert {"teacher", "memory"} <= codes
    refused = run(*bert, "--teacher", "starter:bert")
    assert refused.exit_code == 1
    assert "同一个词表" in refused.stderr
    other = run(
        "check", "--model", "starter:bloom", "--objective", "causal_lm",
        "--teacher", "starter:bert",
    )  # fmt: skip
    assert other.exit_code == 1
    assert "只有它向教师学" in other.stderr
