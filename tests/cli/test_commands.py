"""每个命令做对了它的事：结果的键、写下的文件、传给下一层的参数。"""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from companion.cli.measuring import checkpoint_folder, guess_objective
from companion.cli.training import before_after_table
from companion.errors import ConfigError


def _json(result: Any) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


# ── 名册与样本 ──────────────────────────────────────────────────────────


def test_objectives_lists_the_whole_registry(run: Callable[..., Any]) -> None:
    """名册里的每个目标都在，表与 JSON 一样全。"""
    from companion.objectives import OBJECTIVES

    listed = _json(run("objectives", "--json"))["objectives"]
    assert [each["key"] for each in listed] == list(OBJECTIVES)
    shown = run("objectives").stdout
    assert all(goal.title in shown for goal in OBJECTIVES.values())


def test_show_prints_tokens_inputs_labels(
    run: Callable[..., Any], checkpoints: Path
) -> None:
    """表里有词元、输入、标签三列；被遮的词元在标签列里。"""
    words = ("show", "masked_lm", "狡兔死，走狗烹", "--mlm-probability", 0.5)
    result = run(*words, "--model", checkpoints / "bert")
    assert result.exit_code == 0
    for word in ("词元", "输入", "标签", "[MASK]", "−100", "掩码语言建模"):
        assert word in result.stdout


def test_show_json_is_what_the_collator_gave(
    run: Callable[..., Any], checkpoints: Path
) -> None:
    """JSON 里有编号与文字；种子相同则样本相同，轮次不同则噪声不同。"""
    words = ("show", "masked_lm", "狡兔死，走狗烹；飞鸟尽，良弓藏。", "--json",
             "--mlm-probability", 0.4, "--model", checkpoints / "bert")  # fmt: skip
    first = _json(run(*words, "--seed", 3))
    assert first == _json(run(*words, "--seed", 3))
    row = first["rows"][0]
    targets = [at for at, label in enumerate(row["label_ids"]) if label != -100]
    assert [row["labels"][at] for at in targets] == [
        row["tokens"][at] for at in targets
    ]
    again = _json(run(*words, "--seed", 3, "--epoch", 1))["rows"][0]
    assert again["tokens"] == row["tokens"]
    assert again["label_ids"] != row["label_ids"]


def test_show_gives_each_text_its_own_row_unless_packed(
    run: Callable[..., Any], checkpoints: Path
) -> None:
    """几段文字各成一行；`--packed` 时打包成一行，并给出谁看得见谁。"""
    words = ("show", "causal_lm", "狡兔死", "走狗烹", "--model", checkpoints / "bloom")
    apart = _json(run(*words, "--json"))
    assert len(apart["rows"]) == 2
    assert "attention" not in apart["rows"][0]
    packed = _json(run(*words, "--packed", "--json"))
    (row,) = packed["rows"]
    documents, seen = row["document"], row["attention"]
    assert set(documents) == {0, 1}
    for i, j in ((i, j) for i in range(len(seen)) for j in range(len(seen))):
        assert seen[i][j] == (documents[i] == documents[j] and j <= i)
    assert "谁看得见谁" in run(*words, "--packed").stdout


def test_show_draws_figures_and_never_overwrites_them(
    run: Callable[..., Any], checkpoints: Path, tmp_path: Path
) -> None:
    """`--png` 存下标签图与注意力图；再来一次就拒绝，图原样不动。"""
    picture = tmp_path / "图.png"
    words = ("show", "causal_lm", "狡兔死", "走狗烹", "--packed", "--png", picture,
             "--model", checkpoints / "bloom", "--json")  # fmt: skip
    files = [Path(path) for path in _json(run(*words))["files"]]
    assert files == [picture, tmp_path / "图-attention.png"]
    before = [path.read_bytes() for path in files]
    assert all(content.startswith(b"\x89PNG") for content in before)
    assert run(*words).exit_code == 1
    assert [path.read_bytes() for path in files] == before


# ── 语料 ────────────────────────────────────────────────────────────────


def test_corpus_list_tells_the_licence(run: Callable[..., Any]) -> None:
    """每个名字都带许可；随包的样本总在本机，没取得的不在。"""
    listed = {
        each["name"]: each for each in _json(run("corpus", "list", "--json"))["sources"]
    }
    assert listed["sample"]["available"] is True
    assert listed["tongjian"]["available"] is False
    assert "CC0" in listed["sample"]["licence"]
    assert "权利" in run("corpus", "list").stdout


def test_corpus_stats_counts_documents(run: Callable[..., Any], corpus: Path) -> None:
    """四篇短文数出四篇。"""
    found = _json(run("corpus", "stats", corpus, "--json"))
    assert (found["documents"], found["pairs"]) == (4, 0)
    assert "篇数" in run("corpus", "stats", corpus).stdout


def test_corpus_clean_writes_and_accounts(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    """洗掉 HTML、去掉重复，账目说得清；标点不动；不覆盖旧文件，除非 --overwrite。"""
    dirty, output = tmp_path / "脏.txt", tmp_path / "净.jsonl"
    dirty.write_text(
        "<p>狡兔死，走狗烹。</p>\n\n狡兔死，走狗烹。\n\n良弓藏。\n", "utf-8"
    )
    words = ("corpus", "clean", dirty, "--output", output, "--json")
    found = _json(run(*words))
    assert found["documents"] == 2
    assert found["cleaning"]["rules"]["html"]["changed"] == 1
    assert found["deduplication"]["dropped"] == {"exact": 1, "near": 0}
    lines = output.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == [
        "狡兔死，走狗烹。",
        "良弓藏。",
    ]
    assert run(*words).exit_code == 1
    assert _json(run(*words, "--overwrite", "--no-dedup"))["documents"] == 3


def test_corpus_split_writes_both_or_neither(
    run: Callable[..., Any], corpus: Path, tmp_path: Path
) -> None:
    """切成两份，合起来就是原文；已有其一就一份也不写。"""
    words = ("corpus", "split", corpus, "--valid-ratio", 0.3, "--json", "--output")
    found = _json(run(*words, tmp_path / "甲"))
    sizes = [found[name]["documents"] for name in ("train", "valid")]
    assert sum(sizes) == 4
    assert all(sizes)
    assert found["overlap"]["exact"] == 0
    written = sorted(path.name for path in (tmp_path / "甲").iterdir())
    assert written == ["train.jsonl", "valid.jsonl"]
    (tmp_path / "乙").mkdir()
    (tmp_path / "乙" / "valid.jsonl").write_text("旧", encoding="utf-8")
    assert run(*words, tmp_path / "乙").exit_code == 1
    assert [path.name for path in (tmp_path / "乙").iterdir()] == ["valid.jsonl"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_corpus_fetch_says_what_the_user_must_know(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """取得的结果原样交出（含许可），来处与 --force 传给取得的函数。"""
    import companion.corpus

    asked: dict[str, Any] = {}

    def fetch(name: str, **options: Any) -> Any:
        asked.update(name=name, **options)
        report = SimpleNamespace(
            as_dict=lambda: {"name": name, "licence": "权利未澄清"}
        )
        return report

    monkeypatch.setattr(companion.corpus, "fetch", fetch, raising=False)
    found = _json(
        run("corpus", "fetch", "tongjian", "--url", "某处", "--force", "--json")
    )
    assert found["licence"] == "权利未澄清"
    assert (asked["name"], asked["url"], asked["force"]) == ("tongjian", "某处", True)


# ── 体检、评估、对照 ────────────────────────────────────────────────────


def test_check_reports_findings(run: Callable[..., Any], checkpoints: Path) -> None:
    """体检合格的检查点：ok 为真，每条发现都有级别、代号与说法。"""
    words = ("check", "--model", checkpoints / "bert", "--objective", "masked_lm")
    found = _json(run(*words, "--json"))
    assert found["ok"] is True
    keys = {"severity", "code", "message", "cause", "remedy"}
    assert all(set(each) == keys for each in found["findings"])
    assert "可以训练" in run(*words).stdout


def test_check_measures_the_corpus_the_rows_and_the_precision(
    run: Callable[..., Any], checkpoints: Path, corpus: Path
) -> None:
    """--corpus 量出语料里认不得的字，--block-size 与 --precision 照给的查。"""
    words = ("check", "--model", checkpoints / "bert", "--objective", "masked_lm",
             "--corpus", corpus, "--block-size", 999, "--precision", "bf16",
             "--json")  # fmt: skip
    result = run(*words)
    assert result.exit_code == 1
    found = {each["code"]: each for each in json.loads(result.stdout)["findings"]}
    assert found["unknown"]["severity"] != "ok"
    assert found["block_size"]["severity"] == "error"
    assert found["precision"]["message"] == "以 bf16 计算"


def test_check_exits_1_on_an_error_and_still_prints_the_findings(
    run: Callable[..., Any], checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """有一条是错误：ok 为假，退出码 1，结果照样打印。"""
    import companion.preflight
    from companion.preflight.findings import Finding

    bad = Finding("error", "x", "漏", "没有隔开", "不打包")
    monkeypatch.setattr(
        companion.preflight, "check_checkpoint", lambda *_, **__: [bad], raising=False
    )
    words = ("check", "--model", checkpoints / "bert", "--objective", "masked_lm")
    result = run(*words, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["ok"] is False
    assert "不能训练" in run(*words).stdout


@pytest.mark.parametrize(
    ("kind", "objective"), [("bert", "masked_lm"), ("bloom", "causal_lm")]
)
def test_evaluate_gives_the_documented_keys(
    kind: str, objective: str, run: Callable[..., Any], checkpoints: Path, corpus: Path
) -> None:
    """JSON 是一个 E：六个约定的键；随机权重的比特数在乱猜附近，两次相同。"""
    words = ("evaluate", "--model", checkpoints / kind, "--objective", objective,
             "--corpus", corpus)  # fmt: skip
    found = _json(run(*words, "--json"))
    keys = {"bits_per_char", "loss_nats_per_token", "accuracy", "unk_rate", "num_chars",
            "num_targets"}  # fmt: skip
    assert keys <= set(found)
    assert 3 < found["bits_per_char"] < 40
    assert found == _json(run(*words, "--json"))
    assert "每字比特数" in run(*words).stdout


def test_evaluate_reads_the_held_out_split_of_a_named_corpus(
    run: Callable[..., Any], checkpoints: Path
) -> None:
    """有名字的语料缺省考留出集；--split train 考的是另一份文字。"""
    words = ("evaluate", "--model", checkpoints / "bert", "--objective", "masked_lm",
             "--corpus", "sample:classical", "--max-chars", 600, "--json")  # fmt: skip
    valid, same = _json(run(*words)), _json(run(*words, "--split", "valid"))
    assert valid == same
    assert valid != _json(run(*words, "--split", "train"))


def test_a_run_folder_stands_for_the_model_inside(
    checkpoints: Path, tmp_path: Path
) -> None:
    """给出 train 的输出文件夹，用的是其中的 model/；别的名字照旧。"""
    (tmp_path / "run" / "model").mkdir(parents=True)
    inside = str(tmp_path / "run" / "model")
    assert checkpoint_folder(str(tmp_path / "run")) == inside
    for name in ("starter:bert", "SIKU-BERT/sikubert", str(checkpoints / "bert")):
        assert checkpoint_folder(name) == name


def test_the_objective_is_guessed_from_the_architecture(
    checkpoints: Path, tmp_path: Path
) -> None:
    """掩码、因果各认得出；认不出就请用户写明。"""
    assert guess_objective(str(checkpoints / "bert")) == "masked_lm"
    assert guess_objective(str(checkpoints / "bloom")) == "causal_lm"
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}', "utf-8")
    with pytest.raises(ConfigError, match="--objective"):
        guess_objective(str(tmp_path))


def test_compare_gives_a_report_card(
    run: Callable[..., Any], checkpoints: Path, corpus: Path, tmp_path: Path
) -> None:
    """报告卡：领域的前后两次评估；写下的报告从不覆盖。"""
    bert, output = checkpoints / "bert", tmp_path / "卡"
    words = ("compare", bert, bert, "--corpus", corpus, "--output", output, "--json")
    found = _json(run(*words))
    domain = found["before"]["domain"], found["after"]["domain"]
    assert domain[0]["bits_per_char"] == domain[1]["bits_per_char"]
    assert "general" not in found["after"]
    assert (output / "report.html").is_file()
    result = run(*words)
    assert result.exit_code == 1
    assert "report.html" in result.stderr


def test_the_ruler_stands_beside_the_scores(
    run: Callable[..., Any], checkpoints: Path, corpus: Path, tmp_path: Path
) -> None:
    """`--ruler` 数一份文字：evaluate 的 JSON 与表、compare 的报告里都有它的刻度。"""
    words = ("--corpus", corpus, "--objective", "masked_lm", "--ruler", corpus)
    model = checkpoints / "bert"
    found = _json(run("evaluate", "--model", model, *words, "--json"))
    assert list(found["ruler"]) == ["uniform", "unigram", "bigram", "trigram"]
    assert "尺子：三元" in run("evaluate", "--model", model, *words).stdout
    output = tmp_path / "卡"
    run("compare", model, model, *words, "--output", output)
    report = (output / "report.md").read_text("utf-8")
    assert f"| 三元 | {found['ruler']['trigram']:.3f} |" in report


# ── 推理 ────────────────────────────────────────────────────────────────


def test_fill_gives_candidates_for_each_mask(
    run: Callable[..., Any], checkpoints: Path
) -> None:
    """两个空各三个候选，概率由高到低；文字里的方括号不当作样式。"""
    words = ("fill", "狡兔[MASK]，走狗[MASK]", "--top-k", 3, "--model",
             checkpoints / "bert")  # fmt: skip
    masks = _json(run(*words, "--json"))["masks"]
    assert [len(candidates) for candidates in masks] == [3, 3]
    for candidates in masks:
        scores = [each["score"] for each in candidates]
        assert scores == sorted(scores, reverse=True)
    assert "[MASK]" in run(*words).stdout


def test_complete_continues_the_text_and_depends_on_the_seed_only(
    run: Callable[..., Any], checkpoints: Path
) -> None:
    """续写以开头起头；抽样时种子相同则结果相同，份数如所求。"""
    words = ("complete", "狡兔死", "--model", checkpoints / "bloom", "--json",
             "--max-new-tokens", 8)  # fmt: skip
    (greedy,) = _json(run(*words))["completions"]
    assert greedy["text"].startswith("狡兔死")
    sampled = (*words, "--sample", "--num-return", 3, "--seed", 7)
    first = _json(run(*sampled))["completions"]
    assert len(first) == 3
    assert first == _json(run(*sampled))["completions"]


# ── 训练 ────────────────────────────────────────────────────────────────


def test_train_hands_over_flags_settings_and_file(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """文件打底，选项与 --set 盖在上面；训练得到的正是合起来的设置。"""
    import companion.training

    seen: dict[str, Any] = {}

    def train(config: Any, *, resume: bool, console: Any, quiet: bool) -> Any:
        seen.update(config=config, resume=resume, quiet=quiet)
        metrics = {"objective": config.objective, "seed": config.seed}
        return SimpleNamespace(metrics=metrics, output=tmp_path / "输出")

    monkeypatch.setattr(companion.training, "train", train, raising=False)
    file = tmp_path / "设置.yaml"
    file.write_text("objective: causal_lm\nmodel: 文件里的\nseed: 1\nblock_size: 64\n")
    found = _json(
        run(
            "train",
            "--config",
            file,
            "--model",
            "选项的",
            "--corpus",
            "c",
            "--output",
            tmp_path / "输出",
            "--set",
            "seed=5",
            "--set",
            "learning_rate=1e-4",
            "--replay",
            "通用.txt",
            "--replay-ratio",
            0.2,
            "--quiet",
            "--json",
        )
    )
    assert found == {"objective": "causal_lm", "seed": 5}
    config = seen["config"]
    assert (config.model, config.block_size) == ("选项的", 64)
    assert (config.learning_rate, config.replay_ratio) == (1e-4, 0.2)
    assert (seen["resume"], seen["quiet"]) == (False, True)


def test_train_runs_and_resume_needs_only_the_output(
    run: Callable[..., Any], checkpoints: Path, corpus: Path, tmp_path: Path
) -> None:
    """真的训练两步：JSON 是 metrics.json；走完之后再 --resume，消息说已经走完。"""
    output = tmp_path / "输出"
    result = run(
        "train", "--objective", "masked_lm", "--model", checkpoints / "bert",
        "--corpus", corpus, "--output", output, "--max-steps", 2, "--set", "eval=false",
        "--json",
    )  # fmt: skip
    found = _json(result)
    assert found == json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    assert found["steps"] == 2
    assert "词元账本" in result.stderr
    assert (output / "model" / "config.json").is_file()
    again = run("train", "--resume", "--output", output)
    assert again.exit_code == 1
    assert "走完" in again.stderr


def test_demo_passes_the_objective_and_the_output(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """演示只是一次调用：目标与输出文件夹原样传下去，结果是 metrics。"""
    from companion.training import run as training

    def run_demo(objective: str, output: Path, **_options: Any) -> Any:
        return SimpleNamespace(
            metrics={"objective": objective, "output": str(output)}, output=output
        )

    monkeypatch.setattr(training, "run_demo", run_demo)
    words = ("demo", "--objective", "causal_lm", "--output", tmp_path / "演示")
    assert _json(run(*words, "--json")) == {
        "objective": "causal_lm",
        "output": str(tmp_path / "演示"),
    }


def test_the_summary_shows_gain_and_forgetting_side_by_side() -> None:
    """领域与通用各一行；降了是负号，升了是正号；没有通用就没有那一行。"""
    from rich.console import Console

    def scores(bits: float) -> dict[str, float]:
        return {"bits_per_char": bits, "accuracy": 0.25}

    before = {"domain": scores(8.0), "general": scores(6.0)}
    after = {"domain": scores(6.0), "general": scores(6.3)}
    console = Console(width=100, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(before_after_table(before, after))
        console.print(before_after_table({"domain": scores(8.0)}, after))
    text = captured.get()
    assert "−25.0%" in text
    assert "+5.0%" in text
    assert text.count("通用") == 1


@pytest.mark.parametrize(
    "words",
    [
        ("corpus", "stats", ""),
        ("corpus", "clean", " ", "--output", "净.jsonl"),
        ("corpus", "split", "", "--output", "分"),
        ("evaluate", "--model", "m", "--objective", "masked_lm", "--corpus", ""),
    ],
)
def test_an_empty_corpus_is_never_the_current_folder(
    words: tuple[str, ...],
    run: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """语料的名字是空的（多半是变量没有赋值），不论哪个命令都拒绝，不读当前文件夹。"""
    (tmp_path / "别的.txt").write_text("天子之职。", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert result.exit_code == 1
    assert "语料的名字是空的" in result.stderr


def test_bad_bytes_are_replaced_and_counted(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    """坏了两个字节的旧小说：缺省拒绝，--errors replace 换成“□”并说换了几处。"""
    line = "清晨下了一场雨，院里的水缸满了。\r\n".encode("gb18030")
    path, output = tmp_path / "小说.txt", tmp_path / "净.jsonl"
    path.write_bytes(line * 20 + b"\x80\xff" + line * 20)
    words = ("corpus", "clean", path, "--output", output)
    assert "--errors replace" in run(*words).stderr
    found = _json(run(*words, "--errors", "replace", "--json"))
    text = output.read_text(encoding="utf-8")
    assert found["lost_characters"] == text.count("□") > 0


def test_merge_writes_a_checkpoint_that_opens(
    run: Callable[..., Any], checkpoints: Path, tmp_path: Path
) -> None:
    """`merge` 说出变了多少；自己与自己合并一处也不变，写成的照样能体检。"""
    bert = checkpoints / "bert"
    result = run(
        "merge", "--base", bert, "--tuned", bert, "--ratio", "0.5",
        "--output", tmp_path / "合并", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["changed"] == 0 < found["tensors"]
    opened = run("check", "--model", tmp_path / "合并", "--objective", "masked_lm")
    assert opened.exit_code == 0, opened.stderr


def test_export_writes_a_file_that_trains_again(
    run: Callable[..., Any], corpus: Path, tmp_path: Path
) -> None:
    """`export --to gguf` 写出的拿来接着训练；`merged` 是标准的检查点。"""
    pytest.importorskip("gguf")
    from companion.checkpoints import save_checkpoint, tiny_model, tiny_tokenizer

    tokenizer = tiny_tokenizer("gpt2")
    save_checkpoint(tiny_model("llama", tokenizer), tokenizer, tmp_path / "llama")
    for to, output in (("merged", "merged"), ("gguf", "model.gguf")):
        words = ("--model", tmp_path / "llama", "--to", to)
        result = run("export", *words, "--output", tmp_path / output, "--json")
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["output"] == str(tmp_path / output)
    result = run(
        "train", "--objective", "causal_lm", "--model", tmp_path / "model.gguf",
        "--corpus", corpus, "--output", tmp_path / "输出", "--max-steps", "1",
        "--set", "eval=false", "--quiet",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "输出/model/model.safetensors").is_file()
