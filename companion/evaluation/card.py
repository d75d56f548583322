"""报告卡的内容：一次继续预训练学到了什么、忘了什么，都是平常的数据，不管怎样排版。"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from companion.evaluation.cloze import ClozePair
from companion.evaluation.samples import SamplePair
from companion.evaluation.verdict import Comparison, Verdict, judge


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
    facts: Sequence[tuple[str, str]] = ()
    """这次运行的要点：步数、耗时、速度……"""
    environment: Mapping[str, str] = field(default_factory=lambda: environment_facts())

    @property
    def verdict(self) -> Verdict:
        """裁断。"""
        return judge(self.domain, self.general)

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
        if self.clozes:
            content["cloze"] = {
                "num_questions": len(self.clozes),
                "num_correct_before": sum(each.before.correct for each in self.clozes),
                "num_correct_after": sum(each.after.correct for each in self.clozes),
            }
        return content

    def __str__(self) -> str:
        verdict = self.verdict
        return "\n".join([verdict.headline, *verdict.sentences, *verdict.advice])


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
