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
    assert run("show", "masked_lm", "狡兔死，走狗烹", *options).exit_code == 0
    refused = run("show", "masked_lm", "狡兔死", "--set", "span_boundary=true")
    assert refused.exit_code == 1
    assert "granularity=span" in refused.stderr
    assert "span_boundary" in run("objectives").stdout
