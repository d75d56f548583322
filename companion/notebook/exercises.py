"""练习的批改：答对打印“通过”，答错打印为什么，还没作答就说还没作答。

    check("causal-count", 60)            # 通过：……
    check("quickstart-change", ..., metrics=result.metrics)   # 还没有作答

题库是 `exercises.yaml`。判的是答案，不是写法：小数差不到千分之五算对，数列与张量、元组
同样看待。
"""

import difflib
import math
from collections.abc import Mapping
from importlib import resources
from typing import Any

import yaml

from companion.errors import ObjectiveError

TOLERANCE = 0.005
UNANSWERED = "还没有作答：把 ... 换成你的答案，再运行这一格。"

EXERCISES: dict[str, dict[str, Any]] = yaml.safe_load(
    (resources.files(__package__ or "") / "exercises.yaml").read_text("utf-8")
)
"""编号 → `right` 正确答案、`because` 答对之后的一句话、`hint` 别的错误得到的提示、
`wrong` 常见的错误答案与它错在哪里、`any_order` 先写哪一样都对。"""


def check(
    name: str, answer: Any = ..., metrics: Mapping[str, Any] | None = None
) -> None:
    """批改一道练习，打印结果。

    Args:
        name: 练习的编号。
        answer: 你的答案；`...` 表示还没有作答。
        metrics: 答案由训练的成绩算出的几道要它：`result.metrics`。

    Raises:
        ObjectiveError: 没有这道练习。

    >>> check("causal-count", 63)
    再想想：每篇的首个词元没有上文，不计损失，还要减去 3 个。
    """
    print(judge(name, answer, metrics))


def judge(name: str, answer: Any, metrics: Mapping[str, Any] | None = None) -> str:
    """`check` 要打印的一句话。"""
    exercise = EXERCISES.get(name)
    if exercise is None:
        near = difflib.get_close_matches(name, EXERCISES, n=1, cutoff=0.4)
        raise ObjectiveError(
            found=f"没有练习 {name!r}",
            expected="、".join(EXERCISES) + " 之一",
            remedy=f"是不是想写 {near[0]}" if near else "照题目里的编号写",
        )
    if answer is ... or answer is None:
        return UNANSWERED
    arranged = _sorted if exercise.get("any_order") else _plain
    said = arranged(_plain(answer))
    if _same(said, arranged(value_of(exercise["right"], metrics))):
        return f"通过：{exercise['because']}"
    for wrong, reason in exercise["wrong"]:
        if _same(said, arranged(value_of(wrong, metrics))):
            return f"再想想：{reason}。"
    return f"再想想：{exercise['hint']}。"


def value_of(value: Any, metrics: Mapping[str, Any] | None) -> Any:
    """题库里的一个答案；以 = 开头的是算式，用 `metrics` 里的前后成绩算出。

    >>> value_of("=before - after", {"before": 3, "after": 2})
    1
    """
    if not (isinstance(value, str) and value.startswith("=")):
        return value
    return eval(value[1:], {"math": math}, dict(metrics or {}))  # 算式只出自题库


def _plain(answer: Any) -> Any:
    """张量与 numpy 的数变成普通的数与列表，字符串去掉两头的空白。"""
    if isinstance(answer, str):
        return answer.strip()
    if hasattr(answer, "tolist"):
        return answer.tolist()
    return list(answer) if isinstance(answer, tuple) else answer


def _sorted(value: Any) -> Any:
    """列表排成一定的次序，里面的列表也是：先写哪一样都一样。"""
    if not isinstance(value, list):
        return value
    parts: list[Any] = [_sorted(each) for each in value]
    return sorted(parts, key=repr)


def _same(said: Any, wanted: Any) -> bool:
    """类型相合而值相同；小数容许误差，真假不与 0、1 混同。"""
    if isinstance(said, bool) or isinstance(wanted, bool):
        return said is wanted
    if isinstance(said, int | float) and isinstance(wanted, int | float):
        slack = 0 if isinstance(wanted, int) else TOLERANCE * max(1.0, abs(wanted))
        return abs(said - wanted) <= slack
    return type(said) is type(wanted) and said == wanted
