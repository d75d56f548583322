"""笔记本 08 的练习：回放的账、前沿、区间与对照组。"""

from collections.abc import Mapping
from typing import Any

from companion.notebook.exercise import Exercise


def _moved(metrics: Mapping[str, Any], name: str) -> float:
    """每字比特数降了多少，比特。"""
    before, after = (
        metrics[when][name]["bits_per_char"] for when in ("before", "after")
    )
    return before - after


GAIN_EXERCISES: dict[str, Exercise] = {
    "gain-replay-tokens": Exercise(
        right=100_000,
        because="90 万是九成，一成就是 10 万。",
        wrong=[(90_000, "10% 是占总数的，不是占领域的")],
        hint="设回放 x 个，x / (900000 + x) = 0.1",
    ),
    "gain-front": Exercise(
        right=["甲", "乙", "丁"],
        because="丙学得比乙少，忘得又比乙多。",
        wrong=[
            (["甲"], "学得最多的只是前沿的一头"),
            (["甲", "乙", "丙", "丁"], "有一个点两样都不如另一个点"),
        ],
        hint="逐个问：有没有别的点学得不少、忘得不多？没有就在前沿上",
    ),
    "gain-interval": Exercise(
        right="B",
        because="区间管换题，标准差管换种子，两把尺子。",
        wrong=[
            ("A", "区间没有错：它说的是同一个模型换一份题会怎样"),
            ("C", "0.9% 不是噪声：种子一换，模型就换了"),
        ],
        hint="写 A、B、C 三个字母之一，加引号",
    ),
    "gain-control": Exercise(
        right=4.2,
        because="对照组的进步与领域语料无关，要减去。",
        wrong=[
            (6.0, "读别的书也会进步，那一份不是领域语料的功劳"),
            (7.8, "相减，不是相加"),
        ],
        hint="领域组的降幅减去对照组的降幅，单位是百分点",
    ),
    "gain-measure": Exercise(
        right=lambda metrics: _moved(metrics, "domain"),
        because="前减后，单位是比特每字。",
        wrong=[
            (lambda metrics: -_moved(metrics, "domain"), "正负号反了：降了是学到"),
            (
                lambda metrics: (
                    _moved(metrics, "domain")
                    / metrics["before"]["domain"]["bits_per_char"]
                ),
                "这是相对的变化，要的是差了几比特",
            ),
        ],
        hint="before 减 after，都取 domain 的 bits_per_char",
    ),
}
