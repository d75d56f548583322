"""几份语料一同训练：各占多少，怎样接着读，账本与评估按份分开。"""

import json
import shutil
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from companion.checkpoints.loading import load_checkpoint
from companion.config import TrainingConfig
from companion.errors import CompanionError
from companion.evaluation.comparison import prepare_exam
from companion.evaluation.scoring import evaluate
from companion.training import train
from companion.training.batching import Share, plan_batches
from companion.training.data import read_corpora
from companion.training.watching import front

pytestmark = pytest.mark.usefixtures("no_curve")


@pytest.fixture(scope="module")
def two(tmp_path_factory, corpus):
    """两份语料：史 25 篇，诗 8 篇，互不重复。"""
    folder = tmp_path_factory.mktemp("两份")
    texts = corpus.read_text(encoding="utf-8").split("\n\n")
    for name, part in (("史", texts[8:]), ("诗", texts[:8])):
        (folder / f"{name}.txt").write_text("\n\n".join(part), encoding="utf-8")
    return folder


def corpora_of(two, *weights: str) -> tuple[str, ...]:
    return tuple(
        f"{name}={two / name}.txt{weight}"
        for name, weight in zip(("史", "诗"), weights, strict=True)
    )


def rows_of(plan) -> list[tuple[int, int]]:
    return [key for batch in plan.batches for key in batch]


@pytest.mark.parametrize("shares", [(0.75, 0.25), (0.2, 0.8)])
def test_every_epoch_keeps_the_shares_and_reads_on_where_it_stopped(shares):
    """五轮合起来照比例（差不过一行）；读完一遍才重来：次数至多差一。"""
    lengths = np.random.default_rng(0).integers(5, 30, 400)
    cut = 250
    plan = plan_batches(
        lengths, tokens_per_batch=256, accumulation=1, seed=7, num_epochs=5,
        shares=(Share(0, cut, shares[0]), Share(cut, 400, shares[1])),
    )  # fmt: skip
    rows = np.array([row for _, row in rows_of(plan)])
    tokens = [int(lengths[rows[part]].sum()) for part in (rows < cut, rows >= cut)]
    assert list(plan.tokens_of) == tokens
    assert tokens[0] / sum(tokens) == pytest.approx(shares[0], abs=0.005)
    for low, high in ((0, cut), (cut, 400)):
        times = np.bincount(rows, minlength=400)[low:high]
        assert times.max() - times.min() <= 1
    assert plan.epochs_of == pytest.approx(
        [tokens[0] / lengths[:cut].sum(), tokens[1] / lengths[cut:].sum()]
    )


def test_by_size_is_the_corpora_one_after_the_other(two, tmp_path, configure, weights):
    """不写权重：各读一遍，与把两个文件接成一个、给同一份留出集的训练逐位相等。"""
    held = tmp_path / "留出.txt"
    held.write_text("良弓藏，走狗烹；敌国破，谋臣亡。", encoding="utf-8")
    whole = tmp_path / "合.txt"
    parts = [(two / f"{name}.txt").read_text(encoding="utf-8") for name in ("史", "诗")]
    whole.write_text("\n\n".join(parts), encoding="utf-8")
    together = train(
        configure(tmp_path / "合", corpus=str(whole), valid=str(held)), quiet=True
    )
    apart = train(
        configure(tmp_path / "分", corpus=corpora_of(two, "", ""), valid=str(held)),
        quiet=True,
    )
    assert apart.ledger == together.ledger
    assert weights(apart.output / "model") == weights(together.output / "model")


@pytest.fixture(scope="module")
def mixed_run(tmp_path_factory, configure, two):
    """史与诗一比一，另有回放；屏幕上的话在后面。"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("companion.plots.curves.plot_curve", lambda *_a, **_k: None)
        patch.setattr("companion.plots.style.save_figure", lambda *_a: None)
        general = two / "通用.txt"
        general.write_text(
            "\n\n".join(f"春雨过后水缸满了，路上的泥还没有干{n}。" for n in range(30)),
            encoding="utf-8",
        )
        config = configure(
            tmp_path_factory.mktemp("掺") / "输出",
            corpus=corpora_of(two, ":1", ":1"),
            replay=str(general),
            replay_ratio=0.2,
            eval=True,
            max_steps=-1,
            num_train_epochs=4.0,
        )
        said = StringIO()
        return train(config, console=Console(file=said, width=200)), said.getvalue()


def test_the_ledger_counts_every_source(mixed_run):
    """词元合计是过模型的；两份各四成，回放两成；小的一份读的遍数多。"""
    result, said = mixed_run
    ledger = json.loads((result.output / "ledger.json").read_text(encoding="utf-8"))
    sources = ledger["sources"]
    assert list(sources) == ["史", "诗", "回放"]
    assert sum(each["tokens"] for each in sources.values()) == ledger["trained"]
    assert ledger["replayed"] == sources["回放"]["tokens"]
    for name, share in (("史", 0.4), ("诗", 0.4), ("回放", 0.2)):
        assert sources[name]["share"] == pytest.approx(share, abs=0.02)
        assert f"其中 {name} {sources[name]['tokens']:,} 个词元" in said
    assert sources["诗"]["epochs"] > 2 * sources["史"]["epochs"]
    assert ledger["documents"] == len(read_corpora(result.config).train)


def test_every_source_is_evaluated_on_its_own(mixed_run):
    """metrics.json 的 sources 与单独评估那一份的分数相同；报告里各有一行。"""
    result, _ = mixed_run
    checkpoint = load_checkpoint(str(result.output / "model"), "masked_lm")
    corpora = read_corpora(result.config)
    found = result.metrics["after"]["domain"]["sources"]
    assert set(found) == {"史", "诗"}
    for each in corpora.sources:
        alone = evaluate(
            checkpoint, "masked_lm", each.valid, block_size=32,
            max_chars=result.config.eval_max_chars,
        )  # fmt: skip
        expected = alone.scores.bits_per_char
        assert found[each.source.name] == pytest.approx(expected, rel=1e-5)
    report = (result.output / "report.md").read_text(encoding="utf-8")
    assert (
        f"| 其中 诗 | {result.metrics['before']['domain']['sources']['诗']:.4f}"
        in report
    )


def test_the_front_of_a_mixture_holds_every_source(mixed_run):
    """途中只评靠前的一部分：各份的行相间，一半里也各份都有，比例不变。"""
    result, _ = mixed_run
    config, corpora = result.config, read_corpora(result.config)
    exam = prepare_exam(
        load_checkpoint(config.model, "masked_lm"), "masked_lm", corpora.held_out,
        block_size=8,
    )  # fmt: skip
    whole = exam.domain
    tokens = sum(len(row.input_ids) for row in whole.rows)
    part = front(whole, tokens / 2)
    assert set(part.sources) == set(whole.sources) == {"史", "诗"}
    for name in ("史", "诗"):
        share = whole.sources.count(name) / len(whole.sources)
        assert abs(part.sources.count(name) - share * len(part.sources)) <= 1


def test_a_mixture_resumes_bit_for_bit(mixed_run, tmp_path, weights):
    """停在半路再续，与一气走完相等；设置写进 config.yaml，读回来相同。"""
    result, _ = mixed_run
    saved = TrainingConfig.from_sources(result.output / "config.yaml", {})
    assert saved == result.config
    output = tmp_path / "输出"
    shutil.copytree(result.output, output)
    steps = sorted(int(each.name.split("-")[1]) for each in output.glob("checkpoint-*"))
    shutil.rmtree(output / f"checkpoint-{steps[-1]}")
    (output / "metrics.json").unlink()
    shutil.rmtree(output / "model")
    again = train(replace(saved, output=str(output)), resume=True, quiet=True)
    assert weights(again.output / "model") == weights(result.output / "model")
    assert again.ledger == result.ledger


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("甲={0}/史.txt:1", "乙={0}/诗.txt"), "乙 没有"),
        (("甲={0}/史.txt:0", "乙={0}/诗.txt:1"), "权重是 0"),
        (("甲={0}/史.txt", "甲={0}/诗.txt"), "都叫 甲"),
        (("甲={0}/史.txt", "乙={0}/史.txt"), "乙 一篇也没有"),
        (("甲={0}/史.txt", "乙={0}/没有.txt"), "没有.txt"),
    ],
)
def test_mixtures_that_cannot_be_read_are_refused(
    tmp_path, configure, two, given, message
):
    """写法不对、与另一份相同、找不到：按名拒绝，什么也没写。"""
    config = configure(
        tmp_path / "输出", corpus=tuple(each.format(two) for each in given)
    )
    with pytest.raises(CompanionError, match=message):
        train(config, quiet=True)
    assert not (tmp_path / "输出").exists()


@pytest.mark.parametrize("given", [[], ["", "a"], [1, 2], {"a": "b"}])
def test_a_list_of_corpora_holds_texts(tmp_path, configure, given):
    """空的列表、空的一项、不是文字的：说出应当怎样写。"""
    with pytest.raises(CompanionError, match="corpus"):
        configure(tmp_path / "输出", corpus=given)
