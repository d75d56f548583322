"""一次训练，从设置到报告：结果齐全、能原样打开、能原样重跑，坏输入不留痕迹。"""

import dataclasses
import json
import shutil
from io import StringIO
from pathlib import Path

import datasets
import pytest
import torch
import transformers
from model_folders import edit_weights
from rich.console import Console

from companion.batch import IGNORE_INDEX
from companion.checkpoints.loading import load_checkpoint
from companion.config import TrainingConfig
from companion.corpus.reading import read_documents
from companion.errors import CompanionError, ConfigError, CorpusError, TrainingError
from companion.evaluation.scoring import evaluate
from companion.objectives.causal_lm import CausalLMCollator
from companion.objectives.masked_lm import MaskedLMCollator
from companion.preflight.device import best_device
from companion.training import arguments, train
from companion.training import run as run_module
from companion.training.data import read_corpora
from companion.training.run import METRICS_FILE

AUTO = {"bert": "AutoModelForMaskedLM", "gpt2": "AutoModelForCausalLM"}


@pytest.fixture(scope="module")
def full(tmp_path_factory, configure, corpus):
    """带评估与报告的一次；屏幕上的话在 `said`。"""
    said = StringIO()
    config = configure(
        tmp_path_factory.mktemp("全程") / "输出",
        eval=True,
        eval_max_chars=300,
        general=str(corpus),
        max_steps=4,
        save_total_limit=1,
    )
    result = train(config, console=Console(file=said, width=200))
    return result, said.getvalue()


def test_the_output_holds_everything_promised(full):
    """输出文件夹里恰是说好的这些；只留一个检查点。"""
    result, _ = full
    assert {path.name for path in result.output.iterdir()} == {
        "model", "config.yaml", "metrics.json", "ledger.json", "log.jsonl",
        "report.html", "report.md", "curve.png", "checkpoint-4", "inputs.json",
    }  # fmt: skip


def test_the_metrics_are_what_is_returned(full):
    """metrics.json 就是返回的 metrics：前后两次评估、两份留出集。"""
    result, _ = full
    written = json.loads((result.output / METRICS_FILE).read_text(encoding="utf-8"))
    assert written == result.metrics
    assert written["steps"] == 4
    assert written["tokens_trained"] == result.ledger.trained
    for when in ("before", "after"):
        assert set(written[when]) == {"domain", "general"}
        assert written[when]["domain"]["bits_per_char"] > 0
    assert written["before"]["domain"] != written["after"]["domain"]


def test_the_model_stands_beside_what_counting_the_training_text_gives(full):
    """尺子数的是训练语料，答的是同一份领域留出集，与 `evaluate` 的相同。"""
    result, _ = full
    texts = read_corpora(result.config)
    scores = evaluate(
        load_checkpoint(str(result.output / "model"), "masked_lm"),
        "masked_lm",
        texts.held_out,
        block_size=result.config.block_size,
        max_chars=300,
        ruler=texts.train,
    ).scores
    found = result.metrics["ruler"]
    assert found == pytest.approx(scores.ruler)
    page = (result.output / "report.md").read_text(encoding="utf-8")
    assert "数过训练语料之后" in page
    assert f"| 三元 | {found['trigram']:.3f} |" in page


def test_the_ledger_is_shown_before_the_first_step(full):
    """屏幕上先有设备与账本，然后才是第 1 步。"""
    _, said = full
    order = [
        "设备：",
        "批次：打包",
        "词元账本",
        "训练前评估",
        "第 1/4 步",
        "训练后评估",
    ]
    places = [said.index(word) for word in order]
    assert places == sorted(places)


def test_the_saved_settings_are_complete(full):
    """config.yaml 里没有留给下次再选的项：学习率、行长、精度都写明。"""
    result, _ = full
    saved = TrainingConfig.from_sources(result.output / "config.yaml", {})
    assert saved == result.config
    assert saved.learning_rate
    assert saved.block_size
    assert saved.precision != "auto"


def test_a_finished_run_is_never_overwritten(full, configure):
    """再往同一个文件夹训练：拒绝，一个字节也不动。"""
    result, _ = full
    before = {p: p.stat().st_mtime_ns for p in result.output.rglob("*")}
    with pytest.raises(TrainingError, match="另一次运行"):
        train(configure(result.output), quiet=True)
    assert before == {p: p.stat().st_mtime_ns for p in result.output.rglob("*")}


def test_quiet_says_nothing(tmp_path, configure, capfd, no_curve):
    """quiet：标准输出与标准错误都空着。"""
    train(configure(tmp_path / "输出", max_steps=1), quiet=True)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_the_ledger_counts_the_labels_and_the_model_opens_anywhere(
    kind, tmp_path, configure, checkpoints, weights, monkeypatch, no_curve
):
    """账本上的目标数就是真正的标签数；model/ 用现成的类打开，一个键也不缺。"""
    collator = CausalLMCollator if kind == "gpt2" else MaskedLMCollator
    real, labels = collator.__call__, []

    def counting(self, features):
        batch = real(self, features)
        labels.append(int((batch["labels"] != IGNORE_INDEX).sum()))
        return batch

    monkeypatch.setattr(collator, "__call__", counting)
    result = train(configure(tmp_path / "输出", kind), quiet=True)
    ledger = json.loads((result.output / "ledger.json").read_text(encoding="utf-8"))
    assert ledger["targets"] == sum(labels) > 0
    assert ledger["grid"] == ledger["trained"] + ledger["padded"]
    assert ledger["tokens_in"] == ledger["placed"] + sum(ledger["dropped"].values())
    model, info = getattr(transformers, AUTO[kind]).from_pretrained(
        result.output / "model", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    for folder in ("model", "checkpoint-6"):  # Trainer 在训练时关了键值缓存
        saved = json.loads((result.output / folder / "config.json").read_text("utf-8"))
        start = json.loads((checkpoints / kind / "config.json").read_text("utf-8"))
        assert saved.get("use_cache") == start.get("use_cache")
        text = (result.output / folder / "tokenizer_config.json").read_text("utf-8")
        assert not {"is_local", "local_files_only"} & json.loads(text).keys()
    assert model.dtype == torch.float32
    assert weights(result.output / "model") != weights(checkpoints / kind)
    tokenizer = transformers.AutoTokenizer.from_pretrained(result.output / "model")
    assert len(tokenizer) == model.config.vocab_size


def test_one_epoch_of_causal_targets_is_tokens_less_documents(
    tmp_path, configure, no_curve
):
    """因果模型一轮：每一片的头一个词元没有上文，其余都是目标。"""
    config = configure(tmp_path / "输出", "gpt2", max_steps=-1, num_train_epochs=1)
    ledger = train(config, quiet=True).ledger
    assert ledger.epochs == pytest.approx(1)
    assert ledger.trained == ledger.row_tokens
    assert ledger.targets == ledger.row_tokens - ledger.pieces


def test_the_saved_settings_run_again_to_the_same_weights(
    tmp_path, configure, weights, no_curve
):
    """config.yaml 换个输出再跑一次：权重逐位相同；换个种子就不同。"""
    first = train(configure(tmp_path / "一", max_steps=3), quiet=True)
    path = first.output / "config.yaml"
    again = TrainingConfig.from_sources(path, {"output": str(tmp_path / "二")})
    second = train(again, quiet=True)
    other = train(
        dataclasses.replace(again, seed=1, output=str(tmp_path / "三")), quiet=True
    )
    assert weights(second.output / "model") == weights(first.output / "model")
    assert weights(other.output / "model") != weights(first.output / "model")


@pytest.mark.parametrize(
    ("kind", "packing", "packed", "said"),
    [
        ("bert", True, True, "打包，文档互不可见"),
        ("bert", False, False, "设置里关了打包"),
        ("bloom", True, True, "打包，文档互不可见"),
    ],
)
def test_only_models_that_keep_documents_apart_are_packed(
    kind, packing, packed, said, tmp_path, configure, no_curve
):
    """BERT 与 BLOOM 都打包，用户不要就不打包；缘由都说出来。"""
    heard = StringIO()
    config = configure(
        tmp_path / "输出", kind, packing=packing, max_steps=1, block_size=64
    )
    result = train(config, console=Console(file=heard, width=200))
    assert (result.ledger.pieces > result.ledger.num_rows) is packed
    assert said in heard.getvalue()


def test_the_precision_is_chosen_once_and_written_down(
    tmp_path, configure, monkeypatch, no_curve
):
    """写 auto 就由设备决定并写进 config.yaml；bf16 与 fp32 的损失相近而不相同。"""

    def fast(model_type=None):
        return dataclasses.replace(best_device(model_type), dtype=torch.bfloat16)

    exact = train(configure(tmp_path / "fp32", max_steps=2), quiet=True)
    monkeypatch.setattr(run_module, "best_device", fast)
    config = configure(tmp_path / "auto", max_steps=2, precision="auto")
    half = train(config, quiet=True)
    assert half.config.precision == "bf16"
    losses = [(a["loss"], b["loss"]) for a, b in zip(exact.log, half.log, strict=True)]
    assert all(a == pytest.approx(b, rel=0.01) and a != b for a, b in losses)


def test_training_in_half_precision_is_judged_in_full_precision(
    tmp_path, configure, corpus, no_curve
):
    """以 bf16 训练，前后都以 float32 评估：训练后的成绩，恰是存下的检查点的成绩。"""
    config = configure(
        tmp_path / "输出",
        eval=True,
        eval_max_chars=300,
        valid=str(corpus),
        max_steps=2,
        precision="bf16",
    )
    result = train(config, quiet=True)
    saved = load_checkpoint(str(result.output / "model"), "masked_lm")
    exam = evaluate(
        saved, "masked_lm", read_documents(corpus), block_size=32, max_chars=300
    )
    after = result.metrics["after"]["domain"]["bits_per_char"]
    assert after == pytest.approx(exam.scores.bits_per_char, rel=1e-7)


def test_recomputing_changes_memory_not_results(tmp_path, configure, weights, no_curve):
    """以重算换显存：日志与权重都不变。"""
    plain = train(configure(tmp_path / "一", max_steps=2), quiet=True)
    config = configure(tmp_path / "二", max_steps=2, gradient_checkpointing=True)
    saving = train(config, quiet=True)
    assert [row["loss"] for row in saving.log] == [row["loss"] for row in plain.log]
    assert weights(saving.output / "model") == weights(plain.output / "model")


def test_what_the_preflight_finds_is_said_before_training(
    tmp_path, configure, checkpoints, no_curve
):
    """每次训练都做便宜的几项体检：缺输出头，开训之前说一遍。"""
    broken = tmp_path / "缺头"
    shutil.copytree(checkpoints / "bert", broken)
    edit_weights(
        broken, lambda w: {k: t for k, t in w.items() if not k.startswith("cls.")}
    )
    heard = StringIO()
    config = configure(tmp_path / "输出", model=str(broken), max_steps=1)
    train(config, console=Console(file=heard, width=200))
    said = heard.getvalue()
    assert said.count("没有输出头") == 1
    assert said.index("没有输出头") < said.index("第 1/1 步")


def _blank(folder: Path) -> str:
    path = folder / "空白.txt"
    path.write_text(" \n\n　\n", encoding="utf-8")
    return str(path)


def _strange(folder: Path) -> str:
    path = folder / "生僻.txt"
    path.write_text("龘靐齉。\n\n爩麤籲。\n\n灩癵驫。", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"corpus": "没有这个.txt"},
        {"corpus": _strange, "tokens_per_batch": 256},
        {"corpus": _blank},
        {"valid": _blank},
        {"general": "没有这个.txt"},
        {"replay": "没有这个.txt"},
        {"objective": "masked_ml"},
        {"objective": "causal_lm"},
        {"model": "没有这个模型"},
        {"block_size": 129, "tokens_per_batch": 256},
        {"block_size": 2},
        {"granularity": "whole_word", "user_dictionary": "没有这个.txt"},
        {"preset": "ernie"},
        {"preset": "ernie", "names": "没有这个.txt"},
        {"preset": "macbert", "similar_words": "没有这个.txt"},
        {"preset": "albert", "granularity": "span"},
        {"kind": "gpt2", "preset": "bert"},
        {"precision": "fp16"},
        {"report_to": "tensorboard"},
        {"lora_rank": 4},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_a_user_error_leaves_no_folder_behind(
    changes, tmp_path, configure, monkeypatch
):
    """用户能改正的错误：一句话说清，输出文件夹不曾出现。"""
    monkeypatch.setattr(arguments, "find_spec", lambda _name: None)
    (tmp_path / "输入").mkdir()
    given = {k: v(tmp_path / "输入") if callable(v) else v for k, v in changes.items()}
    with pytest.raises(CompanionError) as caught:
        train(configure(tmp_path / "输出", **{"eval": True, **given}), quiet=True)
    error = caught.value
    assert all((error.found, error.expected, error.remedy))
    assert not (tmp_path / "输出").exists()


def test_a_held_out_set_without_targets_leaves_no_folder_behind(
    tmp_path, configure, monkeypatch
):
    """评估集出不成：也在建文件夹之前。"""

    def refuse(*_args, **_kwargs):
        raise TrainingError(found="出不了题", expected="有题", remedy="换一份")

    monkeypatch.setattr(run_module, "prepare_exam", refuse)
    with pytest.raises(TrainingError, match="出不了题"):
        train(configure(tmp_path / "输出", eval=True), quiet=True)
    assert not (tmp_path / "输出").exists()


@pytest.mark.parametrize(
    ("changes", "peak", "rate"),
    [
        ({}, None, 5e-5),
        ({}, 4e-4, 6e-5),
        ({"lora_rank": 4}, 4e-4, 6e-4),
        ({"lora_rank": 4}, 4e-3, 3e-3),
        ({"learning_rate": 3e-4, "lora_rank": 4}, 4e-4, 3e-4),
    ],
)
def test_the_learning_rate_follows_the_pretraining_peak(
    changes, peak, rate, tmp_path, configure
):
    """没有给：取预训练峰值的 0.15 倍，或 5e-5；LoRA 乘十，至多 3e-3；给了就用给的。"""
    model = torch.nn.Module()
    model.config = transformers.PretrainedConfig()
    if peak:
        model.config.companion_peak_learning_rate = peak
    config = configure(tmp_path, **{"learning_rate": None, **changes})
    assert arguments.choose_learning_rate(config, model) == pytest.approx(rate)


def test_one_process_uses_one_card(tmp_path, configure, monkeypatch):
    """见了两块卡也只用一块：DataParallel 会把掩码拆开，损失的账对不上。"""
    two = property(lambda _: 2)
    monkeypatch.setattr(transformers.TrainingArguments, "n_gpu", two)
    made = arguments.training_arguments(
        configure(tmp_path),
        num_steps=1,
        learning_rate=1e-4,
        precision="fp32",
        device_kind="cpu",
    )
    assert made._n_gpu == 1


def test_a_table_of_datasets_trains_like_the_same_text_in_a_file(
    tmp_path, configure, corpus, weights
):
    """`corpus=` 收 datasets 的表：与同样的文字放在文件里训练，权重逐位相等。"""
    texts = corpus.read_text(encoding="utf-8").split("\n\n")
    table = datasets.Dataset.from_dict({"text": texts})
    config = configure(tmp_path / "表", corpus="（见 corpus=）")
    ours = train(config, corpus=table, quiet=True)
    train(configure(tmp_path / "文件"), quiet=True)
    assert weights(tmp_path / "表/model") == weights(tmp_path / "文件/model")
    assert ours.config.corpus.startswith("datasets:")


def test_a_table_without_text_is_refused_before_anything_is_written(
    tmp_path, configure
):
    """没有 text 一列：列出有哪些列，什么也没写。"""
    table = datasets.Dataset.from_dict({"content": ["天子之职莫大于礼。"]})
    with pytest.raises(CorpusError, match="content"):
        train(configure(tmp_path / "表"), corpus=table, quiet=True)
    assert not (tmp_path / "表").exists()


def test_resuming_with_another_table_is_refused(tmp_path, configure):
    """续训交来另一张表：两张的指纹都说出来，不会悄悄换了语料接着训练。"""
    texts = ["天子之职莫大于礼，礼莫大于分。", "分莫大于名。", "何谓礼？纪纲是也。"]
    first, other = (
        datasets.Dataset.from_dict({"text": [text + mark for text in texts]})
        for mark in "甲乙"
    )
    config = configure(tmp_path / "表")
    train(config, corpus=first, quiet=True)
    with pytest.raises(ConfigError, match=other._fingerprint):
        train(config, corpus=other, resume=True, quiet=True)


POEMS = "".join(
    json.dumps({"text": f"狡兔死，走狗烹{n}\n飞鸟尽，良弓藏{n}"}) + "\n"
    for n in range(30)
)


@pytest.mark.parametrize(
    ("kind", "line_breaks", "said"),
    [
        ("gpt2", "auto", "照原样学"),
        ("gpt2", "join", None),
        ("bert", "auto", "各接成一行"),
    ],
)
def test_line_breaks_are_kept_where_the_tokenizer_can_write_them(
    tmp_path, configure, kind, line_breaks, said
):
    """诗行：写得出就留着，join 接成一行；怎样处理的说出来，留出集也一样。"""
    corpus = tmp_path / "诗.jsonl"
    corpus.write_text(POEMS, encoding="utf-8")
    screen = StringIO()
    config = configure(
        tmp_path / "输出", kind, corpus=str(corpus), line_breaks=line_breaks
    )
    train(
        dataclasses.replace(config, max_steps=1, eval=kind == "gpt2"),
        console=Console(file=screen, width=200),
    )
    corpora = read_corpora(config)
    breaks = {"\n" in document.text for document in (*corpora.train, *corpora.valid)}
    assert breaks == {line_breaks != "join"}
    count = sum(document.text.count("\n") for document in corpora.train)
    expected = f"语料里有 {count} 处换行" if said else ""
    assert expected in screen.getvalue()
    assert (said or "") in screen.getvalue()


def test_line_breaks_that_cannot_be_kept_are_refused(tmp_path, configure):
    """一定要留，而 BERT 的分词器写不出：按名拒绝，什么也没写。"""
    corpus = tmp_path / "诗.jsonl"
    corpus.write_text(POEMS, encoding="utf-8")
    config = configure(tmp_path / "输出", corpus=str(corpus), line_breaks="keep")
    with pytest.raises(ConfigError, match=r"line_breaks = keep.*写不出"):
        train(config, quiet=True)
    assert not (tmp_path / "输出").exists()
