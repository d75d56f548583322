"""报告卡：一次继续预训练学到了什么、忘了什么，一页纸说清，写成文件。

`ReportCard` 是平常的数据；数字怎样写、图怎样画，都在这里算好，模板只管摆放。
`report.html` 自成一体：样式内联，图是 data URI，内容安全策略禁止一切网络请求；手机上
不用左右滑动，深色模式与打印都照顾到。`report.md` 内容相同，供代码仓库与终端阅读。
"""

import base64
import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from companion.errors import EvaluationError
from companion.evaluation.answers import Answer, ClozePair, SamplePair
from companion.evaluation.ruler import NAMES
from companion.evaluation.verdict import Comparison, Verdict, judge, signed_percent
from companion.inference.reading import MASK
from companion.objectives import get_objective

HTML_FILE, MARKDOWN_FILE, CURVE_FILE = "report.html", "report.md", "curve.png"

CLOZES_SHOWN = 10
"""先摆出这么多题，其余折叠。"""
SEALS = {"better": "进", "same": "平", "worse": "退"}

CHART_WIDTH, CHART_LEFT, CHART_RIGHT, CHART_ROW = 340, 56, 320, 46


@dataclass(frozen=True, kw_only=True)
class ReportCard:
    """报告卡的全部内容，都是平常的数据。"""

    objective: str
    """训练目标的键。"""
    before: str
    """之前的检查点的名字。"""
    after: str
    domain: Comparison
    general: Comparison | None = None
    """通用留出集；没有给时为 None。"""
    samples: Sequence[SamplePair] = ()
    clozes: Sequence[ClozePair] = ()
    curve: bytes | None = None
    """训练曲线，PNG。"""
    curve_alt: str = "训练曲线：损失随步数的变化"
    """曲线的替代文字，给看不见图的人。"""
    ledger: Sequence[tuple[str, str]] = ()
    """词元账的各行：项目与数目。"""
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """训练设置。"""
    ruler: Mapping[str, float] = field(default_factory=dict[str, float])
    """领域留出集上，只会数字频的办法的每字比特数（`companion.evaluation.ruler`）。"""
    ruler_text: str = ""
    """尺子数的是哪一份文字。"""
    seen: Mapping[str, float] = field(default_factory=dict[str, float])
    """留出集（"domain"、"general"）→ 其中也见于训练文字的字占的比例，[0, 1]。"""
    facts: Sequence[tuple[str, str]] = ()
    """这次运行的要点：步数、耗时、速度……"""
    environment: Mapping[str, str] = field(default_factory=lambda: environment_facts())

    @property
    def verdict(self) -> Verdict:
        """裁断。"""
        return judge(self.domain, self.general, self.seen)

    def as_dict(self) -> dict[str, Any]:
        """可写成 JSON 的字典。"""
        pairs = {"domain": self.domain}
        if self.general is not None:
            pairs["general"] = self.general
        content: dict[str, Any] = {
            "objective": self.objective,
            "before": {"model": self.before},
            "after": {"model": self.after},
            "change": {},
            "verdict": str(self.verdict),
        }
        for name, pair in pairs.items():
            content["before"][name] = pair.before.as_dict()
            content["after"][name] = pair.after.as_dict()
            interval = pair.difference.interval
            content["change"][name] = {
                "bits_per_char": -pair.difference.value,
                "relative": pair.relative_change,
                "interval": interval and [-interval[1], -interval[0]],
                "paired": pair.difference.paired,
                "note": pair.note,
            }
        if self.seen:
            content["seen"] = dict(self.seen)
        if self.ruler:
            content["ruler"] = dict(self.ruler)
        if self.clozes:
            content["cloze"] = {
                "num_questions": len(self.clozes),
                "num_correct_before": sum(each.before.correct for each in self.clozes),
                "num_correct_after": sum(each.after.correct for each in self.clozes),
            }
        return content

    def __str__(self) -> str:
        verdict = self.verdict
        after = self.domain.after.bits_per_char
        ruled = [ruler_sentence(self.ruler, after)] if self.ruler else []
        return "\n".join(
            [verdict.headline, *verdict.sentences, *ruled, *verdict.advice]
        )


def environment_facts() -> dict[str, str]:
    """这次运行的软件环境。"""
    facts = {"Python": platform.python_version()}
    for label, package in (
        ("torch", "torch"),
        ("transformers", "transformers"),
        ("companion", "cpt-companion"),
    ):
        try:
            facts[label] = metadata.version(package)
        except metadata.PackageNotFoundError:  # 从源码直接运行，没有安装
            continue
    facts["系统"] = f"{platform.system()} {platform.machine()}"
    return facts


def write_report(card: ReportCard, directory: str | Path) -> list[Path]:
    """写出 report.html 与 report.md；有曲线而文件夹里没有 curve.png 时，也写一份。

    Args:
        card: 报告卡。
        directory: 文件夹，不在就新建。

    Returns:
        写出的文件。

    Raises:
        EvaluationError: 文件夹写不进去。
    """
    folder = Path(directory)
    contents = {
        HTML_FILE: render_html(card).encode(),
        MARKDOWN_FILE: render_markdown(card).encode(),
    }
    if card.curve is not None and not (folder / CURVE_FILE).exists():
        contents[CURVE_FILE] = card.curve
    drafts = {name: folder / f".{name}.new" for name in contents}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            drafts[name].write_bytes(content)  # 写好再改名，不留半份
            drafts[name].replace(folder / name)
    except OSError as error:
        with suppress(OSError):  # 文件夹本身就不对时，草稿也无从删起
            for draft in drafts.values():
                draft.unlink(missing_ok=True)
        raise EvaluationError(
            found=f"报告写不进 {folder}（{error.strerror or error}）",
            expected="一个可写的文件夹",
            remedy="换一个文件夹，或腾出磁盘空间",
        ) from error
    return [folder / name for name in contents]


def render_html(card: ReportCard) -> str:
    """自成一体的网页。"""
    return _environment().get_template("report.html.j2").render(_context(card))


def render_markdown(card: ReportCard) -> str:
    """同样内容的 Markdown。"""
    return _environment().get_template("report.md.j2").render(_context(card))


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("companion.evaluation", "templates"),
        autoescape=lambda name: bool(name and name.endswith(".html.j2")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Any] = {
        "blanks": blanks,
        "highlight": highlight,
        "cell": markdown_cell,
    }
    environment.filters.update(filters)
    return environment


def _context(card: ReportCard) -> dict[str, Any]:
    sets = [("领域", "学得怎样", card.domain)]
    if card.general is not None:
        sets.append(("通用", "忘了多少", card.general))
    curve = card.curve and base64.b64encode(card.curve).decode("ascii")
    return {
        "card": card,
        "title": get_objective(card.objective).title,
        "today": date.today().isoformat(),
        "verdict": card.verdict,
        "direction": "same" if card.verdict.void else card.domain.direction,
        "seal": "漏" if card.verdict.void else SEALS[card.domain.direction],
        "sets": [_set_view(*each) for each in sets],
        "chart": chart([(name, pair) for name, _, pair in sets]),
        "ruler": ruler_bars(card) if card.ruler else None,
        "clozes": [_cloze_view(pair) for pair in card.clozes],
        "clozes_shown": CLOZES_SHOWN,
        "cloze_summary": cloze_summary(card.clozes),
        "cloze_note": cloze_note(card.objective),
        "scored": get_objective(card.objective).scored,
        "curve": curve,
        "mask": MASK,
    }


def _set_view(name: str, question: str, pair: Comparison) -> dict[str, Any]:
    """一份留出集要摆出来的各项。"""
    interval = pair.relative_interval
    return {
        "name": name,
        "question": question,
        "direction": pair.direction,
        "before": f"{pair.before.bits_per_char:.3f}",
        "after": f"{pair.after.bits_per_char:.3f}",
        "change": signed_percent(pair.relative_change),
        "interval": interval
        and f"{signed_percent(interval[0])} 到 {signed_percent(interval[1])}",
        "note": pair.note,
        "rows": [
            ("每字比特数", *(f"{s.bits_per_char:.4f}" for s in _both(pair))),
            ("95% 区间", *(_interval(s.interval) for s in _both(pair))),
            (
                "每词元损失（奈特）",
                *(f"{s.loss_nats_per_token:.4f}" for s in _both(pair)),
            ),
            ("准确率", *(f"{s.accuracy:.1%}" for s in _both(pair))),
            ("UNK 率", *(f"{s.unk_rate:.2%}" for s in _both(pair))),
            *(
                (label, *(f"{getattr(s, name):.4f}" for s in _both(pair)))
                for name, label in _EXTRA.items()
                if all(getattr(s, name) is not None for s in _both(pair))
            ),
            *(
                (f"其中 {name}", f"{pair.before.sources[name]:.4f}", f"{bits:.4f}")
                for name, bits in (pair.after.sources or {}).items()
                if pair.before.sources
            ),
            ("被考的字数", *(f"{s.num_chars:,}" for s in _both(pair))),
            ("目标数（词元）", *(f"{s.num_targets:,}" for s in _both(pair))),
        ],
    }


_EXTRA = {
    "standard_error": "每字比特数的标准误",
    "left_only": "同样的字，只看左边的每字比特数",
}
"""有的目标才有的几行。"""


def _both(pair: Comparison) -> tuple[Any, Any]:
    return pair.before, pair.after


def _interval(interval: tuple[float, float] | None) -> str:
    return "—" if interval is None else f"{interval[0]:.3f}–{interval[1]:.3f}"


def chart(sets: Sequence[tuple[str, Comparison]]) -> dict[str, Any]:
    """相对变化的图：中线是 0，点是估计，须是 95% 区间；左边是降（变好）。

    Returns:
        SVG 的各个坐标与文字，单位是用户坐标。
    """
    reach = 0.0
    for _, pair in sets:
        ends = [pair.relative_change, *(pair.relative_interval or ())]
        reach = max(reach, *map(abs, ends))
    reach = _round_up(reach * 1.15)
    middle = (CHART_LEFT + CHART_RIGHT) / 2

    def x(value: float) -> float:
        return round(middle + value / reach * (CHART_RIGHT - CHART_LEFT) / 2, 1)

    rows: list[dict[str, Any]] = []
    for number, (name, pair) in enumerate(sets):
        low, high = pair.relative_interval or (pair.relative_change,) * 2
        at = x(pair.relative_change)
        rows.append(
            {
                "name": name,
                "direction": pair.direction,
                "y": 34 + number * CHART_ROW,
                "x": at,
                "low": x(low),
                "high": x(high),
                "label": signed_percent(pair.relative_change),
                "label_x": min(max(at, CHART_LEFT + 22), CHART_RIGHT - 22),
            }
        )
    spoken = [f"{name} {signed_percent(pair.relative_change)}" for name, pair in sets]
    bottom = 30 + len(sets) * CHART_ROW
    return {
        "width": CHART_WIDTH,
        "height": bottom + 22,
        "middle": middle,
        "left": CHART_LEFT,
        "right": CHART_RIGHT,
        "bottom": bottom,
        "rows": rows,
        "ticks": [
            {"x": x(value), "label": tick_label(value)}
            for value in (-reach, -reach / 2, 0.0, reach / 2, reach)
        ],
        "alt": f"相对变化与 95% 区间：{'；'.join(spoken)}",
    }


def ruler_bars(card: ReportCard) -> dict[str, Any]:
    """尺子的图：四个刻度与前后两个成绩各一条，越短越好。

    Returns:
        SVG 的各个坐标与文字，连同一句话。
    """
    bars = [(NAMES[name], bits, "") for name, bits in card.ruler.items()]
    for label, scores in (("之前", card.domain.before), ("之后", card.domain.after)):
        bars.append((label, scores.bits_per_char, "model"))
    full = max(bits for _, bits, _ in bars)
    room = CHART_RIGHT - CHART_LEFT - 40  # 右边写数字
    rows = [
        {
            "label": label,
            "kind": kind,
            "y": 4 + number * 22,
            "length": round(bits / full * room, 1),
            "bits": f"{bits:.3f}",
        }
        for number, (label, bits, kind) in enumerate(bars)
    ]
    spoken = "；".join(f"{row['label']} {row['bits']}" for row in rows)
    return {
        "height": 8 + len(rows) * 22,
        "rows": rows,
        "sentence": ruler_sentence(card.ruler, card.domain.after.bits_per_char),
        "alt": f"每字比特数与尺子：{spoken}",
    }


def ruler_sentence(ruler: Mapping[str, float], after: float) -> str:
    """之后的每字比特数在尺子上的位置，一句话。"""
    name, best = min(ruler.items(), key=lambda item: item[1])
    mark = f"数出来的{NAMES[name]}（{best:.3f}）"
    if after < best:
        return f"之后比{mark}每字省 {best - after:.3f} 比特。"
    return (
        f"之后每字 {after:.3f} 比特，还不如{mark}：模型知道的没有字频表多，"
        "上面的变化要打折扣看。"
    )


def _round_up(value: float) -> float:
    """坐标轴的尽头：不小于 `value` 的整齐数。

    >>> _round_up(0.071), _round_up(0.0)
    (0.08, 0.01)
    """
    steps = (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
    return next((step for step in steps if step >= value), value)


def tick_label(value: float) -> str:
    """刻度的百分数，不写多余的零。

    >>> tick_label(-0.08), tick_label(0.005), tick_label(0.0)
    ('−8%', '+0.5%', '0')
    """
    text = f"{value * 100:+.3g}%".replace("-", "−")
    return text if value else "0"


def _cloze_view(pair: ClozePair) -> dict[str, Any]:
    return {
        "text": pair.after.text,
        "answer": pair.after.answer,
        "before": _answer_view(pair.before),
        "after": _answer_view(pair.after),
    }


def _answer_view(answer: Answer) -> dict[str, Any]:
    return {
        "guess": answer.guess or "（空白）",
        "correct": answer.correct,
        "probability": percent(answer.guess_probability),
        "answer_probability": percent(answer.answer_probability),
        "rank": f"{answer.rank:,}",
    }


def cloze_summary(clozes: Sequence[ClozePair]) -> str:
    """填空题的总账：答对几题，正确答案名次的中位数。"""
    if not clozes:
        return ""
    before = [pair.before for pair in clozes]
    after = [pair.after for pair in clozes]
    right = [sum(each.correct for each in answers) for answers in (before, after)]
    ranks = [statistics.median(each.rank for each in a) for a in (before, after)]
    return (
        f"{len(clozes)} 题里，答对的由 {right[0]} 题变为 {right[1]} 题；"
        f"正确答案名次的中位数由第 {ranks[0]:,.0f} 变为第 {ranks[1]:,.0f}。"
    )


def cloze_note(objective: str) -> str:
    """答题的模型看不看得见空右边的字。"""
    goal = get_objective(objective)
    return "这类模型只看得见空左边的字。" if goal.usage == "complete" else ""


def percent(value: float) -> str:
    """概率的百分数；太小的写成小于号。

    >>> percent(0.123), percent(0.00001), percent(1.0)
    ('12.3%', '<0.1%', '100.0%')
    """
    return "<0.1%" if value < 0.001 else f"{value:.1%}"


def blanks(text: str) -> Any:
    """题面里的 [MASK] 换成一个空格子；其余照常转义。"""
    from markupsafe import Markup, escape

    box = Markup('<span class="blank"><span class="away">（空）</span></span>')
    return box.join(escape(piece) for piece in text.split(MASK))


def highlight(text: str, prompt: str) -> Any:
    """填好的文字里，填进去的部分加上记号；对不上题面就原样转义。"""
    from markupsafe import Markup, escape

    pieces = prompt.split(MASK)
    pattern = "(.*?)".join(re.escape(piece) for piece in pieces)
    match = re.fullmatch(pattern, text, re.DOTALL)
    if match is None or len(pieces) == 1:
        return escape(text)
    parts = [escape(pieces[0])]
    for filled, piece in zip(match.groups(), pieces[1:], strict=True):
        parts += [Markup("<mark>{}</mark>").format(filled), escape(piece)]
    return Markup("").join(parts)


def markdown_cell(text: Any) -> str:
    """放进 Markdown 表格的一格：竖线与换行不能原样出现。"""
    return str(text).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
