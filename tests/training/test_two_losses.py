"""句序、句对与一对模型：从命令到存盘都走得通，续训逐位相等，存下的是标准检查点。"""

import json
import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import transformers
from rich.console import Console

from companion.checkpoints.electra_pair import (
    DISCRIMINATORS,
    ElectraPair,
)
from companion.checkpoints.loading import load_checkpoint, load_tokenizer
from companion.checkpoints.running import model_options
from companion.checkpoints.saving import save_checkpoint
from companion.checkpoints.tiny import TINY_TEXT, tiny_model, tiny_tokenizer
from companion.corpus.document import Document
from companion.corpus.sources import read_corpus
from companion.errors import ConfigError, CorpusError, ModelError
from companion.evaluation import compare, evaluate
from companion.inference import fill
from companion.objectives import get_objective
from companion.preflight import check_checkpoint
from companion.training.run import train

KEYS = ("sentence_order", "translation_lm", "replaced_token")
BLANK = "狡兔死，走狗[MASK]；飞鸟尽，良弓藏。"

pytestmark = pytest.mark.usefixtures("no_curve")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """极小的 bert、xlm、ernie 与一对 electra，权重随机。"""
    folder = tmp_path_factory.mktemp("models")
    for kind, extra in (("bert", {}), ("xlm", {"n_langs": 2}), ("ernie", {})):
        tokenizer = tiny_tokenizer(kind)
        save_checkpoint(tiny_model(kind, tokenizer, **extra), tokenizer, folder / kind)
    tokenizer, maker = tiny_tokenizer("bert"), tiny_model("electra")
    judge = transformers.AutoModelForPreTraining.from_config(maker.config)
    save_checkpoint(ElectraPair(maker, judge), tokenizer, folder / "electra")
    return folder


@pytest.fixture
def small_vocabulary(monkeypatch):
    """极小的词表认不得小史书里的一半字，体检会拦下；这里考的不是体检。"""
    monkeypatch.setattr("companion.training.run.require_trainable", lambda *_, **__: [])


@pytest.fixture
def settings(models: Path, configure):
    """三个目标各自的设置；句对取随包的文言与白话。"""

    def build(key: str, output: Path, **changes):
        given = {
            "sentence_order": {"model": str(models / "bert")},
            "translation_lm": {
                "model": str(models / "bert"),
                "corpus": "sample:pairs",
                "block_size": 64,
            },
            "replaced_token": {"model": str(models / "electra")},
        }[key]
        return configure(output, objective=key, **(given | changes))

    return build


def logged(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().split("\n")
            if line]  # fmt: skip


def held_out() -> list[Document]:
    """极小的词表认得的几句。"""
    return [Document(text, f"句#{n}", "句") for n, text in enumerate(TINY_TEXT[:6], 1)]


@pytest.mark.parametrize("key", KEYS)
def test_an_interrupted_run_resumes_bit_for_bit(
    key, settings, tmp_path, weights, small_vocabulary
):
    """第二步断了接着训，与一气呵成的权重逐位相等；缺的头也由固定的种子补上。"""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(settings(key, whole, max_steps=4), quiet=True)
    train(settings(key, parts, max_steps=4), quiet=True)
    shutil.rmtree(parts / "checkpoint-4")
    (parts / "metrics.json").unlink()
    train(settings(key, parts, max_steps=4), resume=True, quiet=True)
    for name in ("discriminator", "generator") if key == "replaced_token" else ("",):
        assert weights(whole / "model" / name) == weights(parts / "model" / name)
    assert [row["loss"] for row in logged(whole)] == [
        row["loss"] for row in logged(parts)
    ]


def test_a_trained_pair_is_two_stock_checkpoints(settings, tmp_path):
    """判别器与生成器都由标准的 Auto 类打开，一个键不缺；日志与账本各有两份损失。"""
    train(settings("replaced_token", tmp_path / "out"), quiet=True)
    for name, auto in (
        ("discriminator", DISCRIMINATORS["electra"]),
        ("generator", "AutoModelForMaskedLM"),
    ):
        folder = tmp_path / "out" / "model" / name
        _, report = getattr(transformers, auto).from_pretrained(
            folder, output_loading_info=True
        )
        assert not report["missing_keys"]
        assert transformers.AutoTokenizer.from_pretrained(folder).mask_token
    last = logged(tmp_path / "out")[-1]
    assert 0 < last["detection_loss"] < 1
    assert last["detection_accuracy"] > 0.5
    ledger = json.loads((tmp_path / "out" / "ledger.json").read_text())
    assert ledger["detection_targets"] > ledger["targets"] > 0


def test_a_pair_is_evaluated_compared_and_asked(settings, models, tmp_path):
    """一对模型可以打分、对照、体检；填空与 masked_lm 用其中的生成器。"""
    train(settings("replaced_token", tmp_path / "out"), quiet=True)
    after = load_checkpoint(str(tmp_path / "out" / "model"), "replaced_token")
    before = load_checkpoint(str(models / "electra"), "replaced_token")
    documents = held_out()
    scores = evaluate(after, "replaced_token", documents).scores
    assert 0.05 < scores.replaced_rate < 0.2
    assert scores.as_dict()["replaced_rate"] == scores.replaced_rate
    assert scores.num_targets == scores.num_chars
    card = compare(before, after, "replaced_token", documents, max_chars=200)
    assert card.domain.difference.paired
    codes = {each.code: each for each in check_checkpoint(after, "replaced_token")}
    assert codes["tied_weights"].severity == "ok"
    words = load_checkpoint(str(tmp_path / "out" / "model"), "masked_lm")
    assert any("生成器" in notice for notice in words.notices)
    for checkpoint in (after, words):
        [[best]] = fill(checkpoint, BLANK, top_k=1)
        assert best.score > 0


def test_an_exam_of_fakes_does_not_depend_on_the_model(models):
    """评估目标里的假来自原文自己：换一对模型，指纹相同；同样的种子，遮同样的位置。"""
    documents = held_out()
    pair = load_checkpoint(str(models / "electra"), "replaced_token")
    other = replace(
        pair, model=load_checkpoint(str(models / "electra"), "replaced_token").model
    )
    for parameter in other.model.parameters():
        parameter.data.mul_(0.5)
    first, second = (evaluate(p, "replaced_token", documents) for p in (pair, other))
    assert first.fingerprint == second.fingerprint
    assert first.scores.bits_per_char != second.scores.bits_per_char


def test_sentence_order_is_scored_and_its_checkpoint_fills_blanks(settings, tmp_path):
    """句序的准确率在成绩里；一句的行不计、记在账上；存下的也能填空、作 masked_lm。"""
    short = tmp_path / "短.txt"
    short.write_text("三年春大旱。\n\n民饥。王使人告于诸侯。诸侯皆来会。\n\n" * 9)
    config = settings(
        "sentence_order",
        tmp_path / "out",
        corpus=str(short),
        valid=str(short),
        deduplicate=False,
    )
    train(config, quiet=True)
    ledger = json.loads((tmp_path / "out" / "ledger.json").read_text())
    assert ledger["order_targets"] > 0
    assert ledger["order_skipped_rows"] > 0
    model = str(tmp_path / "out" / "model")
    checkpoint = load_checkpoint(model, "sentence_order")
    assert not checkpoint.missing_keys
    documents = held_out()
    scores = evaluate(checkpoint, "sentence_order", documents).scores
    assert 0 <= scores.order_accuracy <= 1
    for each in (checkpoint, load_checkpoint(model, "masked_lm")):
        [[best]] = fill(each, BLANK, top_k=1)
        assert best.score > 0


def test_only_single_sentences_leave_no_order_to_learn(settings, tmp_path):
    """整份语料篇篇一句：开训之前就说，不造假。"""
    path = tmp_path / "一句.txt"
    path.write_text("\n\n".join(["三年春大旱。", "民饥。", "王使人告于诸侯。"] * 3))
    with pytest.raises(CorpusError, match="没有一篇有两句"):
        train(
            settings("sentence_order", tmp_path / "out", corpus=str(path)), quiet=True
        )
    assert not (tmp_path / "out").exists()


def test_pairs_reach_an_xlm_with_its_languages(
    settings, models, tmp_path, small_vocabulary
):
    """XLM 得到语言编号与重数的位置；评估考两侧遮住的字。"""
    config = settings(
        "translation_lm", tmp_path / "out", model=str(models / "xlm"), max_steps=2
    )
    result = train(config, quiet=True)
    assert result.ledger.targets > 0
    checkpoint = load_checkpoint(str(tmp_path / "out" / "model"), "translation_lm")
    documents = list(read_corpus("sample:pairs", "valid"))[:5]
    assert evaluate(checkpoint, "translation_lm", documents).scores.num_targets > 10


def test_a_corpus_without_targets_is_named(settings, corpus, tmp_path):
    """没有译文的语料：翻译语言建模说不行，该换什么。"""
    with pytest.raises(CorpusError, match=r"没有译文.*sample:pairs"):
        train(
            settings("translation_lm", tmp_path / "out", corpus=str(corpus)),
            quiet=True,
        )


def test_what_does_not_fit_is_named(settings, models, tmp_path):
    """不判句序的检查点、单个的 BERT 当一对、LoRA 配一对、只有判别器而要填空。"""
    with pytest.raises(ModelError, match=r"electra.*sentence_order"):
        load_checkpoint(str(models / "electra" / "discriminator"), "sentence_order")
    with pytest.raises(ModelError, match="不能作判别器"):
        load_checkpoint(str(models / "bert"), "replaced_token")
    with pytest.raises(ConfigError, match=r"lora_rank.*replaced_token"):
        train(settings("replaced_token", tmp_path / "out", lora_rank=2), quiet=True)
    lone = tmp_path / "lone"
    (lone / "discriminator").mkdir(parents=True)
    with pytest.raises(ModelError, match="只有判别器"):
        load_checkpoint(str(lone), "masked_lm")


def test_the_generator_can_be_named(settings, models, tmp_path):
    """`generator` 指另一处的生成器；判别器单独给，没有它就说新建了一个。"""
    judge = str(models / "electra" / "discriminator")
    maker = str(models / "electra" / "generator")
    config = settings("replaced_token", tmp_path / "out", model=judge, max_steps=1)
    train(replace(config, generator=maker), quiet=True)
    given = load_checkpoint(judge, "replaced_token", generator=maker)
    assert not given.notices
    alone = load_checkpoint(judge, "replaced_token")
    assert any("没有给生成器" in each for each in alone.notices)
    assert load_tokenizer(str(models / "electra")).mask_token


def xlm_of(folder: Path, **settings) -> Path:
    """一个认得几种语言的极小 XLM。"""
    tokenizer = tiny_tokenizer("xlm")
    model = tiny_model("xlm", tokenizer, n_langs=3)
    for name, value in settings.items():
        setattr(model.config, name, value)
    save_checkpoint(model, tokenizer, folder)
    return folder


LANG2ID = {"en": 0, "zh": 2, "fr": 1}


@pytest.mark.parametrize(
    ("lang2id", "given", "expected"),
    [
        (LANG2ID, None, (2, 2)),
        (LANG2ID, "fr,zh", (1, 2)),
        (LANG2ID, "0, 1", (0, 1)),
        ({}, None, (0, 1)),
    ],
)
def test_the_languages_are_those_of_the_checkpoint(
    tmp_path, configure, small_vocabulary, lang2id, given, expected
):
    """给了的；没有给就都是 lang2id 里的 zh；训练、说的话与存下的检查点三处一致。"""
    said = StringIO()
    config = configure(
        tmp_path / "输出",
        objective="translation_lm",
        model=str(xlm_of(tmp_path / "xlm", lang2id=lang2id)),
        corpus="sample:pairs",
        block_size=64,
        max_steps=1,
        languages=given,
    )
    result = train(config, console=Console(file=said, width=200))
    saved = load_checkpoint(str(result.output / "model"), "masked_lm").model
    goal = get_objective("translation_lm")
    assert model_options(saved, goal)["language_ids"] == expected
    names = {number: f"{name}（{number}）" for name, number in lang2id.items()}
    first, second = (names.get(number, str(number)) for number in expected)
    assert f"前一句 {first}，后一句 {second}" in said.getvalue()


@pytest.mark.parametrize(
    ("kind", "languages", "message"),
    [
        ("xlm", "de,zh", "en、fr、zh 之一"),
        ("xlm", "zh", "两种语言"),
        ("xlm", "0,3", "languages = 0,3"),
        ("bert", "zh,zh", "没有语言编号"),
    ],
)
def test_languages_the_checkpoint_lacks_are_refused(
    tmp_path, settings, models, kind, languages, message
):
    """不认得的语言、只给一种、模型没有语言编号：按名拒绝，什么也没写。"""
    folder = xlm_of(tmp_path / "xlm", lang2id=LANG2ID)
    model = folder if kind == "xlm" else models / kind
    config = settings(
        "translation_lm", tmp_path / "输出", model=str(model), languages=languages
    )
    with pytest.raises(ConfigError, match=message):
        train(config, quiet=True)
    assert not (tmp_path / "输出").exists()
