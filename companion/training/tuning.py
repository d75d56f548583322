"""先试后训：几次短的试训，定下学习率、回放的比例，与要不要 LoRA。

    全程 2,000 步，拿出一成：至多 7 次试训 × 每次 24 步（其余是评估）
    学习率  默认值 × 1/9、1/3、1、3；最好的在边上就再往外试一个
    回放    照给的比例；学得最多的一个忘过了界，就以 25%、50% 再试它
    选      忘得不过 `max_forgetting`（缺省 2%）的几次里，领域上最低的一次

每次试训都是一次完整的 `train`：从同一个检查点、同一个种子、同样的数据次序起，学习率走完
一整条曲线；评估目标相同，所以几次之间可以直接比较。回放只加不减：5% 几乎不费领域的成绩
（Ibrahim 等，2024，§6），省下它的好坏，几十步里量不出。

短的试训与全程不是一回事：最好的学习率随步数而移。因此正式的训练仍以 `max_forgetting`
守着，途中忘过了界的几步不留（`load_best_model_at_end`）。

试训一次写一行 `probes.jsonl`；中途停下，同样的命令再给一次就接着试，做完的不重做。
"""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from companion.checkpoints.loading import load_checkpoint
from companion.config import TrainingConfig
from companion.errors import ConfigError, TrainingError
from companion.evaluation.verdict import signed_percent
from companion.objectives import get_objective
from companion.preflight.device import best_device, memory_text, training_memory
from companion.training.arguments import choose_learning_rate
from companion.training.data import choose_block_size
from companion.training.output import CONFIG_FILE, check_output, write_json, writing
from companion.training.results import speaker
from companion.training.run import rehearse_training, train
from companion.training.team import join_team
from companion.training.watching import RELATIVE_COST

PLAN_FILE, PROBES_FILE = "plan.json", "probes.jsonl"
TABLE_FILE, PLOT_FILE = "tuning.md", "tuning.png"

STEP = 3.0
"""相邻两个学习率的比；半个数量级约合领域上一个看得出的差。"""
RATES = (1 / STEP**2, 1 / STEP, 1.0, STEP)
"""先试默认值的这些倍。"""
RATIOS = (0.25, 0.5)
"""忘过了界时，回放加到这几个比例。"""
LEAST_STEPS = 20
"""一次试训至少这么多步：再短，几次之间的差被起步的颠簸盖住。"""
EVALUATED = 1 / 8
"""每个留出集的词元是一次试训的几分之几。"""
BOUND = 0.02
"""没有给 `max_forgetting` 时的界。"""
LORA_RANK = 16
"""全参数训练装不下时用的秩。"""
ROOM = 0.9
"""内存至多用这么多，再多就算装不下。"""


@dataclass(frozen=True)
class Plan:
    """试训的安排；写下之后不再变。"""

    steps: int
    """一次试训多少步。"""
    full_steps: int
    """正式的训练多少步。"""
    learning_rates: tuple[float, ...]
    replay_ratios: tuple[float, ...]
    """忘过了界时加到的比例；没有给回放的语料时为空。"""
    lora_rank: int
    eval_max_chars: int
    max_forgetting: float | None
    """没有通用留出集时为 None。"""
    settings: dict[str, Any]
    """正式的设置，`output` 除外。"""


@dataclass(frozen=True)
class Probe:
    """一次试训；变化都是训练后比训练前，除以训练前。"""

    learning_rate: float
    replay_ratio: float
    """0 是没有回放的语料。"""
    domain: float
    """领域每字比特数的变化；负的是学到了。"""
    general: float | None
    """通用的变化；正的是忘了。"""


@dataclass(frozen=True)
class Tuning:
    """试出来的。"""

    output: Path
    config: TrainingConfig
    """正式训练的设置，也在 `config.yaml` 里。"""
    probes: tuple[Probe, ...]
    chosen: Probe
    reasons: tuple[str, ...]
    """每一项为什么这样选，一句一项。"""

    def as_dict(self) -> dict[str, Any]:
        """可写成 JSON 的字典。"""
        return {
            "output": str(self.output),
            "learning_rate": self.config.learning_rate,
            "replay_ratio": self.chosen.replay_ratio,
            "lora_rank": self.config.lora_rank,
            "reasons": list(self.reasons),
            "probes": [asdict(probe) for probe in self.probes],
        }


def tune(
    config: TrainingConfig,
    *,
    budget: float = 0.1,
    console: Console | None = None,
    quiet: bool = False,
) -> Tuning:
    """试训几次，选定学习率、回放的比例与 LoRA。

    `config.output` 里写下 `plan.json`、`probes.jsonl`、`tuning.md`、`tuning.png`，与
    `config.yaml`：正式训练的设置，`output` 要另给。里面已有同样安排的试训，就接着做。

    Args:
        config: 正式训练的设置；给了的 `learning_rate` 就是试的中心。
        budget: 试训合计至多占正式训练的这一部分，评估在内。
        console: 进度显示在这里；缺省是标准错误。
        quiet: 什么也不显示。

    Raises:
        ConfigError: 步数太少，分不出几次试训；或关了评估。
        TrainingError: 输出文件夹里有别的东西，或别的安排。
        CompanionError: 与 `train` 相同。
    """
    say = speaker(None if quiet else console or Console(stderr=True))
    output = Path(config.output)
    plan, remarks = _plan(config, budget, say)
    kept = _claim(output, plan)
    say(
        f"试训：至多 {_most(plan.replay_ratios)} 次，每次 {plan.steps:,} 步，"
        f"合计约占正式训练（{plan.full_steps:,} 步）的 {budget:.0%}"
    )
    probes: list[Probe] = []

    def run(rate: float, ratio: float) -> Probe:
        found = next(
            (
                each
                for each in (*kept, *probes)
                if (each.learning_rate, each.replay_ratio) == (rate, ratio)
            ),
            None,
        )
        if found is None:
            found = _probe(config, plan, rate, ratio)
            with (
                writing(output / PROBES_FILE),
                open(output / PROBES_FILE, "a", encoding="utf-8") as file,
            ):
                file.write(json.dumps(asdict(found)) + "\n")
        if found not in probes:
            probes.append(found)
            say(f"  {describe(found)}")
        return found

    usual = config.replay_ratio if config.replay else 0.0
    bound = plan.max_forgetting
    for rate in plan.learning_rates:
        run(rate, usual)
    outside = _beyond(choose(probes, bound).learning_rate, plan.learning_rates)
    if outside is not None:
        run(outside, usual)
    for ratio in plan.replay_ratios:
        eager = choose(probes, None)
        if eager == choose(probes, bound):  # 学得最多的没有忘过界
            break
        run(eager.learning_rate, ratio)
    chosen = choose(probes, bound)
    final = _final(config, plan, chosen)
    reasons = (*_reasons(plan, probes, chosen), *remarks)
    tuning = Tuning(output, final, tuple(probes), chosen, reasons)
    _write(tuning, plan)
    for reason in reasons:
        say(reason)
    return tuning


def choose(probes: Sequence[Probe], bound: float | None) -> Probe:
    """忘得不过界的里，领域上最低的；全都过了界，就取忘得最少的。

    >>> gentle = Probe(1e-4, 0.05, domain=-0.010, general=0.001)
    >>> eager = Probe(1e-3, 0.05, domain=-0.020, general=0.050)
    >>> choose([gentle, eager], 0.02) is gentle, choose([gentle, eager], None) is eager
    (True, True)
    """
    if bound is None:
        return min(probes, key=lambda probe: probe.domain)
    allowed = [p for p in probes if p.general is not None and p.general <= bound]
    if not allowed:
        return min(probes, key=lambda probe: (probe.general or 0.0, probe.domain))
    return min(allowed, key=lambda probe: probe.domain)


def cells(probe: Probe) -> tuple[str, str, str, str]:
    """一次试训在表里的四格：学习率、回放、领域与通用的变化。"""
    return (
        f"{probe.learning_rate:.3g}",
        f"{probe.replay_ratio:.0%}",
        signed_percent(probe.domain),
        "" if probe.general is None else signed_percent(probe.general),
    )


def describe(probe: Probe) -> str:
    """一次试训写成一句。"""
    rate, ratio, domain, general = cells(probe)
    said = f"学习率 {rate}，回放 {ratio}：领域 {domain}"
    return f"{said}，通用 {general}" if general else said


def _plan(
    config: TrainingConfig, budget: float, say: Callable[[str], None]
) -> tuple[Plan, tuple[str, ...]]:
    """定下试几次、每次多长；先真预演一遍，坏的设置在这里就被拒。"""
    if join_team().size > 1:
        raise ConfigError(
            found="几个进程一同试训",
            expected="一个进程：试训很短，选定之后再用几个进程训练",
            remedy="先用 companion tune 试出设置，再用 torchrun 跑它的 config.yaml",
        )
    if not 0 < budget <= 0.5:
        raise ConfigError(
            found=f"budget = {budget}",
            expected="大于 0、不大于 0.5",
            remedy="例如 --budget 0.1：试训合计占正式训练的一成",
        )
    if not config.eval:
        raise ConfigError(
            found="要试训，而 eval = false",
            expected="评估：几次试训由它比较",
            remedy="去掉 eval=false",
        )
    objective = get_objective(config.objective)
    checkpoint = load_checkpoint(config.model, objective, generator=config.generator)
    rank, remarks = _lora(config, checkpoint.model)
    config = replace(config, lora_rank=rank)
    nowhere = str(Path(config.output) / "rehearsal")  # 里面可以已有几次试训
    rehearsal = rehearse_training(replace(config, output=nowhere), quiet=True)
    say(str(rehearsal))
    centre = choose_learning_rate(config, checkpoint.model)
    more = [ratio for ratio in RATIOS if ratio > config.replay_ratio]
    ratios = tuple(more) if config.replay and config.general else ()
    most = _most(ratios)
    sets = 2 if config.general else 1
    cost = 1 + 2 * sets * EVALUATED * RELATIVE_COST
    steps = math.floor(budget * rehearsal.steps / most / cost)
    if steps < LEAST_STEPS:
        least = math.ceil(LEAST_STEPS * most * cost / budget)
        raise ConfigError(
            found=f"正式训练 {rehearsal.steps:,} 步，它的 {budget:.0%} 分给 {most} 次"
            f"试训，一次 {steps} 步",
            expected=f"一次至少 {LEAST_STEPS} 步，即正式训练至少 {least:,} 步",
            remedy="训练得久些（num_train_epochs、max_steps），或加大 --budget，"
            "或不试，用缺省的学习率",
        )
    chars = int(EVALUATED * rehearsal.tokens * steps / rehearsal.steps)
    settings = {k: v for k, v in config.as_dict().items() if k != "output"}
    bound = config.max_forgetting if config.max_forgetting is not None else BOUND
    return Plan(
        steps=steps,
        full_steps=rehearsal.steps,
        learning_rates=tuple(float(f"{centre * times:.3g}") for times in RATES),
        replay_ratios=ratios,
        lora_rank=rank,
        eval_max_chars=min(config.eval_max_chars, max(1000, chars)),
        max_forgetting=bound if config.general else None,
        settings=settings,
    ), remarks


def _lora(config: TrainingConfig, model: Any) -> tuple[int, tuple[str, ...]]:
    """全参数训练装得下就不用 LoRA；自己定了秩的照他的。"""
    device = best_device(model.config.model_type).at(config.precision)
    size = choose_block_size(config, model)
    need = training_memory(model, device, config.tokens_per_batch, size)
    have = device.memory_bytes
    if config.lora_rank or need <= ROOM * have:
        return config.lora_rank, ()
    return LORA_RANK, (
        f"LoRA：全参数训练约需 {memory_text(need)}，{device.name} 有 "
        f"{memory_text(have)}，用秩 {LORA_RANK}",
    )


def _most(replay_ratios: Sequence[float]) -> int:
    """至多几次：各个学习率，边上的一个，各个回放的比例。"""
    return len(RATES) + 1 + len(replay_ratios)


def _claim(output: Path, plan: Plan) -> list[Probe]:
    """建输出文件夹；里面有同样安排的试训，就取回做完的几次。"""
    path = output / PLAN_FILE
    written = json.loads(json.dumps(asdict(plan)))
    if not path.is_file():
        check_output(output, resume=False)
        with writing(path):
            output.mkdir(parents=True, exist_ok=True)
        write_json(path, written)
        return []
    before = json.loads(path.read_text(encoding="utf-8"))
    if before != written:
        old, new = ({**each, **each["settings"]} for each in (before, written))
        changed = {name for name in old if old[name] != new.get(name)} - {"settings"}
        raise TrainingError(
            found=f"{output} 里的试训与这次的安排不同（{'、'.join(sorted(changed))}）",
            expected="同样的设置，才接得上",
            remedy="换一个 --output；或照 plan.json 里的设置再给一次",
        )
    return list(_read_probes(output / PROBES_FILE))


def _read_probes(path: Path) -> Iterator[Probe]:
    """写下的各行；最后一行没有写完的不算。"""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    if len(whole) < len(lines):
        path.write_text("".join(whole), encoding="utf-8")
    for line in whole:
        yield Probe(**json.loads(line))


def _beyond(best: float, rates: Sequence[float]) -> float | None:
    """最好的在边上时，再往外一个；在中间的为 None。"""
    if best == rates[0]:
        return float(f"{best / STEP:.3g}")
    return float(f"{best * STEP:.3g}") if best == rates[-1] else None


def _probe(config: TrainingConfig, plan: Plan, rate: float, ratio: float) -> Probe:
    """一次试训；只留它的数字，模型不留。"""
    folder = Path(config.output) / "probe"
    if folder.exists():  # 上一次停在半途
        shutil.rmtree(folder)
    settings = replace(
        config,
        output=str(folder),
        learning_rate=rate,
        replay_ratio=ratio or config.replay_ratio,
        lora_rank=plan.lora_rank,
        max_steps=plan.steps,
        eval_max_chars=plan.eval_max_chars,
        eval_steps=0,
        load_best_model_at_end=False,
        max_forgetting=None,
        early_stopping_patience=None,
        average_checkpoints=None,
        save_steps=plan.steps,
        report_to=None,
    )
    try:
        metrics = train(settings, quiet=True).metrics
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    before, after = metrics["before"], metrics["after"]
    change = {
        name: after[name]["bits_per_char"] / before[name]["bits_per_char"] - 1
        for name in ("domain", "general")
        if name in before
    }
    return Probe(rate, ratio, change["domain"], change.get("general"))


def _final(config: TrainingConfig, plan: Plan, chosen: Probe) -> TrainingConfig:
    """正式训练的设置：选定的几项，加上守住界的两项。"""
    changes: dict[str, Any] = {}
    if chosen.replay_ratio:
        changes["replay_ratio"] = chosen.replay_ratio
    if plan.max_forgetting is not None and config.eval_steps != 0:
        changes |= {
            "max_forgetting": plan.max_forgetting,
            "load_best_model_at_end": True,
        }
    return replace(
        config,
        **changes,
        learning_rate=chosen.learning_rate,
        lora_rank=plan.lora_rank,
    )


def _reasons(plan: Plan, probes: Sequence[Probe], chosen: Probe) -> tuple[str, ...]:
    """每一项选了什么，为什么。"""
    bound = plan.max_forgetting
    kept = bound is None or (chosen.general or 0.0) <= bound
    rates = sorted({p.learning_rate for p in probes})
    inside = rates[0] < chosen.learning_rate < rates[-1]
    within = "" if bound is None else f"，而通用升高不过 {bound:.0%}"
    said = [
        f"学习率 {chosen.learning_rate:.3g}：{len(rates)} 个里"
        + (
            f"领域上最低的一个{within}"
            if kept
            else f"没有一个守得住 {bound:.0%} 的界，取忘得最少的一个"
        )
        + ("" if inside else "；它在所试的边上，更好的也许还在外面")
    ]
    same = [p for p in probes if p.learning_rate == chosen.learning_rate]
    if len(same) > 1:
        same.sort(key=lambda p: p.replay_ratio)
        said.append(f"回放 {chosen.replay_ratio:.0%}：{'；'.join(map(describe, same))}")
    elif chosen.replay_ratio:
        said.append(f"回放 {chosen.replay_ratio:.0%}：照给的比例")
    return tuple(said)


def _write(tuning: Tuning, plan: Plan) -> None:
    """表、图，与正式训练的设置。"""
    from companion.plots.style import save_figure
    from companion.plots.tradeoff import plot_tradeoff

    ordered = sorted(tuning.probes, key=lambda p: (p.learning_rate, p.replay_ratio))
    rows = [
        f"| {' | '.join((*cells(p), '←' if p == tuning.chosen else ''))} |"
        for p in ordered
    ]
    text = "\n".join(
        [
            "# 试训",
            "",
            f"每次 {plan.steps:,} 步，正式训练 {plan.full_steps:,} 步。"
            "变化是训练后比训练前，负的更好。",
            "",
            "| 学习率 | 回放 | 领域每字比特数的变化 | 通用的变化 | 选定 |",
            "|---:|---:|---:|---:|:-:|",
            *rows,
            "",
            *(f"- {reason}" for reason in tuning.reasons),
            "",
        ]
    )
    with writing(tuning.output / TABLE_FILE):
        (tuning.output / TABLE_FILE).write_text(text, encoding="utf-8")
    if plan.max_forgetting is not None:
        points = [
            {
                "series": f"学习率 {p.learning_rate:.3g}",
                "level": f"回放 {p.replay_ratio:.0%}" if p.replay_ratio else "不回放",
                "learned": [-100 * p.domain],
                "forgotten": [100 * (p.general or 0.0)],
            }
            for p in tuning.probes
        ]
        figure = plot_tradeoff(points, title="试训：学到的与忘掉的", percent=True)
        with writing(tuning.output / PLOT_FILE):
            save_figure(figure, tuning.output / PLOT_FILE)
    with writing(tuning.output / CONFIG_FILE):
        tuning.config.save(tuning.output / CONFIG_FILE)
