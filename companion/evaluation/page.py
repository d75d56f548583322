"""把报告卡排成网页与 Markdown：数字怎样写、图怎样画，都在这里算好，模板只管摆放。"""

import base64
import re
import statistics
from collections.abc import Sequence
from datetime import date
from typing import Any

from companion.evaluation.card import ReportCard
from companion.evaluation.cloze import Answer, ClozePair
from companion.evaluation.verdict import Comparison, signed_percent
from companion.inference.filling import MASK
from companion.objectives import get_objective

CLOZES_SHOWN = 10
"""先摆出这么多题，其余折叠。"""

SCORED = {
    "causal_lm": "考的是文档首个词元之后的每个字。",
    "prefix_lm": "考的是前缀之后的每个字；前后切在同样的地方。",
}
"""各目标考的是哪些字；没有列出的考遮住的。"""
_SCORED_HIDDEN = "考的是遮住的字，模型看不见它们；前后遮的位置相同。"

SEALS = {"better": "进", "same": "平", "worse": "退"}

CHART_WIDTH, CHART_LEFT, CHART_RIGHT, CHART_ROW = 340, 56, 320, 46


def render_html(card: ReportCard) -> str:
    """自成一体的网页。"""
    return _environment().get_template("report.html.j2").render(_context(card))


def render_markdown(card: ReportCard) -> str:
    """同样内容的 Markdown。"""
    return _environment().get_template("report.md.j2").render(_context(card))


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
        "direction": card.domain.direction,
        "seal": SEALS[card.domain.direction],
        "sets": [_set_view(*each) for each in sets],
        "chart": chart([(name, pair) for name, _, pair in sets]),
        "clozes": [_cloze_view(pair) for pair in card.clozes],
        "clozes_shown": CLOZES_SHOWN,
        "cloze_summary": cloze_summary(card.clozes),
        "cloze_note": cloze_note(card.objective),
        "scored": SCORED.get(card.objective, _SCORED_HIDDEN),
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
            ("被考的字数", *(f"{s.num_chars:,}" for s in _both(pair))),
            ("目标数（词元）", *(f"{s.num_targets:,}" for s in _both(pair))),
        ],
    }


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
