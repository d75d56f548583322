"""名册守信：新目标是一个整理器、名册里一项、一个测试，别的文件一个不动。"""

import json

import torch
from typer.testing import CliRunner

from companion.checkpoints.saving import save_checkpoint
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.cli import app
from companion.objectives import OBJECTIVES, Objective
from companion.objectives.attention import PADDING, additive_mask, visible_pairs
from companion.objectives.collate import Example, pad_rows


class QuarterPrefixCollator:
    """每篇开头的四分之一互相可见，其余从左到右地预测。"""

    def __init__(self, tokenizer): ...

    def examples(self, features):
        rows = [torch.as_tensor(each["input_ids"]) for each in features]
        return [self.cut(ids, torch.arange(len(ids))) for ids in rows]

    def cut(self, ids, place):
        prefix = place < max(1, len(ids) // 4)
        labels = ids.masked_fill(prefix, -100)
        return Example(input_ids=ids, labels=labels, origin=place, hidden=~prefix,
            documents=0 * place, prefix=prefix)  # fmt: skip

    def collate(self, examples):
        width = max(len(each.input_ids) for each in examples)
        blank = {"input_ids": 0, "labels": -100, "documents": PADDING, "prefix": 0}
        rows = {k: pad_rows([getattr(e, k) for e in examples], blank[k], width)
            for k in blank}  # fmt: skip
        seen = visible_pairs(rows.pop("documents"), rows.pop("prefix"))
        return {**rows, "attention_mask": additive_mask(seen)}

    def __call__(self, features):
        return self.collate(self.examples(features))


def test_a_new_objective_goes_all_the_way(tmp_path, monkeypatch):
    """从 show、check 到训练、评估、续写与报告，只凭名册里的一项。"""
    key, model, out = "prefix_quarter", tmp_path / "gpt2", tmp_path / "out"
    goal = Objective(key=key, title="四分之一前缀", family="GPT-2", paper="无",
        causal=True, auto_class="AutoModelForCausalLM",
        collator=f"{__name__}:QuarterPrefixCollator", masks=("prefix",),
        usage="complete", completion="prefix", packable=False, least_tokens=2,
        scored="考的是后四分之三。", starter="starter:glm")  # fmt: skip
    monkeypatch.setitem(OBJECTIVES, key, goal)
    save_checkpoint(tiny_model("gpt2"), tiny_tokenizer("gpt2"), model)

    def run(*words):
        found = CliRunner().invoke(app, [*map(str, words), "--json"])
        return json.loads(found.stdout)

    use = ("--objective", key, "--corpus", "sample:classical", "--model")
    [row] = run("show", key, "狡兔死，走狗烹", "--model", model)["rows"]
    assert row["label_ids"].count(-100) == len(row["label_ids"]) // 4
    assert run("check", *use, model)["ok"]
    trained = run("train", *use, model, "--output", out, "--max-steps", 2, "--quiet")
    assert goal.scored in (out / "report.html").read_text(encoding="utf-8")
    scores = run("evaluate", *use, out)["num_targets"]
    assert scores == trained["after"]["domain"]["num_targets"]
    assert run("complete", "狡兔死，", "--model", out / "model")["objective"] == key
