"""途中的评估：评多少、记在哪里、留哪一步、什么时候停；续训得到同样的答案。"""

import json
import shutil
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from companion.checkpoints.loading import load_checkpoint
from companion.errors import ConfigError
from companion.evaluation.comparison import prepare_exam
from companion.evaluation.scoring import score_targets
from companion.training import train
from companion.training.batching import BatchPlan
from companion.training.data import read_corpora
from companion.training.loop import read_log
from companion.training.output import list_checkpoints
from companion.training.watching import (
    LEAST_TOKENS,
    RELATIVE_COST,
    SHARE,
    best_step,
    evaluations,
    front,
    plan_watch,
    should_stop,
)

pytestmark = pytest.mark.usefixtures("no_curve")

WILD = {
    "max_steps": 12,
    "eval": True,
    "eval_max_chars": 300,
    "eval_steps": 2,
    "learning_rate": 0.05,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "save_steps": 100,
    "save_total_limit": 1,
}
"""学习率高得先学后坏：最好的一步不是末步。"""


def rows_of(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    return [
        {"step": 10 * n, "domain": domain, "general": general}
        for n, (domain, general) in enumerate(pairs)
    ]


SEEN = rows_of((8.0, 7.0), (7.5, 7.05), (7.0, 7.2), (7.2, 7.1), (7.1, 7.4))


@pytest.mark.parametrize(
    ("rows", "bound", "expected"),
    [
        (SEEN, None, 20),
        (SEEN, 0.02, 30),  # 界是 7.14：第 10、30 步在内，第 30 步的领域低
        (SEEN, 0.001, None),
        (SEEN[:1], None, None),
        (rows_of((8.0, 7.0), (8.5, 7.0), (9.0, 7.0)), None, 10),
    ],
)
def test_the_best_step_is_the_lowest_domain_within_the_bound(rows, bound, expected):
    """领域最低的一步；有界时只在没有忘过界的几步里选；开头不算。"""
    assert best_step(rows, bound) == expected


@pytest.mark.parametrize(
    ("num_rows", "bound", "patience", "stop"),
    [(4, None, 2, False), (5, None, 2, True), (5, None, 3, False), (3, 0.001, 2, True)],
)
def test_patience_counts_what_came_after_the_best(num_rows, bound, patience, stop):
    """最好的一步之后连着几次没有更好；全都过界的，从头数。"""
    assert should_stop(SEEN[:num_rows], bound, patience) is stop


@pytest.fixture(scope="module")
def exam(configure, tmp_path_factory, corpus):
    """极小 BERT 的评估集：领域与通用各一份。"""
    config = configure(tmp_path_factory.mktemp("评") / "输出", general=str(corpus))
    corpora = read_corpora(config)
    checkpoint = load_checkpoint(config.model, "masked_lm")
    return prepare_exam(
        checkpoint, "masked_lm", corpora.valid, corpora.general, block_size=32
    )


def plan_of(num_steps: int, tokens: int) -> BatchPlan:
    return BatchPlan([], num_steps, 1.0, tokens, tokens, 0)


@pytest.mark.parametrize("tokens", [200_000, 10_000_000])
def test_by_default_it_looks_ten_times_and_costs_a_twentieth(
    tmp_path, configure, exam, tokens
):
    """缺省约十次，连同开头；估计的花费不超过训练的 5%。"""
    watch = plan_watch(configure(tmp_path), exam, plan_of(400, tokens))
    assert watch is not None
    assert (watch.every, watch.times) == (40, 11)
    sizes = [
        sum(len(row.input_ids) for row in each.rows) for each in watch.sets.values()
    ]
    assert watch.share == pytest.approx(RELATIVE_COST * 11 * sum(sizes) / tokens)
    assert watch.share <= SHARE
    assert set(watch.sets) == {"domain", "general"}


def test_a_short_run_looks_less_often_or_not_at_all(tmp_path, configure, exam):
    """分不出 LEAST_TOKENS 的，少评几次；一次也分不出，就不评。"""
    budget = SHARE / RELATIVE_COST
    four = int(4.5 * 2 * LEAST_TOKENS / budget)
    watch = plan_watch(configure(tmp_path), exam, plan_of(400, four))
    assert watch is not None
    assert watch.times == 4
    assert plan_watch(configure(tmp_path), exam, plan_of(400, four // 5)) is None


def test_the_front_is_a_smaller_exam(exam):
    """靠前的几行：目标数与字数照这几行算，分数就是这几行的。"""
    part = front(exam.domain, 40)
    assert 0 < len(part.rows) < len(exam.domain.rows)
    assert part.rows == exam.domain.rows[: len(part.rows)]
    assert 0 < part.num_targets < exam.domain.num_targets
    assert 0 < part.num_chars < exam.domain.num_chars
    assert front(exam.domain, 1e9) == exam.domain


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval_steps": 7, "eval": True}, r"eval_steps = 7，而一共 6 步"),
        (
            {"max_forgetting": 0.02, "early_stopping_patience": 1, "eval": True},
            "没有通用留出集",
        ),
    ],
)
def test_what_cannot_be_watched_is_refused(tmp_path, configure, changes, message):
    """超过总步数、没有通用留出集却要设界：按名拒绝，什么也没写。"""
    with pytest.raises(ConfigError, match=message):
        train(configure(tmp_path / "输出", **changes), quiet=True)
    assert not (tmp_path / "输出").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"load_best_model_at_end": True}, "eval = false"),
        ({"early_stopping_patience": 2, "eval": True, "eval_steps": 0}, "eval_steps"),
        ({"max_forgetting": 0.02, "eval": True}, "单独没有作用"),
        ({"early_stopping_patience": 0}, "至少为 1"),
        ({"max_forgetting": -0.1}, "不小于 0"),
    ],
)
def test_settings_that_contradict_are_refused(tmp_path, configure, changes, message):
    """不评估却要留最好的一步、单独的界、零次耐心。"""
    with pytest.raises(ConfigError, match=message):
        configure(tmp_path, **changes)


@pytest.fixture(scope="module")
def watched(tmp_path_factory, configure, corpus):
    """留最好的一步的一次；屏幕上的话在后面。"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("companion.plots.curves.plot_curve", lambda *_a, **_k: None)
        patch.setattr("companion.plots.style.save_figure", lambda *_a: None)
        config = configure(
            tmp_path_factory.mktemp("途中") / "输出",
            general=str(corpus),
            load_best_model_at_end=True,
            **WILD,
        )
        said = StringIO()
        return train(config, console=Console(file=said, width=200)), said.getvalue()


def test_every_look_is_a_line_of_the_log(watched):
    """开头、每两步、末步各一行；花的时间另记，不算在训练的速度里。"""
    result, said = watched
    looked = evaluations(result.log)
    assert [row["step"] for row in looked] == list(range(0, 13, 2))
    assert evaluations(read_log(result.output / "log.jsonl")) == looked
    assert result.metrics["evaluations"]["times"] == 7
    assert "途中评估：每 2 步一次，连同开头与末步共 7 次" in said
    assert f"第 12/12 步 · 每字比特数 领域 {looked[-1]['domain']:.3f}" in said


def test_the_model_is_that_of_the_best_step(watched, weights):
    """末步不是最好的：model/ 取自最好的一步，它的检查点没有被轮换掉。"""
    result, said = watched
    best = best_step(evaluations(result.log), None)
    assert best not in (None, 12)
    assert result.metrics["best_step"] == best
    assert {path.name for path in list_checkpoints(result.output)} == {
        f"checkpoint-{best}", "checkpoint-12",
    }  # fmt: skip
    kept = weights(result.output / f"checkpoint-{best}")
    assert weights(result.output / "model") == kept
    assert f"取第 {best} 步的模型" in said


def test_a_look_is_the_score_of_that_step(watched, configure):
    """日志里的数就是那一步的检查点在靠前几行上的每字比特数。"""
    result, _ = watched
    row = next(
        row
        for row in evaluations(result.log)
        if row["step"] == result.metrics["best_step"]
    )
    config = result.config
    corpora = read_corpora(config)
    checkpoint = load_checkpoint(str(result.output / "model"), "masked_lm")
    exam = prepare_exam(
        checkpoint, "masked_lm", corpora.valid, corpora.general,
        block_size=config.block_size, max_chars=config.eval_max_chars,
    )  # fmt: skip
    watch = plan_watch(config, exam, plan_of(12, result.metrics["tokens_trained"]))
    assert watch is not None
    for name, targets in watch.sets.items():
        found = score_targets(checkpoint.model, targets).scores.bits_per_char
        assert row[name] == pytest.approx(found, abs=2e-6)


def untimed(result) -> list[dict[str, float]]:
    unlike = ("seconds", "tokens_per_second", "evaluation_seconds")
    return [{k: v for k, v in row.items() if k not in unlike} for row in result.log]


def test_an_interrupted_run_looks_and_chooses_the_same(watched, tmp_path, weights):
    """停在最好的一步之后再续：日志、最好的一步、留下的模型都相同。"""
    result, _ = watched
    output = tmp_path / "输出"
    shutil.copytree(result.output, output)
    shutil.rmtree(output / "checkpoint-12")
    (output / "metrics.json").unlink()
    shutil.rmtree(output / "model")
    again = train(replace(result.config, output=str(output)), resume=True, quiet=True)
    assert untimed(again) == untimed(result)
    assert again.metrics["best_step"] == result.metrics["best_step"]
    assert weights(output / "model") == weights(result.output / "model")


def test_early_stopping_ends_the_run_and_its_accounts(
    watched, tmp_path, configure, corpus
):
    """连着一次没有更好就停：步数、词元、账本都照实际读了的；不能再续。"""
    whole, _ = watched
    looked = evaluations(whole.log)
    stops = next(
        row["step"]
        for n, row in enumerate(looked, 1)
        if should_stop(looked[:n], None, 1)
    )
    assert stops < 12
    config = configure(
        tmp_path / "输出", general=str(corpus), early_stopping_patience=1, **WILD
    )
    result = train(config, quiet=True)
    assert result.metrics["steps"] == stops
    assert result.metrics["tokens_trained"] == looked[stops // 2]["tokens"]
    ledger = json.loads((result.output / "ledger.json").read_text(encoding="utf-8"))
    assert ledger["trained"] == result.metrics["tokens_trained"]
    assert 0 < ledger["targets"] < whole.ledger.targets
    with pytest.raises(Exception, match=r"没有检查点|已经走完"):
        train(config, resume=True, quiet=True)


@pytest.mark.parametrize("kind", ["bloom"])
def test_an_adapter_is_watched_and_its_best_step_kept(tmp_path, configure, kind):
    """LoRA：最好的一步的适配器并进底座。"""
    config = configure(
        tmp_path / "输出", kind, lora_rank=4, load_best_model_at_end=True, **WILD
    )
    result = train(config, quiet=True)
    best = result.metrics["best_step"]
    assert best == best_step(evaluations(result.log), None)
    assert (
        result.output / f"checkpoint-{best}" / "adapter_model.safetensors"
    ).is_file()
    looked = {row["step"]: row["domain"] for row in evaluations(result.log)}
    assert min(looked[step] for step in looked if step) == looked[best]
